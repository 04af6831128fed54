//! When a guest whose QEMU died is started again: at most 5 times in 10 minutes, with a pause that
//! doubles, so that a guest that cannot run does not keep its host busy.

use std::time::Duration;

use hostler_types::RestartPolicy;
use jiff::Timestamp;

const ATTEMPTS: usize = 5;
const WINDOW: Duration = Duration::from_secs(600);
const FIRST_PAUSE: Duration = Duration::from_millis(500);

/// How long to wait before the next start; `None`: do not start again. `restarts` is when it was
/// done before; what is too old to count is dropped from it.
pub(crate) fn pause_before_restart(
    policy: RestartPolicy,
    restarts: &mut Vec<Timestamp>,
    now: Timestamp,
) -> Option<Duration> {
    restarts.retain(|at| now.duration_since(*at).unsigned_abs() < WINDOW);
    match policy {
        RestartPolicy::Never => None,
        RestartPolicy::OnFailure if restarts.len() >= ATTEMPTS => None,
        RestartPolicy::OnFailure => {
            let doublings = u32::try_from(restarts.len()).unwrap_or(0);
            Some(FIRST_PAUSE * 2u32.pow(doublings))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_restarts_in_ten_minutes() {
        let second = |n: i64| Timestamp::from_second(1_000_000 + n).unwrap();
        let mut restarts = Vec::new();
        let mut pauses = Vec::new();
        for n in 0..7 {
            let pause =
                pause_before_restart(RestartPolicy::OnFailure, &mut restarts, second(n * 10));
            if let Some(pause) = pause {
                restarts.push(second(n * 10));
                pauses.push(pause.as_millis());
            }
        }
        assert_eq!(pauses, [500, 1000, 2000, 4000, 8000]);
        let later = second(700);
        assert!(pause_before_restart(RestartPolicy::OnFailure, &mut restarts, later).is_some());
        assert!(restarts.is_empty(), "what is long ago does not count");
        assert_eq!(pause_before_restart(RestartPolicy::Never, &mut restarts, later), None);
    }
}
