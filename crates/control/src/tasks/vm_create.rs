//! `vm.create`: Makes a VM that the submission has put into the inventory as `creating`.
//!
//! 1. `files`: the agent makes directory, overlay disks, seed and definition, the definition last;
//!    undone by removing the files, then the record. Once the files are made the VM stays, whatever
//!    becomes of its start.
//! 2. `start`: if asked for, a task `vm.start` below this one.

use hostler_agent_api::{VmCreateRequest, VmRemoveRequest};
use hostler_store::Write;
use hostler_tasks::{Definition, Outcome, Step as TaskStep, StepResult};
use hostler_types::{KindName, Vm, VmId};
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::command::{Step, ask, command, definition as define, link, told, vm, vm_if_there};
use super::vm_start;
use crate::services::Order;
use crate::world::Core;

const LIMIT: SignedDuration = SignedDuration::from_mins(15);

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Input {
    vm: VmId,
    start: bool,
}

pub(crate) fn definition() -> Definition<Core> {
    Definition::new("vm.create")
        .step(TaskStep::new("files", files).undo(remove))
        .step(TaskStep::new("start", start))
}

/// The caller adds the write that creates the record.
pub(crate) fn order(vm: &Vm, start: bool) -> Order {
    Order::new("vm.create", vm, &Input { vm: vm.id(), start }).limit(LIMIT)
}

async fn files(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let vm = vm(&step, input.vm).await?;
    let (link, command) = (link(&step, &vm)?, command(&step, &vm));
    let request = VmCreateRequest { command, definition: define(&step, &vm)? };
    let report = ask(&step, &link, command.op, link.vm_create(vm.id(), request)).await?;
    // The result tells the undo that the VM is whole.
    Ok(Outcome::of(&json!({ "made": true })).with(told(&step, vm, &report)))
}

async fn remove(step: Step) -> StepResult {
    let input: Input = step.input()?;
    if step.result_if_done::<serde_json::Value>("files")?.is_some() {
        step.message("the VM has been made and stays; only its start did not work");
        return Ok(Outcome::none());
    }
    let Some(vm) = vm_if_there(&step, input.vm).await? else { return Ok(Outcome::none()) };
    let (link, command) = (link(&step, &vm)?, command(&step, &vm));
    let datastore = vm.status.datastore;
    let request = VmRemoveRequest { command, datastore, keep_files: false, force: true };
    ask(&step, &link, command.op, link.vm_remove(vm.id(), request)).await?;
    step.world().reports.forget(vm.id());
    let (kind, id) = (KindName::Vm, vm.id().untyped());
    Ok(Outcome::none().with(Write::Delete { kind, id, expected: None }))
}

async fn start(step: Step) -> StepResult {
    let input: Input = step.input()?;
    if !input.start {
        return Ok(Outcome::none());
    }
    let vm = vm(&step, input.vm).await?;
    vm_start::below(&step, "start", &vm).await?;
    Ok(Outcome::none())
}
