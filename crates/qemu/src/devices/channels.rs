//! The serial console and the guest agent's channel.

use serde_json::json;

use crate::{argument::Arguments, plan::LaunchPlan, vm::GUEST_AGENT_PORT};

pub(crate) fn add(args: &mut Arguments, plan: &LaunchPlan) {
    for (id, fd) in [("serial0", plan.serial), ("agent0", plan.guest_agent)] {
        let fd = fd.number();
        args.plain("-chardev", format!("socket,id={id},fd={fd},server=on,wait=off"));
    }
    args.device(&json!({ "driver": "isa-serial", "id": "com1", "chardev": "serial0" }));
    args.device(&json!({
        "driver": "virtio-serial-pci", "id": "channels", "bus": "pcie.0", "addr": "0x4",
    }));
    args.device(&json!({
        "driver": "virtserialport", "id": GUEST_AGENT_PORT, "bus": "channels.0", "nr": 1,
        "chardev": "agent0", "name": "org.qemu.guest_agent.0",
    }));
}
