//! What clients are told of a VM's snapshots.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::id::{SnapshotId, VmId};
use crate::name::Name;
use crate::size::ByteSize;
use crate::snapshot::Snapshot;
use crate::snapshot_plan::MergePlan;
use crate::snapshot_policy::SnapshotRules;

/// A VM's snapshots, and what its rules have to say of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmSnapshots {
    pub vm: VmId,
    pub name: Name,
    /// The one that the VM goes on from; absent: there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<SnapshotId>,
    /// In the order in which they were taken, so that a parent comes before its children.
    pub snapshots: Vec<Snapshot>,
    pub rules: SnapshotRules,
    pub warnings: Vec<String>,
}

/// What deleting snapshots would do: nothing has been done yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SnapshotDeletionPlan {
    pub vm: VmId,
    pub name: Name,
    /// Those that would go; empty: only what is left of earlier ones would be merged.
    pub snapshots: Vec<Name>,
    /// Which files are merged into which, what is removed, and what stays although no snapshot names
    /// it.
    pub files: MergePlan,
    pub estimate: MergeEstimate,
    /// Why it would be refused now; absent: it would be done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// How much there is to merge, and how long that should take.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct MergeEstimate {
    pub bytes: ByteSize,
    pub bytes_per_second: ByteSize,
    pub seconds: u64,
    /// Where the rate is known from.
    pub basis: String,
}

impl MergeEstimate {
    /// A rate of 0 counts as 1 byte a second.
    pub fn new(bytes: ByteSize, bytes_per_second: ByteSize, basis: String) -> Self {
        let seconds = bytes.bytes().div_ceil(bytes_per_second.bytes().max(1));
        Self { bytes, bytes_per_second, seconds, basis }
    }
}
