//! Resource pools: a tree of pools and VMs with shares, reservations and limits, and what may be
//! reserved in it.
//!
//! [`Hierarchy`] checks a tree of pools; [`Ledger`] says at each power-on and at each change of a
//! pool whether its reservation can be promised, and remembers what was. How capacity is divided
//! among those that run is the business of [`crate::entitlement`].
//!
//! CPU is counted in megahertz, memory in bytes, both in whole numbers. An amount is at most
//! [`MOST`]; larger ones are read as that.
//!
//! Pools and VMs are told apart by whatever key the caller has; `control` passes its typed ids.
//! Nothing here knows hosts: the root's reservation is what the cluster has to give.

mod allocation;
mod hierarchy;
mod ledger;
mod refusal;

use std::fmt::{Debug, Display};
use std::hash::Hash;

pub use allocation::{
    MOST, PerResource, Pool, PoolAllocation, PoolVm, Reserve, Resource, Unit, VmAllocation,
};
pub(crate) use allocation::{PoolNumbers, VmNumbers};
pub use hierarchy::{Hierarchy, HierarchyError};
pub use hostler_types::{Megahertz, Shares};
pub use ledger::{Admission, Borrowed, Ledger, LedgerError, Usage};
pub use refusal::{Change, Obstacle, ObstacleKind, Refused, Shortage};

/// What tells pools, or VMs, apart. Its order breaks ties, so it must not depend on how the input
/// was listed.
pub trait Key: Copy + Ord + Hash + Debug + Display {}
impl<T: Copy + Ord + Hash + Debug + Display> Key for T {}
