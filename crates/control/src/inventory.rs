//! The inventory in memory: what all reads are answered from.
//!
//! A [`Snapshot`] is immutable and cheap to clone (persistent maps); [`Inventory`] holds the newest.
//! One task follows the store's change log and publishes a new snapshot per burst of commits, so
//! that a snapshot is always the state after exactly one commit, with all that the commit wrote.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use futures::FutureExt as _;
use hostler_store::{Change, Feed, Record, Store, StoreError};
use hostler_types::{
    AddressRange, ApprovalRuleKind, Cluster, ClusterKind, CustomizationSpecKind, DatastoreKind,
    GroupKind, HostId, HostKind, Id, ImageId, ImageKind, JoinTokenKind, Kind, KindName, MacAddress,
    Name, NamingRuleKind, NetworkId, NetworkKind, Object, ObjectId, PoolId, PoolKind, Ref, Request,
    RequestId, RequestKind, Revision, RuleKind, SnapshotPolicyKind, Task, TaskId, TaskKind,
    TemplateKind, TokenKind, UserKind, Vm, VmId, VmKind,
};
use imbl::ordmap::DiffItem;
use jiff::Timestamp;
use tokio::sync::watch;

use crate::error::{Class, ServiceError};
use index::Indexes;
pub(crate) use index::{images, layer_files};

mod addresses;
mod held;
mod hostnames;
mod index;

/// Changes that become visible at once; more, where one commit has more.
const BURST: usize = 1000;

/// All objects of one kind.
#[derive(Debug, Clone)]
pub struct Collection<K: Kind> {
    by_id: imbl::HashMap<Id<K>, Arc<Object<K>>>,
    by_name: imbl::OrdMap<Name, Arc<Object<K>>>,
}

impl<K: Kind> Default for Collection<K> {
    fn default() -> Self {
        Self { by_id: imbl::HashMap::new(), by_name: imbl::OrdMap::new() }
    }
}

impl<K: Kind> Collection<K> {
    pub fn get(&self, id: Id<K>) -> Option<&Arc<Object<K>>> {
        self.by_id.get(&id)
    }

    pub fn get_by_name(&self, name: &Name) -> Option<&Arc<Object<K>>> {
        self.by_name.get(name)
    }

    pub fn len(&self) -> usize {
        self.by_id.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    /// In the order of names, from after `after` on.
    pub fn after(&self, after: Option<&Name>) -> impl Iterator<Item = &Arc<Object<K>>> {
        use std::ops::Bound::{Excluded, Unbounded};
        let from = after.map_or(Unbounded, Excluded);
        self.by_name.range::<_, Name>((from, Unbounded)).map(|(_, object)| object)
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Object<K>>> {
        self.after(None)
    }

    /// What is another in `newer`, in no order. What both share is not looked at, so that it takes as
    /// long as there are changes.
    pub(crate) fn steps_to<'a>(&'a self, newer: &'a Self) -> Vec<Step<'a, K>> {
        let mut steps: HashMap<Id<K>, Step<'a, K>> = HashMap::new();
        let mut told = |old: Option<&'a Arc<Object<K>>>, new: Option<&'a Arc<Object<K>>>| {
            let Some(id) = old.or(new).map(|object| object.id()) else { return };
            let step = steps.entry(id).or_insert(Step { old: None, new: None });
            // One that is called otherwise goes from one name, and comes to another.
            step.old = step.old.or(old);
            step.new = step.new.or(new);
        };
        for item in self.by_name.diff(&newer.by_name) {
            match item {
                DiffItem::Add(_, new) => told(None, Some(new)),
                DiffItem::Remove(_, old) => told(Some(old), None),
                DiffItem::Update { old: (_, old), new: (_, new) } if old.id() == new.id() => {
                    told(Some(old), Some(new));
                }
                DiffItem::Update { old: (_, old), new: (_, new) } => {
                    told(Some(old), None);
                    told(None, Some(new));
                }
            }
        }
        steps.into_values().collect()
    }

    fn insert(&mut self, object: Arc<Object<K>>) -> Option<Arc<Object<K>>> {
        let old = self.by_id.insert(object.id(), object.clone());
        if let Some(old) = &old
            && old.name() != object.name()
        {
            self.forget_name(old);
        }
        self.by_name.insert(object.name().clone(), object);
        old
    }

    fn remove(&mut self, id: Id<K>) -> Option<Arc<Object<K>>> {
        let old = self.by_id.remove(&id)?;
        self.forget_name(&old);
        Some(old)
    }

    /// Within one batch another object may have taken the name already.
    fn forget_name(&mut self, old: &Object<K>) {
        if self.by_name.get(old.name()).is_some_and(|named| named.id() == old.id()) {
            self.by_name.remove(old.name());
        }
    }
}

/// What became of one object between two snapshots; at least one of the two is there.
#[derive(Debug)]
pub(crate) struct Step<'a, K: Kind> {
    pub(crate) old: Option<&'a Arc<Object<K>>>,
    pub(crate) new: Option<&'a Arc<Object<K>>>,
}

/// Everything, as it was at one revision.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    pub revision: Revision,
    vms: Collection<VmKind>,
    hosts: Collection<HostKind>,
    images: Collection<ImageKind>,
    datastores: Collection<DatastoreKind>,
    networks: Collection<NetworkKind>,
    tasks: Collection<TaskKind>,
    users: Collection<UserKind>,
    tokens: Collection<TokenKind>,
    join_tokens: Collection<JoinTokenKind>,
    customization_specs: Collection<CustomizationSpecKind>,
    naming_rules: Collection<NamingRuleKind>,
    snapshot_policies: Collection<SnapshotPolicyKind>,
    templates: Collection<TemplateKind>,
    requests: Collection<RequestKind>,
    approval_rules: Collection<ApprovalRuleKind>,
    clusters: Collection<ClusterKind>,
    pools: Collection<PoolKind>,
    rules: Collection<RuleKind>,
    groups: Collection<GroupKind>,
    /// Those for which something will happen by itself.
    open_requests: imbl::OrdSet<RequestId>,
    /// Another number whenever a host has come or gone, or has another address.
    pub(crate) host_addresses: u64,
    indexes: Indexes,
}

/// A kind that snapshots hold.
pub trait Held: Kind {
    fn of(snapshot: &Snapshot) -> &Collection<Self>;
    #[doc(hidden)]
    fn of_mut(snapshot: &mut Snapshot) -> &mut Collection<Self>;
}

impl Snapshot {
    pub fn all<K: Held>(&self) -> &Collection<K> {
        K::of(self)
    }

    pub fn get<K: Held>(&self, id: Id<K>) -> Option<&Arc<Object<K>>> {
        K::of(self).get(id)
    }

    /// The object that `reference` points at.
    ///
    /// # Errors
    /// `not_found`.
    pub fn find<K: Held>(&self, reference: &Ref) -> Result<&Arc<Object<K>>, ServiceError> {
        let found = match reference {
            Ref::Id(id) => K::of(self).get(Id::from_uuid(*id)),
            Ref::Name(name) => K::of(self).get_by_name(name),
        };
        found.ok_or_else(|| ServiceError::not_found(K::NAME, reference))
    }

    /// The VMs that a host owns.
    pub fn vms_on(&self, host: HostId) -> impl Iterator<Item = &Arc<Vm>> {
        self.indexes.by_host(host).filter_map(|vm| self.vms.get(vm))
    }

    /// The VMs that have a disk or a CD-ROM from an image.
    pub fn vms_with_image(&self, image: ImageId) -> impl Iterator<Item = &Arc<Vm>> {
        self.indexes.by_image(image).filter_map(|vm| self.vms.get(vm))
    }

    pub fn vms_with_network(&self, network: NetworkId) -> impl Iterator<Item = &Arc<Vm>> {
        self.indexes.by_network(network).filter_map(|vm| self.vms.get(vm))
    }

    /// The cluster. There is one.
    ///
    /// # Errors
    /// `not_found` before the first start is over.
    pub fn cluster(&self) -> Result<&Arc<Cluster>, ServiceError> {
        let first = self.clusters.iter().next();
        first.ok_or_else(|| {
            ServiceError::new(Class::NotFound, "not_found", "there is no cluster yet")
                .hint("it is made when the server starts")
        })
    }

    /// The VMs of a resource pool itself, running or not.
    pub fn vms_in(&self, pool: PoolId) -> impl Iterator<Item = &Arc<Vm>> {
        self.indexes.by_pool(pool).filter_map(|vm| self.vms.get(vm))
    }

    /// The VMs for which something is set aside while they run.
    pub(crate) fn reserving(&self) -> impl Iterator<Item = &Arc<Vm>> {
        self.indexes.reserving().filter_map(|vm| self.vms.get(vm))
    }

    /// The VM that has a NIC with this address.
    pub fn vm_with_mac(&self, mac: MacAddress) -> Option<VmId> {
        self.indexes.by_mac(mac)
    }

    /// The VMs whose time has come, longest due first.
    pub(crate) fn due(&self, now: Timestamp) -> impl Iterator<Item = &Arc<Vm>> {
        let due = self.indexes.by_deadline().take_while(move |(at, _)| *at <= now);
        due.filter_map(|(_, vm)| self.vms.get(vm))
    }

    /// When the time of the next VM comes, of those whose time has not come yet.
    pub(crate) fn next_deadline(&self, now: Timestamp) -> Option<Timestamp> {
        self.indexes.deadline_after(now)
    }

    /// The VMs with snapshots, and those of whose snapshots something was told.
    pub(crate) fn with_snapshots(&self) -> impl Iterator<Item = &Arc<Vm>> {
        self.indexes.with_snapshots().filter_map(|vm| self.vms.get(vm))
    }

    /// The requests for which something will happen by itself, oldest first.
    pub(crate) fn open_requests(&self) -> impl Iterator<Item = &Arc<Request>> {
        self.open_requests.iter().filter_map(|id| self.requests.get(*id))
    }

    /// The VMs whose NICs have an address, or may have it put back by an unfinished task.
    pub fn vms_with_address(
        &self,
        network: NetworkId,
        address: Ipv4Addr,
    ) -> impl Iterator<Item = &Arc<Vm>> {
        self.indexes.addresses.holders(network, address).filter_map(|vm| self.vms.get(vm))
    }

    /// The first address of a range that no VM has and `keep_out` does not hold.
    pub(crate) fn free_address(
        &self,
        network: NetworkId,
        range: AddressRange,
        keep_out: impl Fn(Ipv4Addr) -> bool,
    ) -> Option<Ipv4Addr> {
        self.indexes.addresses.first_free(network, range, keep_out)
    }

    /// The highest number of a VM whose host name is `prefix` and a number.
    pub(crate) fn highest_hostname(&self, prefix: &str) -> Option<u64> {
        self.indexes.hostnames.highest(prefix)
    }

    /// The unfinished task that holds an object.
    pub fn task_on(&self, object: ObjectId) -> Option<TaskId> {
        self.indexes.task_on(object)
    }

    /// The unfinished tasks that move a VM to another host.
    pub(crate) fn migrating(&self) -> impl Iterator<Item = &Arc<Task>> {
        self.indexes.migrating().filter_map(|task| self.tasks.get(task))
    }

    /// The task that was submitted with this idempotency key, as [`crate::services`] hashes it.
    pub(crate) fn task_with_key(&self, key: &str) -> Option<TaskId> {
        self.indexes.task_with_key(key)
    }

    /// # Errors
    /// [`StoreError::Decode`] for a record that this version cannot read.
    pub fn load(snapshot: hostler_store::Snapshot) -> Result<Self, StoreError> {
        let mut loaded = Self { revision: snapshot.revision, ..Self::default() };
        // Each text goes when its object has been made: they are never all there twice.
        for record in snapshot.records {
            loaded.put(&record)?;
        }
        Ok(loaded)
    }

    fn apply(&mut self, change: &Change) -> Result<(), StoreError> {
        match &change.new {
            Some(record) => self.put(record)?,
            None => self.drop_object(change.kind, change.id),
        }
        self.revision = change.revision;
        Ok(())
    }

    fn put(&mut self, record: &Record) -> Result<(), StoreError> {
        match record.kind {
            KindName::Vm => {
                // A clone has just the room that it needs: what was parsed has room for four where
                // there is one, which is a fifth of all that a VM takes.
                let vm = Arc::new(record.object::<VmKind>()?.clone());
                let old = self.vms.insert(vm.clone());
                self.indexes.vm(old.as_deref(), Some(&vm));
            }
            KindName::Task => {
                let task = Arc::new(record.object::<TaskKind>()?);
                let old = self.tasks.insert(task.clone());
                self.indexes.task(old.as_deref(), Some(&task));
            }
            KindName::Host => self.put_host(record)?,
            KindName::Image => self.put_plain::<ImageKind>(record)?,
            KindName::Datastore => self.put_plain::<DatastoreKind>(record)?,
            KindName::Network => self.put_plain::<NetworkKind>(record)?,
            KindName::User => self.put_plain::<UserKind>(record)?,
            KindName::Token => self.put_plain::<TokenKind>(record)?,
            KindName::JoinToken => self.put_plain::<JoinTokenKind>(record)?,
            KindName::NamingRule => self.put_plain::<NamingRuleKind>(record)?,
            KindName::SnapshotPolicy => self.put_plain::<SnapshotPolicyKind>(record)?,
            KindName::Template => self.put_plain::<TemplateKind>(record)?,
            KindName::ApprovalRule => self.put_plain::<ApprovalRuleKind>(record)?,
            KindName::Cluster => self.put_plain::<ClusterKind>(record)?,
            KindName::Pool => self.put_plain::<PoolKind>(record)?,
            KindName::Rule => self.put_plain::<RuleKind>(record)?,
            KindName::Group => self.put_plain::<GroupKind>(record)?,
            KindName::Request => self.put_request(record)?,
            KindName::CustomizationSpec => self.put_plain::<CustomizationSpecKind>(record)?,
        }
        Ok(())
    }

    fn put_plain<K: Held>(&mut self, record: &Record) -> Result<(), StoreError> {
        K::of_mut(self).insert(Arc::new(record.object::<K>()?));
        Ok(())
    }

    fn put_host(&mut self, record: &Record) -> Result<(), StoreError> {
        let host = Arc::new(record.object::<HostKind>()?);
        let address = host.spec.address.clone();
        if self.hosts.insert(host).is_none_or(|old| old.spec.address != address) {
            self.host_addresses += 1;
        }
        Ok(())
    }

    fn put_request(&mut self, record: &Record) -> Result<(), StoreError> {
        let request = Arc::new(record.object::<RequestKind>()?);
        if request.status.state.is_open() {
            self.open_requests.insert(request.id());
        } else {
            self.open_requests.remove(&request.id());
        }
        self.requests.insert(request);
        Ok(())
    }

    fn drop_object(&mut self, kind: KindName, id: ObjectId) {
        match kind {
            KindName::Vm => {
                let old = self.vms.remove(id.typed());
                self.indexes.vm(old.as_deref(), None);
            }
            KindName::Task => {
                let old = self.tasks.remove(id.typed());
                self.indexes.task(old.as_deref(), None);
            }
            KindName::Host => {
                self.hosts.remove(id.typed());
                self.host_addresses += 1;
            }
            KindName::Image => drop(self.images.remove(id.typed())),
            KindName::Datastore => drop(self.datastores.remove(id.typed())),
            KindName::Network => drop(self.networks.remove(id.typed())),
            KindName::User => drop(self.users.remove(id.typed())),
            KindName::Token => drop(self.tokens.remove(id.typed())),
            KindName::JoinToken => drop(self.join_tokens.remove(id.typed())),
            KindName::NamingRule => drop(self.naming_rules.remove(id.typed())),
            KindName::SnapshotPolicy => drop(self.snapshot_policies.remove(id.typed())),
            KindName::Template => drop(self.templates.remove(id.typed())),
            KindName::ApprovalRule => drop(self.approval_rules.remove(id.typed())),
            KindName::Cluster => drop(self.clusters.remove(id.typed())),
            KindName::Pool => drop(self.pools.remove(id.typed())),
            KindName::Rule => drop(self.rules.remove(id.typed())),
            KindName::Group => drop(self.groups.remove(id.typed())),
            KindName::Request => {
                self.requests.remove(id.typed());
                self.open_requests.remove(&id.typed());
            }
            KindName::CustomizationSpec => drop(self.customization_specs.remove(id.typed())),
        }
    }
}

/// The newest snapshot, and a way to wait for a revision.
#[derive(Debug)]
pub struct Inventory {
    current: ArcSwap<Snapshot>,
    revision: watch::Sender<Revision>,
}

impl Inventory {
    /// Loads everything. The caller runs [`Inventory::follow`] from then on.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn load(store: &dyn Store) -> Result<Self, StoreError> {
        let snapshot = Snapshot::load(store.load_all().await?)?;
        let revision = watch::Sender::new(snapshot.revision);
        Ok(Self { current: ArcSwap::from_pointee(snapshot), revision })
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// A receiver that is told every new revision.
    pub fn revisions(&self) -> watch::Receiver<Revision> {
        self.revision.subscribe()
    }

    /// The first snapshot at or after `revision`.
    pub async fn at_least(&self, revision: Revision) -> Arc<Snapshot> {
        let mut revisions = self.revision.subscribe();
        // The sender lives in `self`, so the channel cannot be closed while this waits.
        let _ = revisions.wait_for(|current| *current >= revision).await;
        self.snapshot()
    }

    /// Applies every change of the store from the snapshot's revision on; ends when the store is
    /// closed.
    ///
    /// # Errors
    /// The log cannot be read, or holds what this version does not know.
    pub async fn follow(&self, store: Arc<dyn Store>) -> Result<(), StoreError> {
        let mut feed = Feed::new(store, self.snapshot().revision);
        loop {
            let change = match feed.next().await {
                Ok(change) => change,
                Err(StoreError::Closed) => return Ok(()),
                Err(error) => return Err(error),
            };
            let mut next = Snapshot::clone(&self.snapshot());
            next.apply(&change)?;
            let (mut ends, mut count) = (change.ends, 1);
            loop {
                let more = match ends {
                    // The rest of the commit comes for sure, and is waited for.
                    false => Some(feed.next().await),
                    true if count >= BURST => None,
                    // What is there already belongs to the same burst.
                    true => feed.next().now_or_never(),
                };
                match more {
                    Some(Ok(change)) => {
                        next.apply(&change)?;
                        (ends, count) = (change.ends, count + 1);
                    }
                    None => break,
                    // What was not read to a commit's end is not published.
                    Some(Err(StoreError::Closed)) if !ends => return Ok(()),
                    Some(Err(StoreError::Closed)) => break,
                    Some(Err(error)) => return Err(error),
                }
            }
            let revision = next.revision;
            self.current.store(Arc::new(next));
            self.revision.send_replace(revision);
        }
    }
}
