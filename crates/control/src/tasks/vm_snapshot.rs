//! `vm.snapshot`: Takes a snapshot of a VM.
//!
//! 1. `snapshot`: the agent takes it, of all disks at one instant, and of the memory if asked for;
//!    undone by deleting it again.
//!
//! `vm.snapshot_update`: Renames or describes a snapshot. The host's agent is the only writer of a
//! VM's snapshots, so it is asked.
//!
//! 1. `update`: undone by giving the old name and description back.

use hostler_agent_api::{
    OperationProgress, VmReport, VmSnapshotDeleteRequest, VmSnapshotRequest,
    VmSnapshotUpdateRequest, code,
};
use hostler_tasks::{Definition, Outcome, Step as TaskStep, StepError, StepResult};
use hostler_types::{Name, Snapshot, SnapshotId, Vm, VmId};
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use super::command::{Step, ask, command, link, told, told_back, vm, vm_if_there};
use crate::services::Order;
use crate::world::Core;

/// A guest with much memory on a slow datastore takes its time.
const LIMIT: SignedDuration = SignedDuration::from_hours(2);
const UPDATE_LIMIT: SignedDuration = SignedDuration::from_mins(5);

/// A snapshot to be taken.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Take {
    pub(crate) snapshot: SnapshotId,
    pub(crate) name: Name,
    pub(crate) description: String,
    pub(crate) by: String,
    pub(crate) memory: bool,
    pub(crate) quiesce: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Input {
    vm: VmId,
    take: Take,
}

/// What people call a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Words {
    pub(crate) name: Name,
    pub(crate) description: String,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct UpdateInput {
    vm: VmId,
    snapshot: SnapshotId,
    before: Words,
    after: Words,
}

pub(crate) fn definition() -> Definition<Core> {
    Definition::new("vm.snapshot").step(TaskStep::new("snapshot", take).undo(delete))
}

pub(crate) fn update_definition() -> Definition<Core> {
    Definition::new("vm.snapshot_update").step(TaskStep::new("update", update).undo(put_back))
}

pub(crate) fn order(vm: &Vm, take: Take) -> Order {
    Order::new("vm.snapshot", vm, &Input { vm: vm.id(), take }).limit(LIMIT)
}

pub(crate) fn order_update(vm: &Vm, snapshot: &Snapshot, after: Words) -> Order {
    let before = Words { name: snapshot.name.clone(), description: snapshot.description.clone() };
    let input = UpdateInput { vm: vm.id(), snapshot: snapshot.id, before, after };
    Order::new("vm.snapshot_update", vm, &input).limit(UPDATE_LIMIT)
}

async fn take(step: Step) -> StepResult {
    let Input { vm: id, take } = step.input()?;
    let vm = vm(&step, id).await?;
    let (link, command) = (link(&step, &vm)?, command(&step, &vm));
    let request = VmSnapshotRequest {
        command,
        snapshot: take.snapshot,
        name: take.name,
        description: take.description,
        by: take.by,
        memory: take.memory,
        quiesce: take.quiesce,
    };
    let _listening = step.world().progress.listen(command.op, telling(&step));
    let report = ask(&step, &link, command.op, link.vm_snapshot(vm.id(), request)).await?;
    Ok(Outcome::none().with(told(&step, vm, &report)))
}

async fn delete(step: Step) -> StepResult {
    let Input { vm: id, take } = step.input()?;
    let Some(vm) = vm_if_there(&step, id).await? else { return Ok(Outcome::none()) };
    let (link, command) = (link(&step, &vm)?, command(&step, &vm));
    let snapshots = vec![take.snapshot];
    let request = VmSnapshotDeleteRequest { command, snapshots, max_rate: None };
    let asked = ask(&step, &link, command.op, link.vm_snapshot_delete(vm.id(), request)).await;
    taken_back(&step, vm, "snapshot", asked)
}

async fn update(step: Step) -> StepResult {
    let input: UpdateInput = step.input()?;
    let vm = vm(&step, input.vm).await?;
    let report = call(&step, &vm, input.snapshot, input.after).await?;
    Ok(Outcome::none().with(told(&step, vm, &report)))
}

async fn put_back(step: Step) -> StepResult {
    let input: UpdateInput = step.input()?;
    let Some(vm) = vm_if_there(&step, input.vm).await? else { return Ok(Outcome::none()) };
    let asked = call(&step, &vm, input.snapshot, input.before).await;
    taken_back(&step, vm, "update", asked)
}

/// Gives a snapshot its name and description.
async fn call(
    step: &Step,
    vm: &Vm,
    snapshot: SnapshotId,
    words: Words,
) -> Result<VmReport, StepError> {
    let (link, command) = (link(step, vm)?, command(step, vm));
    let (name, description) = (Some(words.name), Some(words.description));
    let request = VmSnapshotUpdateRequest { command, snapshot, name, description };
    ask(step, &link, command.op, link.vm_snapshot_update(vm.id(), request)).await
}

/// What is not there needs no taking back; nor does what a host whose datastore is away has refused
/// in the step `forward`, and refuses again.
fn taken_back(
    step: &Step,
    vm: Vm,
    forward: &str,
    asked: Result<VmReport, StepError>,
) -> StepResult {
    match asked {
        Ok(report) => Ok(Outcome::none().with(told(step, vm, &report))),
        Err(StepError::Failed { code, .. }) if code == code::NOT_FOUND => Ok(Outcome::none()),
        refused => {
            let refused = refused.map(|_| Outcome::none());
            told_back(step, &vm, forward, refused)
        }
    }
}

/// Passes on what the agent says of its progress.
pub(super) fn telling(step: &Step) -> impl Fn(OperationProgress) + Send + Sync + 'static {
    let step = step.clone();
    move |progress| step.progress(progress.percent, progress.activity)
}
