//! How a VM goes from one host to another.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::HostId;

/// How long a guest may stand still when nothing else is said, in milliseconds.
pub const DOWNTIME_MS: u64 = 300;

/// The most that it may be told to stand still, in milliseconds.
pub const MOST_DOWNTIME_MS: u64 = 60_000;

/// What a VM says of its own moves, for when the command does not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct MigrationTerms {
    /// How long its guest may stand still, in milliseconds; absent: 300.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 60_000)]
    pub downtime_ms: Option<u64>,
    /// What is done when that cannot be kept; absent: `throttle`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub policy: Option<MigrationPolicy>,
}

impl MigrationTerms {
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }

    /// How long the guest may stand still, in milliseconds.
    pub fn downtime(&self) -> u64 {
        self.downtime_ms.unwrap_or(DOWNTIME_MS)
    }

    /// What these say, else those.
    #[must_use]
    pub fn or(self, other: Self) -> Self {
        Self {
            downtime_ms: self.downtime_ms.or(other.downtime_ms),
            policy: self.policy.or(other.policy),
        }
    }

    /// # Errors
    /// A sentence: a budget of nothing, or of more than a minute.
    pub fn validate(&self) -> Result<(), String> {
        match self.downtime_ms {
            Some(ms) if !(1..=MOST_DOWNTIME_MS).contains(&ms) => {
                Err(format!("{ms} ms is no downtime budget; 1 to {MOST_DOWNTIME_MS}"))
            }
            _ => Ok(()),
        }
    }
}

/// How a VM's last move to another host went, while its guest ran.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LastMove {
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// The host that it left.
    #[schema(value_type = String)]
    pub from: HostId,
    /// How long the guest stood still, as measured, in microseconds.
    pub paused_microseconds: u64,
    /// How long it was allowed to, in milliseconds.
    pub allowed_ms: u64,
    /// From the first byte until the guest ran on the other host, in microseconds.
    pub total_microseconds: u64,
    /// Bytes that were sent.
    pub transferred: u64,
}

/// What is done with a guest that writes faster than its memory can be sent, so that moving it would
/// keep it standing still for longer than allowed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum MigrationPolicy {
    /// It is sent on until the guest writes less, or the migration is cancelled.
    Wait,
    /// Its CPUs are slowed down, more and more.
    #[default]
    Throttle,
    /// The migration fails, and the guest stays where it is.
    Refuse,
}

impl MigrationPolicy {
    pub const ALL: [Self; 3] = [Self::Wait, Self::Throttle, Self::Refuse];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Wait => "wait",
            Self::Throttle => "throttle",
            Self::Refuse => "refuse",
        }
    }
}

impl std::fmt::Display for MigrationPolicy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for MigrationPolicy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|policy| policy.as_str() == text);
        found.ok_or_else(|| format!("`{text}` is not wait, throttle or refuse"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_between_a_millisecond_and_a_minute_and_300_ms_if_nothing_is_said() {
        let of = |downtime_ms| MigrationTerms { downtime_ms, policy: None };
        assert_eq!(of(None).downtime(), 300);
        assert_eq!(of(Some(50)).downtime(), 50);
        for good in [None, Some(1), Some(60_000)] {
            assert_eq!(of(good).validate(), Ok(()), "{good:?}");
        }
        for bad in [0, 60_001, u64::MAX] {
            assert!(of(Some(bad)).validate().unwrap_err().contains("1 to 60000"), "{bad}");
        }
    }

    #[test]
    fn what_is_said_last_counts_and_what_is_not_said_stays() {
        let vm = MigrationTerms { downtime_ms: Some(50), policy: Some(MigrationPolicy::Refuse) };
        let told = MigrationTerms { downtime_ms: Some(900), policy: None };
        let both = MigrationTerms { downtime_ms: Some(900), policy: Some(MigrationPolicy::Refuse) };
        assert_eq!(told.or(vm), both);
        assert_eq!(MigrationTerms::default().or(vm), vm);
    }
}
