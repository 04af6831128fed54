//! `vm.reset`: Resets a running VM.
//!
//! 1. `reset`: the agent presses the reset button; undone by taking over what the host says the VM is.

use hostler_tasks::{Definition, Outcome, Step as TaskStep, StepResult};
use hostler_types::Vm;
use jiff::SignedDuration;

use super::command::{PowerInput, Step, ask, command, link, settle, told, vm};
use crate::services::Order;
use crate::world::Core;

const LIMIT: SignedDuration = SignedDuration::from_mins(2);

pub(crate) fn definition() -> Definition<Core> {
    Definition::new("vm.reset").step(TaskStep::new("reset", reset).undo(settle))
}

pub(crate) fn order(vm: &Vm) -> Order {
    let input = PowerInput { vm: vm.id(), before: vm.status.power };
    Order::new("vm.reset", vm, &input).limit(LIMIT)
}

async fn reset(step: Step) -> StepResult {
    let input: PowerInput = step.input()?;
    let vm = vm(&step, input.vm).await?;
    let (link, command) = (link(&step, &vm)?, command(&step, &vm));
    let report = ask(&step, &link, command.op, link.vm_reset(vm.id(), command)).await?;
    Ok(Outcome::none().with(told(&step, vm, &report)))
}
