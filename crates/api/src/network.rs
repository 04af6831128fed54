//! Networks that NICs are plugged into.

use hostler_endpoint::{Empty, Endpoint, Json, Method, NoParams, Page};
use hostler_types::{AddressPool, Labels, Name, Network, NetworkSpec, Ref};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Which network.
#[derive(Debug, Clone, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct NetworkPath {
    /// Its name or its id.
    #[param(value_type = String)]
    pub network: Ref,
}

/// Which ones, and how many at a time.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct NetworkListQuery {
    /// At most this many, 1 to 10000; absent: 10000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(minimum = 1, maximum = 10000)]
    pub limit: Option<u32>,
    /// The `next` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// Only those with this label, `key=value`, or `key` for any value. Several: all of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub label: Vec<String>,
    /// Only those whose name begins with this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// A network to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NetworkCreate {
    pub name: Name,
    #[serde(default)]
    #[schema(inline)]
    pub labels: Labels,
    pub spec: NetworkSpec,
}

/// List networks, sorted by name.
#[derive(Debug)]
pub struct List;

impl Endpoint for List {
    const ID: &'static str = "network_list";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/networks";
    const SUMMARY: &'static str = "List networks, sorted by name";
    const TAG: &'static str = "network";
    const ACCESS: &'static str = "viewer";
    type Path = NoParams;
    type Query = NetworkListQuery;
    type Body = Empty;
    type Answer = Json<Page<Network>>;
}
/// Make a network.
#[derive(Debug)]
pub struct Create;

impl Endpoint for Create {
    const ID: &'static str = "network_create";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/networks";
    const SUMMARY: &'static str = "Make a network";
    const TAG: &'static str = "network";
    const ACCESS: &'static str = "admin";
    const STATUS: u16 = 201;
    type Path = NoParams;
    type Query = NoParams;
    type Body = Json<NetworkCreate>;
    type Answer = Json<Network>;

    fn revision(answer: &Network) -> Option<u64> {
        Some(answer.metadata.revision.0)
    }
}
/// Show a network.
#[derive(Debug)]
pub struct Show;

impl Endpoint for Show {
    const ID: &'static str = "network_show";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/networks/{network}";
    const SUMMARY: &'static str = "Show a network";
    const TAG: &'static str = "network";
    const ACCESS: &'static str = "viewer";
    type Path = NetworkPath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<Network>;

    fn revision(answer: &Network) -> Option<u64> {
        Some(answer.metadata.revision.0)
    }
}
/// The static addresses that a network gives to NICs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PoolRequest {
    /// Null: none. Addresses that NICs have stay theirs.
    pub pool: Option<AddressPool>,
}

/// Give a network an address pool, or take it away.
#[derive(Debug)]
pub struct SetPool;

impl Endpoint for SetPool {
    const ID: &'static str = "network_set_pool";
    const METHOD: Method = Method::Put;
    const PATH: &'static str = "/v1/networks/{network}/pool";
    const SUMMARY: &'static str = "Give a network an address pool, or take it away";
    const TAG: &'static str = "network";
    const ACCESS: &'static str = "admin";
    const CONDITIONAL: bool = true;
    type Path = NetworkPath;
    type Query = NoParams;
    type Body = Json<PoolRequest>;
    type Answer = Json<Network>;

    fn revision(answer: &Network) -> Option<u64> {
        Some(answer.metadata.revision.0)
    }
}
/// Delete a network that no VM uses.
#[derive(Debug)]
pub struct Delete;

impl Endpoint for Delete {
    const ID: &'static str = "network_delete";
    const METHOD: Method = Method::Delete;
    const PATH: &'static str = "/v1/networks/{network}";
    const SUMMARY: &'static str = "Delete a network that no VM uses";
    const TAG: &'static str = "network";
    const ACCESS: &'static str = "admin";
    type Path = NetworkPath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Empty;
}
