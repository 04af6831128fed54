//! Instant clones: a running VM is forked.

use hostler_endpoint::{Endpoint, Json, Method, NoParams};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::vm::{VmCommand, VmCreateRequest, VmPath, VmReport};

/// `POST /agent/v1/vms/{vm}/fork`: makes instant clones of a running VM, all from the same instant.
/// Their guests go on from its memory and disks, with their cables out, and take their own identity
/// then; what became of that is in their reports' `customization`. Answers when they run.
///
/// When it fails the VM itself runs on, and clones that have been made are to be removed.
#[derive(Debug)]
pub struct VmFork;

impl Endpoint for VmFork {
    const ID: &'static str = "vm_fork";
    const METHOD: Method = Method::Post;
    const PATH: &'static str = "/agent/v1/vms/{vm}/fork";
    const SUMMARY: &'static str = "Make instant clones of a running VM";
    const TAG: &'static str = "vm";
    type Path = VmPath;
    type Query = NoParams;
    type Body = Json<VmForkRequest>;
    type Answer = Json<VmForkAnswer>;
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VmForkRequest {
    /// To the VM that is cloned.
    pub command: VmCommand,
    /// Each with a command of its own. Every disk of a clone is linked to the file that is the active
    /// one of the VM's disk of the same name; disks and NICs have the VM's names.
    pub clones: Vec<VmCreateRequest>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VmForkAnswer {
    pub parent: VmReport,
    /// In the order of the request.
    pub clones: Vec<VmReport>,
    /// How long the VM's guest stood still; 0 when that is not known any more.
    pub paused_microseconds: u64,
}
