//! Which files are a VM's, what they are called, and how those go that are not needed.

use std::collections::BTreeSet;

use hostler_host::VmDir;
use hostler_host::layers::{LayerGraph, path};
use hostler_types::{
    ByteSize, DiskStatus, Layer, LayerFile, LayerOwner, Merge, MergePlan, Name, Snapshot,
    SnapshotTree, plan_merges,
};

use super::{SavedHardware, Taking};
use crate::blocking::blocking;
use crate::datastores::Datastores;
use crate::fault::Fault;
use crate::state_file;
use crate::vm::actor::Actor;
use crate::vm::create::vm_dir;
use crate::vm::record::VmRecord;

impl VmRecord {
    /// All files of the disks as they are, and of all snapshots.
    pub(in crate::vm) fn known_files(&self) -> BTreeSet<LayerFile> {
        let status = &self.definition.vm.status;
        let disks = status.disks.iter().flat_map(|disk| &disk.layers).map(|layer| &layer.file);
        let snapshots = status.snapshots.snapshots.iter().flat_map(|snapshot| &snapshot.disks);
        disks.chain(snapshots.flat_map(|disk| &disk.layers)).cloned().collect()
    }

    /// Whether a snapshot has a file of a disk of this name.
    pub(in crate::vm) fn snapshot_with(&self, disk: &Name) -> Option<&Snapshot> {
        let has = |snapshot: &&Snapshot| snapshot.disks.iter().any(|held| held.name == *disk);
        self.snapshots().snapshots.iter().find(has)
    }

    /// A name for a new file of a disk that no file has or had lately. Blocks.
    pub(in crate::vm) fn new_file(&self, dir: &VmDir, disk: &Name) -> LayerFile {
        let known = self.known_files();
        let all = known.iter().chain(&self.layering.waste);
        let of_disk = all.filter_map(|file| {
            let number = file.number()?;
            (LayerFile::disk(self.id(), disk, number) == *file).then_some(number)
        });
        let first = of_disk.max().map_or(0, |number| number + 1);
        let free =
            |file: &LayerFile| std::fs::symlink_metadata(path(dir.datastore(), file)).is_err();
        let files = (first..).map(|number| LayerFile::disk(self.id(), disk, number));
        files.into_iter().find(free).expect("there are more numbers than files")
    }

    /// Files that are about to be made for something that may not come about.
    pub(in crate::vm) fn begin_files(&mut self, files: impl IntoIterator<Item = LayerFile>) {
        self.layering.waste.extend(files);
    }

    /// One of them is the active layer of its disk.
    pub(in crate::vm) fn put_file(&mut self, disk: &Name, layer: Layer) {
        self.layering.waste.retain(|file| *file != layer.file);
        let disks = &mut self.definition.vm.status.disks;
        if let Some(status) = disks.iter_mut().find(|status| status.name == *disk) {
            status.layers.insert(0, layer);
        }
    }

    /// The disk has a new active layer.
    pub(super) fn put_layers(&mut self, taking: &Taking) {
        for (name, file) in &taking.layers {
            let disks = &mut self.definition.vm.status.disks;
            if let Some(disk) = disks.iter_mut().find(|disk| disk.name == *name) {
                let layer = Layer { file: file.clone(), allocated: ByteSize(0) };
                disk.layers.insert(0, layer);
            }
        }
        self.layering.waste.retain(|file| taking.layers.iter().all(|(_, new)| new != file));
    }

    /// What was merged is in no chain any more.
    pub(super) fn apply_merge(&mut self, merge: &Merge) {
        for disk in &mut self.definition.vm.status.disks {
            disk.layers.retain(|layer| !merge.from.contains(&layer.file));
        }
        let snapshots = &mut self.snapshots_mut().snapshots;
        for disk in snapshots.iter_mut().flat_map(|snapshot| &mut snapshot.disks) {
            merge.apply(&mut disk.layers);
        }
        self.layering.waste.extend(merge.from.iter().cloned());
    }

    /// Files of the VM directly on one, other than `from`'s.
    pub(super) fn branches_on(&self, merge: &Merge) -> BTreeSet<LayerFile> {
        let status = &self.definition.vm.status;
        let file = |layer: &Layer| layer.file.clone();
        let present = status.disks.iter().map(|disk| disk.layers.iter().map(file).collect());
        let held = status.snapshots.snapshots.iter().flat_map(|snapshot| &snapshot.disks);
        let chains: Vec<Vec<LayerFile>> =
            present.chain(held.map(|disk| disk.layers.clone())).collect();
        let pairs = chains.iter().flat_map(|chain| chain.windows(2));
        pairs.filter(|pair| Some(&pair[1]) == merge.from.first()).map(|p| p[0].clone()).collect()
    }
}

/// What is left to be merged and removed, as the datastore is now. Blocks.
pub(super) fn plan(dir: &VmDir, record: &VmRecord) -> Result<MergePlan, Fault> {
    let graph = LayerGraph::read(dir.datastore())?;
    let known = record.known_files();
    let clones = |file: &LayerFile| graph.dependents(file).any(|on| !known.contains(on));
    let status = &record.definition.vm.status;
    let plan = plan_merges(record.id(), &status.disks, &status.snapshots, &[], clones);
    Ok(plan.measured(|file| measure(dir, file)))
}

pub(super) fn measure(dir: &VmDir, file: &LayerFile) -> ByteSize {
    hostler_host::layers::measure(dir.datastore(), file.clone()).allocated
}

/// Removes what is no part of anything and has nothing on it; what remains. Blocks.
pub(super) fn sweep(
    datastores: &Datastores,
    dir: &VmDir,
    record: &VmRecord,
) -> Result<Vec<LayerFile>, Fault> {
    let known = record.known_files();
    let taking = record.layering.taking.iter().flat_map(|taking| &taking.layers);
    let reverting = record.layering.reverting.iter().flat_map(|reverting| &reverting.layers);
    let made: BTreeSet<_> = taking.map(|(_, file)| file).chain(reverting).collect();
    let mut waste = record.layering.waste.clone();
    // What somebody is just building upon stays, and nobody begins to build on the rest.
    let condemn = |file: &LayerFile| {
        datastores.condemn(dir.datastore().id(), [file.clone()], "it is being removed").ok()
    };
    let condemned: Vec<_> =
        waste.iter().filter_map(|file| Some((file.clone(), condemn(file)?))).collect();
    let graph = LayerGraph::read(dir.datastore())?;
    loop {
        let on = |file: &LayerFile| graph.dependents(file).any(|on| !gone(dir, on));
        let free = |file: &&LayerFile| {
            !known.contains(*file)
                && !made.contains(file)
                && file.owner() == LayerOwner::Vm(record.id())
                && condemned.iter().any(|(condemned, _)| condemned == *file)
                && !on(file)
        };
        let Some(file) = waste.iter().find(free).cloned() else { break };
        hostler_host::volume::remove(dir, &path(dir.datastore(), &file))?;
        waste.retain(|other| *other != file);
    }
    // What has become part of something since is no waste.
    waste.retain(|file| !known.contains(file));
    Ok(waste)
}

fn gone(dir: &VmDir, file: &LayerFile) -> bool {
    !path(dir.datastore(), file).exists()
}

impl Actor {
    /// The record, and the definition beside the disks, which has the chains too.
    pub(in crate::vm) async fn save_chains(&self) -> Result<(), Fault> {
        let (host, record) = (self.host.clone(), self.record.clone());
        let definition =
            blocking(move || Ok(vm_dir(&host, &record)?.write_definition(&record.definition.vm)?));
        tokio::try_join!(self.save(), definition).map(drop)
    }

    /// Removes waste. What cannot be removed now is tried again; nothing depends on it.
    pub(in crate::vm) async fn sweep(&mut self) {
        let (host, record) = (self.host.clone(), self.record.clone());
        let swept = blocking(move || {
            let dir = vm_dir(&host, &record)?;
            let taking = record.layering.taking.as_ref().map(|taking| taking.snapshot.id);
            let keep = |id| record.snapshots().get(id).is_some() || taking == Some(id);
            dir.remove_snapshots(keep)?;
            dir.sweep()?;
            match record.layering.waste.is_empty() {
                true => Ok(Vec::new()),
                false => sweep(&host.datastores, &dir, &record),
            }
        });
        match swept.await {
            Ok(waste) => self.record.layering.waste = waste,
            Err(error) => tracing::warn!(vm = %self.record.id(), %error, "files are left over"),
        }
    }
}

/// What lies beside a snapshot's disks. Blocks.
pub(super) fn read_hardware(dir: &VmDir, snapshot: &Snapshot) -> Result<SavedHardware, Fault> {
    let path = dir.snapshot_hardware(snapshot.id);
    state_file::read(&path)?.ok_or_else(|| {
        let text =
            format!("{}, which says what the snapshot's disks were, is gone", path.display());
        Fault::WrongState(text)
    })
}

/// The tree as it is reported: with what has been written since each snapshot.
pub(in crate::vm) fn measured(
    dir: Option<&VmDir>,
    tree: &SnapshotTree,
    disks: &[DiskStatus],
) -> SnapshotTree {
    let mut tree = tree.clone();
    let Some(dir) = dir.filter(|_| !tree.is_empty()) else { return tree };
    let file = |layer: &Layer| layer.file.clone();
    let present = disks.iter().map(|disk| disk.layers.iter().map(file).collect());
    let held = tree.snapshots.iter().flat_map(|snapshot| &snapshot.disks);
    let chains: Vec<Vec<LayerFile>> = present.chain(held.map(|d| d.layers.clone())).collect();
    let on = |beneath: &LayerFile| -> BTreeSet<&LayerFile> {
        let pairs = chains.iter().flat_map(|chain| chain.windows(2));
        pairs.filter(|pair| pair[1] == *beneath).map(|pair| &pair[0]).collect()
    };
    for snapshot in &mut tree.snapshots {
        let tops = snapshot.disks.iter().filter_map(|disk| disk.layers.first());
        let since: BTreeSet<_> = tops.flat_map(on).collect();
        let bytes = since.into_iter().map(|file| measure(dir, file).bytes());
        snapshot.written = ByteSize(bytes.sum());
    }
    tree
}
