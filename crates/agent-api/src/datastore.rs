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
