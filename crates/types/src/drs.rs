//! Balancing that acts: recommendations that were carried out, and what came of them.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::cluster::Automation;
use crate::id::{HostId, TaskId, VmId};
use crate::placement::{BlockedMove, Recommendation, RecommendedMove};
use crate::task::Task;

/// What balancing may do with a VM, as it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum VmAutomation {
    /// As the cluster says.
    Inherit,
    Disabled,
    Manual,
    Partial,
    Full,
}

impl From<VmAutomation> for Option<Automation> {
    fn from(asked: VmAutomation) -> Self {
        match asked {
            VmAutomation::Inherit => None,
            VmAutomation::Disabled => Some(Automation::Disabled),
            VmAutomation::Manual => Some(Automation::Manual),
            VmAutomation::Partial => Some(Automation::Partial),
            VmAutomation::Full => Some(Automation::Full),
        }
    }
}

/// Which recommendations are to be carried out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DrsApply {
    /// Their ids, as the list of recommendations tells them; none: all. What they wait for is carried
    /// out with them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub recommendations: Vec<String>,
}

/// What is carried out of the recommendations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DrsApplied {
    /// Absent when it was a dry run, and when there is nothing to move.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<Task>,
    pub steps: Vec<Recommendation>,
}

/// The moves that a host's maintenance needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct HostMaintenance {
    /// Absent when it was a dry run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<Task>,
    pub steps: Vec<Recommendation>,
    /// What runs on the host and cannot leave it: why, and the way out.
    pub blocked: Vec<BlockedMove>,
    /// VMs that do not run and stay, by name: their disks are on the host's own datastores, or they are
    /// suspended.
    pub staying: Vec<String>,
}

/// How a host enters maintenance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MaintenanceEnter {
    /// Begin even if something cannot leave now, and wait for it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub wait_blocked: bool,
}

/// How a host leaves maintenance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MaintenanceExit {
    /// The VMs that left it for the maintenance come back.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub bring_back: bool,
}

/// One plan that was carried out, or is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DrsRun {
    /// The task that carries it out.
    #[schema(value_type = String, format = "uuid")]
    pub task: TaskId,
    #[schema(value_type = String, format = DateTime)]
    pub started_at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<Timestamp>,
    /// Who asked for it: a user, or `system` for the balancer itself.
    pub actor: String,
    /// How ready for moves it was, 1 to 5.
    pub aggressiveness: u8,
    pub steps: Vec<DrsRunStep>,
    pub before: ClusterBalance,
    /// What the plan was to lead to.
    pub expected: ClusterBalance,
    /// As it was measured at its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<ClusterBalance>,
}

/// Moves that are made together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DrsRunStep {
    pub id: String,
    pub moves: Vec<RecommendedMove>,
    pub why: String,
    pub reason: String,
    pub gain: f64,
    pub outcome: DrsOutcome,
    /// Why it was not made, or what came in its way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DrsOutcome {
    /// Not begun, or not at its end.
    #[default]
    Pending,
    Moved,
    /// It was not begun: it was not allowed or needed any more, or what it waits for was not made.
    Skipped,
    /// It was begun, and its VMs are where they were.
    Failed,
}

impl DrsOutcome {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Moved => "moved",
            Self::Skipped => "skipped",
            Self::Failed => "failed",
        }
    }
}

/// How balanced the cluster is.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ClusterBalance {
    /// Hosts above the goal.
    pub busy_hosts: u32,
    /// Load above the goal, in average hosts.
    pub excess: f64,
    /// Of the most used host, in parts of its capacity.
    pub most_cpu: f64,
    pub most_memory: f64,
    /// What VMs are entitled to and their hosts do not have, in average hosts.
    pub unmet: f64,
    /// `must` rules that do not hold.
    pub broken_rules: u32,
}

/// A step as a task keeps it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlannedStep {
    pub id: String,
    pub moves: Vec<PlannedMove>,
    pub why: String,
    pub reason: String,
    pub gain: f64,
    /// Positions of the steps that must be made before this one begins.
    pub after: Vec<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedMove {
    pub vm: VmId,
    pub from: HostId,
    pub to: HostId,
}
