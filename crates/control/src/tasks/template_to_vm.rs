//! `template.to_vm`: Makes a version of a template a VM again. The submission has given it its name.
//!
//! 1. `restore`: looks once more that no disk lies on it, now that the lock keeps new ones away, and
//!    tells the agent that the VM may be started; undone by making it the version again.

use hostler_tasks::{Definition, Outcome, Step as TaskStep, StepError, StepResult};
use hostler_types::{Name, VersionOf, Vm, VmId};
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use super::command::{Step, told_back, vm, vm_if_there};
use super::vm_recycle::tell_host;
use crate::services::Order;
use crate::services::vm::require_unused;
use crate::world::Core;

const LIMIT: SignedDuration = SignedDuration::from_mins(5);

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Input {
    vm: VmId,
    /// As it was before.
    record_name: Name,
    version: Option<VersionOf>,
}

pub(crate) fn definition() -> Definition<Core> {
    Definition::new("template.to_vm").step(TaskStep::new("restore", restore).undo(put_back))
}

/// The caller adds the write of `restored`, the VM as it is to be.
pub(crate) fn order(old: &Vm, restored: &Vm) -> Order {
    let version = old.spec.template.clone();
    let input = Input { vm: old.id(), record_name: old.name().clone(), version };
    Order::new("template.to_vm", restored, &input).limit(LIMIT)
}

async fn restore(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let vm = vm(&step, input.vm).await?;
    // Whoever got in before the lock is in the log before it.
    let world = step.world();
    let snapshot = world.inventory.at_least(world.store.revision().await?).await;
    require_unused(&snapshot, &vm).map_err(|error| StepError::failed(error.code, error.message))?;
    tell_host(&step, vm).await
}

async fn put_back(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let Some(mut vm) = vm_if_there(&step, input.vm).await? else { return Ok(Outcome::none()) };
    vm.metadata.name = input.record_name;
    vm.spec.template = input.version;
    let told = tell_host(&step, vm.clone()).await;
    told_back(&step, &vm, "restore", told)
}
