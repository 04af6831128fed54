//! Snapshots of a VM, and the layers that they put on its disks.
//!
//! ```text
//!  take ──> taking (recorded) ─> files ─> QEMU: all disks at one instant ─> tree, chains (recorded)
//!  revert ─> reverting (recorded) ─> files ─> QEMU ends ─> chains, hardware (recorded) ─> start
//!  delete ─> tree (recorded) ─> plan ─> merging (recorded) ─> copy ─> chains (recorded) ─> plan …
//! ```
//!
//! The record is the truth about which files make up what. Whatever is about to be made is recorded
//! as *waste* before it is there, and what is no part of anything any more is recorded as waste before
//! it is removed; so nothing is ever left that no record knows of, and nothing is removed that is in
//! use: waste is removed only when no chain has it and nothing on the datastore lies on it.
//!
//! What a QEMU that runs has open may be ahead of the record when an agent dies; its successor asks it
//! (see [`recover`]). A merge copies in a task of its own, and the actor goes on meanwhile; a command
//! that needs the disks puts an end to the copying, and afterwards it begins again.

mod copy;
mod describe;
mod files;
mod freeze;
mod merge;
mod nameless;
mod recover;
mod revert;
mod room;
mod take;

use hostler_types::{
    DiskSpec, LayerFile, Merge, Name, OperationId, Snapshot, SnapshotId, SnapshotTree,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

pub(super) use files::measured;
pub(super) use freeze::Thaw;
pub(super) use merge::Merger;

use super::hardware::Running;
use super::record::VmRecord;

/// What of a VM's layers is on its way.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Layering {
    /// Files that are not part of anything yet, or any more.
    waste: Vec<LayerFile>,
    #[serde(skip_serializing_if = "Option::is_none")]
    taking: Option<Taking>,
    #[serde(skip_serializing_if = "Option::is_none")]
    merging: Option<Merging>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reverting: Option<Reverting>,
    /// Changes whenever the guest goes back in time; absent: it never has.
    #[serde(skip_serializing_if = "Option::is_none")]
    generation: Option<Uuid>,
    /// The snapshot whose memory a suspended VM goes on from, instead of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) memory_of: Option<SnapshotId>,
    /// The snapshot whose UEFI variables are to be put back before the VM is started.
    #[serde(skip_serializing_if = "Option::is_none")]
    variables_of: Option<SnapshotId>,
    /// The guest was frozen, or may have been, and has not said that it is thawed.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(super) frozen: bool,
}

/// A snapshot that is being taken.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Taking {
    /// As it will be.
    snapshot: Snapshot,
    /// The new active layer of each of its disks.
    layers: Vec<(Name, LayerFile)>,
    /// The guest's file systems may be frozen.
    quiesce: bool,
}

/// A merge that has begun.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Merging {
    merge: Merge,
    /// It is the active layer that is merged, and the chains in the record are those of afterwards:
    /// QEMU does nothing but change its own.
    switched: bool,
}

/// A return to a snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Reverting {
    op: OperationId,
    snapshot: SnapshotId,
    /// Whether the guest is to run afterwards.
    run: bool,
    /// The record is that of afterwards.
    applied: bool,
    /// The layers that are being made for it.
    layers: Vec<LayerFile>,
}

/// What a snapshot needs beside its disks' files; lies beside them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct SavedHardware {
    /// Of the snapshot's disks.
    disks: Vec<DiskSpec>,
    /// What QEMU ran with, if the memory was saved.
    running: Option<Running>,
    /// Whether there were UEFI variables; `None`: an earlier version did not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    variables: Option<bool>,
}

impl Layering {
    /// Whether what is recorded of the layers is all that there is.
    pub(super) fn is_quiet(&self) -> bool {
        self.taking.is_none()
            && self.merging.is_none()
            && self.reverting.is_none()
            && self.memory_of.is_none()
            && !self.frozen
    }
}

impl VmRecord {
    /// What of the VM's files is on its way, so that they are not what the record says.
    pub(super) fn unsettled_layers(&self) -> Option<&'static str> {
        let Layering { taking, merging, reverting, .. } = &self.layering;
        if taking.is_some() || merging.is_some() || reverting.is_some() {
            return Some("a snapshot of it is just being made, merged or gone back to");
        }
        let other = self.taking.is_some() || !self.forking.is_empty() || self.flattening.is_some();
        other.then_some("its disks are just being changed")
    }

    /// Files that are no part of anything stay where they are, and are the VM's no longer.
    pub(super) fn forget_waste(&mut self) {
        self.layering.waste.clear();
    }

    pub(super) fn snapshots(&self) -> &SnapshotTree {
        &self.definition.vm.status.snapshots
    }

    fn snapshots_mut(&mut self) -> &mut SnapshotTree {
        &mut self.definition.vm.status.snapshots
    }

    pub(super) fn generation(&self) -> Uuid {
        self.layering.generation.unwrap_or_else(|| self.id().uuid())
    }
}
