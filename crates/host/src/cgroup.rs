//! The control group of each VM: all its processes can be found, limited and ended together.
//!
//! A host has cgroup v1 (a tree per controller) or v2 (one tree); [`Cgroups::detect`] looks at the
//! mounts. On a v1 host with an empty v2 tree beside it, v1 is used, because the controllers are
//! there. Groups are `<base>/<vm-id>`; nothing else is ever put below the base.

mod kill;
mod v1;
mod v2;

use std::fmt::Debug;
use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hostler_types::{ByteSize, VmId};

use v1::V1;
use v2::V2;

/// The cgroups of this host's VMs. Clones are the same.
#[derive(Debug, Clone)]
pub struct Cgroups {
    backend: Arc<dyn Backend>,
}

/// What a VM may use of the host's CPUs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuLimits {
    /// Weight against other VMs when CPUs are scarce; 1024 is normal, 2 to 262144.
    pub shares: Option<u32>,
    /// The most CPU time, in thousandths of a CPU; `None`: no limit.
    pub limit_millicpus: Option<u32>,
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
            return Ok(Self { backend: Arc::new(v1) });
        }
        let own = Path::new("/proc/self/cgroup");
        let own_group = fs::read_to_string(own).doing("read", own)?;
        let root = v2::mount_point(&mountinfo).ok_or(CgroupError::NotMounted)?;
        Ok(Self { backend: Arc::new(V2::new(&root, &own_group)) })
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
        for directory in self.directories(vm) {
            make_directory(&directory)?;
        }
        Ok(())
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
        let mut vms: Vec<VmId> = Vec::new();
        for base in self.backend.directories("") {
            let entries = match fs::read_dir(&base) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                entries => entries.doing("list", &base)?,
            };
            let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
            vms.extend(names.filter_map(|name| name.parse::<VmId>().ok()));
        }
        vms.sort();
        vms.dedup();
        Ok(vms)
    }

    /// Sets what the VM may use of the CPUs.
    ///
    /// # Errors
    /// There is no group or no cpu controller.
    pub fn set_cpu(&self, vm: VmId, limits: CpuLimits) -> Result<(), CgroupError> {
        self.backend.set_cpu(&vm.to_string(), limits)
    }

    /// Sets the most memory that all the VM's processes may use together.
    ///
    /// # Errors
    /// There is no group or no memory controller.
    pub fn set_memory(&self, vm: VmId, limit: Option<ByteSize>) -> Result<(), CgroupError> {
        self.backend.set_memory(&vm.to_string(), limit)
    }

    /// Kills every process of the group and removes it. That there is no group is as good. Blocks
    /// until the processes have ended, at most `timeout`.
    ///
    /// # Errors
    /// [`CgroupError::StillAlive`] for a process that hangs in the kernel.
    pub fn kill(&self, vm: VmId, timeout: Duration) -> Result<(), CgroupError> {
        let group = vm.to_string();
        let directories = self.directories(vm);
        if !directories.iter().any(|directory| directory.exists()) {
            return Ok(());
        }
        self.backend.freeze(&group)?;
        let killed = kill::kill_all(&directories);
        // Also after a failure: a frozen process would never end.
        self.backend.thaw(&group)?;
        kill::wait_until_empty(&directories, killed?, timeout)?;
        directories.iter().try_for_each(|directory| kill::remove(directory))
    }

    fn directories(&self, vm: VmId) -> Vec<PathBuf> {
        self.backend.directories(&vm.to_string())
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
