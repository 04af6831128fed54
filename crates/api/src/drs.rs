//! Balancing: what it would do, doing it, and what it has done.

use hostler_endpoint::{Empty, Endpoint, Json, Method, NoParams};
use hostler_types::{DrsApplied, DrsApply, DrsRun, Recommendations, TaskId};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// How it is meant.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct DryRunQuery {
    /// Check, decide and explain, and change nothing.
    #[serde(default)]
    pub dry_run: bool,
}

/// Which runs, and how many.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct HistoryQuery {
    /// Only those before this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub before: Option<TaskId>,
    /// At most this many, 1 to 1000; absent: 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 1000)]
    pub limit: Option<u32>,
}

/// Runs, newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DrsHistory {
    pub runs: Vec<DrsRun>,
}

/// List the moves that balancing would make now.
#[derive(Debug)]
pub struct ListRecommendations;

impl Endpoint for ListRecommendations {
    const ID: &'static str = "recommendation_list";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/recommendations";
    const SUMMARY: &'static str = "List the moves that balancing would make now";
    const TAG: &'static str = "drs";
    const ACCESS: &'static str = "viewer";
    type Path = NoParams;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<Recommendations>;
}

/// Make moves that balancing recommends.
#[derive(Debug)]
pub struct Apply;

impl Endpoint for Apply {
    const ID: &'static str = "drs_apply";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/recommendations/apply";
    const SUMMARY: &'static str = "Make moves that balancing recommends";
    const TAG: &'static str = "drs";
    const ACCESS: &'static str = "operator";
    const STATUS: u16 = 202;
    type Path = NoParams;
    type Query = DryRunQuery;
    type Body = Json<DrsApply>;
    type Answer = Json<DrsApplied>;
}

/// List what balancing has done, newest first.
#[derive(Debug)]
pub struct History;

impl Endpoint for History {
    const ID: &'static str = "drs_history";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/drs/history";
    const SUMMARY: &'static str = "List what balancing has done, newest first";
    const TAG: &'static str = "drs";
    const ACCESS: &'static str = "viewer";
    type Path = NoParams;
    type Query = HistoryQuery;
    type Body = Empty;
    type Answer = Json<DrsHistory>;
}
