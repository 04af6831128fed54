//! A guest's memory goes to its datastore, and comes back.
//!
//! The saved state fits the disks only until the guest runs again. So the record says `suspended`
//! before QEMU, which stands still, is ended; and it says `running` before the resumed guest's CPUs
//! run. An agent that dies in between finds out from QEMU's run state which of the two it was.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use hostler_host::VmDir;
use hostler_qmp::command::{Cont, QueryStatus, RunState};
use hostler_types::{ByteSize, OperationId, PowerState};
use jiff::Timestamp;

use hostler_qemu::SavedState;

use super::actor::Actor;
use super::create::vm_dir;
use super::exit::Ending;
use super::machine::Machine;
use super::record::{RecordedState, VmRecord};
use crate::blocking::blocking;
use crate::context::HostContext;
use crate::datastores::Promised;
use crate::fault::{Fault, chain};

/// Devices and page tables, beside the memory itself.
const STATE_OVERHEAD: u64 = 64 << 20;

/// At the slowest storage we accept, 20 MB/s, plus a minute.
pub(super) fn limit(memory: u64) -> Duration {
    Duration::from_secs(60 + memory / 20_000_000)
}

impl Actor {
    pub(super) async fn suspend(&mut self, op: OperationId) -> Result<(), Fault> {
        match self.power {
            PowerState::Suspended => return Ok(()),
            PowerState::Running | PowerState::Paused => {}
            power => {
                return Err(Fault::Power { action: "suspending it", power, needed: "running" });
            }
        }
        let was = self.power;
        self.set_power(PowerState::Suspending, None);
        if let Err(fault) = self.save_state().await {
            // The guest wins: it goes on as if nothing had been asked.
            self.remove_state_file().await;
            self.go_on_with_room().await;
            self.set_power(was, None);
            return Err(fault);
        }
        self.record.state = RecordedState::Suspended;
        self.record.layering.memory_of = None;
        self.record.since = Timestamp::now();
        self.record.journal.add(op, &Ok(()));
        self.save_or_log().await;
        self.power_off_suspended().await
    }

    /// A memory that was being saved may have taken the last room, so that the guest stands still at a
    /// write: it goes on now that the file is gone. QEMU's events tell the rest.
    pub(super) async fn go_on_with_room(&self) {
        let Some(qmp) = self.machine.as_ref().map(|machine| &machine.live.qmp) else { return };
        let status = qmp.execute(QueryStatus).await;
        if status.is_ok_and(|status| status.status == RunState::IoError)
            && let Err(error) = qmp.execute(Cont).await
        {
            tracing::warn!(vm = %self.record.id(), error = chain(&error), "the guest stands still");
        }
    }

    /// Ends a QEMU whose guest's memory is saved.
    pub(super) async fn power_off_suspended(&mut self) -> Result<(), Fault> {
        let Some(machine) = &mut self.machine else { return Ok(()) };
        machine.ending = Some(Ending::Suspended);
        let off = hostler_qemu::power_off(&machine.live.qmp, &machine.process).await;
        off.map_err(|error| Fault::Qemu(chain(&error)))?;
        self.ended().await;
        Ok(())
    }

    /// Loads the saved state into a fresh QEMU and lets the guest run.
    pub(super) async fn resume(&mut self, machine: Machine) -> Result<(), Fault> {
        let (host, record) = (self.host.clone(), self.record.clone());
        // Its own, or that of the snapshot to which it has gone back.
        let of = record.layering.memory_of;
        let saved = if of.is_some() { SavedState::Stream } else { SavedState::Mapped };
        let file = blocking(move || {
            let dir = vm_dir(&host, &record)?;
            let path = of.map_or_else(|| dir.suspend_state(), |id| dir.snapshot_memory(id));
            OpenOptions::new()
                .read(true)
                .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
                .open(&path)
                .map_err(|error| Fault::Qemu(format!("the saved memory cannot be read: {error}")))
        })
        .await?;
        let qmp = machine.live.qmp.clone();
        self.hold(machine);
        let within = limit(self.record.definition.vm.spec.memory.bytes());
        // From here on the guest may run, and the state be stale.
        let loaded = match self.save().await {
            Ok(()) => hostler_qemu::resume_from(&qmp, file.into(), saved, within)
                .await
                .map_err(|error| Fault::Qemu(format!("cannot resume: {}", chain(&error)))),
            Err(fault) => Err(fault),
        };
        let Err(fault) = loaded else {
            self.record.layering.memory_of = None;
            self.remove_state_file().await;
            self.set_power(PowerState::Running, None);
            return Ok(());
        };
        let stands_still = qmp.execute(QueryStatus).await.is_ok_and(|status| {
            matches!(status.status, RunState::Inmigrate | RunState::Paused | RunState::Prelaunch)
        });
        if stands_still {
            self.record.state = RecordedState::Suspended;
        } else {
            // It may have run: memory and disks no longer fit.
            self.remove_state_file().await;
            self.record.layering.memory_of = None;
            self.record.state = RecordedState::Stopped;
            self.record.running = None;
        }
        self.save_or_log().await;
        Err(fault)
    }

    async fn save_state(&mut self) -> Result<(), Fault> {
        let (host, record) = (self.host.clone(), self.record.clone());
        let (file, _room) = blocking(move || {
            let dir = vm_dir(&host, &record)?;
            memory_file(&host, &dir, &dir.suspend_state(), &record)
        })
        .await?;
        let ours = file.try_clone().map_err(|error| Fault::internal("copy a handle", &error))?;
        let machine =
            self.machine.as_mut().ok_or_else(|| Fault::Qemu("QEMU is gone".to_owned()))?;
        let within = limit(self.record.definition.vm.spec.memory.bytes());
        let saved = tokio::select! {
            saved = hostler_qemu::suspend_to(&machine.live.qmp, file.into(), within) => saved,
            _ = machine.process.exited() => {
                return Err(Fault::Qemu(format!("QEMU ended{}", machine.last_words())));
            }
        };
        saved.map_err(|error| Fault::Qemu(format!("cannot suspend: {}", chain(&error))))?;
        blocking(move || flush(&ours)).await
    }

    pub(super) async fn remove_state_file(&self) {
        let (host, record) = (self.host.clone(), self.record.clone());
        let removed = blocking(move || {
            let dir = vm_dir(&host, &record)?;
            if dir.suspend_state().exists() {
                hostler_host::volume::remove(&dir, &dir.suspend_state())?;
            }
            Ok(())
        });
        if let Err(error) = removed.await {
            tracing::warn!(vm = %self.record.id(), %error, "cannot remove a saved state");
        }
    }
}

pub(super) fn flush(file: &File) -> Result<(), Fault> {
    file.sync_all().map_err(|error| Fault::internal("flush a saved state", &error))
}

/// A file for the memory that the guest has, if there is room, which is the file's until the promise is
/// dropped; only QEMU writes to it, through this handle. Blocks.
pub(super) fn memory_file(
    host: &HostContext,
    dir: &VmDir,
    path: &Path,
    record: &VmRecord,
) -> Result<(File, Promised), Fault> {
    let spec = record.running.as_ref().map(|running| &running.spec);
    let memory = spec.unwrap_or(&record.definition.vm.spec).memory;
    let need = ByteSize(memory.bytes().saturating_add(STATE_OVERHEAD));
    let room = host.datastores.promise(dir.datastore(), need, path, "the guest's memory")?;
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed())
        .open(path)
        .map_err(|error| Fault::internal("make a file for memory", &error))?;
    Ok((file, room))
}
