//! `host.maintenance`: Brings a host into maintenance: it takes no VMs, and those that run on it leave.
//!
//! 1. `close`: the host takes no VMs any more. Undone by opening it again.
//! 2. `evacuate`: plans and moves until nothing runs on the host: VMs that run go on running elsewhere,
//!    of those that are off on a shared datastore only the owner changes. What cannot leave is told, VM
//!    by VM, with the way out; the task fails then, or waits for it if that was asked for. What has left
//!    stays where it is, also when the task is cancelled.
//! 3. `note`: the host remembers who has left, for the end of its maintenance.

use std::time::Duration;

use hostler_policy::balance::Why;
use hostler_store::Write;
use hostler_tasks::{Definition, Outcome, Step as TaskStep, StepError, StepResult};
use hostler_types::{
    DrsOutcome, Host, HostId, HostKind, HostState, TaskKind, TaskState, Vm, VmId, VmKind,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::command::{Step, from_service};
use super::moves::{Retry, carry_out, vm_name};
use crate::drs::{For, Planned, plan};
use crate::inventory::Snapshot;
use crate::services::Order;
use crate::world::Core;

/// What the tasks of this file are called.
pub(crate) const ACTION: &str = "host.maintenance";
/// Between two looks at what is in the way.
const AGAIN: Duration = Duration::from_secs(2);
/// How often in a row nothing may leave before it is given up.
const TRIES: usize = 3;

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Input {
    host: HostId,
    /// It was in maintenance before.
    closed: bool,
    /// Wait for what cannot leave.
    wait_blocked: bool,
}

pub(crate) fn definition() -> Definition<Core> {
    Definition::new(ACTION)
        .step(TaskStep::new("close", close).undo(open))
        .step(TaskStep::new("evacuate", evacuate))
        .step(TaskStep::new("note", note))
}

pub(crate) fn order(host: &Host, wait_blocked: bool) -> Order {
    let input = Input { host: host.id(), closed: host.spec.maintenance, wait_blocked };
    Order::new(ACTION, host, &input)
}

/// The plan's steps that empty a host, with what they wait for.
pub(crate) fn leaving(planned: &Planned, host: HostId) -> std::collections::BTreeSet<usize> {
    planned.select(|step| {
        step.why == Why::Maintenance && step.moves.iter().any(|one| one.from == host)
    })
}

/// What runs on a host, and so has to leave it.
pub(crate) fn running(snapshot: &Snapshot, host: HostId) -> impl Iterator<Item = &Vm> {
    let all = snapshot.vms_on(host).map(|vm| &**vm);
    all.filter(|vm| !vm.is_recycled() && !vm.is_template() && vm.status.power.is_live())
}

/// Of what a plan could not move, the VMs on a host that run: each with why not.
pub(crate) fn blocked(planned: &Planned, host: HostId) -> Vec<(VmId, String)> {
    let snapshot = &planned.snapshot;
    let reason = |vm: &Vm| {
        let told = planned.plan.blocked.iter().find(|blocked| blocked.vms.contains(&vm.id()));
        told.map(|blocked| (vm.id(), blocked.reason.clone()))
    };
    running(snapshot, host).filter_map(reason).collect()
}

async fn host(step: &Step, host: HostId) -> Result<Host, StepError> {
    let found = step.world().stored::<HostKind>(host).await?;
    found.ok_or_else(|| StepError::failed("not_found", "the host is gone"))
}

/// Who was there is what may have left in the end.
async fn close(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let mut host = host(&step, input.host).await?;
    host.spec.maintenance = true;
    let snapshot = step.world().snapshot();
    let there: Vec<VmId> = snapshot.vms_on(input.host).map(|vm| vm.id()).collect();
    Ok(Outcome::of(&there).with(Write::update(&host)))
}

async fn open(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let mut host = host(&step, input.host).await?;
    host.spec.maintenance = input.closed;
    // Who has left is brought back by `exit`, or by the end of another maintenance.
    let there: Option<Vec<VmId>> = step.result_if_done("close")?;
    note_gone(&mut host, &step.world().snapshot(), &there.unwrap_or_default());
    Ok(Outcome::none().with(Write::update(&host)))
}

async fn evacuate(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let mut tries = 0;
    loop {
        let world = step.world();
        // The step before may be ahead of the inventory.
        world.inventory.at_least(world.store.revision().await?).await;
        let planned = plan(world, For::Maintenance(input.host)).await.map_err(from_service)?;
        let steps = planned.steps(&leaving(&planned, input.host));
        let mut moved = 0;
        if !steps.is_empty() {
            let made = carry_out(&step, &steps, Retry::Again).await?;
            moved = made.iter().filter(|one| one.outcome == DrsOutcome::Moved).count();
        }
        let snapshot = world.snapshot();
        let settles = unsettled(world, &snapshot, input.host);
        tries = if moved > 0 || settles.is_some() { 0 } else { tries + 1 };
        let empty = running(&snapshot, input.host).next().is_none();
        // What does not run leaves as well, but does not hold the others up.
        if empty && (moved == steps.len() || tries >= TRIES) {
            return Ok(Outcome::none());
        }
        let told = settles.unwrap_or_else(|| told(&planned, &snapshot, input.host));
        if tries >= TRIES && !input.wait_blocked {
            let message = format!("not everything could leave the host: {told}");
            return Err(StepError::failed("not_evacuated", message));
        }
        if moved == 0 {
            step.progress(None, format!("waiting: {told}"));
            tokio::select! {
                () = tokio::time::sleep(AGAIN) => {}
                () = step.cancelled().cancelled() => return Err(StepError::cancelled()),
            }
        }
    }
}

/// What will change by itself, so that it is waited for: work on a VM that is there, also a move of an
/// earlier run of this task; a host whose agent starts anew.
fn unsettled(world: &Core, snapshot: &Snapshot, host: HostId) -> Option<String> {
    let own = snapshot.get::<HostKind>(host)?;
    let away = Timestamp::now().duration_since(own.status.since).unsigned_abs();
    if own.status.state != HostState::Connected && away < world.settings.migration_patience {
        return Some(format!("host `{}` does not answer just now", own.name()));
    }
    let busy = running(snapshot, host).find_map(|vm| {
        let task = snapshot.get::<TaskKind>(snapshot.task_on(vm.id().untyped())?)?;
        (task.status.state != TaskState::Stuck).then_some((vm, task))
    });
    let (vm, task) = busy?;
    Some(format!("vm `{}` is busy with {}", vm.name(), task.spec.action))
}

/// What is left on a host, and why.
fn told(planned: &Planned, snapshot: &Snapshot, host: HostId) -> String {
    let blocked = blocked(planned, host);
    if blocked.is_empty() {
        let left = running(snapshot, host).map(|vm| format!("`{}`", vm.name()));
        return format!(
            "{} could not be moved; see the task's messages",
            left.collect::<Vec<_>>().join(", ")
        );
    }
    let each = blocked.iter().map(|(vm, why)| format!("vm `{}`: {why}", vm_name(snapshot, *vm)));
    each.collect::<Vec<_>>().join(". ")
}

async fn note(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let there: Vec<VmId> = step.result("close")?;
    let mut host = host(&step, input.host).await?;
    note_gone(&mut host, &step.world().snapshot(), &there);
    Ok(Outcome::none().with(Write::update(&host)))
}

fn note_gone(host: &mut Host, snapshot: &Snapshot, there: &[VmId]) {
    for vm in there {
        let gone = snapshot.get::<VmKind>(*vm).is_some_and(|vm| vm.status.host != host.id());
        if gone && !host.status.evacuated.contains(vm) {
            host.status.evacuated.push(*vm);
        }
    }
}
