//! The files and snapshots of a simulated VM, with the semantics of real ones: layers come, are
//! merged and go, as [`plan_merges`] says.

use std::collections::{BTreeMap, BTreeSet};

use hostler_types::{
    ByteSize, Consistency, DiskSource, DiskStatus, Layer, LayerFile, LayerOwner, Name, Snapshot,
    SnapshotDisk, SnapshotId, SnapshotTree, VmId, VmSpec, plan_merges,
};
use jiff::Timestamp;

/// What a file takes from the beginning.
const EMPTY: ByteSize = ByteSize(196_608);

/// Files by their disks, and the snapshots that name them.
#[derive(Debug, Clone, Default)]
pub struct SimStorage {
    pub tree: SnapshotTree,
    /// Files that something of another VM lies on.
    pub lent: BTreeSet<LayerFile>,
    chains: BTreeMap<Name, Vec<LayerFile>>,
    sizes: BTreeMap<LayerFile, ByteSize>,
    /// Disks whose files are another VM's now.
    given: BTreeSet<Name>,
    /// How many files were ever made.
    made: u32,
}

/// A snapshot to be taken, as a command asks for it.
#[derive(Debug, Clone)]
pub(crate) struct Taking {
    pub(crate) snapshot: SnapshotId,
    pub(crate) name: Name,
    pub(crate) description: String,
    pub(crate) by: String,
    pub(crate) consistency: Consistency,
    pub(crate) memory: Option<ByteSize>,
}

impl SimStorage {
    /// Of a VM that was just made.
    pub(crate) fn of(vm: VmId, spec: &VmSpec) -> Self {
        let mut storage = Self::default();
        for disk in spec.own_disks() {
            if let DiskSource::Linked(file) = &disk.source {
                storage.lie_on(vm, &disk.name, file.clone());
            }
        }
        storage
    }

    /// A disk needs nothing of others any more.
    pub(crate) fn flatten(&mut self, vm: VmId, disk: &Name) {
        let own = |file: &LayerFile| file.owner() == LayerOwner::Vm(vm);
        let mut chain = self.chain(vm, disk);
        chain.retain(own);
        self.chains.insert(disk.clone(), chain);
        let held = self.tree.snapshots.iter_mut().flat_map(|snapshot| &mut snapshot.disks);
        held.filter(|held| held.name == *disk).for_each(|held| held.layers.retain(own));
    }

    /// Whether the files of a disk are the VM's.
    pub(crate) fn has(&self, disk: &Name) -> bool {
        !self.given.contains(disk)
    }

    /// A disk's file goes to another VM; what lies beneath it.
    pub(crate) fn give(&mut self, vm: VmId, disk: &Name) -> Vec<LayerFile> {
        let chain = self.chain(vm, disk);
        self.chains.remove(disk);
        self.sizes.remove(&chain[0]);
        self.given.insert(disk.clone());
        chain[1..].to_vec()
    }

    /// Another VM's disk comes.
    pub(crate) fn receive(&mut self, vm: VmId, disk: &Name, beneath: Vec<LayerFile>) {
        self.given.remove(disk);
        self.chains.insert(disk.clone(), [vec![LayerFile::disk(vm, disk, 0)], beneath].concat());
    }

    /// Of a VM that has had these snapshots taken, one after the other.
    ///
    /// # Panics
    /// When one is no name.
    pub fn with_snapshots(vm: VmId, spec: &VmSpec, names: &[&str]) -> Self {
        let mut storage = Self::default();
        for name in names {
            let taking = Taking {
                snapshot: SnapshotId::generate(),
                name: name.parse().expect("tests use good names"),
                description: String::new(),
                by: "tester".to_owned(),
                consistency: Consistency::Crash,
                memory: None,
            };
            storage.take(vm, spec, taking);
        }
        storage
    }

    /// The tree as a line, without ids: each snapshot with its parent, what is current, and how many
    /// files there are.
    pub fn describe(&self, vm: VmId, spec: &VmSpec) -> String {
        format!("{}; {} files", describe(&self.tree), self.files(vm, spec).len())
    }

    /// The disks of a spec with their files.
    pub(crate) fn disks(&self, vm: VmId, spec: &VmSpec) -> Vec<DiskStatus> {
        let disk = |disk: &hostler_types::DiskSpec| {
            let layer = |file| Layer { allocated: self.size(&file), file };
            let layers: Vec<_> = self.chain(vm, &disk.name).into_iter().map(layer).collect();
            let allocated = ByteSize(layers.iter().map(|layer| layer.allocated.bytes()).sum());
            DiskStatus { name: disk.name.clone(), allocated, layers }
        };
        spec.own_disks().map(disk).collect()
    }

    /// The snapshots, with what was written since each.
    pub fn told(&self, vm: VmId, spec: &VmSpec) -> SnapshotTree {
        let mut tree = self.tree.clone();
        let active = spec.own_disks().map(|disk| self.chain(vm, &disk.name));
        let named = self.tree.snapshots.iter().flat_map(|snapshot| &snapshot.disks);
        let chains: Vec<_> = active.chain(named.map(|disk| disk.layers.clone())).collect();
        for snapshot in &mut tree.snapshots {
            let tops: BTreeSet<_> =
                snapshot.disks.iter().filter_map(|d| d.layers.first()).collect();
            let pairs = chains.iter().flat_map(|chain| chain.windows(2));
            let above = pairs.filter(|pair| tops.contains(&pair[1])).map(|pair| &pair[0]);
            let above: BTreeSet<_> = above.collect();
            snapshot.written = ByteSize(above.iter().map(|file| self.size(file).bytes()).sum());
        }
        tree
    }

    /// The guest writes.
    pub fn write(&mut self, vm: VmId, disk: &Name, bytes: ByteSize) {
        let active = self.chain(vm, disk).remove(0);
        let size = self.size(&active);
        self.sizes.insert(active, ByteSize(size.bytes() + bytes.bytes()));
    }

    /// A disk becomes a linked clone of another VM's.
    pub fn lie_on(&mut self, vm: VmId, disk: &Name, file: LayerFile) {
        self.chains.insert(disk.clone(), vec![LayerFile::disk(vm, disk, 0), file]);
    }

    pub(crate) fn take(&mut self, vm: VmId, spec: &VmSpec, taking: Taking) {
        if self.tree.get(taking.snapshot).is_some() {
            return;
        }
        let mut disks = Vec::new();
        for disk in &spec.disks {
            let layers = self.chain(vm, &disk.name);
            self.put_layer(vm, &disk.name, layers.clone());
            disks.push(SnapshotDisk { name: disk.name.clone(), size: disk.size, layers });
        }
        self.tree.snapshots.push(Snapshot {
            id: taking.snapshot,
            name: taking.name,
            description: taking.description,
            parent: self.tree.current,
            at: Timestamp::now(),
            by: taking.by,
            consistency: taking.consistency,
            memory: taking.memory,
            paused_ms: Some(5),
            disks,
            written: ByteSize(0),
        });
        self.tree.current = Some(taking.snapshot);
    }

    /// New layers on the snapshot's files; what only the state before needed goes.
    pub(crate) fn revert(&mut self, vm: VmId, spec: &VmSpec, snapshot: &Snapshot) {
        for disk in &snapshot.disks {
            let before = self.chain(vm, &disk.name);
            self.put_layer(vm, &disk.name, disk.layers.clone());
            self.sizes.remove(&before[0]);
        }
        self.tree.current = Some(snapshot.id);
        self.merge(vm, spec);
    }

    /// The names go; their files wait.
    pub fn forget(&mut self, snapshots: &[SnapshotId]) {
        self.tree = self.tree.without(snapshots);
    }

    /// Merges and removes what no snapshot names any more.
    pub(crate) fn merge(&mut self, vm: VmId, spec: &VmSpec) {
        let disks = self.disks(vm, spec);
        let plan = plan_merges(vm, &disks, &self.tree, &[], |file| self.lent.contains(file));
        for merge in &plan.merges {
            for chain in self.chains.values_mut() {
                merge.apply(chain);
            }
            for disk in self.tree.snapshots.iter_mut().flat_map(|snapshot| &mut snapshot.disks) {
                merge.apply(&mut disk.layers);
            }
            let moved = merge.from.iter().filter_map(|file| self.sizes.remove(file));
            let moved: u64 = moved.map(ByteSize::bytes).sum();
            let size = self.size(&merge.into).bytes();
            self.sizes.insert(merge.into.clone(), ByteSize(size + moved));
        }
        // What deleted branches were made of is in no chain any more.
        let needed = self.files(vm, spec);
        self.sizes.retain(|file, _| needed.contains(file));
    }

    /// All files that there are.
    fn files(&self, vm: VmId, spec: &VmSpec) -> BTreeSet<LayerFile> {
        let there = spec.own_disks().filter(|disk| self.has(&disk.name));
        let active = there.flat_map(|disk| self.chain(vm, &disk.name));
        let named = self.tree.snapshots.iter().flat_map(|snapshot| &snapshot.disks);
        active.chain(named.flat_map(|disk| disk.layers.clone())).collect()
    }

    /// The files of a disk, the active one first.
    fn chain(&self, vm: VmId, disk: &Name) -> Vec<LayerFile> {
        let first = || vec![LayerFile::disk(vm, disk, 0)];
        self.chains.get(disk).cloned().unwrap_or_else(first)
    }

    fn put_layer(&mut self, vm: VmId, disk: &Name, beneath: Vec<LayerFile>) {
        self.made += 1;
        let file = LayerFile::disk(vm, disk, self.made);
        self.sizes.insert(file.clone(), EMPTY);
        self.chains.insert(disk.clone(), [vec![file], beneath].concat());
    }

    fn size(&self, file: &LayerFile) -> ByteSize {
        self.sizes.get(file).copied().unwrap_or(EMPTY)
    }
}

/// The tree as a line, without ids.
pub fn describe(tree: &SnapshotTree) -> String {
    let called = |id: Option<SnapshotId>| {
        id.and_then(|id| tree.get(id))
            .map_or_else(|| "-".to_owned(), |found| found.name.to_string())
    };
    let each = |s: &Snapshot| format!("{}<{} {:?}", s.name, called(s.parent), s.description);
    let all: Vec<_> = tree.snapshots.iter().map(each).collect();
    format!("[{}] at {}", all.join(", "), called(tree.current))
}
