//! What happens to VMs when their time has come: those in the recycle bin are deleted for good; of
//! those with a lease, its end is told before, then they are stopped, then recycled.
//!
//! The inventory keeps VMs in the order of their next deadline, so one pass looks only at what is
//! due; then it sleeps until the next deadline or the next change of the inventory, whichever comes
//! first. What cannot be done (its host is away, a clone needs its disks) is tried again later.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hostler_store::{Batch, Write};
use hostler_tasks::Engine;
use hostler_types::{Lease, LeaseStage, Recycled, StopMode, Vm, VmId};
use jiff::Timestamp;
use tokio::time::Instant;

use crate::inventory::Snapshot;
use crate::services::Order;
use crate::services::vm::{expect, require_deletable};
use crate::tasks::vm_recycle::Down;
use crate::tasks::{vm_delete, vm_recycle, vm_stop};
use crate::world::{Core, Settings};

/// The wait before what could not be done is tried again.
const AGAIN: Duration = Duration::from_secs(300);
/// How long a guest may take to stop when its lease has ended; then its plug is pulled.
const STOP_SECONDS: u32 = 120;
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
            if tried.is_recent(vm) || snapshot.task_on(vm.id().untyped()).is_some() {
                continue;
            }
            match due(&snapshot, vm, &core.settings, now) {
                Due::Note(batch) => {
                    // What has come between is seen at once: the revision has changed.
                    if let Err(error) = core.commit(batch).await {
                        tracing::debug!(vm = %vm.called(), %error, "noted later");
                    }
                }
                Due::Order(order) => {
                    tried.note(vm);
                    submit(&engine, vm, *order).await;
                }
                Due::Later => tried.note(vm),
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
enum Due {
    /// Only its record changes.
    Note(Batch),
    Order(Box<Order>),
    Later,
}

fn due(snapshot: &Snapshot, vm: &Arc<Vm>, settings: &Settings, now: Timestamp) -> Due {
    let Some(lease) = vm.spec.lease.as_ref().filter(|_| !vm.is_recycled()) else {
        return if is_deletable(snapshot, vm) {
            Due::Order(Box::new(vm_delete::order(vm, None).with(expect(vm))))
        } else {
            Due::Later
        };
    };
    let mut next = Vm::clone(vm);
    let stage = |stage| Some(Lease { stage, ..lease.clone() });
    match lease.stage {
        LeaseStage::Active => {
            next.spec.lease = stage(LeaseStage::Warned);
            tracing::warn!(vm = %vm.name(), until = %lease.expires_at, "its lease ends soon");
            note(
                &next,
                format!("lease: it ends at {:.0}; renew it to keep the VM", lease.expires_at),
            )
        }
        LeaseStage::Warned => {
            next.spec.lease = stage(LeaseStage::Ended);
            if vm.status.power.is_live() {
                let stop = vm_stop::order(&next, StopMode::GracefulThenOff, STOP_SECONDS);
                return Due::Order(Box::new(stop));
            }
            note(&next, "lease: it has ended".to_owned())
        }
        LeaseStage::Ended if is_deletable(snapshot, vm) => {
            let down = vm.status.power.is_live().then(|| Down::new(true, Some(STOP_SECONDS)));
            let (name, by) = (vm.name().clone(), "system (lease)".to_owned());
            let recycled = Recycled { name, at: now, until: now + settings.retention, by };
            Due::Order(Box::new(vm_recycle::order(vm, down, recycled).with(expect(vm))))
        }
        LeaseStage::Ended => Due::Later,
    }
}

fn note(vm: &Vm, reason: String) -> Due {
    let free = Write::ExpectUnlocked { object: vm.id().untyped() };
    let batch = Batch::new("system", reason, Timestamp::now());
    Due::Note(batch.with(free).with(Write::update(vm)))
}

fn is_deletable(snapshot: &Snapshot, vm: &Vm) -> bool {
    match require_deletable(snapshot, vm) {
        Ok(()) => true,
        Err(error) => {
            tracing::info!(vm = %vm.called(), %error, "its time has come, and it stays for now");
            false
        }
    }
}

async fn submit(engine: &Engine<Core>, vm: &Vm, order: Order) {
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

/// What was tried lately: a task that fails must not be ordered again at once.
#[derive(Debug, Default)]
struct Tried(HashMap<(VmId, Option<Timestamp>), Instant>);

impl Tried {
    fn note(&mut self, vm: &Vm) {
        self.0.insert((vm.id(), vm.next_deadline()), Instant::now());
    }

    fn is_recent(&mut self, vm: &Vm) -> bool {
        self.0.retain(|_, at| at.elapsed() < AGAIN);
        self.0.contains_key(&(vm.id(), vm.next_deadline()))
    }

    /// How long it is until the first of them may be tried again.
    fn next_try(&self) -> Duration {
        let left = self.0.values().map(|at| AGAIN.saturating_sub(at.elapsed()));
        left.min().map_or(LONGEST, |left| left.max(Duration::from_millis(1)))
    }
}
