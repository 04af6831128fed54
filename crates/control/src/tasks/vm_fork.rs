//! `vm.fork`: Makes instant clones of a running VM, which the submission has put into the inventory
//! as `creating`.
//!
//! 1. `fork`: the agent makes all of them from one instant, and the VM goes on; undone by removing
//!    the clones, files and records. The VM itself has then at most one more file to each disk.
//!
//! That their guests take their own identity is not waited for: their status tells.

use std::collections::BTreeMap;

use hostler_agent_api::{VmCommand, VmCreateRequest, VmForkRequest, VmRemoveRequest};
use hostler_store::Write;
use hostler_tasks::{Definition, Outcome, Step as TaskStep, StepError, StepResult};
use hostler_types::{DiskSource, KindName, LayerFile, Name, Vm, VmId};
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use super::command::{Step, ask, command, definition as define, link, told, vm, vm_if_there};
use crate::services::Order;
use crate::world::Core;

const LIMIT: SignedDuration = SignedDuration::from_mins(30);

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Input {
    parent: VmId,
    clones: Vec<VmId>,
}

pub(crate) fn definition() -> Definition<Core> {
    Definition::new("vm.fork").step(TaskStep::new("fork", fork).undo(remove))
}

/// The caller adds the writes that create the clones' records.
pub(crate) fn order(parent: &Vm, clones: &[Vm]) -> Order {
    let ids: Vec<VmId> = clones.iter().map(Vm::id).collect();
    let input = Input { parent: parent.id(), clones: ids };
    let mut order = Order::new("vm.fork", parent, &input).limit(LIMIT);
    order.objects = clones.iter().chain([parent]).map(|vm| vm.id().untyped()).collect();
    order
}

/// The clone's disks lie on the files that the parent writes to now.
pub(crate) fn link_disks(parent: &Vm, clone: &mut Vm) {
    let active = |name: &Name| -> Option<LayerFile> {
        let disk = parent.status.disks.iter().find(|disk| disk.name == *name)?;
        Some(disk.layers.first()?.file.clone())
    };
    for disk in &mut clone.spec.disks {
        if let Some(file) = active(&disk.name) {
            disk.source = DiskSource::Linked(file);
        }
    }
}

async fn fork(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let parent = vm(&step, input.parent).await?;
    let (link, command) = (link(&step, &parent)?, command(&step, &parent));
    let mut clones = BTreeMap::new();
    let mut requests = Vec::new();
    for id in input.clones {
        let mut clone = vm(&step, id).await?;
        link_disks(&parent, &mut clone);
        let command = own_command(&step, command, &clone);
        requests.push(VmCreateRequest { command, definition: define(&step, &clone)? });
        clones.insert(id, clone);
    }
    let request = VmForkRequest { command, clones: requests };
    let answer = ask(&step, &link, command.op, link.vm_fork(parent.id(), request)).await?;
    if answer.paused_microseconds > 0 {
        let (whole, tenths) =
            (answer.paused_microseconds / 1000, answer.paused_microseconds % 1000 / 100);
        step.message(format!("vm {} stood still for {whole}.{tenths} ms", parent.name()));
    }
    let mut outcome = Outcome::none().with(told(&step, parent, &answer.parent));
    for report in &answer.clones {
        let clone = clones.remove(&report.vm);
        let clone =
            clone.ok_or_else(|| StepError::failed("internal", "not a clone of this task"))?;
        outcome = outcome.with(told(&step, clone, report));
    }
    Ok(outcome)
}

/// The clone's own operation within the parent's: the same for as long as that is the same.
fn own_command(step: &Step, parent: VmCommand, clone: &Vm) -> VmCommand {
    let op = step.operation_id_for(&format!("{} {}", parent.op, clone.id()));
    VmCommand { op, epoch: clone.status.epoch }
}

async fn remove(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let mut outcome = Outcome::none();
    for id in input.clones {
        let Some(clone) = vm_if_there(&step, id).await? else { continue };
        let (link, command) = (link(&step, &clone)?, command(&step, &clone));
        let command = own_command(&step, command, &clone);
        let datastore = clone.status.datastore;
        let request = VmRemoveRequest { command, datastore, keep_files: false, force: true };
        ask(&step, &link, command.op, link.vm_remove(id, request)).await?;
        step.world().reports.forget(id);
        let (kind, id) = (KindName::Vm, id.untyped());
        outcome = outcome.with(Write::Delete { kind, id, expected: None });
    }
    Ok(outcome)
}
