//! Random snapshots, returns, deletions, clones of all kinds and deaths of the agent, on small disks of
//! VMs that are off: after each, every disk and every snapshot of every VM reads as a model says, and no
//! file is lost or left over.
//!
//! `HOSTLER_MODEL_CASES` sets how many sequences there are.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use hostler_agent_api as api;
use hostler_agent_api::{VmDefinition, VmReport};
use hostler_endpoint::NoParams;
use hostler_host::volume;
use hostler_types::{
    ByteSize, CopySource, DiskSource, LayerFile, LayerOwner, PowerState, SnapshotId, StopMode, VmId,
};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use crate::clones::{cancel, define, flatten_as};
use crate::snapshots::{How, blank, delete_as, place, revert_as, snapshot_as};
use crate::world::{World, command};

const SIZE: ByteSize = ByteSize::mib(1);
/// A cluster of qcow2.
const BLOCK: usize = 64 << 10;
const DISKS: [&str; 2] = ["disk0", "data"];
/// More at once would only make it slow.
const MOST_VMS: usize = 4;

#[derive(Debug, Clone)]
enum Act {
    /// `start`: what others need is given up by a start; else by growing.
    Write {
        disk: usize,
        block: Index,
        value: u8,
        start: bool,
    },
    Snapshot,
    Revert(Index),
    Delete(Vec<Index>),
    /// Of the present state, or of a snapshot.
    Link(Option<Index>),
    Copy(Option<Index>),
    Flatten {
        cancel: Option<u64>,
    },
    Remove,
}

/// What is done, to which VM, and after how long the agent is killed meanwhile.
#[derive(Debug, Clone)]
struct Step {
    act: Act,
    vm: Index,
    kill: Option<u64>,
}

fn step() -> impl Strategy<Value = Step> {
    let soon = |often| prop::option::weighted(often, 0..60_u64);
    let write = (0..2_usize, any::<Index>(), 1..255_u8, prop::bool::weighted(0.15));
    let of = || prop::option::of(any::<Index>());
    let act = prop_oneof![
        7 => write.prop_map(|(disk, block, value, start)| Act::Write { disk, block, value, start }),
        3 => Just(Act::Snapshot),
        2 => any::<Index>().prop_map(Act::Revert),
        3 => prop::collection::vec(any::<Index>(), 0..4).prop_map(Act::Delete),
        2 => of().prop_map(Act::Link),
        1 => of().prop_map(Act::Copy),
        2 => soon(0.3).prop_map(|cancel| Act::Flatten { cancel }),
        1 => Just(Act::Remove),
    ];
    (act, any::<Index>(), soon(0.2)).prop_map(|(act, vm, kill)| Step { act, vm, kill })
}

/// What a disk reads as, block by block.
type Content = Vec<u8>;

/// A VM as it should be.
#[derive(Debug)]
struct Guest {
    definition: VmDefinition,
    now: Vec<Content>,
    snapshots: BTreeMap<SnapshotId, Vec<Content>>,
    /// Files that only others needed, which do not any more: they go with the next deletion.
    lingering: BTreeSet<LayerFile>,
}

impl Guest {
    fn id(&self) -> VmId {
        self.definition.vm.id()
    }
}

struct Case<'a> {
    world: &'a mut World,
    guests: Vec<Guest>,
    reports: BTreeMap<VmId, VmReport>,
    /// Reading takes long: only what has changed is read again.
    seen: BTreeMap<PathBuf, (Vec<Stamp>, Content)>,
}

/// A file, its size, and when it was changed.
type Stamp = (PathBuf, u64, i64, i64);

impl<'a> Case<'a> {
    async fn begin(world: &'a mut World) -> Self {
        let mut case =
            Self { world, guests: Vec::new(), reports: BTreeMap::new(), seen: BTreeMap::new() };
        let zeros = vec![0; usize::try_from(SIZE.bytes()).unwrap() / BLOCK];
        let disks = DISKS.map(|_| (DiskSource::Blank, zeros.clone()));
        case.create(disks.into(), None).await;
        case
    }

    /// A VM whose disks come from somewhere, and what they show then.
    async fn create(&mut self, disks: Vec<(DiskSource, Content)>, kill: Option<u64>) {
        let mut definition = self.world.vm(DiskSource::Blank);
        let vm = &mut definition.vm;
        vm.spec.customization = None;
        vm.spec.memory = ByteSize::mib(128);
        let (sources, now): (Vec<_>, Vec<_>) = disks.into_iter().unzip();
        let named = DISKS.iter().zip(sources).zip(&now);
        vm.spec.disks = named
            .map(|((name, source), content)| {
                let mut disk = blank(name, size(content));
                disk.source = source;
                disk
            })
            .collect();
        let op = command(1);
        let ask = async |world: &World| world.create_as(op, &definition).await.unwrap();
        let report = killed(self.world, kill, ask).await;
        self.reports.insert(report.vm, report);
        let (snapshots, lingering) = Default::default();
        self.guests.push(Guest { definition, now, snapshots, lingering });
    }

    async fn take(&mut self, step: Step) -> Result<(), TestCaseError> {
        let Step { act, vm, kill } = step;
        let at = vm.index(self.guests.len());
        match act {
            Act::Write { disk, block, value, start } => {
                self.own(at, disk, start, kill).await;
                self.write(at, disk, block, value);
            }
            Act::Snapshot => self.snapshot(at, kill).await,
            Act::Revert(index) => self.revert(at, index, kill).await,
            Act::Delete(indices) => {
                let ids: Vec<_> = indices.iter().filter_map(|index| self.pick(at, index)).collect();
                self.delete(at, &ids, kill).await;
            }
            Act::Link(of) => {
                let sources = self.lent(at, of, kill).await;
                let disks = sources.into_iter().map(|(file, now)| (DiskSource::Linked(file), now));
                self.create(disks.collect(), kill).await;
            }
            Act::Copy(of) => {
                let datastore = self.world.datastore;
                let sources = self.lent(at, of, kill).await;
                let copy = |file| DiskSource::Copy(CopySource { datastore, file });
                let disks = sources.into_iter().map(|(file, now)| (copy(file), now));
                self.create(disks.collect(), kill).await;
            }
            Act::Flatten { cancel } => self.flatten(at, cancel, kill).await?,
            Act::Remove => self.remove(at, kill).await?,
        }
        Ok(())
    }

    fn pick(&self, at: usize, index: &Index) -> Option<SnapshotId> {
        let all: Vec<_> = self.guests[at].snapshots.keys().copied().collect();
        (!all.is_empty()).then(|| *index.get(&all))
    }

    async fn snapshot(&mut self, at: usize, kill: Option<u64>) {
        let (op, id, vm) = (command(1), SnapshotId::generate(), self.guests[at].id());
        let how = How::default();
        let ask = async |world: &World| snapshot_as(world, vm, op, id, how).await.unwrap();
        self.reports.insert(vm, killed(self.world, kill, ask).await);
        let guest = &mut self.guests[at];
        guest.snapshots.insert(id, guest.now.clone());
    }

    async fn revert(&mut self, at: usize, index: Index, kill: Option<u64>) {
        let Some(id) = self.pick(at, &index) else { return };
        let (op, vm) = (command(1), self.guests[at].id());
        let ask = async |world: &World| revert_as(world, vm, op, id, None).await.unwrap();
        self.reports.insert(vm, killed(self.world, kill, ask).await);
        let guest = &mut self.guests[at];
        guest.now = guest.snapshots[&id].clone();
    }

    async fn delete(&mut self, at: usize, ids: &[SnapshotId], kill: Option<u64>) {
        let (op, vm) = (command(1), self.guests[at].id());
        let ask = async |world: &World| delete_as(world, vm, op, ids, None).await.unwrap();
        self.reports.insert(vm, killed(self.world, kill, ask).await);
        self.guests[at].snapshots.retain(|id, _| !ids.contains(id));
        self.guests[at].lingering.clear();
    }

    /// What of a VM can be built upon, if there is room for another VM.
    async fn lent(
        &mut self,
        at: usize,
        of: Option<Index>,
        kill: Option<u64>,
    ) -> Vec<(LayerFile, Content)> {
        let guest = &self.guests[at];
        let (vm, of) = (guest.id(), of.and_then(|index| self.pick(at, &index)));
        let content = of.map_or(&guest.now, |id| &guest.snapshots[&id]).clone();
        let ask = async |world: &World| world.freeze(vm, of).await.unwrap();
        let frozen = killed(self.world, kill, ask).await;
        self.reports.insert(vm, frozen.report);
        let file = |name: &&str| {
            let disk = frozen.disks.iter().find(|disk| disk.name.as_str() == *name).unwrap();
            disk.layers[0].clone()
        };
        DISKS.iter().map(file).zip(content).collect()
    }

    async fn flatten(
        &mut self,
        at: usize,
        after: Option<u64>,
        kill: Option<u64>,
    ) -> Result<(), TestCaseError> {
        let (op, vm) = (command(1), self.guests[at].id());
        let needed = self.needed_by_others(vm);
        let own = |file: &LayerFile| file.owner() == LayerOwner::Vm(vm);
        let refused = self.reports[&vm].disks.iter().any(|disk| {
            let mut files = disk.layers.iter().map(|layer| &layer.file);
            let lowest = files.rfind(|file| own(file)).unwrap();
            disk.layers.last().is_some_and(|l| !own(&l.file)) && needed.contains(lowest)
        });
        let ask = async |world: &World| {
            let flatten = flatten_as(world, vm, op, None);
            let Some(after) = after else { return flatten.await };
            let late = async {
                tokio::time::sleep(Duration::from_millis(after)).await;
                cancel(world, op.op).await;
            };
            tokio::join!(flatten, late).0
        };
        match killed(self.world, kill, ask).await {
            Ok(_) => prop_assert!(!refused, "a file is needed by {:?}", needed),
            Err(problem) if problem.code == "cancelled" => prop_assert!(after.is_some()),
            Err(problem) => {
                prop_assert!(refused && problem.code == "in_use", "{:?}", problem);
            }
        }
        self.reports.insert(vm, self.world.report(vm).await.unwrap());
        Ok(())
    }

    async fn remove(&mut self, at: usize, kill: Option<u64>) -> Result<(), TestCaseError> {
        let vm = self.guests[at].id();
        let needed = self.needed_by_others(vm);
        if self.guests.len() == 1 {
            return Ok(());
        }
        let ask = async |world: &World| world.remove(vm, false, false).await;
        match killed(self.world, kill, ask).await {
            Ok(()) => {
                prop_assert!(needed.is_empty(), "others need {:?}", needed);
                self.guests.remove(at);
                self.reports.remove(&vm);
            }
            Err(problem) => {
                prop_assert!(problem.code == "in_use" && !needed.is_empty(), "{:?}", problem);
            }
        }
        Ok(())
    }

    /// Has the VM itself make sure that a disk's active file is its own, as before a guest writes.
    async fn own(&mut self, at: usize, disk: usize, start: bool, kill: Option<u64>) {
        let vm = self.guests[at].id();
        if !volume::is_lent(&place(self.world, &self.active(vm, disk))).unwrap() {
            return;
        }
        if start {
            let ask = async |world: &World| world.vm_start(vm).await.unwrap();
            killed(self.world, kill, ask).await;
            self.world.wait_for("it runs", vm, |r| r.power == PowerState::Running).await;
            let off = self.world.stop(vm, StopMode::PowerOff, 0).await.unwrap();
            self.reports.insert(vm, off);
            return;
        }
        let guest = &mut self.guests[at];
        let more = guest.now[disk].len() + 1;
        guest.now[disk].resize(more.next_multiple_of(16), 0);
        for (spec, content) in guest.definition.vm.spec.disks.iter_mut().zip(&guest.now) {
            spec.size = size(content);
        }
        let (op, definition) = (command(1), guest.definition.clone());
        let ask = async |world: &World| define(world, op, &definition).await.unwrap();
        self.reports.insert(vm, killed(self.world, kill, ask).await);
    }

    /// As a guest would.
    fn write(&mut self, at: usize, disk: usize, block: Index, value: u8) {
        let path = place(self.world, &self.active(self.guests[at].id(), disk));
        assert!(!volume::is_lent(&path).unwrap(), "{} is lent", path.display());
        let content = &mut self.guests[at].now[disk];
        let block = block.index(content.len());
        let write = format!("write -q -P {value} {} {BLOCK}", block * BLOCK);
        let written =
            Command::new("qemu-io").args(["-f", "qcow2", "-c", &write]).arg(path).status();
        assert!(written.unwrap().success());
        content[block] = value;
    }

    fn active(&self, vm: VmId, disk: usize) -> LayerFile {
        let disks = &self.reports[&vm].disks;
        let found = disks.iter().find(|found| found.name.as_str() == DISKS[disk]).unwrap();
        found.layers[0].file.clone()
    }

    /// The files of a VM that disks and snapshots of others lie on.
    fn needed_by_others(&self, vm: VmId) -> BTreeSet<LayerFile> {
        let others = self.reports.values().filter(|report| report.vm != vm);
        let files = others.flat_map(known);
        files.filter(|file| file.owner() == LayerOwner::Vm(vm)).collect()
    }

    /// Every disk reads as the model says, and every file has its reason.
    async fn check(&mut self) -> Result<(), TestCaseError> {
        let inventory =
            self.world.client.call::<api::HostInventory>(&NoParams {}, &NoParams {}, ());
        for report in inventory.await.unwrap().vms {
            let known_one = &self.reports[&report.vm];
            prop_assert_eq!(&chains(&report), &chains(known_one), "{} has changed", report.vm);
        }
        for at in 0..self.guests.len() {
            let report = &self.reports[&self.guests[at].id()];
            let mut disks = Vec::new();
            for (disk, expected) in self.guests[at].now.iter().enumerate() {
                disks.push(("the disk", self.active(report.vm, disk), expected.clone()));
            }
            let tree = &report.snapshots;
            prop_assert_eq!(tree.snapshots.len(), self.guests[at].snapshots.len());
            for snapshot in &tree.snapshots {
                let contents = &self.guests[at].snapshots[&snapshot.id];
                for (name, expected) in DISKS.iter().zip(contents) {
                    let held = snapshot.disks.iter().find(|disk| disk.name.as_str() == *name);
                    let file = held.unwrap().layers[0].clone();
                    disks.push(("a snapshot", file, expected.clone()));
                }
            }
            for (what, file, expected) in disks {
                let found = self.read(&file);
                prop_assert_eq!(&found, &expected, "{}: {}", what, file);
            }
        }
        for at in 0..self.guests.len() {
            self.check_files(at)?;
        }
        Ok(())
    }

    fn check_files(&mut self, at: usize) -> Result<(), TestCaseError> {
        let vm = self.guests[at].id();
        let (own, others) = (known(&self.reports[&vm]), self.needed_by_others(vm));
        for name in names(self.world, vm) {
            if let Some(rest) = name.strip_prefix("snapshot-") {
                let id = rest.split_once('.').unwrap().0.parse().unwrap();
                prop_assert!(self.guests[at].snapshots.contains_key(&id), "{} is left over", name);
            } else if name.ends_with(".qcow2") {
                let file: LayerFile = format!("vms/{vm}/{name}").parse().unwrap();
                let lingering = &self.guests[at].lingering;
                let needed = own.contains(&file) || others.contains(&file);
                prop_assert!(needed || lingering.contains(&file), "{} is left over", file);
            } else {
                prop_assert!(!name.starts_with(".tmp"), "{} is left over", name);
            }
        }
        self.guests[at].lingering.extend(others.difference(&own).cloned());
        Ok(())
    }

    /// What a chain of files reads as; each block has one value throughout.
    fn read(&mut self, active: &LayerFile) -> Content {
        let path = place(self.world, active);
        let stamps = stamps(&path);
        if let Some((seen, content)) = self.seen.get(&path)
            && *seen == stamps
        {
            return content.clone();
        }
        let content = read(&path);
        self.seen.insert(path, (stamps, content.clone()));
        content
    }

    /// Without clones and snapshots there is one file a disk.
    async fn end(mut self) -> Result<(), TestCaseError> {
        while self.guests.len() > 1 {
            let free = |guest: &Guest| self.needed_by_others(guest.id()).is_empty();
            let at = self.guests.iter().rposition(free).unwrap();
            self.remove(at, None).await?;
            self.check().await?;
        }
        let all: Vec<_> = self.guests[0].snapshots.keys().copied().collect();
        self.delete(0, &all, None).await;
        self.check().await?;
        let vm = self.guests[0].id();
        let disks = names(self.world, vm).into_iter().filter(|name| name.ends_with(".qcow2"));
        prop_assert_eq!(disks.count(), DISKS.len());
        self.world.remove(vm, false, false).await.unwrap();
        self.world.assert_nothing_left();
        Ok(())
    }
}

/// Asks, kills the agent after a while if it is to be, and asks again as the server does.
async fn killed<T>(world: &mut World, kill: Option<u64>, ask: impl AsyncFn(&World) -> T) -> T {
    let Some(millis) = kill else { return ask(world).await };
    // Dropped in the middle, or at its end: what it does not come to panics only in the latter case.
    let _ = tokio::time::timeout(Duration::from_millis(millis), ask(world)).await;
    world.end_agent().await;
    world.spawn_agent().await;
    ask(world).await
}

fn size(content: &Content) -> ByteSize {
    ByteSize((content.len() * BLOCK) as u64)
}

/// All files of the disks and snapshots of a VM.
fn known(report: &VmReport) -> BTreeSet<LayerFile> {
    let disks = report.disks.iter().flat_map(|disk| &disk.layers).map(|layer| &layer.file);
    let snapshots = report.snapshots.snapshots.iter().flat_map(|snapshot| &snapshot.disks);
    disks.chain(snapshots.flat_map(|disk| &disk.layers)).cloned().collect()
}

fn chains(report: &VmReport) -> Vec<Vec<LayerFile>> {
    let disks = report.disks.iter();
    disks.map(|disk| disk.layers.iter().map(|layer| layer.file.clone()).collect()).collect()
}

fn names(world: &World, vm: VmId) -> Vec<String> {
    let names = std::fs::read_dir(world.path(&format!("store/vms/{vm}"))).unwrap();
    names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// When each file of a chain was changed, as their headers name them.
fn stamps(active: &Path) -> Vec<Stamp> {
    let (mut stamps, mut next) = (Vec::new(), Some(active.to_owned()));
    while let Some(path) = next {
        let file = std::fs::File::open(&path).unwrap();
        let metadata = file.metadata().unwrap();
        let mut header = [0; 20];
        file.read_exact_at(&mut header, 0).unwrap();
        let offset = u64::from_be_bytes(header[8..16].try_into().unwrap());
        let length = u32::from_be_bytes(header[16..20].try_into().unwrap());
        let mut name = vec![0; usize::try_from(length).unwrap()];
        file.read_exact_at(&mut name, offset).unwrap();
        let beneath = String::from_utf8(name).unwrap();
        next = (offset != 0).then(|| path.parent().unwrap().join(beneath));
        stamps.push((path, metadata.len(), metadata.ctime(), metadata.ctime_nsec()));
    }
    stamps
}

fn read(active: &Path) -> Content {
    let raw = tempfile::NamedTempFile::new().unwrap();
    let converted = Command::new("qemu-img")
        .args(["convert", "-q", "-f", "qcow2", "-O", "raw"])
        .args([active, raw.path()])
        .status();
    assert!(converted.unwrap().success(), "{}", active.display());
    let bytes = std::fs::read(raw.path()).unwrap();
    let value = |block: &[u8]| {
        assert!(block.iter().all(|byte| *byte == block[0]), "{}", active.display());
        block[0]
    };
    bytes.chunks(BLOCK).map(value).collect()
}

#[test]
fn qemu_whatever_is_done_no_content_and_no_file_is_lost() {
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
            // What one that failed has left would only confuse.
            if std::fs::read_dir(world.path("agent/vms")).unwrap().next().is_some() {
                *world = World::start_process().await;
            }
            let mut case = Case::begin(&mut world).await;
            for step in steps {
                let full = case.guests.len() >= MOST_VMS;
                if full && matches!(step.act, Act::Link(_) | Act::Copy(_)) {
                    continue;
                }
                case.take(step).await?;
                case.check().await?;
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
