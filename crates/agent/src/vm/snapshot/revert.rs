//! The VM becomes what it was.
//!
//! New layers on the snapshot's files are made first; then QEMU is ended, and one write of the record
//! makes them the VM's disks. What the VM was until then is removed only after that. A return that was
//! cut off is begun again, or its end is done, when the same operation is asked for again. The UEFI
//! variables, which lie in a file of their own, are put back after the record has become that of
//! afterwards, which says so until it is done: nothing is started without.

use hostler_host::{VmDir, volume};
use hostler_types::{
    ByteSize, DiskSpec, DiskStatus, Layer, LayerFile, LayerOwner, Name, OperationId, PowerState,
    Snapshot, SnapshotId,
};
use jiff::Timestamp;
use uuid::Uuid;

use super::files::read_hardware;
use super::{Reverting, SavedHardware};
use crate::blocking::blocking;
use crate::fault::Fault;
use crate::vm::actor::Actor;
use crate::vm::create::vm_dir;
use crate::vm::layers;
use crate::vm::record::{RecordedState, VmRecord};

/// A disk as it will be: the snapshot's layers beneath a new one.
struct NewDisk {
    name: Name,
    size: ByteSize,
    /// The new one first.
    files: Vec<LayerFile>,
}

/// What the VM will be.
struct Plan {
    saved: SavedHardware,
    disks: Vec<NewDisk>,
    with_memory: bool,
    /// There are UEFI variables, now or in the snapshot.
    variables: bool,
}

impl Actor {
    pub(in crate::vm) async fn revert(
        &mut self,
        op: OperationId,
        id: SnapshotId,
        start: Option<bool>,
    ) -> Result<(), Fault> {
        let begun = self.record.layering.reverting.clone();
        let begun = begun.filter(|begun| begun.op == op && begun.snapshot == id);
        let run = match &begun {
            Some(begun) => begun.run,
            None => self.run_afterwards(id, start)?,
        };
        if begun.is_none_or(|begun| !begun.applied) {
            self.go_back(op, id, run).await?;
        }
        self.put_variables_back().await?;
        let started = match run && self.machine.is_none() {
            true => self.start().await,
            false => Ok(()),
        };
        self.record.layering.reverting = None;
        started
    }

    fn run_afterwards(&self, id: SnapshotId, start: Option<bool>) -> Result<bool, Fault> {
        let snapshot = self.record.snapshots().get(id).ok_or(Fault::NoSnapshot(id))?;
        let power = self.power;
        match power {
            PowerState::Running
            | PowerState::Paused
            | PowerState::Stopping
            | PowerState::Stopped
            | PowerState::Suspended
            | PowerState::Failed => {}
            _ => {
                let needed = "running or stopped";
                return Err(Fault::Power { action: "going back to a snapshot", power, needed });
            }
        }
        if start != Some(false) && self.record.definition.vm.is_recycled() {
            let text = "it is in the recycle bin and is not started".to_owned();
            return Err(Fault::WrongState(text));
        }
        Ok(start.unwrap_or(snapshot.memory.is_some() || self.machine.is_some()))
    }

    async fn go_back(&mut self, op: OperationId, id: SnapshotId, run: bool) -> Result<(), Fault> {
        let snapshot = self.record.snapshots().get(id).cloned().ok_or(Fault::NoSnapshot(id))?;
        let with_memory = run && snapshot.memory.is_some();
        let plan = self.plan_return(&snapshot, with_memory).await?;
        let layers: Vec<_> = plan.disks.iter().map(|disk| disk.files[0].clone()).collect();
        self.record.layering.waste.extend(layers.iter().cloned());
        let reverting = Reverting { op, snapshot: id, run, applied: false, layers };
        self.record.layering.reverting = Some(reverting);
        self.save().await?;
        if let Err(fault) = self.make_layers(&snapshot, &plan.disks).await {
            self.not_returned().await;
            return Err(fault);
        }
        if let Err(fault) = self.end_for_return(&snapshot, &plan).await {
            self.not_returned().await;
            return Err(fault);
        }
        let before = self.record.clone();
        self.record.go_back(&snapshot, &plan);
        if let Err(fault) = self.save_chains().await {
            self.record = before;
            self.not_returned().await;
            return Err(fault);
        }
        self.remove_state_file().await;
        self.sweep().await;
        let power = if with_memory { PowerState::Suspended } else { PowerState::Stopped };
        self.set_power(power, None);
        Ok(())
    }

    /// Ends QEMU, if there is room for the definition that follows: else its guest would have been
    /// ended for nothing.
    async fn end_for_return(&mut self, snapshot: &Snapshot, plan: &Plan) -> Result<(), Fault> {
        let (host, mut record) = (self.host.clone(), self.record.clone());
        record.go_back(snapshot, plan);
        let room =
            blocking(
                move || Ok(vm_dir(&host, &record)?.prepare_definition(&record.definition.vm)?),
            )
            .await?;
        self.power_off().await?;
        self.restart_at = None;
        drop(room);
        Ok(())
    }

    /// It has not come about: the new layers go. The record is first, as it may say otherwise by now.
    async fn not_returned(&mut self) {
        self.record.layering.reverting = None;
        match self.save().await {
            Ok(()) => self.sweep().await,
            Err(error) => tracing::error!(vm = %self.record.id(), %error, "layers are left over"),
        }
    }

    /// What it will be; refuses what could not be started then.
    async fn plan_return(&self, snapshot: &Snapshot, with_memory: bool) -> Result<Plan, Fault> {
        let (host, record, snapshot) = (self.host.clone(), self.record.clone(), snapshot.clone());
        let planned = blocking(move || {
            let dir = vm_dir(&host, &record)?;
            let saved = read_hardware(&dir, &snapshot)?;
            let mut disks = Vec::new();
            for disk in &snapshot.disks {
                let layer = |file: &LayerFile| Layer { file: file.clone(), allocated: ByteSize(0) };
                layers::check(&dir, &disk.layers.iter().map(layer).collect::<Vec<_>>())?;
                let new = record.new_file(&dir, &disk.name);
                let files = [vec![new], disk.layers.clone()].concat();
                disks.push(NewDisk { name: disk.name.clone(), size: disk.size, files });
            }
            if with_memory && !dir.snapshot_memory(snapshot.id).exists() {
                let text =
                    "the file with the snapshot's memory is gone; go back without starting it";
                return Err(Fault::WrongState(text.to_owned()));
            }
            let variables = dir.nvram().exists() || dir.snapshot_nvram(snapshot.id).exists();
            Ok(Plan { saved, disks, with_memory, variables })
        });
        let plan = planned.await?;
        if with_memory {
            let Some(running) = &plan.saved.running else {
                let text = "it is not known what hardware the snapshot's memory belongs to";
                return Err(Fault::WrongState(text.to_owned()));
            };
            let plugs = self.record.plugs();
            for nic in &running.spec.nics {
                if !plugs.iter().any(|p| p.nic == nic.name && p.network.id == nic.network) {
                    return Err(Fault::WrongState(format!(
                        "the snapshot's memory belongs to a VM with the NIC {} on the network {}; \
                         add it again, or go back without starting the VM",
                        nic.name, nic.network
                    )));
                }
            }
        }
        Ok(plan)
    }

    async fn make_layers(&self, snapshot: &Snapshot, disks: &[NewDisk]) -> Result<(), Fault> {
        let (host, record) = (self.host.clone(), self.record.clone());
        let new: Vec<_> = disks
            .iter()
            .map(|disk| (disk.files[0].clone(), disk.files[1].clone(), disk.size))
            .collect();
        tracing::debug!(snapshot = %snapshot.name, "new layers for a return");
        blocking(move || {
            let dir = vm_dir(&host, &record)?;
            for (file, beneath, size) in &new {
                volume::create_layer(&dir, file, *size, beneath, record.uid)?;
            }
            Ok(())
        })
        .await
    }

    /// Makes the UEFI variables what they were, if a return has left that to be done, and no QEMU has
    /// them.
    pub(in crate::vm) async fn put_variables_back(&mut self) -> Result<(), Fault> {
        let Some(id) = self.record.layering.variables_of.filter(|_| self.machine.is_none()) else {
            return Ok(());
        };
        let (host, record) = (self.host.clone(), self.record.clone());
        if let Some(snapshot) = record.snapshots().get(id).cloned() {
            blocking(move || put_variables(&vm_dir(&host, &record)?, &record, &snapshot)).await?;
        }
        self.record.layering.variables_of = None;
        // Before its firmware changes them: what a guest has is not put back again.
        self.save().await
    }
}

/// Blocks.
fn put_variables(dir: &VmDir, record: &VmRecord, snapshot: &Snapshot) -> Result<(), Fault> {
    let (from, to) = (dir.snapshot_nvram(snapshot.id), dir.nvram());
    let failed = |error: std::io::Error| {
        let (from, to) = (from.display(), to.display());
        Fault::WrongState(format!("the UEFI variables of {from} are not put to {to}: {error}"))
    };
    let access = hostler_host::Access { mode: 0o600, uid: record.uid.uid(), gid: record.uid.gid() };
    match std::fs::read(&from) {
        Ok(bytes) => hostler_host::write_atomic(&to, &bytes, access).map_err(failed),
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(failed(error)),
        // The first start makes them, as it would have then.
        Err(_) if read_hardware(dir, snapshot)?.variables == Some(false) && to.exists() => {
            Ok(volume::remove(dir, &to)?)
        }
        Err(_) => Ok(()),
    }
}

impl VmRecord {
    /// The disks are the snapshot's; others are the VM's still, but not plugged in.
    fn go_back(&mut self, snapshot: &Snapshot, plan: &Plan) {
        let Plan { saved, disks, with_memory, variables } = plan;
        let with_memory = *with_memory;
        let before = self.known_files();
        let spec = &mut self.definition.vm.spec;
        let back = |disk: &&DiskSpec| disks.iter().any(|new| new.name == disk.name);
        let size = |disk: &DiskSpec| {
            let new = disks.iter().find(|new| new.name == disk.name);
            DiskSpec { size: new.map_or(disk.size, |new| new.size), ..disk.clone() }
        };
        let all: Vec<DiskSpec> = spec.own_disks().cloned().collect();
        spec.disks = saved.disks.iter().filter(back).map(size).collect();
        spec.detached = all.into_iter().filter(|disk| !back(&disk)).collect();
        let statuses = &mut self.definition.vm.status.disks;
        let layer = |file: &LayerFile| Layer { file: file.clone(), allocated: ByteSize(0) };
        for disk in disks {
            statuses.retain(|known| known.name != disk.name);
            statuses.push(DiskStatus {
                name: disk.name.clone(),
                allocated: ByteSize(0),
                layers: disk.files.iter().map(layer).collect(),
            });
        }
        self.snapshots_mut().current = Some(snapshot.id);
        let (own, now) = (LayerOwner::Vm(self.id()), self.known_files());
        let gone = before.difference(&now).filter(|file| file.owner() == own).cloned();
        self.layering.waste.extend(gone);
        self.layering.waste.retain(|file| !now.contains(file));
        // What was taken out of the guest since is back.
        (self.seal, self.sealing) = (None, None);
        self.layering.generation = Some(Uuid::now_v7());
        self.layering.memory_of = with_memory.then_some(snapshot.id);
        self.layering.variables_of = variables.then_some(snapshot.id);
        if let Some(reverting) = &mut self.layering.reverting {
            reverting.applied = true;
            reverting.layers.clear();
        }
        self.running = saved.running.clone().filter(|_| with_memory);
        self.state = if with_memory { RecordedState::Suspended } else { RecordedState::Stopped };
        self.unsettled |= !with_memory;
        self.since = Timestamp::now();
    }
}
