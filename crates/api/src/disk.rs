//! The disks of a VM: add, change, detach, attach, remove.

use hostler_endpoint::{Empty, Endpoint, Json, Method, NoParams};
use hostler_types::{DiskUpdate, Name, Ref, Task, VmDisk};
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

use crate::vm::VmPath;

/// Which disk of which VM.
#[derive(Debug, Clone, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Path)]
pub struct DiskPath {
    /// The VM's name or id.
    #[param(value_type = String)]
    pub vm: Ref,
    /// The disk's name within the VM.
    #[param(value_type = String)]
    pub disk: Name,
}

/// What becomes of a removed disk's data.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct DiskRemoveQuery {
    /// Yes, delete what is on it. Without this the request is refused.
    #[serde(default)]
    pub delete_data: bool,
    /// Also from a running guest that says it uses the disk.
    #[serde(default)]
    pub force: bool,
}

/// How a disk is unplugged.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct DiskDetachQuery {
    /// Also from a running guest that says it uses the disk, such as a mounted one.
    #[serde(default)]
    pub force: bool,
}

/// Whose disk is attached.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct DiskAttachQuery {
    /// The VM, by name or id, that has the disk, detached: it becomes this VM's. Both lie on the same
    /// datastore and host. Absent: the disk is this VM's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub from: Option<Ref>,
    /// With `from`: what the disk is to be called here; absent: as there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[param(value_type = Option<String>)]
    pub name: Option<Name>,
}

/// Give a VM another disk, also while it runs.
#[derive(Debug)]
pub struct Add;

impl Endpoint for Add {
    const ID: &'static str = "disk_add";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/vms/{vm}/disks";
    const SUMMARY: &'static str = "Give a VM another disk, also while it runs";
    const TAG: &'static str = "disk";
    const ACCESS: &'static str = "operator";
    const STATUS: u16 = 202;
    type Path = VmPath;
    type Query = NoParams;
    type Body = Json<VmDisk>;
    type Answer = Json<Task>;
}

/// Grow a disk or change its limits, also while its VM runs.
#[derive(Debug)]
pub struct Update;

impl Endpoint for Update {
    const ID: &'static str = "disk_update";
    const METHOD: Method = Method::Patch;
    const PATH: &'static str = "/v1/vms/{vm}/disks/{disk}";
    const SUMMARY: &'static str = "Grow a disk or change its limits, also while its VM runs";
    const TAG: &'static str = "disk";
    const ACCESS: &'static str = "operator";
    const STATUS: u16 = 202;
    type Path = DiskPath;
    type Query = NoParams;
    type Body = Json<DiskUpdate>;
    type Answer = Json<Task>;
}

/// Unplug a disk and keep it.
#[derive(Debug)]
pub struct Detach;

impl Endpoint for Detach {
    const ID: &'static str = "disk_detach";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/vms/{vm}/disks/{disk}/detach";
    const SUMMARY: &'static str = "Unplug a disk and keep it";
    const TAG: &'static str = "disk";
    const ACCESS: &'static str = "operator";
    const STATUS: u16 = 202;
    type Path = DiskPath;
    type Query = DiskDetachQuery;
    type Body = Empty;
    type Answer = Json<Task>;
}

/// Plug a detached disk in, the VM's own or another VM's.
#[derive(Debug)]
pub struct Attach;

impl Endpoint for Attach {
    const ID: &'static str = "disk_attach";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/vms/{vm}/disks/{disk}/attach";
    const SUMMARY: &'static str = "Plug a detached disk in, the VM's own or another VM's";
    const TAG: &'static str = "disk";
    const ACCESS: &'static str = "operator";
    const STATUS: u16 = 202;
    type Path = DiskPath;
    type Query = DiskAttachQuery;
    type Body = Empty;
    type Answer = Json<Task>;
}

/// Unplug a disk and delete its data.
#[derive(Debug)]
pub struct Remove;

impl Endpoint for Remove {
    const ID: &'static str = "disk_remove";
    const METHOD: Method = Method::Delete;
    const PATH: &'static str = "/v1/vms/{vm}/disks/{disk}";
    const SUMMARY: &'static str = "Unplug a disk and delete its data";
    const TAG: &'static str = "disk";
    const ACCESS: &'static str = "operator";
    const STATUS: u16 = 202;
    type Path = DiskPath;
    type Query = DiskRemoveQuery;
    type Body = Empty;
    type Answer = Json<Task>;
}
