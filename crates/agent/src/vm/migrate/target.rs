//! The host that a VM comes to.

use std::os::unix::net::UnixStream as BlockingStream;

use hostler_agent_api::{VmMigrationPrepareRequest, VmReport};
use hostler_host::{VmDir, VmUid, volume};
use hostler_qemu::migrate::{receive, settle, take};
use hostler_qemu::{Process, Start};
use hostler_qmp::command::{QueryStatus, RunState};
use hostler_types::{Epoch, HostId, LayerOwner, OperationId, PowerState};
use jiff::Timestamp;
use tokio::net::UnixStream;

use super::{Claim, not_prepared};
use crate::blocking::blocking;
use crate::context::HostContext;
use crate::fault::{Fault, chain};
use crate::seats::Seat;
use crate::vm::actor::{Actor, Next, Reply};
use crate::vm::create::{end_processes, vm_dir};
use crate::vm::hardware::MemoryKind;
use crate::vm::layers;
use crate::vm::machine::{Machine, Sockets};
use crate::vm::nics::{assign, plug_all, unplug_all};
use crate::vm::power::{Launch, launch};
use crate::vm::record::{Given, Journal, RecordedState, VmRecord};

/// A VM that is to come here.
#[derive(Debug)]
pub(crate) struct PrepareOrder {
    /// As the other host has it.
    luggage: VmRecord,
    from: HostId,
    op: OperationId,
    epoch: Epoch,
}

impl PrepareOrder {
    pub(crate) fn of(request: &VmMigrationPrepareRequest) -> Result<Self, Fault> {
        let luggage = serde_json::from_value::<VmRecord>(request.luggage.clone());
        let mut luggage = luggage.map_err(|error| {
            let text = format!("what the other host says of the VM is not understood: {error}");
            Fault::Invalid(text)
        })?;
        if luggage.id() != request.definition.vm.id() {
            return Err(Fault::Invalid("the luggage is of another VM".to_owned()));
        }
        // What is asked for comes from the server; which files there are is known by who has them.
        let status = std::mem::replace(&mut luggage.definition, request.definition.clone());
        luggage.definition.vm.status.disks = status.vm.status.disks;
        luggage.definition.vm.status.snapshots = status.vm.status.snapshots;
        let (op, epoch) = (request.command.op, request.command.epoch);
        Ok(Self { luggage, from: request.from, op, epoch })
    }

    /// Whether the VM comes back that has been given away.
    pub(crate) fn is_later_than(&self, given: &Given) -> bool {
        self.epoch > given.moved.epoch
    }

    /// The VM's record here.
    pub(crate) fn record(&self, uid: VmUid) -> VmRecord {
        let (op, from, owner) = (self.op, self.from, self.luggage.uid);
        VmRecord {
            epoch: self.epoch,
            uid,
            since: Timestamp::now(),
            state: RecordedState::Incoming { op, from, owner, ours: false },
            journal: Journal::default(),
            plugs: Some(assign(&[], &self.luggage.definition)),
            came_from: None,
            ..self.luggage.clone()
        }
    }
}

impl Actor {
    /// Starts a QEMU that waits; or answers that one does.
    pub(in crate::vm) async fn prepare(
        &mut self,
        op: OperationId,
        order: PrepareOrder,
        reply: Reply,
    ) -> Next {
        match &self.record.state {
            RecordedState::Incoming { op: known, .. } if *known == op => {}
            // Of an attempt that has come to nothing, or from before it left.
            RecordedState::Incoming { .. } | RecordedState::Given(_) => {
                self.clear().await;
                self.record = order.record(self.record.uid);
            }
            _ => {
                let fault = Fault::WrongState("the VM is on this host already".to_owned());
                self.finish(op, Err(fault), reply).await;
                return Next::Go;
            }
        }
        match Box::pin(self.make_ready()).await {
            Ok(()) => {
                self.finish(op, Ok(()), reply).await;
                Next::Go
            }
            Err(fault) => {
                self.undo_prepare().await;
                let _ = reply.send(Err(fault.on(self.record.datastore()).into()));
                Next::End
            }
        }
    }

    async fn make_ready(&mut self) -> Result<(), Fault> {
        let RecordedState::Incoming { from, owner, .. } = self.record.state else {
            return Err(Fault::WrongState("it is on this host already".to_owned()));
        };
        let (accelerator, disk_aio) = self.host.facts.engines().await?;
        let running = self.record.running.clone();
        let mut running = running.ok_or_else(|| Fault::Invalid("it does not run".to_owned()))?;
        if running.accelerator != accelerator {
            return Err(Fault::WrongState(format!(
                "it runs on {:?}, and this host runs guests on {accelerator:?}",
                running.accelerator
            )));
        }
        running.disk_aio = disk_aio;
        running.memory = MemoryKind::File;
        self.record.running = Some(running.clone());
        // First of all, so that whatever follows is known to be ours.
        self.save().await?;
        plug_all(&self.host, &self.record).await?;
        self.mark_files(true).await?;
        self.give_files(self.record.uid).await?;
        // QEMU opens all of them at its start.
        let launched = launch(&self.host, &self.record, &running, Launch::first(Start::Fork)).await;
        self.give_back(owner).await?;
        let launched = launched?;
        let failed = |error: std::io::Error| Fault::internal("a socket", &error);
        let (near, far) = BlockingStream::pair().map_err(failed)?;
        near.set_nonblocking(true).map_err(failed)?;
        let stream = UnixStream::from_std(near).map_err(failed)?;
        let received = receive(launched.qmp(), far).await;
        received.map_err(|error| Fault::Qemu(format!("QEMU does not wait: {}", chain(&error))))?;
        self.machine = Some(Machine::new(launched, None));
        let epoch = self.record.epoch;
        self.host.seats.put(self.record.id(), Seat { from, epoch, stream });
        Ok(())
    }

    /// Makes the files of its disks a user's.
    async fn give_files(&self, uid: VmUid) -> Result<(), Fault> {
        let (host, record) = (self.host.clone(), self.record.clone());
        blocking(move || own_files(&vm_dir(&host, &record)?, &record, uid)).await
    }

    /// Notes that the files of its disks are this host's user's for an instant, or are not any more.
    async fn mark_files(&mut self, are: bool) -> Result<(), Fault> {
        if let RecordedState::Incoming { ours, .. } = &mut self.record.state {
            *ours = are;
        }
        self.save().await
    }

    /// Gives the files back, if they are this host's: else they may be a third host's by now, to which the
    /// VM has gone while this one was away.
    async fn give_back(&mut self, owner: VmUid) -> Result<(), Fault> {
        if !matches!(self.record.state, RecordedState::Incoming { ours: true, .. }) {
            return Ok(());
        }
        self.give_files(owner).await?;
        self.mark_files(false).await
    }

    /// Nothing is left but the record.
    async fn clear(&mut self) {
        self.host.seats.remove(self.record.id());
        self.machine = None;
        let (host, id) = (self.host.clone(), self.record.id());
        if let Err(error) = blocking(move || end_processes(&host, id)).await {
            tracing::error!(vm = %id, %error, "a QEMU that waits cannot be ended");
        }
        if let RecordedState::Incoming { owner, .. } = self.record.state
            && let Err(error) = self.give_back(owner).await
        {
            tracing::warn!(vm = %id, %error, "files may be another user's now");
        }
        unplug_all(&self.host, &self.record).await;
    }

    async fn undo_prepare(&mut self) {
        self.clear().await;
        let (records, id) = (self.host.records.clone(), self.record.id());
        if let Err(error) = blocking(move || records.remove(id)).await {
            tracing::error!(vm = %id, %error, "cannot forget a VM that does not come");
        }
    }

    pub(in crate::vm) async fn abandon(&mut self, op: OperationId, reply: Reply) -> Next {
        if matches!(self.record.state, RecordedState::Given(_)) {
            // From before it left: nothing has been prepared here since.
            self.finish(op, Ok(()), reply).await;
            return Next::Go;
        }
        if !matches!(self.record.state, RecordedState::Incoming { .. }) {
            let fault = Fault::WrongState("it is this host's, and stays".to_owned());
            self.finish(op, Err(fault), reply).await;
            return Next::Go;
        }
        self.undo_prepare().await;
        let _ = reply.send(Ok(self.report()));
        Next::End
    }

    /// Answers whether the VM can be taken over, or takes it over.
    pub(in crate::vm) async fn claim(&mut self, claim: Claim) {
        let Claim { from, epoch, take, reply } = claim;
        if let Err(fault) = self.admit(from, epoch) {
            let _ = reply.send(Err(fault));
            return;
        }
        let incoming = matches!(self.record.state, RecordedState::Incoming { .. });
        match (incoming, take) {
            // It has been taken before.
            (false, _) => {
                let _ = reply.send(Ok(self.report()));
            }
            (true, false) => {
                let gone = || Fault::Qemu("the QEMU that waited has ended".to_owned());
                let ready = self.machine.as_ref().map(|_| self.report()).ok_or_else(gone);
                let _ = reply.send(ready);
            }
            (true, true) => self.take_over_guest(reply).await,
        }
    }

    /// Only who was announced is heard, and is told of nothing else.
    fn admit(&self, from: Option<HostId>, epoch: Epoch) -> Result<(), Fault> {
        if let RecordedState::Given(given) = &self.record.state {
            let to = given.moved.to;
            return Err(Fault::WrongState(format!("it was given to the host {to} since")));
        }
        let expected = match self.record.state {
            RecordedState::Incoming { from, .. } => Some(from),
            _ => self.record.came_from,
        };
        if let Some(host) = from
            && expected != Some(host)
        {
            return Err(not_prepared(self.record.id(), host));
        }
        if expected.is_none() || epoch != self.record.epoch {
            return Err(Fault::StaleEpoch { given: epoch, known: self.record.epoch });
        }
        Ok(())
    }

    async fn take_over_guest(
        &mut self,
        reply: tokio::sync::oneshot::Sender<Result<VmReport, Fault>>,
    ) {
        let RecordedState::Incoming { from, .. } = self.record.state else { return };
        self.record.came_from = Some(from);
        let Some(machine) = self.machine.take() else {
            // It is this host's all the same: nobody else will start it.
            self.record.running = None;
            self.own_all().await;
            let why = "its QEMU had ended when it was to take the guest over".to_owned();
            self.failed(why).await;
            let _ = reply.send(Ok(self.report()));
            return;
        };
        let qmp = machine.live.qmp.clone();
        if let Err(error) = take(&qmp).await {
            self.machine = Some(machine);
            let text = format!("the guest cannot go on: {}", chain(&error));
            let _ = reply.send(Err(Fault::Qemu(text)));
            return;
        }
        self.hold(machine);
        self.set_power(PowerState::Running, None);
        // Before it is on the disk: an agent that dies now finds the guest running, and only who was
        // told to take it lets it run.
        let _ = reply.send(Ok(self.report()));
        self.settle_in_here(&qmp).await;
    }

    /// What nobody waits for once the guest runs here.
    async fn settle_in_here(&mut self, qmp: &hostler_qmp::Qmp) {
        settle(qmp).await;
        self.own_all().await;
        self.save_or_log().await;
        if let Err(fault) = self.dress().await {
            tracing::warn!(vm = %self.record.id(), %fault, "limits are not set");
        }
        let (host, record) = (self.host.clone(), self.record.clone());
        let written =
            blocking(move || Ok(vm_dir(&host, &record)?.write_definition(&record.definition.vm)?));
        if let Err(error) = written.await {
            tracing::warn!(vm = %self.record.id(), %error, "cannot write the definition");
        }
        self.save_or_log().await;
    }

    async fn own_all(&self) {
        if let Err(error) = self.give_files(self.record.uid).await {
            tracing::error!(vm = %self.record.id(), %error, "files are still another user's");
        }
    }

    /// At the agent's start: the guest runs here if it has been told to.
    pub(in crate::vm) async fn adopt_incoming(&mut self) {
        let RecordedState::Incoming { from, owner, .. } = self.record.state else { return };
        match self.find_waiting().await {
            Ok(Some((machine, RunState::Running))) => {
                let qmp = machine.live.qmp.clone();
                self.record.came_from = Some(from);
                self.running(machine);
                self.settle_in_here(&qmp).await;
            }
            // It waits, or has everything and waits for a word. The stream is broken if it was not
            // through, and the QEMU ends by itself.
            Ok(Some((machine, _))) => {
                self.machine = Some(machine);
                if let Err(error) = self.give_back(owner).await {
                    tracing::warn!(vm = %self.record.id(), %error, "files may be another user's");
                }
            }
            Ok(None) => self.clear().await,
            Err(error) => {
                tracing::warn!(vm = %self.record.id(), %error, "the QEMU that waits does not answer");
                self.clear().await;
            }
        }
    }

    async fn find_waiting(&self) -> Result<Option<(Machine, RunState)>, Fault> {
        let (host, record) = (self.host.clone(), self.record.clone());
        let found = blocking(move || {
            let failed = |error: hostler_qemu::ProcessError| Fault::internal("processes", &error);
            let pids = host.cgroups.pids(record.id());
            let pids = pids.map_err(|error| Fault::internal("cgroup", &error))?;
            for pid in pids.into_iter().filter_map(|pid| u32::try_from(pid).ok()) {
                if let Some(start_time) = hostler_qemu::start_time(pid).map_err(failed)?
                    && let Some(found) = Process::attach(pid, start_time).map_err(failed)?
                {
                    let log = vm_dir(&host, &record)?.console_log();
                    return Ok(Some((found, log)));
                }
            }
            Ok(None)
        });
        let Some((process, log)) = found.await? else { return Ok(None) };
        let sockets = Sockets::new(self.host.vm_runtime(self.record.id()), 0);
        let machine = Machine::attach(process, sockets, log).await?;
        let status = machine.live.qmp.execute(QueryStatus).await;
        let status = status.map_err(|error| Fault::Qemu(chain(&error)))?;
        Ok(Some((machine, status.status)))
    }

    /// The QEMU that waits has ended: the source has given up, or what it sent was no use. Who owns the
    /// VM will say what becomes of it.
    pub(in crate::vm) async fn waiting_ended(&mut self) {
        let Some(machine) = self.machine.take() else { return };
        let words = machine.last_words();
        tracing::warn!(vm = %self.record.id(), words, "the QEMU that waited for a guest has ended");
        drop(machine);
        self.host.seats.remove(self.record.id());
        let (host, id) = (self.host.clone(), self.record.id());
        if let Err(error) = blocking(move || end_processes(&host, id)).await {
            tracing::error!(vm = %id, %error, "cannot clean up after QEMU");
        }
    }
}

/// Takes back files that another host has made its own user's and could not give back. Blocks.
pub(in crate::vm) fn reclaim(host: &HostContext, record: &VmRecord) -> Result<(), Fault> {
    use std::os::unix::fs::MetadataExt;
    let dir = vm_dir(host, record)?;
    let layers = record.definition.vm.status.disks.iter().flat_map(|disk| &disk.layers);
    let paths = layers.map(|layer| hostler_host::layers::path(dir.datastore(), &layer.file));
    let users = paths.filter_map(|path| Some(path.symlink_metadata().ok()?.uid()));
    let base = VmUid::from_slot(0).map_or(u32::MAX, VmUid::uid);
    if users.into_iter().any(|user| user >= base && user != record.uid.uid()) {
        own_files(&dir, record, record.uid)?;
    }
    Ok(())
}

/// Makes the files of a VM a user's, but for those that are lent: others lie on them. Blocks.
pub(in crate::vm) fn own_files(dir: &VmDir, record: &VmRecord, uid: VmUid) -> Result<(), Fault> {
    let status = &record.definition.vm.status;
    let of_disks = status.disks.iter().flat_map(|disk| &disk.layers).map(|layer| &layer.file);
    let held = status.snapshots.snapshots.iter().flat_map(|snapshot| &snapshot.disks);
    let of_snapshots = held.flat_map(|disk| &disk.layers);
    for disk in record.definition.vm.spec.own_disks() {
        if !record.is_unmade(&disk.name) {
            layers::check(dir, layers::of(record, &disk.name))?;
        }
    }
    for file in of_disks.chain(of_snapshots) {
        let path = hostler_host::layers::path(dir.datastore(), file);
        if file.owner() == LayerOwner::Vm(dir.id()) && path.exists() && !volume::is_lent(&path)? {
            volume::set_owner(&path, uid)?;
        }
    }
    for path in [dir.nvram(), dir.suspend_state(), dir.seed()] {
        if path.exists() {
            volume::set_owner(&path, uid)?;
        }
    }
    Ok(())
}
