//! The guest's file systems: what there is, freeze and thaw.

use serde::{Deserialize, Serialize};

use super::{
    GuestCommand, GuestText,
    text::{ShortList, short_list},
};

/// The mounted file systems.
#[derive(Debug, Serialize)]
pub struct GetFsinfo;
impl GuestCommand for GetFsinfo {
    const NAME: &'static str = "guest-get-fsinfo";
    type Return = ShortList<FilesystemInfo>;
}

/// Part of [`GetFsinfo`]'s answer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FilesystemInfo {
    /// The block device's name.
    pub name: GuestText,
    /// Where it is mounted.
    pub mountpoint: GuestText,
    /// `ext4` and so on.
    #[serde(rename = "type")]
    pub kind: GuestText,
    /// In bytes; agents before 3.0 do not say.
    pub used_bytes: Option<u64>,
    /// In bytes; agents before 3.0 do not say.
    pub total_bytes: Option<u64>,
    /// The disks it lies on.
    #[serde(default, deserialize_with = "short_list")]
    pub disk: Vec<FilesystemDisk>,
}

/// Part of [`FilesystemInfo`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FilesystemDisk {
    /// The serial number, which is ours if it is one of our disks.
    pub serial: Option<GuestText>,
    /// The device node.
    pub dev: Option<GuestText>,
    /// Its controller's place; numbers of -1 where the agent cannot tell.
    pub pci_controller: Option<PciController>,
    /// Its number on a SCSI controller; 0 elsewhere.
    #[serde(default)]
    pub unit: i64,
}

/// Part of [`FilesystemDisk`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct PciController {
    /// The bus, as the firmware has numbered it.
    pub bus: i64,
    /// The place on it.
    pub slot: i64,
    /// The function there.
    pub function: i64,
}

/// The block devices: disks, partitions, and what is made of them. Agents before 5.2 cannot tell.
#[derive(Debug, Serialize)]
pub struct GetDisks;
impl GuestCommand for GetDisks {
    const NAME: &'static str = "guest-get-disks";
    type Return = ShortList<GuestDiskInfo>;
}

/// Part of [`GetDisks`]'s answer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct GuestDiskInfo {
    /// The device node.
    pub name: GuestText,
    /// Whether it is a partition.
    pub partition: bool,
    /// The device nodes that it is made of.
    #[serde(default, deserialize_with = "short_list")]
    pub dependencies: Vec<GuestText>,
    /// Where it is, if it is a disk.
    pub address: Option<FilesystemDisk>,
    /// What else it is called, such as the name of a logical volume.
    pub alias: Option<GuestText>,
}

/// Freezes all file systems; the answer is how many. Until the thaw the agent knows few commands.
#[derive(Debug, Serialize)]
pub struct FsfreezeFreeze;
impl GuestCommand for FsfreezeFreeze {
    const NAME: &'static str = "guest-fsfreeze-freeze";
    type Return = i64;
}

/// Thaws all file systems; the answer is how many.
#[derive(Debug, Serialize)]
pub struct FsfreezeThaw;
impl GuestCommand for FsfreezeThaw {
    const NAME: &'static str = "guest-fsfreeze-thaw";
    type Return = i64;
}

/// Whether the file systems are frozen.
#[derive(Debug, Serialize)]
pub struct FsfreezeStatus;
impl GuestCommand for FsfreezeStatus {
    const NAME: &'static str = "guest-fsfreeze-status";
    type Return = FreezeState;
}

/// Answer of [`FsfreezeStatus`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FreezeState {
    /// They are not.
    Thawed,
    /// They are.
    Frozen,
}
