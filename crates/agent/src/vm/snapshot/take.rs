//! A snapshot is taken: all disks at one instant, and the memory with them if wanted.

use std::fs::File;
use std::time::Duration;

use hostler_agent_api::VmSnapshotRequest;
use hostler_host::{VmDir, volume};
use hostler_qemu::{
    DiskAio, DiskCache, NewLayer, active_nodes, add_layers, add_layers_and_save, rehearse_saving,
};
use hostler_qmp::Qmp;
use hostler_types::{
    ByteSize, Consistency, DiskSpec, LayerFile, Name, OperationId, PowerState, Snapshot,
    SnapshotDisk,
};
use jiff::Timestamp;

use super::freeze::{Frozen, NotFrozen};
use super::{SavedHardware, Taking};
use crate::blocking::blocking;
use crate::datastores::Promised;
use crate::fault::{Fault, chain};
use crate::state_file;
use crate::vm::actor::Actor;
use crate::vm::create::vm_dir;
use crate::vm::layers;
use crate::vm::machine::Machine;
use crate::vm::record::VmRecord;
use crate::vm::suspend::{flush, limit, memory_file};

/// What QEMU needs for it, ready before the instant.
pub(super) struct Ready {
    layers: Vec<NewLayer>,
    /// With the room that it has while it is written.
    memory: Option<(File, Promised)>,
}

/// How it went.
#[derive(Default)]
pub(super) struct Taken {
    paused: Option<Duration>,
    /// The guest was frozen at the instant.
    frozen: bool,
}

impl Actor {
    pub(in crate::vm) async fn snapshot(
        &mut self,
        op: OperationId,
        request: &VmSnapshotRequest,
    ) -> Result<(), Fault> {
        if self.record.snapshots().get(request.snapshot).is_some() {
            return Ok(());
        }
        self.check_request(request)?;
        let taking = self.intend(request, None).await?;
        let taken = match self.make(&taking, request.memory).await {
            Ok(ready) => self.take(ready, &taking).await,
            Err(fault) => Err(fault),
        };
        match taken {
            Ok(taken) => self.taken(op, taking, &taken).await,
            Err(fault) => {
                self.not_taken(&taking).await;
                if request.memory {
                    self.go_on_with_room().await;
                }
                Err(fault)
            }
        }
    }

    fn check_request(&self, request: &VmSnapshotRequest) -> Result<(), Fault> {
        if self.record.snapshots().snapshots.iter().any(|known| known.name == request.name) {
            let text = format!("the VM has a snapshot `{}` already", request.name);
            return Err(Fault::WrongState(text));
        }
        let power = self.power;
        let possible = match power {
            PowerState::Running => self.machine.is_some(),
            PowerState::Stopped
            | PowerState::Failed
            | PowerState::Suspended
            | PowerState::Paused => !request.memory && !request.quiesce,
            _ => false,
        };
        let needed =
            if request.memory || request.quiesce { "running" } else { "running or stopped" };
        match possible {
            true => Ok(()),
            false => Err(Fault::Power { action: "taking this snapshot", power, needed }),
        }
    }

    /// Plans it, and records the plan: whoever finds it half done knows what belongs to it.
    pub(super) async fn intend(
        &mut self,
        request: &VmSnapshotRequest,
        only: Option<&[Name]>,
    ) -> Result<Taking, Fault> {
        let (host, record) = (self.host.clone(), self.record.clone());
        let mut disks: Vec<DiskSpec> = record.disks_as_they_are().to_vec();
        disks.retain(|disk| only.is_none_or(|only| only.contains(&disk.name)));
        let planned = blocking(move || {
            let dir = vm_dir(&host, &record)?;
            let mut planned = Vec::new();
            for disk in disks {
                let files: Vec<LayerFile> =
                    layers::of(&record, &disk.name).iter().map(|l| l.file.clone()).collect();
                let Some(active) = files.first() else { continue };
                // A disk that has never been plugged in may have no file yet.
                let active = hostler_host::layers::path(dir.datastore(), active);
                if record.is_unmade(&disk.name) && !active.exists() {
                    continue;
                }
                let size = volume::virtual_size(&active)?;
                let new = record.new_file(&dir, &disk.name);
                planned.push((SnapshotDisk { name: disk.name, size, layers: files }, new));
            }
            Ok(planned)
        });
        let (disks, files): (Vec<_>, Vec<_>) = planned.await?.into_iter().unzip();
        let names: Vec<Name> = disks.iter().map(|disk| disk.name.clone()).collect();
        let snapshot = Snapshot {
            id: request.snapshot,
            name: request.name.clone(),
            description: request.description.clone(),
            parent: self.record.snapshots().current,
            at: Timestamp::now(),
            by: request.by.clone(),
            consistency: Consistency::Crash,
            memory: None,
            paused_ms: None,
            disks,
            written: ByteSize(0),
        };
        let layers: Vec<_> = names.into_iter().zip(files).collect();
        let taking = Taking { snapshot, layers, quiesce: request.quiesce };
        self.record.layering.waste.extend(taking.layers.iter().map(|(_, file)| file.clone()));
        self.record.layering.taking = Some(taking.clone());
        if let Err(fault) = self.save().await {
            self.record.layering.taken_back(&taking);
            return Err(fault);
        }
        Ok(taking)
    }

    /// Makes all files; the new layers are empty.
    pub(super) async fn make(&self, taking: &Taking, memory: bool) -> Result<Ready, Fault> {
        let (host, record, taking) = (self.host.clone(), self.record.clone(), taking.clone());
        blocking(move || {
            let dir = vm_dir(&host, &record)?;
            let saved = SavedHardware {
                disks: record.disks_as_they_are().to_vec(),
                running: record.running.clone().filter(|_| memory),
                variables: Some(dir.nvram().exists()),
            };
            let snapshot = &taking.snapshot;
            std::thread::scope(|scope| {
                let hardware = || write_hardware(&dir, snapshot, &saved);
                let hardware = scope.spawn(hardware);
                for (disk, (_, file)) in snapshot.disks.iter().zip(&taking.layers) {
                    layers::check(&dir, layers::of(&record, &disk.name))?;
                    volume::create_layer(&dir, file, disk.size, &disk.layers[0], record.uid)?;
                }
                hardware.join().unwrap_or_else(|_| Err(Fault::Internal("a panic".to_owned())))
            })?;
            if dir.nvram().exists() {
                copy_nvram(&dir, &record, snapshot)?;
            }
            let path = dir.snapshot_memory(snapshot.id);
            let memory = memory.then(|| memory_file(&host, &dir, &path, &record)).transpose()?;
            Ok(Ready { layers: new_layers(&dir, &record, &taking, record.disk_aio()), memory })
        })
        .await
    }

    /// The instant.
    pub(super) async fn take(&mut self, ready: Ready, taking: &Taking) -> Result<Taken, Fault> {
        let Some(machine) = &mut self.machine else { return Ok(Taken::default()) };
        let within = limit(self.record.definition.vm.spec.memory.bytes());
        // Before the guest is frozen: a large memory takes seconds.
        let rehearsed = match &ready.memory {
            Some(_) => rehearse(machine, within).await,
            None => Duration::ZERO,
        };
        let frozen = match taking.quiesce {
            true => {
                let (agent, to_self) = (machine.live.agent.clone(), self.to_self.clone());
                match Frozen::begin(agent, to_self).await {
                    Ok(frozen) => Some(frozen),
                    Err(NotFrozen { fault, thawed }) => {
                        self.record.layering.frozen |= !thawed;
                        return Err(fault);
                    }
                }
            }
            false => None,
        };
        if ready.memory.is_some() {
            machine.expect_pause();
        }
        let put = tokio::select! {
            put = put(&machine.live.qmp, ready, within) => put,
            _ = machine.process.exited() => {
                return Err(Fault::Qemu(format!("QEMU ended{}", machine.last_words())));
            }
        };
        let frozen = match frozen {
            Some(frozen) => {
                let (frozen, thawed) = frozen.end().await;
                self.record.layering.frozen |= !thawed;
                frozen
            }
            None => false,
        };
        Ok(Taken { paused: put?.map(|paused| paused.max(rehearsed)), frozen })
    }

    /// It is there: records it.
    async fn taken(&mut self, op: OperationId, taking: Taking, taken: &Taken) -> Result<(), Fault> {
        let (host, record) = (self.host.clone(), self.record.clone());
        let id = taking.snapshot.id;
        let memory = blocking(move || {
            let path = vm_dir(&host, &record)?.snapshot_memory(id);
            Ok(hostler_host::volume::allocated(&path)?)
        });
        self.record.put_layers(&taking);
        self.record.layering.taking = None;
        let snapshot = Snapshot {
            consistency: if taken.frozen { Consistency::Application } else { Consistency::Crash },
            memory: match taken.paused {
                Some(_) => Some(memory.await?),
                None => None,
            },
            paused_ms: taken.paused.and_then(|paused| u64::try_from(paused.as_millis()).ok()),
            ..taking.snapshot
        };
        let before = self.record.snapshots().clone();
        let tree = self.record.snapshots_mut();
        tree.current = Some(snapshot.id);
        tree.snapshots.push(snapshot);
        self.record.journal.add(op, &Ok(()));
        if let Err(fault) = self.save_chains().await {
            // The disks have their new layers all the same; they are merged again.
            *self.record.snapshots_mut() = before;
            self.merger.wanted = true;
            return Err(fault);
        }
        Ok(())
    }

    /// It failed: the guest goes on with what it has, and what nobody needs goes.
    pub(super) async fn not_taken(&mut self, taking: &Taking) {
        if self.has_new_layers(taking).await {
            self.record.put_layers(taking);
            // They are of no use to anybody.
            self.merger.wanted = true;
        }
        self.record.layering.taking = None;
        self.sweep().await;
        if let Err(error) = self.save_chains().await {
            tracing::error!(vm = %self.record.id(), %error, "cannot write the VM's record");
        }
    }

    /// Whether QEMU writes to the new layers, or may have.
    pub(super) async fn has_new_layers(&self, taking: &Taking) -> bool {
        let Some(machine) = &self.machine else { return false };
        let names = taking.layers.iter().map(|(name, _)| name);
        match active_nodes(&machine.live.qmp, names).await {
            Ok(nodes) => taking.layers.iter().any(|(name, file)| {
                let node = layers::node(&self.record, name, file);
                nodes.iter().any(|(disk, active)| disk == name && *active == node)
            }),
            // It is dying. New layers that nobody has written to do no harm.
            Err(_) => self.layers_are_there(taking).await,
        }
    }

    /// Whether all new layers have been made.
    pub(super) async fn layers_are_there(&self, taking: &Taking) -> bool {
        let (host, record, taking) = (self.host.clone(), self.record.clone(), taking.clone());
        let there = blocking(move || {
            let dir = vm_dir(&host, &record)?;
            let there = |(_, file): &(Name, LayerFile)| {
                hostler_host::layers::path(dir.datastore(), file).exists()
            };
            Ok(!taking.layers.is_empty() && taking.layers.iter().all(there))
        });
        there.await.unwrap_or(true)
    }
}

impl super::Layering {
    fn taken_back(&mut self, taking: &Taking) {
        self.waste.retain(|file| taking.layers.iter().all(|(_, new)| new != file));
        self.taking = None;
    }
}

impl VmRecord {
    /// The disks that are plugged in, or would be.
    pub(super) fn disks_as_they_are(&self) -> &[DiskSpec] {
        match &self.running {
            Some(running) => &running.spec.disks,
            None => &self.definition.vm.spec.disks,
        }
    }
}

/// Has QEMU look at all of the memory that is to be saved; how long the guest stood still for that. What
/// comes of a failure is a longer pause at the instant.
async fn rehearse(machine: &mut Machine, within: Duration) -> Duration {
    match rehearse_saving(&machine.live.qmp, within).await {
        Ok(Some(paused)) => {
            machine.expect_pause();
            paused
        }
        Ok(None) => Duration::ZERO,
        Err(error) => {
            tracing::warn!(error = chain(&error), "saving the memory was not rehearsed");
            Duration::ZERO
        }
    }
}

/// Has QEMU do it; how long the guest stood still for its memory.
async fn put(qmp: &Qmp, ready: Ready, within: Duration) -> Result<Option<Duration>, Fault> {
    let failed = |error| Fault::Qemu(format!("the snapshot was not taken: {}", chain(&error)));
    let Some((memory, _room)) = ready.memory else {
        add_layers(qmp, &ready.layers).await.map_err(failed)?;
        return Ok(None);
    };
    let ours = memory.try_clone().map_err(|error| Fault::internal("copy a handle", &error))?;
    let saved = add_layers_and_save(qmp, &ready.layers, memory.into(), within).await;
    let saved = saved.map_err(failed)?;
    if let Some(why) = &saved.slow {
        tracing::warn!(why, "the guest's memory was not saved in the background");
    }
    blocking(move || flush(&ours)).await?;
    Ok(Some(saved.paused))
}

fn new_layers(dir: &VmDir, record: &VmRecord, taking: &Taking, aio: DiskAio) -> Vec<NewLayer> {
    let pairs = taking.snapshot.disks.iter().zip(&taking.layers);
    let new = |(disk, (_, file)): (&SnapshotDisk, &(Name, LayerFile))| {
        let layer = hostler_types::Layer { file: file.clone(), allocated: ByteSize(0) };
        let layer = layers::plan(dir, record, &disk.name, &layer);
        NewLayer {
            on: layers::node(record, &disk.name, &disk.layers[0]),
            cache: DiskCache::for_file(&layer.path, aio),
            layer,
        }
    };
    pairs.map(new).collect()
}

/// Beside the disks. Blocks.
fn write_hardware(dir: &VmDir, snapshot: &Snapshot, saved: &SavedHardware) -> Result<(), Fault> {
    let path = dir.snapshot_hardware(snapshot.id);
    state_file::write(&path, saved).map_err(|fault| match fault {
        Fault::NoSpace(_) => {
            let (id, path) = (dir.datastore().id(), path.display());
            Fault::NoSpace(format!("datastore {id} is full: too little for {path}"))
        }
        fault => fault,
    })
}

/// Blocks.
fn copy_nvram(dir: &VmDir, record: &VmRecord, snapshot: &Snapshot) -> Result<(), Fault> {
    let failed = |error: std::io::Error| Fault::internal("copy the UEFI variables", &error);
    let bytes = std::fs::read(dir.nvram()).map_err(failed)?;
    let access = hostler_host::Access { mode: 0o600, uid: record.uid.uid(), gid: record.uid.gid() };
    hostler_host::write_atomic(&dir.snapshot_nvram(snapshot.id), &bytes, access).map_err(failed)
}
