//! Resource pools: a tree below the cluster, and what a VM is given within its pool.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::id::PoolId;
use crate::name::{Name, Ref};
use crate::object::{Kind, KindName, Labels, Object};
use crate::shares::{Megahertz, Shares};
use crate::size::ByteSize;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolKind;
pub type Pool = Object<PoolKind>;

impl Kind for PoolKind {
    const NAME: KindName = KindName::Pool;
    const SCHEMA: &'static str = "Pool";
    type Spec = PoolSpec;
    type Status = PoolStatus;
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PoolSpec {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The pool that it lies in; absent: directly below the cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "uuid")]
    pub parent: Option<PoolId>,
    pub cpu: PoolCpu,
    pub memory: PoolMemory,
}

/// What a pool is given of the processors.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PoolCpu {
    pub shares: Shares,
    /// Set aside for the pool, whether it has VMs or not.
    pub reservation: Megahertz,
    /// When the reservation is used up, more may be borrowed from what the parent has not reserved.
    pub expandable: bool,
    /// The most it may get, and the most that may be reserved in it; absent: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<Megahertz>,
}

/// What a pool is given of the memory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PoolMemory {
    pub shares: Shares,
    /// Set aside for the pool, whether it has VMs or not.
    pub reservation: ByteSize,
    /// When the reservation is used up, more may be borrowed from what the parent has not reserved.
    pub expandable: bool,
    /// The most it is entitled to, and the most that may be reserved in it; absent: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<ByteSize>,
}

impl Default for PoolCpu {
    fn default() -> Self {
        let shares = Shares::default();
        Self { shares, reservation: Megahertz(0), expandable: true, limit: None }
    }
}

impl Default for PoolMemory {
    fn default() -> Self {
        let shares = Shares::default();
        Self { shares, reservation: ByteSize(0), expandable: true, limit: None }
    }
}

/// How a pool stands is told by the tree; nothing of it is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PoolStatus {}

/// A pool to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PoolCreate {
    pub name: Name,
    #[serde(default)]
    #[schema(inline)]
    pub labels: Labels,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    /// The name or id of the pool that it lies in; absent, or the cluster's: directly below that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Ref>,
    #[serde(default)]
    pub cpu: PoolCpu,
    #[serde(default)]
    pub memory: PoolMemory,
}

/// Changes to a pool. An absent field stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PoolUpdate {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(inline)]
    pub labels: Option<Labels>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Moves it, with all that is in it; the cluster: directly below that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parent: Option<Ref>,
    pub cpu: PoolCpuUpdate,
    pub memory: PoolMemoryUpdate,
}

/// Changes to what a pool is given of the processors. An absent field stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PoolCpuUpdate {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shares: Option<Shares>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reservation: Option<Megahertz>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expandable: Option<bool>,
    /// 0: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<Megahertz>,
}

/// Changes to what a pool is given of the memory. An absent field stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PoolMemoryUpdate {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shares: Option<Shares>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reservation: Option<ByteSize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expandable: Option<bool>,
    /// 0: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<ByteSize>,
}

/// What a VM is given within its pool. Its limits are `cpu_limit` and `balloon` of its spec.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct VmResources {
    /// Absent: directly below the cluster.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "uuid")]
    pub pool: Option<PoolId>,
    #[serde(skip_serializing_if = "Shares::is_normal")]
    pub cpu_shares: Shares,
    /// Set aside for it while it runs.
    #[serde(skip_serializing_if = "is_no_speed")]
    pub cpu_reservation: Megahertz,
    #[serde(skip_serializing_if = "Shares::is_normal")]
    pub memory_shares: Shares,
    /// Set aside for it while it runs; at most its memory.
    #[serde(skip_serializing_if = "is_no_memory")]
    pub memory_reservation: ByteSize,
}

fn is_no_speed(speed: &Megahertz) -> bool {
    speed.0 == 0
}

fn is_no_memory(memory: &ByteSize) -> bool {
    memory.0 == 0
}

impl VmResources {
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// Whether anything is set aside for it while it runs.
    pub fn reserves(&self) -> bool {
        self.cpu_reservation.0 > 0 || self.memory_reservation.0 > 0
    }
}

/// What a VM is to be given within its pool. An absent field stays as it is; of a new VM, it is as
/// the template has it, or `normal` and 0.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct VmResourcesUpdate {
    /// The pool's name or id; the cluster's: directly below it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<Ref>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_shares: Option<Shares>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_reservation: Option<Megahertz>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_shares: Option<Shares>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_reservation: Option<ByteSize>,
}

impl VmResourcesUpdate {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_said_of_a_pool_is_as_a_new_one_has_it() {
        let spec: PoolSpec = serde_json::from_str(r#"{"cpu": {"shares": "high"}}"#).unwrap();
        let cpu = PoolCpu { shares: Shares::High, ..PoolCpu::default() };
        assert_eq!(spec, PoolSpec { cpu, ..PoolSpec::default() });
        assert!(spec.cpu.expandable && spec.memory.expandable);
    }

    #[test]
    fn a_vm_without_resources_is_written_without_them() {
        assert_eq!(serde_json::to_string(&VmResources::default()).unwrap(), "{}");
    }
}
