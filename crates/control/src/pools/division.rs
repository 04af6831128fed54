//! What everyone is entitled to now, and how that came about: a division of what the connected hosts
//! have among the VMs that run.

use std::collections::HashMap;

use hostler_policy::entitlement::{
    EntitlementTree, Entitlements, Entitler, NodeExplanation, explain_pool, explain_vm,
};
use hostler_policy::pools::{Hierarchy, Ledger, PerResource, Resource};
use hostler_types::{
    ObjectId, PoolExplanation, PoolNode, PoolNodeKind, PoolTree, ResourceStand, Shares, Vm, VmId,
    VmKind,
};

use super::demand::Wanted;
use super::{capacity, child, hierarchy, mhz_of};
use crate::error::ServiceError;
use crate::inventory::Snapshot;

/// A division at one moment.
#[derive(Debug)]
pub(crate) struct Division {
    pub(crate) tree: EntitlementTree<ObjectId, VmId>,
    pub(crate) hierarchy: Hierarchy<ObjectId>,
    pub(crate) given: PerResource<Entitlements>,
    /// What was measured of the VMs, in the order of the tree; in MHz and bytes.
    used: Vec<Option<PerResource<u64>>>,
}

impl Division {
    /// # Errors
    /// There is no cluster yet.
    pub(crate) fn of(
        snapshot: &Snapshot,
        measured: &HashMap<VmId, Wanted>,
    ) -> Result<Self, ServiceError> {
        let hierarchy = hierarchy(snapshot, None)?;
        let mut vms = Vec::new();
        for vm in snapshot.all::<VmKind>().iter().filter(|vm| vm.status.power.is_live()) {
            let child = child(snapshot, vm, mhz_of(snapshot, vm))?;
            // Of a pool that was deleted at this moment; whoever deletes one looks for its VMs.
            if hierarchy.position(child.pool).is_some() {
                vms.push(child);
            }
        }
        let tree = EntitlementTree::new(hierarchy.clone(), &vms)
            .map_err(|error| ServiceError::internal("the VMs are in no pool", error))?;
        let numbers = |vm: &VmId| {
            let (used, vm) = (measured.get(vm)?, snapshot.get::<VmKind>(*vm)?);
            Some(measure(used, mhz_of(snapshot, vm)))
        };
        let numbers: Vec<_> = tree.vms().iter().map(numbers).collect();
        let (capacity, mut entitler) = (capacity(snapshot), Entitler::default());
        let given = PerResource::of(|resource| {
            let capacity = match resource {
                Resource::Cpu => capacity.cpu.0,
                Resource::Memory => capacity.memory.0,
            };
            // Who has not been measured yet may want all it can use.
            entitler.entitle(&tree, resource, capacity, |vm| {
                numbers[vm].map_or(u64::MAX, |(_, demand)| demand[resource])
            })
        });
        let used = numbers.into_iter().map(|both| both.map(|(used, _)| used)).collect();
        Ok(Self { tree, hierarchy, given, used })
    }

    /// The tree for people and programs.
    pub(crate) fn shown(&self, snapshot: &Snapshot, ledger: &Ledger<ObjectId, VmId>) -> PoolTree {
        let mut nodes = Vec::new();
        self.show(0, 0, snapshot, ledger, &mut nodes);
        let alarms = ledger.overcommitted().into_iter().map(|(resource, obstacle)| {
            let (wanted, free) = (resource.show(obstacle.wanted), resource.show(obstacle.free));
            format!(
                "{wanted} of {resource} are reserved in `{}`, which has {free}: what runs goes on, \
                 and nothing more is promised there",
                obstacle.name
            )
        });
        PoolTree { nodes, alarms: alarms.collect() }
    }

    fn show(
        &self,
        at: usize,
        depth: u32,
        snapshot: &Snapshot,
        ledger: &Ledger<ObjectId, VmId>,
        nodes: &mut Vec<PoolNode>,
    ) {
        let Some(pool) = self.hierarchy.pools().get(at) else { return };
        let line = nodes.len();
        let kind = if depth == 0 { PoolNodeKind::Cluster } else { PoolNodeKind::Pool };
        nodes.push(PoolNode {
            kind,
            id: pool.id,
            name: pool.name.clone(),
            depth,
            cpu: ResourceStand::default(),
            memory: ResourceStand::default(),
        });
        for child in self.hierarchy.children(at) {
            self.show(child, depth + 1, snapshot, ledger, nodes);
        }
        for vm in self.tree.vms_of(at) {
            nodes.extend(self.vm_node(vm, depth + 1, snapshot));
        }
        let below = nodes.get(line + 1..).unwrap_or_default();
        let vms: Vec<&PoolNode> = below.iter().filter(|n| n.kind == PoolNodeKind::Vm).collect();
        let cpu_used = sum(vms.iter().map(|vm| vm.cpu.used));
        let memory_used = sum(vms.iter().map(|vm| vm.memory.used));
        let stand = |resource: Resource, shares, limit, used| {
            let numbers = self.given[resource].pools[at];
            let usage = ledger.usage(pool.id, resource);
            ResourceStand {
                shares,
                reservation: usage.map_or(0, |usage| usage.reservation),
                limit,
                reserved: usage.map_or(0, |usage| usage.used),
                available: usage.map_or(0, |usage| usage.available),
                usable: numbers.ceiling,
                demand: numbers.demand,
                entitled: numbers.entitled,
                used,
                starved: numbers.starved(),
            }
        };
        let limit = pool.cpu.limit.map(|limit| limit.0);
        let cpu = stand(Resource::Cpu, pool.cpu.shares, limit, cpu_used);
        let limit = pool.memory.limit.map(|limit| limit.0);
        let memory = stand(Resource::Memory, pool.memory.shares, limit, memory_used);
        if let Some(node) = nodes.get_mut(line) {
            (node.cpu, node.memory) = (cpu, memory);
        }
    }

    fn vm_node(&self, at: usize, depth: u32, snapshot: &Snapshot) -> Option<PoolNode> {
        let vm = snapshot.get::<VmKind>(*self.tree.vms().get(at)?)?;
        let child = child(snapshot, vm, mhz_of(snapshot, vm)).ok()?;
        let stand = |resource: Resource, shares: Shares, reservation, limit| {
            let numbers = self.given[resource].vms[at];
            ResourceStand {
                shares,
                reservation,
                limit,
                reserved: numbers.reservation,
                available: 0,
                usable: numbers.ceiling,
                demand: numbers.demand,
                entitled: numbers.entitled,
                used: self.used[at].map(|used| used[resource]),
                starved: numbers.starved(),
            }
        };
        let (cpu, memory) = (&child.cpu, &child.memory);
        Some(PoolNode {
            kind: PoolNodeKind::Vm,
            id: vm.id().untyped(),
            name: vm.called().to_string(),
            depth,
            cpu: stand(Resource::Cpu, cpu.shares, cpu.reservation.0, cpu.limit.map(|it| it.0)),
            memory: stand(
                Resource::Memory,
                memory.shares,
                memory.reservation.0,
                memory.limit.map(|it| it.0),
            ),
        })
    }

    /// How a pool came by its entitlement; none if there is no such pool.
    pub(crate) fn explain_pool(&self, pool: ObjectId) -> Option<PoolExplanation> {
        let at = self.tree.pool_position(pool)?;
        let name = self.hierarchy.pools().get(at)?.name.clone();
        Some(self.explained(name, at, |_| None))
    }

    /// How a VM that runs came by its entitlement; none if it does not run.
    pub(crate) fn explain_vm(&self, vm: &Vm, pool: ObjectId) -> Option<PoolExplanation> {
        let at = self.tree.vm_position(pool, vm.id())?;
        let above = self.tree.pool_position(pool)?;
        let name = vm.called().to_string();
        Some(self.explained(name.clone(), above, |resource| {
            let mut explained = explain_vm(&self.tree, &self.given[resource], at)?;
            explained.name = format!("vm `{name}`");
            Some(explained)
        }))
    }

    /// From the root down to the pool at a position, then what is below that.
    fn explained(
        &self,
        name: String,
        at: usize,
        last: impl Fn(Resource) -> Option<NodeExplanation>,
    ) -> PoolExplanation {
        let mut path = vec![at];
        while let Some(parent) = path.last().and_then(|at| self.hierarchy.parent(*at)) {
            path.push(parent);
        }
        let mut sentences = Vec::new();
        for resource in Resource::ALL {
            let given = &self.given[resource];
            let pools = path.iter().rev().filter_map(|at| explain_pool(&self.tree, given, *at));
            sentences.extend(pools.chain(last(resource)).map(|node| node.to_string()));
        }
        PoolExplanation { name, sentences }
    }
}

fn sum(amounts: impl Iterator<Item = Option<u64>>) -> Option<u64> {
    amounts.flatten().fold(None, |sum, amount| Some(sum.unwrap_or(0).saturating_add(amount)))
}

/// What was used, and what was wanted: CPU time that was waited for is wanted as well.
fn measure(used: &Wanted, mhz: u64) -> (PerResource<u64>, PerResource<u64>) {
    let mhz_of = |millicpus: u32| u64::from(millicpus).saturating_mul(mhz) / 1000;
    (
        PerResource { cpu: mhz_of(used.used), memory: used.memory },
        PerResource { cpu: mhz_of(used.wanted), memory: used.memory },
    )
}
