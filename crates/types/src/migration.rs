//! How a VM goes from one host to another.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How long a guest may stand still when nothing else is said, in milliseconds.
pub const DOWNTIME_MS: u64 = 300;

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
