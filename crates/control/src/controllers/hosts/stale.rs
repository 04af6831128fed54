//! What a host still has of VMs that are other hosts': it was away while they went, or were to come.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use hostler_agent_api::{AgentEvent, Inventory, VmCommand, VmElsewhere, VmEpoch, VmReport};
use hostler_types::{Epoch, HostId, HostKind, OperationId, Task, Vm, VmId};

use crate::agents::{AgentError, AgentLink};
use crate::tasks::vm_migrate;
use crate::world::Core;

/// Between two looks whether a VM is still being worked on.
const AGAIN: Duration = Duration::from_secs(1);
/// For the answer of a VM's host.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a host is told of a VM that is not its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Word {
    /// It is another's, under this epoch. What runs of it is killed before it writes once more; the
    /// files are the other host's.
    Forget(Epoch),
    /// It does not come.
    Abandon(Epoch),
    /// It has come.
    Take(Epoch),
}

/// Settles what a host that has just connected has of VMs of others; returns those that it told of as its
/// own though they are not.
pub(super) fn settle_stale(core: &Arc<Core>, host: HostId, inventory: &Inventory) -> HashSet<VmId> {
    let snapshot = core.snapshot();
    let mut disowned = HashSet::new();
    for report in &inventory.vms {
        let Some(vm) = snapshot.get(report.vm) else { continue };
        if vm.status.host == host {
            continue;
        }
        // A task that moves it knows better.
        let task = snapshot.task_on(report.vm.untyped()).and_then(|task| snapshot.get(task));
        if task.is_none_or(|task: &Arc<Task>| task.spec.action != vm_migrate::ACTION) {
            disowned.insert(report.vm);
        }
        let (core, report) = (core.clone(), report.clone());
        tokio::spawn(async move { settle_claimed(&core, host, &report).await });
    }
    for told in inventory.elsewhere.iter().copied() {
        if inventory.vms.iter().all(|report| report.vm != told.vm) {
            let core = core.clone();
            tokio::spawn(async move { settle_elsewhere(&core, host, told).await });
        }
    }
    disowned
}

/// The VM once no task works on it any more; `None`: there is none, or the host is away: it tells of what it
/// has when it comes back.
async fn at_rest(core: &Core, host: HostId, vm: VmId) -> Option<Arc<Vm>> {
    loop {
        let snapshot = core.snapshot();
        if snapshot.task_on(vm.untyped()).is_none() {
            return snapshot.get(vm).cloned();
        }
        tokio::time::sleep(AGAIN).await;
        let known = core.snapshot().get::<HostKind>(host).cloned()?;
        core.agents.link(&known).ok()?;
    }
}

/// A host takes another host's VM for its own.
async fn settle_claimed(core: &Core, host: HostId, report: &VmReport) {
    let (id, power) = (report.vm, report.power);
    let Some(vm) = at_rest(core, host, id).await.filter(|vm| vm.status.host != host) else {
        return;
    };
    if vm.status.epoch > report.epoch {
        tracing::warn!(%host, vm = %id, %power, "the host has a VM that is another host's; it forgets it");
        return tell(core, host, id, Word::Forget(vm.status.epoch)).await;
    }
    // It was taken in, off, and the host was lost before it could say so; so the VM has stayed where it
    // was. Unless its host says so as well, nothing is certain.
    if power.is_live() || !is_at_its_host(core, host, &vm).await {
        tracing::error!(%host, vm = %id, %power, "the host says that another host's VM is its own");
        return;
    }
    // Nobody has begun anything with it meanwhile.
    let snapshot = core.snapshot();
    let now = snapshot.get(id).is_some_and(|now: &Arc<Vm>| {
        (now.status.host, now.status.epoch) == (vm.status.host, vm.status.epoch)
    });
    if now && snapshot.task_on(id.untyped()).is_none() {
        tell(core, host, id, Word::Forget(Epoch(report.epoch.0 + 1))).await;
    }
}

/// Asks the host that the inventory says has the VM.
async fn is_at_its_host(core: &Core, claims: HostId, vm: &Vm) -> bool {
    let Some(owner) = core.snapshot().get::<HostKind>(vm.status.host).cloned() else {
        return false;
    };
    let told = async {
        let first = core.agents.link(&owner).ok()?.events().await.ok()?.next().await?.ok()?;
        match first.data {
            AgentEvent::Inventory(told) => told.vms.into_iter().find(|told| told.vm == vm.id()),
            _ => None,
        }
    };
    let told = tokio::time::timeout(PATIENCE, told).await.ok().flatten();
    let Some(told) = told.filter(|told| told.epoch == vm.status.epoch) else { return false };
    // What the other has said has taken its place.
    core.reports.forget_from(claims, vm.id());
    core.reports.event(owner.id(), &told);
    true
}

/// Once no task works on the VM any more, the inventory says whose it is.
async fn settle_elsewhere(core: &Core, host: HostId, told: VmElsewhere) {
    // Of one that nobody knows nothing is removed.
    let Some(vm) = at_rest(core, host, told.vm).await else { return };
    let mine = vm.status.host == host;
    let word = match (told.awaited, mine) {
        (true, true) if vm.status.epoch == told.epoch => Word::Take(told.epoch),
        (true, _) => Word::Abandon(told.epoch),
        (false, false) => Word::Forget(told.epoch.max(vm.status.epoch)),
        // It has gone, and the inventory does not say so: a backup of it, perhaps.
        (false, true) => return,
    };
    tell(core, host, told.vm, word).await;
}

async fn tell(core: &Core, host: HostId, vm: VmId, word: Word) {
    // It may not be recorded as connected yet.
    let Some(known) = core.snapshot().get::<HostKind>(host).cloned() else { return };
    let Ok(link) = core.agents.link(&known) else { return };
    match said(link.as_ref(), vm, word).await {
        Ok(()) => {
            tracing::info!(%host, %vm, ?word, "a VM that is not the host's was settled there");
        }
        Err(error) => {
            tracing::warn!(%host, %vm, ?word, %error, "the host keeps something of a VM of another");
        }
    }
}

async fn said(link: &dyn AgentLink, vm: VmId, word: Word) -> Result<(), AgentError> {
    let command = |epoch| VmCommand { op: OperationId::generate(), epoch };
    match word {
        Word::Forget(epoch) => link.vm_migration_forget(vm, command(epoch)).await,
        Word::Abandon(epoch) => link.vm_migration_abandon(vm, command(epoch)).await,
        Word::Take(epoch) => link.vm_migration_take(vm, VmEpoch { epoch }).await.map(drop),
    }
}
