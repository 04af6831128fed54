//! The agent starts, and finds out what became of a VM meanwhile.
//!
//! | record      | QEMU                     | what follows                                      |
//! |-------------|--------------------------|---------------------------------------------------|
//! | creating    | -                        | complete: `stopped`; else taken back, forgotten;  |
//! |             |                          | its datastore is away: `unknown` until it is back |
//! | registering | -                        | forgotten; its files stay                         |
//! | forking     | any                      | ended, taken back, forgotten                      |
//! | incoming    | runs its guest           | it was taken over: `running`                      |
//! | incoming    | waits, or is gone        | it waits on for a word of who owns the VM         |
//! | given       | any                      | ended; the owner is told                          |
//! | any other   | runs                     | taken over: `running`                             |
//! | suspended   | stands still, memory saved | ended: the suspension had come this far         |
//! | any         | has shut its guest down  | ended: `stopped`                                  |
//! | running     | is gone                  | `failed`, or started again, as its policy says    |
//! | other       | is gone                  | as recorded                                       |

use std::time::Duration;

use hostler_host::{DefinitionError, VmDir};
use hostler_qemu::Process;
use hostler_qmp::command::{BlockDevice, MigrateCancel, QueryBlock, QueryStatus, RunState};
use hostler_types::PowerState;

use super::actor::Actor;
use super::create::{end_processes, undo_create, undo_register, vm_dir};
use super::exit::{Ending, disk_failed};
use super::fork::end;
use super::machine::{Machine, Sockets};
use super::record::RecordedState;
use crate::blocking::blocking;
use crate::fault::{Fault, chain};

/// How long a QEMU that does not answer may take to be gone.
const DYING: Duration = Duration::from_secs(2);

/// What is said while nobody knows whether a VM was made.
pub(super) fn unsettled(reason: &Fault) -> String {
    format!("whether it was made to the end is known when its datastore is back: {reason}")
}

impl Actor {
    /// The actor, knowing what its VM does; `None` when there is no VM.
    pub(crate) async fn adopt(mut self) -> Option<Self> {
        match self.record.state {
            RecordedState::Creating { .. } => match self.settle_creation().await {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => {
                    self.unknown(unsettled(&error));
                    return Some(self);
                }
            },
            RecordedState::Registering => {
                undo_register(&self.host, &self.record).await;
                return None;
            }
            RecordedState::Forking => {
                Box::pin(self.undo_fork()).await;
                return None;
            }
            RecordedState::Incoming { .. } => {
                Box::pin(self.adopt_incoming()).await;
                return Some(self);
            }
            RecordedState::Given(_) => {
                Box::pin(self.adopt_given()).await;
                return Some(self);
            }
            _ => {}
        }
        if let Err(error) = self.believe_header().await {
            tracing::warn!(vm = %self.record.id(), %error, "cannot look at what was flattened");
        }
        if let Err(error) = self.settle_taking().await {
            tracing::warn!(vm = %self.record.id(), %error, "cannot tell whose a disk is; later");
        }
        self.adopt_process().await;
        if !self.record.forking.is_empty() {
            if !self.power.is_live() {
                self.keep_forked_layers().await;
            }
            self.settle_forking().await;
            self.publish();
        }
        self.forget_secrets().await;
        Some(self)
    }

    pub(super) async fn adopt_process(&mut self) {
        match self.find_process().await {
            Ok(Some((process, place))) => self.take_over(process, place).await,
            Ok(None) => self.without_process().await,
            Err(error) => self.unknown(error.to_string()),
        }
    }

    /// Whether a creation whose end this agent has not seen had come to it. What had not is taken back.
    ///
    /// # Errors
    /// What is on the datastore cannot be told now: there is neither a VM nor none.
    pub(super) async fn settle_creation(&mut self) -> Result<bool, Fault> {
        let RecordedState::Creating { op } = self.record.state else { return Ok(true) };
        if !self.is_created().await? {
            undo_create(&self.host, &self.record).await;
            return Ok(false);
        }
        self.record.state = RecordedState::Stopped;
        self.record.journal.add(op, &Ok(()));
        // The next agent need not look again.
        self.save_or_log().await;
        Ok(true)
    }

    /// It is not known yet what became of the VM's creation.
    pub(super) fn is_unsettled(&self) -> bool {
        // While it is being made it says so.
        matches!(self.record.state, RecordedState::Creating { .. })
            && self.power == PowerState::Unknown
    }

    /// Whether a creation came to its end: its last file is there.
    async fn is_created(&self) -> Result<bool, Fault> {
        let (host, record) = (self.host.clone(), self.record.clone());
        blocking(move || match vm_dir(&host, &record)?.read_definition() {
            Ok(found) => Ok(found.is_some_and(|it| it == VmDir::stored(&record.definition.vm))),
            Err(error @ DefinitionError::Read { .. }) => {
                Err(Fault::DatastoreMissing(chain(&error)))
            }
            // Somebody else's, or not what was written there: undoing leaves that alone.
            Err(_) => Ok(false),
        })
        .await
    }

    /// The process of the record, or whatever runs in the VM's group: a start that the record does
    /// not know of yet.
    ///
    /// While a VM is cloned it has two: the one of the record is the VM's, and the other is ended,
    /// whichever of them is the older. If that of the record is gone, so is the guest: the other's
    /// memory does not fit the disks.
    async fn find_process(&self) -> Result<Option<(Process, u32)>, Fault> {
        let (host, record) = (self.host.clone(), self.record.clone());
        let found = blocking(move || {
            let failed = |error: hostler_qemu::ProcessError| Fault::internal("processes", &error);
            let pids = host.cgroups.pids(record.id());
            let pids = pids.map_err(|error| Fault::internal("cgroup", &error))?;
            let mut others = Vec::new();
            for pid in pids.into_iter().filter_map(|pid| u32::try_from(pid).ok()) {
                if let Some(start_time) = hostler_qemu::start_time(pid).map_err(failed)?
                    && let Some(found) = Process::attach(pid, start_time).map_err(failed)?
                {
                    others.push(found);
                }
            }
            let RecordedState::Running { process } = record.state else {
                return Ok((others.pop().map(|found| (found, 0)), Vec::new()));
            };
            let found = Process::attach(process.pid, process.start_time).map_err(failed)?;
            let succession = process.place > 0 || !record.forking.is_empty();
            if found.is_none() && !succession {
                return Ok((others.pop().map(|found| (found, 0)), Vec::new()));
            }
            others.retain(|other| other.pid() != process.pid);
            others.iter().try_for_each(Process::kill).map_err(failed)?;
            Ok((found.map(|found| (found, process.place)), others))
        });
        let (found, others) = found.await?;
        for other in &others {
            // It may have the disks, without which the guest cannot go on.
            end(other).await;
        }
        Ok(found)
    }

    async fn take_over(&mut self, process: Process, place: u32) {
        match self.attach(process.clone(), place).await {
            Ok(()) => {
                self.find_hardware().await;
                tracing::info!(vm = %self.record.id(), power = %self.power, "found again");
                self.save_or_log().await;
            }
            // It was dying while we looked: a killed QEMU takes a while to give its memory back.
            Err(_) if tokio::time::timeout(DYING, process.exited()).await.is_ok() => {
                self.machine = None;
                self.without_process().await;
            }
            Err(error) => self.unknown(format!("QEMU runs, but cannot be taken over: {error}")),
        }
    }

    /// What was changed while the record was not written.
    async fn find_hardware(&mut self) {
        if self.machine.is_none() {
            return;
        }
        if self.record.running.is_none()
            && let Ok((accelerator, disk_aio)) = self.host.facts.engines().await
        {
            // It was just starting, with all that is asked for.
            self.record.running = Some(self.record.to_launch(accelerator, disk_aio, false));
        }
        let qmp = self.machine.as_ref().map(|machine| machine.live.qmp.clone());
        if let Some(qmp) = &qmp {
            self.settle_move_or_log(Some(qmp)).await;
            self.abandon_flattening(qmp).await;
            // Soon: a guest's writes may wait for it.
            self.recover_with_qemu(qmp).await;
        }
        self.observe().await;
        self.free_nics().await;
        if let Some(qmp) = &qmp {
            self.close_disks(qmp).await;
        }
    }

    async fn attach(&mut self, process: Process, place: u32) -> Result<(), Fault> {
        let (host, record) = (self.host.clone(), self.record.clone());
        // The console's log lies on the datastore; a guest runs on without it.
        let log = blocking(move || Ok(vm_dir(&host, &record)?.console_log())).await;
        let sockets = Sockets::new(self.host.vm_runtime(self.record.id()), place);
        let log = log.unwrap_or_else(|_| sockets.screen().join("none"));
        let machine = Machine::attach(process, sockets, log).await?;
        let status = machine.live.qmp.execute(QueryStatus).await;
        let status = status.map_err(|error| Fault::Qemu(chain(&error)))?;
        let suspended = self.record.state == RecordedState::Suspended;
        match status.status {
            RunState::Shutdown | RunState::GuestPanicked => {
                let panic = status.status == RunState::GuestPanicked;
                self.hold(machine);
                self.end(if panic { Ending::Panic } else { Ending::Guest }).await
            }
            RunState::Running => {
                // It was being sent by an agent that is no more.
                let _ = machine.live.qmp.execute(MigrateCancel).await;
                self.running(machine);
                self.record.layering.memory_of = None;
                self.remove_state_file().await;
                Ok(())
            }
            // Between "it is suspended" and QEMU's end.
            _ if suspended => {
                self.machine = Some(machine);
                self.power_off_suspended().await
            }
            // A resumption that had not come to the guest's running: its saved state still holds.
            RunState::Inmigrate => {
                self.record.state = RecordedState::Suspended;
                self.machine = Some(machine);
                self.power_off_suspended().await
            }
            // Stopped by us, in the middle of something whose answer nobody got: it goes on.
            RunState::Paused
            | RunState::Postmigrate
            | RunState::FinishMigrate
            | RunState::Prelaunch => {
                // Of a snapshot's memory, whose end nobody waits for any more.
                let _ = machine.live.qmp.execute(MigrateCancel).await;
                let result = hostler_qemu::go_on(&machine.live.qmp).await;
                self.running(machine);
                self.record.layering.memory_of = None;
                self.remove_state_file().await;
                result.map_err(|error| Fault::Qemu(chain(&error)))
            }
            other => {
                let text = match other {
                    RunState::IoError => self.why_a_disk_failed(&machine).await,
                    other => format!("QEMU stands still: {other:?}"),
                };
                self.hold(machine);
                self.set_power(PowerState::Paused, Some(text));
                Ok(())
            }
        }
    }

    async fn why_a_disk_failed(&self, machine: &Machine) -> String {
        let devices = machine.live.qmp.execute(QueryBlock).await.unwrap_or_default();
        let status =
            |device: &BlockDevice| device.io_status.clone().filter(|status| status != "ok");
        let failed =
            devices.iter().find_map(|device| Some((device.qdev.as_deref(), status(device)?)));
        let (device, status) = failed.unwrap_or((None, "unknown".to_owned()));
        let reason = (status != "nospace").then_some("its file could not be used");
        disk_failed(&self.record, device, "read or written", reason)
    }

    /// Ends a QEMU whose guest has ended already.
    async fn end(&mut self, ending: Ending) -> Result<(), Fault> {
        let Some(machine) = &mut self.machine else { return Ok(()) };
        let off = hostler_qemu::power_off(&machine.live.qmp, &machine.process).await;
        machine.ending = Some(ending);
        self.ended().await;
        off.map_err(|error| Fault::Qemu(chain(&error)))
    }

    async fn without_process(&mut self) {
        let (host, id) = (self.host.clone(), self.record.id());
        if let Err(error) = blocking(move || end_processes(&host, id)).await {
            tracing::warn!(vm = %id, %error, "cannot clean up after QEMU");
        }
        self.settle_move_or_log(None).await;
        self.recover_without_qemu().await;
        self.record.flattening = None;
        if self.record.state != RecordedState::Suspended {
            self.record.running = None;
            // It was going on from a snapshot's memory, which has nothing to do with what follows.
            self.record.layering.memory_of = None;
            // Of a suspension that both have died in: as large as the guest's memory, and of no use.
            self.remove_state_file().await;
        }
        match self.record.state.clone() {
            RecordedState::Running { .. } => {
                self.failed("QEMU was gone when the agent started".to_owned()).await;
            }
            RecordedState::Suspended => self.set_power(PowerState::Suspended, None),
            RecordedState::Failed { message } => {
                self.set_power(PowerState::Failed, Some(message));
            }
            RecordedState::Stopped
            | RecordedState::Creating { .. }
            | RecordedState::Forking
            | RecordedState::Incoming { .. }
            | RecordedState::Given(_)
            | RecordedState::Registering => {
                self.set_power(PowerState::Stopped, None);
            }
        }
        self.since = self.record.since;
        self.publish();
    }
}
