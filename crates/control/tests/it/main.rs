//! `control` against simulated hosts: every task through the engine's harness, the services from a
//! client's view, faults of hosts, and who may do what.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod access;
mod bad_input;
mod baseline;
mod clones;
mod concurrency;
mod customization;
mod datastore_check;
mod datastores;
mod disks;
mod drs;
mod drs_tasks;
mod from_host;
mod harness;
mod hosts;
mod images;
mod inventory;
mod leases;
mod lifecycle;
mod maintenance;
mod migrate;
mod migrate_storage;
mod move_budget;
mod naming_rules;
mod placement;
mod pools;
mod receiver;
mod recycle_bin;
mod remote;
mod request_webhooks;
mod requests;
mod secrets;
mod snapshot_policies;
mod snapshots;
mod templates;
mod unmounted;
mod watch;
