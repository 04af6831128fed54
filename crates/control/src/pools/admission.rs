//! Whether a VM's reservation can be promised, and that nothing is promised twice.
//!
//! What is reserved follows from the inventory: each VM that runs, or is on its way there, holds its
//! reservation. Between the look at the inventory and the commit that makes a VM `starting`, the
//! reservation is *pending* here: whoever looks meanwhile counts it as well. So of two starts at once
//! only one gets the last megahertz, and at a restart of the server there is nothing to rebuild.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hostler_policy::pools::{Ledger, LedgerError, Reserve};
use hostler_types::{ByteSize, Megahertz, ObjectId, Pool, PoolId, Vm, VmId};

use crate::error::{Class, ServiceError};
use crate::inventory::{Inventory, Snapshot};
use crate::pools::{child, hierarchy, mhz_of, place, reserve};

/// Tasks that bring a VM up whose power state does not say so yet.
const ON_THE_WAY: [&str; 3] = ["vm.start", "vm.fork", "vm.revert"];

/// What is promised and not yet in the inventory.
#[derive(Debug, Default)]
pub(crate) struct Admissions {
    pending: Arc<Mutex<Pending>>,
    /// Held while a pool is changed, from the look at the inventory until it has the change: there
    /// is at most one.
    pub(crate) changing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct Pending {
    next: u64,
    vms: HashMap<u64, PendingVm>,
    /// As it will be.
    pool: Option<Box<Pool>>,
}

#[derive(Debug, Clone, Copy)]
struct PendingVm {
    vm: VmId,
    pool: Option<PoolId>,
    reserve: Reserve,
}

/// A reservation that counts until this is dropped: when the inventory has it, or nothing came of it.
#[derive(Debug)]
#[must_use = "the reservation is given back when this is dropped"]
pub(crate) struct Promise {
    pending: Arc<Mutex<Pending>>,
    token: Option<u64>,
}

impl Drop for Promise {
    fn drop(&mut self) {
        let mut pending = lock(&self.pending);
        match self.token {
            Some(token) => drop(pending.vms.remove(&token)),
            None => pending.pool = None,
        }
    }
}

fn lock(pending: &Mutex<Pending>) -> MutexGuard<'_, Pending> {
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Admissions {
    /// Promises VMs what they reserve while they run: at a power-on, or when one that runs is to have
    /// another reservation or pool. None, if nothing is to be promised.
    ///
    /// # Errors
    /// `no_capacity`, with the numbers and what would help.
    pub(crate) fn admit<'a>(
        &self,
        inventory: &Inventory,
        vms: impl IntoIterator<Item = &'a Vm>,
    ) -> Result<Vec<Promise>, ServiceError> {
        let wanted: Vec<&Vm> = vms.into_iter().filter(|vm| vm.spec.resources.reserves()).collect();
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let mut pending = lock(&self.pending);
        // After what is pending: a promise goes only when the inventory has it.
        let snapshot = inventory.snapshot();
        for changed in [None, pending.pool.as_deref()] {
            let mut ledger = ledger(&snapshot, &pending, changed)?;
            for vm in &wanted {
                promise(&snapshot, &mut ledger, vm)?;
            }
            if pending.pool.is_none() {
                break;
            }
        }
        let promised = wanted.into_iter().map(|vm| {
            pending.next += 1;
            let token = pending.next;
            let (pool, reserve) = (vm.spec.resources.pool, reserve(&vm.spec));
            pending.vms.insert(token, PendingVm { vm: vm.id(), pool, reserve });
            Promise { pending: self.pending.clone(), token: Some(token) }
        });
        Ok(promised.collect())
    }

    /// Checks a new or changed pool, and keeps others from what it will have. The caller holds
    /// `changing`.
    ///
    /// # Errors
    /// `no_capacity`, `pool_cycle`, `invalid`.
    pub(crate) fn change_pool(
        &self,
        inventory: &Inventory,
        pool: &Pool,
    ) -> Result<Promise, ServiceError> {
        let mut pending = lock(&self.pending);
        let snapshot = inventory.snapshot();
        check_pool(&snapshot, &pending, pool)?;
        pending.pool = Some(Box::new(pool.clone()));
        Ok(Promise { pending: self.pending.clone(), token: None })
    }
}

/// What is reserved of the cluster and its pools.
///
/// # Errors
/// There is no cluster yet.
pub(crate) fn reserved(
    admissions: &Admissions,
    inventory: &Inventory,
) -> Result<Ledger<ObjectId, VmId>, ServiceError> {
    let pending = lock(&admissions.pending);
    ledger(&inventory.snapshot(), &pending, None)
}

fn ledger(
    snapshot: &Snapshot,
    pending: &Pending,
    changed: Option<&Pool>,
) -> Result<Ledger<ObjectId, VmId>, ServiceError> {
    let mut ledger = Ledger::new(&hierarchy(snapshot, changed)?);
    fill(&mut ledger, snapshot, pending)?;
    Ok(ledger)
}

/// What runs does run, whether there is room for it or not.
fn fill(
    ledger: &mut Ledger<ObjectId, VmId>,
    snapshot: &Snapshot,
    pending: &Pending,
) -> Result<(), ServiceError> {
    for vm in snapshot.reserving().filter(|vm| holds(snapshot, vm)) {
        let pool = place(snapshot, vm.spec.resources.pool)?;
        // A pool that is gone is not refilled; whoever deletes one looks for its VMs first.
        let _known = ledger.restore(vm.id(), pool, reserve(&vm.spec));
    }
    for PendingVm { vm, pool, reserve } in pending.vms.values() {
        let _known = ledger.restore(*vm, place(snapshot, *pool)?, *reserve);
    }
    Ok(())
}

/// Whether a VM's reservation counts.
fn holds(snapshot: &Snapshot, vm: &Vm) -> bool {
    vm.status.power.is_live() || {
        let task = snapshot.task_on(vm.id().untyped()).and_then(|task| snapshot.get(task));
        task.is_some_and(|task| ON_THE_WAY.contains(&task.spec.action.as_str()))
    }
}

fn promise(
    snapshot: &Snapshot,
    ledger: &mut Ledger<ObjectId, VmId>,
    vm: &Vm,
) -> Result<(), ServiceError> {
    let (pool, reserve, name) =
        (place(snapshot, vm.spec.resources.pool)?, reserve(&vm.spec), vm.name());
    let usable = child(snapshot, vm, mhz_of(snapshot, vm))?.cpu;
    let most = usable.limit.unwrap_or(usable.configured).min(usable.configured);
    if reserve.cpu > most {
        let message = format!(
            "vm `{name}` reserves {} of CPU, and can use no more than {most} on its host",
            reserve.cpu
        );
        return Err(ServiceError::new(Class::NoCapacity, "no_capacity", message).hint(format!(
            "`hostler vm set {name} --cpu-reservation {most}`, or give it more CPUs"
        )));
    }
    let granted = match ledger.reservation(vm.id()) {
        Some(_) => ledger.readmit(vm.id(), pool, reserve),
        None => ledger.admit(vm.id(), pool, reserve),
    };
    granted.map(drop).map_err(|error| {
        let reserved = shown(reserve);
        let message = format!("vm `{name}` cannot have the {reserved} that it reserves: {error}");
        ServiceError::new(Class::NoCapacity, "no_capacity", message)
            .hint("`hostler pool tree` shows what is reserved where")
    })
}

/// `2000MHz of CPU and 1GiB of memory`.
fn shown(reserve: Reserve) -> String {
    let Reserve { cpu, memory } = reserve;
    match (cpu, memory) {
        (cpu, ByteSize(0)) => format!("{cpu} of CPU"),
        (Megahertz(0), memory) => format!("{memory} of memory"),
        (cpu, memory) => format!("{cpu} of CPU and {memory} of memory"),
    }
}

fn check_pool(snapshot: &Snapshot, pending: &Pending, pool: &Pool) -> Result<(), ServiceError> {
    // Finds cycles, and reservations over limits.
    hierarchy(snapshot, Some(pool))?;
    let refused = |error: LedgerError<ObjectId>| {
        let message = format!("resource pool `{}` is refused: {error}", pool.name());
        ServiceError::new(Class::NoCapacity, "no_capacity", message)
            .hint("`hostler pool tree` shows what is reserved where")
    };
    let before = snapshot.get::<hostler_types::PoolKind>(pool.id());
    let mut ledger = ledger(snapshot, pending, None)?;
    let new = super::as_policy(snapshot, pool)?;
    match before {
        None => ledger.add_pool(&new).map(drop).map_err(refused),
        Some(before) if before.spec.parent == pool.spec.parent => {
            ledger.reconfigure(&new).map(drop).map_err(refused)
        }
        // A subtree that moves takes along what is reserved in it: the tree as it will be is looked
        // at for what was not short before.
        Some(_) => {
            let was: Vec<_> = short(&ledger);
            let moved = self::ledger(snapshot, pending, Some(pool))?;
            let found = moved.overcommitted();
            let new = found.iter().find(|(resource, obstacle)| {
                !was.contains(&(*resource, obstacle.pool, obstacle.kind))
            });
            let Some((resource, obstacle)) = new else { return Ok(()) };
            let (free, wanted) = (resource.show(obstacle.free), resource.show(obstacle.wanted));
            let message = format!(
                "resource pool `{}` cannot be moved there: `{}` would have {wanted} of {resource} \
                 reserved in it, and can give {free}",
                pool.name(),
                obstacle.name,
            );
            Err(ServiceError::new(Class::NoCapacity, "no_capacity", message)
                .hint("lower what the pool and its VMs reserve, or move it elsewhere"))
        }
    }
}

fn short(
    ledger: &Ledger<ObjectId, VmId>,
) -> Vec<(hostler_policy::pools::Resource, ObjectId, hostler_policy::pools::ObstacleKind)> {
    let found = ledger.overcommitted();
    found.into_iter().map(|(resource, it)| (resource, it.pool, it.kind)).collect()
}
