//! Migration: RAM and device state to a file or another host.

use serde::{Deserialize, Serialize};

use super::{Command, Empty};

/// Sends the machine's state away. Returns at once; the end is seen by [`QueryMigrate`] or
/// [`Event::Migration`](crate::event::Event::Migration).
#[derive(Debug, Serialize)]
pub struct Migrate {
    channels: [MigrationChannel; 1],
}
impl Migrate {
    /// To one address.
    #[must_use]
    pub fn to(addr: MigrationAddress) -> Self {
        Self { channels: [MigrationChannel::main(addr)] }
    }
}
impl Command for Migrate {
    const NAME: &'static str = "migrate";
    type Return = Empty;
}

/// Takes a machine's state in, on a QEMU started with `-incoming defer`.
#[derive(Debug, Serialize)]
pub struct MigrateIncoming {
    channels: [MigrationChannel; 1],
}
impl MigrateIncoming {
    /// From one address.
    #[must_use]
    pub fn from(addr: MigrationAddress) -> Self {
        Self { channels: [MigrationChannel::main(addr)] }
    }
}
impl Command for MigrateIncoming {
    const NAME: &'static str = "migrate-incoming";
    type Return = Empty;
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
struct MigrationChannel {
    channel_type: &'static str,
    addr: MigrationAddress,
}

impl MigrationChannel {
    fn main(addr: MigrationAddress) -> Self {
        Self { channel_type: "main", addr }
    }
}

/// Where the state goes to or comes from. Typed, because a path within a URI could hold options.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "transport", rename_all = "kebab-case")]
pub enum MigrationAddress {
    /// A file, which QEMU itself must be able to open.
    File {
        /// Its path, or `/dev/fdset/N`.
        filename: String,
        /// Where the state begins, in bytes.
        offset: u64,
    },
    /// A socket.
    Socket(SocketAddress),
}

/// A socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum SocketAddress {
    /// TCP.
    Inet {
        /// Name or address.
        host: String,
        /// The port, in digits.
        port: String,
    },
    /// A Unix socket.
    Unix {
        /// Its path.
        path: String,
    },
    /// A descriptor given with `getfd`.
    Fd {
        /// Its name.
        str: String,
    },
}

/// Switches capabilities on and off.
#[derive(Debug, Serialize)]
pub struct MigrateSetCapabilities {
    /// What to switch.
    pub capabilities: Vec<MigrationCapability>,
}
impl MigrateSetCapabilities {
    /// Switches some on.
    #[must_use]
    pub fn on(capabilities: &[&'static str]) -> Self {
        Self::switch(capabilities, &[])
    }

    /// Switches some on and others off.
    #[must_use]
    pub fn switch(on: &[&'static str], off: &[&'static str]) -> Self {
        let set = |names: &[&'static str], state: bool| {
            let set = |capability: &&'static str| MigrationCapability { capability, state };
            names.iter().map(set).collect::<Vec<_>>()
        };
        Self { capabilities: [set(on, true), set(off, false)].concat() }
    }
}
impl Command for MigrateSetCapabilities {
    const NAME: &'static str = "migrate-set-capabilities";
    type Return = Empty;
}

/// One capability.
#[derive(Debug, Clone, Serialize)]
pub struct MigrationCapability {
    /// `mapped-ram`, `multifd`, `events` and so on.
    pub capability: &'static str,
    /// On or off.
    pub state: bool,
}

/// Changes parameters; what is `None` stays.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct MigrateSetParameters {
    /// The limit in bytes a second; QEMU's own default is 128 MiB/s.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bandwidth: Option<u64>,
    /// The tolerated downtime in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub downtime_limit: Option<u64>,
    /// Channels with the capability `multifd`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub multifd_channels: Option<u8>,
    /// Whether to bypass the page cache, with `mapped-ram`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub direct_io: Option<bool>,
    /// The id of a `tls-creds` object; empty for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_creds: Option<String>,
    /// The name in the peer's certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_hostname: Option<String>,
}
impl Command for MigrateSetParameters {
    const NAME: &'static str = "migrate-set-parameters";
    type Return = Empty;
}

/// Begins to measure how many pages the guest writes. Returns at once; [`QueryDirtyRate`] tells.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct CalcDirtyRate {
    calc_time: u64,
    calc_time_unit: &'static str,
}
impl CalcDirtyRate {
    /// Over so many milliseconds: 50 to 60,000. Pages are sampled, which costs the guest nothing.
    #[must_use]
    pub fn over(milliseconds: u64) -> Self {
        Self { calc_time: milliseconds, calc_time_unit: "millisecond" }
    }
}
impl Command for CalcDirtyRate {
    const NAME: &'static str = "calc-dirty-rate";
    type Return = Empty;
}

/// What [`CalcDirtyRate`] has measured.
#[derive(Debug, Serialize)]
pub struct QueryDirtyRate;
impl Command for QueryDirtyRate {
    const NAME: &'static str = "query-dirty-rate";
    type Return = DirtyRate;
}

/// Answer of [`QueryDirtyRate`].
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct DirtyRate {
    /// MiB a second; absent until it is measured.
    pub dirty_rate: Option<u64>,
    /// `unstarted`, `measuring` or `measured`.
    pub status: String,
}

/// How the migration goes.
#[derive(Debug, Serialize)]
pub struct QueryMigrate;
impl Command for QueryMigrate {
    const NAME: &'static str = "query-migrate";
    type Return = MigrationInfo;
}

/// Answer of [`QueryMigrate`]. Empty if there has been none.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MigrationInfo {
    /// Its state.
    pub status: Option<MigrationStatus>,
    /// What of the RAM has been sent.
    pub ram: Option<MigrationRam>,
    /// So far, in milliseconds.
    pub total_time: Option<u64>,
    /// How long the guest stood still, in milliseconds.
    pub downtime: Option<u64>,
    /// How long it would, if it moved over now, in milliseconds.
    pub expected_downtime: Option<u64>,
    /// How much of their time the guest's CPUs are kept from running, in percent.
    pub cpu_throttle_percentage: Option<u64>,
    /// Why it failed, for people.
    pub error_desc: Option<String>,
}

/// Part of [`MigrationInfo`].
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct MigrationRam {
    /// Bytes sent.
    pub transferred: u64,
    /// Bytes still to be sent.
    pub remaining: u64,
    /// Bytes in total.
    pub total: u64,
    /// How often the guest's memory was looked through for what it has written meanwhile.
    #[serde(default)]
    pub dirty_sync_count: u64,
    /// Pages that the guest writes a second, as of the last look.
    #[serde(default)]
    pub dirty_pages_rate: u64,
    /// Bytes of a page.
    #[serde(default)]
    pub page_size: u64,
    /// The speed, in millions of bits a second.
    #[serde(default)]
    pub mbps: f64,
}

/// A migration's state.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MigrationStatus {
    /// There is none.
    None,
    /// Being set up.
    Setup,
    /// Being cancelled.
    Cancelling,
    /// Cancelled.
    Cancelled,
    /// Sending or receiving.
    Active,
    /// In the post-copy phase.
    PostcopyActive,
    /// Post-copy stands still after an error.
    PostcopyPaused,
    /// Post-copy tries to go on.
    PostcopyRecoverSetup,
    /// Post-copy goes on.
    PostcopyRecover,
    /// Done.
    Completed,
    /// Failed.
    Failed,
    /// In COLO mode.
    Colo,
    /// Waits before the guest moves over.
    PreSwitchover,
    /// Sending the devices' state.
    Device,
    /// Waits for a network device.
    WaitUnplug,
    /// A state this version does not know.
    #[serde(untagged)]
    Other(String),
}

/// Gives the outgoing migration up.
#[derive(Debug, Serialize)]
pub struct MigrateCancel;
impl Command for MigrateCancel {
    const NAME: &'static str = "migrate_cancel";
    type Return = Empty;
}

/// Lets a migration that waits go on.
#[derive(Debug, Serialize)]
pub struct MigrateContinue {
    /// The state it waits in, `pre-switchover`.
    pub state: &'static str,
}
impl Command for MigrateContinue {
    const NAME: &'static str = "migrate-continue";
    type Return = Empty;
}

/// Lets the NICs tell the network where they are now.
#[derive(Debug, Serialize)]
pub struct AnnounceSelf {
    /// The first pause between two announcements, in milliseconds.
    pub initial: u64,
    /// The longest.
    pub max: u64,
    /// How many there are.
    pub rounds: u64,
    /// By how much each pause is longer than the one before.
    pub step: u64,
}
impl Default for AnnounceSelf {
    /// As QEMU itself does it after a migration.
    fn default() -> Self {
        Self { initial: 50, max: 550, rounds: 5, step: 100 }
    }
}
impl Command for AnnounceSelf {
    const NAME: &'static str = "announce-self";
    type Return = Empty;
}
