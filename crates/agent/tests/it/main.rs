//! The agent as the server sees it: through its endpoints, with real files and real QEMU.
#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod by_hand;
mod changes;
mod clones;
mod cpu;
mod datastores;
mod disk_use;
mod disks_move;
#[path = "../../../host/tests/it/enter.rs"]
mod enter;
mod exports;
mod files;
mod fork;
mod full;
mod guest_agents;
mod images;
mod joining;
mod killed;
mod killed_files;
mod merges;
mod migrate;
mod peers;
mod restarts;
mod shared;
mod snapshot_model;
mod snapshots;
mod take;
mod templates;
mod uefi;
mod vms;
mod world;
