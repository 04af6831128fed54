//! What was counted until a moment, and the rates between two of them.

use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;

use hostler_agent_api::VmUse;
use hostler_host::{Cgroups, HostUsage, Usage};
use hostler_types::{ByteSize, DiskUse, HostUse, ResourceUse, VmId};

/// What a VM's monitor tells, since its machine was started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Monitored {
    pub(crate) reads: DiskCounters,
    pub(crate) writes: DiskCounters,
    /// What the balloon has taken now.
    pub(crate) ballooned: ByteSize,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct DiskCounters {
    pub(crate) operations: u64,
    pub(crate) bytes: u64,
    /// Spent in all operations together.
    pub(crate) time_ns: u64,
}

/// At one moment.
#[derive(Debug, Default)]
pub(super) struct Counters {
    vms: HashMap<VmId, (Instant, Usage, Option<Monitored>)>,
    host: Option<(Instant, HostUsage)>,
}

impl Counters {
    /// Blocks for as long as it takes to read some small files for each VM.
    pub(super) fn read(cgroups: &Cgroups, mut monitors: HashMap<VmId, Monitored>) -> Self {
        let vms = cgroups.list().unwrap_or_default();
        let usages = vms.into_iter().filter_map(|vm| {
            let usage = cgroups.usage(vm).ok()??;
            Some((vm, (Instant::now(), usage, monitors.remove(&vm))))
        });
        let vms = usages.collect();
        let host = HostUsage::read(Path::new("/proc"));
        Self { vms, host: host.map(|usage| (Instant::now(), usage)) }
    }

    /// What was used between two moments, in the order of the VMs' ids.
    pub(super) fn since(&self, before: &Self) -> (Vec<VmUse>, Option<HostUse>) {
        let used = self.vms.iter().filter_map(|(vm, now)| {
            let used = between(before.vms.get(vm)?, now);
            Some(VmUse { vm: *vm, used })
        });
        let mut used: Vec<VmUse> = used.collect();
        used.sort_unstable_by_key(|used| used.vm);
        let host = before.host.as_ref().zip(self.host.as_ref());
        (used, host.map(|(before, now)| host_between(before, now)))
    }
}

/// The time between two moments.
#[derive(Debug, Clone, Copy)]
struct Span(u128);

impl Span {
    fn between(before: Instant, now: Instant) -> Self {
        Self(now.duration_since(before).as_nanos().max(1))
    }

    /// A counter of nanoseconds as thousandths of the time. A thread that has ended takes what it
    /// counted with it, and counters begin anew with a new process.
    fn permille(self, before: u64, now: u64) -> u64 {
        self.rate(before, now, 1000)
    }

    fn per_second(self, before: u64, now: u64) -> u64 {
        self.rate(before, now, 1_000_000_000)
    }

    fn rate(self, before: u64, now: u64, times: u128) -> u64 {
        let rate = u128::from(now.saturating_sub(before)) * times / self.0;
        u64::try_from(rate).unwrap_or(u64::MAX)
    }
}

type VmMoment = (Instant, Usage, Option<Monitored>);

fn between(before: &VmMoment, now: &VmMoment) -> ResourceUse {
    let span = Span::between(before.0, now.0);
    let (was, is) = (&before.1, &now.1);
    let limited = span.permille(was.limited_ns, is.limited_ns);
    // A thread that its group's limit holds back waits as well.
    let waited = span.permille(was.ready_ns, is.ready_ns);
    let monitored = now.2.unwrap_or_default();
    let disks = |of: fn(&Monitored) -> DiskCounters| match (&before.2, &now.2) {
        (Some(before), Some(now)) => disk_use(span, &of(before), &of(now)),
        _ => DiskUse::default(),
    };
    ResourceUse {
        cpu_millicpus: span.permille(was.cpu_ns, is.cpu_ns),
        cpu_ready_millicpus: waited.saturating_sub(limited),
        cpu_limited_millicpus: limited,
        memory: is.memory,
        memory_active: is.active,
        memory_swapped: is.swapped,
        memory_ballooned: monitored.ballooned.bytes(),
        memory_stall_permille: part(span.permille(was.stalled_ns, is.stalled_ns)),
        reads: disks(|it| it.reads),
        writes: disks(|it| it.writes),
    }
}

fn disk_use(span: Span, before: &DiskCounters, now: &DiskCounters) -> DiskUse {
    let operations = now.operations.saturating_sub(before.operations);
    let each_ns = now.time_ns.saturating_sub(before.time_ns) / operations.max(1);
    let per_second = span.per_second(before.operations, now.operations);
    DiskUse {
        per_second: u32::try_from(per_second).unwrap_or(u32::MAX),
        bytes_per_second: span.per_second(before.bytes, now.bytes),
        latency_us: if operations == 0 {
            0
        } else {
            u32::try_from(each_ns / 1000).unwrap_or(u32::MAX)
        },
    }
}

fn host_between(before: &(Instant, HostUsage), now: &(Instant, HostUsage)) -> HostUse {
    let span = Span::between(before.0, now.0);
    let (was, is) = (&before.1, &now.1);
    HostUse {
        cpu_millicpus: span.permille(was.cpu_ns, is.cpu_ns),
        cpu_pressure_permille: part(span.permille(was.cpu.some_ns, is.cpu.some_ns)),
        memory: is.memory,
        memory_pressure_permille: part(
            span.permille(was.memory_pressure.some_ns, is.memory_pressure.some_ns),
        ),
        memory_stall_permille: part(
            span.permille(was.memory_pressure.full_ns, is.memory_pressure.full_ns),
        ),
        swapped: is.swapped,
        swapped_in_per_second: span.per_second(was.swapped_in, is.swapped_in),
        io_pressure_permille: part(span.permille(was.io.some_ns, is.io.some_ns)),
    }
}

fn part(permille: u64) -> u16 {
    u16::try_from(permille.min(1000)).unwrap_or(1000)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn moment(begin: Instant, seconds: u64, usage: Usage, disk: Option<DiskCounters>) -> VmMoment {
        let monitored =
            disk.map(|reads| Monitored { reads, ballooned: ByteSize(5), ..Monitored::default() });
        (begin + Duration::from_secs(seconds), usage, monitored)
    }

    #[test]
    fn use_is_a_rate_over_the_time_between_two_looks() {
        let begin = Instant::now();
        let usage =
            |cpu_ns, ready_ns, memory| Usage { cpu_ns, ready_ns, memory, ..Usage::default() };
        let before = moment(begin, 0, usage(1_000_000_000, 900, 10), None);
        let now = moment(begin, 4, usage(3_000_000_000, 100, 20), None);
        let expected = ResourceUse { cpu_millicpus: 500, memory: 20, ..ResourceUse::default() };
        assert_eq!(between(&before, &now), expected, "half a CPU; a thread that waited has ended");
    }

    #[test]
    fn what_a_limit_keeps_back_is_not_what_others_take() {
        let begin = Instant::now();
        let usage =
            Usage { ready_ns: 3_000_000_000, limited_ns: 1_000_000_000, ..Usage::default() };
        let used =
            between(&moment(begin, 0, Usage::default(), None), &moment(begin, 4, usage, None));
        assert_eq!((used.cpu_ready_millicpus, used.cpu_limited_millicpus), (500, 250));
    }

    #[test]
    fn latency_is_that_of_the_operations_in_between() {
        let begin = Instant::now();
        let disk = |operations, bytes, time_ns| Some(DiskCounters { operations, bytes, time_ns });
        let before = moment(begin, 0, Usage::default(), disk(10, 100, 9_000_000));
        let now = moment(begin, 2, Usage::default(), disk(30, 4100, 49_000_000));
        let used = between(&before, &now);
        let expected = DiskUse { per_second: 10, bytes_per_second: 2000, latency_us: 2000 };
        assert_eq!((used.reads, used.writes), (expected, DiskUse::default()));
        assert_eq!(used.memory_ballooned, 5);
        let unknown = moment(begin, 4, Usage::default(), None);
        assert!(between(&now, &unknown).reads.is_idle(), "its monitor did not answer");
    }
}
