//! What is kept of one VM's measurements: 84 bytes, for there may be 400,000 of them.

use hostler_policy::cluster::{Contention, Demand};
use hostler_types::{ByteSize, DiskUse, MeanDemand, ResourceUse};

use super::demand::{Lately, Seen, Wanted};

/// Over which the means are taken: after so long, what was before counts for little more than a third.
const RECENT: f32 = 300.0;
const HOUR: f32 = 3600.0;
/// Memory is kept in pages.
const PAGE: u64 = 4096;

/// A moment, in tenths of a second since some other one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Tenths(pub(super) u32);

#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Kept {
    /// When what is told now was told.
    at: Tenths,
    /// In thousandths of a CPU: used, waited for, kept back by its limit.
    cpu: [u32; 3],
    /// In pages: held, active, swapped, ballooned.
    memory: [u32; 4],
    stall_permille: u16,
    disks: [Disk; 2],
    /// Until `at`.
    recent: Means,
    hour: Means,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Disk {
    per_second: u32,
    kib_per_second: u32,
    latency_us: u32,
}

/// In thousandths of a CPU, and in pages.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Means {
    used: f32,
    ready: f32,
    memory: f32,
}

impl Kept {
    pub(super) fn new(used: &ResourceUse, at: Tenths) -> Self {
        let pages = |bytes: u64| narrow(bytes / PAGE);
        let disk = |disk: &DiskUse| Disk {
            per_second: disk.per_second,
            kib_per_second: narrow(disk.bytes_per_second / 1024),
            latency_us: disk.latency_us,
        };
        let cpu = [used.cpu_millicpus, used.cpu_ready_millicpus, used.cpu_limited_millicpus];
        let memory = [used.memory, used.memory_active, used.memory_swapped, used.memory_ballooned];
        let (cpu, memory) = (cpu.map(narrow), memory.map(pages));
        let means = Means::of(&cpu, &memory);
        Self {
            at,
            cpu,
            memory,
            stall_permille: used.memory_stall_permille,
            disks: [disk(&used.reads), disk(&used.writes)],
            recent: means,
            hour: means,
        }
    }

    /// Something else is told from `at` on; until then it was what was told before.
    pub(super) fn note(&mut self, used: &ResourceUse, at: Tenths) {
        let (recent, hour) = self.means(at);
        *self = Self { recent, hour, ..Self::new(used, at) };
    }

    /// Over the last 5 minutes and the last hour.
    fn means(&self, now: Tenths) -> (Means, Means) {
        let held = Means::of(&self.cpu, &self.memory);
        let tenths = now.0.saturating_sub(self.at.0);
        #[expect(clippy::cast_precision_loss, reason = "a part of a mean")]
        let seconds = tenths as f32 / 10.0;
        (self.recent.after(held, seconds, RECENT), self.hour.after(held, seconds, HOUR))
    }

    pub(super) fn wanted(&self) -> Wanted {
        let [used, ready, _] = self.cpu;
        let [memory, _, swapped, _] = self.memory.map(bytes);
        Wanted { used, wanted: used.saturating_add(ready), memory: memory.saturating_add(swapped) }
    }

    pub(super) fn lately(&self, mhz: u64, now: Tenths) -> Lately {
        let (recent, hour) = self.means(now);
        let memory = |means: &Means| ByteSize(bytes(whole(means.memory)));
        let [_, _, swapped, ballooned] = self.memory.map(|pages| ByteSize(bytes(pages)));
        Lately {
            demand: Demand { cpu: as_mhz(recent.used, mhz), memory: memory(&recent) },
            demand_hour: Demand { cpu: as_mhz(hour.used + hour.ready, mhz), memory: memory(&hour) },
            contention: Contention {
                cpu_ready_permille: recent.ready_permille(),
                memory_stall_permille: self.stall_permille.min(1000),
                swapped,
                ballooned,
            },
            missed: as_mhz(recent.ready, mhz),
        }
    }

    pub(super) fn seen(&self, mhz: u64, now: Tenths) -> Seen {
        let (recent, hour) = self.means(now);
        let mean = |means: Means| MeanDemand {
            cpu_mhz: as_mhz(means.used + means.ready, mhz),
            memory: bytes(whole(means.memory)),
        };
        let used = self.used();
        let ready_permille = used.cpu_ready_permille();
        Seen { used, demand: mean(recent), demand_hour: mean(hour), ready_permille }
    }

    fn used(&self) -> ResourceUse {
        let [cpu, ready, limited] = self.cpu.map(u64::from);
        let [held, active, swapped, ballooned] = self.memory.map(bytes);
        let disk = |disk: Disk| DiskUse {
            per_second: disk.per_second,
            bytes_per_second: u64::from(disk.kib_per_second) * 1024,
            latency_us: disk.latency_us,
        };
        ResourceUse {
            cpu_millicpus: cpu,
            cpu_ready_millicpus: ready,
            cpu_limited_millicpus: limited,
            memory: held,
            memory_active: active,
            memory_swapped: swapped,
            memory_ballooned: ballooned,
            memory_stall_permille: self.stall_permille,
            reads: disk(self.disks[0]),
            writes: disk(self.disks[1]),
        }
    }
}

impl Means {
    #[expect(clippy::cast_precision_loss, reason = "a mean need not be exact to the last page")]
    fn of(cpu: &[u32; 3], memory: &[u32; 4]) -> Self {
        Self { used: cpu[0] as f32, ready: cpu[1] as f32, memory: memory[0] as f32 }
    }

    /// When `held` has held for so long since.
    fn after(self, held: Self, seconds: f32, over: f32) -> Self {
        let before = (-seconds / over).exp();
        let mean = |was: f32, is: f32| is + (was - is) * before;
        Self {
            used: mean(self.used, held.used),
            ready: mean(self.ready, held.ready),
            memory: mean(self.memory, held.memory),
        }
    }

    fn ready_permille(&self) -> u16 {
        let permille = self.ready * 1000.0 / (self.used + self.ready).max(1.0);
        u16::try_from(whole(permille)).unwrap_or(1000).min(1000)
    }
}

fn narrow(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn bytes(pages: u32) -> u64 {
    u64::from(pages) * PAGE
}

fn as_mhz(millicpus: f32, mhz: u64) -> u64 {
    u64::from(whole(millicpus)).saturating_mul(mhz) / 1000
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a cast to an integer ends at its bounds"
)]
fn whole(number: f32) -> u32 {
    number.round() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn busy(cpu_millicpus: u64, cpu_ready_millicpus: u64) -> ResourceUse {
        ResourceUse { cpu_millicpus, cpu_ready_millicpus, ..ResourceUse::default() }
    }

    #[test]
    fn it_is_small() {
        assert!(size_of::<Kept>() <= 84, "{} bytes", size_of::<Kept>());
    }

    #[test]
    fn what_is_told_is_what_is_seen() {
        let disk = |latency_us| DiskUse { per_second: 7, bytes_per_second: 8192, latency_us };
        let used = ResourceUse {
            cpu_millicpus: 1,
            cpu_ready_millicpus: 3,
            cpu_limited_millicpus: 4,
            memory: 5 << 20,
            memory_active: 6 << 20,
            memory_swapped: 7 << 20,
            memory_ballooned: 8 << 20,
            memory_stall_permille: 9,
            reads: disk(10),
            writes: disk(11),
        };
        let kept = Kept::new(&used, Tenths(5));
        let seen = kept.seen(2000, Tenths(5));
        assert_eq!((seen.used, seen.ready_permille), (used, 750));
        assert_eq!(seen.demand, MeanDemand { cpu_mhz: 8, memory: 5 << 20 });
        assert_eq!(kept.wanted(), Wanted { used: 1, wanted: 4, memory: 12 << 20 });
    }

    /// What was told holds until something else is told: whether it is told once or again and again
    /// is the same.
    #[test]
    fn means_follow_what_was_told_for_how_long() {
        let mut kept = Kept::new(&busy(0, 0), Tenths(0));
        kept.note(&busy(1000, 1000), Tenths(36_000));
        let after = |kept: &Kept, seconds: u32| kept.lately(1000, Tenths(36_000 + seconds * 10));
        let at_once = after(&kept, 0);
        assert_eq!((at_once.demand.cpu, at_once.contention.cpu_ready_permille), (0, 0));
        let five = after(&kept, 300);
        // 1 - 1/e of it.
        assert!((630..=634).contains(&five.demand.cpu), "{five:?}");
        assert!((155..=165).contains(&five.demand_hour.cpu), "{five:?}");
        assert_eq!(five.contention.cpu_ready_permille, 500);
        assert!((630..=634).contains(&five.missed), "{five:?}");
        let mut again = kept;
        for seconds in (10..=300).step_by(10) {
            again.note(&busy(1000, 1000), Tenths(36_000 + seconds * 10));
        }
        let often = after(&again, 300);
        assert!(often.demand.cpu.abs_diff(five.demand.cpu) <= 1, "{often:?}");
    }
}
