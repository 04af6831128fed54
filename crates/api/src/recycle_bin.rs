//! The recycle bin: deleted VMs that can still be taken back.

use hostler_endpoint::{Empty, Endpoint, Json, Method, NoParams, Page, PageQuery};
use hostler_types::{Name, Task, Vm};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::vm::VmPath;

/// How to take a VM out of the recycle bin.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UndeleteRequest {
    /// Absent: the name it had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
}

/// List the VMs in the recycle bin.
#[derive(Debug)]
pub struct List;

impl Endpoint for List {
    const ID: &'static str = "recycle_bin_list";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/recycle-bin";
    const SUMMARY: &'static str = "List the VMs in the recycle bin";
    const TAG: &'static str = "recycle-bin";
    const ACCESS: &'static str = "viewer";
    type Path = NoParams;
    type Query = PageQuery;
    type Body = Empty;
    type Answer = Json<Page<Vm>>;
}
/// Take a VM out of the recycle bin.
#[derive(Debug)]
pub struct Undelete;

impl Endpoint for Undelete {
    const ID: &'static str = "vm_undelete";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/recycle-bin/{vm}/undelete";
    const SUMMARY: &'static str = "Take a VM out of the recycle bin";
    const TAG: &'static str = "recycle-bin";
    const ACCESS: &'static str = "operator";
    const STATUS: u16 = 202;
    type Path = VmPath;
    type Query = NoParams;
    type Body = Json<UndeleteRequest>;
    type Answer = Json<Task>;
}
/// Delete a VM in the recycle bin for good.
#[derive(Debug)]
pub struct Purge;

impl Endpoint for Purge {
    const ID: &'static str = "vm_purge";
    const METHOD: Method = Method::Delete;
    const PATH: &'static str = "/v1/recycle-bin/{vm}";
    const SUMMARY: &'static str = "Delete a VM in the recycle bin for good";
    const TAG: &'static str = "recycle-bin";
    const ACCESS: &'static str = "operator";
    const STATUS: u16 = 202;
    type Path = VmPath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<Task>;
}
