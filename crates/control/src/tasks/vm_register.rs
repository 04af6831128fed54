//! `vm.register`: Takes a VM's files on a datastore into the inventory. The submission has put the
//! record there.
//!
//! 1. `register`: the agent takes the files under a new epoch; undone by letting it forget the VM,
//!    and removing the record. The files stay in either case.

use hostler_agent_api::{VmCreateRequest, VmRemoveRequest};
use hostler_store::Write;
use hostler_tasks::{Definition, Outcome, Step as TaskStep, StepResult};
use hostler_types::{KindName, Vm, VmId};
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use super::command::{Step, ask, command, definition as define, link, told, vm, vm_if_there};
use crate::services::Order;
use crate::world::Core;

const LIMIT: SignedDuration = SignedDuration::from_mins(5);

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Input {
    vm: VmId,
}

pub(crate) fn definition() -> Definition<Core> {
    Definition::new("vm.register").step(TaskStep::new("register", register).undo(forget))
}

/// The caller adds the write that creates the record.
pub(crate) fn order(vm: &Vm) -> Order {
    Order::new("vm.register", vm, &Input { vm: vm.id() }).limit(LIMIT)
}

async fn register(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let vm = vm(&step, input.vm).await?;
    let (link, command) = (link(&step, &vm)?, command(&step, &vm));
    let request = VmCreateRequest { command, definition: define(&step, &vm)? };
    let report = ask(&step, &link, command.op, link.vm_register(vm.id(), request)).await?;
    Ok(Outcome::none().with(told(&step, vm, &report)))
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
    Ok(Outcome::none().with(Write::Delete { kind, id, expected: None }))
}
