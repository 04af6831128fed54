//! A process that may outlive its starter: found again by its pid and start time, watched by a
//! pidfd.
//!
//! A zombie counts as ended: its parent may be an init that reaps it seconds later.

use std::{
    fs, io,
    os::fd::{AsFd, OwnedFd, RawFd},
    process::Child,
    sync::{Arc, Mutex, PoisonError},
};

use rustix::process::{
    Pid, PidfdFlags, PidfdGetfdFlags, Signal, WaitId, WaitIdOptions, pidfd_getfd, pidfd_open,
    pidfd_send_signal, waitid,
};
use thiserror::Error;
use tokio::io::{Interest, unix::AsyncFd};

/// What goes wrong in watching a process.
#[derive(Debug, Error)]
pub enum ProcessError {
    /// The number is no pid.
    #[error("{0} is no process id")]
    BadPid(u32),
    /// The kernel gives no handle on it.
    #[error("cannot watch process {pid}")]
    Watch {
        /// The process.
        pid: u32,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// `/proc` does not tell about it.
    #[error("cannot read /proc/{pid}/stat")]
    Stat {
        /// The process.
        pid: u32,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// It cannot be signalled.
    #[error("cannot kill process {pid}")]
    Kill {
        /// The process.
        pid: u32,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
}

/// A running, or ended, process. Clones are the same process.
#[derive(Debug, Clone)]
pub struct Process {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    pid: u32,
    start_time: u64,
    pidfd: AsyncFd<OwnedFd>,
    /// Filled by whoever reaps it.
    exit: Mutex<Option<Exit>>,
}

/// How a process ended, as far as it can be known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this code.
    Code(i32),
    /// By this signal.
    Signal(i32),
    /// It was not our child.
    Unknown,
}

impl Process {
    /// Takes a child over, which this process then reaps once it has ended.
    pub(crate) fn of_child(child: &Child) -> Result<Self, ProcessError> {
        // A child is not reaped before somebody waits for it, so its pid cannot be another's.
        let pid = child.id();
        let pidfd = open(pid)?;
        let start_time = stat(pid)?.map_or(0, |stat| stat.start_time);
        Self::new(pid, start_time, pidfd)
    }

    /// Finds a process again. `None` if it has ended, whoever has its pid now.
    ///
    /// # Errors
    /// If the kernel does not let us look.
    pub fn attach(pid: u32, start_time: u64) -> Result<Option<Self>, ProcessError> {
        // The handle comes first: if the start time is right after that, the handle is of the
        // process we look for, and stays so.
        let pidfd = match open(pid) {
            Ok(pidfd) => pidfd,
            Err(ProcessError::Watch { source, .. })
                if source.raw_os_error() == Some(libc::ESRCH) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        match stat(pid)? {
            Some(stat) if stat.start_time == start_time && !stat.ended => {
                Self::new(pid, start_time, pidfd).map(Some)
            }
            Some(_) | None => Ok(None),
        }
    }

    #[expect(unsafe_code, reason = "tokio asks for a promise about the descriptor")]
    fn new(pid: u32, start_time: u64, pidfd: OwnedFd) -> Result<Self, ProcessError> {
        // SAFETY: the descriptor is owned by the `AsyncFd` from here on, and nobody replaces or
        // closes it.
        let pidfd = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) }
            .map_err(|error| ProcessError::Watch { pid, source: error.into() })?;
        Ok(Self { inner: Arc::new(Inner { pid, start_time, pidfd, exit: Mutex::default() }) })
    }

    /// Its number.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.inner.pid
    }

    /// When it started, in clock ticks since the host's boot. With the pid it names the process
    /// for [`Process::attach`], until the host boots again.
    #[must_use]
    pub fn start_time(&self) -> u64 {
        self.inner.start_time
    }

    /// Waits until it has ended, and reaps it if it is our child. Cancel safe; any number may
    /// wait.
    pub async fn exited(&self) -> Exit {
        // A pidfd becomes readable when the process ends and stays so; an error of epoll's would
        // be a bug in the runtime, and then the answer of `waitid` is the best there is.
        let _ = self.inner.pidfd.readable().await;
        self.reap().unwrap_or(Exit::Unknown)
    }

    /// How it ended, without waiting. `None` if it runs.
    #[must_use]
    pub fn try_exited(&self) -> Option<Exit> {
        match self.reap() {
            Some(exit) => Some(exit),
            None => match stat(self.inner.pid) {
                Ok(Some(stat)) if stat.start_time == self.inner.start_time && !stat.ended => None,
                Ok(_) | Err(_) => Some(Exit::Unknown),
            },
        }
    }

    /// Kills it. Success if it has ended already.
    ///
    /// # Errors
    /// If we may not.
    pub fn kill(&self) -> Result<(), ProcessError> {
        let pid = self.inner.pid;
        match pidfd_send_signal(&self.inner.pidfd, Signal::KILL) {
            Ok(()) | Err(rustix::io::Errno::SRCH) => Ok(()),
            Err(error) => Err(ProcessError::Kill { pid, source: error.into() }),
        }
    }

    /// A descriptor of its own, shared with it. Needs the right to trace it.
    ///
    /// # Errors
    /// It has no such descriptor, or has ended.
    pub fn share_fd(&self, number: RawFd) -> io::Result<OwnedFd> {
        Ok(pidfd_getfd(&self.inner.pidfd, number, PidfdGetfdFlags::empty())?)
    }

    /// `None` if it runs, or is not our child.
    fn reap(&self) -> Option<Exit> {
        let mut known = self.inner.exit.lock().unwrap_or_else(PoisonError::into_inner);
        if known.is_none() {
            let id = WaitId::PidFd(self.inner.pidfd.as_fd());
            let status = waitid(id, WaitIdOptions::EXITED | WaitIdOptions::NOHANG).ok()??;
            *known = Some(match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Exit::Code(code),
                (None, Some(signal)) => Exit::Signal(signal),
                (None, None) => Exit::Unknown,
            });
        }
        *known
    }
}

/// A running process' start time, for [`Process::attach`]. `None` if there is none of that pid.
///
/// # Errors
/// If `/proc` cannot be read.
pub fn start_time(pid: u32) -> Result<Option<u64>, ProcessError> {
    Ok(stat(pid)?.filter(|stat| !stat.ended).map(|stat| stat.start_time))
}

fn open(pid: u32) -> Result<OwnedFd, ProcessError> {
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(ProcessError::BadPid(pid))?;
    pidfd_open(raw, PidfdFlags::NONBLOCK)
        .map_err(|error| ProcessError::Watch { pid, source: error.into() })
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    start_time: u64,
    /// A zombie, or about to be none.
    ended: bool,
}

fn stat(pid: u32) -> Result<Option<Stat>, ProcessError> {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(text) => Ok(parse_stat(&text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        // The process ended while its file was being read.
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(None),
        Err(source) => Err(ProcessError::Stat { pid, source }),
    }
}

/// The program's name is in parentheses and may itself hold some, so the fields are counted from
/// the last one: the state is the first after it, the start time the twentieth.
fn parse_stat(text: &str) -> Option<Stat> {
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace();
    let ended = matches!(fields.next()?, "Z" | "X" | "x");
    let start_time = fields.nth(18)?.parse().ok()?;
    Some(Stat { start_time, ended })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_may_have_any_name() {
        let line = |name: &str, state: &str| {
            format!("7 ({name}) {state} 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 9 9")
        };
        for name in ["qemu", "a b", ") S 1 2 (", "()"] {
            let expected = Stat { start_time: 4711, ended: false };
            assert_eq!(parse_stat(&line(name, "S")), Some(expected), "{name}");
        }
        assert!(parse_stat(&line("x", "Z")).unwrap().ended);
        assert_eq!(parse_stat(""), None);
        assert_eq!(parse_stat("7 (x) S 1"), None);
    }
}
