//! `vm.seal`: Takes out of a guest what must not be the same in two machines.
//!
//! 1. `seal`: the agent seals it, and tells what went; a guest that ran is off then. What is gone does
//!    not come back: undone by taking over what the host says the VM is.

use hostler_tasks::{Definition, Outcome, Step as TaskStep, StepResult};
use hostler_types::Vm;
use jiff::SignedDuration;

use super::command::{PowerInput, Step, ask, command, link, settle, told, vm};
use crate::services::Order;
use crate::world::Core;

/// Windows' own sysprep may take half an hour.
const LIMIT: SignedDuration = SignedDuration::from_mins(60);
/// More are in the VM's status.
const TOLD: usize = 20;

pub(crate) fn definition() -> Definition<Core> {
    Definition::new("vm.seal").step(TaskStep::new("seal", seal).undo(settle))
}

pub(crate) fn order(vm: &Vm) -> Order {
    let input = PowerInput { vm: vm.id(), before: vm.status.power };
    Order::new("vm.seal", vm, &input).limit(LIMIT)
}

async fn seal(step: Step) -> StepResult {
    let input: PowerInput = step.input()?;
    let vm = vm(&step, input.vm).await?;
    let (link, command) = (link(&step, &vm)?, command(&step, &vm));
    let report = ask(&step, &link, command.op, link.vm_seal(vm.id(), command)).await?;
    if let Some(seal) = &report.seal {
        for removed in seal.removed.iter().take(TOLD) {
            step.message(format!("removed {}: {}", removed.what, removed.path));
        }
        if let Some(more) = seal.removed.len().checked_sub(TOLD).filter(|more| *more > 0) {
            step.message(format!("and {more} more"));
        }
    }
    Ok(Outcome::none().with(told(&step, vm, &report)))
}
