//! cgroup v1: one tree per controller (some share one).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use hostler_types::ByteSize;

use super::{Backend, CgroupError, Context, CpuLimits, make_directory, write};

/// Controllers in whose trees a VM gets a group, if they are there.
const USED: [&str; 6] = ["cpu", "cpuacct", "memory", "blkio", "pids", "freezer"];
const BASE: &str = "hostler";
/// The kernel's default, in microseconds.
const PERIOD: u64 = 100_000;

#[derive(Debug)]
pub(super) struct V1 {
    /// Controller → its tree's `hostler` directory.
    bases: BTreeMap<&'static str, PathBuf>,
}

impl V1 {
    /// Finds the trees; `None` without the two that limits need.
    pub(super) fn from_mounts(mountinfo: &str) -> Option<Self> {
        let mut bases = BTreeMap::new();
        for line in mountinfo.lines() {
            // `36 35 0:31 / /sys/fs/cgroup/cpu rw … - cgroup cgroup rw,cpu`
            let Some((mount, file_system)) = line.split_once(" - ") else { continue };
            let mut file_system = file_system.split(' ');
            if file_system.next() != Some("cgroup") {
                continue;
            }
            let Some(point) = mount.split(' ').nth(4) else { continue };
            let options = file_system.nth(1).unwrap_or_default();
            for controller in USED {
                if options.split(',').any(|option| option == controller) {
                    bases.insert(controller, Path::new(point).join(BASE));
                }
            }
        }
        let useful = bases.contains_key("cpu") && bases.contains_key("memory");
        useful.then_some(Self { bases })
    }

    fn setting(&self, controller: &'static str, group: &str, file: &str) -> PathBuf {
        let base = self.bases.get(controller).cloned();
        base.unwrap_or_else(|| Path::new(BASE).join(controller)).join(group).join(file)
    }

    fn set_frozen(&self, group: &str, state: &str) -> Result<(), CgroupError> {
        let path = self.setting("freezer", group, "freezer.state");
        // Without the controller the group is killed in as many rounds as it takes.
        if path.exists() { write(&path, state) } else { Ok(()) }
    }
}

impl Backend for V1 {
    fn version(&self) -> u8 {
        1
    }

    /// Not `cgroup.procs`: a thread that moves itself alone takes no lock of all processes, which would
    /// wait 6 to 15 ms for an RCU grace period (`cgroup_files_write_start` in the kernel).
    fn join_file(&self) -> &'static str {
        "tasks"
    }

    fn directories(&self, group: &str) -> Vec<PathBuf> {
        let mut directories: Vec<PathBuf> =
            self.bases.values().map(|base| base.join(group)).collect();
        directories.sort();
        directories.dedup();
        directories
    }

    fn prepare(&self) -> Result<(), CgroupError> {
        self.bases.values().try_for_each(|base| make_directory(base))
    }

    fn freeze(&self, group: &str) -> Result<(), CgroupError> {
        self.set_frozen(group, "FROZEN")
    }

    fn thaw(&self, group: &str) -> Result<(), CgroupError> {
        self.set_frozen(group, "THAWED")
    }

    fn set_cpu(&self, group: &str, limits: CpuLimits) -> Result<(), CgroupError> {
        if let Some(shares) = limits.shares {
            write(&self.setting("cpu", group, "cpu.shares"), &shares.to_string())?;
        }
        let quota = match limits.limit_millicpus {
            Some(limit) => (u64::from(limit) * PERIOD / 1000).to_string(),
            None => "-1".to_owned(),
        };
        write(&self.setting("cpu", group, "cpu.cfs_period_us"), &PERIOD.to_string())?;
        write(&self.setting("cpu", group, "cpu.cfs_quota_us"), &quota)
    }

    fn set_memory(&self, group: &str, limit: Option<ByteSize>) -> Result<(), CgroupError> {
        let path = self.setting("memory", group, "memory.limit_in_bytes");
        let value = limit.map_or("-1".to_owned(), |limit| limit.bytes().to_string());
        fs::write(&path, value).doing("write", &path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trees_are_found_also_when_they_are_shared() {
        let mountinfo = "\
30 29 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:9 - cgroup cgroup rw,cpu,cpuacct
31 29 0:27 / /sys/fs/cgroup/memory rw,nosuid shared:10 - cgroup cgroup rw,memory
32 29 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd
33 29 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";
        let v1 = V1::from_mounts(mountinfo).unwrap();
        let expected = ["/sys/fs/cgroup/cpu,cpuacct/hostler/x", "/sys/fs/cgroup/memory/hostler/x"];
        assert_eq!(v1.directories("x"), expected.map(PathBuf::from));
        assert!(V1::from_mounts("33 29 0:29 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw").is_none());
    }
}
