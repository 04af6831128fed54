//! Why an image is not taken, in sentences that a person can act on.

use std::io;
use std::path::{Path, PathBuf};

use hostler_types::{ByteSize, DatastoreId, Sha256};

use super::MAX_VIRTUAL_SIZE;
use crate::datastore::{Datastore, DatastoreError};
use crate::process::ProcessError;
use crate::qemu_img::QemuImgError;

#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    #[error(transparent)]
    Refused(#[from] Refusal),
    #[error(
        "the image has the SHA-256 {found}, not {expected} as was told: it is another file, or damaged on the way"
    )]
    Checksum { expected: Sha256, found: Sha256 },
    #[error(
        "datastore {datastore} has {free} free, too little to hold this image of a {virtual_size} disk"
    )]
    Full { datastore: DatastoreId, free: ByteSize, virtual_size: ByteSize },
    #[error("nothing was received: {} does not exist", .0.display())]
    NotReceived(PathBuf),
    #[error(transparent)]
    Datastore(#[from] DatastoreError),
    #[error("cannot use qemu-img")]
    QemuImg(#[from] QemuImgError),
    #[error("cannot {action} {}", .path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
}

/// The content is not acceptable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the image is empty")]
    Empty,
    #[error("the image is text, not a disk; is it the error page of a web server?")]
    Text,
    #[error("the image is {what}; {way_out}")]
    OtherFormat { what: &'static str, way_out: &'static str },
    #[error(
        "the image is of no known kind: not qcow2, VMDK, VHDX or ISO 9660, and without the partition table or file system of a raw disk; convert it with `qemu-img convert -O qcow2`"
    )]
    Unknown,
    #[error(
        "the image reads both as {first} and as {second}; convert it with `qemu-img convert`, telling the format that is meant with -f"
    )]
    Ambiguous { first: &'static str, second: &'static str },
    #[error(
        "the image needs another file, its backing file `{}`; flatten it with `qemu-img convert -O qcow2` where that file is, and import the result",
        .0.escape_debug()
    )]
    BackingFile(String),
    #[error(
        "the image keeps its data in another file, `{}`; convert it with `qemu-img convert -O qcow2` where that file is, and import the result",
        .0.escape_debug()
    )]
    DataFile(String),
    #[error("the image is encrypted; decrypt it with `qemu-img convert` and import the result")]
    Encrypted,
    #[error(
        "the image describes a disk of {size}, more than the {MAX_VIRTUAL_SIZE} a disk may have"
    )]
    TooLarge { size: ByteSize },
    #[error("the image describes a disk of no size")]
    NoSize,
    #[error("the image is cut short: {expected} are needed, {found} are there; transfer it again")]
    Truncated { expected: ByteSize, found: ByteSize },
    #[error(
        "the image has {errors} errors in its tables: it is damaged or cut short; transfer it again, or repair it with `qemu-img check -r all`"
    )]
    Inconsistent { errors: u64 },
    #[error("the image is damaged: {0}")]
    Damaged(String),
    #[error(
        "the image uses features that are not known here (bits {0:#x}); convert it with `qemu-img convert -O qcow2`"
    )]
    UnknownFeatures(u64),
    #[error("the image takes too long to check: {0}")]
    TooExpensive(String),
}

impl ImportError {
    /// `qemu-img` that fails on an image speaks of the image; that it cannot be run is our trouble.
    pub(super) fn from_qemu_img(error: QemuImgError) -> Self {
        match error {
            QemuImgError::Process(ProcessError::Failed { stderr, status, .. }) => {
                use std::os::unix::process::ExitStatusExt;
                if status.signal().is_some() {
                    return Refusal::TooExpensive(format!("qemu-img was ended ({status})")).into();
                }
                Refusal::Damaged(stderr).into()
            }
            QemuImgError::Process(error @ ProcessError::Timeout { .. }) => {
                Refusal::TooExpensive(error.to_string()).into()
            }
            error => error.into(),
        }
    }
}

/// Whether a conversion failed because there was no room: it had written all it was allowed to, or
/// the file system is full.
pub(super) fn is_full_after(written: ByteSize, max: ByteSize, datastore: &Datastore) -> bool {
    const CLOSE: u64 = 4 << 20;
    let at_limit = written.bytes() + CLOSE >= max.bytes();
    at_limit || datastore.space().is_ok_and(|space| space.free.bytes() < CLOSE)
}

pub(super) trait IoContext<T> {
    fn doing(self, action: &'static str, path: &Path) -> Result<T, ImportError>;
}
impl<T> IoContext<T> for io::Result<T> {
    fn doing(self, action: &'static str, path: &Path) -> Result<T, ImportError> {
        self.map_err(|source| ImportError::Io { action, path: path.to_owned(), source })
    }
}
