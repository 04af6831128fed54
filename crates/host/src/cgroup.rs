//! The control group of each VM: all its processes can be found, limited and ended together.
//!
//! A host has cgroup v1 (a tree per controller) or v2 (one tree); [`Cgroups::detect`] looks at the
//! mounts. On a v1 host with an empty v2 tree beside it, v1 is used, because the controllers are
//! there. Groups are `<base>/<vm-id>`, or lie in the groups of their resource pools (`layout.rs`);
//! nothing else is ever put below the base.

mod kill;
mod layout;
mod usage;
mod v1;
mod v2;

use std::fmt::Debug;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hostler_types::{ByteSize, VmId};

pub use layout::{Layout, PoolGroup, VmGroup};
pub use usage::Usage;

use layout::Places;
use v1::V1;
use v2::V2;

/// The cgroups of this host's VMs. Clones are the same.
#[derive(Debug, Clone)]
pub struct Cgroups {
    backend: Arc<dyn Backend>,
    places: Arc<Mutex<Places>>,
}

/// What a VM may use of the host's CPUs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuLimits {
    /// Weight against other VMs when CPUs are scarce; 1024 is normal, 2 to 262144.
    pub shares: Option<u32>,
    /// The most CPU time, in thousandths of a CPU; `None`: no limit.
    pub limit_millicpus: Option<u32>,
}

/// What a pool or VM may use beside its siblings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Weight against its siblings when CPUs are scarce; 1024 is normal, 2 to 262144.
    pub cpu_weight: u32,
    /// The most CPU time, in thousandths of a CPU, 10 or more; `None`: no limit of its own.
    pub cpu_limit_millicpus: Option<u32>,
    /// Memory that is never taken from it (v2 only).
    pub memory_min: ByteSize,
    /// Memory that is taken from it only when nobody has more than this: where the host gets memory
    /// back first is where more is held.
    pub memory_low: ByteSize,
}

impl Default for Share {
    fn default() -> Self {
        Self {
            cpu_weight: 1024,
            cpu_limit_millicpus: None,
            memory_min: ByteSize(0),
            memory_low: ByteSize(0),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    #[error("this host has neither cgroup v1 nor v2 mounted below /sys/fs/cgroup")]
    NotMounted,
    #[error("processes of the group {} are still there {} s after they were killed", .group.display(), .timeout.as_secs())]
    StillAlive { group: PathBuf, timeout: Duration },
    #[error("cannot {action} {}", .path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
}

/// What differs between v1 and v2.
trait Backend: Debug + Send + Sync {
    fn version(&self) -> u8;
    /// The file of a directory by which a process with a single thread joins by itself.
    fn join_file(&self) -> &'static str;
    /// The group's directories: one per tree.
    fn directories(&self, group: &str) -> Vec<PathBuf>;
    /// Makes what is above the groups, and hands the controllers down.
    fn prepare(&self) -> Result<(), CgroupError>;
    /// Stops new processes from appearing while the group is killed, or kills it outright.
    fn freeze(&self, group: &str) -> Result<(), CgroupError>;
    /// Lets killed processes run into their death.
    fn thaw(&self, group: &str) -> Result<(), CgroupError>;
    fn set_cpu(&self, group: &str, limits: CpuLimits) -> Result<(), CgroupError>;
    fn set_memory(&self, group: &str, limit: Option<ByteSize>) -> Result<(), CgroupError>;
    /// What a pool or VM may use beside its siblings.
    fn set_share(&self, group: &str, share: &Share) -> Result<(), CgroupError>;
    /// Keeps memory for all groups together.
    fn protect(&self, promised: &Share) -> Result<(), CgroupError>;
    /// Lets a pool have groups with limits in it.
    fn hand_down(&self, group: &str) -> Result<(), CgroupError>;
    /// Limits a group to what another one is limited to.
    fn carry_over(&self, from: &str, to: &str) -> Result<(), CgroupError>;
    /// CPU time and memory; none if there is no group.
    fn usage(&self, group: &str) -> Option<Usage>;
}

impl Cgroups {
    /// Chooses by what is mounted.
    ///
    /// # Errors
    /// Nothing is, or it cannot be read.
    pub fn detect() -> Result<Self, CgroupError> {
        let mounts = Path::new("/proc/self/mountinfo");
        let mountinfo = fs::read_to_string(mounts).doing("read", mounts)?;
        if let Some(v1) = V1::from_mounts(&mountinfo) {
            return Ok(Self { backend: Arc::new(v1), places: Arc::default() });
        }
        let own = Path::new("/proc/self/cgroup");
        let own_group = fs::read_to_string(own).doing("read", own)?;
        let root = v2::mount_point(&mountinfo).ok_or(CgroupError::NotMounted)?;
        let backend = Arc::new(V2::new(&root, &own_group));
        Ok(Self { backend, places: Arc::default() })
    }

    /// 1 or 2.
    pub fn version(&self) -> u8 {
        self.backend.version()
    }

    /// Makes the group of a VM; it may be there already.
    ///
    /// # Errors
    /// The tree cannot be written.
    pub fn create(&self, vm: VmId) -> Result<(), CgroupError> {
        self.backend.prepare()?;
        let group = self.group_of(vm);
        match self.make(&group) {
            // Its pool has gone meanwhile; it is put where it belongs at the next arrangement.
            Err(CgroupError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                self.make(&vm.to_string())
            }
            made => made,
        }
    }

    /// Files into which a new process writes `0` before it becomes QEMU: one per tree. They must
    /// be opened here, because the new process has no rights to. It has a single thread at that time.
    ///
    /// # Errors
    /// The group does not exist.
    pub fn join_files(&self, vm: VmId) -> Result<Vec<OwnedFd>, CgroupError> {
        let open = |directory: PathBuf| {
            let path = directory.join(self.backend.join_file());
            let file = OpenOptions::new().write(true).open(&path).doing("open", &path)?;
            Ok(OwnedFd::from(file))
        };
        self.directories(vm).into_iter().map(open).collect()
    }

    /// The processes in the group, none when there is no group.
    ///
    /// # Errors
    /// The tree cannot be read.
    pub fn pids(&self, vm: VmId) -> Result<Vec<i32>, CgroupError> {
        let mut pids = Vec::new();
        for directory in self.directories(vm) {
            pids.extend(kill::pids_in(&directory)?);
        }
        pids.sort_unstable();
        pids.dedup();
        Ok(pids)
    }

    /// The VMs that have a group, sorted; the agent looks here for guests it has no record of.
    ///
    /// # Errors
    /// The tree cannot be read.
    pub fn list(&self) -> Result<Vec<VmId>, CgroupError> {
        for base in self.backend.directories("") {
            match fs::read_dir(&base) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                readable => drop(readable.doing("list", &base)?),
            }
        }
        let groups = self.walk();
        let names = groups.iter().filter_map(|group| group.rsplit('/').next());
        let mut vms: Vec<VmId> = names.filter_map(|name| name.parse().ok()).collect();
        vms.sort();
        vms.dedup();
        Ok(vms)
    }

    /// Sets what the VM may use of the CPUs.
    ///
    /// # Errors
    /// There is no group or no cpu controller.
    pub fn set_cpu(&self, vm: VmId, limits: CpuLimits) -> Result<(), CgroupError> {
        self.backend.set_cpu(&self.group_of(vm), limits)
    }

    /// Sets the most memory that all the VM's processes may use together.
    ///
    /// # Errors
    /// There is no group or no memory controller.
    pub fn set_memory(&self, vm: VmId, limit: Option<ByteSize>) -> Result<(), CgroupError> {
        self.backend.set_memory(&self.group_of(vm), limit)
    }

    /// Kills every process of the group and removes it. That there is no group is as good. Blocks
    /// until the processes have ended, at most `timeout`.
    ///
    /// # Errors
    /// [`CgroupError::StillAlive`] for a process that hangs in the kernel.
    pub fn kill(&self, vm: VmId, timeout: Duration) -> Result<(), CgroupError> {
        let group = self.group_of(vm);
        let directories = self.backend.directories(&group);
        if !directories.iter().any(|directory| directory.exists()) {
            return Ok(());
        }
        self.backend.freeze(&group)?;
        let killed = kill::kill_all(&directories);
        // Also after a failure: a frozen process would never end.
        self.backend.thaw(&group)?;
        kill::wait_until_empty(&directories, killed?, timeout)?;
        directories.iter().try_for_each(|directory| kill::remove(directory))?;
        self.forget(vm);
        Ok(())
    }

    fn directories(&self, vm: VmId) -> Vec<PathBuf> {
        self.backend.directories(&self.group_of(vm))
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn make_directory(path: &Path) -> Result<(), CgroupError> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result.doing("make the group", path),
    }
}

/// Writes one setting. The kernel takes each in a single write.
fn write(path: &Path, value: &str) -> Result<(), CgroupError> {
    fs::write(path, value).doing("write", path)
}

trait Context<T> {
    fn doing(self, action: &'static str, path: &Path) -> Result<T, CgroupError>;
}
impl<T> Context<T> for io::Result<T> {
    fn doing(self, action: &'static str, path: &Path) -> Result<T, CgroupError> {
        self.map_err(|source| CgroupError::Io { action, path: path.to_owned(), source })
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A shell that joins the group, and only then makes children.
    fn member(cgroups: &Cgroups, vm: VmId) -> Child {
        let script = "read line; sleep 1000 & sleep 1000 & echo ready; wait";
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        for file in cgroups.join_files(vm).unwrap() {
            write!(fs::File::from(file), "{}", child.id()).unwrap();
        }
        writeln!(child.stdin.take().unwrap(), "go").unwrap();
        child.stdout.take().unwrap().read_exact(&mut [0; 6]).unwrap();
        child
    }

    pub(super) fn live_and_die(cgroups: &Cgroups) {
        let vm = VmId::generate();
        let timeout = Duration::from_secs(10);
        cgroups.kill(vm, timeout).unwrap();
        cgroups.create(vm).unwrap();
        cgroups.create(vm).unwrap();
        assert!(cgroups.list().unwrap().contains(&vm));
        let mut child = member(cgroups, vm);
        assert!(cgroups.pids(vm).unwrap().contains(&child.id().cast_signed()));
        cgroups.kill(vm, timeout).unwrap();
        assert_eq!(child.wait().unwrap().signal(), Some(9));
        assert!(cgroups.pids(vm).unwrap().is_empty());
        assert!(!cgroups.list().unwrap().contains(&vm));
        cgroups.kill(vm, timeout).unwrap();
    }

    #[test]
    fn a_group_is_made_joined_killed_and_removed() {
        live_and_die(&Cgroups::detect().unwrap());
    }

    #[test]
    fn limits_are_taken_by_the_kernel() {
        let cgroups = Cgroups::detect().unwrap();
        let vm = VmId::generate();
        cgroups.create(vm).unwrap();
        let limits = CpuLimits { shares: Some(512), limit_millicpus: Some(500) };
        cgroups.set_cpu(vm, limits).unwrap();
        cgroups.set_memory(vm, Some(ByteSize::mib(64))).unwrap();
        cgroups.set_cpu(vm, CpuLimits::default()).unwrap();
        cgroups.set_memory(vm, None).unwrap();
        cgroups.kill(vm, Duration::from_secs(1)).unwrap();
        assert!(cgroups.set_memory(vm, None).is_err());
    }
}
