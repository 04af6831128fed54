//! `vm.snapshot_delete`: Takes snapshots of a VM away and merges what they held.
//!
//! 1. `delete`: the agent takes the names away first, then merges the files that no snapshot names
//!    any more, while the guest runs. A name is not given back, so there is no way back: undone by
//!    taking over what the host says. Cancelling ends the merge, not the deletion: the task is done
//!    then, and says that files wait.
//!
//! `vm.consolidate`: Merges what an earlier deletion could not.
//!
//! 1. `merge`: as above, without snapshots. What was merged stays so.

use std::time::Instant;

use hostler_agent_api::{VmReport, VmSnapshotDeleteRequest};
use hostler_tasks::{Definition, Outcome, Step as TaskStep, StepError, StepResult};
use hostler_types::{ByteSize, DatastoreId, PowerState, SnapshotId, Vm, VmId};
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

use super::command::{Step, ask, command, link, settle, told, vm};
use super::vm_snapshot::telling;
use crate::services::Order;
use crate::world::Core;

/// Much data on a slow datastore, with a limit to the rate.
const LIMIT: SignedDuration = SignedDuration::from_hours(48);

/// Actions whose results tell how fast a datastore merges.
pub(crate) const MERGING: [&str; 2] = ["vm.snapshot_delete", "vm.consolidate"];

/// How much was merged, and how long it took: the result of the step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Merged {
    pub(crate) datastore: DatastoreId,
    pub(crate) bytes: ByteSize,
    pub(crate) millis: u64,
}

/// What is to be deleted and merged.
#[derive(Debug, Clone, Default)]
pub(crate) struct Deletion {
    pub(crate) snapshots: Vec<SnapshotId>,
    /// What there is to merge, as planned.
    pub(crate) bytes: ByteSize,
    /// Bytes a second at most.
    pub(crate) max_rate: Option<u64>,
    /// Why, if nobody has asked for it.
    pub(crate) reason: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Input {
    vm: VmId,
    before: PowerState,
    snapshots: Vec<SnapshotId>,
    bytes: ByteSize,
    max_rate: Option<u64>,
    reason: Option<String>,
}

pub(crate) fn definition() -> Definition<Core> {
    Definition::new("vm.snapshot_delete").step(TaskStep::new("delete", delete).undo(settle))
}

pub(crate) fn consolidate_definition() -> Definition<Core> {
    Definition::new("vm.consolidate").step(TaskStep::new("merge", merge).undo(settle))
}

pub(crate) fn order(vm: &Vm, deletion: Deletion) -> Order {
    Order::new("vm.snapshot_delete", vm, &input(vm, deletion)).limit(LIMIT)
}

pub(crate) fn order_consolidate(vm: &Vm, deletion: Deletion) -> Order {
    Order::new("vm.consolidate", vm, &input(vm, deletion)).limit(LIMIT)
}

fn input(vm: &Vm, deletion: Deletion) -> Input {
    let Deletion { snapshots, bytes, max_rate, reason } = deletion;
    Input { vm: vm.id(), before: vm.status.power, snapshots, bytes, max_rate, reason }
}

async fn delete(step: Step) -> StepResult {
    let input: Input = step.input()?;
    if let Some(reason) = &input.reason {
        step.message(reason);
    }
    let mut vm = vm(&step, input.vm).await?;
    match call(&step, &vm, &input).await {
        Ok((report, merged)) => Ok(Outcome::of(&merged).with(told(&step, vm, &report))),
        // The names are gone all the same, so the snapshots are deleted.
        Err(StepError::Failed { code, .. }) if code == StepError::CANCELLED => {
            let left = |snapshot: &hostler_types::Snapshot| input.snapshots.contains(&snapshot.id);
            if !forgotten(&step, &mut vm, left).await {
                return Err(StepError::cancelled());
            }
            let name = vm.name();
            step.message(format!(
                "the merge was stopped: its files wait for `hostler vm consolidate {name}`"
            ));
            Ok(Outcome::none().with(hostler_store::Write::update(&vm)))
        }
        Err(error) => Err(error),
    }
}

async fn merge(step: Step) -> StepResult {
    let input: Input = step.input()?;
    if let Some(reason) = &input.reason {
        step.message(reason);
    }
    let vm = vm(&step, input.vm).await?;
    let (report, merged) = call(&step, &vm, &input).await?;
    Ok(Outcome::of(&merged).with(told(&step, vm, &report)))
}

async fn call(step: &Step, vm: &Vm, input: &Input) -> Result<(VmReport, Merged), StepError> {
    let (link, command) = (link(step, vm)?, command(step, vm));
    let snapshots = input.snapshots.clone();
    let request = VmSnapshotDeleteRequest { command, snapshots, max_rate: input.max_rate };
    let _listening = step.world().progress.listen(command.op, telling(step));
    let begin = Instant::now();
    let asked = ask(step, &link, command.op, link.vm_snapshot_delete(vm.id(), request));
    let report = asked.await?;
    let millis = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
    // A limited merge does not tell how fast it could have been.
    let bytes = if input.max_rate.is_some() { ByteSize(0) } else { input.bytes };
    Ok((report, Merged { datastore: vm.status.datastore, bytes, millis }))
}

/// Takes over what the host has of the VM, and tells whether it has none of these snapshots.
async fn forgotten(
    step: &Step,
    vm: &mut Vm,
    left: impl Fn(&hostler_types::Snapshot) -> bool,
) -> bool {
    super::command::refresh(step, vm).await;
    !vm.status.snapshots.snapshots.iter().any(left)
}
