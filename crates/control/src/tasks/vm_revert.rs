//! `vm.revert`: Makes a VM what it was at a snapshot.
//!
//! 1. `revert`: the agent puts new layers on the snapshot's files, and starts the guest where it was
//!    or from its boot. The state it leaves is lost, so there is no way back: undone by taking over
//!    what the host says the VM is.

use hostler_agent_api::VmRevertRequest;
use hostler_tasks::{Definition, Outcome, Step as TaskStep, StepResult};
use hostler_types::{PowerState, SnapshotId, Vm, VmId};
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use super::command::{Step, ask, command, link, settle, told, vm};
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
    Definition::new("vm.revert").step(TaskStep::new("revert", revert).undo(settle))
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
    Ok(Outcome::none().with(told(&step, vm, &report)))
}
