//! Datastores: directories of hosts that hold images and VMs.

use hostler_endpoint::{Empty, Endpoint, Json, Method, NoParams, Page};
use hostler_types::{
    Datastore, DatastoreFindings, DatastoreLimits, Labels, Name, Ref, StorageKind, Task, VmId,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Which datastore.
#[derive(Debug, Clone, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct DatastorePath {
    /// Its name or its id.
    #[param(value_type = String)]
    pub datastore: Ref,
}

/// Which ones, and how many at a time.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct DatastoreListQuery {
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
    /// Only those of this host, by name or id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub host: Option<Ref>,
}

/// A datastore to be made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DatastoreCreate {
    pub name: Name,
    #[serde(default)]
    #[schema(inline)]
    pub labels: Labels,
    /// Absent: the only host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<Ref>,
    /// Absolute path on the hosts: an empty directory, or one that was a datastore before.
    pub path: String,
    #[serde(default)]
    pub kind: StorageKind,
    /// Further hosts that have the directory mounted at the same path; of a shared one only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<Ref>,
    #[serde(default)]
    pub limits: DatastoreLimits,
}

/// What is to change of a datastore; absent fields stay.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DatastoreUpdate {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(inline)]
    pub labels: Option<Labels>,
    /// No new disks and images; what is there goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub maintenance: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<DatastoreLimits>,
    /// The further hosts of a shared one, all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hosts: Option<Vec<Ref>>,
}

/// VM files on a datastore that belong to no VM of the inventory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct UnregisteredVm {
    /// The VM's id: the name of its directory.
    pub id: VmId,
    /// As its definition says; absent when that cannot be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// Why it cannot be registered as it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<String>,
}

/// The directory of a VM that is in no inventory.
#[derive(Debug, Clone, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct UnregisteredPath {
    /// The datastore's name or id.
    #[param(value_type = String)]
    pub datastore: Ref,
    /// The VM's id: the name of its directory.
    #[param(value_type = String)]
    pub vm: VmId,
}

/// How to take a VM into the inventory again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RegisterRequest {
    /// Absent: the name in its definition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
}

/// List datastores, sorted by name.
#[derive(Debug)]
pub struct List;

impl Endpoint for List {
    const ID: &'static str = "datastore_list";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/datastores";
    const SUMMARY: &'static str = "List datastores, sorted by name";
    const TAG: &'static str = "datastore";
    const ACCESS: &'static str = "viewer";
    type Path = NoParams;
    type Query = DatastoreListQuery;
    type Body = Empty;
    type Answer = Json<Page<Datastore>>;
}
/// Make a datastore of a host's directory.
#[derive(Debug)]
pub struct Create;

impl Endpoint for Create {
    const ID: &'static str = "datastore_create";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/datastores";
    const SUMMARY: &'static str = "Make a datastore of a host's directory";
    const TAG: &'static str = "datastore";
    const ACCESS: &'static str = "admin";
    const STATUS: u16 = 201;
    type Path = NoParams;
    type Query = NoParams;
    type Body = Json<DatastoreCreate>;
    type Answer = Json<Datastore>;

    fn revision(answer: &Datastore) -> Option<u64> {
        Some(answer.metadata.revision.0)
    }
}
/// Show a datastore.
#[derive(Debug)]
pub struct Show;

impl Endpoint for Show {
    const ID: &'static str = "datastore_show";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/datastores/{datastore}";
    const SUMMARY: &'static str = "Show a datastore";
    const TAG: &'static str = "datastore";
    const ACCESS: &'static str = "viewer";
    type Path = DatastorePath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<Datastore>;

    fn revision(answer: &Datastore) -> Option<u64> {
        Some(answer.metadata.revision.0)
    }
}
/// Change a datastore: limits, maintenance, hosts.
#[derive(Debug)]
pub struct Update;

impl Endpoint for Update {
    const ID: &'static str = "datastore_update";
    const METHOD: Method = Method::Patch;
    const PATH: &'static str = "/v1/datastores/{datastore}";
    const SUMMARY: &'static str = "Change a datastore: limits, maintenance, hosts";
    const TAG: &'static str = "datastore";
    const ACCESS: &'static str = "admin";
    const CONDITIONAL: bool = true;
    type Path = DatastorePath;
    type Query = NoParams;
    type Body = Json<DatastoreUpdate>;
    type Answer = Json<Datastore>;

    fn revision(answer: &Datastore) -> Option<u64> {
        Some(answer.metadata.revision.0)
    }
}
/// Forget a datastore that holds nothing of the inventory; its files stay.
#[derive(Debug)]
pub struct Delete;

impl Endpoint for Delete {
    const ID: &'static str = "datastore_delete";
    const METHOD: Method = Method::Delete;
    const PATH: &'static str = "/v1/datastores/{datastore}";
    const SUMMARY: &'static str =
        "Forget a datastore that holds nothing of the inventory; its files stay";
    const TAG: &'static str = "datastore";
    const ACCESS: &'static str = "admin";
    type Path = DatastorePath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Empty;
}
/// List VM files on a datastore that belong to no VM.
#[derive(Debug)]
pub struct Unregistered;

impl Endpoint for Unregistered {
    const ID: &'static str = "vm_unregistered";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/datastores/{datastore}/unregistered";
    const SUMMARY: &'static str = "List VM files on a datastore that belong to no VM";
    const TAG: &'static str = "datastore";
    const ACCESS: &'static str = "operator";
    type Path = DatastorePath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<Page<UnregisteredVm>>;
}
/// Take a VM into the inventory from its files.
#[derive(Debug)]
pub struct Register;

impl Endpoint for Register {
    const ID: &'static str = "vm_register";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/datastores/{datastore}/unregistered/{vm}/register";
    const SUMMARY: &'static str = "Take a VM into the inventory from its files";
    const TAG: &'static str = "datastore";
    const ACCESS: &'static str = "operator";
    const STATUS: u16 = 202;
    type Path = UnregisteredPath;
    type Query = NoParams;
    type Body = Json<RegisterRequest>;
    type Answer = Json<Task>;
}
/// Hold all files of a datastore against the inventory.
#[derive(Debug)]
pub struct Check;

impl Endpoint for Check {
    const ID: &'static str = "datastore_check";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/datastores/{datastore}/check";
    const SUMMARY: &'static str = "Hold all files of a datastore against the inventory";
    const TAG: &'static str = "datastore";
    const ACCESS: &'static str = "operator";
    type Path = DatastorePath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<DatastoreFindings>;
}

/// Which orphan, and what it is to be called.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AdoptRequest {
    /// As the check has told it.
    pub path: String,
    /// Absent: the name in the VM's definition; for an image, one made of its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
}

/// Take an orphan, a VM or an image, into the inventory.
#[derive(Debug)]
pub struct Adopt;

impl Endpoint for Adopt {
    const ID: &'static str = "datastore_adopt";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/datastores/{datastore}/check/adopt";
    const SUMMARY: &'static str = "Take an orphan, a VM or an image, into the inventory";
    const TAG: &'static str = "datastore";
    const ACCESS: &'static str = "operator";
    const STATUS: u16 = 202;
    type Path = DatastorePath;
    type Query = NoParams;
    type Body = Json<AdoptRequest>;
    type Answer = Json<Task>;
}

/// Which orphans are to go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RemoveOrphansRequest {
    /// As the check has told them; 1 to 1000.
    pub paths: Vec<String>,
}

/// Remove orphans from a datastore, for good.
#[derive(Debug)]
pub struct RemoveOrphans;

impl Endpoint for RemoveOrphans {
    const ID: &'static str = "datastore_remove_orphans";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/datastores/{datastore}/check/remove";
    const SUMMARY: &'static str = "Remove orphans from a datastore, for good";
    const TAG: &'static str = "datastore";
    const ACCESS: &'static str = "admin";
    const STATUS: u16 = 202;
    type Path = DatastorePath;
    type Query = NoParams;
    type Body = Json<RemoveOrphansRequest>;
    type Answer = Json<Task>;
}
