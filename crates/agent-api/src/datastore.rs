//! Datastores on the agent's host.

use hostler_endpoint::{Empty, Endpoint, Json, Method, NoParams};
use hostler_types::{ByteSize, DatastoreId, DatastoreState, Vm};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

#[derive(Debug, Clone, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct DatastorePath {
    #[param(value_type = String)]
    pub datastore: DatastoreId,
}

/// `PUT /agent/v1/datastores/{datastore}`: makes the directory and its marker if the directory is
/// new or empty, and remembers it. Idempotent. A directory that has another datastore's marker, or
/// files but no marker, is refused.
#[derive(Debug)]
pub struct DatastoreEnsure;

impl Endpoint for DatastoreEnsure {
    const ID: &'static str = "datastore_ensure";
    const METHOD: Method = Method::Put;
    const PATH: &'static str = "/agent/v1/datastores/{datastore}";
    const SUMMARY: &'static str = "Use a directory as datastore";
    const TAG: &'static str = "datastore";
    type Path = DatastorePath;
    type Query = NoParams;
    type Body = Json<DatastoreCheck>;
    type Answer = Json<DatastoreReport>;
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DatastoreCheck {
    /// Absolute.
    pub path: String,
    /// Mark the directory if it is new or empty. Without it, only a directory that is marked
    /// already is used: an empty one is the mount point of something that is not mounted.
    #[serde(default = "yes")]
    pub create: bool,
    /// Other hosts have the directory too.
    #[serde(default)]
    pub shared: bool,
}

fn yes() -> bool {
    true
}

/// `DELETE /agent/v1/datastores/{datastore}`: forgets a datastore. With `release`, its marker goes
/// too, so that the directory can be used again: an empty one is left empty, one that holds files
/// can be made a datastore again with all that it holds. Refused while the agent has VMs there. One
/// that is not known is answered 204.
#[derive(Debug)]
pub struct DatastoreRemove;

impl Endpoint for DatastoreRemove {
    const ID: &'static str = "datastore_remove";
    const METHOD: Method = Method::Delete;
    const PATH: &'static str = "/agent/v1/datastores/{datastore}";
    const SUMMARY: &'static str = "Forget a datastore";
    const TAG: &'static str = "datastore";
    const STATUS: u16 = 204;
    type Path = DatastorePath;
    type Query = DatastoreRemoveQuery;
    type Body = Empty;
    type Answer = Empty;
}

#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct DatastoreRemoveQuery {
    /// Take the marker away.
    #[serde(default)]
    pub release: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DatastoreReport {
    pub datastore: DatastoreId,
    pub state: DatastoreState,
    pub message: Option<String>,
    pub capacity: ByteSize,
    pub free: ByteSize,
}

/// `GET /agent/v1/datastores/{datastore}/unregistered`: definitions on the datastore that the
/// agent does not have in its inventory.
#[derive(Debug)]
pub struct DatastoreUnregistered;

impl Endpoint for DatastoreUnregistered {
    const ID: &'static str = "datastore_unregistered";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/agent/v1/datastores/{datastore}/unregistered";
    const SUMMARY: &'static str = "VMs on the datastore that are not in the inventory";
    const TAG: &'static str = "datastore";
    type Path = DatastorePath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<Vec<Vm>>;
}
