//! The agent as the server sees it: through its endpoints, with real files and real QEMU.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod changes;
mod clones;
mod datastores;
mod disk_use;
#[path = "../../../host/tests/it/enter.rs"]
mod enter;
mod exports;
mod files;
mod fork;
mod full;
mod images;
mod joining;
mod peers;
mod restarts;
mod snapshot_model;
mod snapshots;
mod take;
mod templates;
mod vms;
mod world;
