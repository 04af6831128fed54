//! `hostler vm import`.
//!
//! Made of calls that others can make too: each disk becomes an image, and the VM is made on these.
//! So it is asked first whether the VM could be made at all; an image that is there with the same
//! content is taken over, so that the command can be repeated; and what was sent for nothing goes.

use std::path::PathBuf;

use clap::Args;
use hostler_api::datastore::{self, DatastorePath};
use hostler_api::image::{self, ImagePath};
use hostler_api::vm::{self, VmCreateQuery, VmPath};
use hostler_endpoint::NoParams;
use hostler_types::{
    DatastoreId, ExportManifest, ExportedDisk, Image, ImageCreate, ImageSource, ImageState, Labels,
    Name, Ref, VmCreate, VmDisk, VmNic, VmResourcesUpdate,
};

use crate::archive::Archive;
use crate::commands::upload::Sending;
use crate::error::{CliError, Exit};
use crate::session::{Session, once};
use crate::wait;

/// Make a VM from a file that `hostler vm export` has written
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler vm import web01.tar
  hostler vm import web01.tar --name web02 --network default --datastore fast

Each disk becomes an image (web02-disk0, ...), looked at with the suspicion that any image is met
with, and the VM's disks lie on these. An image of that name with the same content is taken over, so
the command can be repeated. Before anything is sent, the server is asked whether it would make the
VM; if it fails after all, the images that were sent are removed. NICs get new MAC addresses; CD-ROMs
and what the guest was to be told are left out.")]
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
        require_possible(session, &request).await?;
        let mut parts = Vec::new();
        for (disk, begin) in &archive.disks {
            let image = image_name(&name, &disk.name)?;
            let there = there(session, &image, disk).await?;
            parts.push(Part { disk, begin: *begin, image, there });
        }
        let mut sent = Vec::new();
        let made = self.make(session, &parts, request, &mut sent).await;
        if let Err(error) = &made {
            take_back(session, error, &sent).await;
        }
        made
    }

    /// Sends what is not there and makes the VM. The images that were sent are in `sent`, also when
    /// this fails.
    async fn make(
        &self,
        session: &Session,
        parts: &[Part<'_>],
        mut request: VmCreate,
        sent: &mut Vec<Name>,
    ) -> Result<(), CliError> {
        let mut place = self.place(session, parts).await?;
        for part in parts {
            if part.there.is_some() {
                let image = &part.image;
                session.output.remark(&format!("image {image} is there, with the same content"));
                continue;
            }
            let sending = Sending {
                request: ImageCreate {
                    name: part.image.clone(),
                    labels: Labels::new(),
                    datastore: place.clone(),
                    source: ImageSource::Upload(part.disk.file),
                    sha256: Some(part.disk.sha256.clone()),
                },
                file: self.file.clone(),
                start: part.begin,
                size: part.disk.file.bytes(),
            };
            sent.push(part.image.clone());
            wait::task(session, sending.run(session).await?).await?;
            // The VM is made where its images are: all of them on one datastore.
            if place.is_none() {
                place = Some(Ref::by_id(find(session, &part.image).await?.spec.datastore));
            }
        }
        request.datastore = place;
        let path = VmPath { vm: request.name.clone().into() };
        let query = VmCreateQuery::default();
        let created = session.call_with::<vm::Create>(&NoParams {}, &query, request, once());
        match created.await?.task {
            Some(task) => super::finish(session, task, true, "imported", &path).await,
            None => Ok(()),
        }
    }

    /// The datastore for the images that are to be sent: the one asked for, or else the one that
    /// has those that are there.
    ///
    /// # Errors
    /// The images that are there lie on several, or on another than was asked for.
    async fn place(&self, session: &Session, parts: &[Part<'_>]) -> Result<Option<Ref>, CliError> {
        let there = || parts.iter().filter_map(|part| Some((&part.image, part.there?)));
        let wanted = match &self.datastore {
            Some(datastore) if there().next().is_some() => {
                let path = DatastorePath { datastore: datastore.clone() };
                Some(session.call::<datastore::Show>(&path, &NoParams {}, ()).await?.id())
            }
            Some(datastore) => return Ok(Some(datastore.clone())),
            None => there().next().map(|(_, at)| at),
        };
        if let Some((image, _)) = there().find(|(_, at)| Some(*at) != wanted) {
            let message =
                format!("image {image} is there, with the same content, on another datastore");
            return Err(CliError::new(Exit::Conflict, message).hint(format!(
                "name that one with --datastore, delete the image with `hostler image delete \
                 {image}`, or give the VM another name with --name"
            )));
        }
        Ok(wanted.map(Ref::by_id))
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
            // The pool was one of the inventory that it comes from.
            resources: VmResourcesUpdate {
                pool: None,
                cpu_shares: Some(spec.resources.cpu_shares),
                cpu_reservation: Some(spec.resources.cpu_reservation),
                memory_shares: Some(spec.resources.memory_shares),
                memory_reservation: Some(spec.resources.memory_reservation),
            },
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
            migration: spec.migration,
            protected: false,
            host: None,
            datastore: self.datastore.clone(),
            start: false,
            lease_seconds: None,
        })
    }
}

/// A disk of the archive, and the image it becomes.
#[derive(Debug)]
struct Part<'a> {
    disk: &'a ExportedDisk,
    /// Where it begins in the file.
    begin: u64,
    image: Name,
    /// The image is there with this content, on this datastore.
    there: Option<DatastoreId>,
}

/// Refuses what the server would refuse after hours of sending: the same VM with blank disks is
/// tried, and not made.
async fn require_possible(session: &Session, request: &VmCreate) -> Result<(), CliError> {
    let path = VmPath { vm: request.name.clone().into() };
    if session.call::<vm::Show>(&path, &NoParams {}, ()).await.is_ok() {
        let message = format!("there is already a VM named {}", request.name);
        return Err(CliError::new(Exit::Conflict, message).hint("give it another with --name"));
    }
    let mut tried = request.clone();
    tried.disks.iter_mut().for_each(|disk| disk.image = None);
    let query = VmCreateQuery { dry_run: true };
    session.call_with::<vm::Create>(&NoParams {}, &query, tried, once()).await?;
    Ok(())
}

/// Where the image of a disk lies already, if it does.
///
/// # Errors
/// It is there with other content, or nobody knows yet with which.
async fn there(
    session: &Session,
    name: &Name,
    disk: &ExportedDisk,
) -> Result<Option<DatastoreId>, CliError> {
    let image = match find(session, name).await {
        Ok(image) => image,
        Err(error) if error.exit() == Exit::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let what = match image.status.state {
        ImageState::Ready if image.status.sha256.as_ref() == Some(&disk.sha256) => {
            return Ok(Some(image.spec.datastore));
        }
        // An interrupted upload: sending finds out whether it was of this file.
        ImageState::Uploading => return Ok(None),
        ImageState::Ready => "is there, with other content",
        ImageState::Importing => "is just being imported",
        ImageState::Failed => "is there, and its import has failed",
    };
    Err(CliError::new(Exit::Conflict, format!("image {name} {what}")).hint(format!(
        "give the VM another name with --name, or see `hostler image show {name}` and delete it"
    )))
}

async fn find(session: &Session, image: &Name) -> Result<Image, CliError> {
    let path = ImagePath { image: image.clone().into() };
    session.call::<image::Show>(&path, &NoParams {}, ()).await
}

/// Removes what was sent for a VM that is not made. What a broken connection or Ctrl-C has left
/// stays: the same command goes on with it.
async fn take_back(session: &Session, error: &CliError, sent: &[Name]) {
    if sent.is_empty() {
        return;
    }
    if matches!(error.exit(), Exit::Interrupted | Exit::CannotConnect | Exit::Timeout) {
        session.output.remark(&format!(
            "{} stays on the server: the same command goes on with it",
            sent.iter().map(|image| format!("image {image}")).collect::<Vec<_>>().join(", ")
        ));
        return;
    }
    for image in sent {
        match remove(session, image).await {
            Ok(()) => session.output.remark(&format!("image {image} removed again")),
            // A damaged one the server has removed itself.
            Err(error) if error.exit() == Exit::NotFound => {}
            Err(error) => session.output.remark(&format!(
                "image {image} stays: {error}; remove it with `hostler image delete {image}`"
            )),
        }
    }
}

async fn remove(session: &Session, image: &Name) -> Result<(), CliError> {
    let path = ImagePath { image: image.clone().into() };
    let task = session.call_with::<image::Delete>(&path, &NoParams {}, (), once()).await?;
    wait::task(session, task).await.map(drop)
}

fn image_name(vm: &Name, disk: &Name) -> Result<Name, CliError> {
    format!("{vm}-{disk}").parse().map_err(|error| {
        CliError::new(Exit::Usage, format!("{vm}-{disk} is no name for an image: {error}"))
            .hint("give the VM a shorter name with --name")
    })
}
