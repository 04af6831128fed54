//! New layers on the disks of a running machine, all at one instant, and the machine's memory with
//! them.
//!
//! With memory, the guest stands still from before the disks' instant until its memory is write
//! protected; then it goes on, and each page is saved before it changes. A host on which QEMU may not
//! do that saves the memory while the guest runs, and the disks' instant is the end of that.
//!
//! QEMU can only protect pages that are there, so it reads them all before. That takes 2 s for each GiB
//! that the guest has not used yet; see [`rehearse_saving`].

use std::{
    os::{fd::OwnedFd, unix::net::UnixStream},
    time::{Duration, Instant},
};

use hostler_qmp::{
    Events, Qmp, QmpError,
    command::{
        BlockdevAdd, BlockdevDel, BlockdevReopen, Getfd, Migrate, MigrateCancel, MigrateContinue,
        MigrateSetCapabilities, MigrateSetParameters, MigrationAddress, MigrationStatus,
        QueryBlock, QueryMigrate, QueryNamedBlockNodes, RemoveFd, SocketAddress, Stop, Transaction,
        TransactionAction,
    },
    event::{Event, TimedEvent},
};
use hostler_types::Name;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use crate::devices::disks::{file_node, layer_options};
use crate::names::{disk_id, layer_file_node};
use crate::plan::{DiskCache, LayerPlan, PlanError};
use crate::vm::{MonitorError, add_file, fdset, go_on, transferred};

/// Guests write their memory again while it is saved; beyond this it is better to hold them.
const DOWNTIME: Duration = Duration::from_millis(100);
/// Saving the devices and write protecting the memory.
const ARM: Duration = Duration::from_secs(30);
/// The descriptor for a rehearsal, as the monitor calls it.
const NOWHERE: &str = "nowhere";

/// A layer that is to become a disk's active one. Its file is there, and empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewLayer {
    /// The node of the present active layer.
    pub on: String,
    /// The new one.
    pub layer: LayerPlan,
    /// How the host caches the disk.
    pub cache: DiskCache,
}

/// How a machine's memory was saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemorySaved {
    /// How long the guest stood still, by QEMU's own clock.
    pub paused: Duration,
    /// Why it stood still for longer than it need have; `None`: it did not.
    pub slow: Option<String>,
}

/// Puts new layers on disks at one instant; the guest does not notice.
///
/// # Errors
/// See [`MonitorError`]; unless QEMU is gone no disk has a new layer then.
pub async fn add_layers(qmp: &Qmp, layers: &[NewLayer]) -> Result<(), MonitorError> {
    open_layers(qmp, layers).await?;
    let put = put_layers(qmp, layers).await;
    if put.is_err() {
        close_unused(qmp, layers).await;
    }
    put
}

/// As [`add_layers`], and writes the guest's memory of the same instant into `file`, which must be
/// open for writing only. Returns when it is written; the guest runs long before. It can be loaded by
/// [`resume_from`](crate::resume_from) as [`SavedState::Stream`](crate::SavedState::Stream).
///
/// # Errors
/// See [`MonitorError`]. The guest runs on; whether its disks have the new layers tells
/// [`active_nodes`].
pub async fn add_layers_and_save(
    qmp: &Qmp,
    layers: &[NewLayer],
    file: OwnedFd,
    within: Duration,
) -> Result<MemorySaved, MonitorError> {
    let mut events = qmp.subscribe();
    let slow = choose(qmp).await?;
    open_layers(qmp, layers).await?;
    let set = add_file(qmp, file).await?;
    let save = Migrate::to(fdset(set));
    let result = match slow {
        None => in_background(qmp, &mut events, layers, save, within).await,
        Some(_) => beforehand(qmp, &mut events, layers, save, within).await,
    };
    let _ = qmp.execute(RemoveFd { fdset_id: set.fdset_id, fd: None }).await;
    choose_nothing(qmp).await;
    if result.is_err() {
        // Whatever happened, the guest goes on.
        let _ = qmp.execute(MigrateCancel).await;
        let _ = go_on(qmp).await;
    }
    Ok(MemorySaved { paused: result?, slow })
}

/// Begins to save the memory of a guest that runs, to nowhere, and gives it up when all of it is there
/// and protected: so [`add_layers_and_save`], to which that happens while the guest stands still, finds
/// it so. The guest runs meanwhile but for some milliseconds, which are returned; `None` if the memory is
/// not saved in this way, or it came to nothing, which harms nothing.
///
/// # Errors
/// See [`MonitorError`]. The guest runs on.
pub async fn rehearse_saving(
    qmp: &Qmp,
    within: Duration,
) -> Result<Option<Duration>, MonitorError> {
    let rehearsed = match choose(qmp).await? {
        None => rehearse(qmp, within).await,
        Some(_) => Ok(None),
    };
    choose_nothing(qmp).await;
    rehearsed
}

/// The node that each disk uses now, by the disk's name as given.
///
/// # Errors
/// See [`MonitorError`].
pub async fn active_nodes(
    qmp: &Qmp,
    disks: impl IntoIterator<Item = &Name>,
) -> Result<Vec<(Name, String)>, MonitorError> {
    let devices = qmp.execute(QueryBlock).await?;
    let node = |disk: &Name| {
        let id = disk_id(disk);
        let is = |path: &str| path.split('/').any(|part| part == id);
        let device = devices.iter().find(|device| device.qdev.as_deref().is_some_and(is))?;
        Some((disk.clone(), device.inserted.as_ref()?.node_name.clone()?))
    };
    Ok(disks.into_iter().filter_map(node).collect())
}

/// Opens the file of a layer anew, so that a merge can write to it, or so that nothing can.
///
/// # Errors
/// See [`MonitorError`].
pub async fn open_for_writing(
    qmp: &Qmp,
    layer: &LayerPlan,
    cache: DiskCache,
    writable: bool,
) -> Result<(), MonitorError> {
    let cache = if layer.shared { DiskCache::PageCache } else { cache };
    let options = vec![file_node(layer, cache, !writable).map_err(|error| planned(&error))?];
    qmp.execute(BlockdevReopen { options }).await?;
    Ok(())
}

/// Writes to its file what QEMU holds of a layer that is written to, its tables included: opening it
/// anew does, and nothing else does that leaves the guest alone. `beneath` is the node that it lies on.
///
/// # Errors
/// See [`MonitorError`].
pub async fn flush_layer(
    qmp: &Qmp,
    layer: &LayerPlan,
    cache: DiskCache,
    beneath: Option<&str>,
) -> Result<(), MonitorError> {
    let cache = if layer.shared { DiskCache::PageCache } else { cache };
    let options = vec![layer_options(layer, cache, false, &json!(beneath))];
    qmp.execute(BlockdevReopen { options }).await?;
    Ok(())
}

/// Closes layers that no disk uses, in this order. Those that are not open are passed over.
///
/// # Errors
/// See [`MonitorError`].
pub async fn close_nodes<'a>(
    qmp: &Qmp,
    nodes: impl Iterator<Item = &'a str>,
) -> Result<(), MonitorError> {
    let there = qmp.execute(QueryNamedBlockNodes { flat: Some(true) }).await?;
    for node in nodes {
        for node_name in [node.to_owned(), layer_file_node(node)] {
            if there.iter().any(|found| found.node_name.as_ref() == Some(&node_name)) {
                qmp.execute(BlockdevDel { node_name }).await?;
            }
        }
    }
    Ok(())
}

async fn open_layers(qmp: &Qmp, layers: &[NewLayer]) -> Result<(), MonitorError> {
    close_nodes(qmp, layers.iter().map(|new| new.layer.node.as_str())).await?;
    let opened = async {
        for new in layers {
            let file = file_node(&new.layer, new.cache, false).map_err(|error| planned(&error))?;
            qmp.execute(BlockdevAdd(file)).await?;
            let node = layer_options(&new.layer, new.cache, false, &Value::Null);
            qmp.execute(BlockdevAdd(node)).await?;
        }
        Ok(())
    };
    let opened: Result<(), MonitorError> = opened.await;
    if opened.is_err() {
        close_unused(qmp, layers).await;
    }
    opened
}

/// After a failure, which is what is told, whatever comes of this. One that came too late, so that the
/// layers are in use after all, keeps them.
async fn close_unused(qmp: &Qmp, layers: &[NewLayer]) {
    let nodes = layers.iter().map(|new| new.layer.node.as_str());
    if let Err(error) = close_nodes(qmp, nodes).await {
        tracing::debug!(%error, "layers stay open");
    }
}

async fn put_layers(qmp: &Qmp, layers: &[NewLayer]) -> Result<(), MonitorError> {
    let put = |new: &NewLayer| TransactionAction::BlockdevSnapshot {
        node: new.on.clone(),
        overlay: new.layer.node.clone(),
    };
    let actions: Vec<_> = layers.iter().map(put).collect();
    if !actions.is_empty() {
        qmp.execute(Transaction { actions }).await?;
    }
    Ok(())
}

/// Whatever is saved or loaded next says itself what it needs.
async fn choose_nothing(qmp: &Qmp) {
    let off = ["background-snapshot", "pause-before-switchover"];
    let _ = qmp.execute(MigrateSetCapabilities::switch(&[], &off)).await;
}

/// Switches to saving in the background; why that is not possible here, if it is not.
async fn choose(qmp: &Qmp) -> Result<Option<String>, MonitorError> {
    // QEMU's own limit of speed is for networks.
    let fast = MigrateSetParameters {
        max_bandwidth: Some(1 << 50),
        downtime_limit: u64::try_from(DOWNTIME.as_millis()).ok(),
        ..Default::default()
    };
    qmp.execute(fast).await?;
    // With it, QEMU accepts `mapped-ram` too and writes a file that cannot be loaded.
    let off = MigrateSetCapabilities::switch(&["events"], &["mapped-ram"]);
    qmp.execute(off).await?;
    let background =
        MigrateSetCapabilities::switch(&["background-snapshot"], &["pause-before-switchover"]);
    match qmp.execute(background).await {
        Ok(_) => Ok(None),
        Err(QmpError::Refused { description, .. }) => {
            let before = MigrateSetCapabilities::on(&["pause-before-switchover"]);
            qmp.execute(before).await?;
            Ok(Some(description))
        }
        Err(error) => Err(error.into()),
    }
}

async fn rehearse(qmp: &Qmp, within: Duration) -> Result<Option<Duration>, MonitorError> {
    let (ours, theirs) = UnixStream::pair().map_err(MonitorError::File)?;
    qmp.execute_with_fds(Getfd { fdname: NOWHERE.to_owned() }, vec![theirs.into()]).await?;
    let (mut pauses, mut goes_on, mut ends) = (qmp.subscribe(), qmp.subscribe(), qmp.subscribe());
    let nowhere = SocketAddress::Fd { str: NOWHERE.to_owned() };
    qmp.execute(Migrate::to(MigrationAddress::Socket(nowhere))).await?;
    let ended = |event: &Event| match event {
        Event::Migration(migration) => match migration.status {
            MigrationStatus::Completed => Some(true),
            MigrationStatus::Failed | MigrationStatus::Cancelled => Some(false),
            _ => None,
        },
        _ => None,
    };
    let rehearsed = async {
        let protected = |event: &Event| match event {
            Event::Resume => Some(true),
            event => ended(event),
        };
        let protected = goes_on.wait_for(within, protected).await;
        qmp.execute(MigrateCancel).await?;
        ends.wait_for(within, ended).await?;
        match protected? {
            true => pause(&mut pauses).await.map(Some),
            false => Ok(None),
        }
    };
    tokio::pin!(rehearsed);
    tokio::select! {
        rehearsed = &mut rehearsed => rehearsed,
        // It ends with QEMU's end of the socket.
        () = throw_away(ours) => rehearsed.await,
    }
}

/// Reads to the end. QEMU's main thread may itself wait for a page that is being written, so it must
/// not wait for us.
async fn throw_away(from: UnixStream) {
    let stream = from.set_nonblocking(true).and_then(|()| tokio::net::UnixStream::from_std(from));
    let Ok(mut stream) = stream else { return };
    let mut bytes = vec![0; 256 << 10];
    while stream.read(&mut bytes).await.is_ok_and(|read| read > 0) {}
}

async fn in_background(
    qmp: &Qmp,
    events: &mut Events,
    layers: &[NewLayer],
    save: Migrate,
    within: Duration,
) -> Result<Duration, MonitorError> {
    qmp.execute(Stop).await?;
    put_layers(qmp, layers).await?;
    // It may end, or fail, before the guest goes on: who looks for that passes over this.
    let mut moved = qmp.subscribe();
    qmp.execute(save).await?;
    armed(qmp).await?;
    go_on(qmp).await?;
    let paused = pause(events).await?;
    transferred(qmp, &mut moved, within).await?;
    Ok(paused)
}

/// Waits until the memory is write protected: pages are saved only from then on. There is no event
/// for it.
async fn armed(qmp: &Qmp) -> Result<(), MonitorError> {
    let begin = Instant::now();
    loop {
        let info = qmp.execute(QueryMigrate).await?;
        let saved = info.ram.is_some_and(|ram| ram.transferred > 0);
        match info.status {
            Some(MigrationStatus::Completed) => return Ok(()),
            Some(MigrationStatus::Active) if saved => return Ok(()),
            Some(MigrationStatus::Failed | MigrationStatus::Cancelled) => {
                let why = info.error_desc.unwrap_or_else(|| "it failed".to_owned());
                return Err(MonitorError::Transfer(why));
            }
            _ if begin.elapsed() > ARM => {
                return Err(MonitorError::Transfer("the memory was not protected".to_owned()));
            }
            _ => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
}

/// The guest runs until nearly all is saved; the disks' instant comes after its last instruction.
async fn beforehand(
    qmp: &Qmp,
    events: &mut Events,
    layers: &[NewLayer],
    save: Migrate,
    within: Duration,
) -> Result<Duration, MonitorError> {
    let mut moved = qmp.subscribe();
    qmp.execute(save).await?;
    let reached = |event: &Event| match event {
        Event::Migration(migration) => match migration.status {
            MigrationStatus::PreSwitchover => Some(true),
            MigrationStatus::Failed | MigrationStatus::Cancelled => Some(false),
            _ => None,
        },
        _ => None,
    };
    let reached = match moved.wait_for(within, reached).await {
        // A guest that writes faster than its memory is saved is held for the rest.
        Err(hostler_qmp::EventsError::Timeout { .. }) => {
            qmp.execute(Stop).await?;
            moved.wait_for(within, reached).await?
        }
        other => other?,
    };
    if reached {
        put_layers(qmp, layers).await?;
        qmp.execute(MigrateContinue { state: "pre-switchover" }).await?;
    }
    transferred(qmp, &mut moved, within).await?;
    go_on(qmp).await?;
    pause(events).await
}

/// From the guest's standing still to its going on.
async fn pause(events: &mut Events) -> Result<Duration, MonitorError> {
    let begin = moment(events, |event| matches!(event, Event::Stop)).await?;
    let end = moment(events, |event| matches!(event, Event::Resume)).await?;
    let (begin, end) = (begin.timestamp.to_system_time(), end.timestamp.to_system_time());
    Ok(begin.zip(end).and_then(|(begin, end)| end.duration_since(begin).ok()).unwrap_or_default())
}

async fn moment(
    events: &mut Events,
    is: impl Fn(&Event) -> bool,
) -> Result<TimedEvent, MonitorError> {
    loop {
        let timed = events.recv().await?;
        if is(&timed.event) {
            return Ok(timed);
        }
    }
}

fn planned(error: &PlanError) -> MonitorError {
    MonitorError::Transfer(error.to_string())
}
