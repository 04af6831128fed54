//! `vm.start`: Brings a VM up.
//!
//! 1. `start`: the agent starts QEMU, or resumes a suspended VM; undone by taking over what the host says the VM is.

use hostler_tasks::{Definition, Outcome, Step as TaskStep, StepResult};
use hostler_types::{PowerState, Vm};
use jiff::SignedDuration;

use super::command::{PowerInput, Step, ask, command, link, on_its_way, settle, told, vm};
use crate::services::Order;
use crate::world::Core;

const LIMIT: SignedDuration = SignedDuration::from_mins(10);

pub(crate) fn definition() -> Definition<Core> {
    Definition::new("vm.start").step(TaskStep::new("start", start).undo(settle))
}

pub(crate) fn order(vm: &Vm) -> Order {
    let input = PowerInput { vm: vm.id(), before: vm.status.power };
    Order::new("vm.start", vm, &input).limit(LIMIT).with(on_its_way(vm, PowerState::Starting))
}

async fn start(step: Step) -> StepResult {
    let input: PowerInput = step.input()?;
    let vm = vm(&step, input.vm).await?;
    let (link, command) = (link(&step, &vm)?, command(&step, &vm));
    let report = ask(&step, &link, command.op, link.vm_start(vm.id(), command)).await?;
    Ok(Outcome::none().with(told(&step, vm, &report)))
}
