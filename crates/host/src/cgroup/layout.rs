//! Pools as groups around the groups of their VMs, and what each of them may use.
//!
//! ```text
//!  <base>/<vm>                     directly below the cluster
//!  <base>/pool-<id>/<vm>           in a pool
//!  <base>/pool-<id>/pool-<id>/…    pools in pools
//! ```
//!
//! [`Cgroups::arrange`] makes the tree what a [`Layout`] says, as often as it is asked to; a VM that
//! runs is moved with all its processes. Memory that a guest holds already stays counted where it was
//! taken: moving the count would stop the guest for as long as its memory is large.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::io;
use std::path::Path;

use hostler_types::{ByteSize, PoolId, VmId};

use super::{CgroupError, Cgroups, Context, CpuLimits, Share, kill, make_directory, write};

const POOL: &str = "pool-";

/// What the groups of all pools and VMs of a host are to be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Layout {
    /// In any order.
    pub pools: Vec<PoolGroup>,
    /// VMs that are not named are left as they are.
    pub vms: Vec<VmGroup>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolGroup {
    pub pool: PoolId,
    /// None: directly below the base.
    pub parent: Option<PoolId>,
    pub share: Share,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmGroup {
    pub vm: VmId,
    /// None: directly below the base.
    pub pool: Option<PoolId>,
    pub share: Share,
}

/// Where the groups of VMs are to be, and where they were last seen.
#[derive(Debug, Default)]
pub(super) struct Places {
    wanted: HashMap<VmId, String>,
    seen: HashMap<VmId, String>,
    /// The groups of pools that were made here: another agent of this machine may have others.
    pools: HashSet<String>,
}

impl Layout {
    /// Each pool's group, parents before children. Pools whose parents are not there, or that lie in
    /// each other, are left out.
    fn paths(&self) -> Vec<(&PoolGroup, String)> {
        let mut paths: Vec<(&PoolGroup, String)> = Vec::with_capacity(self.pools.len());
        let mut known: HashMap<PoolId, String> = HashMap::new();
        loop {
            let before = paths.len();
            for group in self
                .pools
                .iter()
                .filter(|group| !known.contains_key(&group.pool))
                .collect::<Vec<_>>()
            {
                let name = format!("{POOL}{}", group.pool);
                let path = match group.parent {
                    None => Some(name),
                    Some(parent) => known.get(&parent).map(|parent| format!("{parent}/{name}")),
                };
                if let Some(path) = path {
                    known.insert(group.pool, path.clone());
                    paths.push((group, path));
                }
            }
            if paths.len() == before {
                return paths;
            }
        }
    }
}

impl Cgroups {
    /// Makes the groups what `layout` says. What fails for one does not keep the others from it.
    /// `false`: a VM that is being started this moment has to be looked at again.
    ///
    /// # Errors
    /// The first failure, after all was tried.
    pub fn arrange(&self, layout: &Layout) -> Result<bool, CgroupError> {
        let (mut first, mut whole): (Result<(), CgroupError>, bool) = (Ok(()), true);
        let mut note = |result: Result<(), CgroupError>| {
            if first.is_ok() {
                first = result;
            }
        };
        let backend = &self.backend;
        note(backend.prepare());
        note(backend.protect(&layout.promised()));
        let paths = layout.paths();
        for (group, path) in &paths {
            note(self.make(path).and_then(|()| backend.hand_down(path)));
            note(backend.set_share(path, &group.share));
        }
        let known: HashMap<PoolId, &String> =
            paths.iter().map(|(group, path)| (group.pool, path)).collect();
        self.places().wanted.clear();
        for group in &layout.vms {
            let above = group.pool.and_then(|pool| known.get(&pool));
            let path = match above {
                Some(above) => format!("{above}/{}", group.vm),
                None => group.vm.to_string(),
            };
            self.places().wanted.insert(group.vm, path.clone());
            let now = self.group_of(group.vm);
            if !self.exists(&now) {
                continue;
            }
            if now != path {
                match self.is_empty(&now) {
                    // Whoever made it has its files open, and is about to let a process join.
                    true => whole = false,
                    false => note(self.relocate(group.vm, &now, &path)),
                }
            }
            note(backend.set_share(&self.group_of(group.vm), &group.share));
        }
        self.remove_pools(paths.into_iter().map(|(_, path)| path).collect());
        first.map(|()| whole)
    }

    /// The group of a VM: where it is, else where it is to be.
    pub(super) fn group_of(&self, vm: VmId) -> String {
        let (seen, wanted) = {
            let places = self.places();
            (places.seen.get(&vm).cloned(), places.wanted.get(&vm).cloned())
        };
        let direct = vm.to_string();
        let likely = [seen, wanted.clone(), Some(direct.clone())];
        if let Some(here) = likely.into_iter().flatten().find(|path| self.exists(path)) {
            return here;
        }
        let found = self.walk().into_iter().find(|path| last(path) == direct);
        if let Some(found) = found {
            self.places().seen.insert(vm, found.clone());
            return found;
        }
        wanted.unwrap_or(direct)
    }

    /// Its group is gone.
    pub(super) fn forget(&self, vm: VmId) {
        self.places().seen.remove(&vm);
    }

    /// Makes a group in every tree.
    pub(super) fn make(&self, group: &str) -> Result<(), CgroupError> {
        self.backend.directories(group).iter().try_for_each(|directory| make_directory(directory))
    }

    /// Every group below the base, parents before children.
    pub(super) fn walk(&self) -> Vec<String> {
        let mut found: Vec<String> = Vec::new();
        for base in self.backend.directories("") {
            let mut ahead = vec![String::new()];
            while let Some(group) = ahead.pop() {
                for name in children(&base.join(&group)) {
                    let path =
                        if group.is_empty() { name.clone() } else { format!("{group}/{name}") };
                    if name.starts_with(POOL) {
                        ahead.push(path.clone());
                    }
                    found.push(path);
                }
            }
        }
        found.sort();
        found.dedup();
        found
    }

    fn is_empty(&self, group: &str) -> bool {
        let directories = self.backend.directories(group);
        directories.iter().all(|it| kill::pids_in(it).is_ok_and(|pids| pids.is_empty()))
    }

    fn exists(&self, group: &str) -> bool {
        self.backend.directories(group).iter().any(|directory| directory.exists())
    }

    /// Moves all processes of a VM into another group, with what the VM was limited to.
    fn relocate(&self, vm: VmId, from: &str, to: &str) -> Result<(), CgroupError> {
        const ROUNDS: usize = 100;
        self.make(to)?;
        let trees = self.backend.directories(from).into_iter().zip(self.backend.directories(to));
        let trees: Vec<_> = trees.filter(|(from, _)| from.exists()).collect();
        self.backend.carry_over(from, to)?;
        for (from, to) in &trees {
            // A process that was made in between is met in the next round.
            for _ in 0..ROUNDS {
                let pids = kill::pids_in(from)?;
                if pids.is_empty() {
                    break;
                }
                for pid in pids {
                    take(&to.join("cgroup.procs"), pid)?;
                }
            }
        }
        self.places().seen.insert(vm, to.to_owned());
        trees.iter().try_for_each(|(from, _)| kill::remove(from))
    }

    /// Takes away pools that are no more, if nothing is in them.
    fn remove_pools(&self, kept: HashSet<String>) {
        let mut gone: Vec<String> = self.places().pools.difference(&kept).cloned().collect();
        // Those within others first.
        gone.sort_unstable_by_key(|path| std::cmp::Reverse(path.len()));
        gone.retain(|path| {
            for directory in self.backend.directories(path) {
                let _left = fs::remove_dir(directory);
            }
            self.exists(path)
        });
        // One that has a guest still is tried again at the next arrangement.
        self.places().pools = kept.into_iter().chain(gone).collect();
    }
}

impl Layout {
    /// What is kept for all guests together: nobody below is protected from more than those above.
    fn promised(&self) -> Share {
        let pools = self.pools.iter().filter(|pool| pool.parent.is_none()).map(|pool| &pool.share);
        let vms = self.vms.iter().filter(|vm| vm.pool.is_none()).map(|vm| &vm.share);
        let mut promised = Share::default();
        for share in pools.chain(vms) {
            let add = |sum: ByteSize, more: ByteSize| ByteSize(sum.0.saturating_add(more.0));
            promised.memory_min = add(promised.memory_min, share.memory_min);
            promised.memory_low = add(promised.memory_low, share.memory_low);
        }
        promised
    }
}

impl Share {
    pub(super) const fn cpu(&self) -> CpuLimits {
        CpuLimits { shares: Some(self.cpu_weight), limit_millicpus: self.cpu_limit_millicpus }
    }
}

/// A process that has ended meanwhile needs no moving.
fn take(procs: &Path, pid: i32) -> Result<(), CgroupError> {
    match write(procs, &pid.to_string()) {
        Err(CgroupError::Io { source, .. })
            if source.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) =>
        {
            Ok(())
        }
        moved => moved,
    }
}

fn last(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn children(directory: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let groups = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|it| it.is_dir()));
    groups.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// Copies a setting from one group to another; one that a kernel does not have is none.
pub(super) fn copy_setting(from: &Path, to: &Path) -> Result<(), CgroupError> {
    match fs::read_to_string(from) {
        Ok(value) => write(to, value.trim()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error).doing("read", from),
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};
    use std::time::Duration;

    use super::*;

    fn spin(cgroups: &Cgroups, vm: VmId) -> Child {
        let child = Command::new("sh").args(["-c", "while :; do :; done"]).spawn().unwrap();
        for directory in cgroups.directories(vm) {
            write(&directory.join("cgroup.procs"), &child.id().to_string()).unwrap();
        }
        child
    }

    fn share(cpu_weight: u32, cpu_limit_millicpus: Option<u32>) -> Share {
        Share { cpu_weight, cpu_limit_millicpus, ..Share::default() }
    }

    /// CPU time that each used over a while, in nanoseconds.
    fn used(cgroups: &Cgroups, vms: &[VmId], during: Duration) -> Vec<u64> {
        let read = || -> Vec<u64> {
            vms.iter().map(|vm| cgroups.usage(*vm).unwrap().unwrap().cpu_ns).collect()
        };
        let before = read();
        std::thread::sleep(during);
        let after = read();
        before.iter().zip(after).map(|(before, after)| after - before).collect()
    }

    struct Rig {
        cgroups: Cgroups,
        vms: Vec<VmId>,
        children: Vec<Child>,
    }

    /// VMs whose processes want one and the same CPU, all of it.
    impl Rig {
        fn new(count: usize) -> Self {
            let cgroups = Cgroups::detect().unwrap();
            let vms: Vec<VmId> = (0..count).map(|_| VmId::generate()).collect();
            let children = vms.iter().map(|vm| {
                cgroups.create(*vm).unwrap();
                let child = spin(&cgroups, *vm);
                let mut cpus = rustix::thread::CpuSet::new();
                cpus.set(0);
                let pid = rustix::process::Pid::from_raw(child.id().cast_signed());
                rustix::thread::sched_setaffinity(pid, &cpus).unwrap();
                child
            });
            let children = children.collect();
            Self { cgroups, vms, children }
        }

        fn arrange(&self, pools: Vec<PoolGroup>, vms: Vec<(Option<PoolId>, Share)>) {
            let vms = self.vms.iter().zip(vms);
            let vms = vms.map(|(vm, (pool, share))| VmGroup { vm: *vm, pool, share });
            assert!(self.cgroups.arrange(&Layout { pools, vms: vms.collect() }).unwrap());
        }

        fn used(&self) -> Vec<u64> {
            used(&self.cgroups, &self.vms, Duration::from_secs(5))
        }
    }

    impl Drop for Rig {
        fn drop(&mut self) {
            for vm in &self.vms {
                self.cgroups.kill(*vm, Duration::from_secs(10)).unwrap();
            }
            for child in &mut self.children {
                child.wait().unwrap();
            }
            self.cgroups.arrange(&Layout::default()).unwrap();
        }
    }

    fn assert_ratio(one: u64, other: u64, expected: f64) {
        let ratio = one as f64 / other as f64;
        assert!((ratio / expected - 1.0).abs() < 0.1, "{one}:{other} is {ratio}, not {expected}");
    }

    #[test]
    fn busy_guests_share_a_cpu_as_they_are_told_also_in_pools() {
        let rig = Rig::new(3);
        rig.arrange(
            Vec::new(),
            vec![(None, share(2000, None)), (None, share(1000, None)), (None, share(1000, None))],
        );
        let used = rig.used();
        assert_ratio(used[0], used[1], 2.0);
        assert_ratio(used[1], used[2], 1.0);

        // The pool has as much as the VM beside it, whatever its VMs have within.
        let pool = PoolId::generate();
        let group = PoolGroup { pool, parent: None, share: share(1000, None) };
        rig.arrange(
            vec![group],
            vec![
                (None, share(1000, None)),
                (Some(pool), share(3000, None)),
                (Some(pool), share(1000, None)),
            ],
        );
        let used = rig.used();
        assert_ratio(used[1] + used[2], used[0], 1.0);
        assert_ratio(used[1], used[2], 3.0);
    }

    #[test]
    fn a_limit_caps_a_vm_and_a_pool_and_a_limit_within_a_smaller_one_is_taken() {
        let rig = Rig::new(2);
        let (outer, inner) = (PoolId::generate(), PoolId::generate());
        let groups = |limit| {
            vec![
                PoolGroup { pool: inner, parent: Some(outer), share: share(1000, None) },
                PoolGroup { pool: outer, parent: None, share: share(1000, limit) },
            ]
        };
        // 300 of the CPU's 1000, of which one VM may have 100 and the other more than there is.
        let vms =
            || vec![(Some(inner), share(1000, Some(100))), (Some(inner), share(1000, Some(2000)))];
        rig.arrange(groups(Some(300)), vms());
        let used = rig.used();
        assert!(used.iter().sum::<u64>() < 1_650_000_000, "{used:?} of 5 s");
        assert!(used[0] < 550_000_000, "{used:?} of 5 s");
        // Lower with VMs in it, then none again: each VM has its own limit back.
        rig.arrange(groups(Some(50)), vms());
        assert!(rig.used().iter().sum::<u64>() < 300_000_000);
        rig.arrange(groups(None), vms());
        let used = rig.used();
        assert!(used[0] < 550_000_000 && used[1] > used[0], "{used:?} of 5 s");
    }

    #[test]
    fn vms_come_and_go_between_pools_and_empty_pools_go() {
        let rig = Rig::new(1);
        let (vm, pool) = (rig.vms[0], PoolId::generate());
        let group = |pool| PoolGroup { pool, parent: None, share: share(500, None) };
        let pids = rig.cgroups.pids(vm).unwrap();
        assert_eq!(pids.len(), 1);
        rig.arrange(vec![group(pool)], vec![(Some(pool), share(700, None))]);
        assert_eq!(rig.cgroups.group_of(vm), format!("pool-{pool}/{vm}"));
        assert_eq!(rig.cgroups.pids(vm).unwrap(), pids);
        // Who looks for it anew finds it.
        let other = Cgroups::detect().unwrap();
        assert_eq!(other.pids(vm).unwrap(), pids);
        assert!(other.list().unwrap().contains(&vm));
        rig.arrange(Vec::new(), vec![(None, share(700, None))]);
        assert_eq!(other.pids(vm).unwrap(), pids);
        assert!(!rig.cgroups.walk().contains(&format!("pool-{pool}")));
    }

    #[test]
    fn a_vm_that_is_made_later_begins_in_its_pool() {
        let rig = Rig::new(0);
        let (vm, pool) = (VmId::generate(), PoolId::generate());
        let group = PoolGroup { pool, parent: None, share: share(500, None) };
        let vms = vec![VmGroup { vm, pool: Some(pool), share: share(700, None) }];
        rig.cgroups.arrange(&Layout { pools: vec![group], vms }).unwrap();
        rig.cgroups.create(vm).unwrap();
        assert_eq!(rig.cgroups.group_of(vm), format!("pool-{pool}/{vm}"));
        rig.cgroups.kill(vm, Duration::from_secs(1)).unwrap();
    }
}
