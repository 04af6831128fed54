//! Pools and VMs laid out for dividing: children side by side, bare numbers, no names looked up.

use std::ops::Range;

use crate::pools::{Hierarchy, Key, PerResource, Pool, PoolNumbers, PoolVm, Resource, VmNumbers};

/// A tree of pools with the VMs that run in them. Made anew when pools or VMs come, go or are
/// changed; demand and capacity are not part of it.
#[derive(Debug, Clone)]
pub struct EntitlementTree<P, V> {
    hierarchy: Hierarchy<P>,
    nodes: Vec<Node>,
    vms: Vec<V>,
    settings: PerResource<Settings>,
}

/// Where a pool's children stand.
#[derive(Debug, Clone, Default)]
pub(super) struct Node {
    pub pools: Range<usize>,
    pub vms: Range<usize>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Settings {
    pub pools: Vec<PoolNumbers>,
    pub vms: Vec<VmNumbers>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TreeError {
    #[error("VM {vm} is in resource pool {pool}, which does not exist; move it to another pool")]
    MissingPool { vm: String, pool: String },
    #[error("VM {vm} is in resource pools `{first}` and `{second}`; a VM is in one pool")]
    Duplicate { vm: String, first: String, second: String },
}

impl<P: Key, V: Key> EntitlementTree<P, V> {
    /// Puts VMs, listed in any order, into their pools.
    ///
    /// # Errors
    /// If a VM's pool does not exist, or a VM is listed twice.
    pub fn new(hierarchy: Hierarchy<P>, vms: &[PoolVm<P, V>]) -> Result<Self, TreeError> {
        let order = by_key(vms, &hierarchy)?;
        let mut pool_of = vec![0; vms.len()];
        let mut nodes: Vec<_> = (0..hierarchy.pools().len())
            .map(|pool| Node { pools: hierarchy.children(pool), vms: 0..0 })
            .collect();
        for (vm, pool_of) in vms.iter().zip(&mut pool_of) {
            let Some(pool) = hierarchy.position(vm.pool) else {
                let (vm, pool) = (vm.id.to_string(), vm.pool.to_string());
                return Err(TreeError::MissingPool { vm, pool });
            };
            *pool_of = pool;
            nodes[pool].vms.end += 1;
        }
        let mut begin = 0;
        for node in &mut nodes {
            let count = node.vms.end;
            // Grows as VMs are put in.
            node.vms = begin..begin;
            begin += count;
        }
        let mut places = vec![0; vms.len()];
        for at in order {
            let end = &mut nodes[pool_of[at]].vms.end;
            places[*end] = at;
            *end += 1;
        }

        let mut settings = PerResource::of(|resource| Settings {
            pools: hierarchy.pools().iter().map(|pool| pool.numbers(resource)).collect(),
            vms: Vec::with_capacity(vms.len()),
        });
        let mut keys = Vec::with_capacity(vms.len());
        for vm in places.into_iter().map(|at| &vms[at]) {
            keys.push(vm.id);
            for resource in Resource::ALL {
                settings[resource].vms.push(vm.numbers(resource));
            }
        }
        Ok(Self { hierarchy, nodes, vms: keys, settings })
    }

    /// All pools, parents before children.
    pub fn pools(&self) -> &[Pool<P>] {
        self.hierarchy.pools()
    }

    /// All VMs, by pool.
    pub fn vms(&self) -> &[V] {
        &self.vms
    }

    /// Where the VMs of the pool at a position stand in [`Self::vms`]: its own, not those further down.
    pub fn vms_of(&self, pool: usize) -> Range<usize> {
        self.nodes.get(pool).map_or(0..0, |node| node.vms.clone())
    }

    /// The number of shares of the pool at a position.
    pub fn pool_shares(&self, pool: usize, resource: Resource) -> u64 {
        self.settings[resource].pools.get(pool).map_or(0, |numbers| numbers.weight)
    }

    /// Where a pool stands in [`Self::pools`].
    pub fn pool_position(&self, pool: P) -> Option<usize> {
        self.hierarchy.position(pool)
    }

    /// Where a VM of a pool stands in [`Self::vms`].
    pub fn vm_position(&self, pool: P, vm: V) -> Option<usize> {
        let own = &self.nodes.get(self.hierarchy.position(pool)?)?.vms;
        let found = self.vms.get(own.clone())?.binary_search(&vm).ok()?;
        Some(own.start + found)
    }

    /// Where the pool of the VM at a position stands.
    pub(super) fn pool_of(&self, vm: usize) -> Option<usize> {
        // Pools follow one another in the order of their VMs.
        let pool = self.nodes.partition_point(|node| node.vms.end <= vm);
        self.nodes.get(pool).is_some_and(|node| node.vms.contains(&vm)).then_some(pool)
    }

    pub(super) fn parent(&self, pool: usize) -> Option<usize> {
        self.hierarchy.parent(pool)
    }

    pub(super) fn pool(&self, position: usize) -> &Node {
        &self.nodes[position]
    }

    pub(super) fn settings(&self, resource: Resource) -> &Settings {
        &self.settings[resource]
    }
}

/// The VMs in the order of their keys, of which there may be only one each. Mostly they come in that
/// order.
fn by_key<P: Key, V: Key>(
    vms: &[PoolVm<P, V>],
    hierarchy: &Hierarchy<P>,
) -> Result<Vec<usize>, TreeError> {
    let mut order: Vec<_> = (0..vms.len()).collect();
    if vms.is_sorted_by(|one, other| one.id < other.id) {
        return Ok(order);
    }
    order.sort_unstable_by_key(|at| (vms[*at].id, *at));
    let twice = order.windows(2).map(|pair| [&vms[pair[0]], &vms[pair[1]]]);
    let Some([one, other]) = twice.into_iter().find(|[one, other]| one.id == other.id) else {
        return Ok(order);
    };
    let name = |key: P| match hierarchy.position(key) {
        Some(at) => hierarchy.pools()[at].name.clone(),
        None => key.to_string(),
    };
    let (first, second) = (name(one.pool), name(other.pool));
    Err(TreeError::Duplicate { vm: one.id.to_string(), first, second })
}
