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
