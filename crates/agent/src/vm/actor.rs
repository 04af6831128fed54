//! The task that owns a VM: takes commands one after another, and reacts to QEMU in between.

use std::sync::Arc;

use hostler_agent_api::{
    GuestDisk, VmCommand, VmDefinition, VmElsewhere, VmReport, VmSnapshotRequest,
    VmSnapshotUpdateRequest,
};
use hostler_endpoint::Problem;
use hostler_types::{
    CpuBaseline, DatastoreId, GuestReport, Name, NetworkId, OperationId, PowerState, SnapshotId,
    StopMode,
};
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::disks_move::{Copies, Moving};
use super::flatten::{Flattened, Flattening};
use super::fork::{ForkOrder, ForkSeat, IdentityStep, Silent};
use super::machine::{Live, Machine, MachineEvent};
use super::migrate::{Claim, MigrateOrder, Migrating, PrepareOrder, Sent};
use super::proof::Verdict;
use super::record::{RecordedState, VmRecord};
use super::snapshot::{Merger, Thaw};
use super::stop::Stopping;
use super::take::TakeOrder;
use crate::blocking::blocking;
use crate::context::HostContext;
use crate::fault::Fault;

pub(crate) type Reply = oneshot::Sender<Result<VmReport, Problem>>;

/// What the actor is told.
#[derive(Debug)]
pub(crate) enum Message {
    Command {
        command: VmCommand,
        action: Action,
        reply: Reply,
    },
    /// From the guest watcher, who began to ask at `asked`.
    Guest {
        asked: Instant,
        report: GuestReport,
    },
    /// From who asks the guest for proof of its customization.
    Customization(Verdict),
    /// From who gives the guest of an instant clone its own identity: what it is about to do next.
    Identity(IdentityStep),
    /// Gives up waiting for a guest that is to stop, or merging.
    Cancel(OperationId),
    /// From who copies into a disk.
    Flattened(Flattened),
    /// From who copies the VM's files to another datastore.
    DisksCopied(Result<Box<Copies>, Fault>),
    /// From who sends the guest to another host.
    Sent(Result<Box<Sent>, Fault>),
    /// The host that the VM was given to has answered.
    Taken,
    /// From the host that the VM comes from, or the server.
    Claim(Claim),
    /// From who thaws the guest's file systems, if it does not say at once that they are.
    Thawing(Thaw),
}

/// A command to a VM.
#[derive(Debug)]
pub(crate) enum Action {
    Create,
    Register,
    Define {
        definition: Box<VmDefinition>,
        force: bool,
    },
    DiskTake(Box<TakeOrder>),
    Start {
        cpu: Option<CpuBaseline>,
    },
    Stop {
        mode: StopMode,
        timeout: std::time::Duration,
    },
    Reset,
    Suspend,
    Seal,
    Fork(Box<ForkOrder>),
    /// Nothing changes for a while.
    Offer,
    Migrate(Box<MigrateOrder>),
    /// The first of a VM that comes from another host.
    Prepare(Box<PrepareOrder>),
    Abandon,
    Disown,
    /// The first of an instant clone.
    BeForked(Box<ForkSeat>),
    Remove {
        keep_files: bool,
        force: bool,
    },
    Freeze {
        snapshot: Option<SnapshotId>,
    },
    Flatten {
        disks: Vec<Name>,
        rate: Option<u64>,
    },
    DisksMove {
        to: DatastoreId,
        rate: Option<u64>,
    },
    Snapshot(Box<VmSnapshotRequest>),
    SnapshotUpdate(Box<VmSnapshotUpdateRequest>),
    Revert {
        snapshot: SnapshotId,
        start: Option<bool>,
    },
    SnapshotDelete {
        snapshots: Vec<SnapshotId>,
        max_rate: Option<u64>,
    },
}

impl Action {
    /// Whether a merge has to make room for it.
    fn needs_disks(&self) -> bool {
        match self {
            Self::Define { .. }
            | Self::DiskTake(_)
            | Self::Start { .. }
            | Self::Suspend
            | Self::Seal
            | Self::Remove { .. }
            | Self::Snapshot(_)
            | Self::Revert { .. }
            | Self::Freeze { .. }
            | Self::Fork(_)
            | Self::Offer
            | Self::Migrate(_)
            | Self::DisksMove { .. }
            | Self::Flatten { .. } => true,
            // QEMU's end ends a merge by itself.
            Self::Create
            | Self::Register
            | Self::BeForked(_)
            | Self::Stop { .. }
            | Self::Reset
            | Self::Prepare(_)
            | Self::Abandon
            | Self::Disown
            | Self::SnapshotUpdate(_)
            | Self::SnapshotDelete { .. } => false,
        }
    }
}

/// Whether the VM is still there after a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    Go,
    /// The VM is gone, or was never made.
    End,
}

#[derive(Debug)]
pub(crate) struct Actor {
    pub(super) host: Arc<HostContext>,
    pub(super) record: VmRecord,
    pub(super) power: PowerState,
    pub(super) since: Timestamp,
    pub(super) message: Option<String>,
    pub(super) guest: Option<GuestReport>,
    /// When the actor itself last asked the guest, past its watcher: what that asked before is older.
    pub(super) guest_asked: Option<Instant>,
    /// What the guest has said of its disks, for who has just changed them.
    pub(super) guest_disks: Option<Vec<GuestDisk>>,
    pub(super) machine: Option<Machine>,
    pub(super) stopping: Stopping,
    pub(super) merger: Merger,
    /// When QEMU is started again, after it died.
    pub(super) restart_at: Option<Instant>,
    /// When a QEMU that did not answer is tried again.
    pub(super) retry_at: Option<Instant>,
    pub(super) flattening: Option<Flattening>,
    /// Its files are going to another datastore.
    pub(super) moving: Option<Moving>,
    /// It is an instant clone whose guest has not begun to take its identity.
    pub(super) silent: Option<Silent>,
    pub(super) migrating: Option<Migrating>,
    /// When another host was told what there is of the VM, if nothing has changed since.
    pub(super) offered: Option<Instant>,
    /// For who lists the VMs: it is another host's.
    pub(super) elsewhere: watch::Sender<Option<VmElsewhere>>,
    pub(super) inbox: mpsc::Receiver<Message>,
    pub(super) to_self: mpsc::WeakSender<Message>,
    pub(super) report: watch::Sender<Arc<VmReport>>,
    pub(super) live: watch::Sender<Option<Arc<Live>>>,
    /// Where its files are: the one that it lies on first, then one to or from which they are going.
    pub(super) datastores: watch::Sender<Vec<DatastoreId>>,
    /// Those that it has NICs on.
    pub(super) networks: watch::Sender<Vec<NetworkId>>,
}

impl Actor {
    /// Runs until the VM is gone or the agent stops; the guest runs on in the latter case.
    pub(crate) async fn run(mut self) {
        let stop = self.host.stop.clone();
        loop {
            let deadline = self.next_deadline();
            // All branches are cancel safe: channels, a pidfd and a clock.
            let next = tokio::select! {
                () = stop.cancelled() => return,
                message = self.inbox.recv() => match message {
                    Some(message) => self.receive(message).await,
                    None => return,
                },
                event = next_event(&mut self.machine) => {
                    self.react(event).await;
                    Next::Go
                }
                outcome = self.merger.copied() => {
                    self.copied(outcome).await;
                    Next::Go
                }
                () = sleep_until(deadline) => self.deadline().await,
            };
            if next == Next::End {
                return;
            }
            self.merge_on().await;
        }
    }

    async fn receive(&mut self, message: Message) -> Next {
        match message {
            Message::Command { command, action, reply } => {
                self.command(command, action, reply).await
            }
            Message::Guest { asked, report } => {
                let newest = self.guest_asked.is_none_or(|own| own < asked);
                if self.machine.is_some() && newest {
                    self.guest = Some(report);
                    self.publish();
                }
                Next::Go
            }
            Message::Customization(verdict) => {
                self.customized(verdict).await;
                Next::Go
            }
            Message::Identity(step) => {
                Box::pin(self.identity(step)).await;
                Next::Go
            }
            Message::Cancel(op) => {
                self.cancel_stop(op).await;
                self.cancel_merge(op).await;
                Next::Go
            }
            Message::Flattened(flattened) => {
                self.flattened(flattened).await;
                Next::Go
            }
            Message::DisksCopied(copied) => {
                Box::pin(self.disks_copied(copied)).await;
                Next::Go
            }
            Message::Sent(sent) => {
                Box::pin(self.sent(sent)).await;
                Next::Go
            }
            Message::Taken => {
                self.owner_answered().await;
                Next::Go
            }
            Message::Claim(claim) => {
                Box::pin(self.claim(claim)).await;
                Next::Go
            }
            Message::Thawing(thaw) => {
                self.thawing(thaw).await;
                Next::Go
            }
        }
    }

    async fn command(&mut self, command: VmCommand, action: Action, reply: Reply) -> Next {
        if self.is_unsettled() {
            self.retry_at = None;
            match self.try_again().await {
                // Who asks finds no VM, and a creation begins anew.
                Next::End => return Next::End,
                Next::Go if self.is_unsettled() => {
                    let reason = self.message.clone().unwrap_or_default();
                    let _ = reply.send(Err(Fault::Unsettled(reason).into()));
                    return Next::Go;
                }
                Next::Go => {}
            }
        }
        if let Some(answer) = self.known_answer(command) {
            let _ = reply.send(answer.map(|()| self.report()));
            return Next::Go;
        }
        let stale = command.epoch > self.record.epoch;
        if !matches!(action, Action::Disown | Action::Abandon) {
            self.record.epoch = self.record.epoch.max(command.epoch);
        }
        let op = command.op;
        if self.record.sealing.is_some_and(|by| by != op)
            && let Err(fault) = self.break_seal().await
        {
            self.finish(op, Err(fault), reply).await;
            return Next::Go;
        }
        if let Err(fault) = self.require_possible(&action) {
            self.finish(op, Err(fault), reply).await;
            return Next::Go;
        }
        if action.needs_disks() {
            self.halt_merge().await;
        }
        if !matches!(action, Action::Offer | Action::Migrate(_)) {
            self.offered = None;
        }
        let result = match action {
            Action::Create => return self.create(op, reply).await,
            Action::Register => return self.register(op, reply).await,
            Action::Migrate(order) => {
                self.migrate(op, *order, reply).await;
                return Next::Go;
            }
            Action::Prepare(order) => return Box::pin(self.prepare(op, *order, reply)).await,
            Action::Abandon => return Box::pin(self.abandon(op, reply)).await,
            Action::Disown => return Box::pin(self.disown(op, stale, reply)).await,
            Action::BeForked(seat) => return Box::pin(self.be_forked(op, *seat, reply)).await,
            Action::Remove { keep_files, force } => {
                return self.remove(op, keep_files, force, reply).await;
            }
            Action::Stop { mode, timeout } => {
                self.stop(op, mode, timeout, reply).await;
                return Next::Go;
            }
            Action::Flatten { disks, rate } => {
                self.flatten(op, disks, rate, reply).await;
                return Next::Go;
            }
            Action::DisksMove { to, rate } => {
                self.disks_move(op, to, rate, reply).await;
                return Next::Go;
            }
            Action::SnapshotDelete { snapshots, max_rate } => {
                self.snapshot_delete(op, &snapshots, max_rate, reply).await;
                return Next::Go;
            }
            // Those that start a QEMU, or change much, hold much between their steps: on the heap, as
            // a thread's stack is small.
            Action::Offer => {
                // An answer of before would say what was then; so it is in no journal.
                let offered = self.offer();
                let _ = reply.send(offered.map(|()| self.report()).map_err(Problem::from));
                return Next::Go;
            }
            Action::DiskTake(order) => self.disk_take(*order).await,
            Action::Define { definition, force } => Box::pin(self.define(*definition, force)).await,
            Action::Snapshot(request) => Box::pin(self.snapshot(op, &request)).await,
            Action::SnapshotUpdate(request) => self.snapshot_update(*request).await,
            Action::Revert { snapshot, start } => Box::pin(self.revert(op, snapshot, start)).await,
            Action::Start { cpu } => {
                self.see(cpu);
                Box::pin(self.start()).await
            }
            Action::Reset => self.reset().await,
            Action::Suspend => Box::pin(self.suspend(op)).await,
            Action::Seal => Box::pin(self.seal(op)).await,
            Action::Freeze { snapshot } => self.freeze(snapshot).await,
            Action::Fork(order) => Box::pin(self.fork(op, *order)).await,
        };
        self.finish(op, result, reply).await;
        Next::Go
    }

    /// While disks are made independent, the VM can be brought down, and little else. A template
    /// neither runs nor writes.
    fn require_possible(&self, action: &Action) -> Result<(), Fault> {
        self.require_here(action)?;
        let runs = matches!(
            action,
            Action::Start { .. }
                | Action::Flatten { .. }
                | Action::Snapshot(_)
                | Action::Revert { .. }
                | Action::DiskTake(_)
                | Action::SnapshotDelete { .. }
        );
        if runs && self.record.definition.vm.is_template() {
            let text = "it is a template: it is not started, and its disks stay as they are";
            return Err(Fault::WrongState(text.to_owned()));
        }
        // What ends the guest ends the move; its files stay where they are then.
        if !matches!(action, Action::Stop { .. } | Action::Reset | Action::DisksMove { .. }) {
            self.require_not_moving()?;
        }
        match action {
            Action::Create
            | Action::Register
            | Action::BeForked(_)
            | Action::DisksMove { .. }
            | Action::Stop { .. }
            | Action::Reset
            | Action::Prepare(_)
            | Action::Abandon
            | Action::Disown
            | Action::Flatten { .. } => Ok(()),
            Action::Remove { .. } => {
                self.stop_flattening();
                Ok(())
            }
            // The one waits, the other has nothing to do with files.
            Action::SnapshotDelete { .. } | Action::SnapshotUpdate(_) => Ok(()),
            Action::Define { .. }
            | Action::DiskTake(_)
            | Action::Start { .. }
            | Action::Suspend
            | Action::Seal
            | Action::Snapshot(_)
            | Action::Revert { .. }
            | Action::Fork(_)
            | Action::Offer
            | Action::Migrate(_)
            | Action::Freeze { .. } => self.require_not_flattening(),
        }
    }

    /// A VM that is another host's, or on its way, does nothing else.
    fn require_here(&self, action: &Action) -> Result<(), Fault> {
        match (&self.record.state, action) {
            (_, Action::Disown) => Ok(()),
            // It comes back.
            (RecordedState::Given(given), Action::Prepare(order)) if order.is_later_than(given) => {
                Ok(())
            }
            // There is nothing to end.
            (RecordedState::Given(_), Action::Abandon) => Ok(()),
            (RecordedState::Given(given), _) => Err(Fault::WrongState(format!(
                "it was given to the host {}, and is not this host's any more",
                given.moved.to
            ))),
            (RecordedState::Incoming { .. }, Action::Prepare(_) | Action::Abandon) => Ok(()),
            (RecordedState::Incoming { .. }, _) => {
                Err(Fault::WrongState("it is on its way here, and still another host's".to_owned()))
            }
            (_, Action::Migrate(_)) => Ok(()),
            _ if self.migrating.is_some() => {
                let text = "it is just being moved to another host; wait, or cancel that";
                Err(Fault::InUse(text.to_owned()))
            }
            _ => Ok(()),
        }
    }

    /// The answer that the journal or the epoch dictates, before anything is done.
    fn known_answer(&self, command: VmCommand) -> Option<Result<(), Problem>> {
        if let Some(outcome) = self.record.journal.outcome(command.op) {
            return Some(outcome);
        }
        let known = self.record.epoch;
        (command.epoch < known)
            .then(|| Err(Fault::StaleEpoch { given: command.epoch, known }.into()))
    }

    /// Ends an operation: journal, report, answer.
    pub(super) async fn finish(
        &mut self,
        op: OperationId,
        result: Result<(), Fault>,
        reply: Reply,
    ) {
        let outcome = result.map_err(|fault| fault.on(self.record.datastore()).into());
        // Who has put the operation into the journal has saved it too.
        if self.record.journal.outcome(op).as_ref() != Some(&outcome) {
            self.record.journal.add(op, &outcome);
            self.save_or_log().await;
        }
        self.publish();
        let guest_disks = self.guest_disks.take();
        let _ = reply.send(outcome.map(|()| VmReport { guest_disks, ..self.report() }));
    }

    pub(super) async fn save(&self) -> Result<(), Fault> {
        let (records, record) = (self.host.records.clone(), self.record.clone());
        blocking(move || records.save(&record)).await
    }

    /// After something has happened that no error can undo: what the record lacks is found again
    /// at the agent's next start.
    pub(super) async fn save_or_log(&self) {
        if let Err(error) = self.save().await {
            tracing::error!(vm = %self.record.id(), %error, "cannot write the VM's record");
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let merger = self.merger.next_deadline();
        let deadlines = [self.restart_at, self.retry_at, self.stopping.next_deadline(), merger];
        deadlines.into_iter().flatten().min()
    }

    async fn deadline(&mut self) -> Next {
        let now = Instant::now();
        if self.restart_at.is_some_and(|at| at <= now) {
            self.restart_at = None;
            self.restart().await;
        }
        if self.retry_at.is_some_and(|at| at <= now) {
            self.retry_at = None;
            if self.try_again().await == Next::End {
                return Next::End;
            }
        }
        self.stop_deadline(now).await;
        Next::Go
    }
}

async fn next_event(machine: &mut Option<Machine>) -> MachineEvent {
    match machine {
        Some(machine) => machine.next().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
