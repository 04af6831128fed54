//! Snapshots of a VM, and its disks' independence.

use hostler_endpoint::{Endpoint, Json, Method, NoParams};
use hostler_types::{DatastoreId, Name, SnapshotDisk, SnapshotId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::vm::{VmCommand, VmPath, VmReport};

/// `POST /agent/v1/vms/{vm}/snapshot`: takes a snapshot of all disks at one instant, running or
/// not, and of the memory if asked for. Answers when it is whole; the guest goes on long before.
#[derive(Debug)]
pub struct VmSnapshot;

impl Endpoint for VmSnapshot {
    const ID: &'static str = "vm_snapshot";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/agent/v1/vms/{vm}/snapshot";
    const SUMMARY: &'static str = "Take a snapshot";
    const TAG: &'static str = "vm";
    type Path = VmPath;
    type Query = NoParams;
    type Body = Json<VmSnapshotRequest>;
    type Answer = Json<VmReport>;
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmSnapshotRequest {
    pub command: VmCommand,
    pub snapshot: SnapshotId,
    /// Refused when another snapshot of the VM has it.
    pub name: Name,
    #[serde(default)]
    pub description: String,
    /// Who asked for it.
    pub by: String,
    /// With the guest's memory; refused unless it runs.
    #[serde(default)]
    pub memory: bool,
    /// Freeze the guest's file systems, through its agent, for the instant of the snapshot. Refused
    /// unless it runs and its agent answers.
    #[serde(default)]
    pub quiesce: bool,
}

/// `POST /agent/v1/vms/{vm}/revert`: the VM becomes what it was. Its present state is lost, unless a
/// snapshot holds it. A snapshot with memory goes on running where it was; after one without, the VM
/// runs (from its boot) if it ran before, or if `start` says so.
#[derive(Debug)]
pub struct VmRevert;

impl Endpoint for VmRevert {
    const ID: &'static str = "vm_revert";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/agent/v1/vms/{vm}/revert";
    const SUMMARY: &'static str = "Go back to a snapshot";
    const TAG: &'static str = "vm";
    type Path = VmPath;
    type Query = NoParams;
    type Body = Json<VmRevertRequest>;
    type Answer = Json<VmReport>;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmRevertRequest {
    pub command: VmCommand,
    pub snapshot: SnapshotId,
    /// Absent: running as before. `false`: off, also when the snapshot has memory.
    #[serde(default)]
    pub start: Option<bool>,
}

/// `POST /agent/v1/vms/{vm}/snapshot-delete`: takes snapshots away and merges what they held into
/// what remains; the rest of the tree stays as it is. With no snapshots named, merges what an earlier
/// deletion could not. Merges go on while the guest runs, tell their progress, and end with
/// `cancelled` when the operation is cancelled: the snapshots are gone then, and their files wait for
/// a later merge. After a crash of the agent they are taken up again when it is asked again.
#[derive(Debug)]
pub struct VmSnapshotDelete;

impl Endpoint for VmSnapshotDelete {
    const ID: &'static str = "vm_snapshot_delete";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/agent/v1/vms/{vm}/snapshot-delete";
    const SUMMARY: &'static str = "Delete snapshots, or merge what is left of some";
    const TAG: &'static str = "vm";
    type Path = VmPath;
    type Query = NoParams;
    type Body = Json<VmSnapshotDeleteRequest>;
    type Answer = Json<VmReport>;
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmSnapshotDeleteRequest {
    pub command: VmCommand,
    pub snapshots: Vec<SnapshotId>,
    /// Bytes a second at most; absent: no limit.
    #[serde(default)]
    pub max_rate: Option<u64>,
}

/// `POST /agent/v1/vms/{vm}/flatten`: makes disks independent of everything that is not the VM's own:
/// what they need of images and of other VMs' disks is copied into them, while the guest runs. Tells
/// its progress; can be cancelled, and taken up again.
#[derive(Debug)]
pub struct VmFlatten;

impl Endpoint for VmFlatten {
    const ID: &'static str = "vm_flatten";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/agent/v1/vms/{vm}/flatten";
    const SUMMARY: &'static str = "Make a VM's disks independent";
    const TAG: &'static str = "vm";
    type Path = VmPath;
    type Query = NoParams;
    type Body = Json<VmFlattenRequest>;
    type Answer = Json<VmReport>;
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmFlattenRequest {
    pub command: VmCommand,
    /// Empty: all.
    #[serde(default)]
    pub disks: Vec<Name>,
    /// Bytes a second at most; absent: no limit.
    #[serde(default)]
    pub max_rate: Option<u64>,
}

/// `POST /agent/v1/vms/{vm}/disks-move`: all files of a VM go to another datastore of the host, while the
/// guest runs or not. Chains and snapshots stay; what the disks need of images and of other VMs' disks is
/// copied into them. Tells its progress; cancelled or failed, the files are where they were.
#[derive(Debug)]
pub struct VmDisksMove;

impl Endpoint for VmDisksMove {
    const ID: &'static str = "vm_disks_move";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/agent/v1/vms/{vm}/disks-move";
    const SUMMARY: &'static str = "Move a VM's files to another datastore";
    const TAG: &'static str = "vm";
    type Path = VmPath;
    type Query = NoParams;
    type Body = Json<VmDisksMoveRequest>;
    type Answer = Json<VmReport>;
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmDisksMoveRequest {
    pub command: VmCommand,
    /// Where to.
    pub datastore: DatastoreId,
    /// Bytes a second at most; absent: no limit.
    #[serde(default)]
    pub max_rate: Option<u64>,
}

/// `POST /agent/v1/vms/{vm}/snapshot-update`: gives a snapshot another name or description; what is
/// absent stays.
#[derive(Debug)]
pub struct VmSnapshotUpdate;

impl Endpoint for VmSnapshotUpdate {
    const ID: &'static str = "vm_snapshot_update";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/agent/v1/vms/{vm}/snapshot-update";
    const SUMMARY: &'static str = "Rename or describe a snapshot";
    const TAG: &'static str = "vm";
    type Path = VmPath;
    type Query = NoParams;
    type Body = Json<VmSnapshotUpdateRequest>;
    type Answer = Json<VmReport>;
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmSnapshotUpdateRequest {
    pub command: VmCommand,
    pub snapshot: SnapshotId,
    /// Refused when another snapshot of the VM has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// `POST /agent/v1/vms/{vm}/freeze`: makes what the VM's disks hold now (or held at a snapshot) fit to
/// be cloned: files that nothing writes to any more, and that every VM of the host may read. A running
/// VM goes on in new layers; one that is off gets them when it is started.
#[derive(Debug)]
pub struct VmFreeze;

impl Endpoint for VmFreeze {
    const ID: &'static str = "vm_freeze";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/agent/v1/vms/{vm}/freeze";
    const SUMMARY: &'static str = "Make a VM's disks fit to be cloned";
    const TAG: &'static str = "vm";
    type Path = VmPath;
    type Query = NoParams;
    type Body = Json<VmFreezeRequest>;
    type Answer = Json<VmFrozen>;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmFreezeRequest {
    pub command: VmCommand,
    /// Absent: as the disks are now.
    #[serde(default)]
    pub snapshot: Option<SnapshotId>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VmFrozen {
    pub report: VmReport,
    /// Of each disk that is plugged in the files that hold it, the one to build upon first.
    pub disks: Vec<SnapshotDisk>,
}
