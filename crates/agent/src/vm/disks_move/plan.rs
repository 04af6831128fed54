//! Which files go to another datastore, and how each of them.

use std::collections::BTreeMap;

use hostler_host::VmDir;
use hostler_host::layers::path;
use hostler_types::{
    ByteSize, CopySource, DatastoreId, DiskSource, Layer, LayerFile, LayerOwner, Name,
};

use super::DisksMove;
use crate::vm::record::VmRecord;

/// A file that is to be at the target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileMove {
    pub(super) disk: Name,
    pub(super) file: LayerFile,
    /// What lies beneath it at the target.
    pub(super) beneath: Option<LayerFile>,
    /// It takes in what lies beneath it here, which does not move: those files.
    pub(super) takes_in: Vec<LayerFile>,
    /// The guest writes to it: QEMU copies it.
    pub(super) written: bool,
}

/// The VM's own files, those beneath before those on top of them. One that was never made is left out.
pub(super) fn files(record: &VmRecord, dir: &VmDir) -> Vec<FileMove> {
    let there = |file: &LayerFile| std::fs::symlink_metadata(path(dir.datastore(), file)).is_ok();
    planned(record).into_iter().filter(|planned| there(&planned.file)).collect()
}

fn planned(record: &VmRecord) -> Vec<FileMove> {
    let own = LayerOwner::Vm(record.id());
    let status = &record.definition.vm.status;
    let present = status.disks.iter().map(|disk| {
        let files = disk.layers.iter().map(|layer| layer.file.clone());
        (&disk.name, files.collect::<Vec<_>>())
    });
    let held = status.snapshots.snapshots.iter().flat_map(|snapshot| &snapshot.disks);
    let held = held.map(|disk| (&disk.name, disk.layers.clone()));
    let plugged = record.running.iter().flat_map(|running| &running.spec.disks);
    let written: Vec<&LayerFile> = plugged
        .filter_map(|disk| {
            let status = status.disks.iter().find(|status| status.name == disk.name)?;
            status.layers.first().map(|layer| &layer.file)
        })
        .collect();
    let (mut all, mut depths) = (BTreeMap::new(), BTreeMap::new());
    for (disk, chain) in present.chain(held) {
        for (at, file) in chain.iter().enumerate().filter(|(_, file)| file.owner() == own) {
            let beneath = chain.get(at + 1);
            let keeps = beneath.filter(|beneath| beneath.owner() == own);
            let takes_in = match keeps {
                Some(_) => Vec::new(),
                None => chain[at + 1..].to_vec(),
            };
            depths.insert(file.clone(), chain.len() - at);
            all.entry(file.clone()).or_insert_with(|| FileMove {
                disk: disk.clone(),
                file: file.clone(),
                beneath: keeps.cloned(),
                takes_in,
                written: written.contains(&file),
            });
        }
    }
    let mut all: Vec<FileMove> = all.into_values().collect();
    all.sort_by_key(|planned| (planned.written, depths.get(&planned.file).copied()));
    all
}

impl VmRecord {
    /// The VM as it is when its files are on `to`: what lay beneath its own is in them.
    pub(super) fn moved_to(&self, to: DatastoreId) -> Self {
        let mut record = self.clone();
        let (own, from) = (LayerOwner::Vm(self.id()), self.datastore());
        record.moved += 1;
        record.moving = Some(DisksMove::From(from));
        // What a disk was made from is not needed for it any more, whoever reads the definition.
        let spec = &mut record.definition.vm.spec;
        for disk in spec.disks.iter_mut().chain(&mut spec.detached) {
            let file = match &disk.source {
                DiskSource::Image(image) => LayerFile::image(*image),
                DiskSource::Linked(file) => file.clone(),
                DiskSource::Blank | DiskSource::Copy(_) => continue,
            };
            disk.source = DiskSource::Copy(CopySource { datastore: from, file });
        }
        let status = &mut record.definition.vm.status;
        status.datastore = to;
        for disk in &mut status.disks {
            disk.layers.retain(|layer| layer.file.owner() == own);
        }
        for disk in status.snapshots.snapshots.iter_mut().flat_map(|snapshot| &mut snapshot.disks) {
            disk.layers.retain(|file| file.owner() == own);
        }
        // It has stayed behind, and goes with all that has.
        record.forget_waste();
        record
    }

    /// The files of a disk as they are at the target.
    pub(super) fn chain_at_target(&self, disk: &Name) -> Vec<Layer> {
        let own = LayerOwner::Vm(self.id());
        let layers = crate::vm::layers::of(self, disk).iter();
        let file = |layer: &Layer| Layer { file: layer.file.clone(), allocated: ByteSize(0) };
        layers.filter(|layer| layer.file.owner() == own).map(file).collect()
    }
}
