//! Bringing a guest down: by asking it, or by pulling the plug.
//!
//! Asking does not occupy the actor: the request goes out, and the actor waits for QEMU's end as it
//! always does. Several operations may wait for the same end, each with its own limit.

use std::time::Duration;

use hostler_agent_api::code;
use hostler_endpoint::Problem;
use hostler_qmp::command::{Cont, SystemPowerdown};
use hostler_qmp::guest::ShutdownMode;
use hostler_types::{OperationId, PowerState, StopMode};
use tokio::time::Instant;

use super::actor::{Actor, Reply};
use super::create::end_processes;
use super::exit::Ending;
use super::record::RecordedState;
use crate::blocking::blocking;
use crate::fault::{Fault, chain};

/// After a guest agent has taken the order to shut down, this long until the power button too.
const BUTTON_AFTER: Duration = Duration::from_secs(15);
/// Between two presses.
const PRESS_AGAIN: Duration = Duration::from_secs(5);

/// The operations that wait for a guest to stop.
#[derive(Debug, Default)]
pub(super) struct Stopping {
    waiting: Vec<Waiting>,
    /// Asks the guest; ends with this value.
    asking: Option<AbortOnDrop>,
}

#[derive(Debug)]
struct Waiting {
    op: OperationId,
    deadline: Instant,
    timeout: Duration,
    then_off: bool,
    replies: Vec<Reply>,
}

#[derive(Debug)]
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Stopping {
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.waiting.iter().map(|waiting| waiting.deadline).min()
    }
}

impl Actor {
    pub(super) async fn stop(
        &mut self,
        op: OperationId,
        mode: StopMode,
        timeout: Duration,
        reply: Reply,
    ) {
        if let Some(waiting) = self.stopping.waiting.iter_mut().find(|waiting| waiting.op == op) {
            waiting.replies.push(reply);
            return;
        }
        if self.machine.is_none() {
            let result = match (self.power, mode) {
                // Its guest may be fine; only who says so plainly ends it.
                (PowerState::Unknown, StopMode::Graceful) => Err(Fault::Qemu(
                    "QEMU does not answer; power the VM off if it must stop".to_owned(),
                )),
                _ => self.stop_without_qemu().await,
            };
            self.finish(op, result, reply).await;
            return;
        }
        if mode == StopMode::PowerOff {
            let result = self.power_off().await;
            self.finish(op, result, reply).await;
            return;
        }
        let then_off = mode == StopMode::GracefulThenOff;
        let deadline = Instant::now() + timeout;
        let replies = vec![reply];
        self.stopping.waiting.push(Waiting { op, deadline, timeout, then_off, replies });
        self.ask_guest();
        self.set_power(PowerState::Stopping, None);
    }

    /// Pulls the plug and waits until QEMU is gone.
    pub(super) async fn power_off(&mut self) -> Result<(), Fault> {
        let Some(machine) = &mut self.machine else { return Ok(()) };
        machine.ending = Some(Ending::Ordered);
        let off = hostler_qemu::power_off(&machine.live.qmp, &machine.process).await;
        off.map_err(|error| Fault::Qemu(chain(&error)))?;
        self.ended().await;
        Ok(())
    }

    /// The time of some operations is over.
    pub(super) async fn stop_deadline(&mut self, now: Instant) {
        let over = |waiting: &Waiting| waiting.deadline <= now;
        if self.stopping.waiting.iter().any(|waiting| over(waiting) && waiting.then_off) {
            if let Err(error) = self.power_off().await {
                self.give_up(|_| true, &error).await;
            }
            return;
        }
        if let Some(waiting) = self.stopping.waiting.iter().find(|waiting| over(waiting)) {
            let what = "the guest's shutdown".to_owned();
            let fault = Fault::Timeout { what, after: waiting.timeout };
            self.give_up(over, &fault).await;
        }
    }

    pub(super) async fn cancel_stop(&mut self, op: OperationId) {
        self.give_up(|waiting| waiting.op == op, &Fault::Cancelled).await;
    }

    /// QEMU has ended: everybody who waited for that gets an answer.
    pub(super) async fn stop_ended(&mut self) {
        let waiting = std::mem::take(&mut self.stopping).waiting;
        if waiting.is_empty() {
            return;
        }
        for waiting in &waiting {
            self.record.journal.add(waiting.op, &Ok(()));
        }
        self.save_or_log().await;
        for reply in waiting.into_iter().flat_map(|waiting| waiting.replies) {
            let _ = reply.send(Ok(self.report()));
        }
    }

    /// Some operations wait no longer; the guest runs on.
    async fn give_up(&mut self, which: impl Fn(&Waiting) -> bool, fault: &Fault) {
        let (gone, stay): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.stopping.waiting).into_iter().partition(which);
        self.stopping.waiting = stay;
        if gone.is_empty() {
            return;
        }
        let problem = match fault {
            Fault::Timeout { .. } => Problem::new(504, code::TIMEOUT, fault.to_string())
                .hint("the guest runs on; power it off if it must stop"),
            Fault::Cancelled => Problem::new(409, code::CANCELLED, fault.to_string()),
            other => Problem::new(502, code::QEMU_FAILED, other.to_string()),
        };
        for waiting in &gone {
            self.record.journal.add(waiting.op, &Err(problem.clone()));
        }
        if self.stopping.waiting.is_empty() {
            self.stopping.asking = None;
            if self.power == PowerState::Stopping {
                self.set_power(PowerState::Running, None);
            }
        }
        self.save_or_log().await;
        for reply in gone.into_iter().flat_map(|waiting| waiting.replies) {
            let _ = reply.send(Err(problem.clone()));
        }
    }

    /// A VM that waits to be started again, or has failed, is stopped by saying so.
    async fn stop_without_qemu(&mut self) -> Result<(), Fault> {
        self.restart_at = None;
        match self.power {
            PowerState::Suspended => {
                Err(Fault::Power { action: "stopping it", power: self.power, needed: "running" })
            }
            PowerState::Stopped => Ok(()),
            _ => {
                let (host, record) = (self.host.clone(), self.record.clone());
                blocking(move || end_processes(&host, record.id())).await?;
                self.record.state = RecordedState::Stopped;
                self.set_power(PowerState::Stopped, None);
                Ok(())
            }
        }
    }

    fn ask_guest(&mut self) {
        let Some(machine) = &self.machine else { return };
        let (live, port) = (machine.live.clone(), machine.port_open());
        // A paused guest hears nothing; let it run first.
        let paused = self.power == PowerState::Paused;
        let asking = tokio::spawn(async move {
            if paused {
                let _ = live.qmp.execute(Cont).await;
            }
            if port != Some(false) && live.agent.shutdown(ShutdownMode::Powerdown).await.is_ok() {
                tokio::time::sleep(BUTTON_AFTER).await;
            }
            // A guest that is still booting, or very busy, misses a press: seen under load.
            loop {
                if let Err(error) = live.qmp.execute(SystemPowerdown).await {
                    tracing::debug!(%error, "cannot press the power button");
                    return;
                }
                tokio::time::sleep(PRESS_AGAIN).await;
            }
        });
        self.stopping.asking = Some(AbortOnDrop(asking));
    }
}
