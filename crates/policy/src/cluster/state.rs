//! The cluster by positions, and what changes in it when a VM is put somewhere or taken away.

use std::collections::{BTreeSet, HashMap};
use std::sync::OnceLock;

use hostler_types::{ByteSize, DatastoreId, HostId, VmId};

use super::classes::{Asked, ClassKey, StoreNeed};
use super::{Automation, Bits, Class, ClassIndex, ClusterSettings, Contention, HostCondition};
use crate::placement::DatastoreCandidate;
use crate::rules::RuleTable;

/// Position of a host in [`Cluster::hosts`]: by ascending id, so that the order in the snapshot
/// does not matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostIndex(pub(crate) u32);

/// Position of a VM: by ascending id; those added later follow in the order of their coming.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VmIndex(pub(crate) u32);

pub(crate) type StoreIndex = u32;

/// What a VM takes of a host: configured memory (bytes), vCPUs, reserved memory (bytes), reserved
/// CPU (MHz).
pub(crate) type Size = [i64; 4];
pub(crate) const MEMORY: usize = 0;
pub(crate) const CPU: usize = 1;

/// Expected use: CPU (MHz) and memory (bytes) over the last 5 minutes, then both over the last hour.
pub(crate) type Load = [f64; 4];

/// The indexed cluster. Made by [`Cluster::build`].
#[derive(Debug, Clone)]
pub struct Cluster {
    pub(crate) settings: ClusterSettings,
    pub(crate) hosts: Vec<HostFacts>,
    /// Parallel to `hosts`: what placement reads of every candidate lies close together.
    pub(crate) room: Vec<Room>,
    pub(crate) vms: Vec<VmFacts>,
    pub(crate) vms_on: Vec<Vec<u32>>,
    /// VMs that rules are about, in ascending order.
    pub(crate) ruled: Vec<u32>,
    pub(crate) stores: Vec<DatastoreCandidate>,
    pub(crate) store_room: Vec<StoreRoom>,
    pub(crate) rules: RuleTable,
    pub(crate) classes: Vec<Class>,
    pub(super) class_of: HashMap<ClassKey, ClassIndex>,
    pub(crate) features: Vec<Asked>,
    pub(super) features_of: HashMap<Vec<String>, u32>,
    pub(crate) networks: Vec<Asked>,
    pub(super) networks_of: HashMap<Vec<String>, u32>,
    /// The hosts that list a datastore, and whether it is ready there.
    pub(super) reaching: Vec<Vec<(u32, bool)>>,
    /// Hosts that take VMs, and those with any ready datastore.
    pub(super) available: OnceLock<Bits>,
    pub(super) with_store: OnceLock<Bits>,
    pub(super) host_of: HashMap<HostId, u32>,
    pub(super) vm_of: HashMap<VmId, u32>,
    pub(super) store_of: HashMap<DatastoreId, StoreIndex>,
}

#[derive(Debug, Clone)]
pub(crate) struct HostFacts {
    pub(crate) id: HostId,
    pub(crate) name: String,
    pub(crate) condition: HostCondition,
    pub(crate) features: BTreeSet<String>,
    pub(crate) networks: BTreeSet<String>,
    pub(crate) stores: Vec<(StoreIndex, bool)>,
    pub(crate) link: u32,
}

/// What a host has, and what of it is left.
#[derive(Debug, Clone)]
pub(crate) struct Room {
    /// What may be promised. "Any" is [`UNLIMITED`].
    pub(crate) most: Size,
    /// May be negative, where more was promised than is allowed now.
    pub(crate) free: Size,
    /// Denominators of the score: physical where any may be promised.
    pub(crate) scale: [f64; 4],
    /// Logical CPUs.
    pub(crate) cpus: i64,
    /// How many CPUs a VM may have here: as many as there are, so that all of them can run at once. On a
    /// host that no other surpasses [`super::WIDER`] times as many: it would fit nowhere better, and guests
    /// of more CPUs than there are run all the same.
    pub(crate) widest: i64,
    /// In bytes: no VM is larger.
    pub(crate) memory: i64,
    pub(crate) promised_cpus: i64,
    pub(crate) promised_memory: i64,
    pub(crate) load: Load,
    /// In MHz and bytes, as [`Load`].
    pub(crate) capacity: [f64; 2],
    /// Unmet entitlement, in parts of the capacity: CPU and memory added.
    pub(crate) deficit: f64,
}

/// No VM and no sum of them comes near it, and sums with it do not overflow.
pub(crate) const UNLIMITED: i64 = i64::MAX / 4;

/// What a datastore takes, as [`crate::refuses`] says it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StoreRoom {
    pub(crate) takes_disks: bool,
    /// The largest disk, in bytes.
    pub(crate) largest: i64,
    /// How much may still be promised, in bytes; may be negative.
    pub(crate) left: i64,
}

/// What decisions need to know of a VM, or of several that move as one.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) size: Size,
    /// The largest of its VMs: a host with fewer CPUs or less memory cannot run it.
    pub(crate) cpus: i64,
    pub(crate) memory: i64,
    pub(crate) load: Load,
    /// All must allow a host. A single VM has one.
    pub(crate) classes: Vec<ClassIndex>,
    /// Rules between VMs, in ascending order.
    pub(crate) rules: Vec<u32>,
    /// Disks that are to be made: their sum and the largest, in bytes.
    pub(crate) new_disks: Option<(i64, i64)>,
    pub(crate) store: StoreNeed,
    /// A `must` rule that keeps apart two of its VMs: no place can take both.
    pub(crate) clash: Option<u32>,
}

#[derive(Debug, Clone)]
pub(crate) struct VmFacts {
    pub(crate) id: VmId,
    pub(crate) name: String,
    pub(crate) host: Option<u32>,
    pub(crate) item: Item,
    pub(crate) contention: Contention,
    pub(crate) dirty_rate: f64,
    pub(crate) seconds_since_move: Option<u64>,
    pub(crate) automation: Option<Automation>,
    pub(crate) pinned: Option<String>,
}

/// Where something goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spot {
    pub(crate) host: u32,
    /// `None`: it makes no disks.
    pub(crate) store: Option<StoreIndex>,
}

impl Cluster {
    pub fn hosts(&self) -> usize {
        self.hosts.len()
    }

    pub fn vms(&self) -> usize {
        self.vms.len()
    }

    pub fn host(&self, id: HostId) -> Option<HostIndex> {
        self.host_of.get(&id).copied().map(HostIndex)
    }

    pub fn vm(&self, id: VmId) -> Option<VmIndex> {
        self.vm_of.get(&id).copied().map(VmIndex)
    }

    pub fn host_at(&self, host: HostIndex) -> Option<HostId> {
        self.hosts.get(host.0 as usize).map(|facts| facts.id)
    }

    /// Where a VM is.
    pub fn host_of(&self, vm: VmIndex) -> Option<HostId> {
        self.vms[vm.0 as usize].host.map(|host| self.hosts[host as usize].id)
    }

    /// Puts a VM that has no host on one. Whether it fits is the caller's to know.
    pub(crate) fn put(&mut self, vm: u32, host: u32) {
        let facts = &mut self.vms[vm as usize];
        debug_assert!(facts.host.is_none(), "a VM is on one host");
        facts.host = Some(host);
        let (host, item) = (host as usize, &facts.item);
        self.vms_on[host].push(vm);
        self.room[host].take(item);
        self.rules.enter(&item.rules, host);
    }

    /// Takes a VM from its host, if it has one.
    pub(crate) fn lift(&mut self, vm: u32) -> Option<u32> {
        let facts = &mut self.vms[vm as usize];
        let host = facts.host.take()?;
        let on = &mut self.vms_on[host as usize];
        let at = on.iter().position(|other| *other == vm)?;
        on.swap_remove(at);
        self.room[host as usize].give(&facts.item);
        self.rules.leave(&facts.item.rules, host as usize);
        Some(host)
    }

    /// Counts what the disks of something placed will take.
    pub(crate) fn promise_disks(&mut self, item: &Item, store: StoreIndex, times: i64) {
        if let Some((sum, _)) = item.new_disks {
            self.store_room[store as usize].left -= sum * times;
            let candidate = &mut self.stores[store as usize];
            candidate.provisioned =
                ByteSize(candidate.provisioned.0.saturating_add_signed(sum * times));
        }
    }

    /// Forgets a VM: it is gone, and its position is not used again.
    pub fn remove(&mut self, vm: VmIndex) {
        self.lift(vm.0);
        let id = self.vms[vm.0 as usize].id;
        self.vm_of.remove(&id);
        if let Ok(at) = self.ruled.binary_search(&vm.0) {
            self.ruled.remove(at);
        }
    }

    /// Forgets the VMs that were listed last, none of which has a host.
    pub(crate) fn forget_from(&mut self, first: usize) {
        while self.ruled.last().is_some_and(|vm| *vm as usize >= first) {
            self.ruled.pop();
        }
        for vm in self.vms.drain(first..) {
            self.vm_of.remove(&vm.id);
        }
    }

    pub(crate) fn name_of(&self, host: u32) -> &str {
        &self.hosts[host as usize].name
    }
}

impl Room {
    pub(super) fn take(&mut self, item: &Item) {
        self.add(item, 1);
    }

    fn give(&mut self, item: &Item) {
        self.add(item, -1);
    }

    fn add(&mut self, item: &Item, times: i64) {
        for (free, size) in self.free.iter_mut().zip(item.size) {
            *free -= size * times;
        }
        self.promised_memory += item.size[MEMORY] * times;
        self.promised_cpus += item.size[CPU] * times;
        for (load, own) in self.load.iter_mut().zip(item.load) {
            // Loads are whole numbers below 2^53, so that taking what was put leaves no rest.
            if times > 0 { *load += own } else { *load -= own }
        }
    }

    /// Whether there is room. What takes nothing of a resource needs none, even if too much of it
    /// has been promised.
    pub(crate) fn fits(&self, item: &Item) -> bool {
        item.cpus <= self.widest
            && item.memory <= self.memory
            && self.free.iter().zip(item.size).all(|(free, size)| size <= (*free).max(0))
    }
}

impl StoreRoom {
    pub(crate) fn takes(&self, (sum, largest): (i64, i64)) -> bool {
        self.takes_disks && largest <= self.largest && sum <= self.left
    }
}

impl Item {
    /// Several VMs that go to the same host. Their classes say which datastores it must reach;
    /// where new disks go is decided for each of them.
    pub(crate) fn merge(&mut self, other: &Self, rules: &RuleTable) {
        let apart = |rule: &&u32| {
            let between = &rules.between[**rule as usize];
            between.must && !between.together && other.rules.binary_search(rule).is_ok()
        };
        self.clash = self.clash.or(self.rules.iter().find(apart).copied());
        (self.new_disks, self.store) = (None, StoreNeed::Nothing);
        for (own, other) in self.size.iter_mut().zip(other.size) {
            *own += other;
        }
        for (own, other) in self.load.iter_mut().zip(other.load) {
            *own += other;
        }
        self.cpus = self.cpus.max(other.cpus);
        self.memory = self.memory.max(other.memory);
        self.classes.extend(&other.classes);
        self.classes.sort_unstable();
        self.classes.dedup();
        self.rules.extend(&other.rules);
        self.rules.sort_unstable();
        self.rules.dedup();
    }
}
