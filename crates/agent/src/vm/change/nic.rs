//! NICs come, go, move to other networks, and have their cables pulled.

use hostler_host::TapName;
use hostler_qemu::hotplug::{Devices, NicPlug, Removal, clear_nic, plug_nic, set_link, unplug_nic};
use hostler_qemu::nic_id;
use hostler_qmp::Qmp;
use hostler_types::{BootDevice, LinkState, NicSpec};

use super::GUEST;
use crate::fault::{Fault, chain};
use crate::vm::actor::Actor;
use crate::vm::hardware::Running;
use crate::vm::nics::{Plug, plug, unplug};

impl Actor {
    pub(super) async fn unplug_nics(&mut self, qmp: &Qmp) {
        let Some((running, asked)) = self.compared() else { return };
        let gone = |nic: &&NicSpec| asked.nics.iter().all(|kept| kept.name != nic.name);
        let gone: Vec<_> = running.spec.nics.iter().filter(gone).cloned().collect();
        for nic in gone {
            let subject = format!("nic {}", nic.name);
            match unplug_nic(qmp, &nic.name, GUEST).await {
                Ok(Removal::Gone) => {
                    if let Some(running) = &mut self.record.running {
                        running.spec.nics.retain(|known| known.name != nic.name);
                        running.ports.devices.remove(&nic_id(&nic.name));
                    }
                }
                Ok(Removal::Refused) => self.refuse(&subject, "the guest refuses to let it go"),
                Ok(Removal::Waiting) => {
                    let why = format!("the guest did not let it go within {} s", GUEST.as_secs());
                    self.refuse(&subject, why);
                }
                Err(error) => self.refuse_error(&subject, &error),
            }
        }
        self.free_nics().await;
    }

    pub(in crate::vm) async fn change_nics(&mut self, qmp: &Qmp) {
        for nic in self.record.definition.vm.spec.nics.clone() {
            let subject = format!("nic {}", nic.name);
            if self.is_live(&subject)
                && let Err(fault) = self.plug_nic(qmp, &nic).await
            {
                self.refuse_error(&subject, &fault);
            }
            let subject = format!("nic {} network", nic.name);
            if self.is_live(&subject)
                && let Err(fault) = self.move_nic(qmp, &nic).await
            {
                self.refuse_error(&subject, &fault);
            }
            let subject = format!("nic {} link", nic.name);
            if self.is_live(&subject) {
                match set_link(qmp, &nic.name, nic.link.is_up()).await {
                    Ok(()) => self.nic_now(&nic.name, |known| known.link = nic.link),
                    Err(error) => self.refuse_error(&subject, &error),
                }
            }
        }
        self.free_nics().await;
    }

    async fn plug_nic(&mut self, qmp: &Qmp, nic: &NicSpec) -> Result<(), Fault> {
        let place = self.place(nic)?;
        plug(&self.host, &self.record, &place).await?;
        let tap = TapName::of(self.record.id(), place.slot);
        let network = &place.network;
        let order = self.record.running.as_ref().map(|running| &running.spec.boot_order);
        let boots = order.is_some_and(|order| order.contains(&BootDevice::Network));
        clear_nic(qmp, &nic.name).await.map_err(|error| Fault::Qemu(chain(&error)))?;
        let tap = self.host.networks.open_tap(network.id, &network.spec, &tap).await?;
        let qemu = |error| Fault::Qemu(chain(&error));
        let devices = Devices::of(qmp).await.map_err(qemu)?;
        let port = devices.free_ports().into_iter().next();
        let port = port.ok_or_else(|| Fault::Qemu("no port is free".to_owned()))?;
        let (name, mac, link) = (&nic.name, nic.mac, nic.link.is_up());
        let (tap, boot_program) = (tap.fd, boots);
        let card = NicPlug { name, mac, tap, port: port.clone(), link, boot_program };
        plug_nic(qmp, card).await.map_err(qemu)?;
        if let Some(running) = &mut self.record.running {
            running.ports.devices.insert(nic_id(&nic.name), port);
            running.spec.nics.push(nic.clone());
        }
        Ok(())
    }

    /// The card stays; its tap gets on another bridge. The cable is out meanwhile, so that the
    /// guest asks for an address anew.
    async fn move_nic(&mut self, qmp: &Qmp, nic: &NicSpec) -> Result<(), Fault> {
        let place = self.place(nic)?;
        plug(&self.host, &self.record, &place).await?;
        let qemu = |error| Fault::Qemu(chain(&error));
        set_link(qmp, &nic.name, false).await.map_err(qemu)?;
        self.nic_now(&nic.name, |known| known.link = LinkState::Down);
        let tap = TapName::of(self.record.id(), place.slot);
        self.host.networks.move_tap(place.network.id, &place.network.spec, &tap).await?;
        self.nic_now(&nic.name, |known| known.network = nic.network);
        // What follows of the link is as for every other.
        Ok(())
    }

    /// Where the definition wants a NIC.
    fn place(&self, nic: &NicSpec) -> Result<Plug, Fault> {
        let wanted = self.record.wanted_plugs();
        let place = wanted.into_iter().find(|plug| plug.nic == nic.name);
        place.ok_or(Fault::NoNetwork(nic.network))
    }

    fn nic_now(&mut self, name: &hostler_types::Name, change: impl Fn(&mut NicSpec)) {
        let nics = self.record.running.iter_mut().flat_map(|running| &mut running.spec.nics);
        nics.filter(|known| known.name == *name).for_each(change);
    }

    /// Frees what neither runs nor is asked for.
    pub(in crate::vm) async fn free_nics(&mut self) {
        let Some((running, _)) = self.compared() else { return };
        let wanted = self.record.wanted_plugs();
        let used = |plug: &Plug| {
            running.spec.nics.iter().any(|n| n.name == plug.nic && n.network == plug.network.id)
        };
        let plugs = self.record.plugs();
        let (kept, free): (Vec<_>, Vec<_>) =
            plugs.into_iter().partition(|plug| wanted.contains(plug) || used(plug));
        let mut kept = kept;
        let qmp = self.machine.as_ref().map(|machine| machine.live.qmp.clone());
        for plug in free {
            if let Some(qmp) = &qmp
                && running_lacks(&self.record.running, &plug)
            {
                let _left_to_the_next_plug = clear_nic(qmp, &plug.nic).await;
            }
            if let Err(error) = unplug(&self.host, &self.record, &plug).await {
                tracing::warn!(nic = %plug.nic, %error, "cannot free what a NIC had");
                kept.push(plug);
            }
        }
        self.record.plugs = Some(kept);
    }
}

/// Whether QEMU has no card of this name.
fn running_lacks(running: &Option<Running>, plug: &Plug) -> bool {
    let nics = running.iter().flat_map(|running| &running.spec.nics);
    nics.into_iter().all(|nic| nic.name != plug.nic)
}
