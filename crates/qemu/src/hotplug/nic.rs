//! Network cards.

use std::os::fd::OwnedFd;
use std::time::Duration;

use hostler_qmp::{
    Qmp,
    command::{Closefd, DeviceAdd, Getfd, NetdevAdd, NetdevDel, SetLink},
};
use hostler_types::{MacAddress, Name};
use serde_json::json;

use super::device::{Devices, Removal, remove_device};
use crate::names::{netdev_id, nic_id};
use crate::vm::MonitorError;

/// A card to be plugged in.
#[derive(Debug)]
pub struct NicPlug<'a> {
    /// Unique within the VM.
    pub name: &'a Name,
    /// Its address.
    pub mac: MacAddress,
    /// The open tap device.
    pub tap: OwnedFd,
    /// A free port.
    pub port: String,
    /// Whether its cable is in from the beginning.
    pub link: bool,
    /// Whether it has the program for booting from the network, as cards that the machine was
    /// started with have.
    pub boot_program: bool,
}

/// Plugs a card in. One that is there already is left as it is.
///
/// # Errors
/// See [`MonitorError`]; nothing is left of the card then.
pub async fn plug_nic(qmp: &Qmp, plug: NicPlug<'_>) -> Result<(), MonitorError> {
    let (id, netdev) = (nic_id(plug.name), netdev_id(plug.name));
    if Devices::of(qmp).await?.has(&id) {
        return Ok(());
    }
    clear_nic(qmp, plug.name).await?;
    qmp.execute_with_fds(Getfd { fdname: netdev.clone() }, vec![plug.tap]).await?;
    let back_end = NetdevAdd(json!({ "type": "tap", "id": netdev, "fd": netdev }));
    if let Err(error) = qmp.execute(back_end).await {
        let _ = qmp.execute(Closefd { fdname: netdev }).await;
        return Err(error.into());
    }
    let mut device = json!({
        "driver": "virtio-net-pci", "id": id, "bus": plug.port, "netdev": netdev,
        "mac": plug.mac.to_string(),
    });
    if !plug.boot_program {
        device["romfile"] = "".into();
    }
    let device = DeviceAdd(device);
    let plugged = async {
        // Before the guest sees the card.
        if !plug.link {
            qmp.execute(SetLink { name: netdev.clone(), up: false }).await?;
        }
        qmp.execute(device).await
    };
    if let Err(error) = plugged.await {
        remove_netdev(qmp, &netdev).await?;
        return Err(error.into());
    }
    Ok(())
}

/// Lets go of what is left of a card that is not there: whoever plugged it in (or took it out) died
/// in the middle.
///
/// # Errors
/// See [`MonitorError`].
pub async fn clear_nic(qmp: &Qmp, name: &Name) -> Result<(), MonitorError> {
    let netdev = netdev_id(name);
    remove_netdev(qmp, &netdev).await?;
    match qmp.execute(Closefd { fdname: netdev }).await {
        Err(error) if error.is_closed() => Err(error.into()),
        // There was none.
        _ => Ok(()),
    }
}

/// Takes a card out, and its back end after it.
///
/// # Errors
/// See [`MonitorError`].
pub async fn unplug_nic(qmp: &Qmp, name: &Name, within: Duration) -> Result<Removal, MonitorError> {
    let removal = remove_device(qmp, &nic_id(name), within).await?;
    if removal == Removal::Gone {
        remove_netdev(qmp, &netdev_id(name)).await?;
    }
    Ok(removal)
}

/// Plugs a card's cable in, or pulls it.
///
/// # Errors
/// See [`MonitorError`].
pub async fn set_link(qmp: &Qmp, name: &Name, up: bool) -> Result<(), MonitorError> {
    qmp.execute(SetLink { name: nic_id(name), up }).await?;
    Ok(())
}

async fn remove_netdev(qmp: &Qmp, id: &str) -> Result<(), MonitorError> {
    match qmp.execute(NetdevDel { id: id.to_owned() }).await {
        Err(error) if !error.is_device_not_found() => Err(error.into()),
        _ => Ok(()),
    }
}
