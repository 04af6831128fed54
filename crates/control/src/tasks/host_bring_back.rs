//! `host.bring_back`: VMs that left a host for its maintenance come back to it.
//!
//! 1. `move`: each that is somewhere else and may run on the host, as far as the world allows it when
//!    its turn comes; see [`super::moves`]. What cannot come is told, and stays where it is.
//!    Undone, when it is cancelled, as it ends: those who have not come stay where they are.
//! 2. `note`: the host no longer remembers who had left.
//!
//! That the host takes VMs again was done when this was asked for, and is not undone.

use hostler_store::Write;
use hostler_tasks::{Definition, Outcome, Step as TaskStep, StepError, StepResult};
use hostler_types::{DrsOutcome, Host, HostId, HostKind, PlannedMove, PlannedStep, VmId, VmKind};
use serde::{Deserialize, Serialize};

use super::command::Step;
use super::moves::{Retry, carry_out};
use crate::inventory::Snapshot;
use crate::services::Order;
use crate::world::Core;

/// What the tasks of this file are called.
pub(crate) const ACTION: &str = "host.bring_back";

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Input {
    host: HostId,
    steps: Vec<PlannedStep>,
}

pub(crate) fn definition() -> Definition<Core> {
    Definition::new(ACTION)
        .step(TaskStep::new("move", move_).undo(note))
        .step(TaskStep::new("note", note))
}

pub(crate) fn order(snapshot: &Snapshot, host: &Host) -> Order {
    let back = host.status.evacuated.iter().filter_map(|vm| returning(snapshot, host, *vm));
    Order::new(ACTION, host, &Input { host: host.id(), steps: back.collect() })
}

/// `None`: it is gone, there already, or no VM any more that could run.
fn returning(snapshot: &Snapshot, host: &Host, vm: VmId) -> Option<PlannedStep> {
    let found = snapshot.get::<VmKind>(vm)?;
    let from = found.status.host;
    if from == host.id() || found.is_recycled() || found.is_template() {
        return None;
    }
    Some(PlannedStep {
        // One step a VM: nothing else needs to be told apart.
        id: "back".to_owned(),
        moves: vec![PlannedMove { vm, from, to: host.id() }],
        why: "maintenance".to_owned(),
        reason: format!("host `{}` is no longer in maintenance", host.name()),
        gain: 0.0,
        after: Vec::new(),
    })
}

async fn move_(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let made = carry_out(&step, &input.steps, Retry::Never).await?;
    let moved = made.iter().filter(|one| one.outcome == DrsOutcome::Moved).count();
    step.message(format!("{moved} of {} VMs came back", made.len()));
    Ok(Outcome::none())
}

async fn note(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let host = step.world().stored::<HostKind>(input.host).await?;
    let mut host = host.ok_or_else(|| StepError::failed("not_found", "the host is gone"))?;
    host.status.evacuated.clear();
    Ok(Outcome::none().with(Write::update(&host)))
}
