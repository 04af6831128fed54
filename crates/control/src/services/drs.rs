//! Balancing: what it would do, doing it, and what it has done.

use hostler_types::{
    ClusterKind, DrsApplied, DrsApply, DrsRun, Recommendations, Role, Task, TaskId,
};

use super::Options;
use super::submit::{before, order};
use crate::actor::{Actor, authorize};
use crate::drs::{For, Planned, plan};
use crate::error::ServiceError;
use crate::tasks::drs_apply;
use crate::world::World;

const LONGEST_LIST: usize = 1_000;

/// What balancing would do now, with the reason of each move. Nothing is moved.
///
/// # Errors
/// `forbidden`.
pub async fn recommendations(
    world: &World,
    actor: &Actor,
) -> Result<Recommendations, ServiceError> {
    authorize(actor, Role::Viewer, "see recommendations")?;
    let planned = plan(world, For::Balance).await?;
    Ok(Recommendations {
        revision: planned.snapshot.revision,
        steps: planned.recommended(&planned.all()),
        blocked: planned.blocked().collect(),
    })
}

/// Carries out recommendations: all of them, or those that are named and what they wait for. A dry run
/// tells which those are.
///
/// # Errors
/// `forbidden`, `recommendation_gone`, `busy` while another plan is carried out.
pub async fn apply(
    world: &World,
    actor: &Actor,
    request: &DrsApply,
    options: &Options,
) -> Result<DrsApplied, ServiceError> {
    authorize(actor, Role::Operator, "move VMs")?;
    if let Some(task) = before(world, actor, options, drs_apply::ACTION, request).await? {
        return Ok(DrsApplied { task: Some(Task::clone(&task)), steps: Vec::new() });
    }
    let planned = plan(world, For::Balance).await?;
    let wanted = &request.recommendations;
    for id in wanted {
        if !planned.plan.steps.iter().any(|step| Planned::id(step) == *id) {
            let message = format!("balancing does not recommend `{id}` any more, or never did");
            return Err(ServiceError::conflict("recommendation_gone", message)
                .hint("see `hostler drs recommendations` for what it recommends now"));
        }
    }
    let chosen = match wanted.is_empty() {
        true => planned.all(),
        false => planned.select(|step| wanted.contains(&Planned::id(step))),
    };
    let steps = planned.recommended(&chosen);
    if options.dry_run || chosen.is_empty() {
        return Ok(DrsApplied { task: None, steps });
    }
    let cluster = planned.snapshot.find::<ClusterKind>(&planned.snapshot.cluster()?.reference())?;
    let ordering = order(world, actor, options, drs_apply::ACTION, request, |_| {
        Ok(drs_apply::order(cluster, &planned, &chosen))
    });
    let task = ordering.await?;
    Ok(DrsApplied { task: Some(Task::clone(&task)), steps })
}

/// What balancing has done, the newest first.
///
/// # Errors
/// `forbidden`, `invalid`.
pub async fn history(
    world: &World,
    actor: &Actor,
    before: Option<TaskId>,
    limit: Option<u32>,
) -> Result<Vec<DrsRun>, ServiceError> {
    authorize(actor, Role::Viewer, "see what balancing has done")?;
    let limit = limit.map_or(100, |limit| limit as usize);
    if !(1..=LONGEST_LIST).contains(&limit) {
        let reason = format!("{limit} is not possible; 1 to {LONGEST_LIST}");
        return Err(ServiceError::invalid("limit", reason));
    }
    Ok(world.store.drs_runs(before, limit).await?)
}
