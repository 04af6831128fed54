//! `vm.unregister`: Takes a VM out of the inventory and leaves its files.
//!
//! 1. `forget`: the agent forgets the VM and leaves its directory; the record goes with the step's
//!    end. Undone by registering it there again, because an answer may have been lost.

use hostler_agent_api::{VmCreateRequest, VmRemoveRequest};
use hostler_store::Write;
use hostler_tasks::{Definition, Outcome, Step as TaskStep, StepError, StepResult};
use hostler_types::{KindName, Vm, VmId};
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use super::command::{Step, ask, asked, command, definition as define, link, told, vm_if_there};
use super::vm_delete::without_references;
use crate::services::Order;
use crate::world::Core;

const LIMIT: SignedDuration = SignedDuration::from_mins(5);

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Input {
    vm: VmId,
}

pub(crate) fn definition() -> Definition<Core> {
    Definition::new("vm.unregister").step(TaskStep::new("forget", forget).undo(register))
}

pub(crate) fn order(vm: &Vm) -> Order {
    Order::new("vm.unregister", vm, &Input { vm: vm.id() }).limit(LIMIT)
}

async fn forget(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let Some(vm) = vm_if_there(&step, input.vm).await? else { return Ok(Outcome::none()) };
    let (link, command) = (link(&step, &vm)?, command(&step, &vm));
    let datastore = vm.status.datastore;
    let request = VmRemoveRequest { command, datastore, keep_files: true, force: false };
    ask(&step, &link, command.op, link.vm_remove(vm.id(), request)).await?;
    step.world().reports.forget(vm.id());
    let (kind, id) = (KindName::Vm, vm.id().untyped());
    let without = without_references(&step, &vm).await?;
    Ok(Outcome::none().with(Write::Delete { kind, id, expected: None }).with_all(without))
}

async fn register(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let Some(vm) = vm_if_there(&step, input.vm).await? else { return Ok(Outcome::none()) };
    let (link, command) = (link(&step, &vm)?, command(&step, &vm));
    let request = VmCreateRequest { command, definition: define(&step, &vm)? };
    let registered = ask(&step, &link, command.op, link.vm_register(vm.id(), request)).await;
    let report = match registered {
        Ok(report) => report,
        // It has refused to forget the VM as well, so it has it.
        Err(error @ StepError::Failed { .. }) => asked(&step, &vm).await.ok_or(error)?,
        Err(error) => return Err(error),
    };
    Ok(Outcome::none().with(told(&step, vm, &report)))
}
