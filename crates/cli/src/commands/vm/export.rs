//! `hostler vm export`.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use clap::Args;
use futures::StreamExt as _;
use hostler_api::export::{Content, Export as OrderExport, Remove};
use hostler_api::vm::VmPath;
use hostler_endpoint::NoParams;
use hostler_types::{ByteSize, ExportManifest};
use tempfile::NamedTempFile;
use tokio::signal::unix::Signal;

use super::VmName;
use crate::archive::Archive;
use crate::error::{CliError, Exit};
use crate::progress::Progress;
use crate::session::{Session, once};
use crate::wait;

/// Save a VM that is off as one file: its definition and all its disks
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler vm export web01 web01.tar
  hostler vm export web01 /backup/web01.tar --force

The file is a tar archive: hostler-vm.json with the definition and the checksums, and each disk as one
qcow2 that needs no other file. While it is made, copies of the disks lie on the VM's datastore.")]
pub(super) struct Export {
    #[command(flatten)]
    vm: VmName,

    /// File to write
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Replace the file, if it is there
    #[arg(long)]
    force: bool,
}

impl Export {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let manifest = export(session, &self.vm.path(), &self.file, self.force).await?;
        let size: u64 = manifest.disks.iter().map(|disk| disk.file.bytes()).sum();
        session.output.done("exported", "vm", manifest.vm.called().as_str(), &manifest)?;
        if session.output.is_table() {
            let file = self.file.display();
            session.output.remark(&format!("wrote {file}: {} of disks, checked", ByteSize(size)));
        }
        Ok(())
    }
}

/// Exports a VM. When this returns, the whole archive is on the disk, and was read again; before
/// that, the file is as it was.
pub(super) async fn export(
    session: &Session,
    path: &VmPath,
    file: &Path,
    force: bool,
) -> Result<ExportManifest, CliError> {
    let failed = |error: std::io::Error| unwritten(file, &error);
    if !force && file.symlink_metadata().is_ok() {
        let message = format!("{} is there already", file.display());
        // `vm delete --export` has no such flag: there, --force is about the VM.
        return Err(CliError::new(Exit::Conflict, message).hint(format!(
            "give another name, or see `hostler vm export --help` for how to replace {}",
            file.display()
        )));
    }
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    if !parent.is_dir() {
        let message =
            format!("cannot write {}: {} is no directory", file.display(), parent.display());
        return Err(
            CliError::new(Exit::Failed, message).hint("make it first, or give another place")
        );
    }
    // First, so that a file which cannot be written is no surprise after an hour.
    let mut part = tempfile::Builder::new()
        .prefix(".hostler-export-")
        .permissions(std::fs::Permissions::from_mode(0o600))
        .tempfile_in(parent)
        .map_err(|error| unwritten(file, &plain(&error)))?;
    let order = session.call_with::<OrderExport>(path, &NoParams {}, (), once()).await?;
    wait::task(session, order).await?;
    // From here to the end, so that no Ctrl-C falls between two that listen.
    let mut interrupts = wait::interrupts()?;
    let fetched = fetch(session, path, &mut part, file, &mut interrupts).await;
    // Fetched or not, it has no further use; whether it goes is told by the datastore's room.
    let removed = session.call::<Remove>(path, &NoParams {}, ()).await;
    fetched?;
    if let Err(error) = removed {
        session.output.remark(&format!("the copies of the disks stay on the datastore: {error}"));
    }
    let manifest = verify(&part, file, &mut interrupts).await?;
    match force {
        true => part.persist(file),
        false => part.persist_noclobber(file),
    }
    .map_err(|error| failed(error.error))?;
    std::fs::File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed)?;
    Ok(manifest)
}

/// Reads the whole archive again, from the disk; meanwhile Ctrl-C is listened to.
async fn verify(
    part: &NamedTempFile,
    file: &Path,
    interrupts: &mut Signal,
) -> Result<ExportManifest, CliError> {
    let (written, path, shown) =
        (part.as_file().try_clone(), part.path().to_owned(), file.to_owned());
    let read = tokio::task::spawn_blocking(move || {
        written.and_then(|file| file.sync_all()).map_err(|error| unwritten(&shown, &error))?;
        let archive = Archive::open(&path)?;
        archive.verify()?;
        Ok(archive.manifest)
    });
    tokio::select! {
        // First, for it may have been pressed while nobody looked.
        biased;
        _ = interrupts.recv() => Err(interrupted()),
        read = read => read.unwrap_or_else(|error| Err(unwritten(file, &error.into()))),
    }
}

fn interrupted() -> CliError {
    CliError::new(Exit::Interrupted, "interrupted; nothing was written")
}

/// What the system said: the crate adds the temporary file's path, which nobody has named.
fn plain(error: &std::io::Error) -> std::io::Error {
    let text = error.to_string();
    let said = text.split_once(" at path ").map_or(text.as_str(), |(said, _)| said);
    std::io::Error::new(error.kind(), said.to_owned())
}

fn unwritten(file: &Path, error: &std::io::Error) -> CliError {
    CliError::new(Exit::Failed, format!("cannot write {}: {error}", file.display()))
}

async fn fetch(
    session: &Session,
    path: &VmPath,
    part: &mut NamedTempFile,
    file: &Path,
    interrupts: &mut Signal,
) -> Result<(), CliError> {
    let title = format!("fetching {}", file.display());
    let mut progress = Progress::new(&session.output, session.draws, &title);
    let mut bytes = session.call::<Content>(path, &NoParams {}, ()).await?;
    let (mut done, mut told) = (0u64, 0);
    loop {
        let chunk = tokio::select! {
            chunk = bytes.next() => chunk,
            _ = interrupts.recv() => return Err(interrupted()),
        };
        let Some(chunk) = chunk else { return Ok(()) };
        let chunk = chunk.map_err(|error| {
            CliError::new(Exit::CannotConnect, format!("the archive broke off: {error}"))
        })?;
        part.write_all(&chunk).map_err(|error| unwritten(file, &error))?;
        done += chunk.len() as u64;
        if done >> 28 != told {
            told = done >> 28;
            progress.activity(&ByteSize(told << 28).to_string(), None);
        }
    }
}
