//! A tree of pools that has been checked: one root, every parent there, no cycle.

use std::collections::HashMap;
use std::ops::Range;

use super::{Key, Pool, Resource};

/// Pools in breadth-first order: the root first, each before its children, siblings side by side
/// and by their key. So the order of the input makes no difference to anything computed from it.
#[derive(Debug, Clone)]
pub struct Hierarchy<P> {
    pools: Vec<Pool<P>>,
    parents: Vec<Option<usize>>,
    children: Vec<Range<usize>>,
    position: HashMap<P, usize>,
}

/// Why pools are not a tree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HierarchyError {
    #[error("there is no resource pool; a cluster has a root pool that holds its capacity")]
    Empty,
    #[error("resource pools `{first}` and `{second}` are the same object")]
    Duplicate { first: String, second: String },
    #[error(
        "resource pools `{first}` and `{second}` both have no parent; give one of them a parent"
    )]
    SeveralRoots { first: String, second: String },
    #[error(
        "the parent of resource pool `{pool}`, {parent}, does not exist; give it another parent"
    )]
    MissingParent { pool: String, parent: String },
    #[error(
        "resource pools lie in each other: {}; give one of them a parent that is not below it",
        path(.pools)
    )]
    /// Each is the child of the next, and the last that of the first.
    Cycle { pools: Vec<String> },
    #[error(
        "resource pool `{pool}` reserves {reservation} of {resource}, more than its limit of {limit}; \
         raise the limit or lower the reservation"
    )]
    ReservationOverLimit { pool: String, resource: Resource, reservation: String, limit: String },
}

fn path(pools: &[String]) -> String {
    let all = pools.iter().chain(pools.first());
    all.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(" in ")
}

impl<P: Key> Hierarchy<P> {
    /// Checks and orders pools, which may be listed in any order.
    ///
    /// # Errors
    /// If they are not one tree, or one reserves more than its limit.
    pub fn new(mut pools: Vec<Pool<P>>) -> Result<Self, HierarchyError> {
        pools.sort_unstable_by_key(|pool| pool.id);
        let listed = index(&pools)?;
        pools.iter().try_for_each(check_limits)?;
        let root = root(&pools, &listed)?;

        let mut below: HashMap<P, Vec<usize>> = HashMap::new();
        for (at, pool) in pools.iter().enumerate() {
            if let Some(parent) = pool.parent {
                below.entry(parent).or_default().push(at);
            }
        }
        let mut order = vec![root];
        let mut parents = vec![None];
        let mut children = Vec::with_capacity(pools.len());
        while let Some(at) = order.get(children.len()) {
            let first = order.len();
            let own = below.get(&pools[*at].id).map_or(&[][..], Vec::as_slice);
            parents.extend(own.iter().map(|_| Some(children.len())));
            order.extend(own);
            children.push(first..order.len());
        }
        if order.len() < pools.len() {
            return Err(cycle(&pools, &listed, &order));
        }

        let mut unordered: Vec<Option<Pool<P>>> = pools.into_iter().map(Some).collect();
        let pools: Vec<_> = order.iter().filter_map(|at| unordered[*at].take()).collect();
        let position = pools.iter().enumerate().map(|(at, pool)| (pool.id, at)).collect();
        Ok(Self { pools, parents, children, position })
    }

    /// All pools, parents before children.
    pub fn pools(&self) -> &[Pool<P>] {
        &self.pools
    }

    /// The pool that holds the cluster's capacity.
    pub fn root(&self) -> &Pool<P> {
        self.pools.first().expect("a hierarchy is not made without a root")
    }

    /// Where a pool stands in [`Self::pools`].
    pub fn position(&self, pool: P) -> Option<usize> {
        self.position.get(&pool).copied()
    }

    /// Where the parent of the pool at a position stands; none for the root.
    pub fn parent(&self, position: usize) -> Option<usize> {
        self.parents.get(position).copied().flatten()
    }

    /// Where the children of the pool at a position stand.
    pub fn children(&self, position: usize) -> Range<usize> {
        self.children.get(position).cloned().unwrap_or_default()
    }
}

fn index<P: Key>(pools: &[Pool<P>]) -> Result<HashMap<P, usize>, HierarchyError> {
    let mut listed = HashMap::with_capacity(pools.len());
    for (at, pool) in pools.iter().enumerate() {
        if let Some(other) = listed.insert(pool.id, at) {
            let (first, second) = (pools[other].name.clone(), pool.name.clone());
            return Err(HierarchyError::Duplicate { first, second });
        }
    }
    Ok(listed)
}

fn root<P: Key>(pools: &[Pool<P>], listed: &HashMap<P, usize>) -> Result<usize, HierarchyError> {
    let mut root = None;
    for (at, pool) in pools.iter().enumerate() {
        match (pool.parent, root) {
            (None, None) => root = Some(at),
            (None, Some(other)) => {
                let other: usize = other;
                let (first, second) = (pools[other].name.clone(), pool.name.clone());
                return Err(HierarchyError::SeveralRoots { first, second });
            }
            (Some(parent), _) if !listed.contains_key(&parent) => {
                let (pool, parent) = (pool.name.clone(), parent.to_string());
                return Err(HierarchyError::MissingParent { pool, parent });
            }
            (Some(_), _) => {}
        }
    }
    match root {
        Some(root) => Ok(root),
        None if pools.is_empty() => Err(HierarchyError::Empty),
        None => Err(cycle(pools, listed, &[])),
    }
}

/// The cycle above the first pool that cannot be reached from the root. There is one: each such
/// pool's parent exists and cannot be reached either, and there are finitely many.
fn cycle<P: Key>(
    pools: &[Pool<P>],
    listed: &HashMap<P, usize>,
    reached: &[usize],
) -> HierarchyError {
    let mut seen = vec![false; pools.len()];
    for at in reached {
        seen[*at] = true;
    }
    let mut at = seen.iter().position(|seen| !seen);
    let mut path: Vec<usize> = Vec::new();
    let mut step = vec![None; pools.len()];
    while let Some(here) = at {
        if let Some(begin) = step[here] {
            path.drain(..begin);
            break;
        }
        step[here] = Some(path.len());
        path.push(here);
        at = pools[here].parent.and_then(|parent| listed.get(&parent).copied());
    }
    HierarchyError::Cycle { pools: path.iter().map(|at| pools[*at].name.clone()).collect() }
}

fn check_limits<P: Key>(pool: &Pool<P>) -> Result<(), HierarchyError> {
    for resource in Resource::ALL {
        let numbers = pool.numbers(resource);
        if let Some(limit) = numbers.limit.filter(|limit| numbers.reservation > *limit) {
            return Err(HierarchyError::ReservationOverLimit {
                pool: pool.name.clone(),
                resource,
                reservation: resource.show(numbers.reservation),
                limit: resource.show(limit),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
