//! Sealing: taking out of a guest what must not be the same in two machines.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::size::ByteSize;

/// What was taken out of a guest. It holds until the guest runs again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Seal {
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    pub way: SealWay,
    /// As the guest calls itself, such as `Debian GNU/Linux 12 (bookworm)`.
    pub os: String,
    /// Everything, in the order in which it was removed.
    pub removed: Vec<Removed>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SealWay {
    /// In the running guest, through its agent.
    Guest,
    /// On the disks, without starting it.
    Offline,
}

impl SealWay {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Guest => "guest",
            Self::Offline => "offline",
        }
    }
}

/// A file that was removed or emptied, or a directory whose content was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Removed {
    /// What kind of thing it is, such as `SSH host key`.
    pub what: String,
    /// In the guest.
    pub path: String,
    /// How many files: 1 for a file.
    pub files: u64,
    pub size: ByteSize,
}
