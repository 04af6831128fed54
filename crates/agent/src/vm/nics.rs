//! What a VM's NICs occupy on this host: a tap's name each, an address and a place in the packet
//! filter of a network.
//!
//! The record names everything that may be occupied *before* it is, and until it is free again; so
//! nothing stays occupied whatever dies when. A NIC keeps its slot, and with it its tap's name, for
//! as long as it exists: others may come and go before it.

use hostler_agent_api::{NetworkDefinition, VmDefinition};
use hostler_host::TapName;
use hostler_host::network::Port;
use hostler_types::{MacAddress, Name, NetworkId, NicSpec};
use serde::{Deserialize, Serialize};

use super::record::VmRecord;
use crate::context::HostContext;
use crate::fault::Fault;

/// One NIC on one network. While a NIC moves there are two of them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Plug {
    pub(crate) nic: Name,
    /// Part of the tap's name.
    pub(crate) slot: usize,
    pub(crate) mac: MacAddress,
    pub(crate) network: NetworkDefinition,
}

impl VmRecord {
    /// All that may be occupied.
    pub(super) fn plugs(&self) -> Vec<Plug> {
        self.plugs.clone().unwrap_or_else(|| assign(&[], &self.definition))
    }

    /// What the definition asks for, with the slots that its NICs have already.
    pub(super) fn wanted_plugs(&self) -> Vec<Plug> {
        assign(&self.plugs(), &self.definition)
    }

    /// The networks of all that may be occupied.
    pub(super) fn networks(&self) -> Vec<NetworkId> {
        self.plugs().iter().map(|plug| plug.network.id).collect()
    }

    pub(super) fn tap(&self, nic: &Name) -> Option<TapName> {
        let plug = self.wanted_plugs().into_iter().chain(self.plugs()).find(|p| p.nic == *nic)?;
        Some(TapName::of(self.id(), plug.slot))
    }
}

/// The lowest free slot for each NIC that has none.
pub(super) fn assign(known: &[Plug], definition: &VmDefinition) -> Vec<Plug> {
    let slot_of = |nic: &NicSpec| known.iter().find(|plug| plug.nic == nic.name).map(|p| p.slot);
    let mut taken: Vec<usize> = known.iter().map(|plug| plug.slot).collect();
    let mut plugs = Vec::new();
    for nic in &definition.vm.spec.nics {
        let network = definition.networks.iter().find(|network| network.id == nic.network);
        let Some(network) = network else { continue };
        let slot = slot_of(nic).or_else(|| (0..).find(|slot| !taken.contains(slot)));
        let Some(slot) = slot else { continue };
        taken.push(slot);
        let (name, network) = (nic.name.clone(), network.clone());
        plugs.push(Plug { nic: name, slot, mac: nic.mac, network });
    }
    plugs
}

/// What is occupied and what shall be.
pub(super) fn union(known: &[Plug], wanted: &[Plug]) -> Vec<Plug> {
    let new = wanted.iter().filter(|plug| !known.contains(plug));
    known.iter().chain(new).cloned().collect()
}

/// Occupies what a NIC needs. Can be repeated.
pub(super) async fn plug(host: &HostContext, record: &VmRecord, plug: &Plug) -> Result<(), Fault> {
    let vm = &record.definition.vm;
    let customization = vm.spec.customization.as_ref();
    let hostname = customization.and_then(|c| c.hostname.as_ref()).unwrap_or(vm.name());
    let (tap, network) = (TapName::of(vm.id(), plug.slot), &plug.network);
    let nic = vm.spec.nics.iter().find(|nic| nic.name == plug.nic && nic.network == network.id);
    let address = nic.and_then(|nic| nic.address.as_ref()).map(|address| address.address);
    let port = Port { mac: plug.mac, address, hostname: Some(hostname) };
    host.networks.plug(network.id, &network.spec, &tap, port).await?;
    Ok(())
}

pub(super) async fn unplug(
    host: &HostContext,
    record: &VmRecord,
    plug: &Plug,
) -> Result<(), Fault> {
    let tap = TapName::of(record.id(), plug.slot);
    host.networks.unplug(plug.network.id, &plug.network.spec, &tap).await
}

/// What the definition asks for. Refuses a NIC whose network is not described.
pub(super) async fn plug_all(host: &HostContext, record: &VmRecord) -> Result<(), Fault> {
    let wanted = record.wanted_plugs();
    for nic in &record.definition.vm.spec.nics {
        let found = wanted.iter().find(|plug| plug.nic == nic.name);
        plug(host, record, found.ok_or(Fault::NoNetwork(nic.network))?).await?;
    }
    Ok(())
}

/// What fails is logged: an address that stays reserved harms nobody.
pub(super) async fn unplug_all(host: &HostContext, record: &VmRecord) {
    for occupied in record.plugs() {
        if let Err(error) = unplug(host, record, &occupied).await {
            tracing::warn!(vm = %record.id(), nic = %occupied.nic, %error, "cannot unplug a NIC");
        }
    }
}

/// Frees what the definition no longer asks for and occupies what it does, while no QEMU runs.
pub(super) async fn settle(host: &HostContext, record: &VmRecord) -> Result<Vec<Plug>, Fault> {
    let wanted = record.wanted_plugs();
    for old in record.plugs().iter().filter(|old| !wanted.contains(old)) {
        unplug(host, record, old).await?;
    }
    plug_all(host, record).await?;
    Ok(wanted)
}

#[cfg(test)]
mod tests {
    use hostler_types::NetworkSpec;
    use serde_json::json;

    use super::*;

    fn definition(nics: &[(&str, NetworkId)]) -> VmDefinition {
        let spec = NetworkSpec::Bridge { bridge: "br0".to_owned(), vlan: None, pool: None };
        let nics: Vec<_> = nics
            .iter()
            .map(|(name, network)| {
                json!({ "name": name, "network": network, "mac": "52:54:00:00:00:01" })
            })
            .collect();
        let networks = nics.iter().map(|nic| NetworkDefinition {
            id: serde_json::from_value(nic["network"].clone()).unwrap(),
            spec: spec.clone(),
        });
        let networks = networks.collect();
        let vm = json!({
            "metadata": {
                "id": "01890a5d-ac96-774b-bcce-b302099a8057", "name": "web01", "generation": 1,
                "revision": 1, "created_at": "2026-01-01T00:00:00Z",
                "updated_at": "2026-01-01T00:00:00Z",
            },
            "spec": { "cpus": 1, "memory": "1GiB", "disks": [], "nics": nics },
            "status": {
                "power": "stopped", "power_since": "2026-01-01T00:00:00Z", "epoch": 1,
                "host": "01890a5d-ac96-774b-bcce-b302099a8058",
                "datastore": "01890a5d-ac96-774b-bcce-b302099a8059",
            },
        });
        VmDefinition {
            vm: serde_json::from_value(vm).unwrap(),
            images: Vec::new(),
            networks,
            customization_hash: None,
        }
    }

    fn slots(plugs: &[Plug]) -> Vec<(&str, usize)> {
        plugs.iter().map(|plug| (plug.nic.as_str(), plug.slot)).collect()
    }

    #[test]
    fn a_nic_keeps_its_slot_while_others_come_and_go() {
        let (a, b) = (NetworkId::generate(), NetworkId::generate());
        let both = assign(&[], &definition(&[("nic0", a), ("nic1", a)]));
        assert_eq!(slots(&both), [("nic0", 0), ("nic1", 1)]);
        let second = assign(&both, &definition(&[("nic1", a), ("nic2", a)]));
        assert_eq!(slots(&second), [("nic1", 1), ("nic2", 2)], "nic0 is not gone yet");
        let later = assign(&second, &definition(&[("nic1", a), ("nic2", a), ("nic0", a)]));
        assert_eq!(slots(&later), [("nic1", 1), ("nic2", 2), ("nic0", 0)]);
        // A NIC that moves occupies both networks, under one tap.
        let moved = assign(&later, &definition(&[("nic1", b), ("nic2", a), ("nic0", a)]));
        assert_eq!(slots(&moved)[0], ("nic1", 1));
        assert_eq!(union(&later, &moved).len(), 4);
    }
}
