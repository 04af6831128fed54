//! SIGKILL of the agent, of QEMU, or of both in the middle of every operation on a VM that runs: each
//! disk has what it had, no VM runs twice, nothing is left over, and the same operation, asked for
//! again, comes to an end. Its guest has no system, so a round takes a second or two.
//!
//! `HOSTLER_KILLS` sets how often each operation is cut off by each death, at even distances of time.
//!
//! | operation              | server | agent                     | QEMU                      | both   |
//! |------------------------|--------|---------------------------|---------------------------|--------|
//! | create                 | H, E   | `restarts`, model         | -                         | -      |
//! | start                  | H, E   | here, `restarts`          | here, `restarts`          | here   |
//! | stop, suspend, resume  | H      | here                      | here                      | here   |
//! | snapshot, with memory  | H      | here, `snapshots`, model  | here                      | here   |
//! | return, to memory      | H      | here, model, `uefi`       | here                      | here   |
//! | deletion, merge        | H, E   | here, `snapshots`, model  | here, `snapshots`,        | here,  |
//! |                        |        |                           | `clones` (right after)    | `snapshots` |
//! | full and linked clone  | H      | `clones`, model           | -                         | -      |
//! | flattening             | H      | here, `clones`, model     | here, `clones` (after)    | here   |
//! | instant clone          | H      | here, `fork`              | here                      | here   |
//! | change while it runs   | H      | here, `changes`           | here, `changes`           | here   |
//! | removal                | H, E   | here, model               | here                      | here   |
//! | sealing                | H      | `killed_files`            | `killed_files`            | -      |
//! | export                 | H      | `killed_files`            | -                         | -      |
//! | an image's import      | H      | `killed_files`, `images`  | -                         | -      |
//!
//! H: the harness of `control` (each step fails, is repeated, and dies); E: `e2e`'s `crash` and
//! `snapshots`, with a real server; model: `snapshot_model`, of VMs that are off. Nobody is killed in the
//! middle of a screenshot.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hostler_agent_api as api;
use hostler_agent_api::{VmCommand, VmDefinition, VmPath, VmReport};
use hostler_endpoint::{Client, ClientError, NoParams, Problem};
use hostler_types::{
    ByteSize, DiskSource, LayerFile, PowerState, RestartPolicy, SnapshotId, StopMode, VmId,
};

use crate::clones::{disk0, fill};
use crate::fork::request;
use crate::snapshots::{How, blank, delete, place, snapshot};
use crate::world::{World, command, eventually, long, within};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Doing {
    Start,
    Stop,
    Suspend,
    Resume,
    Snapshot,
    SnapshotWithMemory,
    Revert,
    RevertToMemory,
    Merge,
    Flatten,
    AddDisk,
    Fork,
    Remove,
}

const ALL: [Doing; 13] = [
    Doing::Start,
    Doing::Stop,
    Doing::Suspend,
    Doing::Resume,
    Doing::Snapshot,
    Doing::SnapshotWithMemory,
    Doing::Revert,
    Doing::RevertToMemory,
    Doing::Merge,
    Doing::Flatten,
    Doing::AddDisk,
    Doing::Fork,
    Doing::Remove,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Killed {
    Nobody,
    Agent,
    Qemu,
    Both,
}

/// One VM, and what is to happen to it.
struct Round {
    doing: Doing,
    definition: VmDefinition,
    /// What its disk lies on.
    parent: Option<VmId>,
    /// The one that is gone back to, deleted, or taken.
    snapshot: SnapshotId,
    clone: Option<VmDefinition>,
    command: VmCommand,
}

/// What its disk has: 7 from the beginning on, and 9 behind it, which is younger than the snapshot.
const OLD: (u8, u32, u32) = (7, 0, 8);
const NEW: (u8, u32, u32) = (9, 8, 8);

impl Round {
    async fn prepare(world: &World, doing: Doing) -> Self {
        let mut definition = world.vm(DiskSource::Blank);
        let mut parent = None;
        if doing == Doing::Flatten {
            let below = crate::clones::parent(world, OLD.2).await.vm.id();
            world.freeze(below, None).await.unwrap();
            definition = world.vm(DiskSource::Linked(disk0(below, 0)));
            parent = Some(below);
        }
        definition.vm.spec.customization = None;
        definition.vm.spec.memory = ByteSize::mib(128);
        definition.vm.spec.restart = RestartPolicy::Never;
        let vm = definition.vm.id();
        world.create(&definition).await.unwrap();
        let base = place(world, &disk0(vm, 0));
        if parent.is_none() {
            fill(&base, OLD.0, OLD.1, OLD.2);
        }
        let mut snapshot = SnapshotId::generate();
        let mut active = base;
        match doing {
            Doing::Revert | Doing::Merge => {
                snapshot = self::snapshot(world, vm, How::default()).await.0;
                active = place(world, &disk0(vm, 1));
            }
            Doing::RevertToMemory => {
                world.vm_start(vm).await.unwrap();
                snapshot = self::snapshot(world, vm, How { memory: true, quiesce: false }).await.0;
                world.stop(vm, StopMode::PowerOff, 0).await.unwrap();
                active = place(world, &disk0(vm, 1));
            }
            _ => {}
        }
        fill(&active, NEW.0, NEW.1, NEW.2);
        if doing != Doing::Start {
            world.vm_start(vm).await.unwrap();
        }
        let mut round =
            Self { doing, definition, parent, snapshot, clone: None, command: command(1) };
        match doing {
            Doing::Resume => suspend(world, vm).await,
            Doing::AddDisk => {
                round.definition.vm.spec.disks.push(blank("log", ByteSize::mib(16)));
            }
            Doing::Fork => {
                let report = world.report(vm).await.unwrap();
                let mut clone =
                    world.vm(DiskSource::Linked(report.disks[0].layers[0].file.clone()));
                clone.vm.spec.customization = None;
                clone.vm.spec.memory = ByteSize::mib(128);
                clone.vm.metadata.name = "clone01".parse().unwrap();
                round.clone = Some(clone);
            }
            _ => {}
        }
        round
    }

    fn vm(&self) -> VmId {
        self.definition.vm.id()
    }

    /// Asks for it; `None` when there is no answer.
    fn ask(
        &self,
        client: Client,
        datastore: hostler_types::DatastoreId,
    ) -> impl Future<Output = Option<Result<(), Problem>>> + Send + 'static {
        let (doing, vm, command) = (self.doing, self.vm(), self.command);
        let (snapshot, definition) = (self.snapshot, self.definition.clone());
        let fork = self.clone.clone().map(|clone| {
            let mut fork = request([clone]);
            fork.command = command;
            fork.clones[0].command = command;
            fork
        });
        async move {
            let (path, none) = (VmPath { vm }, NoParams {});
            let options = long();
            let answer = match doing {
                Doing::Start | Doing::Resume => client
                    .call_with::<api::VmStart>(&path, &none, command.into(), options)
                    .await
                    .map(drop),
                Doing::Stop => {
                    let mode = StopMode::PowerOff;
                    let request = api::VmStopRequest { command, mode, timeout_seconds: 0 };
                    client.call_with::<api::VmStop>(&path, &none, request, options).await.map(drop)
                }
                Doing::Suspend => {
                    let call = client.call_with::<api::VmSuspend>(&path, &none, command, options);
                    call.await.map(drop)
                }
                Doing::Snapshot | Doing::SnapshotWithMemory => {
                    let request = api::VmSnapshotRequest {
                        command,
                        snapshot,
                        name: "s-1".parse().unwrap(),
                        description: String::new(),
                        by: "admin".to_owned(),
                        memory: doing == Doing::SnapshotWithMemory,
                        quiesce: false,
                    };
                    let call = client.call_with::<api::VmSnapshot>(&path, &none, request, options);
                    call.await.map(drop)
                }
                Doing::Revert | Doing::RevertToMemory => {
                    let request = api::VmRevertRequest { command, snapshot, start: Some(true) };
                    let call = client.call_with::<api::VmRevert>(&path, &none, request, options);
                    call.await.map(drop)
                }
                Doing::Merge => {
                    let snapshots = vec![snapshot];
                    let request =
                        api::VmSnapshotDeleteRequest { command, snapshots, max_rate: None };
                    let call =
                        client.call_with::<api::VmSnapshotDelete>(&path, &none, request, options);
                    call.await.map(drop)
                }
                Doing::Flatten => {
                    let request =
                        api::VmFlattenRequest { command, disks: Vec::new(), max_rate: None };
                    let call = client.call_with::<api::VmFlatten>(&path, &none, request, options);
                    call.await.map(drop)
                }
                Doing::AddDisk => {
                    let request = api::VmDefineRequest::new(command, definition);
                    let call = client.call_with::<api::VmDefine>(&path, &none, request, options);
                    call.await.map(drop)
                }
                Doing::Fork => {
                    let request = fork.expect("it has a clone");
                    let call = client.call_with::<api::VmFork>(&path, &none, request, options);
                    call.await.map(drop)
                }
                Doing::Remove => {
                    let request =
                        api::VmRemoveRequest { command, datastore, keep_files: false, force: true };
                    client.call_with::<api::VmRemove>(&path, &none, request, options).await
                }
            };
            match answer {
                Ok(()) => Some(Ok(())),
                Err(ClientError::Problem(problem)) => Some(Err(*problem)),
                Err(_) => None,
            }
        }
    }

    /// How many QEMUs there are is what the VMs' states say, once all has settled.
    async fn settled(&self, world: &World, place: &str) {
        eventually(place, Duration::from_secs(60), async || {
            let ids = [Some(self.vm()), self.clone.as_ref().map(|clone| clone.vm.id())];
            let mut runs = 0;
            for id in ids.into_iter().flatten() {
                match world.report(id).await.map(|report| report.power) {
                    Some(PowerState::Running | PowerState::Paused) => runs += 1,
                    Some(PowerState::Stopped | PowerState::Suspended | PowerState::Failed)
                    | None => {}
                    Some(_) => return None,
                }
            }
            (world.qemu_pids().len() == runs).then_some(())
        })
        .await;
    }

    /// The VM runs, or can be made to, once; then everything goes, and is checked.
    async fn check(self, world: &World, answer: &Result<(), Problem>, place_: &str) {
        let vm = self.vm();
        if let Some(clone) = self.clone.as_ref().map(|clone| clone.vm.id()) {
            match world.report(clone).await {
                Some(report) => {
                    let ours = place(world, &report.disks[0].layers[0].file);
                    assert!(has(&ours, OLD) && has(&ours, NEW), "{place_}: the clone");
                    world.remove(clone, false, true).await.unwrap();
                }
                None => assert!(answer.is_err(), "{place_}: the clone is gone"),
            }
        }
        let Some(report) = world.report(vm).await else {
            assert_eq!(self.doing, Doing::Remove, "{place_}: the VM is gone");
            assert!(answer.is_ok(), "{place_}: {answer:?}");
            return world.assert_nothing_left();
        };
        assert!(self.doing != Doing::Remove || answer.is_err(), "{place_}: it is still there");
        if report.power != PowerState::Running {
            world.vm_start(vm).await.unwrap_or_else(|problem| panic!("{place_}: {problem:?}"));
        }
        assert_eq!(world.qemu_pids().len(), 1, "{place_}");
        world.stop(vm, StopMode::PowerOff, 0).await.unwrap();
        let report = world.report(vm).await.unwrap();
        self.check_content(world, answer, place_).await;
        let snapshots: Vec<_> = report.snapshots.snapshots.iter().map(|s| s.id).collect();
        if self.doing == Doing::Snapshot && answer.is_ok() {
            assert_eq!(snapshots, [self.snapshot], "{place_}");
        }
        let report = delete(world, vm, &snapshots).await;
        self.check_content(world, answer, place_).await;
        check_files(world, &report, place_);
        world.remove(vm, false, false).await.unwrap();
        if let Some(parent) = self.parent {
            world.remove(parent, false, false).await.unwrap();
        }
        world.assert_nothing_left();
    }

    /// Files may be on their way into others while they are looked at from outside, one after the other:
    /// then they are looked at again. What is lost stays lost.
    async fn check_content(&self, world: &World, answer: &Result<(), Problem>, place_: &str) {
        let seen = std::cell::RefCell::new(None);
        let limit = Duration::from_secs(20);
        let right = tokio::time::timeout(limit, async {
            loop {
                let report = world.report(self.vm()).await.unwrap();
                if self.has_what_it_must(world, &report, answer) {
                    return;
                }
                *seen.borrow_mut() = Some(report);
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        });
        assert!(right.await.is_ok(), "{place_}: {seen:?}");
    }

    fn has_what_it_must(
        &self,
        world: &World,
        report: &VmReport,
        answer: &Result<(), Problem>,
    ) -> bool {
        let disk = place(world, &report.disks[0].layers[0].file);
        let returns = matches!(self.doing, Doing::Revert | Doing::RevertToMemory);
        // A return that did not come to its end has come about, or it has not.
        let zeros = returns && has(&disk, (0, NEW.1, NEW.2));
        let new = zeros || (has(&disk, NEW) && !(returns && answer.is_ok()));
        let flat = report.disks[0].layers.iter().all(|layer| layer.file.owner() == self.own());
        has(&disk, OLD) && new && (flat || (self.doing == Doing::Flatten && answer.is_err()))
    }

    fn own(&self) -> hostler_types::LayerOwner {
        hostler_types::LayerOwner::Vm(self.vm())
    }
}

async fn suspend(world: &World, vm: VmId) {
    let path = VmPath { vm };
    let call = world.client.call_with::<api::VmSuspend>(&path, &NoParams {}, command(1), long());
    call.await.unwrap();
}

/// Also of a VM that runs.
fn has(disk: &Path, (byte, at, mib): (u8, u32, u32)) -> bool {
    let read = format!("read -P {byte} {at}M {mib}M");
    let mut qemu_io = Command::new("qemu-io");
    qemu_io.args(["-r", "-U", "-f", "qcow2", "-c", &read]).arg(disk);
    qemu_io.stdout(Stdio::null()).status().unwrap().success()
}

/// Nothing is there that no disk needs; no snapshot is left.
fn check_files(world: &World, report: &VmReport, place_: &str) {
    let own = format!("vms/{}/", report.vm);
    let layers = report.disks.iter().flat_map(|disk| &disk.layers).map(|layer| &layer.file);
    let known: Vec<&LayerFile> = layers.filter(|file| file.as_str().starts_with(&own)).collect();
    for entry in std::fs::read_dir(world.path("store").join(&own)).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let needed = known.iter().any(|file| file.file_name() == name);
        let expected = ["vm.json", "console.log"].contains(&&*name);
        assert!(needed || expected, "{place_}: {name} is left over");
    }
}

pub(crate) fn kill_qemu(world: &World) {
    for pid in world.qemu_pids() {
        let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
    }
}

/// Does it once, kills after a part of the time that it takes, and looks what came of it; how long it
/// took.
async fn round(world: &mut World, doing: Doing, killed: Killed, delay: Duration) -> Duration {
    let place_ = format!("{doing:?}, {killed:?} killed after {delay:?}");
    let round = Round::prepare(world, doing).await;
    let begin = Instant::now();
    let asking = tokio::spawn(round.ask(world.client.clone(), world.datastore));
    if killed == Killed::Nobody {
        asking.await.unwrap().unwrap().unwrap();
        let took = begin.elapsed();
        round.settled(world, &place_).await;
        round.check(world, &Ok(()), &place_).await;
        return took;
    }
    tokio::time::sleep(delay).await;
    if killed != Killed::Qemu {
        world.end_agent().await;
    }
    if killed != Killed::Agent {
        kill_qemu(world);
    }
    let limit = Duration::from_secs(90);
    if killed == Killed::Qemu {
        // Whatever has become of it, it is said.
        let answer = within(limit, asking).await.unwrap();
        assert!(answer.is_some(), "{place_}: no answer");
    } else {
        let _ = within(limit, asking).await.unwrap();
        world.spawn_agent().await;
    }
    round.settled(world, &place_).await;
    let again = round.ask(world.client.clone(), world.datastore);
    let answer = within(limit, again).await.unwrap_or_else(|| panic!("{place_}: no answer"));
    round.settled(world, &place_).await;
    round.check(world, &answer, &place_).await;
    begin.elapsed()
}

async fn sweep(killed: Killed) {
    let rounds = std::env::var("HOSTLER_KILLS").map_or(2, |rounds| rounds.parse().unwrap());
    let mut world = World::start_process().await;
    for doing in ALL {
        let whole = round(&mut world, doing, Killed::Nobody, Duration::ZERO).await;
        for number in 0..rounds {
            let delay = whole * (2 * number + 1) / (2 * rounds);
            round(&mut world, doing, killed, delay).await;
        }
    }
}

#[tokio::test]
async fn qemu_killed_in_the_middle_of_anything_loses_nothing() {
    sweep(Killed::Qemu).await;
}

#[tokio::test]
async fn qemu_an_agent_killed_in_the_middle_of_anything_loses_nothing() {
    sweep(Killed::Agent).await;
}

#[tokio::test]
async fn qemu_and_agent_killed_in_the_middle_of_anything_lose_nothing() {
    sweep(Killed::Both).await;
}
