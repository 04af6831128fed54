//! Character devices: serial ports, the guest agent's channel, the monitor itself.

use serde::{Deserialize, Serialize};

use super::{Command, Empty};

/// All character devices.
#[derive(Debug, Serialize)]
pub struct QueryChardev;
impl Command for QueryChardev {
    const NAME: &'static str = "query-chardev";
    type Return = Vec<ChardevInfo>;
}

/// Part of [`QueryChardev`]'s answer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ChardevInfo {
    /// Its id.
    pub label: String,
    /// Where it leads, for people.
    pub filename: String,
    /// Whether the guest's side is open. True after a connect of the guest agent, for example.
    pub frontend_open: bool,
}

/// Removes a character device that nothing uses.
#[derive(Debug, Serialize)]
pub struct ChardevRemove {
    /// Its id.
    pub id: String,
}
impl Command for ChardevRemove {
    const NAME: &'static str = "chardev-remove";
    type Return = Empty;
}
