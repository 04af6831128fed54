//! How long a running guest will stand still when it is moved, and how long the move takes: from how much
//! it holds, how fast it writes, and how fast the hosts send.
//!
//! Its memory is sent again and again, each time what was written meanwhile. So each round is as much
//! smaller as the guest writes more slowly than is sent; when it does not write more slowly, no round gets
//! smaller, and it would stand still for a whole round.

use std::fmt;

/// What counts as small enough that no further round is worth it, in milliseconds: the same as sending
/// begins with.
const SMALL_MS: u64 = 30;
/// The guest's devices, and the answer of the other host: what a standstill takes at least, in
/// milliseconds.
const SWITCHOVER_MS: u64 = 25;
/// More rounds get nowhere.
const ROUNDS: u32 = 30;

/// What was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Measured {
    /// Bytes of memory that the guest has ever used: the rest is zero and costs nothing.
    pub resident: u64,
    /// Bytes of different pages that it writes a second.
    pub dirty_rate: u64,
    /// Bytes a second that come through between the hosts.
    pub bandwidth: u64,
}

/// What is to be expected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forecast {
    /// How long the guest stands still, in milliseconds.
    pub pause_ms: u64,
    /// From the first byte until it runs on the other host, in milliseconds.
    pub total_ms: u64,
    /// How often memory is sent while the guest runs.
    pub rounds: u32,
    measured: Measured,
}

/// What is to be expected of a move whose guest may stand still for `budget_ms`.
pub fn forecast(measured: Measured, budget_ms: u64) -> Forecast {
    let Measured { resident, dirty_rate, bandwidth } = measured;
    let enough = SMALL_MS.min(budget_ms.saturating_sub(SWITCHOVER_MS));
    let (mut round, mut running_ms, mut rounds) = (resident, 0_u64, 0);
    while rounds < ROUNDS {
        let took = duration_ms(round, bandwidth);
        let written = written(dirty_rate, took).min(resident);
        running_ms = running_ms.saturating_add(took);
        rounds += 1;
        let shrinks = written < round / 10 * 9;
        round = round.min(written);
        if !shrinks || duration_ms(round, bandwidth) <= enough {
            break;
        }
    }
    let pause_ms = duration_ms(round, bandwidth).saturating_add(SWITCHOVER_MS);
    Forecast { pause_ms, total_ms: running_ms.saturating_add(pause_ms), rounds, measured }
}

impl Forecast {
    pub const fn fits(&self, budget_ms: u64) -> bool {
        self.pause_ms <= budget_ms
    }
}

impl fmt::Display for Forecast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Measured { resident, dirty_rate, bandwidth } = self.measured;
        write!(
            f,
            "about {} ms of standstill and {} ms in total: {} MiB of memory are in use, the guest \
             writes {} MB/s, and {} MB/s come through to that host",
            self.pause_ms,
            self.total_ms,
            resident >> 20,
            dirty_rate / 1_000_000,
            bandwidth / 1_000_000
        )
    }
}

/// How long so many bytes take, in milliseconds, rounded up; for ever, if nothing comes through.
fn duration_ms(bytes: u64, bandwidth: u64) -> u64 {
    let whole = u128::from(bytes) * 1000;
    let Some(ms) = whole.checked_div(u128::from(bandwidth)) else { return u64::MAX };
    u64::try_from(ms + u128::from(whole % u128::from(bandwidth) > 0)).unwrap_or(u64::MAX)
}

fn written(dirty_rate: u64, ms: u64) -> u64 {
    u64::try_from(u128::from(dirty_rate) * u128::from(ms) / 1000).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1_000_000;

    fn of(resident: u64, dirty_rate: u64, bandwidth: u64, budget_ms: u64) -> Forecast {
        let measured = Measured {
            resident: resident * MB,
            dirty_rate: dirty_rate * MB,
            bandwidth: bandwidth * MB,
        };
        forecast(measured, budget_ms)
    }

    #[test]
    fn a_quiet_guest_is_sent_once_and_stands_still_for_its_devices_only() {
        let told = of(100, 0, 200, 300);
        assert_eq!((told.pause_ms, told.total_ms, told.rounds), (25, 525, 1));
        assert!(told.fits(300) && !told.fits(24));
    }

    #[test]
    fn each_round_is_smaller_until_it_is_small_enough() {
        // 1000 ms, 250, 62.5, and then 15.6 are left.
        let told = of(100, 25, 100, 300);
        assert_eq!((told.pause_ms, told.rounds), (16 + 25, 3), "{told}");
        assert_eq!(told.total_ms, 1000 + 250 + 63 + 41);
    }

    #[test]
    fn a_guest_that_writes_as_fast_as_is_sent_stands_still_for_a_whole_round() {
        let told = of(500, 100, 100, 300);
        assert_eq!((told.pause_ms, told.rounds), (5025, 1));
        assert!(!told.fits(300));
        assert!(of(500, 1000, 100, 300).pause_ms <= 5025, "never more than all of it");
    }

    #[test]
    fn nothing_overflows_and_a_dead_link_never_fits() {
        assert!(!of(500, 1, 0, 60_000).fits(60_000));
        let most = Measured { resident: u64::MAX, dirty_rate: u64::MAX, bandwidth: 1 };
        assert!(!forecast(most, 300).fits(300));
        assert_eq!(of(0, 0, 0, 300).pause_ms, u64::MAX, "nothing comes through at all");
    }

    #[test]
    fn a_faster_link_never_means_a_longer_standstill_or_move() {
        for dirty in [0, 10, 90, 400] {
            let mut before = of(800, dirty, 10, 300);
            for bandwidth in [20, 50, 100, 200, 500, 1000, 5000] {
                let now = of(800, dirty, bandwidth, 300);
                assert!(now.pause_ms <= before.pause_ms.max(55), "{dirty} {bandwidth}");
                before = now;
            }
        }
    }
}
