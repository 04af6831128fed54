//! Virtual machines: list, make, change, and every power verb.

use hostler_endpoint::{Empty, Endpoint, Json, Method, NoParams, Page, Stream};
use hostler_types::{
    ExecAnswer, ExecRequest, MigrationPolicy, Name, PlacementExplanation, PlacementWhy, PowerState,
    Ref, StopMode, Task, Vm, VmChange, VmClone, VmStats,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Which VM.
#[derive(Debug, Clone, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct VmPath {
    /// Its name or its id.
    #[param(value_type = String)]
    pub vm: Ref,
}

/// Which ones, and how many at a time.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct VmListQuery {
    /// At most this many, 1 to 10000; absent: 10000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 10000)]
    pub limit: Option<u32>,
    /// The `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Only those with this label, `key=value`, or `key` for any value. Several: all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub label: Vec<String>,
    /// Only those whose name begins with this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Only those in this power state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub power: Option<PowerState>,
    /// Only those of this host, by name or id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub host: Option<Ref>,
    /// Only those on this datastore, by name or id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub datastore: Option<Ref>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct VmCreateQuery {
    /// Decide and explain, but make nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// What became of a request for clones.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VmCloned {
    /// The VMs as they will be; with `dry_run`, as they would be.
    pub vms: Vec<Vm>,
    /// What makes them; absent with `dry_run`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<Task>,
    /// Why these hosts and datastores, in sentences.
    pub placement: Vec<String>,
    /// All filters and scores, of each VM; only with `dry_run`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub explained: Vec<PlacementExplanation>,
}

/// Which disks become independent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FlattenRequest {
    /// Empty: all.
    pub disks: Vec<Name>,
    /// Bytes a second at most, for a VM that runs; absent: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub max_rate: Option<u64>,
}

/// Where a VM is to go, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MigrateRequest {
    /// Name or id; absent: where placement would put it, or, with `datastore`, where it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub host: Option<Ref>,
    /// Name or id: the VM's files go there, and the VM stays on its host; absent: they stay where they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub datastore: Option<Ref>,
    /// How long the guest may stand still, in milliseconds; absent: as the VM says,
    /// else 300.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 60_000)]
    pub downtime_ms: Option<u64>,
    /// Bytes a second at most; absent: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub max_bandwidth: Option<u64>,
    /// What is done with a guest that writes faster than its memory is sent; absent: as the VM
    /// says, else `throttle`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<MigrationPolicy>,
}

/// What became of a request to move a VM.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VmMigration {
    /// The host that it goes to.
    pub host: Name,
    /// The datastore that its files go to; absent: they stay where they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datastore: Option<Name>,
    /// What moves it; absent with `dry_run`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<Task>,
    /// Why there, and how, in sentences.
    pub explanation: Vec<String>,
}

/// What became of a request for a VM.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VmCreated {
    /// The VM as it will be; with `dry_run`, as it would be.
    pub vm: Vm,
    /// What makes it; absent with `dry_run`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<Task>,
    /// Why this host and datastore, in sentences.
    pub placement: Vec<String>,
    /// All filters and scores; only with `dry_run`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub explained: Vec<PlacementExplanation>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct VmDeleteQuery {
    /// Also when it runs: it is powered off first. Does not override `protected`.
    #[serde(default)]
    pub force: bool,
    /// Also when it runs: it is stopped gracefully first; with `force`, and then for certain.
    #[serde(default)]
    pub stop: bool,
    /// How long the graceful stop may take, 1 to 86400; absent: 120.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 86_400)]
    pub timeout_seconds: Option<u32>,
    /// For good: not into the recycle bin.
    #[serde(default)]
    pub now: bool,
}

/// How a VM is to be brought down.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StopRequest {
    #[serde(default)]
    pub mode: StopMode,
    /// How long a graceful stop may take, 1 to 86400; absent: 120.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 86_400)]
    pub timeout_seconds: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RenameRequest {
    pub name: Name,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct VmLogQuery {
    /// Go on with what the guest writes from now on.
    #[serde(default)]
    pub follow: bool,
}

/// What a change of a VM consists of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChangePlan {
    pub changes: Vec<VmChange>,
}

/// List VMs, sorted by name.
#[derive(Debug)]
pub struct List;

impl Endpoint for List {
    const ID: &'static str = "vm_list";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/vms";
    const SUMMARY: &'static str = "List VMs, sorted by name";
    const TAG: &'static str = "vm";
    const ACCESS: &'static str = "viewer";
    type Path = NoParams;
    type Query = VmListQuery;
    type Body = Empty;
    type Answer = Json<Page<Vm>>;
}
/// Make a VM.
#[derive(Debug)]
pub struct Create;

impl Endpoint for Create {
    const ID: &'static str = "vm_create";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/vms";
    const SUMMARY: &'static str = "Make a VM";
    const TAG: &'static str = "vm";
    const ACCESS: &'static str = "operator";
    const STATUS: u16 = 202;
    type Path = NoParams;
    type Query = VmCreateQuery;
    type Body = Json<hostler_types::VmCreate>;
    type Answer = Json<VmCreated>;

    fn revision(answer: &VmCreated) -> Option<u64> {
        Some(answer.vm.metadata.revision.0)
    }
}
/// Show a VM.
#[derive(Debug)]
pub struct Show;

impl Endpoint for Show {
    const ID: &'static str = "vm_show";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/vms/{vm}";
    const SUMMARY: &'static str = "Show a VM";
    const TAG: &'static str = "vm";
    const ACCESS: &'static str = "viewer";
    type Path = VmPath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<Vm>;

    fn revision(answer: &Vm) -> Option<u64> {
        Some(answer.metadata.revision.0)
    }
}
/// Change a VM: now, as far as its guest can take it, else at its next start.
#[derive(Debug)]
pub struct Update;

impl Endpoint for Update {
    const ID: &'static str = "vm_update";
    const METHOD: Method = Method::Patch;
    const PATH: &'static str = "/v1/vms/{vm}";
    const SUMMARY: &'static str =
        "Change a VM: now, as far as its guest can take it, else at its next start";
    const TAG: &'static str = "vm";
    const ACCESS: &'static str = "operator";
    const STATUS: u16 = 202;
    const CONDITIONAL: bool = true;
    type Path = VmPath;
    type Query = NoParams;
    type Body = Json<hostler_types::VmUpdate>;
    type Answer = Json<Task>;
}
/// Tell what a change of a VM would do, and when.
#[derive(Debug)]
pub struct Plan;

impl Endpoint for Plan {
    const ID: &'static str = "vm_plan";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/vms/{vm}/plan";
    const SUMMARY: &'static str = "Tell what a change of a VM would do, and when";
    const TAG: &'static str = "vm";
    const ACCESS: &'static str = "operator";
    type Path = VmPath;
    type Query = NoParams;
    type Body = Json<hostler_types::VmUpdate>;
    type Answer = Json<ChangePlan>;
}
/// How long a VM may stay from now on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RenewRequest {
    /// Absent: as long as the lease before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1)]
    pub seconds: Option<u64>,
    /// Without an end.
    #[serde(default)]
    pub never: bool,
}

/// Renew a VM's lease, give it one, or take it away.
#[derive(Debug)]
pub struct Renew;

impl Endpoint for Renew {
    const ID: &'static str = "vm_renew";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/vms/{vm}/renew";
    const SUMMARY: &'static str = "Renew a VM's lease, give it one, or take it away";
    const TAG: &'static str = "vm";
    const ACCESS: &'static str = "operator";
    type Path = VmPath;
    type Query = NoParams;
    type Body = Json<RenewRequest>;
    type Answer = Json<Vm>;

    fn revision(answer: &Vm) -> Option<u64> {
        Some(answer.metadata.revision.0)
    }
}
/// Say what deleting a VM would do.
#[derive(Debug)]
pub struct PlanDeletion;

impl Endpoint for PlanDeletion {
    const ID: &'static str = "vm_deletion_plan";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/vms/{vm}/deletion";
    const SUMMARY: &'static str = "Say what deleting a VM would do";
    const TAG: &'static str = "vm";
    const ACCESS: &'static str = "viewer";
    type Path = VmPath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<hostler_types::DeletionPlan>;
}
/// Delete a VM with its disks: into the recycle bin, unless `now`.
#[derive(Debug)]
pub struct Delete;

impl Endpoint for Delete {
    const ID: &'static str = "vm_delete";
    const METHOD: Method = Method::Delete;
    const PATH: &'static str = "/v1/vms/{vm}";
    const SUMMARY: &'static str = "Delete a VM with its disks: into the recycle bin, unless `now`";
    const TAG: &'static str = "vm";
    const ACCESS: &'static str = "operator";
    const STATUS: u16 = 202;
    type Path = VmPath;
    type Query = VmDeleteQuery;
    type Body = Empty;
    type Answer = Json<Task>;
}
/// Make VMs from another VM: independent copies, or linked to its disks.
#[derive(Debug)]
pub struct Clone;

impl Endpoint for Clone {
    const ID: &'static str = "vm_clone";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/vms/{vm}/clone";
    const SUMMARY: &'static str = "Make VMs from another VM";
    const TAG: &'static str = "vm";
    const ACCESS: &'static str = "operator";
    const STATUS: u16 = 202;
    type Path = VmPath;
    type Query = VmCreateQuery;
    type Body = Json<VmClone>;
    type Answer = Json<VmCloned>;
}

/// Copy into a VM's disks what they need of images and of other VMs' disks, also while it runs.
#[derive(Debug)]
pub struct Flatten;

impl Endpoint for Flatten {
    const ID: &'static str = "vm_flatten";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/vms/{vm}/flatten";
    const SUMMARY: &'static str = "Make a VM's disks independent, also while it runs";
    const TAG: &'static str = "vm";
    const ACCESS: &'static str = "operator";
    const STATUS: u16 = 202;
    type Path = VmPath;
    type Query = NoParams;
    type Body = Json<FlattenRequest>;
    type Answer = Json<Task>;
}

/// Move a VM to another host: one that runs goes on running.
#[derive(Debug)]
pub struct Migrate;

impl Endpoint for Migrate {
    const ID: &'static str = "vm_migrate";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/vms/{vm}/migrate";
    const SUMMARY: &'static str = "Move a VM to another host: one that runs goes on running";
    const TAG: &'static str = "vm";
    const ACCESS: &'static str = "operator";
    const STATUS: u16 = 202;
    type Path = VmPath;
    type Query = VmCreateQuery;
    type Body = Json<MigrateRequest>;
    type Answer = Json<VmMigration>;
}

/// Start a VM, or resume a suspended one.
#[derive(Debug)]
pub struct Start;

impl Endpoint for Start {
    const ID: &'static str = "vm_start";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/vms/{vm}/start";
    const SUMMARY: &'static str = "Start a VM, or resume a suspended one";
    const TAG: &'static str = "vm";
    const ACCESS: &'static str = "operator";
    const STATUS: u16 = 202;
    type Path = VmPath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<Task>;
}
/// Reset a VM, as the button does.
#[derive(Debug)]
pub struct Reset;

impl Endpoint for Reset {
    const ID: &'static str = "vm_reset";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/vms/{vm}/reset";
    const SUMMARY: &'static str = "Reset a VM, as the button does";
    const TAG: &'static str = "vm";
    const ACCESS: &'static str = "operator";
    const STATUS: u16 = 202;
    type Path = VmPath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<Task>;
}
/// Write a VM's memory to its datastore and end QEMU.
#[derive(Debug)]
pub struct Suspend;

impl Endpoint for Suspend {
    const ID: &'static str = "vm_suspend";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/vms/{vm}/suspend";
    const SUMMARY: &'static str = "Write a VM's memory to its datastore and end QEMU";
    const TAG: &'static str = "vm";
    const ACCESS: &'static str = "operator";
    const STATUS: u16 = 202;
    type Path = VmPath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<Task>;
}
/// Take out of a guest what must not be the same in two machines; one that runs is off then.
#[derive(Debug)]
pub struct Seal;

impl Endpoint for Seal {
    const ID: &'static str = "vm_seal";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/vms/{vm}/seal";
    const SUMMARY: &'static str = "Take out of a guest what must not be the same in two machines";
    const TAG: &'static str = "vm";
    const ACCESS: &'static str = "operator";
    const STATUS: u16 = 202;
    type Path = VmPath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<Task>;
}
/// Go on with a suspended or paused VM.
#[derive(Debug)]
pub struct Resume;

impl Endpoint for Resume {
    const ID: &'static str = "vm_resume";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/vms/{vm}/resume";
    const SUMMARY: &'static str = "Go on with a suspended or paused VM";
    const TAG: &'static str = "vm";
    const ACCESS: &'static str = "operator";
    const STATUS: u16 = 202;
    type Path = VmPath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<Task>;
}
/// Stop a VM.
#[derive(Debug)]
pub struct Stop;

impl Endpoint for Stop {
    const ID: &'static str = "vm_stop";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/vms/{vm}/stop";
    const SUMMARY: &'static str = "Stop a VM";
    const TAG: &'static str = "vm";
    const ACCESS: &'static str = "operator";
    const STATUS: u16 = 202;
    type Path = VmPath;
    type Query = NoParams;
    type Body = Json<StopRequest>;
    type Answer = Json<Task>;
}
/// Give a VM another name.
#[derive(Debug)]
pub struct Rename;

impl Endpoint for Rename {
    const ID: &'static str = "vm_rename";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/vms/{vm}/rename";
    const SUMMARY: &'static str = "Give a VM another name";
    const TAG: &'static str = "vm";
    const ACCESS: &'static str = "operator";
    const STATUS: u16 = 202;
    const CONDITIONAL: bool = true;
    type Path = VmPath;
    type Query = NoParams;
    type Body = Json<RenameRequest>;
    type Answer = Json<Task>;
}
/// Take a VM out of the inventory and keep its files.
#[derive(Debug)]
pub struct Unregister;

impl Endpoint for Unregister {
    const ID: &'static str = "vm_unregister";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/vms/{vm}/unregister";
    const SUMMARY: &'static str = "Take a VM out of the inventory and keep its files";
    const TAG: &'static str = "vm";
    const ACCESS: &'static str = "operator";
    const STATUS: u16 = 202;
    type Path = VmPath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<Task>;
}
/// Run a command in the guest, through its agent.
#[derive(Debug)]
pub struct Exec;

impl Endpoint for Exec {
    const ID: &'static str = "vm_exec";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/vms/{vm}/exec";
    const SUMMARY: &'static str = "Run a command in the guest, through its agent";
    const TAG: &'static str = "vm";
    const ACCESS: &'static str = "operator";
    type Path = VmPath;
    type Query = NoParams;
    type Body = Json<ExecRequest>;
    type Answer = Json<ExecAnswer>;
}
/// Read what the guest wrote to its serial port.
#[derive(Debug)]
pub struct Log;

impl Endpoint for Log {
    const ID: &'static str = "vm_log";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/vms/{vm}/log";
    const SUMMARY: &'static str = "Read what the guest wrote to its serial port";
    const TAG: &'static str = "vm";
    const ACCESS: &'static str = "operator";
    const MEDIA_TYPE: &'static str = "application/octet-stream";
    type Path = VmPath;
    type Query = VmLogQuery;
    type Body = Empty;
    type Answer = Stream;
}
/// Take a picture of the guest's screen.
#[derive(Debug)]
pub struct Screenshot;

impl Endpoint for Screenshot {
    const ID: &'static str = "vm_screenshot";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/vms/{vm}/screenshot";
    const SUMMARY: &'static str = "Take a picture of the guest's screen";
    const TAG: &'static str = "vm";
    const ACCESS: &'static str = "operator";
    const MEDIA_TYPE: &'static str = "image/png";
    type Path = VmPath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Stream;
}
/// Tell what a VM uses now, and what it has to do without.
#[derive(Debug)]
pub struct Stats;

impl Endpoint for Stats {
    const ID: &'static str = "vm_stats";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/vms/{vm}/stats";
    const SUMMARY: &'static str = "Tell what a VM uses now, and what it has to do without";
    const TAG: &'static str = "vm";
    const ACCESS: &'static str = "viewer";
    type Path = VmPath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<VmStats>;
}
/// Explain why a VM is where it is.
#[derive(Debug)]
pub struct Why;

impl Endpoint for Why {
    const ID: &'static str = "vm_why";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/vms/{vm}/why";
    const SUMMARY: &'static str = "Explain why a VM is where it is";
    const TAG: &'static str = "vm";
    const ACCESS: &'static str = "viewer";
    type Path = VmPath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<PlacementWhy>;
}
/// List the changes of a VM, oldest first, as `event_list` does.
#[derive(Debug)]
pub struct History;

impl Endpoint for History {
    const ID: &'static str = "vm_history";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/vms/{vm}/history";
    const SUMMARY: &'static str = "List the changes of a VM, oldest first, as `event_list` does";
    const TAG: &'static str = "vm";
    const ACCESS: &'static str = "viewer";
    type Path = VmPath;
    type Query = hostler_endpoint::PageQuery;
    type Body = Empty;
    type Answer = Json<Page<crate::event::Change>>;
}
