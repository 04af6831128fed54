//! Disks.

use std::time::Duration;

use hostler_qmp::{
    Qmp,
    command::{BlockResize, BlockdevAdd, BlockdevDel, DeviceAdd, QueryNamedBlockNodes},
};
use hostler_types::{ByteSize, DiskBus, Name};
use serde_json::{Value, json};

use super::device::{Devices, Removal, remove_device};
use crate::devices::disks::{SCSI, device, layer_nodes};
use crate::names::{disk_id, layer_file_node};
use crate::plan::{DiskPlan, PlanError};
use crate::vm::MonitorError;

/// Plugs a disk in: the nodes of its files, then the device. One that is there already is left as
/// it is. `queues` is as for the disks that the machine was started with.
///
/// # Errors
/// See [`MonitorError`]; nothing is left of the disk then.
pub async fn plug_disk(qmp: &Qmp, disk: &DiskPlan, queues: u32) -> Result<(), MonitorError> {
    let id = disk_id(&disk.name);
    let devices = Devices::of(qmp).await?;
    if devices.has(&id) {
        return Ok(());
    }
    let free_port = || {
        let port = devices.free_ports().into_iter().next();
        port.ok_or_else(|| MonitorError::Transfer("no port is free".to_owned()))
    };
    let planned = |error: PlanError| MonitorError::Transfer(error.to_string());
    let mut new = device(disk).map_err(planned)?;
    match disk.bus {
        DiskBus::VirtioBlk => {
            new.insert("driver".to_owned(), "virtio-blk-pci".into());
            new.insert("num-queues".to_owned(), queues.into());
            new.insert("bus".to_owned(), free_port()?.into());
        }
        DiskBus::VirtioScsi => {
            if !devices.has(SCSI) {
                let controller = json!({
                    "driver": "virtio-scsi-pci", "id": SCSI, "num_queues": queues,
                    "bus": free_port()?,
                });
                qmp.execute(DeviceAdd(controller)).await?;
            }
            new.insert("driver".to_owned(), "scsi-hd".into());
            new.insert("bus".to_owned(), "scsi0.0".into());
            new.insert("lun".to_owned(), disk.lun.unwrap_or_default().into());
        }
    }
    clear_disk(qmp, disk).await?;
    let plugged = async {
        for node in layer_nodes(disk).map_err(planned)? {
            qmp.execute(BlockdevAdd(node)).await?;
        }
        qmp.execute(DeviceAdd(Value::Object(new))).await?;
        Ok(())
    };
    let plugged: Result<(), MonitorError> = plugged.await;
    if plugged.is_err() {
        clear_disk(qmp, disk).await?;
    }
    plugged
}

/// Opens a disk's files, for no device yet.
///
/// # Errors
/// See [`MonitorError`]. What was opened of them stays open.
pub async fn open_disk(qmp: &Qmp, disk: &DiskPlan) -> Result<(), MonitorError> {
    for node in layer_nodes(disk).map_err(|error| MonitorError::Transfer(error.to_string()))? {
        qmp.execute(BlockdevAdd(node)).await?;
    }
    Ok(())
}

/// Takes a disk out, and closes its files after it.
///
/// # Errors
/// See [`MonitorError`].
pub async fn unplug_disk(
    qmp: &Qmp,
    disk: &DiskPlan,
    within: Duration,
) -> Result<Removal, MonitorError> {
    let removal = remove_device(qmp, &disk_id(&disk.name), within).await?;
    if removal == Removal::Gone {
        clear_disk(qmp, disk).await?;
    }
    Ok(removal)
}

/// Closes the files of a disk whose device is not there.
///
/// # Errors
/// See [`MonitorError`].
pub async fn clear_disk(qmp: &Qmp, disk: &DiskPlan) -> Result<(), MonitorError> {
    let there = qmp.execute(QueryNamedBlockNodes { flat: Some(true) }).await?;
    // From the active one down: each is held by the one above, and holds its file's node.
    for layer in &disk.layers {
        for node_name in [layer.node.clone(), layer_file_node(&layer.node)] {
            if there.iter().any(|node| node.node_name.as_ref() == Some(&node_name)) {
                qmp.execute(BlockdevDel { node_name }).await?;
            }
        }
    }
    Ok(())
}

/// Grows a disk; its guest sees it at once.
///
/// # Errors
/// See [`MonitorError`].
pub async fn resize_disk(qmp: &Qmp, node: &str, size: ByteSize) -> Result<(), MonitorError> {
    /// Growing flushes the tables of a large disk.
    const WITHIN: Duration = Duration::from_secs(60);
    let resize = BlockResize { node_name: node.to_owned(), size: size.bytes() };
    qmp.execute_within(resize, WITHIN).await?;
    Ok(())
}

/// Where a virtio-scsi disk sits; `None` when it is not there.
///
/// # Errors
/// See [`MonitorError`].
pub async fn lun_of(qmp: &Qmp, name: &Name) -> Result<Option<u32>, MonitorError> {
    let path = format!("/machine/peripheral/{}", disk_id(name));
    let get = hostler_qmp::command::QomGet { path, property: "lun".to_owned() };
    match qmp.execute(get).await {
        Ok(value) => Ok(value.as_u64().and_then(|lun| u32::try_from(lun).ok())),
        Err(error) if error.is_closed() => Err(error.into()),
        Err(_) => Ok(None),
    }
}
