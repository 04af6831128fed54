//! cgroup v2: one tree, whose controllers are handed down level by level.
//!
//! Below systemd, only a delegated subtree may be changed. If the agent's own group is delegated
//! to it (`Delegate=yes` sets the attribute that tells), guests live in `<own>/vms`, and the agent
//! moves into `<own>/agent` first, because a group that hands controllers down may hold no
//! processes. Otherwise, as without systemd, guests live in `/hostler`.

use std::fs;
use std::path::{Path, PathBuf};

use hostler_types::ByteSize;

use super::layout::copy_setting;
use super::{Backend, CgroupError, Context, CpuLimits, Share, Usage, make_directory, write};
use crate::pressure::Pressure;
use crate::stat::Stat;

const USED: [&str; 4] = ["cpu", "memory", "io", "pids"];
const PERIOD: u64 = 100_000;
const DELEGATION_MARKS: [&str; 2] = ["trusted.delegate", "user.delegate"];

#[derive(Debug)]
pub(super) struct V2 {
    /// The group that was delegated to the agent, or the root of the tree.
    top: PathBuf,
    /// The parent of the VMs' groups, a child of `top`.
    base: PathBuf,
    delegated: bool,
}

pub(super) fn mount_point(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let is_v2 = file_system.split(' ').next() == Some("cgroup2");
        is_v2.then(|| mount.split(' ').nth(4).map(PathBuf::from)).flatten()
    })
}

impl V2 {
    /// `own_group` is the content of `/proc/self/cgroup`.
    pub(super) fn new(root: &Path, own_group: &str) -> Self {
        let own = own_group.lines().find_map(|line| line.strip_prefix("0::/"));
        let own = own.map(|path| root.join(path.strip_suffix("/agent").unwrap_or(path)));
        match own.filter(|own| own != root && is_delegated(own)) {
            Some(top) => Self { base: top.join("vms"), top, delegated: true },
            None => Self { base: root.join("hostler"), top: root.to_owned(), delegated: false },
        }
    }

    fn group(&self, group: &str) -> PathBuf {
        self.base.join(group)
    }

    /// Moves the processes of the delegated group (the agent's own) out of the way.
    fn make_room(&self) -> Result<(), CgroupError> {
        let leaf = self.top.join("agent");
        make_directory(&leaf)?;
        for pid in super::kill::pids_in(&self.top)? {
            write(&leaf.join("cgroup.procs"), &pid.to_string())?;
        }
        Ok(())
    }
}

impl Backend for V2 {
    fn version(&self) -> u8 {
        2
    }

    fn join_file(&self) -> &'static str {
        "cgroup.procs"
    }

    fn directories(&self, group: &str) -> Vec<PathBuf> {
        vec![self.group(group)]
    }

    fn prepare(&self) -> Result<(), CgroupError> {
        make_directory(&self.base)?;
        if self.delegated {
            self.make_room()?;
        }
        hand_down(&self.top)?;
        hand_down(&self.base)
    }

    fn freeze(&self, group: &str) -> Result<(), CgroupError> {
        // Kills all at once; kernels before 5.14 do not have it, and freeze instead.
        let group = self.group(group);
        let kill = group.join("cgroup.kill");
        if kill.exists() {
            return write(&kill, "1");
        }
        write(&group.join("cgroup.freeze"), "1")
    }

    fn thaw(&self, group: &str) -> Result<(), CgroupError> {
        let freeze = self.group(group).join("cgroup.freeze");
        if freeze.exists() { write(&freeze, "0") } else { Ok(()) }
    }

    fn set_cpu(&self, group: &str, limits: CpuLimits) -> Result<(), CgroupError> {
        let group = self.group(group);
        if let Some(shares) = limits.shares {
            write(&group.join("cpu.weight"), &weight(shares).to_string())?;
        }
        let quota = limits.limit_millicpus.map(|limit| u64::from(limit) * PERIOD / 1000);
        let quota = quota.map_or("max".to_owned(), |quota| quota.to_string());
        write(&group.join("cpu.max"), &format!("{quota} {PERIOD}"))
    }

    fn set_memory(&self, group: &str, limit: Option<ByteSize>) -> Result<(), CgroupError> {
        let value = limit.map_or("max".to_owned(), |limit| limit.bytes().to_string());
        write(&self.group(group).join("memory.max"), &value)
    }

    fn set_share(&self, group: &str, share: &Share) -> Result<(), CgroupError> {
        self.set_cpu(group, share.cpu())?;
        // No `memory.high` or `max` for a limit: a guest that must not hold what it holds stands still.
        keep(&self.group(group), share)
    }

    fn protect(&self, promised: &Share) -> Result<(), CgroupError> {
        keep(&self.base, promised)
    }

    fn hand_down(&self, group: &str) -> Result<(), CgroupError> {
        hand_down(&self.group(group))
    }

    fn carry_over(&self, from: &str, to: &str) -> Result<(), CgroupError> {
        let (from, to) = (self.group(from), self.group(to));
        let files = ["cpu.max", "memory.max"];
        files.into_iter().try_for_each(|file| copy_setting(&from.join(file), &to.join(file)))
    }

    fn usage(&self, group: &str) -> Option<Usage> {
        let group = self.group(group);
        let cpu = Stat::read(&group.join("cpu.stat"))?;
        let memory = Stat::read(&group.join("memory.stat"));
        let memory = |names: &[&str]| memory.as_ref().map_or(0, |stat| stat.sum(names));
        let swapped = fs::read_to_string(group.join("memory.swap.current")).ok();
        let stalled = fs::read_to_string(group.join("memory.pressure")).unwrap_or_default();
        Some(Usage {
            cpu_ns: cpu.sum(&["usage_usec"]).saturating_mul(1000),
            ready_ns: 0,
            limited_ns: cpu.sum(&["throttled_usec"]).saturating_mul(1000),
            memory: memory(&["anon", "shmem"]),
            active: memory(&["active_anon"]),
            swapped: swapped.and_then(|text| text.trim().parse().ok()).unwrap_or(0),
            stalled_ns: Pressure::parse(&stalled).full_ns,
        })
    }
}

/// Keeps memory for a group, as far as those above keep it for theirs.
fn keep(group: &Path, share: &Share) -> Result<(), CgroupError> {
    write(&group.join("memory.min"), &share.memory_min.bytes().to_string())?;
    let low = share.memory_low.max(share.memory_min);
    write(&group.join("memory.low"), &low.bytes().to_string())
}

/// Shares (2 to 262144) as a weight (1 to 10000): the kernel's and systemd's mapping.
fn weight(shares: u32) -> u64 {
    1 + (u64::from(shares.clamp(2, 262_144)) - 2) * 9999 / 262_142
}

/// Gives the children of a group those controllers that it has.
fn hand_down(group: &Path) -> Result<(), CgroupError> {
    let path = group.join("cgroup.controllers");
    let available = fs::read_to_string(&path).doing("read", &path)?;
    let path = group.join("cgroup.subtree_control");
    let enabled = fs::read_to_string(&path).doing("read", &path)?;
    let has = |list: &str, name: &str| list.split_whitespace().any(|other| other == name);
    for name in USED.into_iter().filter(|name| has(&available, name) && !has(&enabled, name)) {
        // One at a time: a controller that is refused must not keep the others away.
        write(&path, &format!("+{name}"))?;
    }
    Ok(())
}

fn is_delegated(group: &Path) -> bool {
    DELEGATION_MARKS.iter().any(|name| {
        let mut value = [0u8; 8];
        rustix::fs::getxattr(group, *name, &mut value[..])
            .is_ok_and(|length| value[..length] == *b"1")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that looks like a group with these controllers.
    fn fake_group(path: &Path, controllers: &str) {
        fs::create_dir_all(path).unwrap();
        fs::write(path.join("cgroup.controllers"), controllers).unwrap();
        for file in ["cgroup.subtree_control", "cgroup.procs"] {
            fs::write(path.join(file), "").unwrap();
        }
    }

    #[test]
    fn without_delegation_guests_live_at_the_top() {
        let root = tempfile::tempdir().unwrap();
        fake_group(root.path(), "cpuset cpu io memory");
        fake_group(&root.path().join("hostler"), "cpu memory");
        let v2 = V2::new(root.path(), "9:name=systemd:/\n0::/system.slice/a.service\n");
        assert_eq!(v2.directories("x"), [root.path().join("hostler/x")]);
        v2.prepare().unwrap();
        let enabled = |group: &str| {
            fs::read_to_string(root.path().join(group).join("cgroup.subtree_control")).unwrap()
        };
        // A real file takes all writes; here the last one is left.
        assert_eq!((enabled("").as_str(), enabled("hostler").as_str()), ("+io", "+memory"));
    }

    #[test]
    fn a_delegated_group_is_kept_to() {
        let root = tempfile::tempdir().unwrap();
        let own = root.path().join("system.slice/hostler-agent.service");
        fake_group(&own, "memory");
        fake_group(&own.join("vms"), "memory");
        fake_group(&own.join("agent"), "memory");
        fs::write(own.join("cgroup.procs"), "42\n").unwrap();
        let create = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(&own, "trusted.delegate", b"1", create).unwrap();
        for suffix in ["", "/agent"] {
            let group = format!("0::/system.slice/hostler-agent.service{suffix}\n");
            let v2 = V2::new(root.path(), &group);
            assert_eq!(v2.directories("x"), [own.join("vms/x")]);
            v2.prepare().unwrap();
        }
        assert_eq!(fs::read_to_string(own.join("agent/cgroup.procs")).unwrap(), "42");
    }

    #[test]
    fn limits_are_written_in_the_words_of_v2() {
        let root = tempfile::tempdir().unwrap();
        let v2 = V2::new(root.path(), "0::/\n");
        fs::create_dir_all(root.path().join("hostler/x")).unwrap();
        let read =
            |file: &str| fs::read_to_string(root.path().join("hostler/x").join(file)).unwrap();
        let limits = CpuLimits { shares: Some(1024), limit_millicpus: Some(1500) };
        v2.set_cpu("x", limits).unwrap();
        v2.set_memory("x", Some(ByteSize::mib(1))).unwrap();
        assert_eq!((read("cpu.weight"), read("cpu.max")), ("39".into(), "150000 100000".into()));
        assert_eq!(read("memory.max"), "1048576");
        v2.set_cpu("x", CpuLimits::default()).unwrap();
        v2.set_memory("x", None).unwrap();
        assert_eq!((read("cpu.max"), read("memory.max")), ("max 100000".into(), "max".into()));
        assert_eq!((weight(2), weight(262_144)), (1, 10_000));
    }

    #[test]
    fn what_a_group_used_is_read_in_the_words_of_v2() {
        let root = tempfile::tempdir().unwrap();
        let v2 = V2::new(root.path(), "0::/\n");
        let group = root.path().join("hostler/x");
        fs::create_dir_all(&group).unwrap();
        assert_eq!(v2.usage("x"), None);
        let files = [
            ("cpu.stat", "usage_usec 7\nuser_usec 4\nnr_throttled 1\nthrottled_usec 3\n"),
            ("memory.stat", "anon 10\nfile 1000\nshmem 5\nactive_anon 9\n"),
            ("memory.swap.current", "12\n"),
            ("memory.pressure", "some avg10=0 total=9\nfull avg10=0.00 avg60=0.00 total=6\n"),
        ];
        files.iter().for_each(|(file, text)| fs::write(group.join(file), text).unwrap());
        let expected = Usage {
            cpu_ns: 7000,
            ready_ns: 0,
            limited_ns: 3000,
            memory: 15,
            active: 9,
            swapped: 12,
            stalled_ns: 6000,
        };
        assert_eq!(v2.usage("x"), Some(expected));
    }

    #[test]
    fn a_group_is_killed_by_the_kernel_where_it_can() {
        let root = tempfile::tempdir().unwrap();
        let v2 = V2::new(root.path(), "0::/\n");
        let group = root.path().join("hostler/x");
        fs::create_dir_all(&group).unwrap();
        v2.freeze("x").unwrap();
        v2.thaw("x").unwrap();
        assert_eq!(fs::read_to_string(group.join("cgroup.freeze")).unwrap(), "0");
        fs::write(group.join("cgroup.kill"), "").unwrap();
        v2.freeze("x").unwrap();
        assert_eq!(fs::read_to_string(group.join("cgroup.kill")).unwrap(), "1");
    }

    /// This host's v2 tree has few controllers, but groups, joining and killing are real.
    #[test]
    fn a_real_tree_is_used_where_there_is_one() {
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let Some(root) = mount_point(&mountinfo) else { return };
        let cgroups = super::super::Cgroups {
            backend: std::sync::Arc::new(V2::new(&root, "0::/\n")),
            places: std::sync::Arc::default(),
        };
        super::super::tests::live_and_die(&cgroups);
    }
}
