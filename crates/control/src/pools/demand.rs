//! What the hosts measured of themselves and of each VM: kept in memory only.
//!
//! An agent tells what has changed; what it told holds until it tells something else, the VM stops or
//! the host is away. So a fleet in which little happens costs little. Of each VM two means are kept, in
//! which what was longer ago counts less: they are what balancing goes by.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use hostler_policy::cluster::{Contention, Demand};
use hostler_types::{ByteSize, HostId, HostKind, HostUse, MeanDemand, ResourceUse, VmId, VmKind};

use super::kept::{Kept, Tenths};
use crate::inventory::Snapshot;

/// What is known of all hosts.
#[derive(Debug)]
pub(crate) struct Demands {
    begin: Instant,
    /// Each with a lock of its own: dividing among 400,000 VMs keeps no host from telling.
    hosts: Mutex<HashMap<HostId, Arc<Mutex<OfHost>>>>,
}

#[derive(Debug, Default)]
struct OfHost {
    used: Option<HostUse>,
    vms: BTreeMap<VmId, Kept>,
}

/// What a VM used and wanted when it was last told, for the division among pools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// In thousandths of a CPU.
    pub(crate) used: u32,
    /// With what it waited for, in thousandths of a CPU.
    pub(crate) wanted: u32,
    /// In bytes; with what is on swap.
    pub(crate) memory: u64,
}

/// What a VM wanted and had to do without lately, for placement and balancing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Lately {
    pub(crate) demand: Demand,
    pub(crate) demand_hour: Demand,
    pub(crate) contention: Contention,
    /// CPU time that it waited for over the last 5 minutes, in MHz.
    pub(crate) missed: u64,
}

/// One VM, as people see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) used: ResourceUse,
    pub(crate) demand: MeanDemand,
    pub(crate) demand_hour: MeanDemand,
    pub(crate) ready_permille: u16,
}

impl Default for Demands {
    fn default() -> Self {
        Self { begin: Instant::now(), hosts: Mutex::default() }
    }
}

impl Demands {
    fn now(&self) -> Tenths {
        Tenths(u32::try_from(self.begin.elapsed().as_millis() / 100).unwrap_or(u32::MAX))
    }

    fn hosts(&self) -> MutexGuard<'_, HashMap<HostId, Arc<Mutex<OfHost>>>> {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn host(&self, host: HostId) -> Option<Arc<Mutex<OfHost>>> {
        self.hosts().get(&host).cloned()
    }

    /// What a host says of some of its VMs, and perhaps of itself.
    pub(crate) fn note(
        &self,
        host: HostId,
        vms: impl IntoIterator<Item = (VmId, ResourceUse)>,
        used: Option<HostUse>,
    ) {
        let (now, own) = (self.now(), self.hosts().entry(host).or_default().clone());
        let mut own = lock(&own);
        own.used = used.or(own.used);
        for (vm, used) in vms {
            own.vms
                .entry(vm)
                .and_modify(|kept| kept.note(&used, now))
                .or_insert_with(|| Kept::new(&used, now));
        }
    }

    /// All that a host says, instead of what it said before; the means of its VMs go on.
    pub(crate) fn replace(
        &self,
        host: HostId,
        vms: Vec<(VmId, ResourceUse)>,
        used: Option<HostUse>,
    ) {
        if let Some(own) = self.host(host) {
            let told: std::collections::HashSet<VmId> = vms.iter().map(|(vm, _)| *vm).collect();
            lock(&own).vms.retain(|vm, _| told.contains(vm));
        }
        self.note(host, vms, used);
    }

    /// The VM does not run on this host.
    pub(crate) fn forget(&self, host: HostId, vm: VmId) {
        if let Some(own) = self.host(host) {
            lock(&own).vms.remove(&vm);
        }
    }

    pub(crate) fn forget_host(&self, host: HostId) {
        self.hosts().remove(&host);
    }

    /// Of all VMs that are where they were measured. Never holds more than one host's lock.
    pub(crate) fn wanted(&self, snapshot: &Snapshot) -> HashMap<VmId, Wanted> {
        let mut all = HashMap::new();
        for host in self.known() {
            self.visit(host, |vm, kept, _| {
                if snapshot.get::<VmKind>(vm).is_some_and(|vm| vm.status.host == host) {
                    all.insert(vm, kept.wanted());
                }
            });
        }
        all
    }

    /// The hosts of which anything is known.
    pub(crate) fn known(&self) -> Vec<HostId> {
        self.hosts().keys().copied().collect()
    }

    /// Of the VMs of a host, as far as they are there by the inventory.
    pub(crate) fn lately(&self, snapshot: &Snapshot, host: HostId) -> Vec<(VmId, Lately)> {
        let facts = snapshot.get::<HostKind>(host).and_then(|host| host.status.facts.as_ref());
        let Some(mhz) = facts.map(|facts| u64::from(facts.mhz_per_cpu)) else { return Vec::new() };
        let mut all = Vec::new();
        self.visit(host, |vm, kept, now| {
            let is_here =
                |vm: &hostler_types::Vm| vm.status.host == host && vm.status.power.is_live();
            if snapshot.get::<VmKind>(vm).is_some_and(|vm| is_here(vm)) {
                all.push((vm, kept.lately(mhz, now)));
            }
        });
        all
    }

    pub(crate) fn seen(&self, host: HostId, vm: VmId, mhz: u64) -> Option<Seen> {
        let own = self.host(host)?;
        let kept = lock(&own).vms.get(&vm).copied()?;
        Some(kept.seen(mhz, self.now()))
    }

    pub(crate) fn host_use(&self, host: HostId) -> Option<HostUse> {
        self.host(host).and_then(|own| lock(&own).used)
    }

    fn visit(&self, host: HostId, mut each: impl FnMut(VmId, &Kept, Tenths)) {
        let now = self.now();
        if let Some(own) = self.host(host) {
            lock(&own).vms.iter().for_each(|(vm, kept)| each(*vm, kept, now));
        }
    }
}

/// What the VMs of a host want and do not get, together.
pub(crate) fn deficit(vms: &[(VmId, Lately)]) -> Demand {
    let mut deficit = Demand::default();
    for (_, lately) in vms {
        deficit.cpu = deficit.cpu.saturating_add(lately.missed);
        let swapped = lately.contention.swapped;
        deficit.memory = ByteSize(deficit.memory.0.saturating_add(swapped.0));
    }
    deficit
}

fn lock(own: &Mutex<OfHost>) -> MutexGuard<'_, OfHost> {
    own.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_host_says_of_a_vm_is_not_what_another_one_says() {
        let (one, two, vm) = (HostId::generate(), HostId::generate(), VmId::generate());
        let demands = Demands::default();
        let used = |cpu_millicpus| ResourceUse { cpu_millicpus, ..ResourceUse::default() };
        let seen = |host| demands.seen(host, vm, 1000).map(|seen| seen.used.cpu_millicpus);
        demands.note(one, [(vm, used(100))], None);
        demands.note(two, [(vm, used(3))], Some(HostUse::default()));
        assert_eq!((seen(one), seen(two)), (Some(100), Some(3)));
        demands.forget(one, vm);
        assert_eq!((seen(one), seen(two)), (None, Some(3)));
        demands.replace(two, Vec::new(), None);
        assert_eq!(seen(two), None);
        assert!(demands.host_use(two).is_some(), "what was not said again holds");
        demands.forget_host(two);
        assert!(demands.host_use(two).is_none() && demands.known() == [one]);
    }
}
