//! Which devices and free ports there are, and how a device is taken out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hostler_qmp::{
    EventsError, Qmp, QmpError,
    command::{DeviceDel, QomGet, QomList},
    event::Event,
};

use crate::plan::PortKind;
use crate::vm::MonitorError;

/// Where QEMU keeps the devices that have an id.
const PERIPHERAL: &str = "/machine/peripheral";

/// How far taking a device out came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// It is gone.
    Gone,
    /// The guest said no; it keeps the device.
    Refused,
    /// The guest has not said anything in time; it may still let go.
    Waiting,
}

/// The devices that have an id, and the ports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Devices {
    /// By id, with the bus that each sits on; for what is plugged into a port, the port's id.
    pub buses: BTreeMap<String, String>,
    /// The ports' ids.
    pub ports: BTreeSet<String>,
}

impl Devices {
    /// What QEMU has now.
    ///
    /// # Errors
    /// See [`MonitorError`].
    pub async fn of(qmp: &Qmp) -> Result<Self, MonitorError> {
        let mut found = Self::default();
        for device in qmp.execute(QomList { path: PERIPHERAL.to_owned() }).await? {
            match device.kind.as_str() {
                kind if PortKind::is_port(kind) => {
                    found.ports.insert(device.name);
                }
                kind if kind.starts_with("child<") => {
                    let path = format!("{PERIPHERAL}/{}", device.name);
                    let get = QomGet { path, property: "parent_bus".to_owned() };
                    match qmp.execute(get).await {
                        Ok(bus) => {
                            let bus = bus.as_str().and_then(|path| path.rsplit('/').next());
                            found.buses.insert(device.name, bus.unwrap_or_default().to_owned());
                        }
                        // It has just gone.
                        Err(error @ QmpError::Refused { .. }) => {
                            tracing::debug!(device.name, %error, "no bus");
                        }
                        Err(error) => return Err(error.into()),
                    }
                }
                _ => {}
            }
        }
        Ok(found)
    }

    /// Whether there is a device of this id.
    #[must_use]
    pub fn has(&self, id: &str) -> bool {
        self.buses.contains_key(id)
    }

    /// The ports into which something can be plugged, the spare ones first.
    #[must_use]
    pub fn free_ports(&self) -> Vec<String> {
        let taken: BTreeSet<&String> = self.buses.values().collect();
        let mut free: Vec<_> =
            self.ports.iter().filter(|port| !taken.contains(port)).cloned().collect();
        // The sort is stable: otherwise by name.
        free.sort_by_key(|port| !port.starts_with("spare"));
        free
    }

    /// The port in which each device sits that sits in one.
    #[must_use]
    pub fn plugged(&self) -> BTreeMap<String, String> {
        let in_port = self.buses.iter().filter(|(_, bus)| self.ports.contains(*bus));
        in_port.map(|(id, port)| (id.clone(), port.clone())).collect()
    }
}

/// Asks the guest to let a device go, and waits for its answer.
///
/// # Errors
/// See [`MonitorError`].
pub async fn remove_device(qmp: &Qmp, id: &str, within: Duration) -> Result<Removal, MonitorError> {
    let mut events = qmp.subscribe();
    match qmp.execute(DeviceDel { id: id.to_owned() }).await {
        Ok(_) => {}
        Err(error) if error.is_device_not_found() => return Ok(Removal::Gone),
        // Asked before; QEMU takes no second request while the guest thinks.
        Err(_) if Devices::of(qmp).await?.has(id) => {}
        Err(error) => return Err(error.into()),
    }
    let answer = events.wait_for(within, |event| match event {
        Event::DeviceDeleted(gone) if gone.device.as_deref() == Some(id) => Some(Removal::Gone),
        Event::DeviceUnplugGuestError(kept) if kept.device.as_deref() == Some(id) => {
            Some(Removal::Refused)
        }
        _ => None,
    });
    match answer.await {
        Ok(answer) => Ok(answer),
        Err(EventsError::Timeout { .. } | EventsError::Lagged { .. }) => {
            let gone = !Devices::of(qmp).await?.has(id);
            Ok(if gone { Removal::Gone } else { Removal::Waiting })
        }
        Err(error) => Err(error.into()),
    }
}
