//! Resource pools as `policy` knows them: made from the inventory, with the cluster as their root.
//!
//! ```text
//!  inventory ─> hierarchy ─> ledger (admission.rs): may this VM be powered on?
//!      │            └──────> division.rs: what is everyone entitled to?
//!      │                          └─────> slices.rs: what each host does about it
//!      └ demand.rs: what the hosts measured (kept.rs: of one VM)
//! ```
//!
//! Nothing of it is stored: what is reserved follows from the VMs that run, so it is right again as
//! soon as the inventory is.

use hostler_policy::pools::{
    Hierarchy, Megahertz, Pool as PolicyPool, PoolAllocation, PoolVm, Reserve, VmAllocation,
};
use hostler_types::{
    ByteSize, ClusterKind, Host, HostFacts, HostKind, HostState, KindName, ObjectId, Pool, PoolId,
    PoolKind, Ref, Vm, VmId, VmSpec,
};

use crate::error::ServiceError;
use crate::inventory::Snapshot;

pub(crate) mod admission;
pub(crate) mod demand;
pub(crate) mod division;
mod kept;
pub(crate) mod slices;

/// What the connected hosts have together.
pub(crate) fn capacity(snapshot: &Snapshot) -> Reserve {
    let hosts = snapshot.all::<HostKind>().iter().filter_map(|host| ready(host));
    let mut capacity = Reserve::default();
    for facts in hosts {
        capacity.cpu = Megahertz(capacity.cpu.0.saturating_add(facts.cpu_capacity().0));
        capacity.memory = ByteSize(capacity.memory.0.saturating_add(facts.memory.0));
    }
    capacity
}

fn ready(host: &Host) -> Option<&HostFacts> {
    host.status.facts.as_ref().filter(|_| host.status.state == HostState::Connected)
}

/// The speed of a CPU of the host that owns a VM, in MHz.
pub(crate) fn mhz_of(snapshot: &Snapshot, vm: &Vm) -> u64 {
    let host = snapshot.get::<HostKind>(vm.status.host);
    let facts = host.and_then(|host| host.status.facts.as_ref());
    facts.map_or(HostFacts::default_mhz(), |facts| facts.mhz_per_cpu).into()
}

/// The cluster as the root: it has what its hosts have, and no limit.
fn root(snapshot: &Snapshot) -> Result<PolicyPool<ObjectId>, ServiceError> {
    let (cluster, capacity) = (snapshot.cluster()?, capacity(snapshot));
    Ok(PolicyPool {
        id: cluster.id().untyped(),
        name: cluster.name().to_string(),
        parent: None,
        cpu: PoolAllocation { reservation: capacity.cpu, ..PoolAllocation::default() },
        memory: PoolAllocation { reservation: capacity.memory, ..PoolAllocation::default() },
    })
}

/// A pool as `policy` knows it.
pub(crate) fn as_policy(
    snapshot: &Snapshot,
    pool: &Pool,
) -> Result<PolicyPool<ObjectId>, ServiceError> {
    let (cpu, memory) = (&pool.spec.cpu, &pool.spec.memory);
    Ok(PolicyPool {
        id: pool.id().untyped(),
        name: pool.name().to_string(),
        parent: Some(place(snapshot, pool.spec.parent)?),
        cpu: PoolAllocation {
            shares: cpu.shares,
            reservation: cpu.reservation,
            expandable: cpu.expandable,
            limit: cpu.limit,
        },
        memory: PoolAllocation {
            shares: memory.shares,
            reservation: memory.reservation,
            expandable: memory.expandable,
            limit: memory.limit,
        },
    })
}

/// Where pools and VMs lie that name this pool: directly below the cluster, if they name none, or one
/// that is not here because a VM was registered that comes from elsewhere.
pub(crate) fn place(snapshot: &Snapshot, pool: Option<PoolId>) -> Result<ObjectId, ServiceError> {
    match pool.filter(|pool| snapshot.get::<PoolKind>(*pool).is_some()) {
        Some(pool) => Ok(pool.untyped()),
        None => Ok(snapshot.cluster()?.id().untyped()),
    }
}

/// All pools below the cluster, `changed` instead of the one with its id or beside the others.
///
/// # Errors
/// They are no tree: `pool_cycle`.
pub(crate) fn hierarchy(
    snapshot: &Snapshot,
    changed: Option<&Pool>,
) -> Result<Hierarchy<ObjectId>, ServiceError> {
    let mut pools = vec![root(snapshot)?];
    let kept = snapshot.all::<PoolKind>().iter().map(AsRef::as_ref);
    let kept = kept.filter(|pool| changed.is_none_or(|changed| changed.id() != pool.id()));
    for pool in kept.chain(changed) {
        pools.push(as_policy(snapshot, pool)?);
    }
    Hierarchy::new(pools).map_err(|error| {
        use hostler_policy::pools::HierarchyError::{Cycle, ReservationOverLimit};
        match error {
            Cycle { .. } => ServiceError::conflict("pool_cycle", error.to_string()),
            ReservationOverLimit { .. } => {
                ServiceError::invalid_as_told("reservation", error.to_string())
            }
            other => ServiceError::internal("the resource pools are no tree", other),
        }
    })
}

/// The pool that a reference means; none: the cluster itself.
///
/// # Errors
/// `not_found`.
pub(crate) fn named(snapshot: &Snapshot, pool: &Ref) -> Result<Option<PoolId>, ServiceError> {
    let of_cluster = snapshot.find::<ClusterKind>(pool).is_ok();
    if of_cluster {
        return Ok(None);
    }
    let found = snapshot.find::<PoolKind>(pool);
    let found = found.map_err(|_| ServiceError::not_found(KindName::Pool, pool))?;
    Ok(Some(found.id()))
}

/// What a VM's power-on sets aside.
pub(crate) fn reserve(spec: &VmSpec) -> Reserve {
    let resources = &spec.resources;
    Reserve { cpu: resources.cpu_reservation, memory: resources.memory_reservation }
}

/// A VM as a child of its pool, on a host with CPUs of this speed in MHz.
pub(crate) fn child(
    snapshot: &Snapshot,
    vm: &Vm,
    mhz: u64,
) -> Result<PoolVm<ObjectId, VmId>, ServiceError> {
    let (spec, resources) = (&vm.spec, &vm.spec.resources);
    let hardware = vm.status.hardware.as_ref().filter(|_| vm.status.power.is_live());
    let vcpus = hardware.map_or(spec.cpus.count(), |hardware| hardware.cpus);
    let memory = hardware.map_or(spec.memory, |hardware| hardware.memory);
    let limit = spec.cpu_limit.map(|limit| Megahertz(u64::from(limit.count()) * mhz / 1000));
    Ok(PoolVm {
        id: vm.id(),
        pool: place(snapshot, resources.pool)?,
        vcpus,
        cpu: VmAllocation {
            shares: resources.cpu_shares,
            reservation: resources.cpu_reservation,
            limit,
            configured: Megahertz(u64::from(vcpus) * mhz),
        },
        memory: VmAllocation {
            shares: resources.memory_shares,
            reservation: resources.memory_reservation,
            limit: spec.balloon,
            configured: memory,
        },
    })
}
