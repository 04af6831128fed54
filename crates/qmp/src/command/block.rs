//! Disks: nodes of the block layer, removable media, statistics.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Command, Empty};

/// Every named node of the block layer.
#[derive(Debug, Default, Serialize)]
pub struct QueryNamedBlockNodes {
    /// Leave out the backing chain of each, which otherwise repeats again and again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub flat: Option<bool>,
}
impl Command for QueryNamedBlockNodes {
    const NAME: &'static str = "query-named-block-nodes";
    type Return = Vec<BlockNode>;
}

/// Part of [`QueryNamedBlockNodes`]' and [`QueryBlock`]'s answers.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct BlockNode {
    /// The node's name.
    pub node_name: Option<String>,
    /// Its driver: `qcow2`, `file` and so on.
    pub drv: String,
    /// Its file, as QEMU writes it.
    pub file: String,
    /// Whether it is read-only.
    pub ro: bool,
    /// The image's size.
    pub image: ImageInfo,
}

/// Part of [`BlockNode`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ImageInfo {
    /// As the guest sees it, in bytes.
    pub virtual_size: u64,
    /// On the datastore, in bytes.
    pub actual_size: Option<u64>,
}

/// The guest's drives.
#[derive(Debug, Serialize)]
pub struct QueryBlock;
impl Command for QueryBlock {
    const NAME: &'static str = "query-block";
    type Return = Vec<BlockDevice>;
}

/// Part of [`QueryBlock`]'s answer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct BlockDevice {
    /// The legacy name; empty with `-blockdev`.
    pub device: String,
    /// The device's path in QOM.
    pub qdev: Option<String>,
    /// Whether the medium can be taken out.
    pub removable: bool,
    /// Whether the guest keeps it in.
    pub locked: bool,
    /// The medium, if one is in.
    pub inserted: Option<BlockNode>,
    /// Whether the tray is open, if there is one.
    pub tray_open: Option<bool>,
    /// `ok`, `failed` or `nospace`.
    #[serde(rename = "io-status")]
    pub io_status: Option<String>,
}

/// What the drives have done.
#[derive(Debug, Serialize)]
pub struct QueryBlockstats;
impl Command for QueryBlockstats {
    const NAME: &'static str = "query-blockstats";
    type Return = Vec<BlockDeviceStats>;
}

/// Part of [`QueryBlockstats`]' answer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct BlockDeviceStats {
    /// The device's path in QOM.
    pub qdev: Option<String>,
    /// The node's name.
    pub node_name: Option<String>,
    /// The counters.
    pub stats: BlockStats,
}

/// Counters since start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct BlockStats {
    /// Bytes read.
    pub rd_bytes: u64,
    /// Bytes written.
    pub wr_bytes: u64,
    /// Reads.
    pub rd_operations: u64,
    /// Writes.
    pub wr_operations: u64,
    /// Flushes.
    pub flush_operations: u64,
    /// Time spent in reads, in nanoseconds.
    pub rd_total_time_ns: u64,
    /// Time spent in writes, in nanoseconds.
    pub wr_total_time_ns: u64,
    /// Time spent in flushes, in nanoseconds.
    pub flush_total_time_ns: u64,
}

/// Adds a node: an object with `driver`, `node-name` and the driver's options.
#[derive(Debug, Serialize)]
#[serde(transparent)]
pub struct BlockdevAdd(pub Value);
impl Command for BlockdevAdd {
    const NAME: &'static str = "blockdev-add";
    type Return = Empty;
}

/// Removes a node that nothing uses.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BlockdevDel {
    /// The node.
    pub node_name: String,
}
impl Command for BlockdevDel {
    const NAME: &'static str = "blockdev-del";
    type Return = Empty;
}

/// Takes a node, and all beneath it, into use before its machine runs, or out of it. Since QEMU 10.0.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BlockdevSetActive {
    /// The node.
    pub node_name: String,
    /// Whether it is to be in use.
    pub active: bool,
}
impl Command for BlockdevSetActive {
    const NAME: &'static str = "blockdev-set-active";
    type Return = Empty;
}

/// Resizes a node's image.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BlockResize {
    /// The node.
    pub node_name: String,
    /// The new size in bytes.
    pub size: u64,
}
impl Command for BlockResize {
    const NAME: &'static str = "block_resize";
    type Return = Empty;
}

/// Opens the tray and takes the medium out.
#[derive(Debug, Serialize)]
pub struct Eject {
    /// The device's id or path.
    pub id: String,
    /// Even if the guest holds it.
    pub force: bool,
}
impl Command for Eject {
    const NAME: &'static str = "eject";
    type Return = Empty;
}

/// Puts another medium in: opens the tray, changes and closes it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BlockdevChangeMedium {
    /// The device's id or path.
    pub id: String,
    /// The file.
    pub filename: String,
    /// Its format, always given.
    pub format: String,
    /// Even if the guest holds the old one.
    pub force: bool,
    /// `read-only` for a CD.
    pub read_only_mode: String,
}
impl Command for BlockdevChangeMedium {
    const NAME: &'static str = "blockdev-change-medium";
    type Return = Empty;
}

/// Opens a tray.
#[derive(Debug, Serialize)]
pub struct BlockdevOpenTray {
    /// The device's id or path.
    pub id: String,
    /// Even if the guest holds the medium.
    pub force: bool,
}
impl Command for BlockdevOpenTray {
    const NAME: &'static str = "blockdev-open-tray";
    type Return = Empty;
}

/// Closes a tray.
#[derive(Debug, Serialize)]
pub struct BlockdevCloseTray {
    /// The device's id or path.
    pub id: String,
}
impl Command for BlockdevCloseTray {
    const NAME: &'static str = "blockdev-close-tray";
    type Return = Empty;
}

/// Takes the medium out of an open tray.
#[derive(Debug, Serialize)]
pub struct BlockdevRemoveMedium {
    /// The device's id or path.
    pub id: String,
}
impl Command for BlockdevRemoveMedium {
    const NAME: &'static str = "blockdev-remove-medium";
    type Return = Empty;
}

/// Puts a node into an open, empty tray.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BlockdevInsertMedium {
    /// The device's id or path.
    pub id: String,
    /// The node.
    pub node_name: String,
}
impl Command for BlockdevInsertMedium {
    const NAME: &'static str = "blockdev-insert-medium";
    type Return = Empty;
}

/// Limits a device's I/O. A rate of 0 is no limit; a burst (`*_max`) is allowed for one second.
#[derive(Debug, Serialize)]
pub struct BlockSetIoThrottle {
    /// The device's id or path. A virtio-blk disk's back end has a path of its own.
    pub id: String,
    /// Bytes per second.
    pub bps: u64,
    /// Of reads alone.
    pub bps_rd: u64,
    /// Of writes alone.
    pub bps_wr: u64,
    /// Operations per second.
    pub iops: u64,
    /// Of reads alone.
    pub iops_rd: u64,
    /// Of writes alone.
    pub iops_wr: u64,
    /// A burst of bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bps_max: Option<u64>,
    /// A burst of operations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iops_max: Option<u64>,
}
impl Command for BlockSetIoThrottle {
    const NAME: &'static str = "block_set_io_throttle";
    type Return = Empty;
}
