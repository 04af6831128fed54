//! What pools and VMs are given of a resource: shares, reservation, limit; and the units.

use std::fmt;
use std::ops::{Index, IndexMut};

use hostler_types::{ByteSize, Megahertz, Shares};
use serde::{Deserialize, Serialize};

/// The largest amount that is told apart from "as much as there is": 2⁶³ − 1 MHz or bytes. It keeps
/// every product of an amount and a weight, twice over, within 128 bits.
pub const MOST: u64 = i64::MAX as u64;

/// A pool without a size of its own counts as a VM with this many CPUs …
const POOL_VCPUS: u64 = 4;
/// … and this much memory. Both as in vSphere ("Resource Allocation Shares", vSphere Resource
/// Management), where a normal pool has 4,000 CPU shares and 163,840 memory shares.
const POOL_MIB: u64 = 16 << 10;

const MIB: u64 = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// In megahertz.
    Cpu,
    /// In bytes.
    Memory,
}

impl Resource {
    pub const ALL: [Self; 2] = [Self::Cpu, Self::Memory];

    /// An amount with its unit: `4000MHz`, `2GiB`.
    pub fn show(self, amount: u64) -> String {
        match self {
            Self::Cpu => Megahertz(amount).to_string(),
            Self::Memory => ByteSize(amount).to_string(),
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Cpu => "CPU",
            Self::Memory => "memory",
        })
    }
}

/// An amount of one resource, in its unit.
pub trait Unit: Copy {
    /// The bare number, at most [`MOST`].
    fn amount(self) -> u64;
}

impl Unit for Megahertz {
    fn amount(self) -> u64 {
        self.0.min(MOST)
    }
}

impl Unit for ByteSize {
    fn amount(self) -> u64 {
        self.bytes().min(MOST)
    }
}

/// One of something for each resource.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PerResource<T> {
    pub cpu: T,
    pub memory: T,
}

impl<T> PerResource<T> {
    /// Makes one for each resource.
    pub fn of(mut make: impl FnMut(Resource) -> T) -> Self {
        Self { cpu: make(Resource::Cpu), memory: make(Resource::Memory) }
    }
}

impl<T> Index<Resource> for PerResource<T> {
    type Output = T;
    fn index(&self, resource: Resource) -> &T {
        match resource {
            Resource::Cpu => &self.cpu,
            Resource::Memory => &self.memory,
        }
    }
}

impl<T> IndexMut<Resource> for PerResource<T> {
    fn index_mut(&mut self, resource: Resource) -> &mut T {
        match resource {
            Resource::Cpu => &mut self.cpu,
            Resource::Memory => &mut self.memory,
        }
    }
}

/// The number of shares of something with `units` virtual CPUs or MiB of memory. As vSphere: 500,
/// 1,000 or 2,000 a CPU; 5, 10 or 20 a MiB (`SharesInfo.Level` of its API).
fn weight(shares: Shares, resource: Resource, units: u64) -> u64 {
    let low: u64 = match resource {
        Resource::Cpu => 500,
        Resource::Memory => 5,
    };
    let each = match shares {
        Shares::Low => low,
        Shares::Normal => 2 * low,
        Shares::High => 4 * low,
        Shares::Custom(number) => return number.get().into(),
    };
    each.saturating_mul(units.max(1)).min(MOST)
}

/// What a pool is given of one resource.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolAllocation<U> {
    #[serde(default)]
    pub shares: Shares,
    /// Set aside for the pool, whether it has VMs or not. The root's is the cluster's capacity.
    pub reservation: U,
    /// When the reservation is used up, more may be borrowed from what the parent has not reserved.
    /// Of no effect on the root.
    pub expandable: bool,
    /// The most it may get, and the most its VMs may reserve; none, if there is no limit.
    pub limit: Option<U>,
}

/// What a VM is given of one resource.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmAllocation<U> {
    #[serde(default)]
    pub shares: Shares,
    /// Set aside for it while it runs.
    pub reservation: U,
    /// The most it may get; none, if only its size is the limit.
    pub limit: Option<U>,
    /// The most it can make use of: CPUs × speed, or the memory it was configured with.
    pub configured: U,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool<P> {
    pub id: P,
    pub name: String,
    /// None for the root, and only for it.
    pub parent: Option<P>,
    pub cpu: PoolAllocation<Megahertz>,
    pub memory: PoolAllocation<ByteSize>,
}

/// A VM as a child of its pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolVm<P, V> {
    pub id: V,
    pub pool: P,
    pub vcpus: u32,
    pub cpu: VmAllocation<Megahertz>,
    pub memory: VmAllocation<ByteSize>,
}

/// What a VM's power-on sets aside.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reserve {
    pub cpu: Megahertz,
    /// With what QEMU itself needs for it, if that is to be reserved as well.
    pub memory: ByteSize,
}

impl Reserve {
    pub(crate) fn amounts(self) -> PerResource<u64> {
        PerResource { cpu: self.cpu.amount(), memory: self.memory.amount() }
    }
}

/// A pool's allocation of one resource in bare numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PoolNumbers {
    pub weight: u64,
    pub reservation: u64,
    pub expandable: bool,
    pub limit: Option<u64>,
}

/// A VM's allocation of one resource in bare numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct VmNumbers {
    pub weight: u64,
    /// At most `ceiling`: what cannot be used is not kept from others.
    pub reservation: u64,
    /// The smaller of limit and size.
    pub ceiling: u64,
}

impl<U: Unit> PoolAllocation<U> {
    pub(crate) fn numbers(&self, resource: Resource) -> PoolNumbers {
        let units = match resource {
            Resource::Cpu => POOL_VCPUS,
            Resource::Memory => POOL_MIB,
        };
        PoolNumbers {
            weight: weight(self.shares, resource, units),
            reservation: self.reservation.amount(),
            expandable: self.expandable,
            limit: self.limit.map(U::amount),
        }
    }
}

impl<U: Unit> VmAllocation<U> {
    fn numbers(&self, resource: Resource, units: u64) -> VmNumbers {
        let ceiling = self.limit.map_or(MOST, U::amount).min(self.configured.amount());
        VmNumbers {
            weight: weight(self.shares, resource, units),
            reservation: self.reservation.amount().min(ceiling),
            ceiling,
        }
    }
}

impl<P> Pool<P> {
    pub(crate) fn numbers(&self, resource: Resource) -> PoolNumbers {
        match resource {
            Resource::Cpu => self.cpu.numbers(resource),
            Resource::Memory => self.memory.numbers(resource),
        }
    }
}

impl<P, V> PoolVm<P, V> {
    pub(crate) fn numbers(&self, resource: Resource) -> VmNumbers {
        match resource {
            Resource::Cpu => self.cpu.numbers(resource, self.vcpus.into()),
            Resource::Memory => self.memory.numbers(resource, self.memory.configured.bytes() / MIB),
        }
    }
}
