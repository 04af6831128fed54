//! `vm.migrate_storage`: Moves a VM's files to another datastore of its host, while its guest runs or not.
//!
//! 1. `move`: the agent copies them, and changes over to the copies at one instant. Undone by giving the
//!    copying up; once the agent has changed over there is no way back, and the undo records where they
//!    are.
//!
//! Which of the two sets of files is the VM's is between the agent and its record; the inventory follows.

use std::time::Duration;

use hostler_agent_api::{VmDisksMoveRequest, VmReport, code};
use hostler_store::Write;
use hostler_tasks::{Definition, Outcome, Step as TaskStep, StepError, StepResult};
use hostler_types::{DatastoreId, Vm, VmId};
use serde::{Deserialize, Serialize};

use super::command::{Step, ask, asked, command, link, operation_for, told, vm, vm_if_there};
use super::vm_flatten::copied;
use crate::agents::AgentError;
use crate::services::Order;
use crate::world::Core;

/// What the tasks of this file are called.
pub(crate) const ACTION: &str = "vm.migrate_storage";
/// The wait before something is looked at again.
const AGAIN: Duration = Duration::from_secs(1);

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Input {
    pub(crate) vm: VmId,
    pub(crate) from: DatastoreId,
    pub(crate) to: DatastoreId,
    /// Bytes a second.
    pub(crate) max_rate: Option<u64>,
}

pub(crate) fn definition() -> Definition<Core> {
    Definition::new(ACTION).step(TaskStep::new("move", move_).undo(stay))
}

pub(crate) fn order(vm: &Vm, input: &Input) -> Order {
    // Large disks take as long as they take; who waits can cancel.
    Order::new(ACTION, vm, input)
}

async fn move_(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let vm = vm(&step, input.vm).await?;
    let (link, command) = (link(&step, &vm)?, command(&step, &vm));
    let reporting = step.clone();
    let _listening = step.world().progress.listen(command.op, move |progress| {
        reporting.progress(progress.percent, progress.activity);
    });
    let Input { to: datastore, max_rate, .. } = input;
    let request = VmDisksMoveRequest { command, datastore, max_rate };
    let report = ask(&step, &link, command.op, link.vm_disks_move(vm.id(), request)).await?;
    Ok(Outcome::none().with(recorded(&step, vm, &report, datastore)))
}

/// The VM lies where its host says; what its disks were made from they do not need there.
fn recorded(step: &Step, mut vm: Vm, report: &VmReport, to: DatastoreId) -> Write {
    let from = vm.status.datastore;
    vm.status.datastore = report.datastore.unwrap_or(to);
    if vm.status.datastore != from {
        let spec = &mut vm.spec;
        for disk in spec.disks.iter_mut().chain(&mut spec.detached) {
            disk.source = copied(step, &disk.source, from);
        }
    }
    told(step, vm, report)
}

/// The copying is given up; or the VM is recorded where it has gone.
async fn stay(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let Some(vm) = vm_if_there(&step, input.vm).await? else { return Ok(Outcome::none()) };
    let link = link(&step, &vm)?;
    let _best_effort = link.operation_cancel(command(&step, &vm).op).await;
    let Some(report) = asked(&step, &vm).await else {
        return Err(StepError::retry(AGAIN, "the host does not say where the VM's files are"));
    };
    if report.datastore == Some(input.to) {
        step.message("the VM's files had gone to the other datastore, and stay there");
        return Ok(Outcome::none().with(recorded(&step, vm, &report, input.to)));
    }
    // To where it is: nothing is done, but when nothing is under way any more.
    let op = operation_for(&step, "stay");
    let command = hostler_agent_api::VmCommand { op, epoch: vm.status.epoch };
    let request = VmDisksMoveRequest { command, datastore: input.from, max_rate: None };
    match link.vm_disks_move(vm.id(), request).await {
        Ok(report) => Ok(Outcome::none().with(recorded(&step, vm, &report, input.from))),
        Err(AgentError::Refused(problem)) if problem.code == code::IN_USE => {
            step.world().attempts.refused(step.operation_id_for("stay"));
            Err(StepError::retry(AGAIN, problem.to_string()))
        }
        // It cannot be moved now, so it is not being moved.
        Err(AgentError::Refused(_)) => Ok(Outcome::none()),
        Err(error) => Err(StepError::retry(AGAIN, error.to_string())),
    }
}
