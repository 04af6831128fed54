//! Other machines go on from where one is: instant clones.
//!
//! ```text
//!  old machine   runs ── hand over ───────────────────────────── its end
//!                          │ devices: a stream      memory: stays where it is, read-only
//!  its successor           ├── runs                 mapped privately, copied on write
//!  each clone              └── load ── runs
//! ```
//!
//! Nothing is copied at the fork, however large the machine is: all that follow map the same frozen
//! file, so the one that was frozen must never write to it again. That is why the guest itself goes
//! on in a successor. Until the successor runs, [`thaw`] takes everything back.
//!
//! A successor's memory is no file, so it cannot be frozen; [`move_live`] brings it, while it runs,
//! into a machine with a fresh file.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    time::{Duration, SystemTime},
};

use hostler_qmp::{
    Qmp,
    command::{
        BlockdevSetActive, Getfd, Migrate, MigrateCancel, MigrateIncoming, MigrateSetParameters,
        MigrationAddress, RemoveFd, SocketAddress,
    },
    event::Event,
};
use hostler_types::ByteSize;
use rustix::fs::{MemfdFlags, Mode, OFlags};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    process::Process,
    vm::{MonitorError, add_file, fdset, go_on, set_transfer, transferred},
};

/// How a process's own descriptors name the memory's file.
const MEMORY: &str = "hostler-guest";

/// The descriptor for a live move, as both monitors call it.
const MOVE: &str = "move";

/// How long a guest that moves may stand still, in milliseconds; QEMU's default is 300.
const STANDSTILL: u64 = 20;

/// The same when only its screen's memory is moved: a guest that keeps painting all of it is to be
/// stopped, too.
const SHORT: u64 = 100;

/// A file for a guest's memory, for `uid` alone. Nothing is left of it when its last user ends.
///
/// # Errors
/// No memory, or no right to give it away.
pub fn memory_file(size: ByteSize, uid: Option<u32>) -> io::Result<OwnedFd> {
    let file = rustix::fs::memfd_create(MEMORY, MemfdFlags::CLOEXEC)?;
    rustix::fs::ftruncate(&file, size.bytes())?;
    rustix::fs::fchmod(&file, Mode::from_raw_mode(0o600))?;
    if let Some(uid) = uid {
        std::os::unix::fs::fchown(&file, Some(uid), None)?;
    }
    Ok(file)
}

/// The file of a running machine's memory, to be read only. Afterwards nobody but root can open it
/// for writing any more; the machine itself, which has it open, goes on.
///
/// # Errors
/// [`io::ErrorKind::NotFound`] if its memory lies in no file.
pub fn freeze_memory_file(process: &Process) -> io::Result<OwnedFd> {
    let name = format!("/memfd:{MEMORY} (deleted)");
    for fd in descriptors(process)? {
        // Looked at when it is ours, so that it cannot become another in between.
        let Ok(file) = process.share_fd(fd) else { continue };
        let link = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
        if link.is_ok_and(|link| link.as_os_str() == name.as_str()) {
            let file = reopen(&file, OFlags::RDONLY)?;
            std::os::unix::fs::fchown(&file, Some(0), Some(0))?;
            rustix::fs::fchmod(&file, Mode::from_raw_mode(0o444))?;
            return Ok(file);
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, "the machine's memory lies in no file"))
}

/// The open tap devices of a machine, by their names. They are shared with it, so that who takes
/// its place need not open them, which only one can.
///
/// # Errors
/// It has ended, or we may not look.
pub fn share_taps(process: &Process) -> io::Result<BTreeMap<String, OwnedFd>> {
    let mut taps = BTreeMap::new();
    for fd in descriptors(process)? {
        let Ok(file) = process.share_fd(fd) else { continue };
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()));
        let info = info.unwrap_or_default();
        if let Some(name) = info.lines().find_map(|line| line.strip_prefix("iff:")) {
            taps.insert(name.trim().to_owned(), file);
        }
    }
    Ok(taps)
}

/// Makes a machine ready for [`hand_over`] or [`load`], so that it takes no time then.
///
/// # Errors
/// See [`MonitorError`].
pub async fn prepare(qmp: &Qmp) -> Result<(), MonitorError> {
    set_transfer(qmp, &["events", "x-ignore-shared"]).await
}

/// Takes files into use that nobody writes to any more, by the nodes of their layers, so that a machine
/// which goes on later need not look at them again while its guest stands still. A QEMU before 10.0
/// cannot, and then does look.
pub async fn open_settled(qmp: &Qmp, nodes: impl Iterator<Item = String>) {
    for node_name in nodes {
        let open = BlockdevSetActive { node_name, active: true };
        if let Err(error) = qmp.execute(open).await {
            tracing::debug!(error = &error as &dyn std::error::Error, "a layer is opened later");
        }
    }
}

/// Stops a guest and brings its devices, but not its memory, into a machine started with
/// [`Start::Fork`](crate::Start::Fork) on the same memory. That stands still then, with everything of
/// the old one, which has let go of its disks and must not run again, unless by [`thaw`].
///
/// It is a live move as of any machine: what is not the guest's memory but large all the same, that of
/// its screen first of all, goes over while the guest runs. `written` gets all of it, for [`load`], as
/// soon as the old machine has said it and while the new one still loads it. Returns since when the guest
/// stands still.
///
/// # Errors
/// See [`MonitorError`]. The old machine is then to be thawed, the new one to be ended.
pub async fn hand_over(
    from: &Qmp,
    to: &Qmp,
    within: Duration,
    written: impl FnOnce(OwnedFd),
) -> Result<SystemTime, MonitorError> {
    let (old_end, read) = UnixStream::pair().map_err(MonitorError::File)?;
    let (write, new_end) = UnixStream::pair().map_err(MonitorError::File)?;
    let still = MigrateSetParameters { downtime_limit: Some(SHORT), ..Default::default() };
    from.execute(still).await?;
    to.execute_with_fds(Getfd { fdname: MOVE.to_owned() }, vec![new_end.into()]).await?;
    from.execute_with_fds(Getfd { fdname: MOVE.to_owned() }, vec![old_end.into()]).await?;
    let (mut sent, mut received, mut stops) = (from.subscribe(), to.subscribe(), from.subscribe());
    to.execute(MigrateIncoming::from(moving())).await?;
    from.execute(Migrate::to(moving())).await?;
    let moved = async {
        transferred(from, &mut sent, within).await?;
        transferred(to, &mut received, within).await
    };
    let copied = async {
        written(pass_on(read, write).await.map_err(MonitorError::File)?);
        Ok(())
    };
    tokio::try_join!(copied, moved)?;
    loop {
        let event = stops.recv().await?;
        if event.event == Event::Stop {
            return Ok(event.timestamp.to_system_time().unwrap_or_else(SystemTime::now));
        }
    }
}

/// Passes on what one machine says to another, and keeps it in a file.
async fn pass_on(from: UnixStream, to: UnixStream) -> io::Result<OwnedFd> {
    const BYTES: usize = 256 << 10;
    let stream = |stream: UnixStream| {
        stream.set_nonblocking(true)?;
        tokio::net::UnixStream::from_std(stream)
    };
    let (mut from, mut to) = (stream(from)?, stream(to)?);
    let mut file = File::from(rustix::fs::memfd_create("hostler-devices", MemfdFlags::CLOEXEC)?);
    let mut bytes = vec![0; BYTES];
    loop {
        let read = from.read(&mut bytes).await?;
        if read == 0 {
            return Ok(file.into());
        }
        to.write_all(&bytes[..read]).await?;
        file.write_all(&bytes[..read])?;
    }
}

/// Lets a machine go on as if it had never been frozen. Another one that has loaded what it wrote
/// has its disks, so that must have ended.
///
/// # Errors
/// See [`MonitorError`].
pub async fn thaw(qmp: &Qmp) -> Result<(), MonitorError> {
    let _ = qmp.execute(MigrateCancel).await;
    finish(qmp).await;
    go_on(qmp).await
}

/// Once a machine that was forked runs: what it was told for that would spoil what it may be asked
/// later.
pub async fn finish(qmp: &Qmp) {
    if let Err(error) = set_transfer(qmp, &["events"]).await {
        tracing::warn!(error = &error as &dyn std::error::Error, "a fork's settings stay");
    }
}

/// Loads what [`hand_over`] has left into a machine started with
/// [`Start::Fork`](crate::Start::Fork) on the same memory. It stands still then, with everything of
/// the old one.
///
/// # Errors
/// See [`MonitorError`]. The machine is then to be ended.
pub async fn load(qmp: &Qmp, state: &OwnedFd, within: Duration) -> Result<(), MonitorError> {
    let reader = reopen(state, OFlags::RDONLY).map_err(MonitorError::File)?;
    let set = add_file(qmp, reader).await?;
    let mut events = qmp.subscribe();
    qmp.execute_within(MigrateIncoming::from(fdset(set)), within).await?;
    let loaded = transferred(qmp, &mut events, within).await;
    let _ = qmp.execute(RemoveFd { fdset_id: set.fdset_id, fd: None }).await;
    loaded
}

/// Moves a running guest with all its memory into a machine started with
/// [`Start::Fork`](crate::Start::Fork). The guest runs on until the last moment; then the old
/// machine is and the new one as after [`hand_over`].
///
/// # Errors
/// See [`MonitorError`]. The old machine is then to be thawed, the new one to be ended.
pub async fn move_live(from: &Qmp, to: &Qmp, within: Duration) -> Result<(), MonitorError> {
    let (near, far) = UnixStream::pair().map_err(MonitorError::File)?;
    for qmp in [from, to] {
        set_transfer(qmp, &["events"]).await?;
    }
    let still = MigrateSetParameters { downtime_limit: Some(STANDSTILL), ..Default::default() };
    from.execute(still).await?;
    to.execute_with_fds(Getfd { fdname: MOVE.to_owned() }, vec![far.into()]).await?;
    from.execute_with_fds(Getfd { fdname: MOVE.to_owned() }, vec![near.into()]).await?;
    let (mut sent, mut received) = (from.subscribe(), to.subscribe());
    to.execute(MigrateIncoming::from(moving())).await?;
    from.execute(Migrate::to(moving())).await?;
    transferred(from, &mut sent, within).await?;
    transferred(to, &mut received, within).await
}

/// The descriptor [`MOVE`].
fn moving() -> MigrationAddress {
    MigrationAddress::Socket(SocketAddress::Fd { str: MOVE.to_owned() })
}

/// Another handle on a file without a name, with its own position.
fn reopen(file: &OwnedFd, mode: OFlags) -> io::Result<OwnedFd> {
    let path = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    Ok(rustix::fs::open(path, mode | OFlags::CLOEXEC, Mode::empty())?)
}

fn descriptors(process: &Process) -> io::Result<Vec<RawFd>> {
    let entries = std::fs::read_dir(format!("/proc/{}/fd", process.pid()))?;
    let number = |entry: std::fs::DirEntry| entry.file_name().to_str()?.parse().ok();
    Ok(entries.flatten().filter_map(number).collect())
}

#[cfg(test)]
mod tests {
    use hostler_qmp::Options;
    use serde_json::{Value, json};
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};

    use super::*;

    /// A machine whose migration needs so many looks to be over; whether it went on.
    async fn ending_migration(stream: tokio::net::UnixStream, mut looks: u32) -> bool {
        let (read, mut write) = stream.into_split();
        let version = json!({"qemu": {"major": 10, "minor": 0, "micro": 2}, "package": ""});
        let greeting = json!({"QMP": {"version": version, "capabilities": ["oob"]}});
        write.write_all(format!("{greeting}\n").as_bytes()).await.unwrap();
        let mut lines = BufReader::new(read).lines();
        let mut runs = false;
        while let Ok(Some(line)) = lines.next_line().await {
            let command: Value = serde_json::from_str(&line).unwrap();
            let refused = json!({"class": "GenericError", "desc": "not now"});
            let (key, answer) = match command["execute"].as_str() {
                Some("query-status") => {
                    looks = looks.saturating_sub(1);
                    let status = if looks > 0 { "finish-migrate" } else { "postmigrate" };
                    ("return", json!({"status": status, "running": false}))
                }
                Some("cont") if looks > 0 => ("error", refused),
                Some("cont") => {
                    runs = true;
                    ("return", json!({}))
                }
                _ => ("return", json!({})),
            };
            let answer = json!({key: answer, "id": command["id"]});
            write.write_all(format!("{answer}\n").as_bytes()).await.unwrap();
        }
        runs
    }

    #[tokio::test]
    async fn a_machine_goes_on_when_its_migration_is_over_and_not_before() {
        let (ours, theirs) = tokio::net::UnixStream::pair().unwrap();
        let machine = tokio::spawn(ending_migration(theirs, 3));
        let (qmp, events) = Qmp::connect(ours, Options::default()).await.unwrap();
        thaw(&qmp).await.unwrap();
        drop((qmp, events));
        assert!(machine.await.unwrap());
    }
}
