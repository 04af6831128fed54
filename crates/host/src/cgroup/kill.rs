//! Ending all processes of a group, and knowing when they have ended.
//!
//! The end of each is learned from its pidfd. A second look at the group follows, because between
//! reading the list and killing, a process may have made another (v2 kills the whole group at once,
//! v1 freezes it first, so in practice one look is enough).

use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::{CgroupError, Context};

/// The processes in one directory; none when it is not there.
pub(super) fn pids_in(directory: &Path) -> Result<Vec<i32>, CgroupError> {
    let path = directory.join("cgroup.procs");
    match fs::read_to_string(&path) {
        Ok(text) => Ok(text.lines().filter_map(|line| line.parse().ok()).collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        // The group was removed while it was read.
        Err(error) if error.raw_os_error() == Some(Errno::NODEV.raw_os_error()) => Ok(Vec::new()),
        Err(source) => Err(CgroupError::Io { action: "read", path, source }),
    }
}

/// Sends SIGKILL to all, and returns handles to wait for them with.
pub(super) fn kill_all(directories: &[PathBuf]) -> Result<Vec<OwnedFd>, CgroupError> {
    let mut handles = Vec::new();
    for directory in directories {
        for pid in pids_in(directory)? {
            // A pid of 0 is a process of another pid namespace: not ours to see.
            let Some(pid) = Pid::from_raw(pid) else { continue };
            let killed = pidfd_open(pid, PidfdFlags::empty()).and_then(|handle| {
                pidfd_send_signal(handle.as_fd(), Signal::KILL)?;
                Ok(handle)
            });
            match killed {
                Ok(handle) => handles.push(handle),
                Err(Errno::SRCH) => {}
                Err(error) => return Err(error.into()).doing("kill the processes of", directory),
            }
        }
    }
    Ok(handles)
}

pub(super) fn wait_until_empty(
    directories: &[PathBuf],
    mut handles: Vec<OwnedFd>,
    timeout: Duration,
) -> Result<(), CgroupError> {
    let deadline = Instant::now() + timeout;
    loop {
        for handle in &handles {
            wait_for_exit(handle, deadline, directories, timeout)?;
        }
        handles = kill_all(directories)?;
        if handles.is_empty() {
            return Ok(());
        }
    }
}

fn wait_for_exit(
    handle: &OwnedFd,
    deadline: Instant,
    directories: &[PathBuf],
    timeout: Duration,
) -> Result<(), CgroupError> {
    let group = directories.first().cloned().unwrap_or_default();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let left = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 0, tv_nsec: 0 });
        match poll(&mut [PollFd::new(handle, PollFlags::IN)], Some(&left)) {
            Ok(0) => return Err(CgroupError::StillAlive { group, timeout }),
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()).doing("wait for the processes of", &group),
        }
    }
}

/// Removes an empty group. The kernel may count a process whose end it has announced for another
/// instant, and offers no event for that: so a bounded number of tries.
pub(super) fn remove(directory: &Path) -> Result<(), CgroupError> {
    const TRIES: u32 = 200;
    for attempt in 1..=TRIES {
        match fs::remove_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy && attempt < TRIES => {
                std::thread::sleep(Duration::from_millis(5));
            }
            result => return result.doing("remove the group", directory),
        }
    }
    Ok(())
}
