//! `vm.start`: Brings a VM up.
//!
//! 1. `start`: the agent starts QEMU, or resumes a suspended VM; undone by pulling the plug of a
//!    guest that has come up nevertheless, unless it was suspended: its memory would be lost.

use hostler_agent_api::{VmStartRequest, VmStopRequest, code};
use hostler_tasks::{Definition, Outcome, Step as TaskStep, StepError, StepResult};
use hostler_types::{PowerState, StopMode, Vm};
use jiff::SignedDuration;

use super::command::{
    PowerInput, Step, ask, command, link, on_its_way, settle, told, vm, vm_if_there,
};
use crate::baseline;
use crate::services::Order;
use crate::world::Core;

const LIMIT: SignedDuration = SignedDuration::from_mins(10);

pub(crate) fn definition() -> Definition<Core> {
    Definition::new("vm.start").step(TaskStep::new("start", start).undo(stop))
}

pub(crate) fn order(vm: &Vm) -> Order {
    let input = PowerInput { vm: vm.id(), before: vm.status.power };
    Order::new("vm.start", vm, &input).limit(LIMIT).with(on_its_way(vm, PowerState::Starting))
}

/// Starts a VM by a task below this one, if there is room for what it reserves.
pub(super) async fn below(step: &Step, label: &str, vm: &Vm) -> Result<(), StepError> {
    if step.child(label).await?.is_none() {
        let world = step.world();
        let promises = world.admissions.admit(&world.inventory, [vm]);
        let promises = promises.map_err(|error| StepError::failed(error.code, error.message))?;
        let child = step.submit_child(label, order(vm).submit(step.actor())).await?;
        if let Some(child) = child {
            world.inventory.at_least(child.metadata.revision).await;
        }
        drop(promises);
    }
    step.wait_child(label).await.map(drop)
}

async fn start(step: Step) -> StepResult {
    let input: PowerInput = step.input()?;
    let vm = vm(&step, input.vm).await?;
    let (link, command) = (link(&step, &vm)?, command(&step, &vm));
    let cpu = baseline::at_start(&step.world().snapshot(), &vm);
    let request = VmStartRequest { command, cpu };
    let report = ask(&step, &link, command.op, link.vm_start(vm.id(), request)).await?;
    Ok(Outcome::none().with(told(&step, vm, &report)))
}

async fn stop(step: Step) -> StepResult {
    let input: PowerInput = step.input()?;
    let last = step.world().reports.last(input.vm);
    let is_down = last.is_some_and(|report| !report.power.is_live());
    let vm = vm_if_there(&step, input.vm).await?;
    let Some(vm) = vm.filter(|_| !is_down && input.before != PowerState::Suspended) else {
        return settle(step).await;
    };
    let (link, command) = (link(&step, &vm)?, command(&step, &vm));
    let request = VmStopRequest { command, mode: StopMode::PowerOff, timeout_seconds: 1 };
    match ask(&step, &link, command.op, link.vm_stop(vm.id(), request)).await {
        Ok(report) => Ok(Outcome::none().with(told(&step, vm, &report))),
        // It has not come up, or is not there at all.
        Err(StepError::Failed { code, .. })
            if [code::WRONG_STATE, code::NOT_FOUND].contains(&code.as_str()) =>
        {
            settle(step).await
        }
        Err(error) => Err(error),
    }
}
