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
    /// Time that its vCPUs could run and waited for a CPU, in nanoseconds, of those that live; what
    /// its own limit made them wait is in it.
    pub ready_ns: u64,
    /// Time that its own limit made it wait, in nanoseconds.
    pub limited_ns: u64,
    /// In bytes; without files that are only cached.
    pub memory: u64,
    /// Of that, what the kernel saw used lately, in bytes.
    pub active: u64,
    /// On the host's swap, in bytes.
    pub swapped: u64,
    /// Time that it stood still for memory, in nanoseconds (v2 only).
    pub stalled_ns: u64,
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

/// The run delay of a process's vCPU threads, in nanoseconds; of all its threads, if it has none.
/// QEMU is told to name them (`debug-threads=on`).
fn ready(pid: i32) -> u64 {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    let (mut of_vcpus, mut of_all) = (None, 0);
    for task in tasks.flatten() {
        let Some(delay) = run_delay(&task.path()) else { continue };
        of_all += delay;
        // `CPU 0/KVM`, `CPU 0/TCG`
        let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        if name.starts_with("CPU ") {
            *of_vcpus.get_or_insert(0) += delay;
        }
    }
    of_vcpus.unwrap_or(of_all)
}

/// `<run> <run delay> <timeslices>`
fn run_delay(task: &Path) -> Option<u64> {
    let text = fs::read_to_string(task.join("schedstat")).ok()?;
    text.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::Duration;

    use super::*;

    /// Two that spin on one CPU: each waits about as long as it runs.
    #[test]
    fn who_shares_a_cpu_waits_for_it() {
        let spin = || {
            let mut spinning = Command::new("taskset");
            spinning.args(["-c", "0", "sh", "-c", "while :; do :; done"]).spawn().unwrap()
        };
        let mut both = [spin(), spin()];
        std::thread::sleep(Duration::from_secs(1));
        let delays: Vec<u64> = both.iter().map(|child| ready(child.id().cast_signed())).collect();
        for child in &mut both {
            child.kill().unwrap();
            child.wait().unwrap();
        }
        assert!(delays.iter().all(|delay| *delay > 100_000_000), "{delays:?} ns");
    }
}
