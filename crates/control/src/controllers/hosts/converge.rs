//! Writes what a host reports into the inventory: only differences, many in one commit, and never
//! into a VM that a task is working on (that one is written when the task has ended).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use hostler_agent_api::{AgentEvent, DatastoreReport, Inventory};
use hostler_store::{Batch, Write};
use hostler_types::{
    DatastoreId, DatastoreKind, DatastoreOnHost, HostId, HostKind, HostState, Kind, NetworkKind,
    NetworkState, NetworkStatus, Object, PowerState, Revision, Vm, VmId,
};
use jiff::Timestamp;
use tokio::sync::watch;

use super::stale::settle_stale;
use super::sync::Known;
use crate::inventory::Snapshot;
use crate::reports::{absorb, lose};
use crate::tasks::naming::named_report;
use crate::world::Core;

/// Objects written in one transaction.
const CHUNK: usize = 128;
/// The wait before what someone else was faster to write is looked at again.
const AGAIN: Duration = Duration::from_millis(50);
/// A datastore's free space is recorded when it has changed by this part of its capacity.
const FREE_STEP: u64 = 100;

/// What a change is about.
enum Target {
    Vm(VmId),
    Datastore(DatastoreReport),
}

pub(super) struct Converger {
    core: Arc<Core>,
    host: HostId,
    name: String,
    connected: bool,
    /// VMs whose record may differ from what the host says.
    dirty: BTreeSet<VmId>,
    datastores: HashMap<DatastoreId, DatastoreReport>,
    revisions: watch::Receiver<Revision>,
    /// Something could not be written just now.
    again: bool,
}

impl Converger {
    pub(super) fn new(core: Arc<Core>, host: HostId, name: String) -> Self {
        let revisions = core.inventory.revisions();
        Self {
            core,
            host,
            name,
            connected: false,
            dirty: BTreeSet::new(),
            datastores: HashMap::new(),
            revisions,
            again: false,
        }
    }

    pub(super) fn is_connected(&self) -> bool {
        self.connected
    }

    /// Ends when something that could not be written may now be.
    ///
    /// # Cancel safety
    /// Nothing is lost when this future is dropped.
    pub(super) async fn ready(&mut self) {
        if self.dirty.is_empty() && self.datastores.is_empty() {
            return std::future::pending().await;
        }
        if self.again {
            return tokio::time::sleep(AGAIN).await;
        }
        // Whatever holds the VMs back ends with a change of the inventory.
        if self.revisions.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// The host is there, and this is all it has. `before` is the inventory before it looked.
    pub(super) async fn connected(
        &mut self,
        known: Known,
        mut inventory: Inventory,
        before: &Snapshot,
    ) {
        self.connected = true;
        let disowned = settle_stale(&self.core, self.host, &inventory);
        inventory.vms.retain(|report| !disowned.contains(&report.vm));
        let reported: HashSet<VmId> = inventory.vms.iter().map(|report| report.vm).collect();
        self.core.reports.replace(self.host, &inventory.vms);
        let used = inventory.used.iter().map(|it| (it.vm, it.used)).collect();
        self.core.demands.replace(self.host, used, inventory.host_used);
        let snapshot = self.core.snapshot();
        for orphan in reported.iter().filter(|vm| snapshot.get(**vm).is_none()) {
            tracing::warn!(host = self.name, vm = %orphan, "the host has a VM that is not in the inventory; it is left alone");
        }
        self.dirty.extend(before.vms_on(self.host).map(|vm| vm.id()));
        self.dirty.extend(reported);
        for report in inventory.datastores.into_iter().chain(known.datastores.iter().cloned()) {
            self.datastores.insert(report.datastore, report);
        }
        self.write_networks(&known).await;
        // VMs and datastores first: who finds the host connected finds them as they are.
        self.write().await;
        let facts = known.facts;
        self.write_host(|status| {
            status.state = HostState::Connected;
            status.message = None;
            status.facts = Some(facts.clone());
        })
        .await;
        tracing::info!(host = self.name, "the host is connected");
    }

    /// The host does not answer, or answers and is unfit, and why: nobody knows what its VMs do.
    pub(super) async fn away(&mut self, unfit: Option<&str>) {
        self.connected = false;
        self.core.reports.forget_host(self.host);
        self.core.demands.forget_host(self.host);
        self.datastores.clear();
        let message = unfit.unwrap_or("its agent does not answer");
        self.write_host(|status| {
            // A host that has never been seen is still only expected.
            if status.state == HostState::Connected {
                status.state = HostState::Disconnected;
            }
            status.message = Some(message.to_owned());
        })
        .await;
        let snapshot = self.core.snapshot();
        self.dirty.extend(snapshot.vms_on(self.host).map(|vm| vm.id()));
        self.write().await;
    }

    /// Notes what an event says; [`Converger::write`] writes it.
    pub(super) fn take(&mut self, event: AgentEvent) {
        match event {
            AgentEvent::Vm(report) => {
                self.dirty.insert(report.vm);
                if !report.power.is_live() {
                    self.core.demands.forget(self.host, report.vm);
                }
                self.core.reports.event(self.host, &report);
            }
            AgentEvent::VmGone { vm } => {
                self.core.reports.forget_from(self.host, vm);
                self.core.demands.forget(self.host, vm);
                self.dirty.insert(vm);
            }
            AgentEvent::Datastore(report) => {
                self.datastores.insert(report.datastore, report);
            }
            AgentEvent::Progress(progress) => self.core.progress.tell(progress),
            AgentEvent::Usage { vms, host } => {
                self.core.demands.note(self.host, vms.into_iter().map(|it| (it.vm, it.used)), host);
            }
            AgentEvent::Inventory(_) | AgentEvent::Unknown => {}
        }
    }

    /// Writes what differs and may be written; the rest stays noted.
    pub(super) async fn write(&mut self) {
        self.revisions.borrow_and_update();
        self.again = false;
        let snapshot = self.core.snapshot();
        let mut changes = self.datastore_changes(&snapshot);
        for id in std::mem::take(&mut self.dirty) {
            let Some(vm) = snapshot.get(id).filter(|vm| vm.status.host == self.host) else {
                continue;
            };
            if snapshot.task_on(id.untyped()).is_some() {
                self.dirty.insert(id);
                continue;
            }
            if let Some(changed) = self.changed(vm) {
                let free = Write::ExpectUnlocked { object: id.untyped() };
                changes.push((Target::Vm(id), vec![free, Write::update(&changed)]));
            }
        }
        for chunk in changes.chunks(CHUNK) {
            self.write_chunk(chunk).await;
        }
    }

    async fn write_chunk(&mut self, chunk: &[(Target, Vec<Write>)]) {
        let all = chunk.iter().flat_map(|(_, writes)| writes.iter().cloned());
        if self.core.commit(self.batch("reported").with_all(all)).await.is_ok() {
            return;
        }
        // One of them has changed meanwhile: the others are written without it.
        for (target, writes) in chunk {
            let batch = self.batch("reported").with_all(writes.iter().cloned());
            if let Err(error) = self.core.commit(batch).await {
                tracing::debug!(host = self.name, %error, "a report is written later");
                self.again = true;
                match target {
                    Target::Vm(vm) => drop(self.dirty.insert(*vm)),
                    // What has come since is newer.
                    Target::Datastore(report) => {
                        self.datastores.entry(report.datastore).or_insert_with(|| report.clone());
                    }
                }
            }
        }
    }

    fn batch(&self, what: &str) -> Batch {
        Batch::new("system", format!("host `{}`: {what}", self.name), Timestamp::now())
    }

    /// The VM as it turns out to be, if that differs from its record.
    fn changed(&self, vm: &Arc<Vm>) -> Option<Vm> {
        let mut changed = Vm::clone(vm);
        let differs = match self.core.reports.last(vm.id()) {
            _ if !self.connected => lose(&mut changed.status, Timestamp::now(), &self.name),
            Some(report) => {
                let report = named_report(&self.core.snapshot(), &report);
                absorb(&mut changed.status, &report)
            }
            None => missing(&mut changed, &self.name),
        };
        differs.then_some(changed)
    }

    fn datastore_changes(&mut self, snapshot: &Snapshot) -> Vec<(Target, Vec<Write>)> {
        let mut changes = Vec::new();
        for (id, report) in self.datastores.drain() {
            let Some(datastore) = snapshot.get::<DatastoreKind>(id) else { continue };
            let old = &datastore.status;
            let DatastoreReport { state, message, capacity, free, .. } = report.clone();
            let by = DatastoreOnHost { host: self.host, state, message };
            let mut new = old.clone().told(&datastore.spec, by, capacity, free);
            let step = (new.capacity.0 / FREE_STEP).max(1);
            let grown = old.free.0.abs_diff(new.free.0) >= step;
            if !grown {
                new.free = old.free;
            }
            if new == *old {
                continue;
            }
            let (warn, used) = (u64::from(datastore.spec.limits.warn_percent), new.used_percent());
            if old.used_percent() < warn && used >= warn {
                let (name, free) = (datastore.name(), new.free);
                tracing::warn!(datastore = %name, used, %free, "a datastore fills up");
            }
            let mut changed = Object::clone(datastore);
            changed.status = new;
            changes.push((Target::Datastore(report), vec![Write::update(&changed)]));
        }
        changes
    }

    async fn write_host(&self, change: impl Fn(&mut hostler_types::HostStatus)) {
        for _ in 0..3 {
            let snapshot = self.core.snapshot();
            let Some(host) = snapshot.get::<HostKind>(self.host) else { return };
            let mut changed = Object::clone(host);
            change(&mut changed.status);
            if changed.status == host.status {
                return;
            }
            if changed.status.state != host.status.state {
                changed.status.since = Timestamp::now();
            }
            let state = format!("{:?}", changed.status.state).to_lowercase();
            match self.core.commit(self.batch(&state).with(Write::update(&changed))).await {
                Ok(_) => return,
                Err(error) => tracing::warn!(host = self.name, %error, "its state is not recorded"),
            }
        }
    }

    async fn write_networks(&self, known: &Known) {
        let snapshot = self.core.snapshot();
        let mut batch = self.batch("networks");
        let mine = format!("host `{}`: ", self.name);
        for (id, ensured) in &known.networks {
            let Some(network) = snapshot.get::<NetworkKind>(*id) else { continue };
            let status = match ensured {
                Err(reason) => {
                    tracing::warn!(host = self.name, network = %network.name(), reason, "the network could not be set up");
                    let message = Some(format!("{mine}{reason}"));
                    NetworkStatus { state: NetworkState::Failed, message }
                }
                // What another host could not set up is that host's to take back.
                Ok(()) if network.status.message.as_ref().is_some_and(|m| m.starts_with(&mine)) => {
                    NetworkStatus { state: NetworkState::Ready, message: None }
                }
                Ok(()) => continue,
            };
            if status != network.status {
                let mut changed = Object::clone(network);
                changed.status = status;
                batch = batch.with(Write::update(&changed));
            }
        }
        if !batch.writes.is_empty()
            && let Err(error) = self.core.commit(batch).await
        {
            tracing::warn!(host = self.name, %error, "{} states are not recorded", NetworkKind::NAME);
        }
    }
}

/// Its host does not have the VM. Only an operator can know what to do about it.
fn missing(vm: &mut Vm, host: &str) -> bool {
    let message = format!(
        "host `{host}` does not have this VM; register it again from its files, or delete it"
    );
    if vm.status.power == PowerState::Failed && vm.status.message.as_ref() == Some(&message) {
        return false;
    }
    vm.status.power = PowerState::Failed;
    vm.status.power_since = Timestamp::now();
    vm.status.message = Some(message);
    true
}
