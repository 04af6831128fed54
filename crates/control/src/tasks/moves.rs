//! Carries out planned moves, for the tasks that have some: each is a task `vm.migrate` below theirs.
//!
//! A step of a plan begins when those that it waits for are made, both its hosts have a place free, and
//! the world as it is then allows it, with all VMs that are on their way counted at both ends. What is not
//! allowed any more is passed over, with all that waits for it; what fails leaves the others as they are.
//! When the task is cancelled nothing more begins, and what is on its way ends or goes back.
//!
//! Children have the same labels each time, so a task that goes on after a crash finds them again.

use std::collections::HashMap;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt as _, join_all};
use futures::stream::{FuturesUnordered, StreamExt as _};
use hostler_tasks::StepError;
use hostler_types::{
    DrsOutcome, HostId, HostKind, PlannedMove, PlannedStep, Task, TaskState, VmId, VmKind,
};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::command::Step;
use super::vm_migrate::Input as Migration;
use crate::inventory::Snapshot;
use crate::services::vm::migrate::chosen;

/// Migrations that a host takes part in at once.
const PER_HOST: usize = 2;
/// What could not begin is looked at again after this long at the latest.
const AGAIN: Duration = Duration::from_secs(1);

/// What became of a planned step.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Made {
    pub(super) outcome: DrsOutcome,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) told: Option<String>,
}

impl Made {
    fn moved() -> Self {
        Self { outcome: DrsOutcome::Moved, told: None }
    }

    fn skipped(told: impl Into<String>) -> Self {
        Self { outcome: DrsOutcome::Skipped, told: Some(told.into()) }
    }

    fn failed(told: impl Into<String>) -> Self {
        Self { outcome: DrsOutcome::Failed, told: Some(told.into()) }
    }
}

/// How a move is meant that has been tried before in this step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Retry {
    /// It is what it was.
    Never,
    /// It is made once more.
    Again,
}

/// Carries out what it can of the steps, and tells what became of each.
///
/// # Errors
/// The task is cancelled, or the server ends: what was ordered goes on and is found again.
pub(super) async fn carry_out(
    step: &Step,
    steps: &[PlannedStep],
    retry: Retry,
) -> Result<Vec<Made>, StepError> {
    let since = Instant::now();
    let states = steps.iter().map(|_| State::Waiting).collect();
    let mut carrying =
        Carrying { step, steps, retry, states, on_their_way: FuturesUnordered::new(), since };
    carrying.take_up().await?;
    while !carrying.is_over() {
        if !step.cancelled().is_cancelled() {
            carrying.begin_all().await?;
            carrying.give_up();
        }
        if carrying.is_over() {
            break;
        }
        carrying.report();
        let waits = carrying.states.contains(&State::Waiting);
        tokio::select! {
            Some((at, ended)) = carrying.on_their_way.next() => carrying.end(at, ended?),
            () = tokio::time::sleep(AGAIN), if waits => {}
            () = step.cancelled().cancelled(), if waits && !step.cancelled().is_cancelled() => {}
        }
    }
    if step.cancelled().is_cancelled() {
        return Err(StepError::cancelled());
    }
    Ok(carrying.made())
}

/// What has become of the steps that a cancelled or failed run has left.
///
/// # Errors
/// What the store met.
pub(super) async fn left(step: &Step, steps: &[PlannedStep]) -> Result<Vec<Made>, StepError> {
    let mut all = Vec::new();
    for planned in steps {
        let (mut begun, mut moved, mut why) = (0, 0, None);
        for one in &planned.moves {
            if let Some(child) = step.child(&label(planned, one.vm, 0)).await? {
                begun += 1;
                moved += usize::from(child.status.state == TaskState::Done);
                why = why.or(child.status.error);
            }
        }
        all.push(match (begun, moved) {
            (0, _) => Made::skipped("it was not begun"),
            (_, moved) if moved == planned.moves.len() => Made::moved(),
            _ => Made::failed(why.unwrap_or_else(|| "it was stopped".to_owned())),
        });
    }
    Ok(all)
}

#[derive(Debug, Clone, PartialEq)]
enum State {
    Waiting,
    Moving,
    Ended(Made),
}

/// What came of trying to begin a step.
enum Begun {
    Yes,
    Later,
    Never(Made),
}

type Ended = Result<Made, StepError>;

struct Carrying<'a> {
    step: &'a Step,
    steps: &'a [PlannedStep],
    retry: Retry,
    states: Vec<State>,
    on_their_way: FuturesUnordered<BoxFuture<'a, (usize, Ended)>>,
    /// When something began or ended last.
    since: Instant,
}

impl Carrying<'_> {
    fn is_over(&self) -> bool {
        let stops = self.step.cancelled().is_cancelled();
        self.states.iter().all(|state| match state {
            State::Ended(_) => true,
            State::Waiting => stops,
            State::Moving => false,
        })
    }

    fn made(self) -> Vec<Made> {
        let made = self.states.into_iter().map(|state| match state {
            State::Ended(made) => made,
            State::Waiting | State::Moving => Made::skipped("it was not begun"),
        });
        made.collect()
    }

    /// Finds the moves again that an earlier run of this step has begun.
    async fn take_up(&mut self) -> Result<(), StepError> {
        for (at, planned) in self.steps.iter().enumerate() {
            let mut labels = Vec::new();
            for one in &planned.moves {
                let (label, child) = attempt(self.step, self.retry, planned, one.vm).await?;
                labels.extend(child.map(|_| label));
            }
            if labels.len() == planned.moves.len() {
                self.wait(at, labels, None);
            }
        }
        Ok(())
    }

    /// Passes over what waits for what does not come: the plan holds the cluster, and all other balancing waits for
    /// its end. What is on its way is not waited for longer than it takes, and ends by itself.
    fn give_up(&mut self) {
        let patience = self.step.world().settings.balancing.patience;
        if !self.on_their_way.is_empty() || self.since.elapsed() < patience {
            return;
        }
        let minutes = patience.as_secs().div_ceil(60);
        for at in 0..self.steps.len() {
            if self.states[at] == State::Waiting {
                let told = format!("its hosts had no place for a move within {minutes} min");
                self.end(at, Made::skipped(told));
            }
        }
    }

    async fn begin_all(&mut self) -> Result<(), StepError> {
        for at in 0..self.steps.len() {
            if self.states[at] != State::Waiting || self.step.cancelled().is_cancelled() {
                continue;
            }
            let mut after = self.steps[at].after.iter().filter_map(|other| self.states.get(*other));
            let moved = |state: &State| matches!(state, State::Ended(made) if made.outcome == DrsOutcome::Moved);
            if after.clone().any(|state| matches!(state, State::Ended(_)) && !moved(state)) {
                let lacking = Made::skipped("a move that it waits for was not made");
                self.end(at, lacking);
                continue;
            }
            if !after.all(moved) {
                continue;
            }
            match self.begin(at).await? {
                Begun::Yes | Begun::Later => {}
                Begun::Never(made) => self.end(at, made),
            }
        }
        Ok(())
    }

    /// Looks at the world as it is now, and orders the moves if it allows them.
    async fn begin(&mut self, at: usize) -> Result<Begun, StepError> {
        let (step, planned) = (self.step, &self.steps[at]);
        let world = step.world();
        // Most wait for a place: that costs no look into the store.
        let full = |one: &PlannedMove, snapshot: &Snapshot| {
            busy(snapshot, planned, one.from) || busy(snapshot, planned, one.to)
        };
        if planned.moves.iter().any(|one| full(one, &world.snapshot())) {
            return Ok(Begun::Later);
        }
        // Nobody else begins a planned move between the look and the order.
        let _turn = world.moves.lock().await;
        let snapshot = world.inventory.at_least(world.store.revision().await?).await;
        let (mut orders, mut labels) = (Vec::new(), Vec::new());
        let (mut vms, mut ends) = (Vec::new(), None);
        for one in &planned.moves {
            let (label, child) = attempt(self.step, self.retry, planned, one.vm).await?;
            if child.is_some() {
                // On its way since before a crash: the others are allowed with it or not at all.
                labels.push(label);
                vms.push(one.vm);
                continue;
            }
            let Some(vm) = snapshot.get::<VmKind>(one.vm) else {
                return Ok(Begun::Never(Made::skipped("its VM is gone")));
            };
            if vm.status.host == one.to {
                continue;
            }
            if vm.status.host != one.from {
                let host = host_name(&snapshot, vm.status.host);
                let told = format!("vm `{}` is on host `{host}` by now", vm.name());
                return Ok(Begun::Never(Made::skipped(told)));
            }
            match chosen(&snapshot, vm, one.to) {
                Ok(order) => orders.push((label, order)),
                Err(error) => return Ok(Begun::Never(Made::skipped(error.message))),
            }
            vms.push(one.vm);
            ends = Some((one.from, one.to));
        }
        if let Some((from, to)) = ends {
            if busy(&snapshot, planned, from) || busy(&snapshot, planned, to) {
                return Ok(Begun::Later);
            }
            let moving = snapshot.migrating().filter_map(|task| Migration::of(task));
            let moving = moving.filter(|one| !vms.contains(&one.vm));
            let moving: Vec<_> = moving.map(|one| (one.vm, one.to)).collect();
            let found = (world.placement)
                .on_board(&world.inventory, |board| board.may_begin(&vms, to, &moving));
            if found.as_ref().is_none_or(|found| !found.is_empty()) {
                // What is in the way may be on its way out of it.
                if !self.on_their_way.is_empty() {
                    return Ok(Begun::Later);
                }
                let told: Vec<_> = found.iter().flatten().map(ToString::to_string).collect();
                let told = format!("host `{}` {}", host_name(&snapshot, to), told.join("; "));
                return Ok(Begun::Never(Made::skipped(told)));
            }
        }
        for (label, order) in orders {
            match step.submit_child(&label, order.submit(step.actor())).await {
                Ok(child) => {
                    if let Some(child) = child {
                        world.inventory.at_least(child.metadata.revision).await;
                    }
                    labels.push(label);
                }
                // It has changed just now; what was ordered is found again.
                Err(StepError::Retry { .. }) => return Ok(Begun::Later),
                Err(StepError::Failed { message, .. }) if labels.is_empty() => {
                    return Ok(Begun::Never(Made::skipped(message)));
                }
                // Those that have begun are waited for; that the others are missing is told.
                Err(StepError::Failed { message, .. }) => {
                    self.wait(at, labels, Some(message));
                    return Ok(Begun::Yes);
                }
            }
        }
        if labels.is_empty() {
            return Ok(Begun::Never(Made::moved()));
        }
        self.wait(at, labels, None);
        Ok(Begun::Yes)
    }

    /// Waits for moves of a step; `missing` is why it has others that did not begin.
    fn wait(&mut self, at: usize, labels: Vec<String>, missing: Option<String>) {
        self.states[at] = State::Moving;
        self.since = Instant::now();
        let step = self.step.clone();
        let waiting = async move {
            let all = labels.iter().map(|label| step.wait_child(label));
            let mut failures: Vec<_> = missing.into_iter().collect();
            for ended in join_all(all).await {
                match ended {
                    Ok(_) => {}
                    Err(StepError::Failed { message, .. }) => failures.push(message),
                    Err(error) => return (at, Err(error)),
                }
            }
            let made = match failures.is_empty() {
                true => Made::moved(),
                false => Made::failed(failures.join("; ")),
            };
            (at, Ok(made))
        };
        self.on_their_way.push(waiting.boxed());
    }

    fn end(&mut self, at: usize, made: Made) {
        if let Some(told) = &made.told {
            let names = self.names(at);
            self.step.message(format!("not moved: {names}: {told}"));
        }
        self.states[at] = State::Ended(made);
        self.since = Instant::now();
    }

    /// As in `web01, web02 to host2`.
    fn names(&self, at: usize) -> String {
        let snapshot = self.step.world().snapshot();
        let moves = &self.steps[at].moves;
        let names = moves.iter().map(|one| vm_name(&snapshot, one.vm));
        let to = moves.first().map(|one| host_name(&snapshot, one.to)).unwrap_or_default();
        format!("{} to {to}", names.collect::<Vec<_>>().join(", "))
    }

    fn report(&self) {
        let ended = self.states.iter().filter(|state| matches!(state, State::Ended(_))).count();
        let moving = (0..self.steps.len()).filter(|at| self.states[*at] == State::Moving);
        let moving: Vec<_> = moving.map(|at| self.names(at)).collect();
        let all = self.steps.len();
        let percent = u8::try_from(ended * 100 / all.max(1)).ok();
        let now = match moving.is_empty() {
            true => "waiting for a place at both hosts".to_owned(),
            false => format!("moving {}", moving.join("; ")),
        };
        self.step.progress(percent, format!("{ended} of {all}; {now}"));
    }
}

/// The label of a move, and the child of that label if there is one already.
async fn attempt(
    step: &Step,
    retry: Retry,
    planned: &PlannedStep,
    vm: VmId,
) -> Result<(String, Option<Task>), StepError> {
    for number in 0.. {
        let label = label(planned, vm, number);
        let child = step.child(&label).await?;
        let over = child.as_ref().is_some_and(|child| child.status.state.is_terminal());
        if !over || retry == Retry::Never {
            return Ok((label, child));
        }
    }
    Err(StepError::internal("a move has no number left"))
}

fn label(planned: &PlannedStep, vm: VmId, number: u32) -> String {
    format!("{}/{vm}/{number}", planned.id)
}

/// Whether a host has as many moves under way as it may, whoever asked for them. Those of the step itself
/// do not count, nor does what is stuck, and so moves nothing.
fn busy(snapshot: &Snapshot, planned: &PlannedStep, host: HostId) -> bool {
    let others = snapshot
        .migrating()
        .filter(|task| task.status.state != TaskState::Stuck)
        .filter_map(|task| Migration::of(task))
        .filter(|one| planned.moves.iter().all(|own| own.vm != one.vm));
    let count = others.filter(|one| one.from == host || one.to == host).count();
    count > 0 && count + planned.moves.len() > PER_HOST
}

pub(super) fn host_name(snapshot: &Snapshot, host: HostId) -> String {
    let found = snapshot.get::<HostKind>(host);
    found.map_or_else(|| host.to_string(), |host| host.name().to_string())
}

pub(super) fn vm_name(snapshot: &Snapshot, vm: VmId) -> String {
    let found = snapshot.get::<VmKind>(vm);
    found.map_or_else(|| vm.to_string(), |vm| vm.name().to_string())
}

/// Which of the steps of a list were made, by outcome.
pub(super) fn counted(made: &[Made]) -> HashMap<&'static str, usize> {
    let mut counts = HashMap::new();
    for one in made {
        *counts.entry(one.outcome.as_str()).or_default() += 1;
    }
    counts
}
