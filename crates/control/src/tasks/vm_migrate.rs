//! `vm.migrate`: Moves a VM to another host that has its datastore.
//!
//! 1. `move`: one that runs: the source tells what the target must know, the target starts a QEMU that
//!    waits, the source sends the guest and gives it away. One that is off: the target takes the files
//!    in. The record of the new owner, with the next epoch, goes with the step's end. Undone by ending
//!    what was prepared; once the source has given the guest away there is no way back, so then the
//!    undo brings the move to its end instead.
//! 2. `forget`: the source's record goes. No way back.
//!
//! The server only asks: that exactly one host has the guest is between the two agents (ADR 0019).

use std::sync::Arc;
use std::time::Duration;

use hostler_agent_api::{
    VmCommand, VmCreateRequest, VmEpoch, VmMigrateRequest, VmMigrationPrepareRequest, VmMoved, code,
};
use hostler_store::Write;
use hostler_tasks::{Definition, Outcome, Step as TaskStep, StepError, StepResult};
use hostler_types::{Epoch, HostId, HostKind, MigrationPolicy, Task, Vm, VmId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::command::{
    Step, ask, ask_for, definition as define, from_service, linked, operation_for, vm, vm_if_there,
};
use crate::agents::{AgentError, AgentLink};
use crate::reports::absorb;
use crate::services::Order;
use crate::tasks::naming::named_report;
use crate::world::Core;

/// What the tasks of this file are called.
pub(crate) const ACTION: &str = "vm.migrate";
/// The wait before something is looked at again.
const AGAIN: Duration = Duration::from_secs(1);

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
    let (source, target) = (linked(step, input.from)?, linked(step, input.to)?);
    let _turn = step.world().migrations.turn(step, [input.from, input.to]).await?;
    let offer = input.command(step, "offer", input.epoch);
    let call = source.vm_migration_offer(vm.id(), offer);
    let offered = ask_for(step, "offer", step.cancelled(), &source, offer.op, call).await?;
    let moved = match offered.moved {
        Some(moved) => moved,
        None => sent(step, input, &vm, (&source, &target), offered.luggage).await?,
    };
    tell(step, &vm, &moved);
    settled(step, input, vm, &target, Some(moved)).await
}

/// Prepares the target, and lets the source send the guest there.
async fn sent(
    step: &Step,
    input: &Input,
    vm: &Vm,
    (source, target): (&Arc<dyn AgentLink>, &Arc<dyn AgentLink>),
    luggage: serde_json::Value,
) -> Result<VmMoved, StepError> {
    step.progress(None, "starting QEMU on the other host");
    let command = input.command(step, "prepare", input.next());
    let definition = define(step, vm)?;
    let request = VmMigrationPrepareRequest { command, definition, from: input.from, luggage };
    let call = target.vm_migration_prepare(vm.id(), request);
    ask_for(step, "prepare", step.cancelled(), target, command.op, call).await?;
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

fn address(step: &Step, host: HostId) -> Result<String, StepError> {
    let snapshot = step.world().snapshot();
    let host = snapshot.get::<HostKind>(host);
    let host = host.ok_or_else(|| StepError::failed("not_found", "the host is gone"))?;
    Ok(host.spec.address.clone())
}

fn tell(step: &Step, vm: &Vm, moved: &VmMoved) {
    if moved.paused_microseconds == 0 {
        return;
    }
    let name = vm.name();
    let [paused, total] = [moved.paused_microseconds, moved.total_microseconds].map(tenths);
    step.message(format!(
        "vm {name} stood still for {paused} ms; moving it took {total} ms, and {} MiB were sent",
        moved.transferred >> 20
    ));
}

/// Milliseconds with one decimal.
fn tenths(microseconds: u64) -> String {
    format!("{}.{}", microseconds / 1000, microseconds % 1000 / 100)
}

/// The source has given the guest away: lets the target take it, if it has not, and records it.
async fn settled(
    step: &Step,
    input: &Input,
    mut vm: Vm,
    target: &Arc<dyn AgentLink>,
    moved: Option<VmMoved>,
) -> StepResult {
    let epoch = input.next();
    let taken = target.vm_migration_take(vm.id(), VmEpoch { epoch }).await;
    let report = match taken {
        Ok(report) => report,
        // Nobody else can have the guest any more. Whatever is in the way has to go.
        Err(AgentError::Refused(problem)) => {
            return Err(StepError::retry(AGAIN, problem.to_string()));
        }
        Err(error) => return Err(StepError::retry(AGAIN, error.to_string())),
    };
    vm.status.host = input.to;
    vm.status.moved_at = Some(Timestamp::now());
    vm.status.epoch = epoch;
    step.world().reports.answer(input.to, &report);
    absorb(&mut vm.status, &named_report(&step.world().snapshot(), &report));
    Ok(Outcome::of(&Told { moved }).with(Write::update(&vm)))
}

/// Of a VM that is off only the owner changes.
async fn hand_over(step: &Step, input: &Input, mut vm: Vm) -> StepResult {
    let target = linked(step, input.to)?;
    // It may still have what is left of the VM from before it went from there. What it has under this
    // epoch is this step's own, and is not forgotten.
    let command = input.command(step, "forget", input.next());
    match target.vm_migration_forget(vm.id(), command).await {
        Ok(()) | Err(AgentError::Refused(_)) => {}
        Err(error) => return Err(StepError::retry(AGAIN, error.to_string())),
    }
    let command = input.command(step, "register", input.next());
    let request = VmCreateRequest { command, definition: define(step, &vm)? };
    let call = target.vm_register(vm.id(), request);
    let report = ask_for(step, "register", step.cancelled(), &target, command.op, call).await?;
    vm.status.host = input.to;
    vm.status.moved_at = Some(Timestamp::now());
    vm.status.epoch = input.next();
    step.world().reports.answer(input.to, &report);
    absorb(&mut vm.status, &named_report(&step.world().snapshot(), &report));
    Ok(Outcome::of(&Told { moved: None }).with(Write::update(&vm)))
}

/// What was prepared is ended; or the move comes to its end.
async fn stay(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let Some(vm) = vm_if_there(&step, input.vm).await? else { return Ok(Outcome::none()) };
    let target = linked(&step, input.to)?;
    if !input.live {
        // Under an epoch that is later than any it has there, so that it is forgotten.
        let command = input.command(&step, "forget", Epoch(input.next().0 + 1));
        ask(&step, &target, command.op, target.vm_migration_forget(vm.id(), command)).await?;
        return Ok(Outcome::none());
    }
    let source = linked(&step, input.from)?;
    let command = VmCommand { op: operation_for(&step, "ask"), epoch: input.epoch };
    match source.vm_migration_offer(vm.id(), command).await {
        Ok(offer) => {
            if let Some(moved) = offer.moved {
                step.message("the guest had been given to the other host, and stays there");
                let (id, told) = (vm.id(), settled(&step, &input, vm, &target, Some(moved)).await?);
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
    match target.vm_migration_abandon(vm.id(), command).await {
        Ok(()) => Ok(Outcome::none()),
        // It has taken the guest, and the source has forgotten it already.
        Err(AgentError::Refused(problem)) if problem.code == code::WRONG_STATE => {
            settled(&step, &input, vm, &target, None).await
        }
        Err(AgentError::Refused(problem)) => {
            Err(StepError::failed(problem.code.clone(), problem.to_string()))
        }
        Err(error) => Err(StepError::retry(AGAIN, error.to_string())),
    }
}

async fn forget(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let Ok(source) = step.world().link(input.from).map_err(from_service) else {
        return Ok(left_alone(&step));
    };
    let command = input.command(&step, "forget", input.next());
    match source.vm_migration_forget(input.vm, command).await {
        Ok(()) => Ok(Outcome::none()),
        Err(AgentError::Refused(problem)) => Err(StepError::failed("refused", problem.to_string())),
        Err(AgentError::Unreachable { .. }) => Ok(left_alone(&step)),
    }
}

/// The host that the VM has left does not answer. What it has of the VM does nothing, and goes when the
/// VM comes back there, or the host is asked again.
fn left_alone(step: &Step) -> Outcome {
    step.message("the host that the VM has left does not answer; it forgets the VM later");
    Outcome::none()
}
