//! Placement rules: which VMs belong together or apart, and on which hosts.

use hostler_endpoint::{Empty, Endpoint, Json, Method, NoParams, Page, PageQuery};
use hostler_types::{
    Labels, Name, Ref, Rule, RuleRelation, RuleSpec, RuleStrength, RuleViolation, Selector,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Which rule.
#[derive(Debug, Clone, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct RulePath {
    /// Its name or its id.
    #[param(value_type = String)]
    pub rule: Ref,
}

/// A rule to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RuleCreate {
    pub name: Name,
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    #[schema(inline)]
    pub labels: Labels,
    pub spec: RuleSpec,
}

/// Changes to a rule. An absent field stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RuleUpdate {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relation: Option<RuleRelation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub strength: Option<RuleStrength>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vms: Option<Selector>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hosts: Option<Selector>,
    /// Empty: each host by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// List rules.
#[derive(Debug)]
pub struct List;

impl Endpoint for List {
    const ID: &'static str = "rule_list";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/rules";
    const SUMMARY: &'static str = "List rules";
    const TAG: &'static str = "rule";
    const ACCESS: &'static str = "viewer";
    type Path = NoParams;
    type Query = PageQuery;
    type Body = Empty;
    type Answer = Json<Page<Rule>>;
}

/// Make a rule.
#[derive(Debug)]
pub struct Create;

impl Endpoint for Create {
    const ID: &'static str = "rule_create";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/rules";
    const SUMMARY: &'static str = "Make a rule";
    const TAG: &'static str = "rule";
    const ACCESS: &'static str = "admin";
    const STATUS: u16 = 201;
    type Path = NoParams;
    type Query = NoParams;
    type Body = Json<RuleCreate>;
    type Answer = Json<Rule>;
}

/// Show a rule.
#[derive(Debug)]
pub struct Show;

impl Endpoint for Show {
    const ID: &'static str = "rule_show";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/rules/{rule}";
    const SUMMARY: &'static str = "Show a rule";
    const TAG: &'static str = "rule";
    const ACCESS: &'static str = "viewer";
    type Path = RulePath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<Rule>;

    fn revision(answer: &Rule) -> Option<u64> {
        Some(answer.metadata.revision.0)
    }
}

/// Change a rule.
#[derive(Debug)]
pub struct Update;

impl Endpoint for Update {
    const ID: &'static str = "rule_update";
    const METHOD: Method = Method::Patch;
    const PATH: &'static str = "/v1/rules/{rule}";
    const SUMMARY: &'static str = "Change a rule";
    const TAG: &'static str = "rule";
    const ACCESS: &'static str = "admin";
    const CONDITIONAL: bool = true;
    type Path = RulePath;
    type Query = NoParams;
    type Body = Json<RuleUpdate>;
    type Answer = Json<Rule>;

    fn revision(answer: &Rule) -> Option<u64> {
        Some(answer.metadata.revision.0)
    }
}

/// Delete a rule.
#[derive(Debug)]
pub struct Delete;

impl Endpoint for Delete {
    const ID: &'static str = "rule_delete";
    const METHOD: Method = Method::Delete;
    const PATH: &'static str = "/v1/rules/{rule}";
    const SUMMARY: &'static str = "Delete a rule";
    const TAG: &'static str = "rule";
    const ACCESS: &'static str = "admin";
    type Path = RulePath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Empty;
}

/// The rules that do not hold now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Violations {
    pub violations: Vec<RuleViolation>,
}

/// List the rules that do not hold now.
#[derive(Debug)]
pub struct ListViolations;

impl Endpoint for ListViolations {
    const ID: &'static str = "rule_violation_list";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/rule-violations";
    const SUMMARY: &'static str = "List the rules that do not hold now";
    const TAG: &'static str = "rule";
    const ACCESS: &'static str = "viewer";
    type Path = NoParams;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<Violations>;
}
