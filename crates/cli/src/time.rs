//! Points in time, for tables.

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// Local time, to the second.
pub(crate) fn show(at: Timestamp) -> String {
    at.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// How long ago, in its largest unit: `45s`, `12m`, `3h`, `5d`.
pub(crate) fn age(at: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(at).as_secs().max(0);
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

/// A span of time, in the largest unit that says it exactly: `90s`, `5m`, `72h`, `7d`.
pub(crate) fn span(seconds: u64) -> String {
    const UNITS: [(u64, char); 3] = [(86_400, 'd'), (3600, 'h'), (60, 'm')];
    let unit = UNITS.iter().find(|(unit, _)| seconds >= *unit && seconds.is_multiple_of(*unit));
    match unit {
        Some((unit, name)) => format!("{}{name}", seconds / unit),
        None => format!("{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_exact() {
        let check = |seconds, text: &str| assert_eq!(span(seconds), text);
        check(0, "0s");
        check(90, "90s");
        check(300, "5m");
        check(259_200, "3d");
        check(270_000, "75h");
    }

    #[test]
    fn ages_have_one_unit() {
        let check = |seconds: i64, text: &str| {
            let now = Timestamp::from_second(10_000_000).unwrap();
            let at = Timestamp::from_second(10_000_000 - seconds).unwrap();
            assert_eq!(age(at, now), text);
        };
        check(-5, "0s");
        check(119, "119s");
        check(120, "2m");
        check(7199, "119m");
        check(7200, "2h");
        check(172_800, "2d");
    }
}
