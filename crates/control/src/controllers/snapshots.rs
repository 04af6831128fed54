//! Sees to the rules of VMs' snapshots: tells what is beyond a limit, and has the oldest snapshots
//! deleted where a policy says so, in its quiet window.
//!
//! One pass looks only at VMs that have snapshots (or had, and something was told of them), and at
//! most at some of those; it comes again after each change of the inventory, when the next snapshot
//! becomes too old, and every minute while something waits for its window. What could not be done
//! (the host is away, a task is at work, the guest writes a lot) is tried again later.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hostler_policy::{SnapshotVerdict, judge_snapshots};
use hostler_store::{Batch, StoreError, Write};
use hostler_tasks::{Engine, TaskError};
use hostler_types::{AtLimit, SnapshotRules, Vm, VmId};
use jiff::civil::Time;
use jiff::{Timestamp, Zoned};
use tokio::time::Instant;

use crate::inventory::Snapshot;
use crate::services::Order;
use crate::services::snapshot_policy::rules_of;
use crate::services::vm::snapshot::system_deletion;
use crate::world::Core;

/// Between two passes at least, however fast the inventory changes.
const SHORTEST: Duration = Duration::from_millis(200);
/// While something waits for its window or for a quiet guest.
const WAITING: Duration = Duration::from_secs(60);
/// No sleep is longer: the machine's clock may have been set.
const LONGEST: Duration = Duration::from_secs(3600);
/// The wait before what could not be done is tried again.
const AGAIN: Duration = Duration::from_secs(300);
/// A guest that has written more than this in a minute is not quiet.
const QUIET: u64 = 64 << 20;

pub(super) async fn run(core: Arc<Core>, engine: Engine<Core>) {
    let mut revisions = core.inventory.revisions();
    let mut memory = Memory::default();
    loop {
        revisions.borrow_and_update();
        let sleep = pass(&core, &engine, &mut memory, &Zoned::now()).await;
        tokio::time::sleep(SHORTEST).await;
        tokio::select! {
            () = tokio::time::sleep(sleep) => {}
            changed = revisions.changed() => if changed.is_err() { return },
        }
    }
}

/// Looks at all VMs with snapshots once; returns when to look again.
async fn pass(
    core: &Arc<Core>,
    engine: &Engine<Core>,
    memory: &mut Memory,
    now: &Zoned,
) -> Duration {
    let snapshot = core.snapshot();
    let mut sleep = LONGEST;
    for vm in snapshot.with_snapshots() {
        let rules = rules_of(&snapshot, vm);
        let verdict = match vm.is_recycled() {
            true => SnapshotVerdict::default(),
            false => judge_snapshots(&vm.status.snapshots, &rules, now.timestamp()),
        };
        if let Some(next) = verdict.next {
            let left = Duration::try_from(next.duration_since(now.timestamp()));
            // Not a moment too early: a timer may be.
            sleep = sleep.min(left.unwrap_or_default() + Duration::from_millis(1));
        }
        if snapshot.task_on(vm.id().untyped()).is_some() {
            continue;
        }
        if verdict.warnings != vm.status.snapshot_warnings {
            // That is a change of the inventory, so the next pass goes on from here.
            tell(core, vm, &verdict).await;
            continue;
        }
        if rules.at_limit != AtLimit::Merge || verdict.excess.is_empty() {
            continue;
        }
        sleep = sleep.min(WAITING);
        if may_merge(core, memory, vm, &rules, now.time())
            && let Some(order) = deletion(&snapshot, vm, verdict)
        {
            memory.tried.insert(vm.id(), Instant::now());
            if !submit(engine, vm, order).await {
                memory.tried.remove(&vm.id());
            }
        }
    }
    memory.forget_old();
    sleep
}

/// Notes what there is to tell at the VM; the reason is what the list of events shows.
async fn tell(core: &Core, vm: &Vm, verdict: &SnapshotVerdict) {
    let mut changed = vm.clone();
    changed.status.snapshot_warnings.clone_from(&verdict.warnings);
    let reason = match verdict.warnings.is_empty() {
        true => "snapshots: within their limits again".to_owned(),
        false => format!("snapshots: {}", verdict.warnings.join("; ")),
    };
    tracing::warn!(vm = %vm.called(), reason);
    let batch = Batch::new("system", reason, Timestamp::now())
        .with(Write::ExpectUnlocked { object: vm.id().untyped() })
        .with(Write::update(&changed));
    // What has come between is seen at once: the revision has changed.
    if let Err(error) = core.commit(batch).await {
        tracing::debug!(vm = %vm.called(), %error, "told later");
    }
}

fn may_merge(core: &Core, memory: &mut Memory, vm: &Vm, rules: &SnapshotRules, time: Time) -> bool {
    let allocated = core
        .reports
        .last(vm.id())
        .map(|report| report.disks.iter().map(|disk| disk.allocated.bytes()).sum());
    let quiet = memory.is_quiet(vm.id(), allocated, Instant::now());
    let tried = memory.tried.get(&vm.id()).is_some_and(|at| at.elapsed() < AGAIN);
    !tried && quiet && rules.window.is_none_or(|window| window.contains(time))
}

fn deletion(snapshot: &Snapshot, vm: &Vm, verdict: SnapshotVerdict) -> Option<Order> {
    let reason = format!("snapshot policy: {}", verdict.warnings.join("; "));
    match system_deletion(snapshot, vm, verdict.excess, reason) {
        Ok(order) => Some(order),
        Err(error) => {
            tracing::debug!(vm = %vm.called(), %error, "its snapshots are merged later");
            None
        }
    }
}

/// `false`: what the order was made from has just changed.
async fn submit(engine: &Engine<Core>, vm: &Vm, order: Order) -> bool {
    match engine.submit(order.submit("system")).await {
        Ok(task) => {
            tracing::info!(vm = %vm.called(), task = %task.name(), "its snapshots are merged");
        }
        Err(TaskError::Store(StoreError::Stale { .. })) => return false,
        Err(error) => {
            tracing::warn!(vm = %vm.called(), %error, "its snapshots cannot be merged now");
        }
    }
    true
}

/// What is known from earlier passes.
#[derive(Debug, Default)]
struct Memory {
    /// A task that fails must not be ordered again at once.
    tried: HashMap<VmId, Instant>,
    /// What VMs' disks took, and when.
    written: HashMap<VmId, (u64, Instant)>,
}

impl Memory {
    /// Whether the guest has written little lately, as far as that is known.
    fn is_quiet(&mut self, vm: VmId, allocated: Option<u64>, now: Instant) -> bool {
        let Some(allocated) = allocated else { return true };
        let Some((before, at)) = self.written.get(&vm).copied() else {
            self.written.insert(vm, (allocated, now));
            return true;
        };
        let minutes = now.duration_since(at).as_secs() / 60;
        // Sizes are told in steps, so a short while tells nothing.
        if minutes >= 1 {
            self.written.insert(vm, (allocated, now));
        }
        allocated.saturating_sub(before) <= QUIET * minutes.max(1)
    }

    fn forget_old(&mut self) {
        const KEPT: Duration = Duration::from_secs(3600);
        self.tried.retain(|_, at| at.elapsed() < AGAIN);
        self.written.retain(|_, (_, at)| at.elapsed() < KEPT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_that_writes_a_lot_is_not_quiet() {
        let (mut memory, vm, begin) = (Memory::default(), VmId::generate(), Instant::now());
        let mut check = |second: u64, mib: u64, quiet: bool| {
            let now = begin + Duration::from_secs(second);
            assert_eq!(memory.is_quiet(vm, Some(mib << 20), now), quiet, "{second} s, {mib} MiB");
        };
        check(0, 1000, true);
        check(5, 1050, true);
        check(10, 1500, false);
        check(90, 1500, false);
        check(180, 1550, true);
        assert!(memory.is_quiet(VmId::generate(), None, begin), "nothing is known");
    }
}
