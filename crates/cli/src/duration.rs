//! Durations as people write them: `90s`, `5m`, `2h`, `90d`.

use std::time::Duration;

/// A whole number and a unit (s, m, h, d); without a unit: seconds. At least one second.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let wrong =
        || format!("`{}` is not a duration; write it like 90s, 5m, 2h or 30d", text.escape_debug());
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let factor = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 24 * 3600,
        _ => return Err(wrong()),
    };
    let number: u64 = number.parse().map_err(|_| wrong())?;
    match number.checked_mul(factor) {
        Some(seconds @ 1..=3_153_600_000) => Ok(Duration::from_secs(seconds)),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        let check = |text, seconds| assert_eq!(parse(text), Ok(Duration::from_secs(seconds)));
        check("90s", 90);
        check("90", 90);
        check("5m", 300);
        check("2h", 7200);
        check("90d", 7_776_000);
        for bad in ["", "s", "-1s", "1.5m", "0", "0s", "1w", "99999999999999999999s", "9999999d"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
