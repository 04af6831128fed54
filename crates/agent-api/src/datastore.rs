//! Datastores on the agent's host.

use hostler_endpoint::{Empty, Endpoint, Json, Method, NoParams};
use hostler_types::{
    ByteSize, DatastoreId, DatastoreState, ImageId, LayerFile, Name, OperationId, Vm, VmId,
};
use jiff::Timestamp;
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

/// `POST /agent/v1/datastores/{datastore}/users`: what needs the disk files of a VM or an image, or one of them, read
/// from the headers of all files there. For a look before a deletion; the deletion looks again.
#[derive(Debug)]
pub struct DatastoreUsers;

impl Endpoint for DatastoreUsers {
    const ID: &'static str = "datastore_users";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/agent/v1/datastores/{datastore}/users";
    const SUMMARY: &'static str = "What needs the files of a VM or an image";
    const TAG: &'static str = "datastore";
    type Path = DatastorePath;
    type Query = NoParams;
    type Body = Json<FileOwner>;
    type Answer = Json<Vec<FileUser>>;
}

/// Whose files.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FileOwner {
    #[schema(value_type = String)]
    Vm(VmId),
    #[schema(value_type = String)]
    Image(ImageId),
    /// This one only. An agent of the version before refuses it.
    File(LayerFile),
}

/// Something that needs a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FileUser {
    /// Absent: it is no VM's.
    #[schema(value_type = Option<String>)]
    pub vm: Option<VmId>,
    /// A sentence without its full stop, that names both.
    pub text: String,
}

/// `GET /agent/v1/datastores/{datastore}/files`: all that lies on the datastore.
#[derive(Debug)]
pub struct DatastoreFiles;

impl Endpoint for DatastoreFiles {
    const ID: &'static str = "datastore_files";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/agent/v1/datastores/{datastore}/files";
    const SUMMARY: &'static str = "All that lies on the datastore";
    const TAG: &'static str = "datastore";
    type Path = DatastorePath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<FoundFiles>;
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FoundFiles {
    /// Sorted by path.
    pub files: Vec<FoundFile>,
    /// VMs' definitions, usable or not.
    pub definitions: Vec<FoundDefinition>,
    /// There is more; the walk ended at its limit.
    #[serde(default)]
    pub truncated: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FoundFile {
    /// Relative to the datastore, printable: other bytes than printable ASCII are escaped.
    pub path: String,
    pub kind: FoundKind,
    pub size: ByteSize,
    pub allocated: ByteSize,
    #[schema(value_type = String, format = DateTime)]
    pub modified: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum FoundKind {
    /// A disk file with nothing beneath it.
    Base,
    /// A disk file that lies on another one.
    Overlay(LayerFile),
    /// A disk file whose header cannot be used: why.
    Unusable(String),
    File,
    Directory,
    /// No plain file and no directory.
    Other,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct FoundDefinition {
    #[schema(value_type = String)]
    pub vm: VmId,
    /// It says that an inventory has the VM.
    pub registered: bool,
    /// Absent: the definition cannot be used, as `problem` says.
    #[serde(default)]
    pub name: Option<Name>,
    #[serde(default)]
    pub problem: Option<String>,
}

/// `POST /agent/v1/datastores/{datastore}/remove-files`: removes what nothing needs. Each is looked
/// at once more; what a VM of this host has, or something else lies on, is refused. What is not
/// there is as good as removed.
#[derive(Debug)]
pub struct DatastoreRemoveFiles;

impl Endpoint for DatastoreRemoveFiles {
    const ID: &'static str = "datastore_remove_files";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/agent/v1/datastores/{datastore}/remove-files";
    const SUMMARY: &'static str = "Remove files that nothing needs";
    const TAG: &'static str = "datastore";
    type Path = DatastorePath;
    type Query = NoParams;
    type Body = Json<RemoveFilesRequest>;
    type Answer = Json<Vec<RemovedFile>>;
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RemoveFilesRequest {
    pub op: OperationId,
    /// As [`DatastoreFiles`] has told them; of a VM's directory without its files.
    pub paths: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RemovedFile {
    pub path: String,
    pub freed: ByteSize,
    /// Why it was not removed.
    #[serde(default)]
    pub refused: Option<String>,
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
