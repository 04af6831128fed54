//! A VM as one archive.

use hostler_endpoint::{Empty, Endpoint, Json, Method, NoParams, Stream};
use hostler_types::{ExportManifest, ExportedNetwork};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::vm::{VmCommand, VmPath};

/// `POST /agent/v1/vms/{vm}/export`: makes all that an archive consists of, beside the VM's disks:
/// each disk flattened to one file. The VM must be off. Tells its progress and can be cancelled; an
/// earlier export is replaced.
#[derive(Debug)]
pub struct VmExport;

impl Endpoint for VmExport {
    const ID: &'static str = "vm_export";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/agent/v1/vms/{vm}/export";
    const SUMMARY: &'static str = "Make an archive of a VM";
    const TAG: &'static str = "vm";
    type Path = VmPath;
    type Query = NoParams;
    type Body = Json<VmExportRequest>;
    type Answer = Json<ExportManifest>;
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmExportRequest {
    pub command: VmCommand,
    /// What the VM's networks are called; only the server knows.
    pub networks: Vec<ExportedNetwork>,
}

/// `GET /agent/v1/vms/{vm}/export`: the archive, a tar with the manifest first.
#[derive(Debug)]
pub struct VmExportContent;

impl Endpoint for VmExportContent {
    const ID: &'static str = "vm_export_content";
    const METHOD: Method = Method::Get;
    const PATH: &'static str = "/agent/v1/vms/{vm}/export";
    const SUMMARY: &'static str = "The archive of a VM";
    const TAG: &'static str = "vm";
    type Path = VmPath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Stream;
}

/// `DELETE /agent/v1/vms/{vm}/export`: removes the archive. That there is none is as good.
#[derive(Debug)]
pub struct VmExportRemove;

impl Endpoint for VmExportRemove {
    const ID: &'static str = "vm_export_remove";
    const METHOD: Method = Method::Delete;
    const PATH: &'static str = "/agent/v1/vms/{vm}/export";
    const SUMMARY: &'static str = "Remove the archive of a VM";
    const TAG: &'static str = "vm";
    const STATUS: u16 = 204;
    type Path = VmPath;
    type Query = NoParams;
    type Body = Empty;
    type Answer = Empty;
}
