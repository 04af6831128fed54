//! `vm.delete`: Deletes a VM with its disks, for good.
//!
//! 1. `stop`: if it runs and may be stopped, a task `vm.stop` below this one.
//! 2. `check`: looks once more that nobody needs its disks, now that the lock keeps new ones away: in
//!    the inventory, and in the headers of the files on the datastore.
//! 3. `remove`: the agent removes the files; the record goes with the step's end, and with it all
//!    that refers to the VM: addresses, labels. There is no way back: a host that does not answer is
//!    asked until it does. What is gone is told in the task's messages.

use hostler_agent_api::{FileOwner, VmRemoveRequest};
use hostler_store::Write;
use hostler_tasks::{Definition, Outcome, Step as TaskStep, StepError, StepResult};
use hostler_types::{KindName, Vm, VmId};
use serde::{Deserialize, Serialize};

use super::command::{Step, ask, command, link, require_unneeded, vm_if_there};
use super::vm_recycle::{Down, stop_first};
use crate::services::vm::require_deletable;
use crate::services::{Order, rule};
use crate::world::Core;

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Input {
    vm: VmId,
    down: Option<Down>,
}

pub(crate) fn definition() -> Definition<Core> {
    Definition::new("vm.delete")
        .step(TaskStep::new("stop", stop))
        .step(TaskStep::new("check", check))
        .step(TaskStep::new("remove", remove).no_return())
}

pub(crate) fn order(vm: &Vm, down: Option<Down>) -> Order {
    let mut order = Order::new("vm.delete", vm, &Input { vm: vm.id(), down });
    order.target = format!("{}/{}", KindName::Vm, vm.called());
    order
}

async fn stop(step: Step) -> StepResult {
    let input: Input = step.input()?;
    stop_first(&step, input.vm, input.down).await
}

async fn check(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let Some(vm) = vm_if_there(&step, input.vm).await? else { return Ok(Outcome::none()) };
    // Whoever got in before the lock is in the log before it.
    let world = step.world();
    let snapshot = world.inventory.at_least(world.store.revision().await?).await;
    require_deletable(&snapshot, &vm)
        .map_err(|error| StepError::failed(error.code, error.message))?;
    let owner = FileOwner::Vm(vm.id());
    require_unneeded(&step, vm.status.host, vm.status.datastore, owner).await?;
    Ok(Outcome::none())
}

async fn remove(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let Some(vm) = vm_if_there(&step, input.vm).await? else { return Ok(Outcome::none()) };
    let (link, command) = (link(&step, &vm)?, command(&step, &vm));
    let (datastore, force) = (vm.status.datastore, input.down.is_some());
    let request = VmRemoveRequest { command, datastore, keep_files: false, force };
    ask(&step, &link, command.op, link.vm_remove(vm.id(), request)).await?;
    tell_what_went(&step, &vm);
    step.world().reports.forget(vm.id());
    let (kind, id) = (KindName::Vm, vm.id().untyped());
    let without = without_references(&step, &vm).await?;
    Ok(Outcome::none().with(Write::Delete { kind, id, expected: None }).with_all(without))
}

/// Rules and groups that name it go on without it. Who writes one meanwhile makes the step run again.
pub(super) async fn without_references(step: &Step, vm: &Vm) -> Result<Vec<Write>, StepError> {
    let world = step.world();
    let snapshot = world.inventory.at_least(world.store.revision().await?).await;
    let without = rule::without(&snapshot, &vm.reference());
    let told = |(what, write)| {
        step.message(format!("removed from {what}"));
        write
    };
    Ok(without.into_iter().map(told).collect())
}

fn tell_what_went(step: &Step, vm: &Vm) {
    for disk in vm.spec.own_disks() {
        let told = vm.status.disks.iter().find(|told| told.name == disk.name);
        let freed = told.map(|told| format!(", {} freed", told.allocated)).unwrap_or_default();
        step.message(format!("removed disk {}: {}{freed}", disk.name, disk.size));
    }
    for snapshot in &vm.status.snapshots.snapshots {
        step.message(format!("removed snapshot {}", snapshot.name));
    }
    for nic in &vm.spec.nics {
        let told = vm.status.nics.iter().find(|told| told.name == nic.name);
        let address = told.and_then(|told| told.reserved);
        let address = address.map(|address| format!(", address {address}")).unwrap_or_default();
        step.message(format!("removed NIC {}: {}{address}", nic.name, nic.mac));
    }
    for (key, value) in &vm.metadata.labels {
        step.message(format!("removed label {key}={value}"));
    }
}
