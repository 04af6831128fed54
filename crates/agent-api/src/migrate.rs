//! A VM goes to another host, running.
//!
//! ```text
//!  server                 source                           target
//!    offer ─────────────> what it runs with
//!    prepare ──────────────────────────────────────────────> a QEMU that waits
//!    migrate ───────────> ready? ──────────────────────────> yes
//!                         memory ══════════════════════════> (its own connection, TLS)
//!                         "given away" (on its disk)
//!                         take ────────────────────────────> the guest runs
//!    <─── given away ────
//!    take (again) ─────────────────────────────────────────> it does
//!    forget ────────────> the record goes
//! ```
//!
//! The source decides who owns the VM: until it has written down that the VM is given away it can take
//! everything back, afterwards never. `ready` and `take` are the only calls of one agent to another; an
//! agent answers them only to the host from which the server has prepared a VM here.

use hostler_endpoint::{Empty, Endpoint, Json, Method, NoParams};
use hostler_types::{Epoch, HostId, MigrationPolicy};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::vm::{VmCommand, VmDefinition, VmPath, VmReport};

/// `POST /agent/v1/vms/{vm}/migration-offer`: whether a VM can go to another host, and all that the
/// other must know. Nothing is changed; for a minute, what is told stays true.
#[derive(Debug)]
pub struct VmMigrationOffer;

impl Endpoint for VmMigrationOffer {
    const ID: &'static str = "vm_migration_offer";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/agent/v1/vms/{vm}/migration-offer";
    const SUMMARY: &'static str = "What a VM's next host must know";
    const TAG: &'static str = "vm";
    type Path = VmPath;
    type Query = NoParams;
    type Body = Json<VmCommand>;
    type Answer = Json<VmOffer>;
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VmOffer {
    /// For the other agent alone; it may hold secrets of the guest.
    pub luggage: serde_json::Value,
    /// The VM has been given away already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved: Option<VmMoved>,
}

/// `POST /agent/v1/vms/{vm}/migration-prepare`: starts a QEMU that waits for a VM of another host. The
/// VM is not this host's before it is taken, and nobody is told of it. Taken back wholly on failure.
#[derive(Debug)]
pub struct VmMigrationPrepare;

impl Endpoint for VmMigrationPrepare {
    const ID: &'static str = "vm_migration_prepare";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/agent/v1/vms/{vm}/migration-prepare";
    const SUMMARY: &'static str = "Make ready for a VM of another host";
    const TAG: &'static str = "vm";
    const STATUS: u16 = 204;
    type Path = VmPath;
    type Query = NoParams;
    type Body = Json<VmMigrationPrepareRequest>;
    type Answer = Empty;
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VmMigrationPrepareRequest {
    /// With the epoch that the VM will have here.
    pub command: VmCommand,
    pub definition: VmDefinition,
    /// The only host that may send it.
    #[schema(value_type = String)]
    pub from: HostId,
    /// [`VmOffer::luggage`].
    pub luggage: serde_json::Value,
}

/// `POST /agent/v1/vms/{vm}/migrate`: sends a running VM to a host that is prepared for it, and gives it
/// away. Answers when it is given away; when it fails or is cancelled the guest runs on here.
#[derive(Debug)]
pub struct VmMigrate;

impl Endpoint for VmMigrate {
    const ID: &'static str = "vm_migrate";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/agent/v1/vms/{vm}/migrate";
    const SUMMARY: &'static str = "Send a running VM to another host";
    const TAG: &'static str = "vm";
    type Path = VmPath;
    type Query = NoParams;
    type Body = Json<VmMigrateRequest>;
    type Answer = Json<VmMoved>;
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmMigrateRequest {
    pub command: VmCommand,
    #[schema(value_type = String)]
    pub to: HostId,
    /// Where that host's agent listens, `address:port`.
    pub address: String,
    /// The one under which it is prepared there.
    pub epoch: Epoch,
    /// Bytes a second at most; absent: as fast as it goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bandwidth: Option<u64>,
    /// How long the guest may stand still, in milliseconds.
    pub downtime_ms: u64,
    /// What is done with a guest that writes faster than its memory is sent.
    pub policy: MigrationPolicy,
}

/// `POST /agent/v1/vms/{vm}/migration-measure`: measures, within about a second, how fast a running guest
/// writes and how fast another host is reached. Nothing changes.
#[derive(Debug)]
pub struct VmMigrationMeasure;

impl Endpoint for VmMigrationMeasure {
    const ID: &'static str = "vm_migration_measure";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/agent/v1/vms/{vm}/migration-measure";
    const SUMMARY: &'static str = "Measure what moving a VM would take";
    const TAG: &'static str = "vm";
    type Path = VmPath;
    type Query = NoParams;
    type Body = Json<VmMigrationMeasureRequest>;
    type Answer = Json<VmMigrationMeasured>;
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmMigrationMeasureRequest {
    /// The host that it would go to.
    #[schema(value_type = String)]
    pub to: HostId,
    /// Where that host's agent listens, `address:port`.
    pub address: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmMigrationMeasured {
    /// Bytes of the guest's memory that it has ever used.
    pub resident: u64,
    /// Bytes of different pages that the guest writes a second.
    pub dirty_rate: u64,
    /// Bytes a second that come through to the other host, encrypted as a guest would be.
    pub bandwidth: u64,
}

/// How a VM went away.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VmMoved {
    #[schema(value_type = String)]
    pub to: HostId,
    pub epoch: Epoch,
    /// The other host has said that the guest runs there.
    pub taken: bool,
    /// How long the guest stood still, by the clock of the host it left, until the other had answered;
    /// 0 when that is not known.
    pub paused_microseconds: u64,
    /// From the beginning until the guest ran, likewise.
    pub total_microseconds: u64,
    /// Bytes.
    pub transferred: u64,
    /// What the other host said of the VM when it took it: so that the server need not ask. Absent
    /// when it has not answered, and from an agent of the version before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<Box<VmReport>>,
}

/// `POST /agent/v1/vms/{vm}/migration-ready`, by the source: whether the target could take the VM now.
#[derive(Debug)]
pub struct VmMigrationReady;

impl Endpoint for VmMigrationReady {
    const ID: &'static str = "vm_migration_ready";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/agent/v1/vms/{vm}/migration-ready";
    const SUMMARY: &'static str = "Whether a VM of another host can be taken";
    const TAG: &'static str = "vm";
    const STATUS: u16 = 204;
    type Path = VmPath;
    type Query = NoParams;
    type Body = Json<VmEpoch>;
    type Answer = Empty;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmEpoch {
    /// Under which the VM is prepared.
    pub epoch: Epoch,
}

/// `POST /agent/v1/vms/{vm}/migration-take`, by the source when it has given the VM away, or by the
/// server when the source has told it so: the VM is the target's now, and its guest runs. Answered the
/// same when it is already.
#[derive(Debug)]
pub struct VmMigrationTake;

impl Endpoint for VmMigrationTake {
    const ID: &'static str = "vm_migration_take";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/agent/v1/vms/{vm}/migration-take";
    const SUMMARY: &'static str = "Take over a VM that another host has given away";
    const TAG: &'static str = "vm";
    type Path = VmPath;
    type Query = NoParams;
    type Body = Json<VmEpoch>;
    type Answer = Json<VmReport>;
}

/// `POST /agent/v1/vms/{vm}/migration-abandon`: ends what was prepared; nothing is left of it. Answered
/// the same when there is nothing; refused once the VM has been taken.
#[derive(Debug)]
pub struct VmMigrationAbandon;

impl Endpoint for VmMigrationAbandon {
    const ID: &'static str = "vm_migration_abandon";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/agent/v1/vms/{vm}/migration-abandon";
    const SUMMARY: &'static str = "End what was prepared for a VM of another host";
    const TAG: &'static str = "vm";
    const STATUS: u16 = 204;
    type Path = VmPath;
    type Query = NoParams;
    type Body = Json<VmCommand>;
    type Answer = Empty;
}

/// `POST /agent/v1/vms/{vm}/migration-forget`: the VM is another host's, under the command's epoch. What
/// still runs of it here is killed before it writes once more, and the record goes; the files are left
/// alone. Answered the same when there is no such VM; refused when the epoch is the one it has here.
#[derive(Debug)]
pub struct VmMigrationForget;

impl Endpoint for VmMigrationForget {
    const ID: &'static str = "vm_migration_forget";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/agent/v1/vms/{vm}/migration-forget";
    const SUMMARY: &'static str = "Forget a VM that is another host's now";
    const TAG: &'static str = "vm";
    const STATUS: u16 = 204;
    type Path = VmPath;
    type Query = NoParams;
    type Body = Json<VmCommand>;
    type Answer = Empty;
}
