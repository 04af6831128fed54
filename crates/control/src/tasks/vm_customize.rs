//! `vm.customize`: Tells a guest anew who it is.
//!
//! 1. `define`: the agent writes the seed of the next run, which the submission has put into the
//!    inventory; undone by putting the spec back in the inventory and at the agent.
//! 2. `stop`: if the guest is to be told now and runs, it is asked to stop, and then made to. From
//!    here on the next run stays: it is what was asked for, and the guest is told at its next start.
//! 3. `start`: a task `vm.start` below this one.

use hostler_agent_api::{VmDefineRequest, VmStopRequest};
use hostler_tasks::{Definition, Outcome, Step as TaskStep, StepResult};
use hostler_types::{StopMode, Vm, VmId, VmSpec};
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use super::command::{
    Step, ask, command, definition as define, link, told, told_back, vm, vm_if_there,
};
use super::vm_start;
use crate::services::Order;
use crate::world::Core;

const LIMIT: SignedDuration = SignedDuration::from_mins(15);
/// How long the guest may take to stop by itself.
const GRACE: u32 = 120;

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Input {
    vm: VmId,
    /// As it was before.
    spec: VmSpec,
    reboot: bool,
}

pub(crate) fn definition() -> Definition<Core> {
    Definition::new("vm.customize")
        .step(TaskStep::new("define", apply).undo(put_back))
        .step(TaskStep::new("stop", stop))
        .step(TaskStep::new("start", start))
}

/// The caller adds the write of the new spec.
pub(crate) fn order(old: &Vm, reboot: bool) -> Order {
    let input = Input { vm: old.id(), spec: old.spec.clone(), reboot };
    Order::new("vm.customize", old, &input).limit(LIMIT)
}

async fn apply(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let vm = vm(&step, input.vm).await?;
    let outcome = define_at_host(&step, vm).await?;
    Ok(outcome)
}

async fn put_back(step: Step) -> StepResult {
    let input: Input = step.input()?;
    if step.result_if_done::<serde_json::Value>("define")?.is_some() {
        step.message("the guest is told at its next start; only starting it anew did not work");
        return Ok(Outcome::none());
    }
    let Some(mut vm) = vm_if_there(&step, input.vm).await? else { return Ok(Outcome::none()) };
    vm.spec = input.spec;
    let told = define_at_host(&step, vm.clone()).await;
    told_back(&step, &vm, "define", told)
}

async fn define_at_host(step: &Step, vm: Vm) -> StepResult {
    let (link, command) = (link(step, &vm)?, command(step, &vm));
    let request = VmDefineRequest::new(command, define(step, &vm)?);
    let report = ask(step, &link, command.op, link.vm_define(vm.id(), request)).await?;
    Ok(Outcome::of(&serde_json::json!({ "defined": true })).with(told(step, vm, &report)))
}

async fn stop(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let vm = vm(&step, input.vm).await?;
    if !input.reboot || !vm.status.power.is_live() {
        return Ok(Outcome::none());
    }
    let (link, command) = (link(&step, &vm)?, command(&step, &vm));
    let mode = StopMode::GracefulThenOff;
    let request = VmStopRequest { command, mode, timeout_seconds: GRACE };
    let report = ask(&step, &link, command.op, link.vm_stop(vm.id(), request)).await?;
    Ok(Outcome::none().with(told(&step, vm, &report)))
}

async fn start(step: Step) -> StepResult {
    let input: Input = step.input()?;
    if !input.reboot {
        return Ok(Outcome::none());
    }
    let vm = vm(&step, input.vm).await?;
    vm_start::below(&step, "start", &vm).await?;
    Ok(Outcome::none())
}
