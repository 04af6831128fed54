//! Leases: a VM that is not renewed is stopped when its lease ends, and recycled some time after.
//!
//! ```text
//!            warn_at          expires_at          recycle_at
//!  active ----------> warned -----------> ended ------------> (recycle bin)
//!    ^                  |                   |
//!    +----- renew ------+-------------------+
//! ```

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::vm_requests::SpecError;

/// A warning comes so long before the end, or a quarter of a short lease before.
const WARNING: SignedDuration = SignedDuration::from_hours(24);
const SHORTEST: u64 = 1;
const LONGEST: u64 = 10 * 366 * 24 * 3600;

/// How long a VM may stay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Lease {
    /// When it is stopped, and is not started any more.
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
    /// When a warning is told.
    #[schema(value_type = String, format = DateTime)]
    pub warn_at: Timestamp,
    /// When it goes to the recycle bin.
    #[schema(value_type = String, format = DateTime)]
    pub recycle_at: Timestamp,
    /// How long it was given for, in seconds: what a renewal without a term gives again.
    pub seconds: u64,
    #[serde(default)]
    pub stage: LeaseStage,
}

/// What has been done about a lease.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum LeaseStage {
    #[default]
    Active,
    /// It was told that it ends soon.
    Warned,
    /// The VM was stopped.
    Ended,
}

impl Lease {
    /// A lease that begins now and ends after so many seconds.
    ///
    /// # Errors
    /// The term is not 1 second to 10 years.
    pub fn begin(seconds: u64, grace: SignedDuration, now: Timestamp) -> Result<Self, SpecError> {
        let wrong = || SpecError::new("seconds", "a lease lasts 1 second to 10 years");
        if !(SHORTEST..=LONGEST).contains(&seconds) {
            return Err(wrong());
        }
        let length = SignedDuration::from_secs(i64::try_from(seconds).map_err(|_| wrong())?);
        let warning = WARNING.min(length / 4);
        let expires_at = now + length;
        let warn_at = expires_at - warning;
        let recycle_at = expires_at + grace;
        Ok(Self { expires_at, warn_at, recycle_at, seconds, stage: LeaseStage::Active })
    }

    /// When the next thing is to be done.
    pub fn next(&self) -> Timestamp {
        match self.stage {
            LeaseStage::Active => self.warn_at,
            LeaseStage::Warned => self.expires_at,
            LeaseStage::Ended => self.recycle_at,
        }
    }

    pub fn is_over(&self, now: Timestamp) -> bool {
        self.expires_at <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_warns_stops_and_recycles_in_this_order() {
        let now = Timestamp::UNIX_EPOCH;
        let grace = SignedDuration::from_hours(48);
        let mut lease = Lease::begin(30 * 24 * 3600, grace, now).unwrap();
        let mut days = Vec::new();
        for stage in [LeaseStage::Active, LeaseStage::Warned, LeaseStage::Ended] {
            lease.stage = stage;
            days.push(lease.next().as_second() / (24 * 3600));
        }
        assert_eq!(days, [29, 30, 32]);
        let short = Lease::begin(4, grace, now).unwrap();
        assert_eq!(short.warn_at.as_second(), 3);
        for wrong in [0, LONGEST + 1, u64::MAX] {
            assert!(Lease::begin(wrong, grace, now).is_err(), "{wrong}");
        }
    }
}
