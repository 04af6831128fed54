//! Resource pools: a tree under the cluster with shares, reservations and limits.

use hostler_endpoint::{Empty, Endpoint, Json, Method, NoParams, Page, PageQuery};
use hostler_types::{Pool, PoolCreate, PoolExplanation, PoolTree, PoolUpdate, Ref};
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

/// Which resource pool.
#[derive(Debug, Clone, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct PoolPath {
    /// Its name or its id.
    #[param(value_type = String)]
    pub pool: Ref,
}

/// What is to be explained: one of them.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct ExplainQuery {
    /// A pool or the cluster, by name or id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub pool: Option<Ref>,
    /// A VM that runs, by name or id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub vm: Option<Ref>,
    /// Whichever has this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub name: Option<Ref>,
}

/// List resource pools.
#[derive(Debug)]
pub struct List;

impl Endpoint for List {
    const ID: &'static str = "pool_list";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/pools";
    const SUMMARY: &'static str = "List resource pools";
    const TAG: &'static str = "pool";
    const ACCESS: &'static str = "viewer";
    type Path = NoParams;
    type Query = PageQuery;
    type Body = Empty;
    type Answer = Json<Page<Pool>>;
}
/// Make a resource pool.
#[derive(Debug)]
pub struct Create;

impl Endpoint for Create {
    const ID: &'static str = "pool_create";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/pools";
    const SUMMARY: &'static str = "Make a resource pool";
    const TAG: &'static str = "pool";
    const ACCESS: &'static str = "admin";
    const STATUS: u16 = 201;
    type Path = NoParams;
    type Query = NoParams;
    type Body = Json<PoolCreate>;
    type Answer = Json<Pool>;
}
/// Show a resource pool.
#[derive(Debug)]
pub struct Show;

impl Endpoint for Show {
    const ID: &'static str = "pool_show";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/pools/{pool}";
    const SUMMARY: &'static str = "Show a resource pool";
    const TAG: &'static str = "pool";
    const ACCESS: &'static str = "viewer";
    type Path = PoolPath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<Pool>;

    fn revision(answer: &Pool) -> Option<u64> {
        Some(answer.metadata.revision.0)
    }
}
/// Change or move a resource pool.
#[derive(Debug)]
pub struct Update;

impl Endpoint for Update {
    const ID: &'static str = "pool_update";
    const METHOD: Method = Method::Patch;
    const PATH: &'static str = "/v1/pools/{pool}";
    const SUMMARY: &'static str = "Change or move a resource pool";
    const TAG: &'static str = "pool";
    const ACCESS: &'static str = "admin";
    const CONDITIONAL: bool = true;
    type Path = PoolPath;
    type Query = NoParams;
    type Body = Json<PoolUpdate>;
    type Answer = Json<Pool>;

    fn revision(answer: &Pool) -> Option<u64> {
        Some(answer.metadata.revision.0)
    }
}
/// Delete a resource pool in which nothing is.
#[derive(Debug)]
pub struct Delete;

impl Endpoint for Delete {
    const ID: &'static str = "pool_delete";
    const METHOD: Method = Method::Delete;
    const PATH: &'static str = "/v1/pools/{pool}";
    const SUMMARY: &'static str = "Delete a resource pool in which nothing is";
    const TAG: &'static str = "pool";
    const ACCESS: &'static str = "admin";
    type Path = PoolPath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Empty;
}
/// Tell how the cluster, its pools and the VMs that run stand.
#[derive(Debug)]
pub struct Tree;

impl Endpoint for Tree {
    const ID: &'static str = "pool_tree";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/pool-tree";
    const SUMMARY: &'static str = "Tell how the cluster, its pools and the VMs that run stand";
    const TAG: &'static str = "pool";
    const ACCESS: &'static str = "viewer";
    type Path = NoParams;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<PoolTree>;
}
/// Tell how a pool or VM came by what it is entitled to.
#[derive(Debug)]
pub struct Explain;

impl Endpoint for Explain {
    const ID: &'static str = "pool_explain";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/pool-tree/explanation";
    const SUMMARY: &'static str = "Tell how a pool or VM came by what it is entitled to";
    const TAG: &'static str = "pool";
    const ACCESS: &'static str = "viewer";
    type Path = NoParams;
    type Query = ExplainQuery;
    type Body = Empty;
    type Answer = Json<PoolExplanation>;
}
