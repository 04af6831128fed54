//! File descriptors handed to QEMU. Use with
//! [`Qmp::execute_with_fds`](crate::Qmp::execute_with_fds).

use serde::{Deserialize, Serialize};

use super::{Command, Empty};

/// Names the descriptor that comes with it, for commands that take an fd's name. An earlier one of
/// that name is closed.
#[derive(Debug, Serialize)]
pub struct Getfd {
    /// The name; it must not begin with a digit.
    pub fdname: String,
}
impl Command for Getfd {
    const NAME: &'static str = "getfd";
    type Return = Empty;
}

/// Closes a named descriptor that no command has taken.
#[derive(Debug, Serialize)]
pub struct Closefd {
    /// Its name.
    pub fdname: String,
}
impl Command for Closefd {
    const NAME: &'static str = "closefd";
    type Return = Empty;
}

/// Puts the descriptor that comes with it into a set, which QEMU then opens as `/dev/fdset/N`.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct AddFd {
    /// The set; without it QEMU makes a new one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fdset_id: Option<u32>,
    /// A note, shown by `query-fdsets`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub opaque: Option<String>,
}
impl Command for AddFd {
    const NAME: &'static str = "add-fd";
    type Return = AddedFd;
}

/// Answer of [`AddFd`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct AddedFd {
    /// The set.
    pub fdset_id: u32,
    /// The descriptor's number within QEMU.
    pub fd: i32,
}

/// Removes a descriptor, or a whole set; it is closed once nothing uses it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct RemoveFd {
    /// The set.
    pub fdset_id: u32,
    /// One descriptor of it; without it all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fd: Option<i32>,
}
impl Command for RemoveFd {
    const NAME: &'static str = "remove-fd";
    type Return = Empty;
}
