//! `vm.migrate`: Moves a VM to another host that has its datastore.
//!
//! 1. `move`: one that runs: the source tells what the target must know, the target starts a QEMU that
//!    waits, the source sends the guest and gives it away. One that is off: the target takes the files
//!    in. The record of the new owner, with the next epoch, goes with the step's end. Undone by ending
//!    what was prepared; once the source has given the guest away there is no way back, so then the
//!    undo brings the move to its end instead.
//! 2. `forget`: the source is told to forget its record; of a live move this is not waited for. No way
//!    back.
//!
//! The server only asks: that exactly one host has the guest is between the two agents (ADR 0019).
//!
//! A target that does not answer is not waited for: the VM stays where it is. What the target has of it
//! then goes when it comes back (`controllers/hosts/stale.rs`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use hostler_agent_api::{
    VmCommand, VmCreateRequest, VmDefinition, VmEpoch, VmMigrateRequest, VmMigrationPrepareRequest,
    VmMoved, VmReport, code,
};
use hostler_store::Write;
use hostler_tasks::{Definition, Outcome, Step as TaskStep, StepError, StepResult};
use hostler_types::{Epoch, HostId, HostKind, LastMove, MigrationPolicy, Task, Vm, VmId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::command::{
    Step, ask, ask_for, definition as define, from_service, linked, operation_for, vm, vm_if_there,
};
use crate::agents::{AgentError, AgentLink};
use crate::move_forecast::{self, Move};
use crate::reports::{absorb, lose};
use crate::services::Order;
use crate::tasks::naming::named_report;
use crate::world::Core;

/// What the tasks of this file are called.
pub(crate) const ACTION: &str = "vm.migrate";
/// The wait before something is looked at again.
const AGAIN: Duration = Duration::from_secs(1);
/// The code of a move whose target has not answered.
const UNREACHABLE: &str = "host_unreachable";

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Input {
    pub(crate) vm: VmId,
    pub(crate) from: HostId,
    pub(crate) to: HostId,
    /// Under which the source owns it.
    pub(crate) epoch: Epoch,
    /// It runs, and goes on running.
    pub(crate) live: bool,
    pub(crate) max_bandwidth: Option<u64>,
    pub(crate) downtime_ms: u64,
    pub(crate) policy: MigrationPolicy,
}

/// What the step has to tell, for who looks at the task.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Told {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    moved: Option<VmMoved>,
}

pub(crate) fn definition() -> Definition<Core> {
    Definition::new(ACTION)
        .step(TaskStep::new("move", move_).undo(stay))
        .step(TaskStep::new("forget", forget).no_return())
}

pub(crate) fn order(vm: &Vm, input: &Input) -> Order {
    // A large guest takes as long as it takes; who waits can cancel.
    Order::new(ACTION, vm, input)
}

async fn move_(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let vm = vm(&step, input.vm).await?;
    if input.live { send(&step, &input, vm).await } else { hand_over(&step, &input, vm).await }
}

impl Input {
    /// Of a task.
    pub(crate) fn of(task: &Task) -> Option<Self> {
        serde_json::from_value(task.spec.input.clone()).ok()
    }

    fn next(&self) -> Epoch {
        Epoch(self.epoch.0 + 1)
    }

    fn command(&self, step: &Step, label: &str, epoch: Epoch) -> VmCommand {
        VmCommand { op: operation_for(step, label), epoch }
    }
}

async fn send(step: &Step, input: &Input, vm: Vm) -> StepResult {
    let source = linked(step, input.from)?;
    let _turn = step.world().migrations.turn(step, [input.from, input.to]).await?;
    let offer = input.command(step, "offer", input.epoch);
    let call = source.vm_migration_offer(vm.id(), offer);
    let offered = ask_for(step, "offer", step.cancelled(), &source, offer.op, call).await?;
    let moved = match offered.moved {
        Some(moved) => moved,
        None => sent(step, input, &vm, &source, offered.luggage).await?,
    };
    tell(step, &vm, &moved, input.downtime_ms);
    settled(step, input, vm, Some(moved)).await
}

/// Prepares the target, and lets the source send the guest there.
async fn sent(
    step: &Step,
    input: &Input,
    vm: &Vm,
    source: &Arc<dyn AgentLink>,
    luggage: serde_json::Value,
) -> Result<VmMoved, StepError> {
    if input.policy == MigrationPolicy::Refuse {
        require_short(step, input, vm, source).await?;
    }
    step.progress(None, "starting QEMU on the other host");
    let command = input.command(step, "prepare", input.next());
    let definition = define(step, vm)?;
    let request = VmMigrationPrepareRequest { command, definition, from: input.from, luggage };
    of_target(step, input.to, patience(step), |target| {
        let request = request.clone();
        Box::pin(async move {
            let call = target.vm_migration_prepare(vm.id(), request);
            ask_for(step, "prepare", step.cancelled(), &target, command.op, call).await
        })
    })
    .await?;
    let command = input.command(step, "migrate", input.epoch);
    let reporting = step.clone();
    let _listening = step.world().progress.listen(command.op, move |progress| {
        reporting.progress(progress.percent, progress.activity);
    });
    let request = VmMigrateRequest {
        command,
        to: input.to,
        address: address(step, input.to)?,
        epoch: input.next(),
        max_bandwidth: input.max_bandwidth,
        downtime_ms: input.downtime_ms,
        policy: input.policy,
    };
    let call = source.vm_migrate(vm.id(), request);
    ask_for(step, "migrate", step.cancelled(), source, command.op, call).await
}

/// Refuses a guest that would stand still for too long before anything is done for it. What cannot be
/// measured is tried: the source refuses as well once it sees how it goes.
async fn require_short(
    step: &Step,
    input: &Input,
    vm: &Vm,
    source: &Arc<dyn AgentLink>,
) -> Result<(), StepError> {
    step.progress(None, "measuring how fast the guest writes");
    let (budget_ms, max_bandwidth) = (input.downtime_ms, input.max_bandwidth);
    let planned = Move { vm: vm.id(), to: input.to, budget_ms, max_bandwidth };
    match move_forecast::of_move(&step.world().snapshot(), source.as_ref(), planned).await {
        Ok(Some(forecast)) if !forecast.fits(budget_ms) => {
            let name = vm.name();
            Err(StepError::failed(
                "not_movable",
                format!(
                    "vm `{name}` would stand still for longer than the {budget_ms} ms that it may: \
                     {forecast}; allow more (`hostler vm set {name} --downtime-budget`), slow it down \
                     (`--downtime-policy throttle`), or try when it does less"
                ),
            ))
        }
        Ok(_) => Ok(()),
        Err(error) => {
            tracing::info!(vm = %vm.id(), %error, "what a move takes was not measured");
            Ok(())
        }
    }
}

fn patience(step: &Step) -> Duration {
    step.world().settings.migration_patience
}

/// Asks the target until it answers, but no longer than `patience`: what is asked fails then.
async fn of_target<'a, T>(
    step: &Step,
    host: HostId,
    patience: Duration,
    ask: impl Fn(Arc<dyn AgentLink>) -> BoxFuture<'a, Result<T, StepError>> + Send + Sync,
) -> Result<T, StepError> {
    let begun = Instant::now();
    loop {
        let answer = match linked(step, host) {
            Ok(target) => ask(target).await,
            Err(error) => Err(error),
        };
        let (after, message) = match answer {
            Err(StepError::Retry { after, message }) => (after, message),
            ended => return ended,
        };
        if begun.elapsed() >= patience {
            let seconds = patience.as_secs();
            let message = format!(
                "the host that the VM was to go to has not answered for {seconds} s ({message}); the VM \
                 stays where it is"
            );
            return Err(StepError::failed(UNREACHABLE, message));
        }
        step.progress(None, format!("waiting for the other host: {message}"));
        tokio::select! {
            () = step.cancelled().cancelled() => return Err(StepError::cancelled()),
            () = tokio::time::sleep(after) => {}
        }
    }
}

fn address(step: &Step, host: HostId) -> Result<String, StepError> {
    let snapshot = step.world().snapshot();
    let host = snapshot.get::<HostKind>(host);
    let host = host.ok_or_else(|| StepError::failed("not_found", "the host is gone"))?;
    Ok(host.spec.address.clone())
}

/// Says so when a guest stood still for longer than it was to.
fn over(paused_microseconds: u64, allowed_ms: u64) -> String {
    match paused_microseconds > allowed_ms * 1000 {
        true => format!(" ({allowed_ms} ms were allowed)"),
        false => String::new(),
    }
}

fn tell(step: &Step, vm: &Vm, moved: &VmMoved, allowed_ms: u64) {
    if moved.paused_microseconds == 0 {
        return;
    }
    let name = vm.name();
    let [paused, total] = [moved.paused_microseconds, moved.total_microseconds].map(tenths);
    step.message(format!(
        "vm {name} stood still for {paused} ms{}; moving it took {total} ms, and {} MiB were sent",
        over(moved.paused_microseconds, allowed_ms),
        moved.transferred >> 20
    ));
}

/// What of it is kept with the VM, if it is known how it went.
fn last_move(input: &Input, moved: &VmMoved) -> Option<LastMove> {
    (moved.paused_microseconds > 0).then(|| LastMove {
        at: Timestamp::now(),
        from: input.from,
        paused_microseconds: moved.paused_microseconds,
        allowed_ms: input.downtime_ms,
        total_microseconds: moved.total_microseconds,
        transferred: moved.transferred,
    })
}

/// Milliseconds with one decimal.
fn tenths(microseconds: u64) -> String {
    format!("{}.{}", microseconds / 1000, microseconds % 1000 / 100)
}

/// What the target says of the VM: as it has told the source, or later by itself; else it is let to
/// take the guest, if it has not, and asked.
async fn taken(
    step: &Step,
    input: &Input,
    vm: VmId,
    told: Option<Box<VmReport>>,
) -> Result<VmReport, AgentError> {
    let epoch = input.next();
    // What it says by itself may have come before what the source was told, but was said after it.
    let known = step.world().reports.of(input.to, vm, epoch);
    if let Some(report) = told {
        return Ok(known.filter(|known| known.since >= report.since).unwrap_or(*report));
    }
    match linked(step, input.to) {
        Ok(target) => target.vm_migration_take(vm, VmEpoch { epoch }).await,
        Err(error) => {
            Err(AgentError::Unreachable { host: input.to.to_string(), reason: error.to_string() })
        }
    }
}

/// The source has given the guest away: lets the target take it, if it has not, and records it.
async fn settled(step: &Step, input: &Input, mut vm: Vm, moved: Option<VmMoved>) -> StepResult {
    let epoch = input.next();
    let (mut moved, id) = (moved, vm.id());
    let told = moved.as_mut().and_then(|moved| moved.report.take());
    let taken = taken(step, input, id, told).await;
    vm.status.host = input.to;
    vm.status.moved_at = Some(Timestamp::now());
    vm.status.last_move = moved.as_ref().and_then(|moved| last_move(input, moved));
    vm.status.epoch = epoch;
    match taken {
        Ok(report) => {
            step.world().reports.answer(input.to, &report);
            absorb(&mut vm.status, &named_report(&step.world().snapshot(), &report));
        }
        // It has told the source that the guest runs there; what has become of it since is not known.
        Err(AgentError::Unreachable { host, .. }) if moved.as_ref().is_some_and(|m| m.taken) => {
            step.message(
                "the guest runs on the other host, which does not answer the server just now",
            );
            lose(&mut vm.status, Timestamp::now(), &host);
        }
        // Nobody else can have the guest any more. Whatever is in the way has to go.
        Err(error) => return Err(StepError::retry(AGAIN, error.to_string())),
    }
    Ok(Outcome::of(&Told { moved }).with(Write::update(&vm)))
}

/// Of a VM that is off only the owner changes.
async fn hand_over(step: &Step, input: &Input, mut vm: Vm) -> StepResult {
    let definition = define(step, &vm)?;
    let id = vm.id();
    let report = of_target(step, input.to, patience(step), |target| {
        let definition = definition.clone();
        Box::pin(taken_in(step, input, id, definition, target))
    })
    .await?;
    vm.status.host = input.to;
    vm.status.moved_at = Some(Timestamp::now());
    vm.status.last_move = None;
    vm.status.epoch = input.next();
    step.world().reports.answer(input.to, &report);
    absorb(&mut vm.status, &named_report(&step.world().snapshot(), &report));
    Ok(Outcome::of(&Told { moved: None }).with(Write::update(&vm)))
}

async fn taken_in(
    step: &Step,
    input: &Input,
    vm: VmId,
    definition: VmDefinition,
    target: Arc<dyn AgentLink>,
) -> Result<VmReport, StepError> {
    // It may still have what is left of the VM from before it went from there. What it has under this
    // epoch is this step's own, and is not forgotten.
    let command = input.command(step, "forget", input.next());
    match target.vm_migration_forget(vm, command).await {
        Ok(()) | Err(AgentError::Refused(_)) => {}
        Err(error) => return Err(StepError::retry(AGAIN, error.to_string())),
    }
    let command = input.command(step, "register", input.next());
    let call = target.vm_register(vm, VmCreateRequest { command, definition });
    ask_for(step, "register", step.cancelled(), &target, command.op, call).await
}

/// What was prepared is ended; or the move comes to its end.
async fn stay(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let Some(vm) = vm_if_there(&step, input.vm).await? else { return Ok(Outcome::none()) };
    // When it comes back later it ends what was prepared anyway.
    let farewell = patience(&step) / 3;
    if !input.live {
        // Under an epoch that is later than any it has there, so that it is forgotten.
        let command = input.command(&step, "forget", Epoch(input.next().0 + 1));
        let (step, id) = (&step, vm.id());
        let forgotten = of_target(step, input.to, farewell, |target| {
            Box::pin(async move {
                let call = target.vm_migration_forget(id, command);
                in_time(farewell, ask(step, &target, command.op, call)).await
            })
        });
        return forgotten.await.or_else(|error| left_there(step, error)).map(|()| Outcome::none());
    }
    let source = linked(&step, input.from)?;
    let command = VmCommand { op: operation_for(&step, "ask"), epoch: input.epoch };
    match source.vm_migration_offer(vm.id(), command).await {
        Ok(offer) => {
            if let Some(moved) = offer.moved {
                step.message("the guest had been given to the other host, and stays there");
                let (id, told) = (vm.id(), settled(&step, &input, vm, Some(moved)).await?);
                let command = input.command(&step, "forget", input.next());
                // What is left there does nothing; see `left_alone`.
                let _best_effort = source.vm_migration_forget(id, command).await;
                return Ok(told);
            }
        }
        // A migration that its task has lost goes on, or is just ending.
        Err(AgentError::Refused(problem)) if problem.code == code::IN_USE => {
            return Err(StepError::retry(AGAIN, problem.to_string()));
        }
        // It cannot be sent, so it was not.
        Err(AgentError::Refused(_)) => {}
        Err(error) => return Err(StepError::retry(AGAIN, error.to_string())),
    }
    let command = input.command(&step, "abandon", input.next());
    let id = vm.id();
    let abandoned = of_target(&step, input.to, farewell, |target| {
        Box::pin(async move {
            let abandoned = async {
                match target.vm_migration_abandon(id, command).await {
                    Ok(()) => Ok(()),
                    Err(AgentError::Refused(problem)) => {
                        Err(StepError::failed(problem.code.clone(), problem.to_string()))
                    }
                    Err(error) => Err(StepError::retry(AGAIN, error.to_string())),
                }
            };
            in_time(farewell, abandoned).await
        })
    });
    match abandoned.await {
        // It has taken the guest, and the source has forgotten it already.
        Err(StepError::Failed { code, .. }) if code == code::WRONG_STATE => {
            settled(&step, &input, vm, None).await
        }
        ended => ended.or_else(|error| left_there(&step, error)).map(|()| Outcome::none()),
    }
}

/// For a host that takes a call and does not answer it.
async fn in_time<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, StepError>>,
) -> Result<T, StepError> {
    let late = |_| StepError::retry(AGAIN, format!("no answer within {} s", limit.as_secs()));
    tokio::time::timeout(limit, call).await.map_err(late)?
}

/// The target does not answer. The VM is not its own, whatever it has of it; when it comes back it is
/// told so.
fn left_there(step: &Step, error: StepError) -> Result<(), StepError> {
    match error {
        StepError::Failed { code, .. } if code == UNREACHABLE => {
            step.message("the other host forgets what was prepared when it comes back");
            Ok(())
        }
        error => Err(error),
    }
}

async fn forget(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let Ok(source) = step.world().link(input.from).map_err(from_service) else {
        return Ok(left_alone(&step));
    };
    let command = input.command(&step, "forget", input.next());
    if input.live {
        // The guest runs on the other host, and who waits for that need not wait until the old QEMU's
        // memory is given back. An order that is lost is given again when the source connects anew.
        tokio::spawn(async move {
            if let Err(error) = source.vm_migration_forget(input.vm, command).await {
                tracing::warn!(vm = %input.vm, %error, "the host that a VM has left keeps its record");
            }
        });
        return Ok(Outcome::none());
    }
    match source.vm_migration_forget(input.vm, command).await {
        Ok(()) => Ok(Outcome::none()),
        Err(AgentError::Refused(problem)) => Err(StepError::failed("refused", problem.to_string())),
        Err(AgentError::Unreachable { .. }) => Ok(left_alone(&step)),
    }
}

/// The host that the VM has left does not answer. What it has of the VM does nothing, and goes when the
/// host comes back.
fn left_alone(step: &Step) -> Outcome {
    step.message("the host that the VM has left does not answer; it forgets the VM later");
    Outcome::none()
}
