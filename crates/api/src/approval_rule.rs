//! Approval rules: who has to agree to which requests.

use hostler_endpoint::{Empty, Endpoint, Json, Method, NoParams, Page, PageQuery};
use hostler_types::{ApprovalRule, ApprovalRuleSpec, Name, Ref};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Which approval rule.
#[derive(Debug, Clone, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct ApprovalRulePath {
    /// Its name or its id.
    #[param(value_type = String)]
    pub rule: Ref,
}

/// An approval rule to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ApprovalRuleCreate {
    pub name: Name,
    pub spec: ApprovalRuleSpec,
}

/// List approval rules.
#[derive(Debug)]
pub struct List;

impl Endpoint for List {
    const ID: &'static str = "approval_rule_list";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/approval-rules";
    const SUMMARY: &'static str = "List approval rules";
    const TAG: &'static str = "approval-rule";
    const ACCESS: &'static str = "viewer";
    type Path = NoParams;
    type Query = PageQuery;
    type Body = Empty;
    type Answer = Json<Page<ApprovalRule>>;
}
/// Make an approval rule.
#[derive(Debug)]
pub struct Create;

impl Endpoint for Create {
    const ID: &'static str = "approval_rule_create";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/approval-rules";
    const SUMMARY: &'static str = "Make an approval rule";
    const TAG: &'static str = "approval-rule";
    const ACCESS: &'static str = "admin";
    const STATUS: u16 = 201;
    type Path = NoParams;
    type Query = NoParams;
    type Body = Json<ApprovalRuleCreate>;
    type Answer = Json<ApprovalRule>;
}
/// Show an approval rule.
#[derive(Debug)]
pub struct Show;

impl Endpoint for Show {
    const ID: &'static str = "approval_rule_show";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/approval-rules/{rule}";
    const SUMMARY: &'static str = "Show an approval rule";
    const TAG: &'static str = "approval-rule";
    const ACCESS: &'static str = "viewer";
    type Path = ApprovalRulePath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<ApprovalRule>;

    fn revision(answer: &ApprovalRule) -> Option<u64> {
        Some(answer.metadata.revision.0)
    }
}
/// Put another rule in its place.
#[derive(Debug)]
pub struct Update;

impl Endpoint for Update {
    const ID: &'static str = "approval_rule_update";
    const METHOD: Method = Method::Put;
    const PATH: &'static str = "/v1/approval-rules/{rule}";
    const SUMMARY: &'static str = "Put another rule in its place";
    const TAG: &'static str = "approval-rule";
    const ACCESS: &'static str = "admin";
    const CONDITIONAL: bool = true;
    type Path = ApprovalRulePath;
    type Query = NoParams;
    type Body = Json<ApprovalRuleSpec>;
    type Answer = Json<ApprovalRule>;

    fn revision(answer: &ApprovalRule) -> Option<u64> {
        Some(answer.metadata.revision.0)
    }
}
/// Delete an approval rule.
#[derive(Debug)]
pub struct Delete;

impl Endpoint for Delete {
    const ID: &'static str = "approval_rule_delete";
    const METHOD: Method = Method::Delete;
    const PATH: &'static str = "/v1/approval-rules/{rule}";
    const SUMMARY: &'static str = "Delete an approval rule";
    const TAG: &'static str = "approval-rule";
    const ACCESS: &'static str = "admin";
    type Path = ApprovalRulePath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Empty;
}
