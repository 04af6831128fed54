//! PCI Express root ports: one for every NIC and disk, so that each can be taken out while the
//! guest runs, and spare ones for what is added.
//!
//! The guest's bus numbers follow the ports' addresses. NICs come first: a disk more or less does
//! not change a NIC's bus number, and with it its name in the guest.

use hostler_types::DiskBus;
use serde_json::json;

use crate::{
    argument::Arguments,
    plan::{LaunchPlan, PlanError, PortPlan},
};

const MAX_NICS: usize = 16;
const MAX_DISKS: usize = 64;
const SPARE: usize = 8;

/// The first slot of the root bus used for ports; the ones before are the other devices'.
const FIRST_SLOT: usize = 0x10;

/// How many ports share a slot, as its functions.
const FUNCTIONS: usize = 8;

/// The last slot usable; 0x1f is the board's own.
const LAST_SLOT: usize = 0x1e;

/// The machine's root ports.
#[derive(Debug)]
pub(crate) struct Ports(PortPlan);

impl Ports {
    pub(crate) fn for_plan(plan: &LaunchPlan) -> Result<Self, PlanError> {
        let at_most = |what, count, most| {
            if count > most { Err(PlanError::TooMany { what, count, most }) } else { Ok(()) }
        };
        at_most("network cards", plan.nics.len(), MAX_NICS)?;
        at_most("disks", plan.disks.len(), MAX_DISKS)?;
        let ports = plan.room.ports.clone().unwrap_or_else(|| fresh(plan));
        at_most("network cards", ports.nics, MAX_NICS)?;
        at_most("disks", ports.disks, MAX_DISKS)?;
        Ok(Self(ports))
    }

    /// Where a device is to be plugged in.
    pub(crate) fn port(&self, device: &str) -> Result<String, PlanError> {
        let port = self.0.devices.get(device).cloned();
        port.ok_or_else(|| PlanError::NoPort(device.to_owned()))
    }

    /// Where a device is to be plugged in that may also sit on the board.
    pub(crate) fn port_if_any(&self, device: &str) -> Option<String> {
        self.0.devices.get(device).cloned()
    }

    pub(crate) fn add(&self, args: &mut Arguments) {
        let nics = (0..self.0.nics).map(PortPlan::nic);
        let disks = (0..self.0.disks).map(PortPlan::disk);
        let spare = (0..SPARE).map(|nth| format!("spare{nth}"));
        for (index, id) in nics.chain(disks).chain(spare).enumerate() {
            let (slot, function) = (FIRST_SLOT + index / FUNCTIONS, index % FUNCTIONS);
            debug_assert!(slot <= LAST_SLOT);
            args.device(&json!({
                "driver": self.0.kind.driver(), "id": id, "bus": "pcie.0",
                "addr": format!("{slot:#x}.{function}"), "multifunction": function == 0,
                "chassis": index + 1,
            }));
        }
    }
}

/// One port for each, in their order.
fn fresh(plan: &LaunchPlan) -> PortPlan {
    let disks = plan.disks.iter().filter(|disk| disk.bus == DiskBus::VirtioBlk);
    PortPlan::fresh(plan.nics.iter().map(|nic| &nic.name), disks.map(|disk| &disk.name))
}

const _: () = assert!(FIRST_SLOT + (MAX_NICS + MAX_DISKS + SPARE) / FUNCTIONS <= LAST_SLOT);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::PortKind;

    fn drivers(ports: PortPlan) -> Vec<String> {
        let mut args = Arguments::default();
        Ports(ports).add(&mut args);
        let args = args.into_vec();
        let devices = args.iter().filter_map(|arg| serde_json::from_str(arg.to_str()?).ok());
        devices
            .map(|device: serde_json::Value| device["driver"].as_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn a_machine_of_an_older_agent_keeps_its_ports() {
        let recorded = r#"{"nics": 1, "disks": 1, "devices": {"nic-net0": "port-nic0"}}"#;
        let recorded: PortPlan = serde_json::from_str(recorded).unwrap();
        assert_eq!(drivers(recorded), ["pcie-root-port"; 2 + SPARE]);
        let fresh = PortPlan::fresh([], []);
        assert_eq!(drivers(fresh.clone()), ["ioh3420"; SPARE]);
        let again: PortPlan =
            serde_json::from_str(&serde_json::to_string(&fresh).unwrap()).unwrap();
        assert_eq!((again.kind, again), (PortKind::Msi, fresh));
    }
}
