//! Why a VM goes where it goes, and why not elsewhere: for people and for programs.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::decision::Decision;
use crate::id::DecisionId;
use crate::operations::Revision;
use crate::size::ByteSize;

/// What placement saw of all hosts when it looked for a place for a VM.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PlacementExplanation {
    pub vm: String,
    /// The host that is the best; absent if none can take it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub chosen: Option<String>,
    pub hosts: u64,
    /// How many of them can take it.
    pub possible: u64,
    /// How many hosts each filter rules out; a host may be ruled out by several.
    pub filters: Vec<PlacementFilter>,
    /// The hosts that can take it, the best first, at most 10.
    pub candidates: Vec<PlacementScore>,
    /// The whole in sentences.
    pub sentences: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlacementFilter {
    pub filter: String,
    pub hosts: u64,
    /// What one of them says.
    pub example: String,
}

/// A host's score. The less it costs, the better.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PlacementScore {
    pub host: String,
    pub cost: f64,
    /// From the room that is left, by the cluster's strategy.
    pub room: f64,
    /// `should` rules that would be broken.
    pub broken_wishes: u32,
    /// Entitlement that would be unmet, in parts of the host's capacity.
    pub deficit: f64,
    /// Memory not promised afterwards, in bytes; negative where more may be promised than there is.
    pub memory_left: i64,
    pub vcpus_left: i64,
    /// The datastore that its disks would be made on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datastore: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datastore_free: Option<ByteSize>,
}

/// Why a VM is where it is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PlacementWhy {
    pub vm: String,
    pub host: String,
    /// The decision that put it there, as far as it is still kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
    /// What was seen then, from the decision's record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub then: Option<PlacementExplanation>,
    /// Why, in sentences; kept for as long as the VM is there.
    pub lines: Vec<String>,
}

/// Why a VM is not, or could not be, on a host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct PlacementWhyNot {
    pub vm: String,
    pub host: String,
    /// Where it is.
    pub current: String,
    /// Whether the host can take it now.
    pub fits: bool,
    /// The filters that the host does not pass, with the way out of each.
    pub obstacles: Vec<PlacementObstacle>,
    /// VMs whose leaving would make room, if it is only room that lacks.
    pub would_fit_without: Vec<String>,
    /// The smallest change that would make it fit.
    pub smallest_change: String,
    /// The scores of that host, if it passes all filters, and of the one where it is.
    pub scores: Vec<PlacementScore>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PlacementObstacle {
    pub filter: String,
    /// With the numbers.
    pub sentence: String,
}

/// A rule that does not hold now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RuleViolation {
    pub rule: String,
    pub strength: crate::rule::RuleStrength,
    /// The VMs that are where it does not want them, by name.
    pub vms: Vec<String>,
    pub sentence: String,
}

/// The inventory as decisions see it: what `hostler simulate --inventory` reads.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct InventoryExport {
    /// Of the snapshot; a reader takes no other than it knows.
    pub format: u32,
    pub revision: Revision,
    #[schema(value_type = String, format = DateTime)]
    pub exported_at: Timestamp,
    /// Settings, hosts, datastores, VMs, rules and groups.
    #[schema(value_type = Object)]
    pub snapshot: Value,
}

/// A what-if question about the inventory as it is.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Simulation {
    /// Changes that are tried, in this order, such as `{"remove_hosts": ["host03"]}`.
    #[schema(value_type = Vec<Object>)]
    pub edits: Vec<Value>,
    /// How balancing goes about it; absent: as it is by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub balance: Option<Value>,
    /// VMs of which it is asked how many more would fit.
    #[schema(value_type = Vec<Object>)]
    pub headroom: Vec<Value>,
}

/// A decision with all that it depended on and what came out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DecisionRecord {
    pub decision: Decision,
    /// JSON, as text: to the byte what replaying must give.
    pub record: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DecisionReplay {
    #[schema(value_type = String, format = "uuid")]
    pub id: DecisionId,
    /// Whether the same bytes came out.
    pub same: bool,
    /// How many came out.
    pub bytes: u64,
}

/// What balancing would do now, and why.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Recommendations {
    pub revision: Revision,
    pub steps: Vec<Recommendation>,
    /// What must move and cannot, and why.
    pub blocked: Vec<BlockedMove>,
}

/// Moves that are made together: one VM, or those that a rule keeps on one host.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Recommendation {
    /// The same for the same moves: what `drs apply` takes.
    pub id: String,
    pub moves: Vec<RecommendedMove>,
    /// `maintenance`, `rule`, `load` or `room`.
    pub why: String,
    pub reason: String,
    /// Positions of the steps that must be done before this one begins.
    pub after: Vec<usize>,
    /// Steps with the same number can be made at once.
    pub wave: u32,
    /// In hosts' worth of load beyond the goal that is taken away; 0: it must be.
    pub gain: f64,
    /// Whether the automation level of its VMs lets it be made without asking.
    pub automatic: bool,
    /// The time that its migrations need, in seconds.
    pub seconds: f64,
}

/// By names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RecommendedMove {
    pub vm: String,
    pub from: String,
    pub to: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BlockedMove {
    pub vms: Vec<String>,
    pub why: String,
    pub reason: String,
}
