//! What a VM has used since its group was made.

use std::fs;
use std::path::Path;

use hostler_types::VmId;

use super::{CgroupError, Cgroups};

/// Since the group was made; the memory is what it holds now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// CPU time of all its processes, in nanoseconds.
    pub cpu_ns: u64,
    /// Time that its threads could run and waited for a CPU, in nanoseconds, of those that live.
    pub ready_ns: u64,
    /// In bytes; without files that are only cached.
    pub memory: u64,
}

impl Cgroups {
    /// What a VM has used; none if it has no group.
    ///
    /// # Errors
    /// The tree cannot be read.
    pub fn usage(&self, vm: VmId) -> Result<Option<Usage>, CgroupError> {
        let Some(usage) = self.backend.usage(&self.group_of(vm)) else { return Ok(None) };
        let ready_ns = self.pids(vm)?.into_iter().map(ready).sum();
        Ok(Some(Usage { ready_ns, ..usage }))
    }
}

/// The run delay of all threads of a process, in nanoseconds.
fn ready(pid: i32) -> u64 {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    // `<run> <run delay> <timeslices>`
    let delay = |path: &Path| {
        let text = fs::read_to_string(path.join("schedstat")).ok()?;
        text.split_whitespace().nth(1)?.parse::<u64>().ok()
    };
    tasks.flatten().filter_map(|task| delay(&task.path())).sum()
}

/// The sum of the lines of a `name value` file with these names.
pub(super) fn sum_of(path: &Path, names: &[&str]) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    let lines = text.lines().filter_map(|line| line.split_once(' '));
    let wanted = lines.filter(|(name, _)| names.contains(name));
    Some(wanted.filter_map(|(_, value)| value.trim().parse::<u64>().ok()).sum())
}
