//! Memory: balloon and what is plugged.

use serde::{Deserialize, Serialize};

use super::{Command, Empty};

/// Asks the guest to shrink or grow to so many bytes.
#[derive(Debug, Serialize)]
pub struct Balloon {
    /// What the guest shall have left, in bytes.
    pub value: u64,
}
impl Command for Balloon {
    const NAME: &'static str = "balloon";
    type Return = Empty;
}

/// What the balloon leaves the guest.
#[derive(Debug, Serialize)]
pub struct QueryBalloon;
impl Command for QueryBalloon {
    const NAME: &'static str = "query-balloon";
    type Return = BalloonInfo;
}

/// Answer of [`QueryBalloon`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct BalloonInfo {
    /// In bytes.
    pub actual: u64,
}

/// The machine's memory.
#[derive(Debug, Serialize)]
pub struct QueryMemorySizeSummary;
impl Command for QueryMemorySizeSummary {
    const NAME: &'static str = "query-memory-size-summary";
    type Return = MemorySizeSummary;
}

/// Answer of [`QueryMemorySizeSummary`], in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MemorySizeSummary {
    /// At start.
    pub base_memory: u64,
    /// Plugged since.
    pub plugged_memory: Option<u64>,
}
