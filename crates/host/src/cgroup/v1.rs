//! cgroup v1: one tree per controller (some share one).

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use hostler_types::ByteSize;

use super::layout::copy_setting;
use super::{Backend, CgroupError, Context, CpuLimits, Share, Usage, make_directory, write};
use crate::stat::Stat;

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
        let quota = limits.limit_millicpus.map(|limit| u64::from(limit) * PERIOD / 1000);
        write(&self.setting("cpu", group, "cpu.cfs_period_us"), &PERIOD.to_string())?;
        // The kernel refuses what is more than a group above has, and less than one below has.
        let quota = match (quota, self.quota_above(group)) {
            (Some(quota), Some(above)) => Some(quota.min(above)),
            (quota, _) => quota,
        };
        if let Some(quota) = quota {
            let base = self.bases.get("cpu").map(|base| base.join(group));
            base.map_or(Ok(()), |base| lower_children(&base, quota))?;
        }
        let text = quota.map_or("-1".to_owned(), |quota| quota.to_string());
        write(&self.setting("cpu", group, "cpu.cfs_quota_us"), &text)
    }

    fn set_memory(&self, group: &str, limit: Option<ByteSize>) -> Result<(), CgroupError> {
        let path = self.setting("memory", group, "memory.limit_in_bytes");
        let value = limit.map_or("-1".to_owned(), |limit| limit.bytes().to_string());
        fs::write(&path, value).doing("write", &path)
    }

    fn set_share(&self, group: &str, share: &Share) -> Result<(), CgroupError> {
        self.set_cpu(group, share.cpu())?;
        // Above it, memory is taken back first; there is nothing else that does not end a guest.
        let soft = share.memory_low.max(share.memory_min).bytes();
        write(&self.setting("memory", group, "memory.soft_limit_in_bytes"), &soft.to_string())
    }

    /// Soft limits need nobody above to have one.
    fn protect(&self, _: &Share) -> Result<(), CgroupError> {
        Ok(())
    }

    /// Every group has all controllers.
    fn hand_down(&self, _: &str) -> Result<(), CgroupError> {
        Ok(())
    }

    fn carry_over(&self, from: &str, to: &str) -> Result<(), CgroupError> {
        let files = ["cpu.cfs_period_us", "cpu.cfs_quota_us"].map(|file| ("cpu", file));
        for (controller, file) in files.into_iter().chain([("memory", "memory.limit_in_bytes")]) {
            let (from, to) =
                (self.setting(controller, from, file), self.setting(controller, to, file));
            match copy_setting(&from, &to) {
                // More than the new pool has: it is set anew in a moment.
                Err(CgroupError::Io { source, .. })
                    if source.kind() == std::io::ErrorKind::InvalidInput => {}
                copied => copied?,
            }
        }
        Ok(())
    }

    fn usage(&self, group: &str) -> Option<Usage> {
        let cpu = fs::read_to_string(self.setting("cpuacct", group, "cpuacct.usage")).ok()?;
        let memory = Stat::read(&self.setting("memory", group, "memory.stat"))?;
        let limited = Stat::read(&self.setting("cpu", group, "cpu.stat"));
        Some(Usage {
            cpu_ns: cpu.trim().parse().ok()?,
            limited_ns: limited.map_or(0, |stat| stat.sum(&["throttled_time"])),
            memory: memory.sum(&["total_rss", "total_shmem"]),
            active: memory.sum(&["total_active_anon"]),
            swapped: memory.sum(&["total_swap"]),
            ..Usage::default()
        })
    }
}

impl V1 {
    /// The smallest quota of the groups above, in microseconds a period.
    fn quota_above(&self, group: &str) -> Option<u64> {
        let mut above = Path::new(group).parent();
        let mut least: Option<u64> = None;
        while let Some(path) = above.filter(|path| !path.as_os_str().is_empty()) {
            let path_text = path.to_string_lossy();
            let quota = quota_in(&self.setting("cpu", &path_text, "cpu.cfs_quota_us"));
            least = [least, quota].into_iter().flatten().min();
            above = path.parent();
        }
        least
    }
}

/// None: no limit.
fn quota_in(file: &Path) -> Option<u64> {
    fs::read_to_string(file).ok()?.trim().parse::<u64>().ok()
}

/// Lowers what is below a group to what it will have, the deepest first.
fn lower_children(directory: &Path, quota: u64) -> Result<(), CgroupError> {
    let Ok(entries) = fs::read_dir(directory) else { return Ok(()) };
    for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|it| it.is_dir())) {
        let child = entry.path();
        lower_children(&child, quota)?;
        let file = child.join("cpu.cfs_quota_us");
        if quota_in(&file).is_some_and(|has| has > quota) {
            write(&file, &quota.to_string())?;
        }
    }
    Ok(())
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
