//! What QEMU's events and its end mean for the VM.

use std::time::Duration;

use hostler_qemu::disk_id;
use hostler_qmp::command::{QueryStatus, RunState};
use hostler_qmp::event::{Event, ShutdownCause};
use hostler_types::PowerState;
use jiff::Timestamp;
use tokio::time::Instant;

use super::actor::{Actor, Next};
use super::adopt::unsettled;
use super::create::end_processes;
use super::machine::MachineEvent;
use super::record::{RecordedState, VmRecord};
use super::restart::pause_before_restart;
use crate::blocking::blocking;

/// A QEMU that does not answer is asked again after this.
const RETRY: Duration = Duration::from_secs(10);

/// Why QEMU ends, once that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ending {
    /// We told it to.
    Ordered,
    /// We told it to, after its memory had been saved.
    Suspended,
    /// The guest shut itself down.
    Guest,
    /// The guest's kernel is lost.
    Panic,
}

impl Actor {
    pub(super) async fn react(&mut self, event: MachineEvent) {
        match event {
            MachineEvent::Qmp(event) => {
                self.react_to(&event);
                self.hardware_event(&event).await;
            }
            // It has nothing that could not be sent again.
            MachineEvent::Lost | MachineEvent::Exited
                if matches!(self.record.state, RecordedState::Incoming { .. }) =>
            {
                self.waiting_ended().await;
            }
            MachineEvent::Lost => self.monitor_lost().await,
            MachineEvent::Exited => self.ended().await,
        }
    }

    fn react_to(&mut self, event: &Event) {
        let Some(machine) = &mut self.machine else { return };
        match event {
            Event::Shutdown(shutdown) => {
                let ending = match shutdown.reason {
                    ShutdownCause::GuestPanic => Some(Ending::Panic),
                    _ if shutdown.guest => Some(Ending::Guest),
                    // Its own end follows; a signal or an error is not an order of ours.
                    _ => None,
                };
                machine.ending = machine.ending.take().or(ending);
                machine.end_in_background();
            }
            // A disk that fails is told of before, and is not what was expected.
            Event::Stop if machine.pause_reason.is_none() && machine.is_expected_pause() => {}
            // A guest that has ended stands still too.
            Event::Stop if machine.ending.is_none() && self.power == PowerState::Running => {
                let message = machine.pause_reason.take();
                self.set_power(PowerState::Paused, message);
            }
            Event::Resume if self.power == PowerState::Paused => {
                machine.pause_reason = None;
                self.set_power(PowerState::Running, None);
            }
            Event::BlockIoError(error) if error.action == "stop" => {
                let done = if error.operation == "write" { "written" } else { "read" };
                let reason = (!error.nospace).then_some(error.reason.as_str());
                let text = disk_failed(&self.record, error.qom_path.as_deref(), done, reason);
                machine.pause_reason = Some(text.clone());
                if self.power == PowerState::Paused {
                    self.set_power(PowerState::Paused, Some(text));
                }
            }
            Event::GuestPanicked(_) => {
                machine.ending = Some(Ending::Panic);
                machine.end_in_background();
            }
            Event::VserportChange(change) => machine.port_changed(&change.id, change.open),
            Event::NicRxFilterChanged(_) => machine.port_hint(),
            Event::Reset(_) => {
                machine.port_hint();
                self.record.forget_pending_seal();
            }
            _ => {}
        }
    }

    /// The monitor is gone but the process is not: connect again. A QEMU that cannot be talked to
    /// is left alone, because its guest may be fine, and tried again later.
    async fn monitor_lost(&mut self) {
        let Some(machine) = &mut self.machine else { return };
        tracing::warn!(vm = %self.record.id(), "lost QEMU's monitor; connecting again");
        match machine.reconnect().await {
            Ok(()) => {
                self.live.send_replace(Some(machine.live.clone()));
                self.ask_power().await;
            }
            Err(error) => {
                let text = format!("QEMU runs, but its monitor does not answer: {error}");
                self.unknown(text);
            }
        }
    }

    /// What QEMU says of itself, after nobody has listened to it for a while.
    async fn ask_power(&mut self) {
        let Some(machine) = &mut self.machine else { return };
        let Ok(status) = machine.live.qmp.execute(QueryStatus).await else { return };
        match status.status {
            RunState::Shutdown => {
                machine.ending = machine.ending.take().or(Some(Ending::Guest));
                machine.end_in_background();
            }
            _ if status.running => self.set_power(PowerState::Running, None),
            _ => self.set_power(PowerState::Paused, None),
        }
    }

    /// Nothing is known of QEMU but that it is there.
    pub(super) fn unknown(&mut self, text: String) {
        tracing::warn!(vm = %self.record.id(), text);
        self.set_power(PowerState::Unknown, Some(text));
        self.retry_at = Some(Instant::now() + RETRY);
    }

    /// What could not be told before. [`Next::End`] when there is no VM.
    pub(super) async fn try_again(&mut self) -> Next {
        if self.is_unsettled() {
            match self.settle_creation().await {
                Ok(true) => {}
                Ok(false) => return Next::End,
                Err(error) => {
                    self.unknown(unsettled(&error));
                    return Next::Go;
                }
            }
        }
        match self.machine {
            Some(_) => self.monitor_lost().await,
            None => self.adopt_process().await,
        }
        Next::Go
    }

    /// QEMU is gone. Cleans up, decides what follows, and tells.
    pub(super) async fn ended(&mut self) {
        let Some(machine) = self.machine.take() else { return };
        self.live.send_replace(None);
        self.retry_at = None;
        let ending = machine.ending.clone();
        if ending != Some(Ending::Ordered) {
            self.end_unsealed();
        }
        let words = machine.last_words();
        drop(machine);
        let (host, record) = (self.host.clone(), self.record.clone());
        if let Err(error) = blocking(move || end_processes(&host, record.id())).await {
            tracing::error!(vm = %self.record.id(), %error, "cannot clean up after QEMU");
        }
        self.settle_move_or_log(None).await;
        self.recover_without_qemu().await;
        if let Some(guest) = &mut self.guest {
            guest.since = if guest.agent { Timestamp::now() } else { guest.since };
            guest.agent = false;
        }
        match ending {
            // The record was written before QEMU was ended.
            Some(Ending::Suspended) => self.set_power(PowerState::Suspended, None),
            // A guest that dies while it is brought down is down.
            ending if ending != Some(Ending::Panic) && self.should_stop(ending.as_ref()) => {
                self.record.state = RecordedState::Stopped;
                self.record.running = None;
                self.record.since = Timestamp::now();
                self.save_or_log().await;
                self.set_power(PowerState::Stopped, None);
            }
            Some(Ending::Panic) => self.failed("the guest's kernel panicked".to_owned()).await,
            _ => self.failed(format!("QEMU ended unexpectedly{words}")).await,
        }
        self.stop_ended().await;
    }

    fn should_stop(&self, ending: Option<&Ending>) -> bool {
        let wanted = self.stopping.next_deadline().is_some();
        wanted || matches!(ending, Some(Ending::Ordered | Ending::Guest))
    }

    /// The VM should run and does not: starts it again after a pause, if its policy says so.
    pub(super) async fn failed(&mut self, why: String) {
        let now = Timestamp::now();
        let policy = self.record.definition.vm.spec.restart;
        let pause = pause_before_restart(policy, &mut self.record.restarts, now);
        let message = match pause {
            Some(pause) => {
                self.record.restarts.push(now);
                self.restart_at = Some(Instant::now() + pause);
                format!("{why}; starting it again in {} ms", pause.as_millis())
            }
            None => why,
        };
        tracing::warn!(vm = %self.record.id(), message, "a guest failed");
        self.record.state = RecordedState::Failed { message: message.clone() };
        self.record.running = None;
        self.record.since = now;
        self.save_or_log().await;
        self.set_power(PowerState::Failed, Some(message));
    }

    /// The pause before a restart is over.
    pub(super) async fn restart(&mut self) {
        if self.machine.is_some() {
            return;
        }
        if let Err(error) = self.start().await {
            self.failed(format!("it could not be started again: {error}")).await;
        } else {
            self.save_or_log().await;
        }
    }
}

/// Why a guest stands still whose disk could not be used; `None` as reason: there is no room.
pub(super) fn disk_failed(
    record: &VmRecord,
    device: Option<&str>,
    done: &str,
    reason: Option<&str>,
) -> String {
    let disks = record.running.iter().flat_map(|running| &running.spec.disks);
    let is = |id: &str| device.is_some_and(|path| path.split('/').any(|part| part == id));
    let disk = disks.map(|disk| &disk.name).find(|name| is(&disk_id(name)));
    let disk = disk.map_or("a disk".to_owned(), |name| format!("disk `{name}`"));
    match reason {
        Some(reason) => format!("{disk} cannot be {done}: {reason}"),
        None => format!(
            "{disk} cannot be {done}: datastore {} is full; make room, then start the VM, which goes on \
             where it was",
            record.datastore()
        ),
    }
}
