//! `vm.register_from_host`: Takes a VM that a host has, and the inventory lacks, into the inventory. The
//! submission has put the record there.
//!
//! 1. `register`: the agent is told the VM's definition, which is its own but for the name, under a new
//!    epoch: whoever has commanded it before no longer does. The guest notices nothing. Undone by giving
//!    the VM its old name back and removing the record; the host has it as before.

use hostler_agent_api::VmDefineRequest;
use hostler_store::Write;
use hostler_tasks::{Definition, Outcome, Step as TaskStep, StepError, StepResult};
use hostler_types::{KindName, Name, Recycled, VersionOf, Vm, VmId};
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use super::command::{Step, ask, command, definition as define, link, told, vm, vm_if_there};
use crate::services::Order;
use crate::world::Core;

const LIMIT: SignedDuration = SignedDuration::from_mins(5);

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Input {
    vm: VmId,
    /// As the host has it.
    record_name: Name,
    recycled: Option<Recycled>,
    version: Option<VersionOf>,
}

pub(crate) fn definition() -> Definition<Core> {
    Definition::new("vm.register_from_host").step(TaskStep::new("register", register).undo(forget))
}

/// The caller adds the write that creates the record of `vm`; `had` is what the host has.
pub(crate) fn order(had: &Vm, vm: &Vm) -> Order {
    let input = Input {
        vm: vm.id(),
        record_name: had.name().clone(),
        recycled: had.spec.recycled.clone(),
        version: had.spec.template.clone(),
    };
    Order::new("vm.register_from_host", vm, &input).limit(LIMIT)
}

async fn register(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let vm = vm(&step, input.vm).await?;
    let report = tell(&step, &vm).await?;
    Ok(Outcome::none().with(told(&step, vm, &report)))
}

async fn tell(step: &Step, vm: &Vm) -> Result<hostler_agent_api::VmReport, StepError> {
    let (link, command) = (link(step, vm)?, command(step, vm));
    let request = VmDefineRequest::new(command, define(step, vm)?);
    ask(step, &link, command.op, link.vm_define(vm.id(), request)).await
}

async fn forget(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let Some(mut vm) = vm_if_there(&step, input.vm).await? else { return Ok(Outcome::none()) };
    let (kind, id) = (KindName::Vm, vm.id().untyped());
    vm.metadata.name = input.record_name;
    vm.spec.recycled = input.recycled;
    vm.spec.template = input.version;
    match tell(&step, &vm).await {
        Ok(_) => {}
        // It has refused the registration as well, and is as it was but for the epoch.
        Err(StepError::Failed { message, .. }) => {
            tracing::warn!(vm = %input.vm, message, "a host keeps the name that a VM was to have");
        }
        Err(later) => return Err(later),
    }
    Ok(Outcome::none().with(Write::Delete { kind, id, expected: None }))
}
