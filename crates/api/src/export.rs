//! VMs as archives.

use hostler_endpoint::{Empty, Endpoint, Json, Method, NoParams, Stream};
use hostler_types::Task;

use crate::vm::VmPath;

/// Make an archive of a VM that is off.
#[derive(Debug)]
pub struct Export;

impl Endpoint for Export {
    const ID: &'static str = "vm_export";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/v1/vms/{vm}/export";
    const SUMMARY: &'static str = "Make an archive of a VM that is off";
    const TAG: &'static str = "vm";
    const ACCESS: &'static str = "operator";
    const STATUS: u16 = 202;
    type Path = VmPath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Json<Task>;
}
/// Fetch the archive of a VM: a tar with a manifest and each disk as one qcow2.
#[derive(Debug)]
pub struct Content;

impl Endpoint for Content {
    const ID: &'static str = "vm_export_content";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/v1/vms/{vm}/export";
    const SUMMARY: &'static str =
        "Fetch the archive of a VM: a tar with a manifest and each disk as one qcow2";
    const TAG: &'static str = "vm";
    const ACCESS: &'static str = "operator";
    const MEDIA_TYPE: &'static str = "application/x-tar";
    type Path = VmPath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Stream;
}
/// Remove the archive of a VM.
#[derive(Debug)]
pub struct Remove;

impl Endpoint for Remove {
    const ID: &'static str = "vm_export_remove";
    const METHOD: Method = Method::Delete;
    const PATH: &'static str = "/v1/vms/{vm}/export";
    const SUMMARY: &'static str = "Remove the archive of a VM";
    const TAG: &'static str = "vm";
    const ACCESS: &'static str = "operator";
    type Path = VmPath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Empty;
}
