//! Network cards on tap devices that the agent has opened.

use hostler_types::BootDevice;
use serde_json::json;

use super::{boot_index, ports::Ports};
use crate::{
    argument::Arguments,
    names::{netdev_id, nic_id},
    plan::{LaunchPlan, PlanError},
};

pub(crate) fn add(args: &mut Arguments, plan: &LaunchPlan, ports: &Ports) -> Result<(), PlanError> {
    for (nth, nic) in plan.nics.iter().enumerate() {
        let netdev = netdev_id(&nic.name);
        args.netdev(&json!({ "type": "tap", "id": netdev, "fd": nic.tap.number().to_string() }));
        let id = nic_id(&nic.name);
        let mut device = json!({
            "driver": "virtio-net-pci", "id": id, "bus": ports.port(&id)?,
            "netdev": netdev, "mac": nic.mac.to_string(),
        });
        match boot_index(plan, BootDevice::Network, nth) {
            Some(index) => device["bootindex"] = index.into(),
            // The network boot program takes time at every start.
            None => device["romfile"] = "".into(),
        }
        args.device(&device);
    }
    Ok(())
}
