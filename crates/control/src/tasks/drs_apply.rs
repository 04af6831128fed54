//! `drs.apply`: Carries out recommendations of balancing.
//!
//! 1. `begin`: the run is noted in the history. It stays there whatever becomes of it.
//! 2. `move`: each step of the plan, as far as the world allows it when its turn comes; see
//!    [`super::moves`]. What has moved stays where it is, also when the task is cancelled or a move
//!    fails: any part of a plan is allowed. Undone by noting what was made.
//! 3. `measure`: notes what was made, and how balanced the cluster is now. Fails if a move did, so that
//!    the task says so; what was made is noted all the same, by the undo of `move`.
//!
//! The task holds the cluster, so that there is one plan at a time.

use std::collections::BTreeSet;
use std::sync::Arc;

use hostler_store::Write;
use hostler_tasks::{Definition, Outcome, Step as TaskStep, StepError, StepResult};
use hostler_types::{Cluster, ClusterBalance, DrsOutcome, DrsRun, DrsRunStep, PlannedStep};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::command::{Step, from_service};
use super::moves::{Made, Retry, carry_out, counted, left};
use crate::drs::{self, Planned, named_moves};
use crate::services::Order;
use crate::world::Core;

/// What the tasks of this file are called.
pub(crate) const ACTION: &str = "drs.apply";

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Input {
    steps: Vec<PlannedStep>,
    before: ClusterBalance,
    expected: ClusterBalance,
    aggressiveness: u8,
    at: Timestamp,
}

pub(crate) fn definition() -> Definition<Core> {
    Definition::new(ACTION)
        .step(TaskStep::new("begin", begin))
        .step(TaskStep::new("move", move_).undo(stopped))
        .step(TaskStep::new("measure", measure))
}

/// The selected steps of a plan.
pub(crate) fn order(cluster: &Cluster, planned: &Planned, chosen: &BTreeSet<usize>) -> Order {
    let input = Input {
        steps: planned.steps(chosen),
        before: planned.before,
        expected: planned.expected,
        aggressiveness: planned.settings.aggressiveness,
        at: Timestamp::now(),
    };
    let decision = planned.decision(ACTION, chosen).map(|one| Write::Decide(Arc::new(one)));
    let mut order = Order::new(ACTION, cluster, &input);
    order.writes.extend(decision);
    order
}

async fn begin(step: Step) -> StepResult {
    let input: Input = step.input()?;
    Ok(Outcome::none().with(kept(&step, &input, &[], None)))
}

async fn move_(step: Step) -> StepResult {
    let input: Input = step.input()?;
    Ok(Outcome::of(&carry_out(&step, &input.steps, Retry::Never).await?))
}

/// Nothing moves back: only what was made is noted, as far as that is known.
async fn stopped(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let made = match step.result_if_done("move")? {
        Some(made) => made,
        None => left(&step, &input.steps).await?,
    };
    let after = drs::measure(step.world()).await.map_err(from_service)?;
    Ok(Outcome::none().with(kept(&step, &input, &made, Some(after))))
}

async fn measure(step: Step) -> StepResult {
    let (input, made): (Input, Vec<Made>) = (step.input()?, step.result("move")?);
    let after = drs::measure(step.world()).await.map_err(from_service)?;
    let counts = counted(&made);
    let of = |outcome: DrsOutcome| counts.get(outcome.as_str()).copied().unwrap_or(0);
    let before = input.before;
    step.message(format!(
        "{} of {} moves made, {} skipped; load beyond the goal {:.2} -> {:.2} hosts, the busiest host's CPU \
         {:.0} % -> {:.0} %, broken rules {} -> {}",
        of(DrsOutcome::Moved),
        made.len(),
        of(DrsOutcome::Skipped),
        before.excess,
        after.excess,
        before.most_cpu * 100.0,
        after.most_cpu * 100.0,
        before.broken_rules,
        after.broken_rules,
    ));
    let failed: Vec<_> = made.iter().filter(|one| one.outcome == DrsOutcome::Failed).collect();
    if !failed.is_empty() {
        let told: Vec<_> = failed.iter().filter_map(|one| one.told.clone()).collect();
        let moved = of(DrsOutcome::Moved);
        let message =
            format!("{moved} of {} moves were made, and stay; {}", made.len(), told.join("; "));
        return Err(StepError::failed("moves_failed", message));
    }
    Ok(Outcome::none().with(kept(&step, &input, &made, Some(after))))
}

/// The run as it is to be kept. One that has been measured has ended.
fn kept(step: &Step, input: &Input, made: &[Made], after: Option<ClusterBalance>) -> Write {
    let snapshot = step.world().snapshot();
    let steps = input.steps.iter().enumerate().map(|(at, planned)| DrsRunStep {
        id: planned.id.clone(),
        moves: named_moves(&snapshot, &planned.moves),
        why: planned.why.clone(),
        reason: planned.reason.clone(),
        gain: planned.gain,
        outcome: made.get(at).map(|made| made.outcome).unwrap_or_default(),
        told: made.get(at).and_then(|made| made.told.clone()),
    });
    Write::KeepDrsRun(Arc::new(DrsRun {
        task: step.task_id(),
        started_at: input.at,
        ended_at: after.map(|_| Timestamp::now()),
        actor: step.actor().to_owned(),
        aggressiveness: input.aggressiveness,
        steps: steps.collect(),
        before: input.before,
        expected: input.expected,
        after,
    }))
}
