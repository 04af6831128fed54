//! An exported VM: one tar archive that holds all of it.
//!
//! ```text
//! hostler-vm.json            the manifest, first
//! disks/<name>.qcow2         each disk, flattened: it needs no other file
//! ```

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::id::NetworkId;
use crate::image::Sha256;
use crate::name::Name;
use crate::size::ByteSize;
use crate::vm::Vm;

/// What an archive says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct ExportManifest {
    /// [`ExportManifest::FORMAT`].
    pub format: String,
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// As it was defined, without secrets.
    pub vm: Vm,
    /// What its networks were called.
    pub networks: Vec<ExportedNetwork>,
    /// All its disks, the detached ones last.
    pub disks: Vec<ExportedDisk>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExportedNetwork {
    #[schema(value_type = String)]
    pub id: NetworkId,
    pub name: Name,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExportedDisk {
    pub name: Name,
    /// As the guest sees it.
    pub size: ByteSize,
    /// Bytes of the file in the archive.
    pub file: ByteSize,
    /// Of the file in the archive.
    pub sha256: Sha256,
}

impl ExportManifest {
    pub const FORMAT: &'static str = "hostler-vm/1";
    /// Its name in the archive.
    pub const FILE: &'static str = "hostler-vm.json";
    /// Longer ones are refused: a definition may have 4 MiB, and the rest is small.
    pub const MAX_BYTES: u64 = 6 << 20;

    /// Where a disk is in the archive.
    pub fn disk_file(disk: &Name) -> String {
        format!("disks/{disk}.qcow2")
    }
}
