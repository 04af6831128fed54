//! Naming rules: what VMs may be called, and names that are counted up.

use hostler_endpoint::{Empty, Endpoint, Json, Method, NoParams, Page, PageQuery};
use hostler_types::{Name, NamingRule, NamingRuleSpec, Ref};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Which naming rule.
#[derive(Debug, Clone, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct NamingRulePath {
    /// Its name or its id.
    #[param(value_type = String)]
    pub rule: Ref,
}

/// A naming rule to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NamingRuleCreate {
    pub name: Name,
    pub spec: NamingRuleSpec,
}

/// A name that nobody else is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TakenName {
    pub name: Name,
}

/// List naming rules.
#[derive(Debug)]
pub struct List;

impl Endpoint for List {
    const ID: &'static str = "naming_rule_list";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/naming-rules";
    const SUMMARY: &'static str = "List naming rules";
    const TAG: &'static str = "naming-rule";
    const ACCESS: &'static str = "viewer";
    type Path = NoParams;
    type Query = PageQuery;
    type Body = Empty;
    type Answer = Json<Page<NamingRule>>;
}
/// Make a naming rule.
#[derive(Debug)]
pub struct Create;

impl Endpoint for Create {
    const ID: &'static str = "naming_rule_create";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/naming-rules";
    const SUMMARY: &'static str = "Make a naming rule";
    const TAG: &'static str = "naming-rule";
    const ACCESS: &'static str = "admin";
    const STATUS: u16 = 201;
    type Path = NoParams;
    type Query = NoParams;
    type Body = Json<NamingRuleCreate>;
    type Answer = Json<NamingRule>;
}
/// Show a naming rule.
#[derive(Debug)]
pub struct Show;

impl Endpoint for Show {
    const ID: &'static str = "naming_rule_show";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/naming-rules/{rule}";
    const SUMMARY: &'static str = "Show a naming rule";
    const TAG: &'static str = "naming-rule";
    const ACCESS: &'static str = "viewer";
    type Path = NamingRulePath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<NamingRule>;
}
/// Delete a naming rule; VMs keep their names.
#[derive(Debug)]
pub struct Delete;

impl Endpoint for Delete {
    const ID: &'static str = "naming_rule_delete";
    const METHOD: Method = Method::Delete;
    const PATH: &'static str = "/v1/naming-rules/{rule}";
    const SUMMARY: &'static str = "Delete a naming rule; VMs keep their names";
    const TAG: &'static str = "naming-rule";
    const ACCESS: &'static str = "admin";
    type Path = NamingRulePath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Empty;
}
/// Take the next name of a naming rule.
#[derive(Debug)]
pub struct Next;

impl Endpoint for Next {
    const ID: &'static str = "naming_rule_next";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/naming-rules/{rule}/next";
    const SUMMARY: &'static str = "Take the next name of a naming rule";
    const TAG: &'static str = "naming-rule";
    const ACCESS: &'static str = "operator";
    type Path = NamingRulePath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<TakenName>;
}
