//! The medium in a CD drive.

use std::path::Path;
use std::time::Duration;

use hostler_qmp::{
    EventsError, Qmp, QmpError,
    command::{
        BlockdevAdd, BlockdevCloseTray, BlockdevDel, BlockdevInsertMedium, BlockdevOpenTray,
        BlockdevRemoveMedium, QueryBlock, QueryNamedBlockNodes,
    },
    event::Event,
};
use hostler_types::Name;

use crate::devices::cdroms::medium_nodes;
use crate::names::{cdrom_id, cdrom_node};
use crate::vm::MonitorError;

/// How changing a medium ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediumChange {
    /// The new one is in, or the drive is empty.
    Done,
    /// The guest has locked the tray: the old medium is in use. It stays.
    Locked,
}

/// Takes a medium out and puts another in. A guest that has locked the tray is asked to open it
/// and may take `within`.
///
/// # Errors
/// See [`MonitorError`].
pub async fn change_medium(
    qmp: &Qmp,
    drive: &Name,
    image: Option<&Path>,
    within: Duration,
) -> Result<MediumChange, MonitorError> {
    let id = cdrom_id(drive);
    if !open_tray(qmp, &id, within).await? {
        return Ok(MediumChange::Locked);
    }
    match qmp.execute(BlockdevRemoveMedium { id: id.clone() }).await {
        Ok(_) => {}
        Err(error) if error.is_closed() => return Err(error.into()),
        // An empty drive has nothing to take out.
        Err(_) => {}
    }
    remove_nodes(qmp, drive).await?;
    if let Some(image) = image {
        let path = crate::argument::path_text(image)
            .map_err(|error| MonitorError::Transfer(error.to_string()))?;
        for node in medium_nodes(drive, path) {
            qmp.execute(BlockdevAdd(node)).await?;
        }
        let node_name = cdrom_node(drive, "");
        qmp.execute(BlockdevInsertMedium { id: id.clone(), node_name }).await?;
    }
    qmp.execute(BlockdevCloseTray { id }).await?;
    Ok(MediumChange::Done)
}

/// Whether the tray is open.
async fn open_tray(qmp: &Qmp, id: &str, within: Duration) -> Result<bool, MonitorError> {
    let mut events = qmp.subscribe();
    let refused = match qmp.execute(BlockdevOpenTray { id: id.to_owned(), force: false }).await {
        Ok(_) => None,
        Err(error @ QmpError::Refused { .. }) => Some(error),
        Err(error) => return Err(error.into()),
    };
    if is_open(qmp, id).await? {
        return Ok(true);
    }
    let drives = qmp.execute(QueryBlock).await?;
    let locked = drives.iter().any(|drive| is_drive(drive.qdev.as_deref(), id) && drive.locked);
    match refused {
        Some(error) if !locked => return Err(error.into()),
        _ => {}
    }
    // The guest has been asked.
    let opened = events.wait_for(within, |event| match event {
        Event::DeviceTrayMoved(moved) if moved.tray_open && is_drive(Some(&moved.id), id) => {
            Some(())
        }
        _ => None,
    });
    match opened.await {
        Ok(()) => Ok(true),
        Err(EventsError::Closed(reason)) => Err(EventsError::Closed(reason).into()),
        Err(_) => is_open(qmp, id).await,
    }
}

async fn is_open(qmp: &Qmp, id: &str) -> Result<bool, MonitorError> {
    let drives = qmp.execute(QueryBlock).await?;
    let drive = drives.into_iter().find(|drive| is_drive(drive.qdev.as_deref(), id));
    Ok(drive.is_some_and(|drive| drive.tray_open == Some(true)))
}

/// QEMU names a device by its id or its path, as it likes.
fn is_drive(name: Option<&str>, id: &str) -> bool {
    name.is_some_and(|name| name == id || name.rsplit('/').next() == Some(id))
}

async fn remove_nodes(qmp: &Qmp, drive: &Name) -> Result<(), MonitorError> {
    let nodes = qmp.execute(QueryNamedBlockNodes { flat: Some(true) }).await?;
    for node_name in [cdrom_node(drive, ""), cdrom_node(drive, "-file")] {
        if nodes.iter().any(|node| node.node_name.as_ref() == Some(&node_name)) {
            qmp.execute(BlockdevDel { node_name }).await?;
        }
    }
    Ok(())
}
