//! What each host is to give its pools and VMs.
//!
//! The weights on a host are what its VMs would get if all of them wanted all they can use: a division
//! of the host among them, by their shares, reservations and limits. So whatever they want in fact,
//! between two divisions of the server and without it, the kernel gives each at least what it would get
//! in the worst case, and the rest to those who want it. A pool whose VMs are on several hosts has on
//! each the part of its shares, reservation and limit that its VMs there are entitled to now.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::num::NonZeroU32;

use hostler_agent_api::{HostResources, PoolSlice, Slice, VmSlice};
use hostler_policy::entitlement::{EntitlementTree, Entitlements, entitle};
use hostler_policy::pools::{Hierarchy, PerResource, Pool, Resource, Shares};
use hostler_types::{ByteSize, HostId, HostKind, Megahertz, ObjectId, VmId, VmKind};

use super::division::Division;
use super::{child, ready};
use crate::error::ServiceError;
use crate::inventory::Snapshot;

/// The kernel's bounds of a weight.
const WEIGHT: std::ops::RangeInclusive<u64> = 2..=262_144;
/// The smallest limit of CPU time that the kernel can keep, in thousandths of a CPU.
const LEAST_MILLICPUS: u64 = 10;
/// What a guest holds changes all the time; hosts are told in steps of this many bytes.
const MEMORY_STEP: u64 = 16 << 20;

/// The slices of every connected host that has VMs which run.
///
/// # Errors
/// The inventory has no cluster yet.
pub(crate) fn slices(
    snapshot: &Snapshot,
    division: &Division,
) -> Result<BTreeMap<HostId, HostResources>, ServiceError> {
    let mut by_host: BTreeMap<HostId, Vec<(usize, usize)>> = BTreeMap::new();
    for pool in 0..division.hierarchy.pools().len() {
        for at in division.tree.vms_of(pool) {
            let vm = division.tree.vms().get(at).and_then(|vm| snapshot.get::<VmKind>(*vm));
            if let Some(vm) = vm {
                by_host.entry(vm.status.host).or_default().push((pool, at));
            }
        }
    }
    let totals = Sums::of(division, by_host.values().flatten().copied());
    let mut slices = BTreeMap::new();
    for (host, vms) in by_host {
        let facts = snapshot.get::<HostKind>(host).and_then(|host| ready(host));
        let Some(facts) = facts else { continue };
        let on_host = OnHost {
            snapshot,
            division,
            totals: &totals,
            own: Sums::of(division, vms.iter().copied()),
            mhz: u64::from(facts.mhz_per_cpu).max(1),
            capacity: PerResource { cpu: facts.cpu_capacity().0, memory: facts.memory.0 },
        };
        slices.insert(host, on_host.resources(&vms)?);
    }
    Ok(slices)
}

/// What VMs are entitled to and reserve together, in each pool above them; by the pools' positions.
struct Sums(HashMap<usize, PerResource<Sum>>);

#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    entitled: u64,
    reserved: u64,
}

impl Sums {
    fn of(division: &Division, vms: impl Iterator<Item = (usize, usize)>) -> Self {
        let mut sums: HashMap<usize, PerResource<Sum>> = HashMap::new();
        for (pool, vm) in vms {
            let mut at = Some(pool);
            while let Some(pool) = at {
                let sum = sums.entry(pool).or_default();
                for resource in Resource::ALL {
                    let numbers = division.given[resource].vms[vm];
                    let sum = &mut sum[resource];
                    sum.entitled = sum.entitled.saturating_add(numbers.entitled);
                    sum.reserved = sum.reserved.saturating_add(numbers.reservation);
                }
                at = division.hierarchy.parent(pool);
            }
        }
        Self(sums)
    }

    fn get(&self, pool: usize, resource: Resource) -> Sum {
        self.0.get(&pool).map(|sums| sums[resource]).unwrap_or_default()
    }
}

struct OnHost<'a> {
    snapshot: &'a Snapshot,
    division: &'a Division,
    /// Of the whole cluster.
    totals: &'a Sums,
    /// Of this host.
    own: Sums,
    mhz: u64,
    capacity: PerResource<u64>,
}

impl OnHost<'_> {
    fn resources(&self, vms: &[(usize, usize)]) -> Result<HostResources, ServiceError> {
        let (tree, hierarchy) = self.tree(vms)?;
        let cpu = entitle(&tree, Resource::Cpu, self.capacity.cpu, |_| u64::MAX);
        let mut resources = HostResources::default();
        for (at, pool) in hierarchy.pools().iter().enumerate().skip(1) {
            let parent = pool.parent.filter(|parent| *parent != hierarchy.root().id);
            let everywhere = self.division.tree.pool_position(pool.id);
            let (Some(everywhere), Some(entitled)) = (everywhere, cpu.pools.get(at)) else {
                continue;
            };
            let sum = self.own.get(everywhere, Resource::Memory);
            let limit = pool.cpu.limit.map(|limit| self.millicpus(limit.0));
            let reserved = sum.reserved.max(pool.memory.reservation.0).min(self.capacity.memory);
            resources.pools.push(PoolSlice {
                pool: pool.id.typed(),
                parent: parent.map(ObjectId::typed),
                slice: Slice {
                    cpu_weight: self.weight(entitled.entitled),
                    cpu_limit_millicpus: limit,
                    memory_reserved: ByteSize(reserved),
                    memory_entitled: stepped(sum.entitled),
                },
            });
        }
        for pool in 0..hierarchy.pools().len() {
            for at in tree.vms_of(pool) {
                resources.vms.extend(self.vm(&tree, &cpu, at));
            }
        }
        Ok(resources)
    }

    fn vm(
        &self,
        tree: &EntitlementTree<ObjectId, VmId>,
        cpu: &Entitlements,
        at: usize,
    ) -> Option<VmSlice> {
        let vm = self.snapshot.get::<VmKind>(*tree.vms().get(at)?)?;
        let pool = super::place(self.snapshot, vm.spec.resources.pool).ok()?;
        let everywhere = self.division.tree.vm_position(pool, vm.id())?;
        let memory = self.division.given.memory.vms.get(everywhere)?;
        Some(VmSlice {
            vm: vm.id(),
            pool: vm.spec.resources.pool,
            slice: Slice {
                cpu_weight: self.weight(cpu.vms.get(at)?.entitled),
                cpu_limit_millicpus: vm.spec.cpu_limit.map(hostler_types::Millicpus::count),
                memory_reserved: ByteSize(memory.reservation),
                memory_entitled: stepped(memory.entitled),
            },
        })
    }

    /// The pools above the VMs of this host, with their parts of what they have, and the VMs.
    fn tree(
        &self,
        vms: &[(usize, usize)],
    ) -> Result<(EntitlementTree<ObjectId, VmId>, Hierarchy<ObjectId>), ServiceError> {
        let mut above = HashSet::from([0]);
        let mut children = Vec::with_capacity(vms.len());
        for (pool, at) in vms {
            let mut next = Some(*pool);
            while let Some(pool) = next.filter(|pool| above.insert(*pool)) {
                next = self.division.hierarchy.parent(pool);
            }
            let vm = self.division.tree.vms().get(*at);
            if let Some(vm) = vm.and_then(|vm| self.snapshot.get::<VmKind>(*vm)) {
                children.push(child(self.snapshot, vm, self.mhz)?);
            }
        }
        let pools = self.division.hierarchy.pools().iter().enumerate();
        let pools =
            pools.filter(|(at, _)| above.contains(at)).map(|(at, pool)| self.part(at, pool));
        let wrong = |error| ServiceError::internal("a host's pools are no tree", error);
        let hierarchy = Hierarchy::new(pools.collect()).map_err(wrong)?;
        let tree = EntitlementTree::new(hierarchy.clone(), &children)
            .map_err(|error| ServiceError::internal("a host's VMs are in no pool", error))?;
        Ok((tree, hierarchy))
    }

    /// What of a pool is on this host.
    fn part(&self, at: usize, pool: &Pool<ObjectId>) -> Pool<ObjectId> {
        let mut part = pool.clone();
        let share = |resource, amount| self.share(at, resource, amount);
        let shares = |resource| {
            let number = share(resource, self.division.tree.pool_shares(at, resource));
            let number = u32::try_from(number.max(1)).unwrap_or(u32::MAX);
            NonZeroU32::new(number).map_or(Shares::Normal, Shares::Custom)
        };
        part.cpu.shares = shares(Resource::Cpu);
        part.memory.shares = shares(Resource::Memory);
        // The host has what it has, whatever the cluster has.
        if pool.parent.is_none() {
            part.cpu.reservation = Megahertz(self.capacity.cpu);
            part.memory.reservation = ByteSize(self.capacity.memory);
            return part;
        }
        part.cpu.reservation = Megahertz(share(Resource::Cpu, pool.cpu.reservation.0));
        part.memory.reservation = ByteSize(share(Resource::Memory, pool.memory.reservation.0));
        // Rounded as the reservation is, so it is not below that.
        part.cpu.limit = pool.cpu.limit.map(|limit| Megahertz(share(Resource::Cpu, limit.0)));
        part.memory.limit =
            pool.memory.limit.map(|limit| ByteSize(share(Resource::Memory, limit.0)));
        part
    }

    /// The part of an amount that the pool's VMs on this host account for.
    fn share(&self, pool: usize, resource: Resource, amount: u64) -> u64 {
        let (own, all) = (self.own.get(pool, resource), self.totals.get(pool, resource));
        if all.entitled == 0 || own.entitled == all.entitled {
            return amount;
        }
        let part = u128::from(amount) * u128::from(own.entitled) / u128::from(all.entitled);
        u64::try_from(part).unwrap_or(amount)
    }

    /// A weight counts only beside its siblings', so that of a host too large for them all are made
    /// smaller alike.
    fn weight(&self, entitled: u64) -> u32 {
        let most = u128::from(self.capacity.cpu.max(*WEIGHT.end()));
        let weight = u128::from(entitled) * u128::from(*WEIGHT.end()) / most;
        let weight = u64::try_from(weight).unwrap_or(u64::MAX);
        u32::try_from(weight.clamp(*WEIGHT.start(), *WEIGHT.end())).unwrap_or(u32::MAX)
    }

    fn millicpus(&self, mhz: u64) -> u32 {
        let count = (u128::from(mhz) * 1000 / u128::from(self.mhz)).max(LEAST_MILLICPUS.into());
        u32::try_from(count).unwrap_or(u32::MAX)
    }
}

fn stepped(bytes: u64) -> ByteSize {
    ByteSize(bytes.div_ceil(MEMORY_STEP).saturating_mul(MEMORY_STEP))
}
