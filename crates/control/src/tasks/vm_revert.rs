//! `vm.revert`: Makes a VM what it was at a snapshot.
//!
//! 1. `revert`: the agent puts new layers on the snapshot's files, and starts the guest where it was
//!    or from its boot. The spec follows: disks have their size of then, and those that came later are
//!    detached. The state it leaves is lost, so there is no way back: undone by taking over what the
//!    host says the VM is.

use hostler_agent_api::VmRevertRequest;
use hostler_store::Write;
use hostler_tasks::{Definition, Outcome, Step as TaskStep, StepResult};
use hostler_types::{DiskSpec, LayerFile, PowerState, SnapshotId, Vm, VmId};
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use super::command::{Step, ask, command, link, settled, told, vm, vm_if_there};
use super::vm_snapshot::telling;
use crate::services::Order;
use crate::world::Core;

const LIMIT: SignedDuration = SignedDuration::from_hours(1);

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Input {
    vm: VmId,
    before: PowerState,
    snapshot: SnapshotId,
    start: Option<bool>,
}

pub(crate) fn definition() -> Definition<Core> {
    Definition::new("vm.revert").step(TaskStep::new("revert", revert).undo(take_over))
}

pub(crate) fn order(vm: &Vm, snapshot: SnapshotId, start: Option<bool>) -> Order {
    let input = Input { vm: vm.id(), before: vm.status.power, snapshot, start };
    Order::new("vm.revert", vm, &input).limit(LIMIT)
}

async fn revert(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let vm = vm(&step, input.vm).await?;
    let (link, command) = (link(&step, &vm)?, command(&step, &vm));
    let request = VmRevertRequest { command, snapshot: input.snapshot, start: input.start };
    let _listening = step.world().progress.listen(command.op, telling(&step));
    let report = ask(&step, &link, command.op, link.vm_revert(vm.id(), request)).await?;
    let as_then = as_then(&vm, input.snapshot);
    Ok(Outcome::none().with(told(&step, as_then, &report)))
}

/// It has failed, which does not say that nothing was done: whoever has new active layers has gone
/// back.
async fn take_over(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let before = vm_if_there(&step, input.vm).await?;
    let (Some(before), Some(mut vm)) = (before, settled(&step).await?) else {
        return Ok(Outcome::none());
    };
    if active_files(&vm) != active_files(&before) {
        vm.spec = as_then(&vm, input.snapshot).spec;
    }
    Ok(Outcome::none().with(Write::update(&vm)))
}

fn active_files(vm: &Vm) -> Vec<Option<&LayerFile>> {
    let disks = vm.status.disks.iter();
    disks.map(|disk| disk.layers.first().map(|layer| &layer.file)).collect()
}

/// The VM with the disks of a snapshot; the others are its own still, and not plugged in.
fn as_then(vm: &Vm, snapshot: SnapshotId) -> Vm {
    let mut new = vm.clone();
    let Some(snapshot) = vm.status.snapshots.get(snapshot) else { return new };
    let held = |disk: &&DiskSpec| snapshot.disks.iter().any(|held| held.name == disk.name);
    let back = snapshot.disks.iter().filter_map(|held| {
        let disk = vm.spec.own_disks().find(|disk| disk.name == held.name)?;
        Some(DiskSpec { size: held.size, ..disk.clone() })
    });
    new.spec.disks = back.collect();
    new.spec.detached = vm.spec.own_disks().filter(|disk| !held(disk)).cloned().collect();
    new
}
