//! `hostler vm export|import`.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use clap::Args;
use futures::StreamExt as _;
use hostler_api::export::{Content, Export as OrderExport, Remove};
use hostler_api::vm::{self, VmCreateQuery, VmPath};
use hostler_endpoint::NoParams;
use hostler_types::{
    ByteSize, ExportManifest, ImageCreate, ImageSource, Labels, Name, Ref, VmCreate, VmDisk, VmNic,
};
use tempfile::NamedTempFile;

use super::VmName;
use crate::archive::Archive;
use crate::commands::upload::Sending;
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
    let failed = |error: std::io::Error| {
        CliError::new(Exit::Failed, format!("cannot write {}: {error}", file.display()))
    };
    if !force && file.symlink_metadata().is_ok() {
        let message = format!("{} is there already", file.display());
        return Err(CliError::new(Exit::Conflict, message).hint("replace it with --force"));
    }
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    // First, so that a file which cannot be written is no surprise after an hour.
    let mut part = tempfile::Builder::new()
        .prefix(".hostler-export-")
        .permissions(std::fs::Permissions::from_mode(0o600))
        .tempfile_in(parent)
        .map_err(failed)?;
    let order = session.call_with::<OrderExport>(path, &NoParams {}, (), once()).await?;
    wait::task(session, order).await?;
    let fetched = fetch(session, path, &mut part, file).await;
    // Fetched or not, it has no further use; whether it goes is told by the datastore's room.
    let removed = session.call::<Remove>(path, &NoParams {}, ()).await;
    fetched?;
    if let Err(error) = removed {
        session.output.remark(&format!("the copies of the disks stay on the datastore: {error}"));
    }
    part.as_file().sync_all().map_err(failed)?;
    let archive = Archive::open(part.path())?;
    archive.verify()?;
    match force {
        true => part.persist(file),
        false => part.persist_noclobber(file),
    }
    .map_err(|error| failed(error.error))?;
    std::fs::File::open(parent).and_then(|parent| parent.sync_all()).map_err(failed)?;
    Ok(archive.manifest)
}

async fn fetch(
    session: &Session,
    path: &VmPath,
    part: &mut NamedTempFile,
    file: &Path,
) -> Result<(), CliError> {
    let title = format!("fetching {}", file.display());
    let mut progress = Progress::new(&session.output, session.draws, &title);
    let mut interrupts = wait::interrupts()?;
    let mut bytes = session.call::<Content>(path, &NoParams {}, ()).await?;
    let (mut done, mut told) = (0u64, 0);
    loop {
        let chunk = tokio::select! {
            chunk = bytes.next() => chunk,
            _ = interrupts.recv() => {
                return Err(CliError::new(Exit::Interrupted, "interrupted; nothing was written"));
            }
        };
        let Some(chunk) = chunk else { return Ok(()) };
        let chunk = chunk.map_err(|error| {
            CliError::new(Exit::CannotConnect, format!("the archive broke off: {error}"))
        })?;
        part.write_all(&chunk).map_err(|error| {
            CliError::new(Exit::Failed, format!("cannot write {}: {error}", file.display()))
        })?;
        done += chunk.len() as u64;
        if done >> 28 != told {
            told = done >> 28;
            progress.activity(&ByteSize(told << 28).to_string(), None);
        }
    }
}

/// Make a VM from a file that `hostler vm export` has written
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler vm import web01.tar
  hostler vm import web01.tar --name web02 --network default --datastore fast

Each disk becomes an image (web02-disk0, ...), looked at with the suspicion that any image is met
with, and the VM's disks lie on these. NICs get new MAC addresses; CD-ROMs and what the guest was to
be told are left out.")]
pub(super) struct Import {
    /// File to read
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Name for the VM [default: the one it had]
    #[arg(long, value_name = "NAME")]
    name: Option<Name>,

    /// Datastore to put it on [default: the server decides]
    #[arg(long, value_name = "DATASTORE")]
    datastore: Option<Ref>,

    /// Network for all NICs [default: those of the same names as before]
    #[arg(long, value_name = "NETWORK")]
    network: Option<Ref>,
}

impl Import {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let archive = Archive::open(&self.file)?;
        let name = self.name.clone().unwrap_or_else(|| archive.manifest.vm.called().clone());
        let request = self.request(&archive.manifest, &name)?;
        // What the server would refuse is better known before the disks are sent.
        let path = VmPath { vm: name.clone().into() };
        if session.call::<vm::Show>(&path, &NoParams {}, ()).await.is_ok() {
            let message = format!("there is already a VM named {name}");
            return Err(CliError::new(Exit::Conflict, message).hint("give it another with --name"));
        }
        for (disk, begin) in &archive.disks {
            let sending = Sending {
                request: ImageCreate {
                    name: image_name(&name, &disk.name)?,
                    labels: Labels::new(),
                    datastore: self.datastore.clone(),
                    source: ImageSource::Upload(disk.file),
                    sha256: Some(disk.sha256.clone()),
                },
                file: self.file.clone(),
                start: *begin,
                size: disk.file.bytes(),
            };
            wait::task(session, sending.run(session).await?).await?;
        }
        let query = VmCreateQuery::default();
        let created = session.call_with::<vm::Create>(&NoParams {}, &query, request, once());
        match created.await?.task {
            Some(task) => super::finish(session, task, true, "imported", &path).await,
            None => Ok(()),
        }
    }

    fn request(&self, manifest: &ExportManifest, name: &Name) -> Result<VmCreate, CliError> {
        let vm = &manifest.vm;
        let spec = &vm.spec;
        let mut disks = Vec::new();
        for disk in spec.own_disks() {
            disks.push(VmDisk {
                name: Some(disk.name.clone()),
                size: Some(disk.size),
                image: Some(image_name(name, &disk.name)?.into()),
                bus: disk.bus,
                limits: disk.limits,
                provisioning: hostler_types::Provisioning::default(),
            });
        }
        let known = |id| manifest.networks.iter().find(|network| network.id == id);
        let nics = spec.nics.iter().map(|nic| {
            let before = known(nic.network).map(|network| Ref::from(network.name.clone()));
            let network = self.network.clone().or(before).ok_or_else(|| {
                let message =
                    format!("the archive does not say what the network of {} was", nic.name);
                CliError::new(Exit::Failed, message).hint("say which one with --network")
            })?;
            let (name, link) = (Some(nic.name.clone()), nic.link);
            Ok(VmNic { name, network, mac: None, address: None, link })
        });
        Ok(VmCreate {
            name: name.clone(),
            labels: vm.metadata.labels.clone(),
            description: spec.description.clone(),
            cpus: Some(spec.cpus),
            memory: Some(spec.memory),
            max_memory: spec.max_memory,
            cpu_limit: spec.cpu_limit,
            firmware: Some(spec.firmware),
            cpu_model: spec.cpu_model.clone(),
            boot_order: Some(spec.boot_order.clone()),
            image: None,
            template: None,
            full: false,
            disk_size: None,
            disks,
            iso: None,
            nics: Some(nics.collect::<Result<_, CliError>>()?),
            customization_spec: None,
            customization: None,
            restart: spec.restart,
            protected: false,
            host: None,
            datastore: self.datastore.clone(),
            start: false,
            lease_seconds: None,
        })
    }
}

fn image_name(vm: &Name, disk: &Name) -> Result<Name, CliError> {
    format!("{vm}-{disk}").parse().map_err(|error| {
        CliError::new(Exit::Usage, format!("{vm}-{disk} is no name for an image: {error}"))
            .hint("give the VM a shorter name with --name")
    })
}
