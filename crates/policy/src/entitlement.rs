//! What each pool and VM is entitled to: capacity divided among those who want it.
//!
//! From the root down, a pool divides what it is entitled to among its child pools and VMs, in two
//! passes as vSphere's DRS does since 6.7 ("two-pass divvying"):
//!
//! 1. up to what each *demands* now, by shares, nobody below its reservation;
//! 2. what is left, up to what each *can use* (its limit or configured size), again by shares,
//!    nobody below what the first pass gave.
//!
//! ```text
//! xᵢ = clamp(sharesᵢ · λ, lowᵢ, highᵢ)   with the one level λ for which Σ xᵢ = capacity
//!      pass 1: low = reservation, high = demand;    pass 2: low = demand, high = ceiling
//! ```
//!
//! This is weighted max–min fairness: nobody can gain but from somebody who has no more per share.
//! If the reservations alone are more than there is, each gets the same part of its own and the pool
//! is listed in [`Entitlements::scaled`]: hosts were lost, or somebody promised too much.
//!
//! From the leaves up, first, a pool's numbers come from its children's:
//!
//! ```text
//! ceiling     = min(limit, Σ ceilings)            reservation = min(reserved, ceiling), reserved
//! demand      = clamp(Σ demands, reservation, ceiling)            at least Σ reservations, if expandable
//! ```
//!
//! so a reservation that a pool's VMs could not use even in full is not kept from its siblings. All
//! amounts are whole MHz or bytes, nothing is lost or made (`divide.rs` has the rounding), and the
//! result depends on the keys of pools and VMs but not on the order in which they were listed.
//! Only VMs that run, or are about to, belong in the tree.

mod divide;
mod explain;
mod rounding;
mod tree;

pub use divide::Level;
pub use explain::{Division, Held, NodeExplanation, explain_pool, explain_vm};
pub use tree::{EntitlementTree, TreeError};

use crate::pools::{Key, MOST, Resource};
use divide::{Claim, Divider};

/// What everyone is entitled to of one resource, in MHz or bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entitlements {
    pub resource: Resource,
    /// What there was to divide.
    pub capacity: u64,
    /// In the order of [`EntitlementTree::pools`]. The root's `entitled` is all that was given out.
    pub pools: Vec<Entitled>,
    /// In the order of [`EntitlementTree::vms`].
    pub vms: Vec<Entitled>,
    /// Positions of the pools that got less than their children's reservations: an alarm.
    pub scaled: Vec<usize>,
}

/// One pool's or VM's numbers. `reservation ≤ demand ≤ ceiling`; and `reservation ≤ entitled ≤
/// ceiling`, but for what lies below a pool in [`Entitlements::scaled`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Entitled {
    /// What is kept for it, as far as it can use it.
    pub reservation: u64,
    /// What it wants now, but at least its reservation.
    pub demand: u64,
    /// The most it can get.
    pub ceiling: u64,
    pub entitled: u64,
}

impl Entitled {
    /// What the first pass gave it: all of its entitlement that it demands now.
    pub fn met(&self) -> u64 {
        self.demand.min(self.entitled)
    }

    /// What it demands and is not entitled to.
    pub fn starved(&self) -> u64 {
        self.demand - self.met()
    }
}

/// Divides `capacity`, in MHz or bytes, in a whole tree. `demand` tells what the VM at a position of
/// [`EntitlementTree::vms`] wants now, by what it was measured to use.
pub fn entitle<P: Key, V: Key>(
    tree: &EntitlementTree<P, V>,
    resource: Resource,
    capacity: u64,
    demand: impl Fn(usize) -> u64,
) -> Entitlements {
    Entitler::default().entitle(tree, resource, capacity, demand)
}

/// Does what [`entitle`] does, again and again in the same memory: for 400,000 VMs, having it cleared
/// anew takes the kernel as long as dividing takes. What was divided before makes no difference.
#[derive(Debug, Default)]
pub struct Entitler {
    divider: Divider,
    claims: Vec<Claim>,
}

impl Entitler {
    /// See [`entitle`].
    pub fn entitle<P: Key, V: Key>(
        &mut self,
        tree: &EntitlementTree<P, V>,
        resource: Resource,
        capacity: u64,
        demand: impl Fn(usize) -> u64,
    ) -> Entitlements {
        let (mut pools, mut vms) = wishes(tree, resource, demand);
        let capacity = capacity.min(MOST);
        if let Some(root) = pools.first_mut() {
            root.entitled = capacity.min(root.ceiling);
        }
        let mut scaled = Vec::new();
        for at in 0..pools.len() {
            let (node, has) = (tree.pool(at), pools[at].entitled);
            let share = Totals::of_children(tree, at, &pools, &vms).share(has);
            if share == Share::Scaled {
                scaled.push(at);
            }
            share.claims(tree, resource, at, (&pools, &vms), &mut self.claims);
            let given = self.divider.divide(has, &self.claims);
            let to_pools = pools[node.pools.clone()].iter_mut();
            let to_vms = vms[node.vms.clone()].iter_mut();
            for (child, given) in to_pools.chain(to_vms).zip(given) {
                child.entitled = *given;
            }
        }
        Entitlements { resource, capacity, pools, vms, scaled }
    }
}

/// From the leaves up: what is reserved, demanded and usable.
fn wishes<P: Key, V: Key>(
    tree: &EntitlementTree<P, V>,
    resource: Resource,
    demand: impl Fn(usize) -> u64,
) -> (Vec<Entitled>, Vec<Entitled>) {
    let settings = tree.settings(resource);
    let each = settings.vms.iter().enumerate().map(|(at, vm)| {
        let (reservation, ceiling) = (vm.reservation, vm.ceiling);
        let demand = demand(at).clamp(reservation, ceiling);
        Entitled { reservation, demand, ceiling, entitled: 0 }
    });
    let vms: Vec<_> = each.collect();
    let mut pools = vec![Entitled::default(); settings.pools.len()];
    // Children stand behind their parents.
    for at in (0..pools.len()).rev() {
        let totals = Totals::of_children(tree, at, &pools, &vms);
        let pool = &settings.pools[at];
        let ceiling = totals.ceiling.min(pool.limit.unwrap_or(MOST).into());
        let borrowed = if pool.expandable { totals.reservation } else { 0 };
        let reservation = borrowed.max(pool.reservation.into()).min(ceiling);
        let demand = totals.demand.clamp(reservation, ceiling);
        let narrow = |amount| u64::try_from(amount).expect("none is above the ceiling or `MOST`");
        pools[at] = Entitled {
            reservation: narrow(reservation),
            demand: narrow(demand),
            ceiling: narrow(ceiling),
            entitled: 0,
        };
    }
    (pools, vms)
}

/// Sums over the children of a pool; 128 bits hold any number of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Totals {
    reservation: u128,
    demand: u128,
    ceiling: u128,
}

/// How far what a pool has goes among its children.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// Not for the reservations: each gets a part of its own.
    Scaled,
    /// For the reservations, but not for more than the demands.
    Contended,
    /// Beyond the demands.
    Spare,
}

impl Totals {
    fn of_children<P: Key, V: Key>(
        tree: &EntitlementTree<P, V>,
        at: usize,
        pools: &[Entitled],
        vms: &[Entitled],
    ) -> Self {
        let node = tree.pool(at);
        let mut totals = Self::default();
        for child in pools[node.pools.clone()].iter().chain(&vms[node.vms.clone()]) {
            totals.reservation += u128::from(child.reservation);
            totals.demand += u128::from(child.demand);
            totals.ceiling += u128::from(child.ceiling);
        }
        totals
    }

    fn share(&self, capacity: u64) -> Share {
        match u128::from(capacity) {
            capacity if capacity < self.reservation => Share::Scaled,
            capacity if capacity <= self.demand => Share::Contended,
            _ => Share::Spare,
        }
    }
}

impl Share {
    /// The claims of a pool's children: its child pools, then its VMs.
    fn claims<P: Key, V: Key>(
        self,
        tree: &EntitlementTree<P, V>,
        resource: Resource,
        at: usize,
        (pools, vms): (&[Entitled], &[Entitled]),
        claims: &mut Vec<Claim>,
    ) {
        let (settings, node) = (tree.settings(resource), tree.pool(at));
        claims.clear();
        let children = settings.pools[node.pools.clone()].iter().zip(&pools[node.pools.clone()]);
        claims.extend(children.map(|(settings, child)| self.claim(settings.weight, child)));
        let children = settings.vms[node.vms.clone()].iter().zip(&vms[node.vms.clone()]);
        claims.extend(children.map(|(settings, child)| self.claim(settings.weight, child)));
    }

    fn claim(self, weight: u64, child: &Entitled) -> Claim {
        match self {
            Self::Scaled => Claim { weight: child.reservation, low: 0, high: child.reservation },
            Self::Contended => Claim { weight, low: child.reservation, high: child.demand },
            Self::Spare => Claim { weight, low: child.demand, high: child.ceiling },
        }
    }
}

#[cfg(test)]
mod tests;
