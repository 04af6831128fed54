//! `vm.stop`: Brings a VM down.
//!
//! 1. `stop`: the agent stops it in the way asked for; undone by taking over what the host says the
//!    VM is (a guest that does not follow runs on).

use hostler_agent_api::VmStopRequest;
use hostler_tasks::{Definition, Outcome, Step as TaskStep, StepResult};
use hostler_types::{PowerState, StopMode, Vm};
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use super::command::{PowerInput, Step, ask, command, link, on_its_way, settle, told, vm};
use crate::services::Order;
use crate::world::Core;

/// What the agent may take beyond the guest's own time.
const BEYOND: SignedDuration = SignedDuration::from_mins(2);

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Input {
    #[serde(flatten)]
    power: PowerInput,
    mode: StopMode,
    timeout_seconds: u32,
}

pub(crate) fn definition() -> Definition<Core> {
    Definition::new("vm.stop").step(TaskStep::new("stop", stop).undo(settle))
}

pub(crate) fn order(vm: &Vm, mode: StopMode, timeout_seconds: u32) -> Order {
    let power = PowerInput { vm: vm.id(), before: vm.status.power };
    Order::new("vm.stop", vm, &Input { power, mode, timeout_seconds })
        .limit(SignedDuration::from_secs(i64::from(timeout_seconds)) + BEYOND)
        .with(on_its_way(vm, PowerState::Stopping))
}

async fn stop(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let vm = vm(&step, input.power.vm).await?;
    let (link, command) = (link(&step, &vm)?, command(&step, &vm));
    let Input { mode, timeout_seconds, .. } = input;
    let request = VmStopRequest { command, mode, timeout_seconds };
    let report = ask(&step, &link, command.op, link.vm_stop(vm.id(), request)).await?;
    Ok(Outcome::none().with(told(&step, vm, &report)))
}
