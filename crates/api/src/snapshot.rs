//! Snapshots of a VM: take, list, rename, go back, delete, merge.

use hostler_endpoint::{Empty, Endpoint, Json, Method, NoParams};
use hostler_types::{Name, Ref, Snapshot, SnapshotDeletionPlan, Task, VmSnapshots};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::vm::VmPath;

/// Which snapshot of which VM.
#[derive(Debug, Clone, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct SnapshotPath {
    /// The VM's name or id.
    #[param(value_type = String)]
    pub vm: Ref,
    /// The snapshot's name within the VM, or its id.
    #[param(value_type = String)]
    pub snapshot: Ref,
}

/// A snapshot to be taken.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SnapshotCreate {
    /// Unique within the VM; absent: made from the time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// With the guest's memory: going back goes on where it was. The VM must run.
    pub memory: bool,
    /// With the guest's file systems flushed and frozen for the instant, through its agent.
    pub quiesce: bool,
}

/// Changes to what a snapshot is called. An absent field stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SnapshotUpdate {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// How to go back to a snapshot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RevertRequest {
    /// Absent: running as before, or where its memory was saved. `false`: off.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start: Option<bool>,
    /// Also when the VM is protected.
    pub force: bool,
}

/// How one snapshot is deleted.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct SnapshotDeleteQuery {
    /// With all that descend from it.
    #[serde(default)]
    pub children: bool,
    /// Bytes a second at most; absent: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1)]
    pub max_rate: Option<u64>,
}

/// Which snapshots are deleted, and how.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct SnapshotSelection {
    /// A snapshot, by name or id; repeat it for several.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[param(value_type = Vec<String>)]
    pub snapshot: Vec<Ref>,
    /// With all that descend from them.
    #[serde(default)]
    pub children: bool,
    /// Every one; `snapshot` is absent then.
    #[serde(default)]
    pub all: bool,
    /// Bytes a second at most; absent: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1)]
    pub max_rate: Option<u64>,
}

/// How what is left of earlier deletions is merged.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ConsolidateRequest {
    /// Bytes a second at most; absent: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub max_rate: Option<u64>,
}

/// List a VM's snapshots, with what its policy says of them.
#[derive(Debug)]
pub struct List;

impl Endpoint for List {
    const ID: &'static str = "snapshot_list";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/vms/{vm}/snapshots";
    const SUMMARY: &'static str = "List a VM's snapshots, with what its policy says of them";
    const TAG: &'static str = "snapshot";
    const ACCESS: &'static str = "viewer";
    type Path = VmPath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<VmSnapshots>;
}
/// Take a snapshot, also while the VM runs.
#[derive(Debug)]
pub struct Create;

impl Endpoint for Create {
    const ID: &'static str = "snapshot_create";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/vms/{vm}/snapshots";
    const SUMMARY: &'static str = "Take a snapshot, also while the VM runs";
    const TAG: &'static str = "snapshot";
    const ACCESS: &'static str = "operator";
    const STATUS: u16 = 202;
    type Path = VmPath;
    type Query = NoParams;
    type Body = Json<SnapshotCreate>;
    type Answer = Json<Task>;
}
/// Show a snapshot.
#[derive(Debug)]
pub struct Show;

impl Endpoint for Show {
    const ID: &'static str = "snapshot_show";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/vms/{vm}/snapshots/{snapshot}";
    const SUMMARY: &'static str = "Show a snapshot";
    const TAG: &'static str = "snapshot";
    const ACCESS: &'static str = "viewer";
    type Path = SnapshotPath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<Snapshot>;
}
/// Rename or describe a snapshot.
#[derive(Debug)]
pub struct Update;

impl Endpoint for Update {
    const ID: &'static str = "snapshot_update";
    const METHOD: Method = Method::Patch;
    const PATH: &'static str = "/v1/vms/{vm}/snapshots/{snapshot}";
    const SUMMARY: &'static str = "Rename or describe a snapshot";
    const TAG: &'static str = "snapshot";
    const ACCESS: &'static str = "operator";
    const STATUS: u16 = 202;
    type Path = SnapshotPath;
    type Query = NoParams;
    type Body = Json<SnapshotUpdate>;
    type Answer = Json<Task>;
}
/// Delete a snapshot and merge what it held.
#[derive(Debug)]
pub struct Delete;

impl Endpoint for Delete {
    const ID: &'static str = "snapshot_delete";
    const METHOD: Method = Method::Delete;
    const PATH: &'static str = "/v1/vms/{vm}/snapshots/{snapshot}";
    const SUMMARY: &'static str = "Delete a snapshot and merge what it held";
    const TAG: &'static str = "snapshot";
    const ACCESS: &'static str = "operator";
    const STATUS: u16 = 202;
    type Path = SnapshotPath;
    type Query = SnapshotDeleteQuery;
    type Body = Empty;
    type Answer = Json<Task>;
}
/// Delete several snapshots, or all, and merge what they held.
#[derive(Debug)]
pub struct DeleteSeveral;

impl Endpoint for DeleteSeveral {
    const ID: &'static str = "snapshot_delete_several";
    const METHOD: Method = Method::Delete;
    const PATH: &'static str = "/v1/vms/{vm}/snapshots";
    const SUMMARY: &'static str = "Delete several snapshots, or all, and merge what they held";
    const TAG: &'static str = "snapshot";
    const ACCESS: &'static str = "operator";
    const STATUS: u16 = 202;
    type Path = VmPath;
    type Query = SnapshotSelection;
    type Body = Empty;
    type Answer = Json<Task>;
}
/// Say what deleting snapshots would do to the files, and how long it should take. With none named,
/// what consolidating would do.
#[derive(Debug)]
pub struct PlanDeletion;

impl Endpoint for PlanDeletion {
    const ID: &'static str = "snapshot_deletion_plan";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/vms/{vm}/snapshot-deletion";
    const SUMMARY: &'static str = "Say what deleting snapshots (with none named: consolidating) would do, and how long it takes";
    const TAG: &'static str = "snapshot";
    const ACCESS: &'static str = "viewer";
    type Path = VmPath;
    type Query = SnapshotSelection;
    type Body = Empty;
    type Answer = Json<SnapshotDeletionPlan>;
}
/// Make a VM what it was at a snapshot.
#[derive(Debug)]
pub struct Revert;

impl Endpoint for Revert {
    const ID: &'static str = "snapshot_revert";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/vms/{vm}/snapshots/{snapshot}/revert";
    const SUMMARY: &'static str = "Make a VM what it was at a snapshot; its present state is lost";
    const TAG: &'static str = "snapshot";
    const ACCESS: &'static str = "operator";
    const STATUS: u16 = 202;
    type Path = SnapshotPath;
    type Query = NoParams;
    type Body = Json<RevertRequest>;
    type Answer = Json<Task>;
}
/// Merge what earlier deletions of snapshots could not.
#[derive(Debug)]
pub struct Consolidate;

impl Endpoint for Consolidate {
    const ID: &'static str = "vm_consolidate";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/vms/{vm}/consolidate";
    const SUMMARY: &'static str = "Merge what earlier deletions of snapshots could not";
    const TAG: &'static str = "snapshot";
    const ACCESS: &'static str = "operator";
    const STATUS: u16 = 202;
    type Path = VmPath;
    type Query = NoParams;
    type Body = Json<ConsolidateRequest>;
    type Answer = Json<Task>;
}
