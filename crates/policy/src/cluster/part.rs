//! The part of a cluster that a decision about some VMs depends on: what its record keeps.
//!
//! Of the VMs that are there only those count one by one that rules bind to the new ones; of all
//! others it is enough to know what they take of their hosts. So a record is as large as there are
//! hosts and members of those rules, and not as there are VMs.

use std::collections::BTreeSet;

use hostler_types::{ByteSize, VmId};

use super::{Cluster, ClusterHost, ClusterSnapshot, ClusterVm, SnapshotError};

/// What rules mean for VMs that are to be placed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Concerned {
    /// The rules that are about any of them, by name.
    pub rules: BTreeSet<String>,
    /// The other members of those that bind VMs to each other, in ascending order.
    pub vms: Vec<VmId>,
}

impl Cluster {
    /// Which rules and which VMs that are there matter to these VMs.
    ///
    /// # Errors
    /// What makes a VM one that cannot be placed at all.
    pub fn concerned(&mut self, vms: &[ClusterVm]) -> Result<Concerned, SnapshotError> {
        let (mut between, mut with_hosts) = (BTreeSet::new(), BTreeSet::new());
        for vm in vms {
            let item = self.item(vm)?;
            between.extend(item.rules);
            for class in item.classes {
                with_hosts.extend(self.classes[class as usize].key.host_rules.iter().copied());
            }
        }
        let named = between.iter().map(|rule| &self.rules.between[*rule as usize].name);
        let with_hosts = with_hosts.iter().map(|rule| &self.rules.with_hosts[*rule as usize].name);
        let rules = named.chain(with_hosts).cloned().collect();
        let mut members = Vec::new();
        if !between.is_empty() {
            let ruled = self.ruled.iter().map(|vm| &self.vms[*vm as usize]);
            let bound = ruled.filter(|facts| facts.host.is_some());
            members.extend(
                bound
                    .filter(|facts| facts.item.rules.iter().any(|rule| between.contains(rule)))
                    .map(|facts| facts.id),
            );
            members.sort_unstable();
        }
        Ok(Concerned { rules, vms: members })
    }

    /// The cluster with only these VMs listed; what all others take is promised on their hosts.
    /// `whole` has hosts, datastores, rules and groups as the cluster was built from; its VMs are not
    /// looked at. A decision about `placed`, whose rules and members are all here, comes out the same.
    pub fn part(
        &self,
        mut whole: ClusterSnapshot,
        listed: Vec<ClusterVm>,
        placed: &[ClusterVm],
    ) -> ClusterSnapshot {
        for (at, host) in whole.hosts.iter_mut().filter_map(|host| {
            let at = *self.host_of.get(&host.id)?;
            Some((at, host))
        }) {
            promise(host, self.promised(at));
            host.promised_load = self.load_of_others(at, &listed);
        }
        for vm in &listed {
            let Some(host) = vm.host else { continue };
            let Some(host) = whole.hosts.iter_mut().find(|own| own.id == host) else { continue };
            host.promised_memory.0 = host.promised_memory.0.saturating_sub(vm.memory.0);
            host.promised_cpus = host.promised_cpus.saturating_sub(u64::from(vm.cpus));
            let reserved = &mut host.promised_memory_reservation.0;
            *reserved = reserved.saturating_sub(vm.memory_reservation.0);
            let reserved = &mut host.promised_cpu_reservation;
            *reserved = reserved.saturating_sub(vm.cpu_reservation);
        }
        let asked = !whole.settings.baseline.is_empty()
            || listed.iter().chain(placed).any(|vm| !vm.cpu_features.is_empty());
        whole.vms = listed;
        if !asked {
            // A hundred names for each host, which nobody looks at.
            whole.hosts.iter_mut().for_each(|host| host.cpu_features.clear());
        }
        whole
    }

    /// All that is not said of the VMs that are listed themselves: so the host's load is the same
    /// when they are counted with what is said there. Loads are whole numbers, so that nothing is lost
    /// on the way.
    fn load_of_others(&self, host: u32, listed: &[ClusterVm]) -> [u64; 4] {
        let mut load = self.room[host as usize].load;
        for vm in listed {
            let facts = self.vm_of.get(&vm.id).map(|at| &self.vms[*at as usize]);
            if facts.is_some_and(|facts| facts.host == Some(host)) {
                let said = super::build::load(vm);
                load.iter_mut().zip(said).for_each(|(sum, own)| *sum -= own);
            }
        }
        load.map(whole_number)
    }

    /// Lists a VM and puts it where it is.
    ///
    /// # Errors
    /// As [`Cluster::adopt`]; and if its host is not listed.
    pub fn insert(&mut self, vm: &ClusterVm) -> Result<(), SnapshotError> {
        let unknown = |host| SnapshotError::NoSuchHost { vm: vm.name.clone(), host };
        let host = vm.host.map(|id| self.host_of.get(&id).copied().ok_or_else(|| unknown(id)));
        let host = host.transpose()?;
        let added = self.adopt(vm)?;
        if let Some(host) = host {
            self.put(added.0, host);
        }
        Ok(())
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "sums of whole numbers that are not negative, below 2^53"
)]
fn whole_number(load: f64) -> u64 {
    load.max(0.0) as u64
}

fn promise(host: &mut ClusterHost, [memory, cpus, memory_reserved, cpu_reserved]: [u64; 4]) {
    host.promised_memory = ByteSize(memory);
    host.promised_cpus = cpus;
    host.promised_memory_reservation = ByteSize(memory_reserved);
    host.promised_cpu_reservation = cpu_reserved;
}
