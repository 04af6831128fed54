//! How fast a job copies: as fast as the disk can while the guest leaves its disks alone, and slower while
//! the guest uses them, so that its own requests do not wait behind the job's.
//!
//! A job that is not held back fills the disk's queue; then a guest's flush takes as long as all that is
//! queued, 0.1 s and more. What a guest's requests take is known to QEMU, so nobody has to know the disk.

use std::time::Duration;

use hostler_qmp::{
    Qmp,
    command::{BlockJobSetSpeed, QueryBlockstats},
};

use crate::vm::MonitorError;

/// How often the guest is looked at; QEMU shares out a job's speed by the tenth of a second.
pub(crate) const LOOK: Duration = Duration::from_millis(25);
/// In bytes a second, what a job begins with, and has while the guest uses its disks and is content.
const GENTLE: u64 = 256 << 20;
/// It goes on all the same.
const LEAST: u64 = 8 << 20;
/// What a guest's requests may take on average; a flush of a disk that does nothing else takes 1 to 10 ms.
const CONTENT: Duration = Duration::from_millis(20);

/// The speed of one job.
#[derive(Debug)]
pub(crate) struct Pace {
    /// The most it may have, in bytes a second.
    most: Option<u64>,
    /// What it has; `None`: no limit.
    now: Option<u64>,
    seen: Option<Requests>,
}

/// What the guest has asked of its disks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Requests {
    count: u64,
    time: Duration,
}

impl Pace {
    pub(crate) fn new(most: Option<u64>) -> Self {
        Self { most, now: Some(lower(most, GENTLE)), seen: None }
    }

    /// In bytes a second; 0 is no limit.
    pub(crate) fn speed(&self) -> u64 {
        self.now.unwrap_or(0)
    }

    /// Looks at what the guest does, and sets the job's speed by it.
    pub(crate) async fn keep(&mut self, qmp: &Qmp, job: &str) -> Result<(), MonitorError> {
        let devices = qmp.execute(QueryBlockstats).await?;
        let mut all = Requests::default();
        for stats in devices.iter().map(|device| &device.stats) {
            all.count += stats.rd_operations + stats.wr_operations + stats.flush_operations;
            let time = stats.rd_total_time_ns + stats.wr_total_time_ns + stats.flush_total_time_ns;
            all.time += Duration::from_nanos(time);
        }
        let Some(seen) = self.seen.replace(all) else { return Ok(()) };
        let new = Requests {
            count: all.count.saturating_sub(seen.count),
            time: all.time.saturating_sub(seen.time),
        };
        let next = next(self.now, self.most, new);
        if next != self.now {
            self.now = next;
            let set = BlockJobSetSpeed { device: job.to_owned(), speed: self.speed() };
            qmp.execute(set).await?;
        }
        Ok(())
    }
}

/// The speed after these requests.
fn next(now: Option<u64>, most: Option<u64>, new: Requests) -> Option<u64> {
    if new.count == 0 {
        return most;
    }
    let content = new.time <= CONTENT.saturating_mul(u32::try_from(new.count).unwrap_or(u32::MAX));
    let gentle = lower(most, GENTLE);
    let next = match now {
        Some(now) if content => now.saturating_add(now / 4),
        Some(now) => now / 2,
        None => gentle,
    };
    Some(next.clamp(LEAST.min(gentle), gentle))
}

fn lower(most: Option<u64>, than: u64) -> u64 {
    most.map_or(than, |most| most.min(than))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn after(now: Option<u64>, most: Option<u64>, count: u64, milliseconds: u64) -> Option<u64> {
        next(now, most, Requests { count, time: Duration::from_millis(milliseconds) })
    }

    #[test]
    fn a_guest_that_does_nothing_is_not_in_the_way() {
        assert_eq!(after(Some(GENTLE), None, 0, 0), None);
        assert_eq!(after(Some(GENTLE), Some(MIB), 0, 0), Some(MIB));
    }

    #[test]
    fn a_guest_that_waits_long_is_given_way_to() {
        assert_eq!(after(None, None, 5, 5), Some(GENTLE));
        assert_eq!(after(Some(GENTLE), None, 1, 21), Some(GENTLE / 2));
        assert_eq!(after(Some(LEAST), None, 1, 500), Some(LEAST));
        assert_eq!(after(Some(64 * MIB), None, 10, 200), Some(80 * MIB));
        assert_eq!(after(Some(GENTLE), None, 10, 10), Some(GENTLE));
    }

    #[test]
    fn nothing_is_faster_than_it_was_ordered() {
        assert_eq!(Pace::new(Some(MIB)).speed(), MIB);
        assert_eq!(after(Some(MIB), Some(MIB), 10, 10), Some(MIB));
        assert_eq!(after(Some(MIB), Some(MIB), 1, 100), Some(MIB));
        assert_eq!(Pace::new(None).speed(), GENTLE);
    }
}
