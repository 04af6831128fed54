//! Devices and network back ends: add, remove, switch the link.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Command, Empty};

/// Adds a device: an object with `driver`, `id` and the driver's properties.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct DeviceAdd(pub Value);
impl Command for DeviceAdd {
    const NAME: &'static str = "device_add";
    type Return = Empty;
}

/// Asks the guest to let a device go; it is gone at
/// [`Event::DeviceDeleted`](crate::event::Event::DeviceDeleted).
#[derive(Debug, Serialize)]
pub struct DeviceDel {
    /// The device's id or its path in QOM.
    pub id: String,
}
impl Command for DeviceDel {
    const NAME: &'static str = "device_del";
    type Return = Empty;
}

/// Adds a network back end: an object with `type`, `id` and the type's properties.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct NetdevAdd(pub Value);
impl Command for NetdevAdd {
    const NAME: &'static str = "netdev_add";
    type Return = Empty;
}

/// Removes a network back end, after its device.
#[derive(Debug, Serialize)]
pub struct NetdevDel {
    /// Its id.
    pub id: String,
}
impl Command for NetdevDel {
    const NAME: &'static str = "netdev_del";
    type Return = Empty;
}

/// Plugs or pulls a NIC's virtual cable.
#[derive(Debug, Serialize)]
pub struct SetLink {
    /// The NIC's or the back end's id.
    pub name: String,
    /// Whether the cable is in.
    pub up: bool,
}
impl Command for SetLink {
    const NAME: &'static str = "set_link";
    type Return = Empty;
}

/// The PCI buses with what sits on them.
#[derive(Debug, Serialize)]
pub struct QueryPci;
impl Command for QueryPci {
    const NAME: &'static str = "query-pci";
    type Return = Vec<PciBus>;
}

/// Part of [`QueryPci`]'s answer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct PciBus {
    /// What sits on it.
    pub devices: Vec<PciDevice>,
}

/// Part of [`QueryPci`]'s answer. The numbers are those of the guest's firmware.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct PciDevice {
    /// The bus that it sits on.
    pub bus: i64,
    /// Its place there.
    pub slot: i64,
    /// Its function there.
    pub function: i64,
    /// Its id; empty for what QEMU has brought along.
    pub qdev_id: String,
    /// What sits behind it, if it is a bridge.
    pub pci_bridge: Option<PciBridge>,
}

/// Part of [`PciDevice`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct PciBridge {
    /// What sits behind it.
    #[serde(default)]
    pub devices: Vec<PciDevice>,
}
