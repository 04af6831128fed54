//! How one pool or VM came by its entitlement: the arithmetic of `pool explain`, on demand.
//!
//! The division of the parent is done once more, for the level; nothing is kept for the 400,000
//! others.

use std::fmt;

use super::divide::{Divider, Fill, Level};
use super::{Entitled, EntitlementTree, Entitlements, Share, Totals};
use crate::pools::{Key, Resource};

/// One pool's or VM's entitlement and where it comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeExplanation {
    /// "VM 7", "resource pool `gold`".
    pub name: String,
    pub resource: Resource,
    /// Its number of shares.
    pub shares: u64,
    pub numbers: Entitled,
    /// Why it is not more.
    pub held: Held,
    /// How its parent was divided; none for the root.
    pub division: Option<Division>,
}

/// What bounds an entitlement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// The root: what the cluster has, or its own ceiling.
    Capacity,
    /// Its part of a reservation that cannot be kept in full.
    Scaled,
    /// By shares it would get less: its reservation keeps it here.
    AtReservation,
    /// It gets all that it demands, and by shares none of what is spare.
    AtDemand,
    /// It cannot use more, or has a limit.
    AtCeiling,
    /// Its shares.
    Shares,
}

/// How a pool was divided among its children. Amounts in MHz or bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Division {
    pub pool: String,
    pub children: usize,
    /// What there was.
    pub capacity: u64,
    /// What the children reserve, demand and can use, together.
    pub reserved: u64,
    pub demanded: u64,
    pub usable: u64,
    pub share: Share,
    /// What a share is worth; when scaled, what a unit of reservation is. None if all got the least
    /// or all got the most that their bounds allow.
    pub level: Option<Level>,
}

/// Explains the pool at a position of [`EntitlementTree::pools`]; none if there is none. The
/// entitlements have to be those of this tree.
pub fn explain_pool<P: Key, V: Key>(
    tree: &EntitlementTree<P, V>,
    entitlements: &Entitlements,
    position: usize,
) -> Option<NodeExplanation> {
    let name = format!("resource pool `{}`", tree.pools().get(position)?.name);
    let shares = tree.settings(entitlements.resource).pools.get(position)?.weight;
    let numbers = *entitlements.pools.get(position)?;
    Some(explain(tree, entitlements, name, shares, numbers, tree.parent(position)))
}

/// Explains the VM at a position of [`EntitlementTree::vms`]; none if there is none.
pub fn explain_vm<P: Key, V: Key>(
    tree: &EntitlementTree<P, V>,
    entitlements: &Entitlements,
    position: usize,
) -> Option<NodeExplanation> {
    let name = format!("VM {}", tree.vms().get(position)?);
    let shares = tree.settings(entitlements.resource).vms.get(position)?.weight;
    let numbers = *entitlements.vms.get(position)?;
    Some(explain(tree, entitlements, name, shares, numbers, tree.pool_of(position)))
}

fn explain<P: Key, V: Key>(
    tree: &EntitlementTree<P, V>,
    entitlements: &Entitlements,
    name: String,
    shares: u64,
    numbers: Entitled,
    parent: Option<usize>,
) -> NodeExplanation {
    let resource = entitlements.resource;
    let division = parent.map(|parent| division(tree, entitlements, parent));
    let held = division.as_ref().map_or(Held::Capacity, |division| held(division.share, &numbers));
    NodeExplanation { name, resource, shares, numbers, held, division }
}

fn division<P: Key, V: Key>(
    tree: &EntitlementTree<P, V>,
    entitlements: &Entitlements,
    at: usize,
) -> Division {
    let Entitlements { pools, vms, .. } = entitlements;
    let capacity = pools[at].entitled;
    let totals = Totals::of_children(tree, at, pools, vms);
    let share = totals.share(capacity);
    let mut claims = Vec::new();
    share.claims(tree, entitlements.resource, at, (pools, vms), &mut claims);
    let level = match Divider::default().fill(capacity, &claims) {
        Fill::Level(level) => Some(level),
        Fill::Low | Fill::High => None,
    };
    let narrow = |amount| u64::try_from(amount).unwrap_or(u64::MAX);
    Division {
        pool: tree.pools()[at].name.clone(),
        children: claims.len(),
        capacity,
        reserved: narrow(totals.reservation),
        demanded: narrow(totals.demand),
        usable: narrow(totals.ceiling),
        share,
        level,
    }
}

fn held(share: Share, numbers: &Entitled) -> Held {
    let Entitled { reservation, demand, ceiling, entitled } = *numbers;
    match share {
        Share::Scaled => Held::Scaled,
        Share::Contended if entitled == demand => Held::AtDemand,
        Share::Contended if entitled == reservation => Held::AtReservation,
        Share::Spare if entitled == ceiling => Held::AtCeiling,
        Share::Spare if entitled == demand => Held::AtDemand,
        Share::Contended | Share::Spare => Held::Shares,
    }
}

impl fmt::Display for NodeExplanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |amount| self.resource.show(amount);
        let Entitled { reservation, demand, ceiling, entitled } = self.numbers;
        let (name, resource, entitled) = (&self.name, self.resource, show(entitled));
        write!(f, "{name} is entitled to {entitled} of {resource}: ")?;
        if let Some(division) = &self.division {
            division.describe(self.resource, f)?;
            f.write_str("; ")?;
        }
        let shares = self.shares;
        match self.held {
            Held::Capacity => write!(f, "what the cluster has, and it can use {}", show(ceiling))?,
            Held::Scaled => write!(f, "it reserves {}", show(reservation))?,
            Held::AtReservation => {
                let reservation = show(reservation);
                write!(
                    f,
                    "its reservation of {reservation} is more than its {shares} shares give"
                )?;
            }
            Held::AtDemand => write!(f, "its {shares} shares give what it demands")?,
            Held::AtCeiling => write!(f, "it can use no more than {}", show(ceiling))?,
            Held::Shares => write!(f, "its {shares} shares give {entitled}")?,
        }
        match self.numbers.starved() {
            0 => Ok(()),
            starved => write!(f, "; it demands {}, {} more", show(demand), show(starved)),
        }
    }
}

impl Division {
    fn describe(&self, resource: Resource, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let show = |amount| resource.show(amount);
        let (pool, children, capacity) = (&self.pool, self.children, show(self.capacity));
        let who = if children == 1 { "child" } else { "children" };
        write!(f, "resource pool `{pool}` has {capacity} for {children} {who} with ")?;
        let (reserved, demanded) = (show(self.reserved), show(self.demanded));
        match self.share {
            Share::Scaled => {
                let percent = u128::from(self.capacity) * 1000 / u128::from(self.reserved.max(1));
                let (whole, tenth) = (percent / 10, percent % 10);
                write!(f, "{reserved} reserved: each gets {whole}.{tenth} % of its reservation")?;
                return Ok(());
            }
            Share::Contended => write!(f, "{reserved} reserved and {demanded} in demand")?,
            Share::Spare => write!(f, "{demanded} in demand and {} of use", show(self.usable))?,
        }
        let Some(level) = self.level else { return Ok(()) };
        // A share is often worth less than one MHz.
        let worth = u128::from(level.amount) * 1000 / level.weight;
        let worth = show(u64::try_from(worth).unwrap_or(u64::MAX));
        write!(f, ": by shares, {worth} for 1000")
    }
}

#[cfg(test)]
mod tests;
