//! Snapshots: a VM's disks, and its memory if wanted, as they were at one instant.
//!
//! ```text
//!  image <- disk0 <- disk0.1 <- disk0.2 (active)
//!             ^         ^
//!         "before"   "after"      a snapshot names the files that hold what was, and nothing
//!                                 writes to a file any more that a snapshot names
//! ```
//!
//! Taking one puts an empty layer on every disk. Deleting one takes the name away; a file that no
//! snapshot names any more is merged with the one layer on it, if it has just one and nothing of
//! another VM lies on it. The host's agent keeps them in the VM's record, beside the disks; the server
//! mirrors them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::id::SnapshotId;
use crate::layer::LayerFile;
use crate::name::{Name, Ref};
use crate::size::ByteSize;

/// All snapshots of a VM.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SnapshotTree {
    /// The one that the VM goes on from: the last one taken or reverted to. Absent: there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<SnapshotId>,
    /// In the order in which they were taken, so that a parent comes before its children.
    #[serde(default)]
    pub snapshots: Vec<Snapshot>,
}

/// One snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Snapshot {
    pub id: SnapshotId,
    /// Unique within the VM.
    pub name: Name,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The one that the VM had gone on from when this one was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<SnapshotId>,
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// Who asked for it.
    pub by: String,
    pub consistency: Consistency,
    /// The size of the saved memory's file: reverting goes on where the guest was. Absent: the disks
    /// only, and the guest boots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<ByteSize>,
    /// How long the guest stood still for it, in milliseconds, as its host measured it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_ms: Option<u64>,
    pub disks: Vec<SnapshotDisk>,
    /// Bytes written since, up to the next snapshot: what deleting it has to merge.
    pub written: ByteSize,
}

/// A disk as a snapshot holds it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SnapshotDisk {
    pub name: Name,
    pub size: ByteSize,
    /// The files that make it up: first the one that was active, down to an image or to nothing.
    pub layers: Vec<LayerFile>,
}

/// What a snapshot's disks can be relied on for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Consistency {
    /// As after a power failure, all disks at one instant.
    #[default]
    Crash,
    /// The guest had flushed and frozen its file systems, and run its freeze hooks.
    Application,
}

impl Consistency {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::Application => "application",
        }
    }
}

impl SnapshotTree {
    pub fn is_empty(&self) -> bool {
        self.snapshots.is_empty()
    }

    pub fn get(&self, id: SnapshotId) -> Option<&Snapshot> {
        self.snapshots.iter().find(|snapshot| snapshot.id == id)
    }

    /// By name or id.
    pub fn find(&self, reference: &Ref) -> Option<&Snapshot> {
        match reference {
            Ref::Name(name) => self.snapshots.iter().find(|snapshot| snapshot.name == *name),
            Ref::Id(id) => self.get(SnapshotId::from_uuid(*id)),
        }
    }

    pub fn children(&self, of: Option<SnapshotId>) -> impl Iterator<Item = &Snapshot> {
        self.snapshots.iter().filter(move |snapshot| snapshot.parent == of)
    }

    /// How many snapshots lie beneath the disks as they are now: the current one and all that it
    /// descends from.
    pub fn depth(&self) -> usize {
        let current = self.current.and_then(|id| self.get(id));
        let beneath = |snapshot: &&Snapshot| snapshot.parent.and_then(|id| self.get(id));
        std::iter::successors(current, beneath).take(self.snapshots.len()).count()
    }
}
