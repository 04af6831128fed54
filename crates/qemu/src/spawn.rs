//! Starts QEMU as a process of its own: not a child to be looked after, but something that goes on
//! when this process ends.
//!
//! Between `fork` and `exec` only system calls are made and no memory is allocated: another thread
//! may have held the allocator's lock at the fork.

use std::{
    ffi::OsString,
    fs::File,
    io,
    os::{
        fd::{AsRawFd, OwnedFd, RawFd},
        unix::process::CommandExt,
    },
    path::PathBuf,
    process::{Command, Stdio},
};

use rustix::{
    process::{Pid, Resource, Rlimit, Signal, getppid, set_parent_process_death_signal},
    thread::{Gid, Uid},
};
use thiserror::Error;

use crate::process::{Process, ProcessError};

/// Descriptors that QEMU gets are kept above this, out of the way of those that come and go.
const LOWEST_FD: RawFd = 64;

/// A descriptor's number within the process to be started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChildFd(RawFd);

impl ChildFd {
    /// A number, for command lines that are not run.
    #[must_use]
    pub const fn from_number(number: RawFd) -> Self {
        Self(number)
    }

    /// The number.
    #[must_use]
    pub const fn number(self) -> RawFd {
        self.0
    }
}

/// The descriptors that the process shall have beside the standard ones. Each keeps the number it
/// has here, so none can be put over another.
#[derive(Debug, Default)]
pub struct InheritedFds(Vec<OwnedFd>);

impl InheritedFds {
    /// Adds one. It stays close-on-exec here, so that no other process gets it.
    ///
    /// # Errors
    /// If this process has too many open.
    pub fn add(&mut self, fd: impl Into<OwnedFd>) -> io::Result<ChildFd> {
        let fd = rustix::io::fcntl_dupfd_cloexec(fd.into(), LOWEST_FD)?;
        let number = ChildFd(fd.as_raw_fd());
        self.0.push(fd);
        Ok(number)
    }
}

/// As whom a process runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Credentials {
    /// As this process: for tests without root.
    Inherit,
    /// As a user of its own, which cannot become another any more.
    User {
        /// The user.
        uid: u32,
        /// Its group.
        gid: u32,
        /// All its other groups.
        groups: Vec<u32>,
    },
}

/// What becomes of a process when its parent ends, however that happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lifetime {
    /// It lives on: guests outlive the software.
    Detached,
    /// The kernel kills it when the thread that started it ends.
    WithParent,
}

/// A process to be started.
#[derive(Debug)]
pub struct Spawn {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// As whom it runs.
    pub credentials: Credentials,
    /// Whether it outlives us.
    pub lifetime: Lifetime,
    /// Whether its memory may lie in transparent huge pages, where it asks for them. They are zeroed
    /// and counted whole, however little of each is used.
    pub huge_pages: bool,
    /// What it inherits.
    pub fds: InheritedFds,
    /// The files of the groups it joins, open for writing; it writes `0` into each.
    pub cgroup_files: Vec<OwnedFd>,
    /// Where its standard output and error go. Opened for appending.
    pub log: File,
}

/// Why a process was not started. Nothing is left of it.
#[derive(Debug, Error)]
pub enum SpawnError {
    /// No process could be made, or it could not become what was asked.
    #[error("cannot start {}", program.display())]
    Start {
        /// The program.
        program: PathBuf,
        /// The system's reason.
        #[source]
        source: io::Error,
    },
    /// It was started but cannot be watched, and was killed.
    #[error("cannot watch the process that was started")]
    Watch(#[source] ProcessError),
}

impl Spawn {
    /// Starts it. Blocks for the few milliseconds until it runs the program.
    ///
    /// # Errors
    /// See [`SpawnError`].
    pub fn start(self) -> Result<Process, SpawnError> {
        let Self { program, args, credentials, lifetime, huge_pages, fds, cgroup_files, log } =
            self;
        let failed = |source| SpawnError::Start { program: program.clone(), source };
        let mut command = Command::new(&program);
        command
            .args(args)
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C")
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(failed)?)
            .stderr(log);
        let prepare = Prepare::new(&credentials, lifetime, huge_pages, &fds, &cgroup_files);
        prepare.attach(&mut command);
        let mut child = command.spawn().map_err(failed)?;
        // Ours are closed once the process has its own.
        drop((fds, cgroup_files));
        Process::of_child(&child).map_err(|error| {
            // Nobody could ever stop it; reaping cannot take long after SIGKILL.
            let _ = child.kill();
            let _ = child.wait();
            SpawnError::Watch(error)
        })
    }
}

/// What the new process does before it runs the program. All memory is allocated beforehand.
struct Prepare {
    parent: Pid,
    ids: Option<Ids>,
    lifetime: Lifetime,
    huge_pages: bool,
    inherited: Vec<RawFd>,
    cgroup_files: Vec<RawFd>,
}

struct Ids {
    uid: Uid,
    gid: Gid,
    groups: Vec<Gid>,
}

impl Prepare {
    fn new(
        credentials: &Credentials,
        lifetime: Lifetime,
        huge_pages: bool,
        fds: &InheritedFds,
        cgroup_files: &[OwnedFd],
    ) -> Self {
        let ids = match credentials {
            Credentials::Inherit => None,
            Credentials::User { uid, gid, groups } => Some(Ids {
                uid: Uid::from_raw(*uid),
                gid: Gid::from_raw(*gid),
                groups: groups.iter().map(|gid| Gid::from_raw(*gid)).collect(),
            }),
        };
        let numbers = |fds: &[OwnedFd]| fds.iter().map(AsRawFd::as_raw_fd).collect();
        let parent = rustix::process::getpid();
        let (inherited, cgroup_files) = (numbers(&fds.0), numbers(cgroup_files));
        Self { parent, ids, lifetime, huge_pages, inherited, cgroup_files }
    }

    #[expect(unsafe_code, reason = "there is no safe way to act between fork and exec")]
    fn attach(self, command: &mut Command) {
        // SAFETY: `run` only makes system calls on memory and descriptors that exist already; it
        // allocates nothing, takes no lock and does not panic. The descriptors are open in the
        // child: `Spawn::start` keeps them until `spawn` has returned.
        unsafe {
            command.pre_exec(move || self.run().map_err(io::Error::from));
        }
    }

    /// The order matters: what needs root comes before the change of user.
    fn run(&self) -> rustix::io::Result<()> {
        // Who comes after us looks for it in its groups, and takes it for not there if it is in none:
        // until it is in them it ends with us.
        set_parent_process_death_signal(Some(Signal::KILL))?;
        if getppid() != Some(self.parent) {
            return Err(rustix::io::Errno::SRCH);
        }
        rustix::process::setsid()?;
        for procs in &self.cgroup_files {
            // "0" is the writer.
            rustix::io::write(borrow(*procs), b"0")?;
        }
        set_parent_process_death_signal(None)?;
        let none = Rlimit { current: Some(0), maximum: Some(0) };
        rustix::process::setrlimit(Resource::Core, none)?;
        if !self.huge_pages {
            rustix::thread::disable_transparent_huge_pages(true)?;
        }
        close_others_at_exec()?;
        for fd in &self.inherited {
            rustix::io::fcntl_setfd(borrow(*fd), rustix::io::FdFlags::empty())?;
        }
        if let Some(ids) = &self.ids {
            // The child has one thread only, so these concern the whole process. From root to
            // another user the kernel drops all capabilities.
            rustix::thread::set_thread_groups(&ids.groups)?;
            rustix::thread::set_thread_res_gid(ids.gid, ids.gid, ids.gid)?;
            rustix::thread::set_thread_res_uid(ids.uid, ids.uid, ids.uid)?;
        }
        if self.lifetime == Lifetime::WithParent {
            // A change of user would take it away again, so it comes after.
            set_parent_process_death_signal(Some(Signal::KILL))?;
        }
        rustix::thread::set_no_new_privs(true)
    }
}

#[expect(unsafe_code, reason = "a number that is known to be open")]
fn borrow(fd: RawFd) -> rustix::fd::BorrowedFd<'static> {
    // SAFETY: see `Prepare::attach`: the descriptor is open from the fork to the exec.
    unsafe { rustix::fd::BorrowedFd::borrow_raw(fd) }
}

/// Rust opens everything close-on-exec; this is for whatever else may have been opened. Marking
/// instead of closing keeps the pipe through which the standard library reports a failed exec.
#[expect(unsafe_code, reason = "rustix has no close_range")]
fn close_others_at_exec() -> rustix::io::Result<()> {
    let (first, last): (libc::c_uint, libc::c_uint) = (3, libc::c_uint::MAX);
    let flags = libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: a plain system call without pointers, which closes nothing now.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, flags) };
    if result == 0 {
        return Ok(());
    }
    // Kernels before 5.11 do not know the flag; Rust's own descriptors are marked anyway.
    match rustix::io::Errno::from_io_error(&io::Error::last_os_error()) {
        Some(rustix::io::Errno::INVAL | rustix::io::Errno::NOSYS) | None => Ok(()),
        Some(errno) => Err(errno),
    }
}
