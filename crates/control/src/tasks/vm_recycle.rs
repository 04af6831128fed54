//! `vm.recycle`: Puts a VM into the recycle bin.
//!
//! 1. `stop`: if it runs and may be stopped, a task `vm.stop` below this one. A guest that was
//!    stopped is not started again by the undo.
//! 2. `recycle`: the agent is told that the VM is not started any more, and the VM's name becomes
//!    free with the step's end: nobody can take it before, so the way back is always open. Undone by
//!    telling the agent again what the inventory still says.

use hostler_agent_api::VmDefineRequest;
use hostler_tasks::{Definition, Outcome, Step as TaskStep, StepError, StepResult};
use hostler_types::{Recycled, StopMode, Vm, VmId};
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use super::command::{
    Step, ask, command, definition as define, link, told, told_back, vm, vm_if_there,
};
use super::vm_stop;
use crate::services::Order;
use crate::world::Core;

/// Beyond what the guest may take to stop.
const LIMIT: SignedDuration = SignedDuration::from_mins(10);

/// How a running VM is brought down before it is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Down {
    mode: StopMode,
    timeout_seconds: u32,
}

impl Down {
    pub(crate) fn new(force: bool, stop: Option<u32>) -> Self {
        // Both: gracefully first, and then for certain.
        let mode = match (force, stop) {
            (true, Some(_)) => StopMode::GracefulThenOff,
            (true, None) => StopMode::PowerOff,
            (false, _) => StopMode::Graceful,
        };
        Self { mode, timeout_seconds: stop.unwrap_or(1) }
    }

    pub(super) fn limit(self) -> SignedDuration {
        SignedDuration::from_secs(i64::from(self.timeout_seconds)) + LIMIT
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Input {
    vm: VmId,
    down: Option<Down>,
    recycled: Recycled,
}

pub(crate) fn definition() -> Definition<Core> {
    Definition::new("vm.recycle")
        .step(TaskStep::new("stop", stop))
        .step(TaskStep::new("recycle", recycle).undo(put_back))
}

pub(crate) fn order(vm: &Vm, down: Option<Down>, recycled: Recycled) -> Order {
    let limit = down.map_or(LIMIT, Down::limit);
    Order::new("vm.recycle", vm, &Input { vm: vm.id(), down, recycled }).limit(limit)
}

async fn stop(step: Step) -> StepResult {
    let input: Input = step.input()?;
    stop_first(&step, input.vm, input.down).await
}

/// Brings the VM down, if it runs and that was asked for.
pub(super) async fn stop_first(step: &Step, id: VmId, down: Option<Down>) -> StepResult {
    let Some(down) = down else { return Ok(Outcome::none()) };
    let Some(vm) = vm_if_there(step, id).await? else { return Ok(Outcome::none()) };
    if vm.status.power.is_live() {
        let order = vm_stop::order(&vm, down.mode, down.timeout_seconds);
        step.run_child("stop", order.submit(step.actor())).await?;
    }
    Ok(Outcome::none())
}

async fn recycle(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let mut vm = vm(&step, input.vm).await?;
    if vm.status.power.is_live() {
        let message = format!("vm `{}` is {} and is not deleted", vm.name(), vm.status.power);
        return Err(StepError::failed("wrong_state", message));
    }
    let until = input.recycled.until;
    vm.metadata.name = Recycled::bin_name(&input.recycled.name, vm.id());
    vm.spec.recycled = Some(input.recycled);
    let outcome = tell_host(&step, vm).await.map_err(|error| match error {
        StepError::Failed { code, message } if code == "not_found" => {
            let message = format!("{message}; there is nothing to keep: delete it with `--now`");
            StepError::Failed { code, message }
        }
        error => error,
    })?;
    step.message(format!("kept in the recycle bin until {until:.0}"));
    Ok(outcome)
}

async fn put_back(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let Some(vm) = vm_if_there(&step, input.vm).await? else { return Ok(Outcome::none()) };
    let told = tell_host(&step, vm.clone()).await;
    match told_back(&step, &vm, "recycle", told) {
        // It has never been there: there is nothing to put back.
        Err(StepError::Failed { code, .. }) if code == "not_found" => Ok(Outcome::none()),
        told => told,
    }
}

/// Replaces the VM's definition at its host, and its record with the step's end.
pub(super) async fn tell_host(step: &Step, vm: Vm) -> StepResult {
    let (link, command) = (link(step, &vm)?, command(step, &vm));
    let request = VmDefineRequest::new(command, define(step, &vm)?);
    let report = ask(step, &link, command.op, link.vm_define(vm.id(), request)).await?;
    Ok(Outcome::none().with(told(step, vm, &report)))
}
