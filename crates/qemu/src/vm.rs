//! What is asked of a running machine.
//!
//! Files are opened by the caller and handed over: QEMU's user need not be able to open them, and
//! no path is ever interpreted by it.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use hostler_qmp::{
    Events, EventsError, Qmp, QmpError,
    command::{
        AddFd, AddedFd, Cont, ImageFormat, Migrate, MigrateCancel, MigrateIncoming,
        MigrateSetCapabilities, MigrateSetParameters, MigrationAddress, MigrationCapability,
        MigrationStatus, QueryMigrate, QueryStatus, Quit, RemoveFd, RunState, Screendump, Stop,
    },
    event::Event,
};
use rustix::fs::{MemfdFlags, Mode, OFlags};
use thiserror::Error;
use tracing::warn;

use crate::process::Process;

/// The id of the guest agent's port, as
/// [`VserportChange`](hostler_qmp::event::VserportChange) names it.
pub const GUEST_AGENT_PORT: &str = "agent-port0";

/// How long QEMU may take to end once it was told to. It flushes its disks before.
const QUIT_TIMEOUT: Duration = Duration::from_secs(20);

/// The largest picture taken from QEMU, in bytes.
const MAX_PICTURE: u64 = 64 << 20;

/// What goes wrong in talking to a machine.
#[derive(Debug, Error)]
pub enum MonitorError {
    /// QEMU refused, did not answer or is gone.
    #[error("QEMU did not do what it was asked")]
    Qmp(#[from] QmpError),
    /// The events stopped, or the awaited one did not come.
    #[error("QEMU did not report the end of what it was asked")]
    Events(#[from] EventsError),
    /// The state could not be saved or loaded.
    #[error("the machine's state was not transferred: {0}")]
    Transfer(String),
    /// Merging or copying disks failed.
    #[error("the disks' data was not copied: {0}")]
    Job(String),
    /// A file of ours failed.
    #[error("cannot prepare a file for QEMU")]
    File(#[source] io::Error),
    /// The picture is larger than any screen's.
    #[error("QEMU made a picture of {0} bytes")]
    Picture(u64),
    /// The process did not end after it was killed; the kernel holds it.
    #[error("QEMU did not end")]
    Undying,
}

/// Ends QEMU as if the power were cut, but with its disks flushed. Kills it if it does not obey.
///
/// It is needed after the guest has shut down by itself, too: QEMU is started so that it stands
/// still then, in [`RunState::Shutdown`](hostler_qmp::command::RunState::Shutdown), and says so to an agent that was away.
///
/// # Errors
/// [`MonitorError::Undying`] if not even that helps.
pub async fn power_off(qmp: &Qmp, process: &Process) -> Result<(), MonitorError> {
    let Err(error) = quit(qmp, process).await else { return Ok(()) };
    warn!(pid = process.pid(), error = &error as &dyn std::error::Error, "killing QEMU");
    process.kill().map_err(|error| MonitorError::File(io::Error::other(error)))?;
    let ended = tokio::time::timeout(QUIT_TIMEOUT, process.exited()).await;
    ended.map(drop).map_err(|_| MonitorError::Undying)
}

async fn quit(qmp: &Qmp, process: &Process) -> Result<(), MonitorError> {
    match qmp.execute(Quit).await {
        Ok(_) => {}
        // It may end before it has answered.
        Err(error) if error.is_closed() => {}
        Err(error) => return Err(error.into()),
    }
    let ended = tokio::time::timeout(QUIT_TIMEOUT, process.exited()).await;
    ended.map(drop).map_err(|_| MonitorError::Undying)
}

/// Stops the guest and writes its memory and devices into `file`, which must be open for writing
/// only. Afterwards QEMU holds a machine that must not run again, and is to be ended.
///
/// If it fails the guest goes on as before.
///
/// # Errors
/// See [`MonitorError`].
pub async fn suspend_to(qmp: &Qmp, file: OwnedFd, within: Duration) -> Result<(), MonitorError> {
    let mut events = qmp.subscribe();
    prepare_transfer(qmp).await?;
    let set = add_file(qmp, file).await?;
    let ran = qmp.execute(QueryStatus).await?.running;
    qmp.execute(Stop).await?;
    let saved = async {
        qmp.execute(Migrate::to(fdset(set))).await?;
        transferred(qmp, &mut events, within).await
    };
    let saved = saved.await;
    // The set goes when its last user has closed it; a failure here harms nothing.
    let _ = qmp.execute(RemoveFd { fdset_id: set.fdset_id, fd: None }).await;
    if saved.is_err() {
        let _ = qmp.execute(MigrateCancel).await;
        if ran {
            go_on(qmp).await?;
        }
    }
    saved
}

/// How a state lies in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SavedState {
    /// As [`suspend_to`] writes it: each page has its place.
    Mapped,
    /// As [`add_layers_and_save`](crate::add_layers_and_save) writes it: one after the other.
    Stream,
}

/// Loads a saved state into a machine started with [`Start::Resume`](crate::Start::Resume), and lets
/// it run. `file` must be open for reading only.
///
/// # Errors
/// See [`MonitorError`]. The machine is then to be ended; the file is as it was.
pub async fn resume_from(
    qmp: &Qmp,
    file: OwnedFd,
    state: SavedState,
    within: Duration,
) -> Result<(), MonitorError> {
    let mut events = qmp.subscribe();
    match state {
        SavedState::Mapped => prepare_transfer(qmp).await?,
        SavedState::Stream => {
            qmp.execute(MigrateSetCapabilities::on(&["events"])).await?;
        }
    }
    let set = add_file(qmp, file).await?;
    qmp.execute_within(MigrateIncoming::from(fdset(set)), within).await?;
    transferred(qmp, &mut events, within).await?;
    let _ = qmp.execute(RemoveFd { fdset_id: set.fdset_id, fd: None }).await;
    qmp.execute(Cont).await?;
    Ok(())
}

/// Lets the guest go on after a migration. QEMU tells of a migration's end an instant before it allows
/// that, and nothing tells of the instant's end.
///
/// # Errors
/// See [`MonitorError`]; the guest stands still.
pub async fn go_on(qmp: &Qmp) -> Result<(), MonitorError> {
    const LONGEST: Duration = Duration::from_secs(10);
    const AGAIN: Duration = Duration::from_millis(1);
    let begin = std::time::Instant::now();
    while qmp.execute(QueryStatus).await?.status == RunState::FinishMigrate
        && begin.elapsed() < LONGEST
    {
        tokio::time::sleep(AGAIN).await;
    }
    qmp.execute(Cont).await?;
    Ok(())
}

/// RAM at fixed places in the file, so that its size is bounded; no limit on speed, QEMU's own is
/// for networks.
async fn prepare_transfer(qmp: &Qmp) -> Result<(), MonitorError> {
    set_transfer(qmp, &["events", "mapped-ram"]).await
}

/// Sets what a transfer is like; what an earlier one has left set is taken back.
pub(crate) async fn set_transfer(qmp: &Qmp, on: &[&'static str]) -> Result<(), MonitorError> {
    const USED: [&str; 8] = [
        "events",
        "mapped-ram",
        "x-ignore-shared",
        "background-snapshot",
        "pause-before-switchover",
        "return-path",
        "late-block-activate",
        "auto-converge",
    ];
    let state = |capability| MigrationCapability { capability, state: on.contains(&capability) };
    let capabilities = USED.into_iter().map(state).collect();
    qmp.execute(MigrateSetCapabilities { capabilities }).await?;
    let fast = MigrateSetParameters { max_bandwidth: Some(1 << 50), ..Default::default() };
    qmp.execute(fast).await?;
    Ok(())
}

pub(crate) async fn transferred(
    qmp: &Qmp,
    events: &mut Events,
    within: Duration,
) -> Result<(), MonitorError> {
    let end = events.wait_for(within, |event| match event {
        Event::Migration(migration) => match migration.status {
            MigrationStatus::Completed => Some(true),
            MigrationStatus::Failed | MigrationStatus::Cancelled => Some(false),
            _ => None,
        },
        _ => None,
    });
    match end.await {
        Ok(true) => return Ok(()),
        Ok(false) | Err(EventsError::Lagged { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let info = qmp.execute(QueryMigrate).await?;
    match info.status {
        Some(MigrationStatus::Completed) => Ok(()),
        status => Err(MonitorError::Transfer(
            info.error_desc.unwrap_or_else(|| format!("it ended as {status:?}")),
        )),
    }
}

/// A picture of the screen, as PNG.
///
/// # Errors
/// See [`MonitorError`].
pub async fn screenshot(qmp: &Qmp) -> Result<Vec<u8>, MonitorError> {
    // In memory; QEMU wants a descriptor that cannot be read, so it gets a second one.
    let memory = rustix::fs::memfd_create("screenshot", MemfdFlags::CLOEXEC).map_err(file_error)?;
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&memory.as_fd()));
    let writer = rustix::fs::open(path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(file_error)?;
    let set = add_file(qmp, writer).await?;
    let filename = format!("/dev/fdset/{}", set.fdset_id);
    let dump = Screendump { filename, format: ImageFormat::Png, device: None };
    let dumped = qmp.execute(dump).await;
    let _ = qmp.execute(RemoveFd { fdset_id: set.fdset_id, fd: None }).await;
    dumped?;

    let file = File::from(memory);
    let length = file.metadata().map_err(MonitorError::File)?.len();
    if length > MAX_PICTURE {
        return Err(MonitorError::Picture(length));
    }
    let mut picture = Vec::new();
    // The offset is QEMU's own; ours is at the beginning. A second bound, as the file may grow.
    io::Read::read_to_end(&mut io::Read::take(file, MAX_PICTURE), &mut picture)
        .map_err(MonitorError::File)?;
    Ok(picture)
}

pub(crate) async fn add_file(qmp: &Qmp, file: OwnedFd) -> Result<AddedFd, MonitorError> {
    Ok(qmp.execute_with_fds(AddFd::default(), vec![file]).await?)
}

pub(crate) fn fdset(set: AddedFd) -> MigrationAddress {
    MigrationAddress::File { filename: format!("/dev/fdset/{}", set.fdset_id), offset: 0 }
}

fn file_error(error: rustix::io::Errno) -> MonitorError {
    MonitorError::File(error.into())
}
