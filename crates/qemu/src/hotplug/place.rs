//! Where a guest finds its disks: for those who ask it about one, and whose agent knows no serial
//! numbers.

use std::collections::BTreeMap;

use hostler_qmp::Qmp;
use hostler_qmp::command::{PciDevice, QueryPci};
use hostler_types::{DiskBus, Name};

use super::disk::lun_of;
use crate::devices::disks::SCSI;
use crate::disk_id;
use crate::vm::MonitorError;

/// A function of a PCI device, by the numbers that the guest's firmware has given to its buses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PciAddress {
    pub bus: i64,
    pub slot: i64,
    pub function: i64,
}

/// Where a disk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskPlace {
    /// The disk's own address, or that of its controller.
    pub pci: PciAddress,
    /// Its number on the SCSI controller, if it is there.
    pub lun: Option<u32>,
}

/// The places of these disks; those that are not plugged in have none.
///
/// # Errors
/// See [`MonitorError`].
pub async fn disk_places(
    qmp: &Qmp,
    disks: &[(Name, DiskBus)],
) -> Result<BTreeMap<Name, DiskPlace>, MonitorError> {
    let buses = qmp.execute(QueryPci).await?;
    let devices: Vec<_> = buses.iter().flat_map(|bus| all(&bus.devices)).collect();
    let address = |id: &str| {
        let found = devices.iter().find(|device| device.qdev_id == id)?;
        let PciDevice { bus, slot, function, .. } = **found;
        Some(PciAddress { bus, slot, function })
    };
    let mut places = BTreeMap::new();
    for (name, bus) in disks {
        let (pci, lun) = match bus {
            DiskBus::VirtioBlk => (address(&disk_id(name)), None),
            DiskBus::VirtioScsi => match lun_of(qmp, name).await? {
                Some(lun) => (address(SCSI), Some(lun)),
                None => continue,
            },
        };
        places.extend(pci.map(|pci| (name.clone(), DiskPlace { pci, lun })));
    }
    Ok(places)
}

/// Devices, and those behind bridges.
fn all(devices: &[PciDevice]) -> Vec<&PciDevice> {
    let mut found = Vec::new();
    for device in devices {
        found.push(device);
        if let Some(bridge) = &device.pci_bridge {
            found.extend(all(&bridge.devices));
        }
    }
    found
}
