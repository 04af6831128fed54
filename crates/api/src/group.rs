//! Groups of VMs or hosts, which placement rules name as one.

use hostler_endpoint::{Empty, Endpoint, Json, Method, NoParams, Page, PageQuery};
use hostler_types::{Group, GroupSpec, Labels, Name, Ref, Selector};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Which group.
#[derive(Debug, Clone, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct GroupPath {
    /// Its name or its id.
    #[param(value_type = String)]
    pub group: Ref,
}

/// A group to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupCreate {
    pub name: Name,
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    #[schema(inline)]
    pub labels: Labels,
    pub spec: GroupSpec,
}

/// Changes to a group. An absent field stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GroupUpdate {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub members: Option<Selector>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
}

/// List groups.
#[derive(Debug)]
pub struct List;

impl Endpoint for List {
    const ID: &'static str = "group_list";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/groups";
    const SUMMARY: &'static str = "List groups";
    const TAG: &'static str = "group";
    const ACCESS: &'static str = "viewer";
    type Path = NoParams;
    type Query = PageQuery;
    type Body = Empty;
    type Answer = Json<Page<Group>>;
}

/// Make a group.
#[derive(Debug)]
pub struct Create;

impl Endpoint for Create {
    const ID: &'static str = "group_create";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/groups";
    const SUMMARY: &'static str = "Make a group";
    const TAG: &'static str = "group";
    const ACCESS: &'static str = "admin";
    const STATUS: u16 = 201;
    type Path = NoParams;
    type Query = NoParams;
    type Body = Json<GroupCreate>;
    type Answer = Json<Group>;
}

/// Show a group.
#[derive(Debug)]
pub struct Show;

impl Endpoint for Show {
    const ID: &'static str = "group_show";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/groups/{group}";
    const SUMMARY: &'static str = "Show a group";
    const TAG: &'static str = "group";
    const ACCESS: &'static str = "viewer";
    type Path = GroupPath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<Group>;

    fn revision(answer: &Group) -> Option<u64> {
        Some(answer.metadata.revision.0)
    }
}

/// Change a group.
#[derive(Debug)]
pub struct Update;

impl Endpoint for Update {
    const ID: &'static str = "group_update";
    const METHOD: Method = Method::Patch;
    const PATH: &'static str = "/v1/groups/{group}";
    const SUMMARY: &'static str = "Change a group";
    const TAG: &'static str = "group";
    const ACCESS: &'static str = "admin";
    const CONDITIONAL: bool = true;
    type Path = GroupPath;
    type Query = NoParams;
    type Body = Json<GroupUpdate>;
    type Answer = Json<Group>;

    fn revision(answer: &Group) -> Option<u64> {
        Some(answer.metadata.revision.0)
    }
}

/// Delete a group.
#[derive(Debug)]
pub struct Delete;

impl Endpoint for Delete {
    const ID: &'static str = "group_delete";
    const METHOD: Method = Method::Delete;
    const PATH: &'static str = "/v1/groups/{group}";
    const SUMMARY: &'static str = "Delete a group";
    const TAG: &'static str = "group";
    const ACCESS: &'static str = "admin";
    type Path = GroupPath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Empty;
}
