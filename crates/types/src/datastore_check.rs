//! What a look at all files of a datastore has found.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::name::Name;
use crate::size::ByteSize;
use crate::snapshot::SnapshotTree;

/// The files of a datastore, held against the inventory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DatastoreFindings {
    pub datastore: Name,
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// All that lies there, and its bytes on the file system.
    pub files: u64,
    pub allocated: ByteSize,
    /// Files that no object owns, the first thousand.
    pub orphans: Vec<Orphan>,
    /// Objects whose files are missing or are not what they should be, the first thousand.
    pub damaged: Vec<Damage>,
    /// Objects that a task works on at this moment: their files were not judged.
    pub busy: Vec<String>,
    /// Findings beyond the first thousand of each kind.
    #[serde(default)]
    pub more: u64,
    /// There are more files than are looked at; nothing is called missing then.
    #[serde(default)]
    pub truncated: bool,
}

/// Files that no object owns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Orphan {
    /// Relative to the datastore, printable; the directory of a VM, the file of an image.
    pub path: String,
    pub kind: OrphanKind,
    /// A VM's, as its definition says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    pub files: u64,
    pub allocated: ByteSize,
    /// What is to be known of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Files of others that lie on it: it is not removed while there are any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub used_by: Vec<String>,
    /// It can become an object of the inventory.
    pub adoptable: bool,
    /// Of a VM: the host that says that it has it, though the inventory does not. It is neither
    /// adopted nor removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<Name>,
    /// Of a VM: its definition says that an inventory has it; another server's, or this one's before
    /// its store was restored. `all` leaves it out: it is adopted or removed
    /// only when it is named.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub registered: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum OrphanKind {
    /// The directory of a VM.
    Vm,
    Image,
    File,
}

impl OrphanKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Vm => "vm",
            Self::Image => "image",
            Self::File => "file",
        }
    }
}

/// A file of an object that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Damage {
    /// `vm/web01`, `image/debian-12`.
    pub object: String,
    /// Relative to the datastore.
    pub path: String,
    pub kind: DamageKind,
    /// A sentence without its full stop.
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DamageKind {
    Missing,
    /// It is another one than the inventory says: what lies beneath it differs.
    Different,
    /// Its content cannot be used.
    Unreadable,
}

impl DamageKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Different => "different",
            Self::Unreadable => "unreadable",
        }
    }
}

/// Whether a file in a VM's directory, that is no disk file, is one that belongs there.
pub fn is_vm_file(name: &str, snapshots: &SnapshotTree) -> bool {
    const OWN: [&str; 8] = [
        "vm.json",
        "vm.json.unregistered",
        "seed.img",
        "nvram.fd",
        "suspend.state",
        "console.log",
        // What the log was until it was full.
        "console.log.1",
        "export",
    ];
    // The saved memory of a snapshot carries its id.
    let of_snapshot = || snapshots.snapshots.iter().any(|s| name.contains(&s.id.to_string()));
    OWN.contains(&name) || of_snapshot()
}
