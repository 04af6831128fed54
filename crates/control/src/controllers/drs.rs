//! Balances the cluster as far as its automation level allows it: plans when the inventory changes and
//! every minute, and has the plan carried out by a task `drs.apply`.
//!
//! What must be (hosts in maintenance, `must` rules) is done at once. What is for the load's sake must have
//! been recommended for two minutes without a break: a peak moves nothing. A VM that moved stays for a
//! while, which its record says, so that a restart does not make it forgotten; one that was to be moved
//! and was not is tried again only after five minutes. While a plan is carried out there is no other: its
//! task holds the cluster, and goes on after a restart.
//!
//! What it does not do: recommend. Whoever asks for recommendations has them made anew.

use std::collections::HashMap;
use std::sync::Arc;

use hostler_policy::balance::{Step, Why};
use hostler_tasks::{Engine, TaskError};
use hostler_types::{Automation, HostId, VmId, VmKind};
use tokio::time::Instant;

use crate::drs::{For, Planned, plan};
use crate::error::ServiceError;
use crate::inventory::Snapshot;
use crate::tasks::drs_apply;
use crate::world::{BalancingPace, Core};

/// Planning may take this part of the time: a tenth.
const PART: u32 = 10;

pub(super) async fn run(core: Arc<Core>, engine: Engine<Core>) {
    let pace = core.settings.balancing;
    let (mut revisions, mut memory) = (core.inventory.revisions(), Memory::default());
    loop {
        let begin = Instant::now();
        revisions.borrow_and_update();
        if let Err(error) = pass(&core, &engine, &mut memory).await {
            tracing::warn!(%error, "the cluster cannot be balanced now");
        }
        let rest = pace.shortest.max(begin.elapsed() * PART);
        tokio::time::sleep(rest).await;
        let longest = pace.longest.saturating_sub(rest);
        if let Ok(Err(_closed)) = tokio::time::timeout(longest, revisions.changed()).await {
            return;
        }
    }
}

/// Plans once, and has done what may be done now.
async fn pass(core: &Core, engine: &Engine<Core>, memory: &mut Memory) -> Result<(), ServiceError> {
    let snapshot = core.snapshot();
    let cluster = snapshot.cluster()?.clone();
    if snapshot.task_on(cluster.id().untyped()).is_some() || !acts(&snapshot) {
        return Ok(());
    }
    let planned = plan(core, For::Balance).await?;
    let (now, pace) = (Instant::now(), core.settings.balancing);
    memory.see(&planned.plan.steps, pace, now);
    let chosen = planned.select_allowed(
        |step| step.why != Why::Room && (is_mandatory(step) || memory.is_steady(step, pace, now)),
        |step| step.automatic && !memory.was_tried(step) && !is_evacuated(&snapshot, step),
    );
    if chosen.is_empty() {
        return Ok(());
    }
    let order = drs_apply::order(&cluster, &planned, &chosen);
    match engine.submit(order.submit("system")).await {
        Ok(task) => {
            tracing::info!(task = %task.name(), steps = chosen.len(), "the cluster is balanced");
            memory.tried(&planned, chosen, now);
        }
        // Somebody else was faster: that plan is as good.
        Err(TaskError::Locked { .. }) => {}
        Err(error) => tracing::warn!(%error, "the cluster cannot be balanced now"),
    }
    Ok(())
}

/// Whether anything may be moved without asking.
fn acts(snapshot: &Snapshot) -> bool {
    let full = |level: Option<Automation>| level == Some(Automation::Full);
    full(snapshot.cluster().ok().map(|cluster| cluster.spec.automation))
        || snapshot.all::<VmKind>().iter().any(|vm| full(vm.spec.automation))
}

fn is_mandatory(step: &Step) -> bool {
    match step.why {
        Why::Maintenance | Why::Wanted => true,
        // A wish gains something; what must be gains nothing.
        Why::Rule => step.gain <= 0.0,
        Why::Load | Why::Room => false,
    }
}

/// Whether the host's own task moves it.
fn is_evacuated(snapshot: &Snapshot, step: &Step) -> bool {
    let busy = |host: HostId| snapshot.task_on(host.untyped()).is_some();
    step.why == Why::Maintenance && step.moves.iter().any(|one| busy(one.from))
}

/// What is known from earlier passes.
#[derive(Debug, Default)]
struct Memory {
    /// VMs that are recommended to leave their host, and since when.
    since: HashMap<(VmId, HostId), Instant>,
    /// VMs that were to be moved, and when.
    tried: HashMap<VmId, Instant>,
}

impl Memory {
    /// What is recommended no more is forgotten.
    fn see(&mut self, steps: &[Step], pace: BalancingPace, now: Instant) {
        let moves = steps.iter().flat_map(|step| &step.moves);
        self.since = moves
            .map(|one| {
                let leaving = (one.vm, one.from);
                (leaving, self.since.get(&leaving).copied().unwrap_or(now))
            })
            .collect();
        self.tried.retain(|_, at| now.duration_since(*at) < pace.again);
    }

    fn is_steady(&self, step: &Step, pace: BalancingPace, now: Instant) -> bool {
        step.moves.iter().all(|one| {
            let since = self.since.get(&(one.vm, one.from));
            since.is_some_and(|since| now.duration_since(*since) >= pace.steady)
        })
    }

    fn was_tried(&self, step: &Step) -> bool {
        step.moves.iter().any(|one| self.tried.contains_key(&one.vm))
    }

    fn tried(&mut self, planned: &Planned, chosen: impl IntoIterator<Item = usize>, now: Instant) {
        for at in chosen {
            let moves = planned.plan.steps.get(at).map(|step| &step.moves);
            self.tried.extend(moves.into_iter().flatten().map(|one| (one.vm, now)));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hostler_policy::balance::Move;

    use super::*;

    fn step(vm: VmId, from: HostId, to: HostId) -> Step {
        Step {
            moves: vec![Move { vm, from, to }],
            why: Why::Load,
            after: Vec::new(),
            wave: 0,
            automatic: true,
            reason: String::new(),
            gain: 0.1,
            seconds: 1.0,
        }
    }

    #[test]
    fn what_is_recommended_without_a_break_is_steady_wherever_it_is_to_go() {
        let (mut memory, pace, begin) =
            (Memory::default(), BalancingPace::default(), Instant::now());
        let (vm, from) = (VmId::generate(), HostId::generate());
        let mut look = |second: u64, steps: &[Step]| {
            let now = begin + Duration::from_secs(second);
            memory.see(steps, pace, now);
            steps.iter().map(|step| memory.is_steady(step, pace, now)).collect::<Vec<_>>()
        };
        let to = |_| step(vm, from, HostId::generate());
        assert_eq!(look(0, &[to(0)]), [false]);
        assert_eq!(look(60, &[to(1)]), [false]);
        assert_eq!(look(120, &[to(2)]), [true]);
        assert!(look(130, &[]).is_empty());
        assert_eq!(look(140, &[to(3)]), [false], "there was a break");
    }
}
