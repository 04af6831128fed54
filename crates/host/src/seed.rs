//! The seed: a small FAT file system that tells a guest who it is.
//!
//! What stands in it is rendered by [`hostler_customize`]; here it becomes a file on the datastore
//! that only the VM's user may read, for it may hold secrets. Once the guest has proved that it is
//! what it was told to be, the seed is written again without them.

use std::fs;
use std::io::{self, Cursor, Write};
use std::path::PathBuf;

use fatfs::{FileSystem, FormatVolumeOptions, FsOptions, format_volume};
use hostler_customize::{Guest, RenderError, Seed, render};
use hostler_types::VmId;

use crate::datastore::{DatastoreError, VmDir};
use crate::file::{Access, write_atomic};
use crate::uid::VmUid;

#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    #[error(transparent)]
    Render(#[from] RenderError),
    #[error("cannot make the seed's file system")]
    Format(#[source] io::Error),
    #[error(transparent)]
    Datastore(#[from] DatastoreError),
    #[error("cannot write {}", .path.display())]
    Write { path: PathBuf, source: io::Error },
}

/// Writes the seed of a VM, replacing an older one. Only the VM's user may read it.
///
/// # Errors
/// A customization that cannot be carried, or a datastore that cannot be written.
pub fn write(vm: &VmDir, guest: &Guest<'_>, owner: VmUid) -> Result<(), SeedError> {
    let bytes = build(guest)?;
    vm.datastore().check()?;
    let path = vm.seed();
    let access = Access { mode: 0o600, uid: owner.uid(), gid: owner.gid() };
    write_atomic(&path, &bytes, access).map_err(|source| SeedError::Write { path, source })
}

/// Removes the seed, if there is one.
///
/// # Errors
/// The datastore is not mounted or read-only.
pub fn remove(vm: &VmDir) -> Result<(), SeedError> {
    vm.datastore().check()?;
    let path = vm.seed();
    match fs::remove_file(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.map_err(|source| SeedError::Write { path, source }),
    }
}

/// The bytes of the seed's file system. The same guest gives the same bytes.
///
/// # Errors
/// A customization that cannot be carried.
pub fn build(guest: &Guest<'_>) -> Result<Vec<u8>, SeedError> {
    file_system(&render(guest)?, volume_id(guest.vm)).map_err(SeedError::Format)
}

fn file_system(seed: &Seed, volume_id: u32) -> io::Result<Vec<u8>> {
    const SECTOR: usize = 512;
    const CLUSTER: u32 = 2048;
    // Room for the tables, the directories, and each file's last cluster.
    let content: usize = seed.files.iter().map(|file| file.text.len() + 4096).sum();
    let length = (content + content / 64 + (64 << 10)).next_multiple_of(64 << 10);
    let sectors = u32::try_from(length / SECTOR).map_err(io::Error::other)?;
    let mut label = [b' '; 11];
    label[..seed.label.len()].copy_from_slice(seed.label.as_bytes());
    let mut disk = Cursor::new(vec![0; length]);
    let options = FormatVolumeOptions::new()
        .total_sectors(sectors)
        .bytes_per_cluster(CLUSTER)
        .max_root_dir_entries(64)
        .volume_id(volume_id)
        .volume_label(label);
    format_volume(&mut disk, options)?;
    {
        let file_system = FileSystem::new(&mut disk, FsOptions::new())?;
        for file in &seed.files {
            let mut directory = file_system.root_dir();
            let mut parts: Vec<&str> = file.path.split('/').collect();
            let name = parts.pop().unwrap_or_default();
            for part in parts {
                // One that is there is opened.
                directory = directory.create_dir(part)?;
            }
            let mut written = directory.create_file(name)?;
            written.write_all(file.text.as_bytes())?;
            written.flush()?;
        }
        file_system.unmount()?;
    }
    Ok(disk.into_inner())
}

fn volume_id(vm: VmId) -> u32 {
    let [.., a, b, c, d] = *vm.uuid().as_bytes();
    u32::from_be_bytes([a, b, c, d])
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use hostler_types::{Customization, GuestOs, SecretText};

    use super::*;

    fn check(customization: &Customization) {
        let vm: VmId = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
        let name = "web01".parse().unwrap();
        let guest = Guest { vm, name: &name, customization, nics: &[], hash: "c0ffee" };
        let seed = render(&guest).unwrap();
        let bytes = build(&guest).unwrap();
        assert_eq!(bytes, build(&guest).unwrap());
        let file_system = FileSystem::new(Cursor::new(bytes), FsOptions::new()).unwrap();
        let label = file_system.read_volume_label_from_root_dir().unwrap().unwrap();
        assert_eq!(label, seed.label);
        for file in &seed.files {
            let mut text = String::new();
            let mut found = file_system.root_dir().open_file(file.path).unwrap();
            found.read_to_string(&mut text).unwrap();
            assert_eq!(text, file.text, "{}", file.path);
        }
    }

    #[test]
    fn a_guest_finds_what_was_rendered() {
        check(&Customization::default());
        check(&Customization { os: GuestOs::Windows, ..Customization::default() });
    }

    #[test]
    fn large_data_fits() {
        let own = format!("#cloud-config\n# {}\n", "x".repeat(512 * 1024));
        check(&Customization {
            user_data: Some(SecretText::new(own.clone())),
            network_config: Some(own),
            run_once: vec!["true".to_owned()],
            ..Customization::default()
        });
    }
}
