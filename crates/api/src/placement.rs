//! Where VMs are and could be: why, why not, what if, past decisions.

use hostler_endpoint::{Empty, Endpoint, Json, Method, NoParams};
use hostler_types::{
    Decision, DecisionId, DecisionRecord, DecisionReplay, InventoryExport, PlacementWhyNot, Ref,
    Simulation,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Which VM, and which host.
#[derive(Debug, Clone, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct WhyNotPath {
    /// The VM's name or id.
    #[param(value_type = String)]
    pub vm: Ref,
    /// The host's name or id.
    #[param(value_type = String)]
    pub host: Ref,
}

/// Which decision.
#[derive(Debug, Clone, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct DecisionPath {
    #[param(value_type = String, format = "uuid")]
    pub decision: DecisionId,
}

/// Which decisions, and how many.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct DecisionListQuery {
    /// Only those about this VM, by name or id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub vm: Option<Ref>,
    /// Only those before this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub before: Option<DecisionId>,
    /// At most this many, 1 to 1000; absent: 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 1000)]
    pub limit: Option<u32>,
}

/// Decisions, newest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Decisions {
    pub decisions: Vec<Decision>,
}

/// The answer of a simulation: conflicts, violations, what was placed, what would not fit and why, the
/// plan of moves, and headroom. Its parts are those of the file that `hostler simulate -o json` writes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct SimulationAnswer {
    #[schema(value_type = Object)]
    pub answer: serde_json::Value,
}

/// Explain why a VM is not on a host, and what would have to change.
#[derive(Debug)]
pub struct WhyNot;

impl Endpoint for WhyNot {
    const ID: &'static str = "vm_why_not";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/vms/{vm}/why-not/{host}";
    const SUMMARY: &'static str =
        "Explain why a VM is not on a host, and what would have to change";
    const TAG: &'static str = "vm";
    const ACCESS: &'static str = "viewer";
    type Path = WhyNotPath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<PlacementWhyNot>;
}

/// List decisions about where VMs go, newest first.
#[derive(Debug)]
pub struct ListDecisions;

impl Endpoint for ListDecisions {
    const ID: &'static str = "decision_list";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/decisions";
    const SUMMARY: &'static str = "List decisions about where VMs go, newest first";
    const TAG: &'static str = "placement";
    const ACCESS: &'static str = "viewer";
    type Path = NoParams;
    type Query = DecisionListQuery;
    type Body = Empty;
    type Answer = Json<Decisions>;
}

/// Show a decision with its record.
#[derive(Debug)]
pub struct ShowDecision;

impl Endpoint for ShowDecision {
    const ID: &'static str = "decision_show";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/decisions/{decision}";
    const SUMMARY: &'static str = "Show a decision with its record";
    const TAG: &'static str = "placement";
    const ACCESS: &'static str = "viewer";
    type Path = DecisionPath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<DecisionRecord>;
}

/// Make a decision again from its record.
#[derive(Debug)]
pub struct ReplayDecision;

impl Endpoint for ReplayDecision {
    const ID: &'static str = "decision_replay";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/decisions/{decision}/replay";
    const SUMMARY: &'static str = "Make a decision again from its record";
    const TAG: &'static str = "placement";
    const ACCESS: &'static str = "viewer";
    type Path = DecisionPath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<DecisionReplay>;
}

/// Export the inventory as decisions see it.
#[derive(Debug)]
pub struct Export;

impl Endpoint for Export {
    const ID: &'static str = "inventory_export";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/inventory";
    const SUMMARY: &'static str = "Export the inventory as decisions see it";
    const TAG: &'static str = "placement";
    const ACCESS: &'static str = "viewer";
    type Path = NoParams;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<InventoryExport>;
}

/// Answer what would be if the inventory were another.
#[derive(Debug)]
pub struct Simulate;

impl Endpoint for Simulate {
    const ID: &'static str = "simulate";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/simulate";
    const SUMMARY: &'static str = "Answer what would be if the inventory were another";
    const TAG: &'static str = "placement";
    const ACCESS: &'static str = "viewer";
    type Path = NoParams;
    type Query = NoParams;
    type Body = Json<Simulation>;
    type Answer = Json<SimulationAnswer>;
}
