//! `vm.flatten`: Makes a VM's disks independent of images and of other VMs' disks.
//!
//! 1. `copy`: the agent copies what they need into them, while the guest runs or not. What was copied
//!    until a cancellation is kept, and changes nothing of what the disks show, so nothing is undone.

use hostler_agent_api::VmFlattenRequest;
use hostler_tasks::{Definition, Outcome, Step as TaskStep, StepResult};
use hostler_types::{
    CopySource, DatastoreId, DiskSource, ImageKind, LayerFile, LayerOwner, Name, Vm, VmId,
};
use serde::{Deserialize, Serialize};

use super::command::{Step, ask, command, link, told, vm};
use crate::services::Order;
use crate::services::vm::VmFlatten;
use crate::world::Core;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Input {
    vm: VmId,
    disks: Vec<Name>,
    max_rate: Option<u64>,
}

pub(crate) fn definition() -> Definition<Core> {
    Definition::new("vm.flatten").step(TaskStep::new("copy", copy))
}

pub(crate) fn order(vm: &Vm, request: &VmFlatten) -> Order {
    let VmFlatten { disks, max_rate } = request.clone();
    // A large disk takes as long as it takes.
    Order::new("vm.flatten", vm, &Input { vm: vm.id(), disks, max_rate })
}

async fn copy(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let mut vm = vm(&step, input.vm).await?;
    let (link, command) = (link(&step, &vm)?, command(&step, &vm));
    let reporting = step.clone();
    let _listening = step.world().progress.listen(command.op, move |progress| {
        reporting.progress(progress.percent, progress.activity);
    });
    let request = VmFlattenRequest { command, disks: input.disks, max_rate: input.max_rate };
    let report = ask(&step, &link, command.op, link.vm_flatten(vm.id(), request)).await?;
    let own = LayerOwner::Vm(vm.id());
    let independent = |name: &Name| {
        let told = report.disks.iter().find(|disk| disk.name == *name);
        told.is_some_and(|disk| disk.layers.iter().all(|layer| layer.file.owner() == own))
    };
    let datastore = vm.status.datastore;
    let spec = &mut vm.spec;
    for disk in spec.disks.iter_mut().chain(&mut spec.detached) {
        if independent(&disk.name) {
            disk.source = copied(&step, &disk.source, datastore);
        }
    }
    Ok(Outcome::none().with(told(&step, vm, &report)))
}

/// What a disk was made from that does not need it any more.
pub(super) fn copied(step: &Step, source: &DiskSource, datastore: DatastoreId) -> DiskSource {
    match source {
        DiskSource::Image(image) => {
            let place = step.world().snapshot().get::<ImageKind>(*image).map(|i| i.spec.datastore);
            let datastore = place.unwrap_or(datastore);
            DiskSource::Copy(CopySource { datastore, file: LayerFile::image(*image) })
        }
        DiskSource::Linked(file) => DiskSource::Copy(CopySource { datastore, file: file.clone() }),
        other @ (DiskSource::Blank | DiskSource::Copy(_)) => other.clone(),
    }
}
