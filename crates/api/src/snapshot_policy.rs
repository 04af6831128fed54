//! Snapshot policies: how old, how many and how large snapshots may become, and what happens then.

use hostler_endpoint::{Empty, Endpoint, Json, Method, NoParams, Page, PageQuery};
use hostler_types::{Labels, Name, Ref, SnapshotLimits, SnapshotPolicy, SnapshotPolicySpec};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Which snapshot policy.
#[derive(Debug, Clone, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct SnapshotPolicyPath {
    /// Its name or its id.
    #[param(value_type = String)]
    pub policy: Ref,
}

/// A snapshot policy to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SnapshotPolicyCreate {
    pub name: Name,
    #[serde(default)]
    pub spec: SnapshotPolicySpec,
}

/// Changes to a snapshot policy. An absent field stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SnapshotPolicyUpdate {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(inline)]
    pub selector: Option<Labels>,
    /// All of them anew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<SnapshotLimits>,
}

/// List snapshot policies.
#[derive(Debug)]
pub struct List;

impl Endpoint for List {
    const ID: &'static str = "snapshot_policy_list";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/snapshot-policies";
    const SUMMARY: &'static str = "List snapshot policies";
    const TAG: &'static str = "snapshot-policy";
    const ACCESS: &'static str = "viewer";
    type Path = NoParams;
    type Query = PageQuery;
    type Body = Empty;
    type Answer = Json<Page<SnapshotPolicy>>;
}
/// Make a snapshot policy.
#[derive(Debug)]
pub struct Create;

impl Endpoint for Create {
    const ID: &'static str = "snapshot_policy_create";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/snapshot-policies";
    const SUMMARY: &'static str = "Make a snapshot policy";
    const TAG: &'static str = "snapshot-policy";
    const ACCESS: &'static str = "admin";
    const STATUS: u16 = 201;
    type Path = NoParams;
    type Query = NoParams;
    type Body = Json<SnapshotPolicyCreate>;
    type Answer = Json<SnapshotPolicy>;

    fn revision(answer: &SnapshotPolicy) -> Option<u64> {
        Some(answer.metadata.revision.0)
    }
}
/// Show a snapshot policy.
#[derive(Debug)]
pub struct Show;

impl Endpoint for Show {
    const ID: &'static str = "snapshot_policy_show";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/snapshot-policies/{policy}";
    const SUMMARY: &'static str = "Show a snapshot policy";
    const TAG: &'static str = "snapshot-policy";
    const ACCESS: &'static str = "viewer";
    type Path = SnapshotPolicyPath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<SnapshotPolicy>;

    fn revision(answer: &SnapshotPolicy) -> Option<u64> {
        Some(answer.metadata.revision.0)
    }
}
/// Change a snapshot policy.
#[derive(Debug)]
pub struct Update;

impl Endpoint for Update {
    const ID: &'static str = "snapshot_policy_update";
    const METHOD: Method = Method::Patch;
    const PATH: &'static str = "/v1/snapshot-policies/{policy}";
    const SUMMARY: &'static str = "Change a snapshot policy";
    const TAG: &'static str = "snapshot-policy";
    const ACCESS: &'static str = "admin";
    const CONDITIONAL: bool = true;
    type Path = SnapshotPolicyPath;
    type Query = NoParams;
    type Body = Json<SnapshotPolicyUpdate>;
    type Answer = Json<SnapshotPolicy>;

    fn revision(answer: &SnapshotPolicy) -> Option<u64> {
        Some(answer.metadata.revision.0)
    }
}
/// Delete a snapshot policy.
#[derive(Debug)]
pub struct Delete;

impl Endpoint for Delete {
    const ID: &'static str = "snapshot_policy_delete";
    const METHOD: Method = Method::Delete;
    const PATH: &'static str = "/v1/snapshot-policies/{policy}";
    const SUMMARY: &'static str = "Delete a snapshot policy";
    const TAG: &'static str = "snapshot-policy";
    const ACCESS: &'static str = "admin";
    type Path = SnapshotPolicyPath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Empty;
}
