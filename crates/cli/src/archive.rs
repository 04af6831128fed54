//! Reading an exported VM's archive, which may come from anywhere.
//!
//! Nothing is unpacked: names in the archive never become paths, and only what the manifest announces
//! is taken. What the disks hold is for the server to look at.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use hostler_types::{ExportManifest, ExportedDisk, Sha256};
use sha2::Digest as _;

use crate::error::{CliError, Exit};

/// An archive whose parts are where they should be.
#[derive(Debug)]
pub(crate) struct Archive {
    pub(crate) path: PathBuf,
    pub(crate) manifest: ExportManifest,
    /// Each disk, and where it begins in the file.
    pub(crate) disks: Vec<(ExportedDisk, u64)>,
}

impl Archive {
    /// Reads the manifest and finds the disks.
    pub(crate) fn open(path: &Path) -> Result<Self, CliError> {
        let refused = |reason: &str| {
            let message = format!("{} is no archive of a VM: {reason}", path.display());
            CliError::new(Exit::Failed, message)
                .hint("make one with `hostler vm export`; disks alone: `hostler image import`")
        };
        let file = File::open(path).map_err(|error| {
            CliError::new(Exit::Failed, format!("cannot read {}: {error}", path.display()))
        })?;
        let length = file.metadata().map_or(0, |metadata| metadata.len());
        let mut archive = tar::Archive::new(file);
        let broken = |error: io::Error| refused(&error.to_string());
        // Raw: whatever is no plain entry, such as a link or a long name, is seen and refused.
        let mut entries = archive.entries_with_seek().map_err(broken)?.raw(true);
        let first = entries.next().ok_or_else(|| refused("it is empty"))?.map_err(broken)?;
        let manifest = manifest(first).map_err(|reason| refused(&reason))?;
        let mut disks = Vec::new();
        for disk in &manifest.disks {
            let name = ExportManifest::disk_file(&disk.name);
            let entry = entries.next().ok_or_else(|| refused(&format!("{name} is missing")))?;
            let entry = entry.map_err(broken)?;
            let begin = entry.raw_file_position();
            if !is_plain(&entry, &name) || entry.size() != disk.file.bytes() {
                return Err(refused(&format!("where {name} should be there is something else")));
            }
            if length.checked_sub(begin).is_none_or(|rest| rest < entry.size()) {
                return Err(refused(&format!("it is cut short within {name}")));
            }
            disks.push((disk.clone(), begin));
        }
        match entries.next() {
            None => Ok(Self { path: path.to_owned(), manifest, disks }),
            Some(_) => Err(refused("it holds more than its manifest announces")),
        }
    }

    /// Makes sure that the disks are what the manifest says. Reads all of them.
    pub(crate) fn verify(&self) -> Result<(), CliError> {
        for (disk, begin) in &self.disks {
            let found = self.hash(*begin, disk.file.bytes()).map_err(|error| {
                let message = format!("cannot read {}: {error}", self.path.display());
                CliError::new(Exit::Failed, message)
            })?;
            if found != disk.sha256 {
                let message = format!("disk {} was damaged on the way", disk.name);
                return Err(CliError::new(Exit::Failed, message).hint("export the VM again"));
            }
        }
        Ok(())
    }

    fn hash(&self, begin: u64, length: u64) -> io::Result<Sha256> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(begin))?;
        let (mut file, mut hasher) = (file.take(length), sha2::Sha256::new());
        let mut block = vec![0; 1 << 20];
        loop {
            match file.read(&mut block)? {
                0 => return Ok(Sha256::from_bytes(hasher.finalize().into())),
                count => hasher.update(&block[..count]),
            }
        }
    }
}

fn manifest<R: Read>(entry: tar::Entry<'_, R>) -> Result<ExportManifest, String> {
    if !is_plain(&entry, ExportManifest::FILE) {
        return Err(format!("{} is not the first in it", ExportManifest::FILE));
    }
    if entry.size() > ExportManifest::MAX_BYTES {
        return Err("its manifest is too long".to_owned());
    }
    let manifest: ExportManifest =
        serde_json::from_reader(entry).map_err(|error| format!("its manifest: {error}"))?;
    if manifest.format != ExportManifest::FORMAT {
        let format: String = manifest.format.chars().take(40).collect();
        return Err(format!(
            "its format is {}, not {}",
            format.escape_debug(),
            ExportManifest::FORMAT
        ));
    }
    let mut names: Vec<_> = manifest.disks.iter().map(|disk| &disk.name).collect();
    names.sort();
    names.dedup();
    if names.len() != manifest.disks.len() || names.len() != manifest.vm.spec.own_disks().count() {
        return Err("its disks are not those of its VM".to_owned());
    }
    Ok(manifest)
}

fn is_plain<R: Read>(entry: &tar::Entry<'_, R>, name: &str) -> bool {
    entry.header().entry_type() == tar::EntryType::Regular
        && entry.path_bytes().as_ref() == name.as_bytes()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn manifest_text(disks: &[(&str, usize)]) -> String {
        let spec: Vec<_> = (disks.iter())
            .map(|(name, _)| json!({"name": name, "size": "1MiB", "source": "blank"}))
            .collect();
        let exported: Vec<_> = (disks.iter())
            .map(|(name, length)| {
                json!({"name": name, "size": "1MiB", "file": length, "sha256": hash_of(*length)})
            })
            .collect();
        let id = hostler_types::VmId::generate();
        json!({
            "format": "hostler-vm/1", "at": "2026-01-01T00:00:00Z", "networks": [],
            "disks": exported,
            "vm": {
                "metadata": {
                    "id": id, "name": "web01", "labels": {}, "revision": 1, "generation": 1,
                    "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z",
                },
                "spec": {"cpus": 1, "memory": "1GiB", "disks": spec},
                "status": {
                    "power": "stopped", "power_since": "2026-01-01T00:00:00Z", "host": id,
                    "epoch": 1, "datastore": id, "disks": [],
                },
            },
        })
        .to_string()
    }

    fn hash_of(length: usize) -> Sha256 {
        Sha256::from_bytes(sha2::Sha256::digest(vec![7u8; length]).into())
    }

    type Entry<'a> = (&'a str, tar::EntryType, Vec<u8>);

    fn write(entries: &[Entry<'_>]) -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("web01.tar");
        let mut builder = tar::Builder::new(File::create(&path).unwrap());
        for (name, kind, content) in entries {
            let mut header = tar::Header::new_gnu();
            // As hostile as it likes: what `set_path` would refuse too.
            header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
            header.set_entry_type(*kind);
            header.set_size(content.len() as u64);
            header.set_cksum();
            builder.append(&header, content.as_slice()).unwrap();
        }
        builder.finish().unwrap();
        (directory, path)
    }

    const FILE: tar::EntryType = tar::EntryType::Regular;

    #[test]
    fn a_whole_archive_is_read() {
        let text = manifest_text(&[("disk0", 700), ("data", 512)]);
        let (_directory, path) = write(&[
            ("hostler-vm.json", FILE, text.into_bytes()),
            ("disks/disk0.qcow2", FILE, vec![7; 700]),
            ("disks/data.qcow2", FILE, vec![7; 512]),
        ]);
        let archive = Archive::open(&path).unwrap();
        assert_eq!(archive.disks.len(), 2);
        archive.verify().unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        let (_, begin) = &archive.disks[1];
        bytes[usize::try_from(*begin).unwrap() + 3] = 0;
        std::fs::write(&path, &bytes).unwrap();
        let error = Archive::open(&path).unwrap().verify().unwrap_err();
        assert!(error.to_string().contains("disk data was damaged"), "{error}");
        std::fs::write(&path, &bytes[..usize::try_from(*begin).unwrap() + 100]).unwrap();
        assert!(Archive::open(&path).unwrap_err().to_string().contains("cut short"));
    }

    #[test]
    fn a_hostile_archive_is_refused() {
        let good = manifest_text(&[("disk0", 4)]).into_bytes();
        let manifest = || ("hostler-vm.json", FILE, good.clone());
        let disk = || ("disks/disk0.qcow2", FILE, vec![7; 4]);
        let cases: Vec<(Vec<Entry<'_>>, &str)> = vec![
            (vec![], "empty"),
            (vec![disk(), manifest()], "not the first"),
            (vec![manifest()], "missing"),
            (vec![manifest(), ("../../etc/cron.d/x", FILE, vec![7; 4])], "something else"),
            (vec![manifest(), ("/disks/disk0.qcow2", FILE, vec![7; 4])], "something else"),
            (
                vec![manifest(), ("disks/disk0.qcow2", tar::EntryType::Symlink, Vec::new())],
                "something else",
            ),
            (vec![manifest(), ("disks/disk0.qcow2", FILE, vec![7; 5])], "something else"),
            (vec![manifest(), disk(), disk()], "more than"),
            (vec![("hostler-vm.json", FILE, vec![b' '; 7 << 20])], "too long"),
            (vec![("hostler-vm.json", FILE, b"{}".to_vec())], "its manifest"),
            (
                vec![(
                    "hostler-vm.json",
                    FILE,
                    manifest_text(&[("disk0", 4), ("disk0", 4)]).into_bytes(),
                )],
                "not those of its VM",
            ),
        ];
        for (number, (entries, expected)) in cases.into_iter().enumerate() {
            let (_directory, path) = write(&entries);
            let error = Archive::open(&path).unwrap_err().to_string();
            assert!(error.contains(expected), "{number}: {error}");
        }
    }
}
