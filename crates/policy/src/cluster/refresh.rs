//! Changes of hosts and datastores in a cluster that is kept, so that it need not be built again for
//! each of them: what `control` does with every change of its inventory.

use super::state::HostFacts;
use super::{Cluster, ClusterHost};
use crate::cluster::state::{Room, StoreRoom};
use crate::placement::DatastoreCandidate;

impl Cluster {
    /// Takes over what a datastore is now. Answers whether it could: one that is not listed needs the
    /// cluster built again.
    pub fn refresh_store(&mut self, store: &DatastoreCandidate) -> bool {
        let Some(at) = self.store_of.get(&store.id).map(|at| *at as usize) else { return false };
        self.stores[at] = store.clone();
        self.store_room[at] = StoreRoom::of(store);
        true
    }

    /// Takes over what a host is now: state, size, CPU features, networks and datastores. Its VMs
    /// stay counted. Answers whether it could: a host or a datastore that is not listed, and labels
    /// that rules may be about, need the cluster built again; the caller says whether labels have
    /// changed by doing that.
    pub fn refresh_host(&mut self, host: &ClusterHost) -> bool {
        let Some(at) = self.host_of.get(&host.id).copied() else { return false };
        let stores = host.datastores.iter().map(|own| {
            let store = self.store_of.get(&own.id).copied()?;
            Some((store, own.ready))
        });
        let Some(stores) = stores.collect::<Option<Vec<_>>>() else { return false };
        for (store, _) in &self.hosts[at as usize].stores {
            self.reaching[*store as usize].retain(|(host, _)| *host != at);
        }
        for (store, ready) in &stores {
            let reaching = &mut self.reaching[*store as usize];
            let place = reaching.partition_point(|(host, _)| *host < at);
            reaching.insert(place, (at, *ready));
        }
        let link = self.hosts[at as usize].link;
        self.hosts[at as usize] = HostFacts {
            id: host.id,
            name: host.name.clone(),
            condition: host.condition,
            features: host.cpu_features.iter().cloned().collect(),
            networks: host.networks.iter().cloned().collect(),
            stores,
            link,
        };
        let mut now = Room::of(host, &self.settings);
        for vm in &self.vms_on[at as usize] {
            now.take(&self.vms[*vm as usize].item);
        }
        let room = &mut self.room[at as usize];
        let before = std::mem::replace(room, now);
        if before.cpus == room.cpus {
            room.widest = before.widest;
        } else {
            self.settle_widest();
        }
        self.forget_found();
        true
    }

    /// Which hosts pass which filters is found again when it is asked for.
    fn forget_found(&mut self) {
        self.available.take();
        self.with_store.take();
        let asked = self.features.iter_mut().chain(&mut self.networks);
        asked.for_each(super::classes::Asked::forget_found);
        self.classes.iter_mut().for_each(super::Class::forget_found);
    }

    /// Positions that are taken, also by VMs that are gone: when they are many more than there are
    /// VMs, building again pays.
    pub fn positions(&self) -> usize {
        self.vms.len()
    }

    /// What is promised on a host: memory (bytes), vCPUs, reserved memory (bytes) and reserved CPU
    /// (MHz) of all its VMs.
    pub(super) fn promised(&self, host: u32) -> [u64; 4] {
        let room = &self.room[host as usize];
        let reserved = |of: usize| room.most[of] - room.free[of];
        let all = [room.promised_memory, room.promised_cpus, reserved(2), reserved(3)];
        all.map(|promised| u64::try_from(promised).unwrap_or(0))
    }
}
