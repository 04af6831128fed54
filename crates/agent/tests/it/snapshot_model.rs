//! Random snapshots, returns, deletions, clones and deaths of the agent, on small disks of a VM that is
//! off: after each, every disk, every snapshot and every clone reads as a model says, and no file is
//! lost or left over.
//!
//! `HOSTLER_MODEL_CASES` sets how many sequences there are.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use hostler_agent_api::VmReport;
use hostler_types::{ByteSize, DiskSource, LayerFile, SnapshotId, VmId};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use crate::snapshots::{How, blank, delete_as, place, revert_as, snapshot_as};
use crate::world::{World, command};

const SIZE: ByteSize = ByteSize::mib(1);
/// A cluster of qcow2.
const BLOCK: u64 = 64 << 10;
const BLOCKS: u64 = SIZE.bytes() / BLOCK;
const DISKS: [&str; 2] = ["disk0", "data"];

#[derive(Debug, Clone)]
enum Act {
    Write { disk: usize, block: u64, value: u8 },
    Snapshot,
    Revert(Index),
    Delete(Vec<Index>),
    Clone(Index),
    RemoveClone(Index),
}

/// What is done, and after how long the agent is killed meanwhile.
type Step = (Act, Option<u64>);

fn step() -> impl Strategy<Value = Step> {
    let act = prop_oneof![
        6 => (0..2_usize, 0..BLOCKS, 1..255_u8)
            .prop_map(|(disk, block, value)| Act::Write { disk, block, value }),
        4 => Just(Act::Snapshot),
        2 => any::<Index>().prop_map(Act::Revert),
        3 => prop::collection::vec(any::<Index>(), 0..4).prop_map(Act::Delete),
        1 => any::<Index>().prop_map(Act::Clone),
        1 => any::<Index>().prop_map(Act::RemoveClone),
    ];
    (act, prop::option::weighted(0.2, 0..60_u64))
}

/// What a disk reads as, block by block.
type Content = Vec<u8>;

#[derive(Debug, Default)]
struct Model {
    now: Vec<Content>,
    snapshots: BTreeMap<SnapshotId, Vec<Content>>,
    clones: Vec<(VmId, Content)>,
}

struct Case<'a> {
    world: &'a mut World,
    vm: VmId,
    report: VmReport,
    model: Model,
}

impl<'a> Case<'a> {
    async fn begin(world: &'a mut World) -> Self {
        let mut definition = world.vm(DiskSource::Blank);
        definition.vm.spec.customization = None;
        definition.vm.spec.disks = DISKS.map(|name| blank(name, SIZE)).to_vec();
        let vm = definition.vm.id();
        let report = world.create(&definition).await.unwrap();
        let zeros = vec![0; usize::try_from(BLOCKS).unwrap()];
        let model = Model { now: vec![zeros; DISKS.len()], ..Model::default() };
        Self { world, vm, report, model }
    }

    fn pick(&self, index: &Index) -> Option<SnapshotId> {
        let all: Vec<_> = self.report.snapshots.snapshots.iter().map(|s| s.id).collect();
        (!all.is_empty()).then(|| *index.get(&all))
    }

    async fn take(&mut self, (act, kill): Step) {
        match act {
            Act::Write { disk, block, value } => self.write(disk, block, value),
            Act::Snapshot => {
                let (op, id) = (command(1), SnapshotId::generate());
                let vm = self.vm;
                let ask = async |world: &World| {
                    snapshot_as(world, vm, op, id, How::default()).await.unwrap()
                };
                self.report = killed(self.world, kill, ask).await;
                self.model.snapshots.insert(id, self.model.now.clone());
            }
            Act::Revert(index) => {
                let Some(id) = self.pick(&index) else { return };
                let (op, vm) = (command(1), self.vm);
                let ask = async |world: &World| revert_as(world, vm, op, id, None).await.unwrap();
                self.report = killed(self.world, kill, ask).await;
                self.model.now = self.model.snapshots[&id].clone();
            }
            Act::Delete(indices) => {
                let ids: Vec<_> = indices.iter().filter_map(|index| self.pick(index)).collect();
                let (op, vm) = (command(1), self.vm);
                let ask = async |world: &World| delete_as(world, vm, op, &ids, None).await.unwrap();
                self.report = killed(self.world, kill, ask).await;
                self.model.snapshots.retain(|id, _| !ids.contains(id));
            }
            Act::Clone(index) => {
                let Some(id) = self.pick(&index) else { return };
                self.report = self.world.freeze(self.vm, Some(id)).await.unwrap().report;
                let file = self.report.snapshots.get(id).unwrap().disks[1].layers[0].clone();
                let mut definition = self.world.vm(DiskSource::Linked(file));
                definition.vm.spec.customization = None;
                definition.vm.spec.disks[0].size = SIZE;
                self.world.create(&definition).await.unwrap();
                let content = self.model.snapshots[&id][1].clone();
                self.model.clones.push((definition.vm.id(), content));
            }
            Act::RemoveClone(index) => {
                if !self.model.clones.is_empty() {
                    let clone = self.model.clones.remove(index.index(self.model.clones.len()));
                    self.world.remove(clone.0, false, false).await.unwrap();
                }
            }
        }
    }

    fn write(&mut self, disk: usize, block: u64, value: u8) {
        let active = &self.report.disks.iter().find(|d| d.name.as_str() == DISKS[disk]).unwrap();
        let path = place(self.world, &active.layers[0].file);
        let write = format!("write -q -P {value} {} {BLOCK}", block * BLOCK);
        let written =
            Command::new("qemu-io").args(["-f", "qcow2", "-c", &write]).arg(path).status();
        assert!(written.unwrap().success());
        self.model.now[disk][usize::try_from(block).unwrap()] = value;
    }

    /// Every disk reads as the model says, and every file has its reason.
    fn check(&self) -> Result<(), TestCaseError> {
        let check = |what: &str, file: &LayerFile, expected: &Content| {
            let found = read(&place(self.world, file));
            prop_assert_eq!(&found, expected, "{}: {}", what, file);
            Ok(())
        };
        for (name, expected) in DISKS.iter().zip(&self.model.now) {
            let disk = self.report.disks.iter().find(|d| d.name.as_str() == *name).unwrap();
            check("the disk", &disk.layers[0].file, expected)?;
        }
        let tree = &self.report.snapshots;
        prop_assert_eq!(tree.snapshots.len(), self.model.snapshots.len());
        for snapshot in &tree.snapshots {
            for (disk, expected) in snapshot.disks.iter().zip(&self.model.snapshots[&snapshot.id]) {
                check("a snapshot", &disk.layers[0], expected)?;
            }
        }
        let mut needed = BTreeSet::new();
        for (clone, expected) in &self.model.clones {
            let file = LayerFile::disk(*clone, &"disk0".parse().unwrap(), 0);
            check("a clone", &file, expected)?;
            needed.extend(chain(self.world, file));
        }
        let known = self.report.disks.iter().flat_map(|disk| &disk.layers).map(|l| &l.file);
        needed.extend(known.cloned());
        let held = tree.snapshots.iter().flat_map(|snapshot| &snapshot.disks);
        needed.extend(held.flat_map(|disk| disk.layers.clone()));
        for name in self.names() {
            match name.strip_prefix("snapshot-") {
                Some(rest) => {
                    let id = rest.split_once('.').unwrap().0.parse().unwrap();
                    prop_assert!(tree.get(id).is_some(), "{} is left over", name);
                }
                None if name.ends_with(".qcow2") => {
                    let file = format!("vms/{}/{name}", self.vm).parse().unwrap();
                    prop_assert!(needed.contains(&file), "{} is left over", name);
                }
                None => {}
            }
        }
        Ok(())
    }

    fn names(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.world.path(&format!("store/vms/{}", self.vm))).unwrap();
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    /// Without clones and snapshots there is one file a disk.
    async fn end(mut self) -> Result<(), TestCaseError> {
        for (clone, _) in std::mem::take(&mut self.model.clones) {
            self.world.remove(clone, false, false).await.unwrap();
        }
        let all: Vec<_> = self.model.snapshots.keys().copied().collect();
        self.report = delete_as(self.world, self.vm, command(1), &all, None).await.unwrap();
        self.model.snapshots.clear();
        self.check()?;
        let disks = self.names().into_iter().filter(|name| name.ends_with(".qcow2")).count();
        prop_assert_eq!(disks, DISKS.len());
        self.world.remove(self.vm, false, false).await.unwrap();
        self.world.assert_nothing_left();
        Ok(())
    }
}

/// Asks, kills the agent after a while if it is to be, and asks again as the server does.
async fn killed(
    world: &mut World,
    kill: Option<u64>,
    ask: impl AsyncFn(&World) -> VmReport,
) -> VmReport {
    let Some(millis) = kill else { return ask(world).await };
    let _ = tokio::time::timeout(Duration::from_millis(millis), ask(world)).await;
    world.end_agent().await;
    world.spawn_agent().await;
    ask(world).await
}

fn chain(world: &World, file: LayerFile) -> Vec<LayerFile> {
    let mut files = vec![file];
    loop {
        let last = &files[files.len() - 1];
        let info = Command::new("qemu-img")
            .args(["info", "-U", "--output=json"])
            .arg(place(world, last))
            .output()
            .unwrap();
        let info: serde_json::Value = serde_json::from_slice(&info.stdout).unwrap();
        let Some(named) = info["backing-filename"].as_str() else { return files };
        files.push(last.resolve(named).unwrap());
    }
}

/// What a chain of files reads as; each block has one value throughout.
fn read(active: &Path) -> Content {
    let raw = tempfile::NamedTempFile::new().unwrap();
    let converted = Command::new("qemu-img")
        .args(["convert", "-q", "-f", "qcow2", "-O", "raw"])
        .args([active, raw.path()])
        .status();
    assert!(converted.unwrap().success(), "{}", active.display());
    let bytes = std::fs::read(raw.path()).unwrap();
    assert_eq!(bytes.len() as u64, SIZE.bytes());
    let value = |block: &[u8]| {
        assert!(block.iter().all(|byte| *byte == block[0]), "{}", active.display());
        block[0]
    };
    bytes.chunks(usize::try_from(BLOCK).unwrap()).map(value).collect()
}

#[test]
fn whatever_is_done_no_content_and_no_file_is_lost() {
    let cases = std::env::var("HOSTLER_MODEL_CASES").ok().and_then(|text| text.parse().ok());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let world = RefCell::new(runtime.block_on(World::start_process()));
    let config = Config {
        cases: cases.unwrap_or(6),
        failure_persistence: None,
        max_shrink_iters: 40,
        ..Config::default()
    };
    let steps = prop::collection::vec(step(), 8..20);
    let run = |steps: Vec<Step>| {
        let mut world = world.borrow_mut();
        runtime.block_on(async {
            let mut case = Case::begin(&mut world).await;
            for step in steps {
                case.take(step).await;
                case.check()?;
            }
            case.end().await
        })
    };
    let result = TestRunner::new(config).run(&steps, run);
    if let Err(error) = result {
        panic!("{error}");
    }
    runtime.block_on(world.borrow_mut().end_agent());
}
