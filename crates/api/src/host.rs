//! Hosts, and how new ones join.

use hostler_endpoint::{Empty, Endpoint, Json, Method, NoParams, Page};
use hostler_types::{
    ByteSize, Epoch, Host, HostMaintenance, HostState, HostStats, Join, JoinAnswer, Labels,
    MaintenanceEnter, MaintenanceExit, Name, PowerState, Ref, Task, VmId,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::datastore::RegisterRequest;
use crate::drs::DryRunQuery;

/// Which host.
#[derive(Debug, Clone, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct HostPath {
    /// Its name or its id.
    #[param(value_type = String)]
    pub host: Ref,
}

/// Which ones, and how many at a time.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct HostListQuery {
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
    /// Only those in this state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub state: Option<HostState>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JoinTokenRequest {
    /// How long it may be used, 60 to 604800; absent: 3600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 60, maximum = 604_800)]
    pub lifetime_seconds: Option<u32>,
}

/// Lets one host join, once. It names the CA's fingerprint, so that the host trusts no other server.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JoinTokenCreated {
    /// Shown once.
    pub token: String,
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
}

impl std::fmt::Debug for JoinTokenCreated {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JoinTokenCreated")
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// List hosts, sorted by name.
#[derive(Debug)]
pub struct List;

impl Endpoint for List {
    const ID: &'static str = "host_list";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/hosts";
    const SUMMARY: &'static str = "List hosts, sorted by name";
    const TAG: &'static str = "host";
    const ACCESS: &'static str = "viewer";
    type Path = NoParams;
    type Query = HostListQuery;
    type Body = Empty;
    type Answer = Json<Page<Host>>;
}
/// Show a host.
#[derive(Debug)]
pub struct Show;

impl Endpoint for Show {
    const ID: &'static str = "host_show";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/hosts/{host}";
    const SUMMARY: &'static str = "Show a host";
    const TAG: &'static str = "host";
    const ACCESS: &'static str = "viewer";
    type Path = HostPath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<Host>;

    fn revision(answer: &Host) -> Option<u64> {
        Some(answer.metadata.revision.0)
    }
}
/// Tell what a host and its VMs use now, and what they have to do without.
#[derive(Debug)]
pub struct Stats;

impl Endpoint for Stats {
    const ID: &'static str = "host_stats";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/hosts/{host}/stats";
    const SUMMARY: &'static str =
        "Tell what a host and its VMs use now, and what they have to do without";
    const TAG: &'static str = "host";
    const ACCESS: &'static str = "viewer";
    type Path = HostPath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<HostStats>;
}
/// Changes to a host. An absent field stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct HostUpdate {
    /// All of them anew: what rules select it by, such as its rack.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(inline)]
    pub labels: Option<Labels>,
}

/// Change a host: its labels.
#[derive(Debug)]
pub struct Update;

impl Endpoint for Update {
    const ID: &'static str = "host_update";
    const METHOD: Method = Method::Patch;
    const PATH: &'static str = "/v1/hosts/{host}";
    const SUMMARY: &'static str = "Change a host: its labels";
    const TAG: &'static str = "host";
    const ACCESS: &'static str = "admin";
    const CONDITIONAL: bool = true;
    type Path = HostPath;
    type Query = NoParams;
    type Body = Json<HostUpdate>;
    type Answer = Json<Host>;

    fn revision(answer: &Host) -> Option<u64> {
        Some(answer.metadata.revision.0)
    }
}
/// What became of the end of a host's maintenance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct MaintenanceEnded {
    pub host: Host,
    /// What brings its VMs back; absent if that was not asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<Task>,
}

/// Bring a host into maintenance: it takes no VMs, and those that run on it leave.
#[derive(Debug)]
pub struct EnterMaintenance;

impl Endpoint for EnterMaintenance {
    const ID: &'static str = "host_maintenance_enter";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/hosts/{host}/maintenance/enter";
    const SUMMARY: &'static str =
        "Bring a host into maintenance: it takes no VMs, and those that run on it leave";
    const TAG: &'static str = "host";
    const ACCESS: &'static str = "admin";
    const STATUS: u16 = 202;
    type Path = HostPath;
    type Query = DryRunQuery;
    type Body = Json<MaintenanceEnter>;
    type Answer = Json<HostMaintenance>;
}
/// End a host's maintenance; it takes VMs again.
#[derive(Debug)]
pub struct ExitMaintenance;

impl Endpoint for ExitMaintenance {
    const ID: &'static str = "host_maintenance_exit";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/hosts/{host}/maintenance/exit";
    const SUMMARY: &'static str = "End a host's maintenance; it takes VMs again";
    const TAG: &'static str = "host";
    const ACCESS: &'static str = "admin";
    type Path = HostPath;
    type Query = NoParams;
    type Body = Json<MaintenanceExit>;
    type Answer = Json<MaintenanceEnded>;
}
/// Forget a host that has no VMs; its certificate is refused from then on.
#[derive(Debug)]
pub struct Delete;

impl Endpoint for Delete {
    const ID: &'static str = "host_delete";
    const METHOD: Method = Method::Delete;
    const PATH: &'static str = "/v1/hosts/{host}";
    const SUMMARY: &'static str =
        "Forget a host that has no VMs; its certificate is refused from then on";
    const TAG: &'static str = "host";
    const ACCESS: &'static str = "admin";
    type Path = HostPath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Empty;
}
/// A VM that a host has and the inventory lacks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostVm {
    pub id: VmId,
    /// As its definition says; absent when the host does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    pub power: PowerState,
    /// Of its ownership, as the host knows it.
    pub epoch: Epoch,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<ByteSize>,
    /// Why it cannot be registered as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// A VM of a host that is not in the inventory.
#[derive(Debug, Clone, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct HostVmPath {
    /// The host's name or id.
    #[param(value_type = String)]
    pub host: Ref,
    /// The VM's id.
    #[param(value_type = String)]
    pub vm: VmId,
}

/// List VMs that a host has and the inventory lacks.
#[derive(Debug)]
pub struct Unregistered;

impl Endpoint for Unregistered {
    const ID: &'static str = "host_unregistered";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/hosts/{host}/unregistered";
    const SUMMARY: &'static str = "List VMs that a host has and the inventory lacks";
    const TAG: &'static str = "host";
    const ACCESS: &'static str = "operator";
    type Path = HostPath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<Page<HostVm>>;
}
/// Take a VM that a host has into the inventory; its guest runs on.
#[derive(Debug)]
pub struct Register;

impl Endpoint for Register {
    const ID: &'static str = "vm_register_from_host";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/hosts/{host}/unregistered/{vm}/register";
    const SUMMARY: &'static str = "Take a VM that a host has into the inventory; its guest runs on";
    const TAG: &'static str = "host";
    const ACCESS: &'static str = "operator";
    const STATUS: u16 = 202;
    type Path = HostVmPath;
    type Query = NoParams;
    type Body = Json<RegisterRequest>;
    type Answer = Json<Task>;
}
/// Make a token with which one host may join.
#[derive(Debug)]
pub struct CreateJoinToken;

impl Endpoint for CreateJoinToken {
    const ID: &'static str = "join_token_create";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/join-tokens";
    const SUMMARY: &'static str = "Make a token with which one host may join";
    const TAG: &'static str = "host";
    const ACCESS: &'static str = "admin";
    const STATUS: u16 = 201;
    type Path = NoParams;
    type Query = NoParams;
    type Body = Json<JoinTokenRequest>;
    type Answer = Json<JoinTokenCreated>;
}
/// Join as a host. The join token's secret in the body is the authentication.
#[derive(Debug)]
pub struct JoinHost;

impl Endpoint for JoinHost {
    const ID: &'static str = "host_join";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/join";
    const SUMMARY: &'static str = "Join as a host, with a join token's secret";
    const TAG: &'static str = "host";
    const BODY_LIMIT: usize = 64 << 10;
    type Path = NoParams;
    type Query = NoParams;
    type Body = Json<Join>;
    type Answer = Json<JoinAnswer>;
}
