//! `vm.delete`: Deletes a VM with its disks.
//!
//! 1. `remove`: the agent removes the files (and kills the guest, if forced); the record goes with
//!    the step's end. There is no way back: a host that does not answer is asked until
//!    it does.

use hostler_agent_api::VmRemoveRequest;
use hostler_store::Write;
use hostler_tasks::{Definition, Outcome, Step as TaskStep, StepResult};
use hostler_types::{KindName, Vm, VmId};
use serde::{Deserialize, Serialize};

use super::command::{Step, ask, command, link, vm_if_there};
use crate::services::Order;
use crate::world::Core;

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Input {
    vm: VmId,
    force: bool,
}

pub(crate) fn definition() -> Definition<Core> {
    Definition::new("vm.delete").step(TaskStep::new("remove", remove).no_return())
}

pub(crate) fn order(vm: &Vm, force: bool) -> Order {
    Order::new("vm.delete", vm, &Input { vm: vm.id(), force })
}

async fn remove(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let Some(vm) = vm_if_there(&step, input.vm).await? else { return Ok(Outcome::none()) };
    let (link, command) = (link(&step, &vm)?, command(&step, &vm));
    let (datastore, force) = (vm.status.datastore, input.force);
    let request = VmRemoveRequest { command, datastore, keep_files: false, force };
    ask(&step, &link, command.op, link.vm_remove(vm.id(), request)).await?;
    step.world().reports.forget(vm.id());
    let (kind, id) = (KindName::Vm, vm.id().untyped());
    Ok(Outcome::none().with(Write::Delete { kind, id, expected: None }))
}
