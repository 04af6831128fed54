//! The whole product on real QEMU: what users type, and what may go wrong.
#![expect(clippy::unwrap_used, reason = "a test's helper may fail the test")]

mod accounting;
mod changes;
mod clones;
mod crash;
mod customization;
mod docs;
mod faults;
mod images;
mod instant;
mod lifecycle;
mod maintenance;
mod migrate;
mod move_disks;
mod parallel;
mod pools;
mod registered;
mod requests;
mod security;
mod snapshots;
mod storage;
mod templates;
