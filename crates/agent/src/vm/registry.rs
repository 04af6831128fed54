//! All VMs of this host: who they are, and how to reach their actors.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use hostler_agent_api::{
    AgentEvent, VmCommand, VmCreateRequest, VmElsewhere, VmRemoveRequest, VmReport,
};
use hostler_endpoint::Problem;
use hostler_host::VmUid;
use hostler_host::uid::next_slot;
use hostler_types::{DatastoreId, NetworkId, OperationId, PowerState, SnapshotTree, VmId};
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::task::TaskTracker;

use super::actor::{Action, Actor, Message};
use super::create::{end_processes, remove_files};
use super::layers;
use super::machine::Live;
use super::nics::assign;
use super::record::{Journal, RecordedState, VmRecord};
use super::report;
use super::snapshot::{Layering, Merger};
use super::stop::Stopping;
use crate::blocking::blocking;
use crate::context::HostContext;
use crate::fault::Fault;

/// Commands that wait for an actor; more senders wait outside.
const INBOX: usize = 64;

/// The VMs of this host. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Vms(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    host: Arc<HostContext>,
    handles: Mutex<HashMap<VmId, Handle>>,
    actors: TaskTracker,
}

/// How to reach one VM.
#[derive(Debug, Clone)]
pub(crate) struct Handle {
    inbox: mpsc::Sender<Message>,
    pub(super) report: watch::Receiver<Arc<VmReport>>,
    pub(super) live: watch::Receiver<Option<Arc<Live>>>,
    /// The one that it lies on, and one to or from which its files are going.
    datastores: watch::Receiver<Vec<DatastoreId>>,
    networks: watch::Receiver<Vec<NetworkId>>,
    uid: VmUid,
    /// The VM is another host's.
    elsewhere: watch::Receiver<Option<VmElsewhere>>,
}

impl Handle {
    pub(crate) fn datastore(&self) -> DatastoreId {
        *self.datastores.borrow().first().expect("a VM lies on a datastore")
    }

    /// Tells its actor something; fails when that has ended.
    pub(super) async fn tell(&self, message: Message) -> Result<(), ()> {
        self.inbox.send(message).await.map_err(drop)
    }

    /// As last published.
    pub(crate) fn report(&self) -> Arc<VmReport> {
        self.report.borrow().clone()
    }
}

impl Vms {
    pub(crate) fn new(host: Arc<HostContext>) -> Self {
        let (handles, actors) = (Mutex::default(), TaskTracker::new());
        Self(Arc::new(Inner { host, handles, actors }))
    }

    /// Takes the VMs of the records up again, and returns when it is known of each what it does.
    pub(crate) async fn adopt_all(&self, records: Vec<VmRecord>) {
        let adopted = TaskTracker::new();
        for record in records {
            let vms = self.clone();
            let (handle, actor) = self.actor(record.clone());
            self.lock().insert(record.id(), handle);
            adopted.spawn(async move {
                match actor.adopt().await {
                    Some(actor) => vms.run(actor),
                    None => vms.forget(record.id()),
                }
            });
        }
        adopted.close();
        adopted.wait().await;
    }

    /// Waits until every actor has come to the end of what it was doing when the agent was told to
    /// end.
    pub(crate) async fn ended(&self) {
        self.0.actors.close();
        self.0.actors.wait().await;
    }

    pub(crate) fn reports(&self) -> Vec<VmReport> {
        let handles = self.lock();
        let here = handles.values().filter(|handle| handle.elsewhere.borrow().is_none());
        here.map(|handle| VmReport::clone(&handle.report.borrow())).collect()
    }

    /// Those that are other hosts', and of which something is here.
    pub(crate) fn elsewhere(&self) -> Vec<VmElsewhere> {
        self.lock().values().filter_map(|handle| *handle.elsewhere.borrow()).collect()
    }

    /// Whether a VM that is not off is plugged into a network.
    pub(crate) fn user_of(&self, network: NetworkId) -> Option<VmId> {
        let uses = |handle: &Handle| {
            handle.networks.borrow().contains(&network) && handle.report.borrow().power.is_live()
        };
        self.lock().iter().find(|(_, handle)| uses(handle)).map(|(vm, _)| *vm)
    }

    /// A VM of which something lies on a datastore.
    pub(crate) fn on_datastore(&self, datastore: DatastoreId) -> Option<VmId> {
        let handles = self.lock();
        let lies = |handle: &Handle| handle.datastores.borrow().contains(&datastore);
        handles.iter().find(|(_, handle)| lies(handle)).map(|(vm, _)| *vm)
    }

    pub(crate) fn handle(&self, vm: VmId) -> Result<Handle, Fault> {
        self.lock().get(&vm).cloned().ok_or(Fault::NoVm(vm))
    }

    pub(crate) fn contains(&self, vm: VmId) -> bool {
        self.lock().contains_key(&vm)
    }

    /// Gives up waiting for a guest's shutdown, or merging, whichever VM it is.
    pub(crate) fn cancel(&self, op: OperationId) {
        let inboxes: Vec<_> = self.lock().values().map(|handle| handle.inbox.clone()).collect();
        for inbox in inboxes {
            let _ = inbox.try_send(Message::Cancel(op));
        }
    }

    pub(crate) async fn create(
        &self,
        vm: VmId,
        request: VmCreateRequest,
    ) -> Result<VmReport, Problem> {
        let op = request.command.op;
        self.begin(vm, request, RecordedState::Creating { op }).await
    }

    pub(crate) async fn register(
        &self,
        vm: VmId,
        request: VmCreateRequest,
    ) -> Result<VmReport, Problem> {
        self.begin(vm, request, RecordedState::Registering).await
    }

    /// Sends a command to a VM and waits for its answer.
    pub(crate) async fn command(
        &self,
        vm: VmId,
        command: VmCommand,
        action: Action,
    ) -> Result<VmReport, Problem> {
        let handle = self.handle(vm)?;
        send(&handle, command, action).await.unwrap_or_else(|| Err(Fault::NoVm(vm).into()))
    }

    /// Removes a VM, or files of one that there is no record of.
    pub(crate) async fn remove(&self, vm: VmId, request: VmRemoveRequest) -> Result<(), Problem> {
        let action = Action::Remove { keep_files: request.keep_files, force: request.force };
        if let Ok(handle) = self.handle(vm)
            && let Some(answer) = send(&handle, request.command, action).await
        {
            return answer.map(drop);
        }
        let host = self.0.host.clone();
        let removed = blocking(move || {
            end_processes(&host, vm)?;
            let dir = match host.datastores.get(request.datastore) {
                Ok(datastore) => datastore.vm(vm),
                // A creation that found no datastore made no record either: nothing is there.
                Err(Fault::DatastoreMissing(reason)) => {
                    tracing::warn!(%vm, reason, "there is no record of the VM, and no datastore");
                    return Ok(());
                }
                Err(fault) => return Err(fault),
            };
            match request.keep_files {
                true => Ok(()),
                false => remove_files(&host, &dir),
            }
        });
        Ok(removed.await?)
    }

    /// Makes an actor for a new VM and gives it its first command; or asks the one that is there.
    async fn begin(
        &self,
        vm: VmId,
        request: VmCreateRequest,
        state: RecordedState,
    ) -> Result<VmReport, Problem> {
        loop {
            let action = match state {
                RecordedState::Creating { .. } => Action::Create,
                _ => Action::Register,
            };
            let begun = self.begin_once(vm, &request, state.clone(), action).await?;
            // No answer: the actor was just ending. The next round makes a new one.
            if let Some(answer) = begun {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    }

    /// The answer of the VM's actor to its first command; `None` when it was just ending.
    pub(super) async fn begin_once(
        &self,
        vm: VmId,
        request: &VmCreateRequest,
        state: RecordedState,
        action: Action,
    ) -> Result<Option<Result<VmReport, Problem>>, Problem> {
        if request.definition.vm.id() != vm {
            let text = "the definition is of another VM".to_owned();
            return Err(Fault::Invalid(text).into());
        }
        request.definition.vm.spec.validate().map_err(|e| Fault::Invalid(e.to_string()))?;
        let handle = self.handle_or_new(vm, request, state)?;
        Ok(send(&handle, request.command, action).await)
    }

    fn handle_or_new(
        &self,
        vm: VmId,
        request: &VmCreateRequest,
        state: RecordedState,
    ) -> Result<Handle, Fault> {
        self.handle_or(vm, |uid| fresh_record(request, state, uid))
    }

    /// The VM's handle; of a new one with the record that `make` makes for a free user.
    pub(super) fn handle_or(
        &self,
        vm: VmId,
        make: impl FnOnce(VmUid) -> VmRecord,
    ) -> Result<Handle, Fault> {
        let mut handles = self.lock();
        if let Some(handle) = handles.get(&vm) {
            return Ok(handle.clone());
        }
        let uid = next_slot(handles.values().map(|handle| handle.uid)).ok_or_else(|| {
            Fault::WrongState("this host has as many VMs as it can have".to_owned())
        })?;
        let (handle, actor) = self.actor(make(uid));
        handles.insert(vm, handle.clone());
        drop(handles);
        self.run(actor);
        Ok(handle)
    }
    /// Runs an actor until its VM is gone.
    fn run(&self, actor: Actor) {
        let (vms, vm) = (self.clone(), actor.record.id());
        self.0.actors.spawn(async move {
            actor.run().await;
            if !vms.0.host.stop.is_cancelled() {
                vms.forget(vm);
            }
        });
    }

    fn forget(&self, vm: VmId) {
        let removed = self.lock().remove(&vm);
        // Of one that is another host's nobody knows that it was here, too.
        if removed.is_none_or(|handle| handle.elsewhere.borrow().is_none()) {
            self.0.host.hub.tell(AgentEvent::VmGone { vm });
        }
    }

    fn actor(&self, mut record: VmRecord) -> (Handle, Actor) {
        let host = self.0.host.clone();
        let known = std::mem::take(&mut record.definition.vm.status.disks);
        let running = record.running.as_ref().map(|running| running.spec.clone());
        layers::settle(&mut record.definition.vm, &known, running.as_ref());
        let (to_self, inbox) = mpsc::channel(INBOX);
        let power = match record.state {
            RecordedState::Creating { .. }
            | RecordedState::Registering
            | RecordedState::Forking
            | RecordedState::Incoming { .. } => PowerState::Creating,
            RecordedState::Given(_) => PowerState::Stopped,
            _ => PowerState::Unknown,
        };
        let first = VmReport { power, ..report::report(&host, &record, false) };
        let (report, report_seen) = watch::channel(Arc::new(first));
        let (live, live_seen) = watch::channel(None);
        let (networks, networks_seen) = watch::channel(record.networks());
        let (datastores, datastores_seen) = watch::channel(record.datastores());
        let (elsewhere, elsewhere_seen) = watch::channel(record.elsewhere());
        let handle = Handle {
            inbox: to_self.clone(),
            report: report_seen,
            live: live_seen,
            datastores: datastores_seen,
            networks: networks_seen,
            uid: record.uid,
            elsewhere: elsewhere_seen,
        };
        let actor = Actor {
            power,
            since: record.since,
            message: None,
            guest: None,
            guest_asked: None,
            guest_disks: None,
            machine: None,
            stopping: Stopping::default(),
            merger: Merger::default(),
            restart_at: None,
            retry_at: None,
            flattening: None,
            moving: None,
            datastores,
            silent: None,
            migrating: None,
            offered: None,
            elsewhere,
            inbox,
            to_self: to_self.downgrade(),
            report,
            live,
            networks,
            host,
            record,
        };
        (handle, actor)
    }

    pub(super) fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<VmId, Handle>> {
        self.0.handles.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of a VM that is just being made or taken in.
fn fresh_record(request: &VmCreateRequest, state: RecordedState, uid: VmUid) -> VmRecord {
    let mut definition = request.definition.clone();
    definition.vm.status.disks.clear();
    definition.vm.status.snapshots = SnapshotTree::default();
    let detached = &definition.vm.spec.detached;
    VmRecord {
        unmade: Some(detached.iter().map(|disk| disk.name.clone()).collect()),
        definition,
        epoch: request.command.epoch,
        uid,
        since: Timestamp::now(),
        restarts: Vec::new(),
        customization: None,
        seal: None,
        sealing: None,
        journal: Journal::default(),
        running: None,
        plugs: Some(assign(&[], &request.definition)),
        unsettled: false,
        flattening: None,
        layering: Layering::default(),
        forking: Vec::new(),
        taking: None,
        identity_due: state == RecordedState::Forking,
        moving: None,
        moved: 0,
        came_from: None,
        cpu_baseline: None,
        state,
    }
}

/// The actor's answer; `None` when it has ended without one.
pub(super) async fn send(
    handle: &Handle,
    command: VmCommand,
    action: Action,
) -> Option<Result<VmReport, Problem>> {
    let (reply, answer) = oneshot::channel();
    handle.inbox.send(Message::Command { command, action, reply }).await.ok()?;
    answer.await.ok()
}
