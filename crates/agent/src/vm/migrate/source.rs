//! The host that a VM leaves.

use std::time::Duration;

use hostler_agent_api::VmMoved;
use hostler_host::Replacement;
use hostler_qemu::migrate::{progress, take_back};
use hostler_qmp::command::{QueryStatus, RunState};
use hostler_types::{OperationId, PowerState};
use tokio::time::{Instant, sleep};

use super::drive::{MigrateOrder, Sent, Target, drive};
use crate::blocking::blocking;
use crate::fault::{Fault, chain};
use crate::vm::actor::{Actor, Message, Next, Reply};
use crate::vm::create::end_processes;
use crate::vm::nics::unplug_all;
use crate::vm::record::{Given, ProcessId, RecordedState, VmRecord};

/// For so long what was offered stays as it is; the other host needs it to start its QEMU.
const OFFER_HOLDS: Duration = Duration::from_secs(120);
/// Between two attempts to tell the other host that it owns the VM.
const AGAIN: Duration = Duration::from_millis(250);
const LONGEST_AGAIN: Duration = Duration::from_secs(5);

/// A VM on its way.
#[derive(Debug)]
pub(in crate::vm) struct Migrating {
    op: OperationId,
    reply: Reply,
    order: MigrateOrder,
    process: ProcessId,
}

/// A VM that is the other host's, which has yet to be told.
#[derive(Debug)]
struct Handing {
    target: Target,
    begun: std::time::Instant,
    stopped: std::time::Instant,
}

impl Actor {
    /// Whether it could go now; and if so, that nothing of it changes for a while.
    pub(in crate::vm) fn offer(&mut self) -> Result<(), Fault> {
        self.require_movable()?;
        self.offered = Some(Instant::now());
        Ok(())
    }

    fn require_movable(&self) -> Result<(), Fault> {
        if self.machine.is_none() || self.power != PowerState::Running {
            return Err(Fault::Power {
                action: "moving it to another host while it runs",
                power: self.power,
                needed: "running",
            });
        }
        let busy = [
            (!self.record.layering.is_quiet(), "files of its disks are being merged or made"),
            (!self.record.forking.is_empty(), "it is just being cloned"),
            (self.record.taking.is_some(), "it is just taking over a disk"),
            (self.record.flattening.is_some(), "a disk is just being made independent"),
            (self.record.identity_due, "its guest has not taken its own identity yet"),
            (self.record.sealing.is_some(), "it is just being sealed"),
            (self.record.running.is_none(), "it is not known what it runs with"),
        ];
        match busy.into_iter().find(|(holds, _)| *holds) {
            Some((_, why)) => Err(Fault::InUse(format!("{why}; try again in a moment"))),
            None => Ok(()),
        }
    }

    /// Begins, or lets another asker wait for the one that is under way.
    pub(in crate::vm) async fn migrate(
        &mut self,
        op: OperationId,
        order: MigrateOrder,
        reply: Reply,
    ) {
        if let Some(under_way) = &mut self.migrating
            && under_way.op == op
        {
            under_way.reply = reply;
            return;
        }
        if let Err(fault) = self.require_offered() {
            return self.finish(op, Err(fault), reply).await;
        }
        let (Some(machine), Some(to_self)) = (&mut self.machine, self.to_self.upgrade()) else {
            let fault = Fault::Qemu("QEMU is gone".to_owned());
            return self.finish(op, Err(fault), reply).await;
        };
        // In the end; what follows an attempt that fails is asked for.
        machine.expect_pause();
        let (qmp, process) = (machine.live.qmp.clone(), machine.id());
        let (host, given, sending) = (self.host.clone(), self.given_to(op, &order), order.clone());
        self.migrating = Some(Migrating { op, reply, order, process });
        tokio::spawn(async move {
            let sent = Box::pin(drive(&host, given, op, &sending, &qmp)).await;
            let _ended = to_self.send(Message::Sent(sent.map(Box::new))).await;
        });
    }

    /// What the other host was told must still be so.
    fn require_offered(&self) -> Result<(), Fault> {
        if self.migrating.is_some() {
            return Err(Fault::InUse("it is just being moved to another host".to_owned()));
        }
        if !self.is_offered() {
            let text = "it has changed since it was offered to the other host; try again";
            return Err(Fault::WrongState(text.to_owned()));
        }
        self.require_movable()
    }

    pub(in crate::vm) fn is_offered(&self) -> bool {
        self.offered.is_some_and(|at| at.elapsed() < OFFER_HOLDS)
    }

    /// The guest stands still in both QEMUs, or was not sent.
    pub(in crate::vm) async fn sent(&mut self, sent: Result<Box<Sent>, Fault>) {
        let Some(Migrating { op, reply, order, process }) = self.migrating.take() else { return };
        self.offered = None;
        let sent = match sent {
            // Another QEMU runs meanwhile: what was sent is not what is.
            Ok(_) if self.machine.as_ref().is_some_and(|machine| machine.id() != process) => {
                Err(Fault::Qemu("QEMU has ended meanwhile".to_owned()))
            }
            sent => sent,
        };
        let given = match sent {
            Ok(sent) => self.give_away(op, &order, *sent).await,
            Err(fault) => Err(fault),
        };
        match given {
            Ok(sent) => {
                self.hand_over(&sent).await;
                self.publish();
                let _ = reply.send(Ok(self.report()));
                self.leave().await;
            }
            Err(fault) => {
                self.stay().await;
                self.finish(op, Err(fault), reply).await;
            }
        }
    }

    /// The record that says so.
    fn given_to(&self, op: OperationId, order: &MigrateOrder) -> VmRecord {
        let moved = VmMoved {
            to: order.to,
            epoch: order.epoch,
            taken: false,
            paused_microseconds: 0,
            total_microseconds: 0,
            transferred: 0,
            report: None,
        };
        let given = Given { address: order.address.clone(), moved };
        let mut record = self.record.clone();
        record.state = RecordedState::Given(Box::new(given));
        record.journal.add(op, &Ok(()));
        record
    }

    /// From the moment that this is on the disk the VM is the other host's.
    async fn give_away(
        &mut self,
        op: OperationId,
        order: &MigrateOrder,
        sent: Sent,
    ) -> Result<Handing, Fault> {
        let Sent { target, begun, stopped, written } = sent;
        let given = self.given_to(op, order);
        let before = std::mem::replace(&mut self.record, given);
        // As it was written beforehand, unless something has changed since.
        let saved = match self.record == written.record {
            true => blocking(move || put(written.file)).await,
            false => self.save().await,
        };
        if let Err(fault) = saved {
            // Whether the old or the new one is on the disk nobody knows after a failed flush. The old
            // one is written again, or nothing goes on.
            self.record = before;
            self.save().await?;
            return Err(fault);
        }
        self.restart_at = None;
        Ok(Handing { target, begun, stopped })
    }

    /// Tells the other host, now or, if it does not answer, later and later again.
    async fn hand_over(&mut self, handing: &Handing) {
        let taken = handing.target.take().await;
        let (paused, total) = (handing.stopped.elapsed(), handing.begun.elapsed());
        self.count().await;
        match taken {
            Ok(report) => {
                if let RecordedState::Given(given) = &mut self.record.state {
                    given.moved.taken = true;
                    given.moved.report = Some(Box::new(report));
                    given.moved.paused_microseconds = microseconds(paused);
                    given.moved.total_microseconds = microseconds(total);
                }
                self.save_or_log().await;
            }
            Err(error) => {
                let vm = self.record.id();
                tracing::warn!(%vm, error = chain(&error), "the other host does not take the VM yet");
                self.tell_owner();
            }
        }
    }

    /// What was sent, for who asks how it was.
    async fn count(&mut self) {
        let Some(machine) = &self.machine else { return };
        let told = progress(&machine.live.qmp).await.ok().and_then(|info| info.ram);
        if let (Some(ram), RecordedState::Given(given)) = (told, &mut self.record.state) {
            given.moved.transferred = ram.transferred;
        }
    }

    /// Tells the host that owns the VM so until it answers.
    fn tell_owner(&self) {
        let RecordedState::Given(given) = &self.record.state else { return };
        let (vm, moved) = (self.record.id(), &given.moved);
        let target = Target::new(&self.host, vm, moved.to, &given.address, moved.epoch);
        let (Ok(target), to_self) = (target, self.to_self.clone()) else { return };
        let stop = self.host.stop.clone();
        tokio::spawn(async move {
            let mut pause = AGAIN;
            // Whoever forgets the VM ends its actor, and with it this.
            while let Some(inbox) = to_self.upgrade().filter(|_| !stop.is_cancelled()) {
                match target.take().await {
                    Ok(_) => {
                        let _gone = inbox.send(Message::Taken).await;
                        return;
                    }
                    Err(error) if error.problem().is_some_and(|p| p.status < 500) => {
                        // It has gone on from there, or was ended by order of the server.
                        tracing::warn!(%vm, error = chain(&error), "the other host has its own mind");
                        return;
                    }
                    Err(_) => {}
                }
                drop(inbox);
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_AGAIN);
            }
        });
    }

    /// The owner has answered at last.
    pub(in crate::vm) async fn owner_answered(&mut self) {
        if let RecordedState::Given(given) = &mut self.record.state {
            given.moved.taken = true;
            self.save_or_log().await;
        }
    }

    /// What is left of the VM here goes, but for the record.
    async fn leave(&mut self) {
        self.machine = None;
        self.live.send_replace(None);
        self.guest = None;
        let (host, id) = (self.host.clone(), self.record.id());
        if let Err(error) = blocking(move || end_processes(&host, id)).await {
            tracing::error!(vm = %id, %error, "QEMU of a VM that was given away cannot be ended");
        }
        unplug_all(&self.host, &self.record).await;
        self.record.running = None;
        self.power = PowerState::Stopped;
        self.publish();
    }

    /// The guest goes on here.
    async fn stay(&mut self) {
        let Some(machine) = &mut self.machine else { return };
        let qmp = machine.live.qmp.clone();
        let back = take_back(&qmp).await;
        machine.forget_expected_pauses();
        let status = qmp.execute(QueryStatus).await.map(|status| status.status);
        match (status, back) {
            (Ok(RunState::Running), _) => self.set_power(PowerState::Running, None),
            (_, Err(error)) => {
                let text = format!("it stands still after a migration failed: {}", chain(&error));
                self.set_power(PowerState::Paused, Some(text));
            }
            (Ok(status), Ok(())) => {
                let text = format!("it stands still after a migration failed: {status:?}");
                self.set_power(PowerState::Paused, Some(text));
            }
            (Err(_), Ok(())) => {}
        }
    }

    /// At the agent's start: what was left undone when it ended.
    pub(in crate::vm) async fn adopt_given(&mut self) {
        self.leave().await;
        let RecordedState::Given(given) = &self.record.state else { return };
        if !given.moved.taken {
            self.tell_owner();
        }
    }

    /// The VM is another host's, under an epoch later than `owned`: ends what runs of it, and forgets it.
    pub(in crate::vm) async fn disown(
        &mut self,
        op: OperationId,
        stale: bool,
        reply: Reply,
    ) -> Next {
        let given = matches!(self.record.state, RecordedState::Given(_));
        if !given && !stale {
            let text = "it is this host's under that epoch; remove it instead".to_owned();
            self.finish(op, Err(Fault::WrongState(text)), reply).await;
            return Next::Go;
        }
        self.restart_at = None;
        // Killed, not ended: it must not write once more.
        self.leave().await;
        let (records, id) = (self.host.records.clone(), self.record.id());
        match blocking(move || records.remove(id)).await {
            Ok(()) => {
                let _ = reply.send(Ok(self.report()));
                Next::End
            }
            Err(fault) => {
                self.finish(op, Err(fault), reply).await;
                Next::Go
            }
        }
    }
}

fn put(file: Replacement) -> Result<(), Fault> {
    file.put_durably().map_err(|error| Fault::internal("write the VM's record", &error))
}

fn microseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
