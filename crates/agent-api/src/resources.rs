//! What a host's pools and VMs may use of it, and what they used.

use hostler_endpoint::{Empty, Endpoint, Json, Method, NoParams};
use hostler_types::{ByteSize, PoolId, ResourceUse, VmId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// `PUT /agent/v1/resources`: what each pool and VM of this host may use of it from now on. The agent
/// keeps it over its own restarts and those of the host. Idempotent; it names no operation, because the
/// last one counts.
#[derive(Debug)]
pub struct ResourcesSet;

impl Endpoint for ResourcesSet {
    const ID: &'static str = "resources_set";
    const METHOD: Method = Method::Put;
    const PATH: &'static str = "/agent/v1/resources";
    const SUMMARY: &'static str = "What pools and VMs may use of the host";
    const TAG: &'static str = "host";
    const STATUS: u16 = 204;
    type Path = NoParams;
    type Query = NoParams;
    type Body = Json<HostResources>;
    type Answer = Empty;
}

/// Of the pools, those that have VMs on this host, and all above them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostResources {
    pub pools: Vec<PoolSlice>,
    /// VMs that are not named stay as they are.
    pub vms: Vec<VmSlice>,
}

/// The part of a pool that is on this host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PoolSlice {
    #[schema(value_type = String, format = "uuid")]
    pub pool: PoolId,
    /// Absent: directly below the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "uuid")]
    pub parent: Option<PoolId>,
    #[serde(flatten)]
    pub slice: Slice,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmSlice {
    #[schema(value_type = String, format = "uuid")]
    pub vm: VmId,
    /// Absent: directly below the cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "uuid")]
    pub pool: Option<PoolId>,
    #[serde(flatten)]
    pub slice: Slice,
}

/// What one may use beside its siblings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Slice {
    /// Weight against its siblings when CPUs are scarce, 2 to 262,144: what it gets, in MHz, when all
    /// want all they can use.
    pub cpu_weight: u32,
    /// The most CPU time, in thousandths of a CPU; absent: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_limit_millicpus: Option<u32>,
    /// Memory that is never taken from it.
    pub memory_reserved: ByteSize,
    /// Memory that it is entitled to: who holds more gives it back first.
    pub memory_entitled: ByteSize,
}

/// What a VM used over the last few seconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmUse {
    #[schema(value_type = String, format = "uuid")]
    pub vm: VmId,
    #[serde(flatten)]
    pub used: ResourceUse,
}
