//! A disk that is detached from another VM of this host becomes this one's.
//!
//! ```text
//!  record: intent ─> file: this VM's user ─> rename ─> definition, record: the disk, detached
//! ```
//!
//! The rename decides whose the disk is: before it is the other's, after it this VM's, and a file is
//! never in two directories or in none. The intent tells whoever finds the record which of the two it
//! is. The other VM's record still names the disk then, without a file; the server has it forget the
//! disk next, and until it has, both VMs are locked. For the same reason the other's record, which is
//! written before anything is plugged in, can be trusted without asking its actor.
//!
//! Taking back is the same the other way round, so a repetition finds the disk here and does nothing.

use std::path::Path;

use hostler_host::layers::path;
use hostler_host::{VmDir, volume};
use hostler_types::{
    DatastoreId, DiskSpec, DiskStatus, ImageId, Layer, LayerFile, LayerOwner, Name, VmId,
};
use serde::{Deserialize, Serialize};

use super::actor::Actor;
use super::create::vm_dir;
use super::layers;
use super::record::VmRecord;
use crate::blocking::blocking;
use crate::context::HostContext;
use crate::datastores::Condemned;
use crate::fault::Fault;
use crate::references::require_unused;

/// Which disk of which VM is to become the VM's own, and under which name.
#[derive(Debug, Clone)]
pub(crate) struct TakeOrder {
    pub(crate) from: VmId,
    pub(crate) disk: Name,
    pub(crate) name: Name,
}

/// The intent: a disk that is the VM's own from the moment its file is in the VM's directory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Taking {
    /// Where its file is until then.
    from: LayerFile,
    /// As the VM is to have it.
    disk: DiskSpec,
    /// Its files as the VM is to have them: one of its own, the others beneath.
    layers: Vec<Layer>,
    /// Where the images that it lies on are.
    images: Vec<(ImageId, DatastoreId)>,
}

impl Taking {
    /// Where its file is to be.
    fn file(&self) -> &LayerFile {
        &self.layers.first().expect("a plan begins with the file that moves").file
    }
}

impl Actor {
    /// # Errors
    /// The disk is not detached, or is needed where it is, or has no place here. It is the other VM's
    /// then, as before.
    pub(super) async fn disk_take(&mut self, order: TakeOrder) -> Result<(), Fault> {
        self.settle_taking().await?;
        let (host, record) = (self.host.clone(), self.record.clone());
        let planned = blocking(move || plan(&host, &record, &order)).await?;
        let Some((taking, _condemned)) = planned else { return Ok(()) };
        self.record.taking = Some(taking.clone());
        if let Err(fault) = self.save().await {
            self.record.taking = None;
            return Err(fault);
        }
        let (host, record) = (self.host.clone(), self.record.clone());
        let moved = blocking(move || {
            let dir = vm_dir(&host, &record)?;
            let (from, to) = (path(dir.datastore(), &taking.from), taking.file().clone());
            Ok(volume::bring(&from, &dir, &path(dir.datastore(), &to), record.uid)?)
        });
        let moved = moved.await;
        self.settle_taking().await?;
        moved
    }

    /// Brings what was begun to its end, whichever that is: the disk is here if its file is.
    pub(super) async fn settle_taking(&mut self) -> Result<(), Fault> {
        let Some(taking) = self.record.taking.clone() else { return Ok(()) };
        let (host, mut record) = (self.host.clone(), self.record.clone());
        self.record = blocking(move || {
            let dir = vm_dir(&host, &record)?;
            record.taking = None;
            if is_there(&dir, taking.file())? {
                volume::flush_names(&dir)?;
                record.own(taking);
                dir.write_definition(&record.definition.vm)?;
            } else {
                give_back(&host, &dir, &taking.from)?;
            }
            host.records.save(&record)?;
            Ok(record)
        })
        .await?;
        Ok(())
    }
}

impl VmRecord {
    /// The disk is one of the detached ones.
    fn own(&mut self, taking: Taking) {
        let Taking { disk, layers, images, .. } = taking;
        let vm = &mut self.definition.vm;
        // Of a disk that was taken from this VM before, and comes back.
        vm.spec.detached.retain(|known| known.name != disk.name);
        vm.status.disks.retain(|known| known.name != disk.name);
        let allocated = layers.first().map(|layer| layer.allocated).unwrap_or_default();
        vm.status.disks.push(DiskStatus { name: disk.name.clone(), allocated, layers });
        vm.spec.detached.push(disk);
        for image in images {
            if !self.definition.images.contains(&image) {
                self.definition.images.push(image);
            }
        }
    }

    /// A detached disk with its files, also one that is just coming and may be here already.
    fn detached(&self, disk: &Name) -> Option<(&DiskSpec, &[Layer])> {
        if let Some(taking) = self.taking.as_ref().filter(|taking| taking.disk.name == *disk) {
            return Some((&taking.disk, &taking.layers));
        }
        let spec = &self.definition.vm.spec;
        let found = spec.detached.iter().find(|known| known.name == *disk)?;
        Some((found, layers::of(self, disk)))
    }

    fn called(&self) -> String {
        format!("VM `{}`", self.definition.vm.called())
    }
}

/// What is to be done, with the file kept from whoever would build on it; nothing when the disk is
/// here. Blocks.
fn plan(
    host: &HostContext,
    record: &VmRecord,
    order: &TakeOrder,
) -> Result<Option<(Taking, Condemned)>, Fault> {
    let TakeOrder { from, disk, name } = order;
    let lender = host.records.get(*from)?.ok_or(Fault::NoVm(*from))?;
    if lender.id() == record.id() || lender.datastore() != record.datastore() {
        let text = "a disk comes from another VM on the same datastore".to_owned();
        return Err(Fault::Invalid(text));
    }
    let dir = vm_dir(host, record)?;
    let there = |found: Option<(&DiskSpec, &[Layer])>| match found.and_then(|f| f.1.first()) {
        Some(active) => is_there(&dir, &active.file),
        None => Ok(false),
    };
    let theirs = lender.detached(disk);
    match (there(record.detached(name))?, there(theirs)?) {
        (true, false) => return Ok(None),
        (true, true) => return Err(name_taken(record, name)),
        (false, false) => return Err(not_detached(&lender, disk)),
        (false, true) => {}
    }
    require_free(record, name)?;
    let (spec, chain) = theirs.ok_or_else(|| not_detached(&lender, disk))?;
    require_unneeded(&lender, disk, chain)?;
    let (active, beneath) = chain.split_first().ok_or_else(|| not_detached(&lender, disk))?;
    if beneath.iter().any(|layer| layer.file.owner() == LayerOwner::Vm(record.id())) {
        let (whose, whom) = (lender.called(), record.called());
        return Err(Fault::InUse(format!("disk `{disk}` of the {whose} lies on the {whom}'s own")));
    }
    let file = active.file.clone();
    let why = format!("it is becoming a disk of the {}", record.called());
    let condemned = host.datastores.condemn(dir.datastore().id(), [file.clone()], &why)?;
    require_unused(dir.datastore(), std::slice::from_ref(&file))?;
    layers::check(&dir, chain)?;
    // One that comes back has its place already, and no other file does.
    let before = record.detached(name).and_then(|(_, layers)| layers.first());
    let own = before.map(|layer| layer.file.clone());
    let own = own.unwrap_or_else(|| record.new_file(&dir, name));
    let own = Layer { file: own, allocated: active.allocated };
    let needed = |image: &&(ImageId, DatastoreId)| {
        beneath.iter().any(|layer| layer.file.owner() == LayerOwner::Image(image.0))
    };
    let taking = Taking {
        from: file,
        disk: DiskSpec { name: name.clone(), ..spec.clone() },
        layers: [own].into_iter().chain(beneath.iter().cloned()).collect(),
        images: lender.definition.images.iter().filter(needed).copied().collect(),
    };
    Ok(Some((taking, condemned)))
}

/// The name is free here, also in the snapshots.
fn require_free(record: &VmRecord, name: &Name) -> Result<(), Fault> {
    if record.definition.vm.spec.disks.iter().any(|known| known.name == *name) {
        return Err(name_taken(record, name));
    }
    match record.snapshot_with(name) {
        Some(snapshot) => {
            let (snapshot, whose) = (&snapshot.name, record.called());
            Err(Fault::WrongState(format!(
                "the snapshot `{snapshot}` of the {whose} holds another disk `{name}`"
            )))
        }
        None => Ok(()),
    }
}

/// Nothing of the VM that has the disk needs it any more.
fn require_unneeded(lender: &VmRecord, disk: &Name, chain: &[Layer]) -> Result<(), Fault> {
    let whose = lender.called();
    let refuse = |why: String| Err(Fault::InUse(format!("disk `{disk}` of the {whose} {why}")));
    let running = lender.running.iter().flat_map(|running| &running.spec.disks);
    let spec = lender.definition.vm.spec.disks.iter();
    if running.chain(spec).any(|known| known.name == *disk) {
        return refuse("is plugged in".to_owned());
    }
    if let Some(snapshot) = lender.snapshot_with(disk) {
        return refuse(format!("is part of its snapshot `{}`", snapshot.name));
    }
    let own = |layer: &&Layer| layer.file.owner() == LayerOwner::Vm(lender.id());
    if chain.iter().filter(own).count() != 1 || lender.flattening.as_ref() == Some(disk) {
        return refuse("is made of several of its files, which are not merged yet".to_owned());
    }
    if chain.iter().any(|layer| lender.forking.contains(&layer.file)) {
        return refuse("is just being cloned".to_owned());
    }
    Ok(())
}

fn name_taken(record: &VmRecord, name: &Name) -> Fault {
    Fault::WrongState(format!("the {} has a disk `{name}` already", record.called()))
}

fn not_detached(lender: &VmRecord, disk: &Name) -> Fault {
    Fault::WrongState(format!("the {} has no detached disk `{disk}`", lender.called()))
}

/// Whether a file is there. A datastore that is not is an error, not a "no". Blocks.
fn is_there(dir: &VmDir, file: &LayerFile) -> Result<bool, Fault> {
    let place = path(dir.datastore(), file);
    let found = Path::try_exists(&place);
    found.map_err(|error| Fault::WrongState(format!("cannot look at {}: {error}", place.display())))
}

/// The file stays where it is, and its VM's. Blocks.
fn give_back(host: &HostContext, dir: &VmDir, file: &LayerFile) -> Result<(), Fault> {
    let LayerOwner::Vm(owner) = file.owner() else { return Ok(()) };
    let Some(lender) = host.records.get(owner)? else { return Ok(()) };
    if is_there(dir, file)? {
        volume::set_owner(&path(dir.datastore(), file), lender.uid)?;
    }
    Ok(())
}
