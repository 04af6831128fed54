//! What happens to VMs when their time has come: those in the recycle bin are deleted for good.
//!
//! The inventory keeps VMs in the order of their next deadline, so one pass looks only at what is
//! due; then it sleeps until the next deadline or the next change of the inventory, whichever comes
//! first. What cannot be done (its host is away, a clone needs its disks) is tried again later.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hostler_tasks::Engine;
use hostler_types::{Vm, VmId};
use jiff::Timestamp;
use tokio::time::Instant;

use crate::inventory::Snapshot;
use crate::services::Order;
use crate::services::vm::require_deletable;
use crate::tasks::vm_delete;
use crate::world::Core;

/// The wait before what could not be done is tried again.
const AGAIN: Duration = Duration::from_secs(300);
/// No sleep is longer: the machine's clock may have been set.
const LONGEST: Duration = Duration::from_secs(3600);

pub(super) async fn run(core: Arc<Core>, engine: Engine<Core>) {
    let mut revisions = core.inventory.revisions();
    let mut tried = Tried::default();
    loop {
        revisions.borrow_and_update();
        let snapshot = core.snapshot();
        let now = Timestamp::now();
        for vm in snapshot.due(now) {
            if tried.is_recent(vm.id()) || snapshot.task_on(vm.id().untyped()).is_some() {
                continue;
            }
            tried.note(vm.id());
            if let Some(order) = due(&snapshot, vm) {
                let action = order.action;
                match engine.submit(order.submit("system")).await {
                    Ok(task) => {
                        tracing::info!(vm = %vm.called(), action, task = %task.name(), "its time has come");
                    }
                    Err(error) => {
                        tracing::warn!(vm = %vm.called(), action, %error, "its time has come, and it cannot be done now");
                    }
                }
            }
        }
        let sleep = tried.next_try().min(until(&snapshot, now)).min(LONGEST);
        tokio::select! {
            () = tokio::time::sleep(sleep) => {}
            changed = revisions.changed() => if changed.is_err() { return },
        }
    }
}

/// How long it is until the next VM's time comes, of those whose time has not come yet.
fn until(snapshot: &Snapshot, now: Timestamp) -> Duration {
    let Some(next) = snapshot.next_deadline(now) else { return LONGEST };
    // Not a moment too early: a timer may be.
    Duration::try_from(next.duration_since(now)).unwrap_or_default() + Duration::from_millis(1)
}

/// What is to be done with a VM whose time has come.
fn due(snapshot: &Snapshot, vm: &Arc<Vm>) -> Option<Order> {
    if let Err(error) = require_deletable(snapshot, vm) {
        tracing::info!(vm = %vm.called(), %error, "it stays in the recycle bin for now");
        return None;
    }
    Some(vm_delete::order(vm, None).with(crate::services::vm::expect(vm)))
}

/// What was tried lately: a task that fails must not be ordered again at once.
#[derive(Debug, Default)]
struct Tried(HashMap<VmId, Instant>);

impl Tried {
    fn note(&mut self, vm: VmId) {
        self.0.insert(vm, Instant::now());
    }

    fn is_recent(&mut self, vm: VmId) -> bool {
        self.0.retain(|_, at| at.elapsed() < AGAIN);
        self.0.contains_key(&vm)
    }

    /// How long it is until the first of them may be tried again.
    fn next_try(&self) -> Duration {
        let left = self.0.values().map(|at| AGAIN.saturating_sub(at.elapsed()));
        left.min().map_or(LONGEST, |left| left.max(Duration::from_millis(1)))
    }
}
