//! How much of its host a VM may use at most: CPU time, and I/O of a disk.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::size::ByteSize;

/// CPU time in thousandths of a host CPU, 10 to 1024000: 1500 is one and a half CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "u32", into = "u32")]
#[schema(value_type = u32, minimum = 10, maximum = 1_024_000)]
pub struct Millicpus(u32);

impl Millicpus {
    /// Below a hundredth of a CPU the kernel's accounting is coarser than the limit.
    const RANGE: std::ops::RangeInclusive<u32> = 10..=1_024_000;

    pub const fn count(self) -> u32 {
        self.0
    }
}
impl TryFrom<u32> for Millicpus {
    type Error = String;
    fn try_from(count: u32) -> Result<Self, String> {
        if Self::RANGE.contains(&count) {
            return Ok(Self(count));
        }
        Err(format!("{count} thousandths of a CPU are not possible; 10 to 1024000"))
    }
}
impl From<Millicpus> for u32 {
    fn from(limit: Millicpus) -> Self {
        limit.0
    }
}
impl fmt::Display for Millicpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / 1000, self.0 % 1000);
        if rest == 0 {
            return whole.fmt(f);
        }
        f.write_str(format!("{whole}.{rest:03}").trim_end_matches('0'))
    }
}
/// Reads CPUs, such as `2` or `0.5`.
impl FromStr for Millicpus {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no number of CPUs; use 0.01 to 1024, such as 1.5");
        let (whole, rest) = text.split_once('.').unwrap_or((text, ""));
        let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || rest.len() > 3 || !digits(whole) || !digits(rest) {
            return Err(wrong());
        }
        let count = format!("{whole}{rest:0<3}").parse::<u32>().map_err(|_| wrong())?;
        Self::try_from(count).map_err(|_| wrong())
    }
}

/// What a disk may do per second, reads and writes together. Absent: no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct IoLimits {
    /// Operations per second.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iops: Option<u64>,
    /// Operations per second for a second at a time; needs `iops`, and is more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iops_burst: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_per_second: Option<ByteSize>,
    /// For a second at a time; needs `bytes_per_second`, and is more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_per_second_burst: Option<ByteSize>,
}

impl IoLimits {
    /// QEMU's own bound for a rate.
    const MOST: u64 = 1_000_000_000_000_000;

    pub fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }

    /// # Errors
    /// A rate of nothing, or a burst that is none.
    pub fn validate(&self) -> Result<(), String> {
        let bytes = |size: Option<ByteSize>| size.map(ByteSize::bytes);
        let pairs = [
            ("iops", self.iops, self.iops_burst),
            ("bytes_per_second", bytes(self.bytes_per_second), bytes(self.bytes_per_second_burst)),
        ];
        for (what, rate, burst) in pairs {
            if [rate, burst].into_iter().flatten().any(|n| n == 0 || n > Self::MOST) {
                return Err(format!("{what}: 1 to {}; leave it out for no limit", Self::MOST));
            }
            match (rate, burst) {
                (None, Some(_)) => return Err(format!("{what}_burst needs {what}")),
                (Some(rate), Some(burst)) if burst <= rate => {
                    return Err(format!(
                        "{what}_burst ({burst}) must be more than {what} ({rate})"
                    ));
                }
                _ => {}
            }
        }
        Ok(())
    }
}
impl fmt::Display for IoLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        let burst = |burst: Option<String>| {
            burst.map_or_else(String::new, |burst| format!(" (burst {burst})"))
        };
        if let Some(iops) = self.iops {
            parts.push(format!("{iops} IOPS{}", burst(self.iops_burst.map(|n| n.to_string()))));
        }
        if let Some(rate) = self.bytes_per_second {
            let most = burst(self.bytes_per_second_burst.map(|n| format!("{n}/s")));
            parts.push(format!("{rate}/s{most}"));
        }
        f.pad(&if parts.is_empty() { "none".to_owned() } else { parts.join(", ") })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_limits_are_read_and_written_as_cpus() {
        for (text, count) in [("2", 2000), ("0.5", 500), ("1.25", 1250), ("0.01", 10)] {
            let limit: Millicpus = text.parse().unwrap();
            assert_eq!((limit.count(), limit.to_string().as_str()), (count, text));
        }
        for bad in ["", "0", "0.001", "-1", "1.2345", "1,5", ".5", "9999999", "1e3"] {
            assert!(bad.parse::<Millicpus>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_burst_is_more_than_what_it_interrupts() {
        let check = |limits: IoLimits, fine: bool| {
            assert_eq!(limits.validate().is_ok(), fine, "{limits}");
        };
        let none = IoLimits::default();
        check(none, true);
        check(IoLimits { iops: Some(100), ..none }, true);
        check(IoLimits { iops: Some(0), ..none }, false);
        check(IoLimits { iops: Some(100), iops_burst: Some(100), ..none }, false);
        check(IoLimits { iops: Some(100), iops_burst: Some(500), ..none }, true);
        check(IoLimits { bytes_per_second_burst: Some(ByteSize::mib(1)), ..none }, false);
    }
}
