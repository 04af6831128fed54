//! Commands to one VM, and what the agent reports of it.

use hostler_endpoint::{Empty, Endpoint, Json, Method, NoParams, Stream};
use hostler_types::{
    ByteSize, CpuBaseline, CustomizationStatus, DatastoreId, DiskStatus, Epoch, ExecAnswer,
    ExecRequest, GuestReport, Hardware, ImageId, Name, NicStatus, OperationId, PowerState, Seal,
    SnapshotTree, StopMode, Vm, VmChange, VmId,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::network::NetworkDefinition;

#[derive(Debug, Clone, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct VmPath {
    #[param(value_type = String)]
    pub vm: VmId,
}

/// What every changing command carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmCommand {
    pub op: OperationId,
    pub epoch: Epoch,
}

/// All that an agent needs to run a VM without asking anyone, also after its own restart. The
/// agent keeps it beside the disks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VmDefinition {
    pub vm: Vm,
    /// Where each image that the spec names lies.
    pub images: Vec<(ImageId, DatastoreId)>,
    /// Each network that the spec names.
    pub networks: Vec<NetworkDefinition>,
    /// Of what the guest is told; the guest reports it. Absent: from a server of before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub customization_hash: Option<String>,
}

/// What the agent reports of a VM, in answers and events.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VmReport {
    pub vm: VmId,
    pub epoch: Epoch,
    pub power: PowerState,
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    pub message: Option<String>,
    pub disks: Vec<DiskStatus>,
    pub nics: Vec<NicStatus>,
    pub guest: Option<GuestReport>,
    /// What it runs with.
    #[serde(default)]
    pub hardware: Option<Hardware>,
    /// The CPU that the guest sees, if it runs with a baseline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<CpuBaseline>,
    /// What is asked for and does not run yet.
    #[serde(default)]
    pub pending: Vec<VmChange>,
    /// What became of the customization, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub customization: Option<CustomizationStatus>,
    #[serde(default, skip_serializing_if = "SnapshotTree::is_empty")]
    pub snapshots: SnapshotTree,
    /// What was taken out of the guest, which has not run since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seal: Option<Seal>,
    /// Of the disks that are plugged in, what the guest says of them; `None`: it was not asked. Only in
    /// answers to definitions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_disks: Option<Vec<GuestDisk>>,
    /// Where its files are; `None`: an agent that does not move them does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datastore: Option<DatastoreId>,
}

/// A disk as the guest sees it. One that it does not see is not told of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GuestDisk {
    /// What the VM calls it.
    pub disk: Name,
    /// The guest's device node.
    pub device: String,
    /// `None`: the guest does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<ByteSize>,
    /// What the guest does with it: `mounted on /data`, `swap`, …
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub uses: Vec<String>,
}

/// `POST /agent/v1/vms/{vm}/create`: makes the directory, the overlay disks, the seed and the
/// definition, the definition last. Taken back wholly on failure.
#[derive(Debug)]
pub struct VmCreate;

impl Endpoint for VmCreate {
    const ID: &'static str = "vm_create";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/agent/v1/vms/{vm}/create";
    const SUMMARY: &'static str = "Make a VM's files";
    const TAG: &'static str = "vm";
    type Path = VmPath;
    type Query = NoParams;
    type Body = Json<VmCreateRequest>;
    type Answer = Json<VmReport>;
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VmCreateRequest {
    pub command: VmCommand,
    pub definition: VmDefinition,
}

/// `POST /agent/v1/vms/{vm}/define`: replaces the definition (rename, reconfigure), grows disks
/// that are larger in it and writes the seed anew when the customization changed.
#[derive(Debug)]
pub struct VmDefine;

impl Endpoint for VmDefine {
    const ID: &'static str = "vm_define";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/agent/v1/vms/{vm}/define";
    const SUMMARY: &'static str = "Replace a VM's definition";
    const TAG: &'static str = "vm";
    type Path = VmPath;
    type Query = NoParams;
    type Body = Json<VmDefineRequest>;
    type Answer = Json<VmReport>;
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VmDefineRequest {
    pub command: VmCommand,
    pub definition: VmDefinition,
    /// Whether disks are unplugged that the guest says it uses.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub force: bool,
}

impl VmDefineRequest {
    /// Of one that takes nothing from the guest that it uses.
    pub fn new(command: VmCommand, definition: VmDefinition) -> Self {
        Self { command, definition, force: false }
    }
}

/// `GET /agent/v1/vms/{vm}/definition`: the definition that the agent has of a VM, with what is secret
/// in it: for a server that has lost its own.
#[derive(Debug)]
pub struct VmDefined;

impl Endpoint for VmDefined {
    const ID: &'static str = "vm_defined";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/agent/v1/vms/{vm}/definition";
    const SUMMARY: &'static str = "The definition that the agent has of a VM";
    const TAG: &'static str = "vm";
    type Path = VmPath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<VmDefinition>;
}

/// `POST /agent/v1/vms/{vm}/disk-take`: a detached disk of another VM of the same host and datastore
/// becomes a detached disk of this one. The other VM's record still names it then, without its file,
/// until its next definition. Answered the same when the disk is here already.
#[derive(Debug)]
pub struct VmDiskTake;

impl Endpoint for VmDiskTake {
    const ID: &'static str = "vm_disk_take";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/agent/v1/vms/{vm}/disk-take";
    const SUMMARY: &'static str = "Take over a detached disk of another VM";
    const TAG: &'static str = "vm";
    type Path = VmPath;
    type Query = NoParams;
    type Body = Json<VmDiskTakeRequest>;
    type Answer = Json<VmReport>;
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmDiskTakeRequest {
    /// Of the VM that gets the disk.
    pub command: VmCommand,
    /// The VM that has it.
    pub from: VmId,
    /// Its name there.
    pub disk: Name,
    /// Its name here.
    pub name: Name,
}

/// `POST /agent/v1/vms/{vm}/register`: takes a VM whose files lie on one of the agent's datastores
/// into the agent's inventory, with this definition and epoch. Refused when a file is missing.
#[derive(Debug)]
pub struct VmRegister;

impl Endpoint for VmRegister {
    const ID: &'static str = "vm_register";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/agent/v1/vms/{vm}/register";
    const SUMMARY: &'static str = "Take a VM's files into the inventory";
    const TAG: &'static str = "vm";
    type Path = VmPath;
    type Query = NoParams;
    type Body = Json<VmCreateRequest>;
    type Answer = Json<VmReport>;
}

/// `POST /agent/v1/vms/{vm}/remove`: forgets the VM, with or without its files. Idempotent: a VM
/// that is not there is answered 204. Refused while it runs, unless `force`.
#[derive(Debug)]
pub struct VmRemove;

impl Endpoint for VmRemove {
    const ID: &'static str = "vm_remove";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/agent/v1/vms/{vm}/remove";
    const SUMMARY: &'static str = "Forget a VM, with or without its files";
    const TAG: &'static str = "vm";
    const STATUS: u16 = 204;
    type Path = VmPath;
    type Query = NoParams;
    type Body = Json<VmRemoveRequest>;
    type Answer = Empty;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmRemoveRequest {
    pub command: VmCommand,
    /// Where its files are, so that files without a record (after a crash) are removed too.
    pub datastore: DatastoreId,
    /// Leave the directory for a later `vm_register`.
    pub keep_files: bool,
    /// Kill a running guest first.
    pub force: bool,
}

/// `POST /agent/v1/vms/{vm}/start`: starts QEMU, or resumes a suspended VM; answers when the
/// guest's CPUs run. A VM that runs already is answered as it is.
#[derive(Debug)]
pub struct VmStart;

impl Endpoint for VmStart {
    const ID: &'static str = "vm_start";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/agent/v1/vms/{vm}/start";
    const SUMMARY: &'static str = "Start or resume a VM";
    const TAG: &'static str = "vm";
    type Path = VmPath;
    type Query = NoParams;
    type Body = Json<VmStartRequest>;
    type Answer = Json<VmReport>;
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmStartRequest {
    #[serde(flatten)]
    pub command: VmCommand,
    /// The CPU that the guest sees, also when the host starts it again by itself; absent: all that the host
    /// has. Of no meaning to a VM that asks for a model itself, or that resumes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<CpuBaseline>,
}

impl From<VmCommand> for VmStartRequest {
    fn from(command: VmCommand) -> Self {
        Self { command, cpu: None }
    }
}

/// `POST /agent/v1/vms/{vm}/stop`: answers when QEMU has ended. A graceful stop that the guest
/// does not follow in time fails with `timeout` and leaves the VM running.
#[derive(Debug)]
pub struct VmStop;

impl Endpoint for VmStop {
    const ID: &'static str = "vm_stop";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/agent/v1/vms/{vm}/stop";
    const SUMMARY: &'static str = "Stop a VM";
    const TAG: &'static str = "vm";
    type Path = VmPath;
    type Query = NoParams;
    type Body = Json<VmStopRequest>;
    type Answer = Json<VmReport>;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmStopRequest {
    pub command: VmCommand,
    pub mode: StopMode,
    /// How long a graceful stop may take.
    pub timeout_seconds: u32,
}

/// `POST /agent/v1/vms/{vm}/reset`
#[derive(Debug)]
pub struct VmReset;

impl Endpoint for VmReset {
    const ID: &'static str = "vm_reset";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/agent/v1/vms/{vm}/reset";
    const SUMMARY: &'static str = "Press a running VM's reset button";
    const TAG: &'static str = "vm";
    type Path = VmPath;
    type Query = NoParams;
    type Body = Json<VmCommand>;
    type Answer = Json<VmReport>;
}

/// `POST /agent/v1/vms/{vm}/suspend`: writes the memory beside the disks and ends QEMU.
#[derive(Debug)]
pub struct VmSuspend;

impl Endpoint for VmSuspend {
    const ID: &'static str = "vm_suspend";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/agent/v1/vms/{vm}/suspend";
    const SUMMARY: &'static str = "Suspend a VM to its datastore";
    const TAG: &'static str = "vm";
    type Path = VmPath;
    type Query = NoParams;
    type Body = Json<VmCommand>;
    type Answer = Json<VmReport>;
}

/// `POST /agent/v1/vms/{vm}/seal`: takes out of the guest what must not be the same in two machines;
/// the report says what. A guest that runs is sealed through its agent, and its plug pulled at once,
/// so that it makes nothing anew. One that is off is sealed on fresh layers over its disks, which
/// become the disks' own only when all is done. What is not understood is refused, and stays.
#[derive(Debug)]
pub struct VmSeal;

impl Endpoint for VmSeal {
    const ID: &'static str = "vm_seal";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/agent/v1/vms/{vm}/seal";
    const SUMMARY: &'static str = "Seal a guest";
    const TAG: &'static str = "vm";
    type Path = VmPath;
    type Query = NoParams;
    type Body = Json<VmCommand>;
    type Answer = Json<VmReport>;
}

/// `POST /agent/v1/vms/{vm}/exec`
#[derive(Debug)]
pub struct VmExec;

impl Endpoint for VmExec {
    const ID: &'static str = "vm_exec";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/agent/v1/vms/{vm}/exec";
    const SUMMARY: &'static str = "Run a command in the guest";
    const TAG: &'static str = "vm";
    type Path = VmPath;
    type Query = NoParams;
    type Body = Json<ExecRequest>;
    type Answer = Json<ExecAnswer>;
}

/// `GET /agent/v1/vms/{vm}/screenshot`: a PNG.
#[derive(Debug)]
pub struct VmScreenshot;

impl Endpoint for VmScreenshot {
    const ID: &'static str = "vm_screenshot";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/agent/v1/vms/{vm}/screenshot";
    const SUMMARY: &'static str = "The screen as PNG";
    const TAG: &'static str = "vm";
    type Path = VmPath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Stream;
}

/// `POST /agent/v1/vms/{vm}/console`: bytes both ways, for as long as both sides like. Several
/// viewers of the serial console see the same; the last lines come first.
#[derive(Debug)]
pub struct VmConsole;

impl Endpoint for VmConsole {
    const ID: &'static str = "vm_console";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/agent/v1/vms/{vm}/console";
    const SUMMARY: &'static str = "The serial or VNC console";
    const TAG: &'static str = "vm";
    type Path = VmPath;
    type Query = VmConsoleQuery;
    type Body = Stream;
    type Answer = Stream;
}

#[derive(Debug, Clone, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct VmConsoleQuery {
    #[param(value_type = String)]
    pub kind: ConsoleKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ConsoleKind {
    Serial,
    Vnc,
}

/// `GET /agent/v1/vms/{vm}/log`: what the serial console printed, from its bounded log.
#[derive(Debug)]
pub struct VmLog;

impl Endpoint for VmLog {
    const ID: &'static str = "vm_log";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/agent/v1/vms/{vm}/log";
    const SUMMARY: &'static str = "What the serial console printed";
    const TAG: &'static str = "vm";
    type Path = VmPath;
    type Query = VmLogQuery;
    type Body = Empty;
    type Answer = Stream;
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct VmLogQuery {
    /// Go on with what is printed from now.
    #[serde(default)]
    pub follow: bool,
}
