//! Who may write protect their own memory.
//!
//! A guest's memory is saved while it runs by write protecting it (`userfaultfd`), which a kernel
//! allows to root, and to whoever can open `/dev/userfaultfd`. QEMU runs as a user with no rights, so a
//! group that only QEMU processes are in gets the device. The narrower ways do not work: QEMU opens
//! the device by its name, and the right to do without it would be everybody's on the host
//! (`vm.unprivileged_userfaultfd`).

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use crate::uid::USERFAULT_GID;

const DEVICE: &str = "/dev/userfaultfd";

/// Gives the device to QEMU's group, until the next boot. Whether there is one.
///
/// # Errors
/// It is there and cannot be given.
pub fn grant() -> io::Result<bool> {
    let path = Path::new(DEVICE);
    let metadata = match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_char_device() => metadata,
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(_) | Err(_) => return Ok(false),
    };
    if metadata.gid() != USERFAULT_GID {
        std::os::unix::fs::lchown(path, None, Some(USERFAULT_GID))?;
    }
    if metadata.mode() & 0o060 != 0o060 {
        fs::set_permissions(path, Permissions::from_mode((metadata.mode() & 0o777) | 0o060))?;
    }
    Ok(true)
}
