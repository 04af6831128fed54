//! The chains of files that a VM's disks are made of, as the VM's record has them.
//!
//! The record is the truth, and lies where no guest reaches it. It is kept in the status of the
//! recorded VM, so that it goes into the definition beside the disks too; what a server sends as
//! status is never taken for it.

use hostler_host::{VmDir, VolumeError};
use hostler_qemu::{LayerPlan, layer_node};
use hostler_types::{
    ByteSize, DiskSource, DiskSpec, DiskStatus, Layer, LayerFile, LayerOwner, Name, Vm, VmSpec,
};

use super::record::VmRecord;
use crate::context::HostContext;
use crate::datastores::Datastores;
use crate::fault::{Fault, chain};
use crate::references::require_unused;

/// The files of a disk, the active one first.
pub(super) fn of<'a>(record: &'a VmRecord, disk: &Name) -> &'a [Layer] {
    let disks = &record.definition.vm.status.disks;
    disks.iter().find(|status| status.name == *disk).map_or(&[], |status| &status.layers)
}

/// Completes the chains of disks that are to lie on another VM's file: all that lies beneath it, as
/// the headers say. Blocks.
pub(super) fn complete(host: &HostContext, record: &mut VmRecord) -> Result<(), Fault> {
    let datastore = record.datastore();
    let linked = |disk: &DiskSpec| match &disk.source {
        DiskSource::Linked(beneath) => Some((disk.name.clone(), beneath.clone())),
        _ => None,
    };
    let linked: Vec<_> = record.definition.vm.spec.own_disks().filter_map(linked).collect();
    if linked.is_empty() {
        return Ok(());
    }
    let datastore = host.datastores.get(datastore)?;
    for (name, beneath) in linked {
        if matches!(beneath.owner(), LayerOwner::Vm(vm) if vm == record.id()) {
            return Err(Fault::Invalid(format!("disk `{name}` cannot lie on the VM's own files")));
        }
        let files = hostler_host::layers::chain(&datastore, &beneath)?;
        let disks = &mut record.definition.vm.status.disks;
        if let Some(disk) = disks.iter_mut().find(|disk| disk.name == name) {
            let layer = |file| Layer { file, allocated: ByteSize(0) };
            disk.layers.truncate(1);
            disk.layers.extend(files.into_iter().map(layer));
        }
    }
    Ok(())
}

/// Gives each disk of the spec a chain: the one that `known` has, or that of a disk just made; and
/// takes away what is no disk any more. What still runs keeps its chain.
pub(super) fn settle(vm: &mut Vm, known: &[DiskStatus], running: Option<&VmSpec>) {
    let id = vm.id();
    let status = |disk: &DiskSpec| {
        let known = known.iter().find(|status| status.name == disk.name);
        match known.filter(|status| !status.layers.is_empty()) {
            Some(status) => status.clone(),
            None => DiskStatus {
                name: disk.name.clone(),
                allocated: ByteSize(0),
                layers: fresh(id, disk),
            },
        }
    };
    let mut disks: Vec<_> = vm.spec.own_disks().map(status).collect();
    let runs =
        |name: &Name| running.is_some_and(|spec| spec.disks.iter().any(|disk| disk.name == *name));
    let rest = known.iter().filter(|known| runs(&known.name));
    let rest: Vec<_> =
        rest.filter(|known| disks.iter().all(|disk| disk.name != known.name)).cloned().collect();
    disks.extend(rest);
    vm.status.disks = disks;
}

/// The disks that were the VM's and are not any more.
pub(super) fn discarded(before: &Vm, after: &Vm) -> Vec<DiskStatus> {
    let kept = |name: &Name| after.status.disks.iter().any(|disk| disk.name == *name);
    before.status.disks.iter().filter(|disk| !kept(&disk.name)).cloned().collect()
}

/// Removes the files of disks, the active ones first; what a snapshot in `record` holds stays.
/// Refuses, and removes nothing, when anything else on the datastore lies on one of them: the disks
/// say so themselves. Blocks.
pub(super) fn discard(
    datastores: &Datastores,
    dir: &VmDir,
    disks: &[DiskStatus],
    record: &VmRecord,
) -> Result<(), Fault> {
    if disks.is_empty() {
        return Ok(());
    }
    let known = record.known_files();
    let own = |layer: &&Layer| {
        layer.file.owner() == LayerOwner::Vm(dir.id()) && !known.contains(&layer.file)
    };
    let layers = disks.iter().flat_map(|disk| &disk.layers).filter(own);
    let files: Vec<LayerFile> = layers.map(|layer| layer.file.clone()).collect();
    let _condemned =
        datastores.condemn(dir.datastore().id(), files.clone(), "it is being removed")?;
    require_unused(dir.datastore(), &files)?;
    for file in files {
        let path = hostler_host::layers::path(dir.datastore(), &file);
        hostler_host::volume::remove(dir, &path)?;
    }
    Ok(())
}

/// The chain of a disk that was just made.
fn fresh(vm: hostler_types::VmId, disk: &DiskSpec) -> Vec<Layer> {
    let own = LayerFile::disk(vm, &disk.name, 0);
    let beneath = match &disk.source {
        DiskSource::Image(image) => Some(LayerFile::image(*image)),
        DiskSource::Linked(file) => Some(file.clone()),
        DiskSource::Blank | DiskSource::Copy(_) => None,
    };
    let layer = |file| Layer { file, allocated: ByteSize(0) };
    [own].into_iter().chain(beneath).map(layer).collect()
}

/// Holds the chain against the files. Blocks.
pub(super) fn check(dir: &VmDir, layers: &[Layer]) -> Result<(), Fault> {
    let Err(error) = hostler_host::layers::verify(dir.datastore(), layers) else { return Ok(()) };
    match missing_image(dir, layers) {
        Some(LayerOwner::Image(image)) => {
            Err(Fault::NoImage { image, datastore: dir.datastore().id() })
        }
        _ => Err(named(error, dir, layers)),
    }
}

fn named(error: VolumeError, dir: &VmDir, layers: &[Layer]) -> Fault {
    match error {
        VolumeError::Io { source, path, .. } if source.kind() == std::io::ErrorKind::NotFound => {
            let file =
                |layer: &&Layer| hostler_host::layers::path(dir.datastore(), &layer.file) == path;
            let owner = layers.iter().find(file).map(|layer| layer.file.owner());
            let whose = match owner {
                Some(LayerOwner::Vm(vm)) => format!(" of VM {vm}"),
                Some(LayerOwner::Image(image)) => format!(" of image {image}"),
                None => String::new(),
            };
            let (path, store) = (path.display(), dir.datastore().id());
            Fault::WrongState(format!(
                "the file {path}{whose} is missing from datastore {store}; bring it back from a \
                 backup, and see `hostler datastore check` for all that lacks files"
            ))
        }
        error => Fault::WrongState(chain(&error)),
    }
}

fn missing_image(dir: &VmDir, layers: &[Layer]) -> Option<LayerOwner> {
    let gone = |file: &&LayerFile| !hostler_host::layers::path(dir.datastore(), file).exists();
    let owner = layers.iter().map(|layer| &layer.file).find(gone)?.owner();
    Some(owner).filter(|owner| matches!(owner, LayerOwner::Image(_)))
}

/// The node of a disk's file, in the VM's QEMU.
pub(super) fn node(record: &VmRecord, disk: &Name, file: &LayerFile) -> String {
    layer_node(disk, file, record.moved)
}

/// A layer as QEMU is told of it.
pub(super) fn plan(dir: &VmDir, record: &VmRecord, disk: &Name, layer: &Layer) -> LayerPlan {
    LayerPlan {
        node: node(record, disk, &layer.file),
        path: hostler_host::layers::path(dir.datastore(), &layer.file),
        shared: layer.file.owner() != LayerOwner::Vm(dir.id()),
    }
}

/// The status of a disk as reported: with what its files have now.
pub(super) fn measured(dir: Option<&VmDir>, status: &DiskStatus) -> DiskStatus {
    let Some(dir) = dir else { return status.clone() };
    let measure =
        |layer: &Layer| hostler_host::layers::measure(dir.datastore(), layer.file.clone());
    let layers: Vec<Layer> = status.layers.iter().map(measure).collect();
    let own = layers.iter().filter(|layer| layer.file.owner() == LayerOwner::Vm(dir.id()));
    let allocated = ByteSize(own.map(|layer| layer.allocated.bytes()).sum());
    DiskStatus { name: status.name.clone(), allocated, layers }
}
