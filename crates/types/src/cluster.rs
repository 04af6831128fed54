//! The cluster: what holds for all its hosts together, and the root of the resource pools.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::cpu::{BaselineSetting, CpuBaseline};
use crate::object::{Kind, KindName, Object};
use crate::vm_requests::SpecError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClusterKind;
pub type Cluster = Object<ClusterKind>;

impl Kind for ClusterKind {
    const NAME: KindName = KindName::Cluster;
    const SCHEMA: &'static str = "Cluster";
    type Spec = ClusterSpec;
    type Status = ClusterStatus;
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClusterSpec {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub description: String,
    pub strategy: Strategy,
    /// What balancing may do by itself, of VMs that say nothing themselves.
    pub automation: Automation,
    /// How readily it moves VMs, 1 to 5. 1: only what must be; 5: as even as is worth the moves.
    pub aggressiveness: u8,
    /// Memory that may be promised to the VMs of a host, in percent of what it has, 1 to 10,000;
    /// absent: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_overcommit_percent: Option<u32>,
    /// vCPUs per logical CPU of a host, 1 to 1,000; absent: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpus_per_cpu: Option<u32>,
    /// What VMs see of their host's CPU that ask for no model themselves.
    pub cpu_baseline: BaselineSetting,
}

/// VMs are spread. Any memory and any number of vCPUs may be promised: VMs that are stopped count, and
/// instant clones share.
impl Default for ClusterSpec {
    fn default() -> Self {
        Self {
            description: String::new(),
            strategy: Strategy::Spread,
            automation: Automation::default(),
            aggressiveness: 3,
            memory_overcommit_percent: None,
            vcpus_per_cpu: None,
            cpu_baseline: BaselineSetting::Auto,
        }
    }
}

impl ClusterSpec {
    /// # Errors
    /// The first field that is out of range, with its range.
    pub fn validate(&self) -> Result<(), SpecError> {
        if !(1..=5).contains(&self.aggressiveness) {
            let reason = format!("{} is not possible; 1 to 5", self.aggressiveness);
            return Err(SpecError::new("aggressiveness", reason));
        }
        let bounds = [
            ("memory_overcommit_percent", self.memory_overcommit_percent, 10_000),
            ("vcpus_per_cpu", self.vcpus_per_cpu, 1_000),
        ];
        for (field, value, most) in bounds {
            if let Some(value) = value.filter(|value| !(1..=most).contains(value)) {
                let reason = format!("{value} is not possible; 1 to {most}, or none for any");
                return Err(SpecError::new(field, reason));
            }
        }
        Ok(())
    }
}

/// Changes to the cluster. An absent field stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ClusterUpdate {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strategy: Option<Strategy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub automation: Option<Automation>,
    /// 1 to 5.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 5)]
    pub aggressiveness: Option<u8>,
    /// 1 to 10,000; 0: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory_overcommit_percent: Option<u32>,
    /// 1 to 1,000; 0: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vcpus_per_cpu: Option<u32>,
    /// `auto`, `none`, or a CPU model with features beyond it, as in `Westmere,+avx`. For VMs that start from now on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_baseline: Option<String>,
}

/// How the cluster stands is told by the tree of its pools; nothing of that is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClusterStatus {
    /// What VMs see of their host's CPU that start now and ask for no model themselves; absent: all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_baseline: Option<CpuBaseline>,
}

/// Which of the hosts that can take a VM is the best.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Strategy {
    /// The one that is filled up the most, and most evenly: others stay free for large VMs.
    Pack,
    /// The one whose scarcest resource is used the least afterwards.
    #[default]
    Spread,
    /// The one with the most memory not promised to VMs, in bytes.
    FreeMemory,
}

impl Strategy {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pack => "pack",
            Self::Spread => "spread",
            Self::FreeMemory => "free_memory",
        }
    }
}

/// What the balancer may do with a VM.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Automation {
    /// Never even recommend a move.
    Disabled,
    /// Recommend, both hosts for new VMs and moves.
    Manual,
    /// Place new VMs by itself, recommend moves.
    #[default]
    Partial,
    /// Place and move by itself.
    Full,
}

impl Automation {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Manual => "manual",
            Self::Partial => "partial",
            Self::Full => "full",
        }
    }
}
