//! What the guest says about itself, and what is done to it as a whole.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

use super::{GuestCommand, GuestText, text::ShortList};
use crate::command::Empty;

/// Nothing but an answer.
#[derive(Debug, Serialize)]
pub struct Ping;
impl GuestCommand for Ping {
    const NAME: &'static str = "guest-ping";
    type Return = Empty;
}

/// The agent's version and commands.
#[derive(Debug, Serialize)]
pub struct GetInfo;
impl GuestCommand for GetInfo {
    const NAME: &'static str = "guest-info";
    type Return = AgentInfo;
}

/// Answer of [`GetInfo`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct AgentInfo {
    /// The agent's version.
    pub version: GuestText,
    /// Its commands.
    #[serde(default)]
    pub supported_commands: Vec<AgentCommand>,
}

impl AgentInfo {
    /// Whether the agent has a command and its administrator allows it.
    #[must_use]
    pub fn supports(&self, name: &str) -> bool {
        self.supported_commands.iter().any(|command| command.enabled && *command.name == *name)
    }
}

/// Part of [`AgentInfo`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct AgentCommand {
    /// Its name.
    pub name: GuestText,
    /// Whether it may be used.
    pub enabled: bool,
}

/// The operating system.
#[derive(Debug, Serialize)]
pub struct GetOsinfo;
impl GuestCommand for GetOsinfo {
    const NAME: &'static str = "guest-get-osinfo";
    type Return = OsInfo;
}

/// Answer of [`GetOsinfo`]; the names are those of os-release(5).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct OsInfo {
    /// `debian`, `mswindows`.
    pub id: Option<GuestText>,
    /// `Debian GNU/Linux`.
    pub name: Option<GuestText>,
    /// `Debian GNU/Linux 12 (bookworm)`.
    pub pretty_name: Option<GuestText>,
    /// `12 (bookworm)`.
    pub version: Option<GuestText>,
    /// `12`.
    pub version_id: Option<GuestText>,
    /// `uname -r`.
    pub kernel_release: Option<GuestText>,
    /// `uname -v`.
    pub kernel_version: Option<GuestText>,
    /// `x86_64`.
    pub machine: Option<GuestText>,
}

/// The host name.
#[derive(Debug, Serialize)]
pub struct GetHostName;
impl GuestCommand for GetHostName {
    const NAME: &'static str = "guest-get-host-name";
    type Return = HostNameInfo;
}

/// Answer of [`GetHostName`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct HostNameInfo {
    /// As the guest gives it; see [`GuestText::as_host_name`].
    pub host_name: GuestText,
}

/// The guest's clock, in nanoseconds since the epoch.
#[derive(Debug, Serialize)]
pub struct GetTime;
impl GuestCommand for GetTime {
    const NAME: &'static str = "guest-get-time";
    type Return = i64;
}

/// Sets the guest's clock.
#[derive(Debug, Default, Serialize)]
pub struct SetTime {
    /// Nanoseconds since the epoch; without it the guest reads its hardware clock.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<i64>,
}
impl GuestCommand for SetTime {
    const NAME: &'static str = "guest-set-time";
    type Return = Empty;
}

/// The time zone.
#[derive(Debug, Serialize)]
pub struct GetTimezone;
impl GuestCommand for GetTimezone {
    const NAME: &'static str = "guest-get-timezone";
    type Return = Timezone;
}

/// Answer of [`GetTimezone`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Timezone {
    /// Its name, if the guest knows one.
    pub zone: Option<GuestText>,
    /// Seconds east of UTC.
    pub offset: i32,
}

/// Who is logged in.
#[derive(Debug, Serialize)]
pub struct GetUsers;
impl GuestCommand for GetUsers {
    const NAME: &'static str = "guest-get-users";
    type Return = ShortList<LoggedInUser>;
}

/// Part of [`GetUsers`]' answer.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct LoggedInUser {
    /// The user's name.
    pub user: GuestText,
    /// The Windows domain.
    pub domain: Option<GuestText>,
    /// Since when, in seconds since the epoch.
    pub login_time: f64,
}

/// The CPUs as the guest sees them.
#[derive(Debug, Serialize)]
pub struct GetVcpus;
impl GuestCommand for GetVcpus {
    const NAME: &'static str = "guest-get-vcpus";
    type Return = Vec<Vcpu>;
}

/// Part of [`GetVcpus`]' answer and of [`SetVcpus`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Vcpu {
    /// The guest's number for it.
    pub logical_id: i64,
    /// Whether the guest uses it.
    pub online: bool,
    /// Whether it can be switched off.
    #[serde(default, skip_serializing)]
    pub can_offline: bool,
}

/// Switches CPUs on and off within the guest. The answer is how many of the list, from its
/// beginning, were done.
#[derive(Debug, Serialize)]
pub struct SetVcpus {
    /// The new states.
    pub vcpus: Vec<Vcpu>,
}
impl GuestCommand for SetVcpus {
    const NAME: &'static str = "guest-set-vcpus";
    type Return = i64;
}

/// The memory as the guest's kernel divides it for hot-plug.
#[derive(Debug, Serialize)]
pub struct GetMemoryBlocks;
impl GuestCommand for GetMemoryBlocks {
    const NAME: &'static str = "guest-get-memory-blocks";
    type Return = Vec<MemoryBlock>;
}

/// Part of [`GetMemoryBlocks`]' answer and of [`SetMemoryBlocks`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MemoryBlock {
    /// The guest's number for it.
    pub phys_index: u64,
    /// Whether the guest uses it.
    pub online: bool,
    /// Whether it can be switched off.
    #[serde(default, skip_serializing)]
    pub can_offline: bool,
}

/// Switches blocks of memory on and off within the guest.
#[derive(Debug, Serialize)]
pub struct SetMemoryBlocks {
    /// The new states.
    #[serde(rename = "mem-blks")]
    pub blocks: Vec<MemoryBlock>,
}
impl GuestCommand for SetMemoryBlocks {
    const NAME: &'static str = "guest-set-memory-blocks";
    type Return = ShortList<MemoryBlockResult>;
}

/// Part of [`SetMemoryBlocks`]' answer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MemoryBlockResult {
    /// The guest's number for it.
    pub phys_index: u64,
    /// `success`, `not-found`, `operation-not-supported` or `operation-failed`.
    pub response: GuestText,
}

/// Sets a user's password.
#[derive(Serialize)]
pub struct SetUserPassword {
    username: String,
    password: String,
    crypted: bool,
}
impl SetUserPassword {
    /// A password in plain text.
    #[must_use]
    pub fn plain(username: &str, password: &str) -> Self {
        Self { username: username.to_owned(), password: STANDARD.encode(password), crypted: false }
    }

    /// A password's hash, in the guest's own form.
    #[must_use]
    pub fn crypted(username: &str, hash: &str) -> Self {
        Self { username: username.to_owned(), password: STANDARD.encode(hash), crypted: true }
    }
}
impl fmt::Debug for SetUserPassword {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SetUserPassword").field("username", &self.username).finish_non_exhaustive()
    }
}
impl GuestCommand for SetUserPassword {
    const NAME: &'static str = "guest-set-user-password";
    type Return = Empty;
}

/// Sent by [`GuestAgent::shutdown`](super::GuestAgent::shutdown), because it has no answer.
#[derive(Debug, Serialize)]
pub(super) struct Shutdown {
    pub(super) mode: ShutdownMode,
}
impl GuestCommand for Shutdown {
    const NAME: &'static str = "guest-shutdown";
    type Return = Empty;
}

/// What kind of shutdown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ShutdownMode {
    /// And switch the power off.
    Powerdown,
    /// And start again.
    Reboot,
    /// And stand still.
    Halt,
}
