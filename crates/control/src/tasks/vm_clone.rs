//! `vm.clone`: Makes VMs from another one, all of them or none. The submission has put them into the
//! inventory as `creating`.
//!
//! 1. `hold`: for copies of a running VM: the agent takes a snapshot, which goes at the end; undone
//!    by deleting it, and the records of the clones, whose files are gone by then.
//! 2. `freeze`: the agent makes what the parent's disks hold (or that snapshot) fit to be built
//!    upon, and tells in which files it is; the clones' disks name those from then on. A template's
//!    are that already.
//! 3. `files`: the agents make the clones, several at a time. One that fails ends the others; undone
//!    by removing the files of all of them.
//! 4. `release`: deletes the snapshot of step 1. From then on the clones stay, whatever becomes of
//!    their start.
//! 5. `start`: if asked for, a task `vm.start` below this one for each.
//!
//! Between freezing and making, the parent's host may find that its guest needs the files for itself
//! (it is started): the clone is refused then, and nothing of it is left.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use futures::StreamExt as _;
use hostler_agent_api::{
    VmCommand, VmCreateRequest, VmFreezeRequest, VmRemoveRequest, VmReport,
    VmSnapshotDeleteRequest, VmSnapshotRequest,
};
use hostler_store::Write;
use hostler_tasks::{Definition, Outcome, Step as TaskStep, StepError, StepResult};
use hostler_types::{CopySource, DiskSource, KindName, Name, SnapshotDisk, SnapshotId, Vm, VmId};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::command::{
    Step, ask, ask_for, command, definition as define, link, operation_for, told, vm, vm_if_there,
};
use super::vm_start;
use crate::services::Order;
use crate::world::Core;

/// Clones that are made at the same time, and that are started at the same time. A host makes linked
/// ones in milliseconds, and copies no faster when there are many.
const MADE_AT_ONCE: usize = 8;
const STARTED_AT_ONCE: usize = 4;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Cloning {
    pub(crate) parent: VmId,
    pub(crate) vms: Vec<VmId>,
    /// The parent's snapshot to clone from.
    pub(crate) at: Option<SnapshotId>,
    /// The snapshot to be taken for the time of the copying.
    pub(crate) hold: Option<SnapshotId>,
    pub(crate) start: bool,
}

pub(crate) fn definition() -> Definition<Core> {
    Definition::new("vm.clone")
        .step(TaskStep::new("hold", hold).undo(let_go))
        .step(TaskStep::new("freeze", freeze))
        .step(TaskStep::new("files", files).undo(remove))
        .step(TaskStep::new("release", release))
        .step(TaskStep::new("start", start))
}

/// The caller adds the writes that create the records. There is at least one clone.
pub(crate) fn order(vms: &[Vm], cloning: &Cloning) -> Order {
    // A large disk takes as long as it takes.
    let mut order = Order::new("vm.clone", &vms[0], cloning);
    order.objects = vms.iter().map(|vm| vm.id().untyped()).collect();
    if let [first, .., last] = vms {
        order.target = format!("{}/{} to {}", KindName::Vm, first.name(), last.name());
    }
    order
}

async fn hold(step: Step) -> StepResult {
    let input: Cloning = step.input()?;
    let Some(snapshot) = input.hold else { return Ok(Outcome::none()) };
    let parent = vm(&step, input.parent).await?;
    let (link, command) = (link(&step, &parent)?, command(&step, &parent));
    let request = VmSnapshotRequest {
        command,
        snapshot,
        name: temporary(snapshot),
        description: "for a full clone; it goes when the clone is made".to_owned(),
        by: step.actor().to_owned(),
        memory: false,
        quiesce: false,
    };
    ask(&step, &link, command.op, link.vm_snapshot(parent.id(), request)).await?;
    Ok(Outcome::none())
}

fn temporary(snapshot: SnapshotId) -> Name {
    let id = snapshot.uuid().simple().to_string();
    format!("clone-{}", &id[id.len() - 12..]).parse().expect("hexadecimal digits make a name")
}

async fn let_go(step: Step) -> StepResult {
    let input: Cloning = step.input()?;
    if let Some(snapshot) = input.hold {
        drop_snapshot(&step, input.parent, snapshot).await?;
    }
    if are_made(&step)? {
        return Ok(Outcome::none());
    }
    // Their files have gone before.
    let mut writes = Vec::new();
    for id in input.vms {
        if vm_if_there(&step, id).await?.is_some() {
            writes.push(Write::Delete { kind: KindName::Vm, id: id.untyped(), expected: None });
        }
    }
    Ok(Outcome::none().with_all(writes))
}

/// Whether the clones are whole, and stay.
fn are_made(step: &Step) -> Result<bool, StepError> {
    Ok(step.result_if_done::<serde_json::Value>("release")?.is_some())
}

/// Deletes the snapshot that was taken for the copying; that it is not there is as good.
async fn drop_snapshot(step: &Step, parent: VmId, snapshot: SnapshotId) -> Result<(), StepError> {
    let Some(parent) = vm_if_there(step, parent).await? else { return Ok(()) };
    let (link, command) = (link(step, &parent)?, command(step, &parent));
    let request = VmSnapshotDeleteRequest { command, snapshots: vec![snapshot], max_rate: None };
    // Not cut short: a deletion that was is one that somebody has to finish.
    let never = CancellationToken::new();
    let call = link.vm_snapshot_delete(parent.id(), request);
    match ask_for(step, "", &never, &link, command.op, call).await {
        Err(StepError::Failed { code, .. }) if code == "not_found" => Ok(()),
        Err(StepError::Failed { message, .. }) => {
            let name = temporary(snapshot);
            step.message(format!("the snapshot {name} of `{}` stays: {message}", parent.name()));
            Ok(())
        }
        other => other.map(drop),
    }
}

async fn freeze(step: Step) -> StepResult {
    let input: Cloning = step.input()?;
    let parent = vm(&step, input.parent).await?;
    if parent.is_template() {
        // Its disks are frozen for good, and the clones name their files already.
        return Ok(Outcome::none());
    }
    let (link, command) = (link(&step, &parent)?, command(&step, &parent));
    let request = VmFreezeRequest { command, snapshot: input.at.or(input.hold) };
    let frozen = ask(&step, &link, command.op, link.vm_freeze(parent.id(), request)).await?;
    let mut writes = Vec::new();
    for clone in vms(&step, &input).await? {
        writes.push(Write::update(&made_of(clone, &parent, &frozen.disks)?));
    }
    Ok(Outcome::none().with_all(writes))
}

/// The clone with disks of what the parent's host has frozen.
fn made_of(mut clone: Vm, parent: &Vm, frozen: &[SnapshotDisk]) -> Result<Vm, StepError> {
    for disk in &mut clone.spec.disks {
        let found = frozen.iter().find(|frozen| frozen.name == disk.name);
        let file = found.and_then(|frozen| frozen.layers.first()).cloned();
        let (Some(found), Some(file)) = (found, file) else {
            let message =
                format!("the disks of `{}` have changed meanwhile; try again", parent.name());
            return Err(StepError::failed("wrong_state", message));
        };
        disk.size = found.size;
        disk.source = match &disk.source {
            DiskSource::Copy(_) => {
                DiskSource::Copy(CopySource { datastore: parent.status.datastore, file })
            }
            _ => DiskSource::Linked(file),
        };
    }
    Ok(clone)
}

/// The clones, in their order.
async fn vms(step: &Step, input: &Cloning) -> Result<Vec<Vm>, StepError> {
    let mut found = Vec::new();
    for id in &input.vms {
        found.push(vm(step, *id).await?);
    }
    Ok(found)
}

async fn files(step: Step) -> StepResult {
    let input: Cloning = step.input()?;
    let clones = vms(&step, &input).await?;
    let progress = Arc::new(Overall::new(&step, clones.len()));
    // Of the others, when one fails, and of all, when the task is cancelled.
    let stop = step.cancelled().child_token();
    let all = clones.into_iter().map(|clone| make(&step, clone, &stop, progress.clone()));
    let mut made = futures::stream::iter(all).buffer_unordered(MADE_AT_ONCE);
    let (mut writes, mut failed): (_, Option<StepError>) = (Vec::new(), None);
    while let Some(one) = made.next().await {
        match one {
            Ok(write) => writes.push(write),
            Err(error @ StepError::Failed { .. }) if !stop.is_cancelled() => {
                stop.cancel();
                failed = Some(error);
            }
            Err(error) => {
                failed.get_or_insert(error);
            }
        }
    }
    match failed {
        Some(error) => Err(error),
        None => Ok(Outcome::of(&json!({ "made": true })).with_all(writes)),
    }
}

/// Makes one clone.
async fn make(
    step: &Step,
    clone: Vm,
    stop: &CancellationToken,
    progress: Arc<Overall>,
) -> Result<Write, StepError> {
    if stop.is_cancelled() {
        return Err(StepError::cancelled());
    }
    let label = clone.id().to_string();
    let link = link(step, &clone)?;
    let command = VmCommand { op: operation_for(step, &label), epoch: clone.status.epoch };
    let request = VmCreateRequest { command, definition: define(step, &clone)? };
    let (id, telling) = (clone.id(), progress.clone());
    let listener = move |told: hostler_agent_api::OperationProgress| {
        telling.tell(id, told.percent, told.activity);
    };
    let _listening = step.world().progress.listen(command.op, listener);
    let call = link.vm_create(clone.id(), request);
    let report: VmReport = ask_for(step, &label, stop, &link, command.op, call).await?;
    progress.tell(id, Some(100), format!("made {}", clone.name()));
    Ok(told(step, clone, &report))
}

/// The progress of several clones as one.
struct Overall {
    step: Step,
    count: usize,
    percents: Mutex<HashMap<VmId, u8>>,
}

impl Overall {
    fn new(step: &Step, count: usize) -> Self {
        Self { step: step.clone(), count: count.max(1), percents: Mutex::default() }
    }

    fn tell(&self, vm: VmId, percent: Option<u8>, activity: String) {
        let mut percents = self.percents.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(percent) = percent {
            percents.insert(vm, percent);
        }
        let sum: usize = percents.values().map(|percent| usize::from(*percent)).sum();
        drop(percents);
        self.step.progress(u8::try_from(sum / self.count).ok(), activity);
    }
}

async fn remove(step: Step) -> StepResult {
    let input: Cloning = step.input()?;
    if are_made(&step)? {
        step.message("the VMs have been made and stay; only their start did not work");
        return Ok(Outcome::none());
    }
    for id in input.vms {
        let Some(clone) = vm_if_there(&step, id).await? else { continue };
        let (link, label) = (link(&step, &clone)?, id.to_string());
        let command = VmCommand { op: operation_for(&step, &label), epoch: clone.status.epoch };
        let datastore = clone.status.datastore;
        let request = VmRemoveRequest { command, datastore, keep_files: false, force: true };
        let call = link.vm_remove(id, request);
        ask_for(&step, &label, step.cancelled(), &link, command.op, call).await?;
        step.world().reports.forget(id);
    }
    Ok(Outcome::none())
}

async fn release(step: Step) -> StepResult {
    let input: Cloning = step.input()?;
    if let Some(snapshot) = input.hold {
        drop_snapshot(&step, input.parent, snapshot).await?;
    }
    // Tells the undo that the clones are whole.
    Ok(Outcome::of(&json!({ "released": true })))
}

async fn start(step: Step) -> StepResult {
    let input: Cloning = step.input()?;
    if !input.start {
        return Ok(Outcome::none());
    }
    let clones = vms(&step, &input).await?;
    let one = |clone: Vm| {
        let step = step.clone();
        async move {
            let label = clone.id().to_string();
            vm_start::below(&step, &label, &clone).await.map_err(|error| match error {
                StepError::Failed { code, message } => {
                    StepError::Failed { code, message: format!("{}: {message}", clone.name()) }
                }
                retry @ StepError::Retry { .. } => retry,
            })
        }
    };
    let started = futures::stream::iter(clones.into_iter().map(one));
    let ended: Vec<_> = started.buffer_unordered(STARTED_AT_ONCE).collect().await;
    ended.into_iter().collect::<Result<(), StepError>>()?;
    Ok(Outcome::none())
}
