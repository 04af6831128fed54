//! What VMs and hosts were measured to want and to miss, in a cluster that is kept: it changes every
//! few seconds, and nothing that is found once for a cluster depends on it.

use super::build::{deficit_of, load_of};
use super::state::Load;
use super::{Cluster, Contention, Demand, HostIndex, VmIndex};

/// What a VM was measured to want, as a cluster keeps it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    load: Load,
    contention: Contention,
}

impl Cluster {
    /// Takes over what a VM wants: over the last 5 minutes, over the last hour, and what it had to do
    /// without.
    pub fn measure(&mut self, vm: VmIndex, demand: (Demand, Demand), contention: Contention) {
        let most_memory = self.vms[vm.0 as usize].item.memory as f64;
        let load = load_of(most_memory, demand.0, Some(demand.1), contention);
        self.set_measured(vm, Measured { load, contention });
    }

    /// What a VM was measured to want.
    pub fn measured(&self, vm: VmIndex) -> Measured {
        let facts = &self.vms[vm.0 as usize];
        Measured { load: facts.item.load, contention: facts.contention }
    }

    /// Gives a VM what one was measured to want: itself, before it was listed anew.
    pub fn set_measured(&mut self, vm: VmIndex, measured: Measured) {
        let facts = &mut self.vms[vm.0 as usize];
        let before = std::mem::replace(&mut facts.item.load, measured.load);
        facts.contention = measured.contention;
        let Some(host) = facts.host else { return };
        let sums = &mut self.room[host as usize].load;
        for ((sum, before), now) in sums.iter_mut().zip(before).zip(measured.load) {
            // Whole numbers below 2^53: nothing is lost on the way.
            *sum = *sum - before + now;
        }
    }

    /// Takes over what was measured of the VMs that both have.
    pub fn inherit_measured(&mut self, from: &Self) {
        for at in 0..self.vms.len() {
            let vm = VmIndex(super::narrow(at));
            if let Some(own) = from.vm(self.vms[at].id) {
                self.set_measured(vm, from.measured(own));
            }
        }
    }

    /// Takes over what the VMs of a host are entitled to and do not get.
    pub fn set_deficit(&mut self, host: HostIndex, deficit: Demand) {
        let room = &mut self.room[host.0 as usize];
        room.deficit = deficit_of(deficit, room.capacity);
    }
}

#[cfg(test)]
mod tests {
    use hostler_types::{ByteSize, HostId, VmId};

    use super::*;
    use crate::cluster::{ClusterHost, ClusterSnapshot, ClusterVm};

    /// A cluster that is told later is the same as one that is built with it.
    #[test]
    fn what_is_told_later_counts_as_if_it_had_been_known() {
        let host = ClusterHost::new(HostId::generate(), "a", 8, ByteSize::gib(8));
        let vm = |name: &str| ClusterVm {
            host: Some(host.id),
            ..ClusterVm::new(VmId::generate(), name, 2, ByteSize::gib(1))
        };
        let plain = ClusterSnapshot {
            hosts: vec![host.clone()],
            vms: vec![vm("one"), vm("two")],
            ..ClusterSnapshot::default()
        };
        let demand = |cpu, mib| Demand { cpu, memory: ByteSize::mib(mib) };
        let contention = Contention {
            cpu_ready_permille: 250,
            memory_stall_permille: 100,
            swapped: ByteSize::mib(1),
            ballooned: ByteSize::mib(2),
        };
        let deficit = demand(100, 1);
        let mut known = plain.clone();
        known.vms[0].demand = demand(900, 500);
        known.vms[0].demand_hour = Some(demand(300, 400));
        known.vms[0].contention = contention;
        known.hosts[0].deficit = deficit;
        let (known, mut told) = (Cluster::build(&known).unwrap(), Cluster::build(&plain).unwrap());
        let (id, at) = (plain.vms[0].id, told.host(host.id).unwrap());
        told.measure(told.vm(id).unwrap(), (demand(1, 1), demand(1, 1)), Contention::default());
        told.measure(told.vm(id).unwrap(), (demand(900, 500), demand(300, 400)), contention);
        told.set_deficit(at, deficit);
        let of = |cluster: &Cluster| {
            (
                cluster.room[0].load,
                cluster.room[0].deficit,
                cluster.measured(cluster.vm(id).unwrap()),
            )
        };
        assert_eq!(of(&told), of(&known));
        assert_eq!(told.room[0].load[0], 1200.0, "900 MHz in three quarters of the time");
        let mut anew = Cluster::build(&plain).unwrap();
        anew.inherit_measured(&told);
        anew.set_deficit(at, deficit);
        assert_eq!(of(&anew), of(&known));
        anew.remove(anew.vm(id).unwrap());
        assert_eq!(anew.room[0].load, [0.0; 4]);
    }
}
