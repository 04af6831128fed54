//! The plan against a model in which files hold writes, and a chain reads as its layers say.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::layer::Layer;
use crate::snapshot::{Consistency, SnapshotDisk};

const VM: &str = "01890000-0000-7000-8000-000000000001";
const OTHER: &str = "01890000-0000-7000-8000-000000000002";
const IMAGE: &str = "01890000-0000-7000-8000-000000000003";

fn vm() -> VmId {
    VM.parse().unwrap()
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// `0` is the image, `1…` are the VM's own.
fn file(number: u32) -> LayerFile {
    match number {
        0 => LayerFile::image(IMAGE.parse().unwrap()),
        n => LayerFile::disk(vm(), &name("d"), n - 1),
    }
}

fn chain(numbers: &[u32]) -> Vec<LayerFile> {
    numbers.iter().map(|number| file(*number)).collect()
}

fn disk(files: Vec<LayerFile>) -> DiskStatus {
    let layer = |file| Layer { file, allocated: ByteSize::mib(10) };
    let layers = files.into_iter().map(layer).collect();
    DiskStatus { name: name("d"), allocated: ByteSize(0), layers }
}

fn snapshot(parent: Option<SnapshotId>, layers: Vec<LayerFile>) -> Snapshot {
    let id = SnapshotId::generate();
    Snapshot {
        id,
        name: name(&format!("s-{id}")),
        description: String::new(),
        parent,
        at: Timestamp::UNIX_EPOCH,
        by: "admin".to_owned(),
        consistency: Consistency::Crash,
        memory: None,
        paused_ms: None,
        disks: vec![SnapshotDisk { name: name("d"), size: ByteSize::gib(1), layers }],
        written: ByteSize(0),
    }
}

/// image <- 1 <- 2 <- 3 (active), "a" names 1, "b" names 2.
fn two() -> (Vec<DiskStatus>, SnapshotTree) {
    let a = snapshot(None, chain(&[1, 0]));
    let b = snapshot(Some(a.id), chain(&[2, 1, 0]));
    let tree = SnapshotTree { current: Some(b.id), snapshots: vec![a, b] };
    (vec![disk(chain(&[3, 2, 1, 0]))], tree)
}

fn shown(tree: &SnapshotTree, disks: &[DiskStatus], delete: &[usize], clones: &[u32]) -> String {
    let delete: Vec<_> = delete.iter().map(|nth| tree.snapshots[*nth].id).collect();
    let clones: BTreeSet<_> = clones.iter().map(|number| file(*number)).collect();
    plan_merges(vm(), disks, tree, &delete, |file| clones.contains(file)).to_string()
}

#[test]
fn the_plan_says_what_goes_where() {
    let (disks, tree) = two();
    let check = |delete: &[usize], clones: &[u32], expected: &[&str]| {
        let keep = format!("keep    images/{IMAGE}.qcow2: it is an image\n");
        let lines: String = expected.iter().map(|line| format!("{line}\n")).collect();
        assert_eq!(shown(&tree, &disks, delete, clones), lines + &keep);
    };
    check(&[], &[], &[]);
    check(&[0], &[], &["merge   d.1.qcow2 into d.qcow2 (10MiB)"]);
    check(&[1], &[], &["merge   d.2.qcow2 into d.1.qcow2 (10MiB)"]);
    check(&[0, 1], &[], &["merge   d.2.qcow2, d.1.qcow2 into d.qcow2 (20MiB)"]);
    let linked = |n: &str| format!("keep    vms/{VM}/{n}: a linked clone of another VM lies on it");
    check(&[0, 1], &[2], &[&linked("d.1.qcow2"), &linked("d.qcow2")]);
    check(&[0, 1], &[1], &["merge   d.2.qcow2 into d.1.qcow2 (10MiB)", &linked("d.qcow2")]);
}

#[test]
fn a_branch_that_nothing_reads_is_removed() {
    // Reverted to "a": 4 is active on 1; "b" names 2, and 3 has been discarded.
    let a = snapshot(None, chain(&[1, 0]));
    let b = snapshot(Some(a.id), chain(&[2, 1, 0]));
    let tree = SnapshotTree { current: Some(a.id), snapshots: vec![a, b] };
    let disks = [disk(chain(&[4, 1, 0]))];
    assert!(shown(&tree, &disks, &[1], &[]).starts_with("remove  d.1.qcow2"));
    assert!(shown(&tree, &disks, &[1], &[2]).contains("d.1.qcow2: a linked clone"));
    let several = format!("keep    vms/{VM}/d.qcow2: several files lie on it");
    assert!(shown(&tree, &disks, &[0], &[]).contains(&several));
}

#[test]
fn a_file_that_is_merged_is_not_said_to_stay() {
    // image <- 1 <- 2 <- 3 (active), and 4 ("c") on 2 as well; "a" names 1, "b" names 2.
    let a = snapshot(None, chain(&[1, 0]));
    let b = snapshot(Some(a.id), chain(&[2, 1, 0]));
    let c = snapshot(Some(b.id), chain(&[4, 2, 1, 0]));
    let tree = SnapshotTree { current: Some(b.id), snapshots: vec![a, b, c] };
    let told = shown(&tree, &[disk(chain(&[3, 2, 1, 0]))], &[0, 1], &[]);
    let expected = format!(
        "merge   d.1.qcow2 into d.qcow2 (10MiB)\n\
         keep    vms/{VM}/d.qcow2: several files lie on it\n\
         keep    images/{IMAGE}.qcow2: it is an image\n"
    );
    assert_eq!(told, expected);
}

#[test]
fn another_vms_file_is_left_alone() {
    let theirs = LayerFile::disk(OTHER.parse().unwrap(), &name("root"), 0);
    let disks = [disk(vec![file(2), file(1), theirs.clone()])];
    let plan = plan_merges(vm(), &disks, &SnapshotTree::default(), &[], |_| false);
    assert_eq!(plan.merges.len(), 1);
    assert_eq!(plan.kept, [KeptFile { file: theirs, why: KeptWhy::OtherVms }]);
}

#[test]
fn children_of_the_deleted_go_to_its_parent() {
    let (_, tree) = two();
    let [a, b] = [tree.snapshots[0].id, tree.snapshots[1].id];
    assert_eq!(tree.without(&[b]).current, Some(a));
    assert_eq!(tree.without(&[a]).snapshots[0].parent, None);
    assert!(tree.without(&[a, b]).is_empty());
    let mut damaged = tree;
    damaged.snapshots[0].parent = Some(a);
    assert_eq!(damaged.without(&[a]).snapshots[0].parent, None, "it ends");
}

/// Each file holds sectors; a chain reads, at each sector, what its first layer with one has.
type Contents = BTreeMap<LayerFile, BTreeMap<u8, u32>>;

fn read(contents: &Contents, chain: &[LayerFile]) -> BTreeMap<u8, u32> {
    let mut result = BTreeMap::new();
    chain.iter().rev().for_each(|file| result.extend(contents[file].clone()));
    result
}

#[derive(Debug, Clone)]
enum Step {
    Write(u8),
    Snapshot,
    Revert(prop::sample::Index),
    Clone,
    Delete(Vec<prop::sample::Index>),
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<prop::sample::Index>();
    prop_oneof![
        4 => (0..8_u8).prop_map(Step::Write),
        4 => Just(Step::Snapshot),
        2 => index.prop_map(Step::Revert),
        1 => Just(Step::Clone),
        2 => prop::collection::vec(any::<prop::sample::Index>(), 0..4).prop_map(Step::Delete),
    ]
}

/// A VM with one disk, and what its disk, its snapshots and its clones must read as.
struct World {
    contents: Contents,
    active: Vec<LayerFile>,
    tree: SnapshotTree,
    /// Chains of other VMs, with what they read.
    clones: Vec<(Vec<LayerFile>, BTreeMap<u8, u32>)>,
    expected: BTreeMap<SnapshotId, BTreeMap<u8, u32>>,
    now: BTreeMap<u8, u32>,
    next: u32,
    time: u32,
}

impl World {
    fn new() -> Self {
        let contents =
            Contents::from([(file(0), BTreeMap::from([(0, 1)])), (file(1), BTreeMap::new())]);
        let active = chain(&[1, 0]);
        let now = read(&contents, &active);
        let (tree, clones) = (SnapshotTree::default(), Vec::new());
        Self { contents, active, tree, clones, expected: BTreeMap::new(), now, next: 2, time: 2 }
    }

    fn layer(&mut self, beneath: Vec<LayerFile>) {
        let new = file(self.next);
        self.next += 1;
        self.contents.insert(new.clone(), BTreeMap::new());
        self.active = [vec![new], beneath].concat();
    }

    fn pick(&self, index: &prop::sample::Index) -> Option<&Snapshot> {
        let all = &self.tree.snapshots;
        (!all.is_empty()).then(|| index.get(all))
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Write(sector) => {
                self.time += 1;
                self.now.insert(sector, self.time);
                self.contents.get_mut(&self.active[0]).unwrap().insert(sector, self.time);
            }
            Step::Snapshot => {
                let taken = snapshot(self.tree.current, self.active.clone());
                self.expected.insert(taken.id, self.now.clone());
                self.tree.current = Some(taken.id);
                self.tree.snapshots.push(taken);
                self.layer(self.active.clone());
            }
            Step::Revert(index) => {
                let Some(target) = self.pick(&index).cloned() else { return };
                // What a snapshot or a clone needs stays, and so does the image.
                let stays = |f: &LayerFile| {
                    let snapshots = &self.tree.snapshots;
                    snapshots.iter().any(|s| s.disks[0].layers.contains(f))
                        || self.clones.iter().any(|(chain, _)| chain.contains(f))
                        || f.owner() != LayerOwner::Vm(vm())
                };
                let gone: Vec<_> = self.active.iter().filter(|f| !stays(f)).cloned().collect();
                gone.iter().for_each(|f| drop(self.contents.remove(f)));
                self.tree.current = Some(target.id);
                self.now = self.expected[&target.id].clone();
                self.layer(target.disks[0].layers.clone());
            }
            Step::Clone => {
                // Of the current snapshot, whose files nobody writes to.
                let Some(current) = self.tree.current.and_then(|id| self.tree.get(id)) else {
                    return;
                };
                let beneath = current.disks[0].layers.clone();
                self.clones.push((beneath.clone(), read(&self.contents, &beneath)));
            }
            Step::Delete(indices) => self.delete(&indices),
        }
    }

    fn delete(&mut self, indices: &[prop::sample::Index]) {
        let delete: Vec<_> = indices.iter().filter_map(|i| Some(self.pick(i)?.id)).collect();
        let disks = [disk(self.active.clone())];
        let clones: Vec<_> = self.clones.iter().flat_map(|(chain, _)| chain.clone()).collect();
        let on = |file: &LayerFile| clones.contains(file);
        let plan = plan_merges(vm(), &disks, &self.tree, &delete, on);
        self.tree = self.tree.without(&delete);
        self.expected.retain(|id, _| !delete.contains(id));
        for merge in &plan.merges {
            for from in merge.from.iter().rev() {
                let above = self.contents.remove(from).unwrap();
                self.contents.get_mut(&merge.into).unwrap().extend(above);
            }
            merge.apply(&mut self.active);
            let disks = self.tree.snapshots.iter_mut().flat_map(|s| &mut s.disks);
            disks.for_each(|disk| merge.apply(&mut disk.layers));
        }
        plan.removed.iter().for_each(|gone| drop(self.contents.remove(&gone.file).unwrap()));
        let again = plan_merges(vm(), &[disk(self.active.clone())], &self.tree, &[], on);
        assert!(again.is_empty(), "nothing is left to do: {again}");
        let accounted: BTreeSet<_> = self
            .active
            .iter()
            .chain(self.tree.snapshots.iter().flat_map(|s| &s.disks[0].layers))
            .chain(self.clones.iter().flat_map(|(chain, _)| chain))
            .cloned()
            .collect();
        assert!(self.contents.keys().all(|f| accounted.contains(f)), "no file is left over");
    }

    fn check(&self) {
        assert_eq!(read(&self.contents, &self.active), self.now, "the disk");
        for snapshot in &self.tree.snapshots {
            let found = read(&self.contents, &snapshot.disks[0].layers);
            assert_eq!(found, self.expected[&snapshot.id], "{}", snapshot.name);
        }
        for (chain, expected) in &self.clones {
            assert_eq!(read(&self.contents, chain), *expected, "a clone");
        }
    }
}

proptest! {
    #[test]
    fn nothing_that_is_read_changes(steps in prop::collection::vec(step(), 0..40)) {
        let mut world = World::new();
        for step in steps {
            world.take(step);
            world.check();
        }
    }
}
