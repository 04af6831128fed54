//! What the host as a whole has used, and how short it is: `/proc`, all of it counters since its start
//! but for what is held now.

use std::fs;
use std::path::Path;

use crate::stat::Stat;

/// Pressure stall information of one resource: for how long something, and everything, waited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pressure {
    /// In nanoseconds.
    pub some_ns: u64,
    /// In nanoseconds.
    pub full_ns: u64,
}

/// What the host has used since its start, and what it holds now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HostUsage {
    /// CPU time of everything, in nanoseconds.
    pub cpu_ns: u64,
    /// Memory that is in use and not at hand, in bytes.
    pub memory: u64,
    /// Memory on swap, in bytes.
    pub swapped: u64,
    /// Memory that came back from swap, in bytes.
    pub swapped_in: u64,
    pub cpu: Pressure,
    pub memory_pressure: Pressure,
    pub io: Pressure,
}

impl Pressure {
    /// Of a PSI file. A kernel without it has no pressure.
    pub(crate) fn parse(text: &str) -> Self {
        let total = |line: &str| {
            let total = line.split_whitespace().find_map(|word| word.strip_prefix("total="));
            total.and_then(|total| total.parse::<u64>().ok()).unwrap_or(0).saturating_mul(1000)
        };
        let of = |kind: &str| text.lines().find(|line| line.starts_with(kind)).map_or(0, total);
        Self { some_ns: of("some"), full_ns: of("full") }
    }
}

impl HostUsage {
    /// Reads it; `proc` is `/proc`. None without the files that every kernel has.
    pub fn read(proc: &Path) -> Option<Self> {
        let read = |file: &str| fs::read_to_string(proc.join(file)).ok();
        let pressure = |of: &str| Pressure::parse(&read(of).unwrap_or_default());
        let memory = Stat::from(read("meminfo")?.replace(':', ""));
        let kib = |name: &str| memory.sum(&[name]).saturating_mul(1024);
        let page = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
        let swapped_in = Stat::from(read("vmstat")?).sum(&["pswpin"]);
        Some(Self {
            cpu_ns: cpu_time(&read("stat")?)?,
            memory: kib("MemTotal").saturating_sub(kib("MemAvailable")),
            swapped: kib("SwapTotal").saturating_sub(kib("SwapFree")),
            swapped_in: swapped_in.saturating_mul(page),
            cpu: pressure("pressure/cpu"),
            memory_pressure: pressure("pressure/memory"),
            io: pressure("pressure/io"),
        })
    }
}

/// The first line of `/proc/stat`, in ticks: `cpu user nice system idle iowait irq softirq steal …`.
/// Guests' time is in `user`.
fn cpu_time(stat: &str) -> Option<u64> {
    let line = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks = line.split_whitespace().map(|word| word.parse::<u64>().unwrap_or(0));
    let ticks: Vec<u64> = ticks.collect();
    let busy = [0, 1, 2, 5, 6].iter().filter_map(|at| ticks.get(*at)).sum::<u64>();
    let per_second = rustix::param::clock_ticks_per_second().max(1);
    Some(busy.saturating_mul(1_000_000_000 / per_second))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pressure_is_read_and_its_absence_is_none() {
        let text = "some avg10=0.00 avg60=0.00 avg300=0.00 total=11\n\
            full avg10=0.00 avg60=0.00 avg300=0.00 total=2\n";
        assert_eq!(Pressure::parse(text), Pressure { some_ns: 11_000, full_ns: 2000 });
        assert_eq!(Pressure::parse(""), Pressure::default());
    }

    #[test]
    fn a_host_is_read_as_a_whole() {
        let proc = tempfile::tempdir().unwrap();
        let write = |file: &str, text: &str| fs::write(proc.path().join(file), text).unwrap();
        assert_eq!(HostUsage::read(proc.path()), None);
        write("stat", "cpu  100 0 50 9999 5 1 1 7 60 0\ncpu0 1\n");
        write(
            "meminfo",
            "MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 400 kB\nSwapTotal: 9 kB\nSwapFree: 7 kB\n",
        );
        write("vmstat", "pswpin 3\npswpout 9\n");
        let usage = HostUsage::read(proc.path()).unwrap();
        assert_eq!((usage.memory, usage.swapped), (600 << 10, 2 << 10));
        let page = u64::try_from(rustix::param::page_size()).unwrap();
        assert_eq!(usage.swapped_in, 3 * page);
        let tick = 1_000_000_000 / rustix::param::clock_ticks_per_second();
        assert_eq!((usage.cpu_ns, usage.cpu), (152 * tick, Pressure::default()));
    }

    #[test]
    fn this_host_has_used_something() {
        let usage = HostUsage::read(Path::new("/proc")).unwrap();
        assert!(usage.cpu_ns > 0 && usage.memory > 0, "{usage:?}");
    }
}
