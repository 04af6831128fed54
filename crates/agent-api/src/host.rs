//! What the agent knows of its host, and how it tells of changes.

use hostler_endpoint::{Empty, Endpoint, Events, Json, Method, NoParams};
use hostler_types::{Epoch, HostFacts, HostId, HostUse, OperationId, VmId};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::datastore::DatastoreReport;
use crate::resources::VmUse;
use crate::vm::VmReport;

/// `GET /agent/v1/facts`
#[derive(Debug)]
pub struct Facts;

impl Endpoint for Facts {
    const ID: &'static str = "facts";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/agent/v1/facts";
    const SUMMARY: &'static str = "Who the agent is and what its host has";
    const TAG: &'static str = "host";
    type Path = NoParams;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<FactsAnswer>;
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct FactsAnswer {
    pub host: HostId,
    /// [`crate::VERSION`] of the agent.
    pub contract: u32,
    pub facts: HostFacts,
}

/// `GET /agent/v1/inventory`
#[derive(Debug)]
pub struct HostInventory;

impl Endpoint for HostInventory {
    const ID: &'static str = "inventory";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/agent/v1/inventory";
    const SUMMARY: &'static str = "All the VMs and datastores the agent knows";
    const TAG: &'static str = "host";
    type Path = NoParams;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<Inventory>;
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Inventory {
    pub vms: Vec<VmReport>,
    pub datastores: Vec<DatastoreReport>,
    /// What the VMs that run were last measured to use; later events tell only what changes.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub used: Vec<VmUse>,
    /// The same of the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_used: Option<HostUse>,
    /// What it still has of VMs that are other hosts'. An agent of before says nothing of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub elsewhere: Vec<VmElsewhere>,
}

/// A VM that is another host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmElsewhere {
    #[schema(value_type = String)]
    pub vm: VmId,
    /// Under which it is awaited here, or the other host has it.
    pub epoch: Epoch,
    /// It was to come here, and has not been taken; otherwise it has gone from here.
    pub awaited: bool,
}

/// `GET /agent/v1/events`: first the whole inventory, then each change as it happens. A reader
/// that is too slow is disconnected and starts again with the whole.
#[derive(Debug)]
pub struct HostEvents;

impl Endpoint for HostEvents {
    const ID: &'static str = "events";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/agent/v1/events";
    const SUMMARY: &'static str = "The inventory, then its changes";
    const TAG: &'static str = "host";
    type Path = NoParams;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Events<AgentEvent>;
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum AgentEvent {
    /// Always the first. VMs that it does not hold are not on this host.
    Inventory(Inventory),
    /// A VM's new state.
    Vm(Box<VmReport>),
    /// The agent no longer has this VM.
    VmGone {
        vm: VmId,
    },
    Datastore(DatastoreReport),
    Progress(OperationProgress),
    /// What VMs and the host use now: of those for which it has become something else. What was told
    /// before holds for all others.
    Usage {
        vms: Vec<VmUse>,
        /// Absent: as before.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        host: Option<HostUse>,
    },
    /// From a newer agent.
    #[serde(other)]
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct OperationProgress {
    pub op: OperationId,
    /// 0 to 100; absent while unknown.
    pub percent: Option<u8>,
    pub activity: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct OperationPath {
    #[param(value_type = String)]
    pub op: OperationId,
}

/// `DELETE /agent/v1/operations/{op}`: asks a running operation to end with `cancelled`. Nothing
/// happens when it is not running. The command's own answer tells how it ended.
#[derive(Debug)]
pub struct OperationCancel;

impl Endpoint for OperationCancel {
    const ID: &'static str = "operation_cancel";
    const METHOD: Method = Method::Delete;
    const PATH: &'static str = "/agent/v1/operations/{op}";
    const SUMMARY: &'static str = "Cancel a running operation";
    const TAG: &'static str = "host";
    const STATUS: u16 = 204;
    type Path = OperationPath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Empty;
}

/// The identity in a host's certificate.
pub fn host_identity(host: HostId) -> String {
    format!("urn:hostler:host:{host}")
}

/// The identity in the server's client certificate.
pub const SERVER_IDENTITY: &str = "urn:hostler:server";
