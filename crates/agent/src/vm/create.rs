//! A VM's files come into being, or are taken in, or go.
//!
//! The order of creation makes a kill at any instant harmless: the record comes first, so that the
//! agent's next start knows what to take back; the definition comes last of the files.

use hostler_customize::Guest;
use hostler_endpoint::Problem;
use hostler_host::seed;
use hostler_host::{Datastore, VmDir, volume};
use hostler_types::{
    ByteSize, DiskSource, DiskSpec, Layer, LayerFile, LayerOwner, OperationId, PowerState, VmId,
};
use std::time::Duration;

use super::actor::{Actor, Next, Reply};
use super::layers;
use super::lend::{build_on, give_back, lend_all};
use super::nics::{plug_all, unplug_all};
use super::record::{RecordedState, VmRecord};
use crate::blocking::blocking;
use crate::context::HostContext;
use crate::datastores::Condemned;
use crate::fault::{Fault, chain};
use crate::references::require_unused;

/// How long a killed QEMU may take to be gone: its memory is given back, its disks are flushed.
const KILL: Duration = Duration::from_secs(30);

impl Actor {
    pub(super) async fn create(&mut self, op: OperationId, reply: Reply) -> Next {
        if !matches!(self.record.state, RecordedState::Creating { .. }) {
            let fault = Fault::WrongState("a VM with this id is here already".to_owned());
            self.finish(op, Err(fault), reply).await;
            return Next::Go;
        }
        match self.make_files(op).await {
            Ok(()) => self.made(op, reply).await,
            Err(fault) => {
                if !matches!(fault, Fault::DatastoreMissing(_)) {
                    undo_create(&self.host, &self.record).await;
                }
                let _ = reply.send(Err(fault.on(self.record.datastore()).into()));
                Next::End
            }
        }
    }

    pub(super) async fn register(&mut self, op: OperationId, reply: Reply) -> Next {
        if self.record.state != RecordedState::Registering {
            let fault = Fault::WrongState("the VM is in the inventory already".to_owned());
            self.finish(op, Err(fault), reply).await;
            return Next::Go;
        }
        match self.take_files().await {
            Ok(()) => self.made(op, reply).await,
            Err(fault) => {
                undo_register(&self.host, &self.record).await;
                let _ = reply.send(Err(fault.on(self.record.datastore()).into()));
                Next::End
            }
        }
    }

    pub(super) async fn remove(
        &mut self,
        op: OperationId,
        keep_files: bool,
        force: bool,
        reply: Reply,
    ) -> Next {
        match self.remove_all(keep_files, force).await {
            Ok(()) => {
                let _ = reply.send(Ok(self.report()));
                Next::End
            }
            Err(fault) => {
                self.finish(op, Err(fault), reply).await;
                Next::Go
            }
        }
    }

    /// The VM is here and off.
    async fn made(&mut self, op: OperationId, reply: Reply) -> Next {
        let registered = self.record.state == RecordedState::Registering;
        let suspended = registered
            && vm_dir(&self.host, &self.record).is_ok_and(|dir| dir.suspend_state().exists());
        let (state, power) = match suspended {
            true => (RecordedState::Suspended, PowerState::Suspended),
            false => (RecordedState::Stopped, PowerState::Stopped),
        };
        self.record.state = state;
        self.record.journal.add(op, &Ok(()));
        // Of a creation the definition on the datastore says all that is to be known.
        if registered && let Err(fault) = self.save().await {
            undo_register(&self.host, &self.record).await;
            let _ = reply.send(Err(fault.on(self.record.datastore()).into()));
            return Next::End;
        }
        self.tell_room().await;
        self.set_power(power, None);
        let _ = reply.send(Ok::<_, Problem>(self.report()));
        Next::Go
    }

    /// Copies have taken much at once: the server hears of it before the VM is made, because until then it
    /// keeps room for them.
    async fn tell_room(&self) {
        let disks = &self.record.definition.vm.spec.disks;
        let thin = |disk: &DiskSpec| {
            disk.provisioning.is_thin() && !matches!(disk.source, DiskSource::Copy(_))
        };
        if disks.iter().all(thin) {
            return;
        }
        let (host, datastore) = (self.host.clone(), self.record.datastore());
        let looked = blocking(move || {
            host.datastores.look_again(datastore);
            Ok(())
        });
        if let Err(error) = looked.await {
            tracing::warn!(%error, "cannot look at a datastore");
        }
    }

    async fn make_files(&mut self, op: OperationId) -> Result<(), Fault> {
        let (host, mut record) = (self.host.clone(), self.record.clone());
        self.record = blocking(move || {
            layers::complete(&host, &mut record)?;
            Ok(record)
        })
        .await?;
        // Before anything is known that could not be taken back there.
        let (host, record) = (self.host.clone(), self.record.clone());
        blocking(move || vm_dir(&host, &record)).await?;
        // First of all, so that whatever follows is known to be ours.
        self.save().await?;
        let (host, record) = (self.host.clone(), self.record.clone());
        let files = blocking(move || {
            let dir = vm_dir(&host, &record)?;
            if dir.exists() && dir.read_definition().is_ok_and(|found| found.is_some()) {
                return Err(Fault::WrongState(format!(
                    "{} holds a VM already; register it instead",
                    dir.path().display()
                )));
            }
            dir.create()?;
            make_disks(&host, &dir, &record)?;
            write_seed(&dir, &record)
        });
        // Disks wait for flushes, networks for a process. Both come to their end before either's
        // failure is looked at: taking back must not race with making.
        let (files, plugged) = tokio::join!(files, plug_all(&self.host, &self.record));
        files.and(plugged)?;
        let record = self.record.clone();
        let disks = &record.definition.vm.spec.disks;
        for disk in disks.iter().filter(|disk| !disk.provisioning.is_thin()) {
            self.ensure_disk(&record, disk).await?;
        }
        self.copy_disks(op).await?;
        let (host, record) = (self.host.clone(), self.record.clone());
        blocking(move || {
            let dir = vm_dir(&host, &record)?;
            if record.definition.vm.is_template() {
                // VMs are made from it as soon as it is there.
                for disk in &record.definition.vm.status.disks {
                    let files: Vec<_> = disk.layers.iter().map(|l| l.file.clone()).collect();
                    lend_all(&dir, &files)?;
                }
            }
            Ok(dir.write_definition(&record.definition.vm)?)
        })
        .await
    }

    async fn take_files(&mut self) -> Result<(), Fault> {
        let (host, record) = (self.host.clone(), self.record.clone());
        // Which files a disk is made of is told by the definition that lies beside them.
        let disks = blocking(move || {
            host.records.save(&record)?;
            let dir = vm_dir(&host, &record)?;
            if !dir.exists() {
                return Err(Fault::WrongState(format!("{} is not there", dir.path().display())));
            }
            let found = dir.read_definition().map_err(|e| Fault::WrongState(chain(&e)))?;
            Ok(found.map(|vm| vm.status).map(|s| (s.disks, s.snapshots)).unwrap_or_default())
        });
        let (disks, snapshots) = disks.await?;
        self.record.definition.vm.status.snapshots = snapshots;
        layers::settle(&mut self.record.definition.vm, &disks, None);
        let (host, record) = (self.host.clone(), self.record.clone());
        blocking(move || {
            let dir = vm_dir(&host, &record)?;
            let spec = &record.definition.vm.spec;
            for disk in spec.own_disks() {
                let files = layers::of(&record, &disk.name);
                layers::check(&dir, files)?;
                let own =
                    files.iter().filter(|layer| layer.file.owner() == LayerOwner::Vm(dir.id()));
                let paths: Vec<_> = own
                    .map(|layer| hostler_host::layers::path(dir.datastore(), &layer.file))
                    .collect();
                // The new user may be another than the one before; also proves that it is a file.
                // What is lent stays so: others lie on it.
                for path in &paths {
                    if !volume::is_lent(path)? {
                        volume::set_owner(path, record.uid)?;
                    }
                }
                let Some(active) = paths.first() else { continue };
                let found = volume::virtual_size(active)?;
                if found > disk.size {
                    return Err(Fault::WrongState(format!(
                        "disk `{}` has {found}, more than the {} of its definition",
                        disk.name, disk.size
                    )));
                }
            }
            take_snapshots(&dir, &record)?;
            for path in [dir.nvram(), dir.suspend_state()] {
                if path.exists() {
                    volume::set_owner(&path, record.uid)?;
                }
            }
            // Its seed may hold secrets that are nowhere else.
            match dir.seed() {
                seed if seed.exists() => Ok(volume::set_owner(&seed, record.uid)?),
                _ => write_seed(&dir, &record),
            }
        })
        .await?;
        plug_all(&self.host, &self.record).await?;
        let (host, record) = (self.host.clone(), self.record.clone());
        blocking(move || Ok(vm_dir(&host, &record)?.write_definition(&record.definition.vm)?)).await
    }

    async fn remove_all(&mut self, keep_files: bool, force: bool) -> Result<(), Fault> {
        let qmp = self.monitor();
        self.settle_move(qmp.as_ref()).await?;
        // Before anything is undone: is the datastore there at all, and needs nobody the files?
        let (host, record) = (self.host.clone(), self.record.clone());
        let condemned = blocking(move || {
            let dir = vm_dir(&host, &record)?;
            (!keep_files).then(|| condemn(&host, &dir)).transpose()
        })
        .await?;
        // `unknown` means that a QEMU is there which does not answer.
        if self.power.is_live() {
            if !force {
                return Err(Fault::Power {
                    action: "removing it",
                    power: self.power,
                    needed: "stopped",
                });
            }
            self.power_off().await?;
        }
        self.restart_at = None;
        unplug_all(&self.host, &self.record).await;
        let (host, record) = (self.host.clone(), self.record.clone());
        blocking(move || {
            end_processes(&host, record.id())?;
            let dir = vm_dir(&host, &record)?;
            match keep_files {
                true if dir.exists() => dir.unregister()?,
                true => {}
                false => {
                    dir.remove()?;
                    for disk in &record.definition.vm.status.disks {
                        give_back(&host, &record, &disk.layers);
                    }
                }
            }
            drop(condemned);
            host.records.remove(record.id())
        })
        .await
    }
}

/// The files that only snapshots hold. Blocks.
fn take_snapshots(dir: &VmDir, record: &VmRecord) -> Result<(), Fault> {
    let layer = |file: &LayerFile| Layer { file: file.clone(), allocated: ByteSize(0) };
    for snapshot in &record.snapshots().snapshots {
        for disk in &snapshot.disks {
            layers::check(dir, &disk.layers.iter().map(layer).collect::<Vec<_>>())?;
            for file in &disk.layers {
                if file.owner() == LayerOwner::Vm(dir.id()) {
                    let path = hostler_host::layers::path(dir.datastore(), file);
                    if !volume::is_lent(&path)? {
                        volume::set_owner(&path, record.uid)?;
                    }
                }
            }
        }
    }
    Ok(())
}

/// Lets nobody build on the disks of a VM from now on, having made sure that nobody has. Blocks.
fn condemn(host: &HostContext, dir: &VmDir) -> Result<Condemned, Fault> {
    let files = dir.layer_files()?;
    let condemned =
        host.datastores.condemn(dir.datastore().id(), files.clone(), "it is being removed")?;
    require_unused(dir.datastore(), &files)?;
    Ok(condemned)
}

/// Removes a VM's directory, unless somebody needs a file in it. Blocks.
pub(super) fn remove_files(host: &HostContext, dir: &VmDir) -> Result<(), Fault> {
    let _condemned = condemn(host, dir)?;
    Ok(dir.remove()?)
}

/// Takes back what a creation made. What fails is logged: the record stays then, and the agent's
/// next start tries again.
pub(super) async fn undo_create(host: &std::sync::Arc<HostContext>, record: &VmRecord) {
    unplug_all(host, record).await;
    let (host, record) = (host.clone(), record.clone());
    let id = record.id();
    let undone = blocking(move || {
        // A directory that holds another's definition was there before: the creation was refused.
        let dir = vm_dir(&host, &record)?;
        let foreign = dir.read_definition().ok().flatten();
        if foreign.is_none_or(|found| found == VmDir::stored(&record.definition.vm)) {
            remove_files(&host, &dir)?;
        }
        host.records.remove(record.id())
    });
    if let Err(error) = undone.await {
        tracing::error!(vm = %id, %error, "cannot take back a creation; the next start will");
    }
}

/// Forgets a VM that could not be taken in; its files stay.
pub(super) async fn undo_register(host: &std::sync::Arc<HostContext>, record: &VmRecord) {
    unplug_all(host, record).await;
    let (records, id) = (host.records.clone(), record.id());
    if let Err(error) = blocking(move || records.remove(id)).await {
        tracing::error!(vm = %id, %error, "cannot forget a VM");
    }
}

/// Kills what runs for the VM and removes its group and runtime directory. Blocks.
pub(super) fn end_processes(host: &HostContext, id: VmId) -> Result<(), Fault> {
    host.cgroups
        .kill(id, KILL)
        .map_err(|error| Fault::WrongState(format!("QEMU cannot be ended: {}", chain(&error))))?;
    match std::fs::remove_dir_all(host.vm_runtime(id)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Fault::internal("remove a runtime directory", &error))
        }
        _ => Ok(()),
    }
}

/// The VM's directory on a datastore that is there. Blocks.
pub(super) fn vm_dir(host: &HostContext, record: &VmRecord) -> Result<VmDir, Fault> {
    Ok(host.datastores.get(record.datastore())?.vm(record.id()))
}

/// Where an image is that the VM uses. Blocks.
pub(super) fn image_path(
    host: &HostContext,
    record: &VmRecord,
    image: hostler_types::ImageId,
) -> Result<std::path::PathBuf, Fault> {
    let datastore = record.definition.images.iter().find(|(id, _)| *id == image);
    let datastore = datastore.map_or(record.datastore(), |(_, datastore)| *datastore);
    let found: Datastore = host.datastores.get(datastore)?;
    found.find_image(image).map(|(path, _)| path).ok_or(Fault::NoImage { image, datastore })
}

pub(super) fn make_disk(
    host: &HostContext,
    dir: &VmDir,
    record: &VmRecord,
    disk: &DiskSpec,
) -> Result<(), Fault> {
    match &disk.source {
        DiskSource::Blank => volume::create_blank(dir, disk, record.uid)?,
        DiskSource::Linked(beneath) => {
            let what = in_the_making(record, disk);
            let _held = host.datastores.hold(record.datastore(), [beneath.clone()], what)?;
            let file = LayerFile::disk(dir.id(), &disk.name, 0);
            build_on(dir.datastore(), beneath, || {
                Ok(volume::create_layer(dir, &file, disk.size, beneath, record.uid)?)
            })?;
        }
        // Takes long, and has been done when the VM was made.
        DiskSource::Copy(_) => {}
        DiskSource::Image(image) => {
            let (beneath, what) = (LayerFile::image(*image), in_the_making(record, disk));
            let _held = host.datastores.hold(record.datastore(), [beneath], what)?;
            let path = image_path(host, record, *image)?;
            let size = volume::virtual_size(&path)?;
            volume::create_overlay(dir, disk, &path, size, record.uid)?;
        }
    }
    Ok(())
}

/// For whoever wants to delete what a disk is made of.
fn in_the_making(record: &VmRecord, disk: &DiskSpec) -> String {
    format!(
        "the disk {} of the VM `{}` is just being made of it",
        disk.name,
        record.definition.vm.name()
    )
}

fn make_disks(host: &HostContext, dir: &VmDir, record: &VmRecord) -> Result<(), Fault> {
    let disks = record.definition.vm.spec.disks.iter().filter(|disk| disk.provisioning.is_thin());
    disks.into_iter().try_for_each(|disk| make_disk(host, dir, record, disk))
}

/// Writes the seed, if the guest is to be told something. Blocks.
pub(super) fn write_seed(dir: &VmDir, record: &VmRecord) -> Result<(), Fault> {
    let vm = &record.definition.vm;
    let Some(customization) = &vm.spec.customization else { return Ok(()) };
    let hash = record.definition.customization_hash.as_deref().unwrap_or_default();
    let guest = Guest { vm: vm.id(), name: vm.name(), customization, nics: &vm.spec.nics, hash };
    seed::write(dir, &guest, record.uid).map_err(|error| Fault::WrongState(chain(&error)))
}

impl From<hostler_host::VolumeError> for Fault {
    fn from(error: hostler_host::VolumeError) -> Self {
        use hostler_host::VolumeError;
        match error {
            VolumeError::Datastore(error) => error.into(),
            VolumeError::Full { .. } => Self::NoSpace(chain(&error)),
            error => Self::WrongState(chain(&error)),
        }
    }
}
