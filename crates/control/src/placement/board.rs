//! The cluster that decisions are made on, and how it follows the inventory.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use hostler_policy::balance::{Wanted, may_begin};
use hostler_policy::cluster::{Cluster, ClusterHost, ClusterSnapshot, ClusterVm, Demand};
use hostler_policy::placement::{
    BatchRefusal, Choosing, Obstacle, elsewhere, in_the_way, place_all, possible, told,
};
use hostler_policy::record::Record;
use hostler_types::{
    DatastoreId, DatastoreKind, GroupKind, HostFacts, HostId, HostKind, RuleKind, VmId, VmKind,
};

use super::view::Returning;
use super::{Decided, Refused, view};
use crate::inventory::{Snapshot, Step};
use crate::machine;
use crate::pools::demand::{Lately, deficit};

/// Positions that may be wasted before the cluster is built anew.
const SLACK: usize = 1_024;

#[derive(Debug)]
pub(crate) struct Board {
    /// The inventory that the cluster agrees with.
    snapshot: Arc<Snapshot>,
    cluster: Cluster,
    /// The disks of the inventory's VMs on each datastore, together.
    provisioned: HashMap<DatastoreId, u64>,
    /// VMs that have a place and are not in the inventory yet.
    claims: BTreeMap<VmId, Claim>,
    /// Of those, VMs that rules list and that come out of the recycle bin, by the name that they get:
    /// in the bin they are no members.
    returning: Returning,
    /// What the VMs of a host want and do not get: measured, not in the inventory. What each VM wants
    /// is kept in the cluster only.
    deficits: HashMap<HostId, Demand>,
    /// What all hosts that are known have for guests' machines.
    shared: BTreeSet<String>,
}

#[derive(Debug)]
struct Claim {
    vm: ClusterVm,
    datastore: DatastoreId,
    disks: u64,
}

impl Board {
    pub(super) fn build(snapshot: Arc<Snapshot>) -> Self {
        let provisioned = view::provisioned(&snapshot);
        let mut board = Self {
            cluster: Cluster::build(&ClusterSnapshot::default()).expect("nothing is in order"),
            snapshot,
            provisioned,
            claims: BTreeMap::new(),
            returning: Returning::new(),
            deficits: HashMap::new(),
            shared: BTreeSet::new(),
        };
        board.build_cluster();
        board
    }

    fn build_cluster(&mut self) {
        let frame = self.frame(machine::offers);
        self.shared = shared(&frame.hosts);
        let cluster = Cluster::build(&frame).unwrap_or_else(|error| {
            // The services keep all that could be wrong out; without rules decisions go on.
            tracing::error!(%error, "the rules cannot be kept: they are passed over");
            let plain = ClusterSnapshot { rules: Vec::new(), ..frame };
            Cluster::build(&plain).expect("hosts and datastores are there once each")
        });
        let before = std::mem::replace(&mut self.cluster, cluster);
        let snapshot = self.snapshot.clone();
        for vm in snapshot.all::<VmKind>().iter().filter_map(|vm| view::vm(&snapshot, vm)) {
            self.insert(&vm);
        }
        let claimed: Vec<_> = self.claims.values().map(|claim| claim.vm.clone()).collect();
        claimed.iter().for_each(|vm| self.insert(vm));
        self.cluster.inherit_measured(&before);
    }

    /// Hosts, datastores and rules; what is claimed on datastores counts there.
    fn frame(&self, offers: impl Fn(&HostFacts) -> Vec<String>) -> ClusterSnapshot {
        let provisioned = |id| Some(self.provisioned(id));
        let mut frame = view::frame(&self.snapshot, &self.returning, provisioned, offers);
        for host in &mut frame.hosts {
            host.deficit = self.deficit_of(host.id);
        }
        frame
    }

    fn deficit_of(&self, host: HostId) -> Demand {
        self.deficits.get(&host).copied().unwrap_or_default()
    }

    /// Takes over what the VMs of a host were measured to want.
    pub(super) fn measure(&mut self, host: HostId, vms: &[(VmId, Lately)]) {
        let deficit = deficit(vms);
        self.deficits.insert(host, deficit);
        if let Some(host) = self.cluster.host(host) {
            self.cluster.set_deficit(host, deficit);
        }
        for (vm, lately) in vms {
            // A claim that moves a VM has put it elsewhere by now, or it is new: the next time.
            let Some(vm) = self.cluster.vm(*vm) else { continue };
            let demand = (lately.demand, lately.demand_hour);
            self.cluster.measure(vm, demand, lately.contention);
        }
    }

    fn provisioned(&self, datastore: DatastoreId) -> u64 {
        let claims = self.claims.values().filter(|claim| claim.datastore == datastore);
        let stored = self.provisioned.get(&datastore).copied().unwrap_or(0);
        claims.fold(stored, |sum, claim| sum.saturating_add(claim.disks))
    }

    fn insert(&mut self, vm: &ClusterVm) {
        if let Err(error) = self.cluster.insert(vm) {
            tracing::error!(%error, "a VM is not counted where it is");
        }
    }

    fn remove(&mut self, vm: VmId) {
        if let Some(vm) = self.cluster.vm(vm) {
            self.cluster.remove(vm);
        }
    }

    fn refresh_store(&mut self, id: DatastoreId) -> bool {
        let snapshot = self.snapshot.clone();
        let Some(store) = snapshot.get::<DatastoreKind>(id) else { return false };
        self.cluster.refresh_store(&view::datastore(store, self.provisioned(id)))
    }

    /// Takes over what has changed since.
    pub(super) fn follow(&mut self, newest: &Arc<Snapshot>) {
        if newest.revision <= self.snapshot.revision {
            return;
        }
        let old = std::mem::replace(&mut self.snapshot, newest.clone());
        let mut known = !is_changed::<RuleKind>(&old, newest)
            && !is_changed::<GroupKind>(&old, newest)
            && view::settings(&old) == view::settings(newest);
        let ruled = !newest.all::<RuleKind>().is_empty();
        let mut stores = BTreeSet::new();
        for Step { old: before, new: after } in old.all::<VmKind>().steps_to(newest.all()) {
            for (vm, times) in [(before, -1), (after, 1)] {
                let Some(vm) = vm else { continue };
                let sum = self.provisioned.entry(vm.status.datastore).or_default();
                let disks = view::disks_of(vm);
                *sum =
                    if times > 0 { sum.saturating_add(disks) } else { sum.saturating_sub(disks) };
                stores.insert(vm.status.datastore);
            }
            let of = |snapshot, vm: Option<&Arc<_>>| vm.and_then(|vm| view::vm(snapshot, vm));
            let (before, after) = (of(&old, before), of(newest, after));
            let claimed = after.as_ref().is_some_and(|vm| self.claims.remove(&vm.id).is_some());
            known &= after.as_ref().is_none_or(|vm| self.returning.remove(&vm.id).is_none());
            if before == after && !claimed {
                continue;
            }
            // Rules list VMs, and their names were looked up when the cluster was built.
            let (was, is) = (before.as_ref().map(|vm| &vm.name), after.as_ref().map(|vm| &vm.name));
            let listed = |vm: &ClusterVm| self.is_listed(vm.id);
            known &= !ruled || was == is || !before.iter().chain(&after).any(listed);
            let id = before.as_ref().or(after.as_ref()).map(|vm| vm.id);
            let own = id.and_then(|id| self.cluster.vm(id));
            let measured = own.map(|vm| self.cluster.measured(vm));
            id.into_iter().for_each(|id| self.remove(id));
            let Some(vm) = &after else { continue };
            self.insert(vm);
            // What stands still wants nothing.
            let is_live = newest.get::<VmKind>(vm.id).is_some_and(|vm| vm.status.power.is_live());
            if let Some((measured, vm)) = measured.filter(|_| is_live).zip(self.cluster.vm(vm.id)) {
                self.cluster.set_measured(vm, measured);
            }
        }
        known = known && self.follow_hosts(&old, newest, &mut stores);
        known = known && stores.into_iter().all(|store| self.refresh_store(store));
        let most = 2 * newest.all::<VmKind>().len() + SLACK;
        if !known || self.cluster.positions() > most {
            self.build_cluster();
        }
    }

    /// Whether a rule or a group lists this VM.
    fn is_listed(&self, vm: VmId) -> bool {
        let own = hostler_types::Ref::by_id(vm);
        let lists = |selector: &hostler_types::Selector| match selector {
            hostler_types::Selector::Names(names) => names.contains(&own),
            hostler_types::Selector::Group(_) | hostler_types::Selector::Labels(_) => false,
        };
        self.snapshot.all::<RuleKind>().iter().any(|rule| lists(&rule.spec.vms))
            || self.snapshot.all::<GroupKind>().iter().any(|group| lists(&group.spec.members))
    }

    /// Hosts and datastores that have changed. Answers whether the cluster could take them over.
    fn follow_hosts(
        &mut self,
        old: &Snapshot,
        newest: &Snapshot,
        stores: &mut BTreeSet<DatastoreId>,
    ) -> bool {
        let mut hosts = BTreeSet::new();
        for step in old.all::<DatastoreKind>().steps_to(newest.all()) {
            let (Some(before), Some(after)) = (step.old, step.new) else { return false };
            stores.insert(after.id());
            hosts.extend(before.spec.all_hosts().chain(after.spec.all_hosts()));
        }
        for step in old.all::<HostKind>().steps_to(newest.all()) {
            let (Some(before), Some(after)) = (step.old, step.new) else { return false };
            if before.metadata.labels != after.metadata.labels || before.name() != after.name() {
                return false;
            }
            hosts.insert(after.id());
        }
        hosts.into_iter().all(|id: HostId| {
            let Some(host) = newest.get::<HostKind>(id) else { return false };
            let seen = old.get::<HostKind>(id).map(|host| view::host(old, host));
            let sees = view::host(newest, host);
            // Guests that run there need of others what it has itself.
            // What all hosts have may be something else as well.
            let before = seen.as_ref().map(|host| &host.cpu_features);
            if before != Some(&sees.cpu_features) {
                return false;
            }
            if seen.as_ref() == Some(&sees) {
                return true;
            }
            let sees = ClusterHost { deficit: self.deficit_of(id), ..sees };
            self.cluster.refresh_host(&sees)
        })
    }

    /// Decides about all of these VMs or none, and claims what they take.
    pub(super) fn place(&mut self, vms: Vec<ClusterVm>) -> Result<Decided, Refused> {
        let listed = vms.iter().filter(|vm| self.is_listed(vm.id));
        let listed: Vec<_> = listed.map(|vm| (vm.id, vm.name.clone())).collect();
        if listed.is_empty() {
            return self.choose(vms);
        }
        self.returning.extend(listed.iter().cloned());
        self.build_cluster();
        let decided = self.choose(vms);
        if decided.is_err() {
            self.returning.retain(|vm, _| !listed.iter().any(|(own, _)| own == vm));
            self.build_cluster();
        }
        decided
    }

    fn choose(&mut self, vms: Vec<ClusterVm>) -> Result<Decided, Refused> {
        let wanted = vms.first().and_then(|vm| vm.wanted);
        let refused = |refusal| Refused { refusal, wanted };
        let input = |error| refused(BatchRefusal::Input(error));
        let concerned = self.cluster.concerned(&vms).map_err(input)?;
        let part = self.part(&concerned, &vms);
        // Any number will do, if it is kept: VMs' ids have nothing to do with where hosts are listed.
        let seed = vms.first().map_or(0, |vm| vm.id.uuid().as_u64_pair().1);
        let choosing = Choosing::seeded(seed);
        let counts = self.possible(&vms).map_err(input)?;
        let mut placed = place_all(&mut self.cluster, &vms, choosing).map_err(refused)?;
        let order: HashMap<VmId, usize> = vms.iter().zip(0..).map(|(vm, at)| (vm.id, at)).collect();
        let record = Record::of_placed(part, vms.clone(), choosing, &placed);
        let record = record.expect("a decision has a JSON form");
        placed.sort_by_key(|placed| order.get(&placed.vm).copied());
        let of = vms.iter().zip(&placed).zip(counts);
        let sentences = of.map(|((vm, placed), count)| told(&self.cluster, vm, placed, count));
        let sentences = sentences.collect();
        for (vm, placed) in vms.iter().zip(&placed) {
            let disks = vm.disks.iter().map(|disk| disk.0).fold(0, u64::saturating_add);
            let Some(datastore) = placed.datastore.or(vm.datastore) else { continue };
            let vm = ClusterVm { host: Some(placed.host), ..vm.clone() };
            self.claims.insert(vm.id, Claim { vm, datastore, disks });
        }
        Ok(Decided { placed, sentences, snapshot: self.snapshot.clone(), record, vms })
    }

    /// How many hosts could take each of these VMs: found once for those that ask for the same.
    fn possible(
        &mut self,
        vms: &[ClusterVm],
    ) -> Result<Vec<usize>, hostler_policy::cluster::SnapshotError> {
        let mut counts: Vec<usize> = Vec::new();
        for (at, vm) in vms.iter().enumerate() {
            let same = at > 0 && is_alike(&vms[at - 1], vm);
            let count = match counts.last() {
                Some(last) if same => *last,
                _ => possible(&mut self.cluster, vm)?,
            };
            counts.push(count);
        }
        Ok(counts)
    }

    /// The part of the cluster that a decision depends on, as its record keeps it.
    fn part(
        &self,
        concerned: &hostler_policy::cluster::Concerned,
        placed: &[ClusterVm],
    ) -> ClusterSnapshot {
        let listed = concerned.vms.iter().filter_map(|id| match self.claims.get(id) {
            Some(claim) => Some(claim.vm.clone()),
            None => view::vm(&self.snapshot, self.snapshot.get::<VmKind>(*id)?),
        });
        // They stay where they are: what they need decides nothing.
        let listed = listed.map(|vm| ClusterVm { cpu_features: Vec::new(), ..vm }).collect();
        // A hundred names for each host would be the largest part of a record, and what all hosts have decides
        // nothing. One is left: a VM that names nothing needs the baseline.
        let mut baseline = view::settings(&self.snapshot).baseline;
        let first = baseline.first().cloned();
        baseline.retain(|need| Some(need) == first.as_ref() || !self.shared.contains(need));
        let of_vms = placed.iter().flat_map(|vm| &vm.cpu_features);
        let deciding: BTreeSet<String> = of_vms.chain(&baseline).cloned().collect();
        let mut frame = self.frame(|facts| machine::offers_among(facts, &deciding));
        frame.settings.baseline = baseline;
        frame.rules.retain(|rule| concerned.rules.contains(&rule.name));
        let named = |selector: &hostler_policy::rules::Selector| match selector {
            hostler_policy::rules::Selector::Group(name) => Some(name.clone()),
            _ => None,
        };
        let vms = frame.rules.iter().filter_map(|rule| named(rule.kind.vms()));
        let vms: BTreeSet<_> = vms.collect();
        let hosts = frame.rules.iter().filter_map(|rule| named(rule.kind.hosts()?));
        let hosts: BTreeSet<_> = hosts.collect();
        frame.vm_groups.retain(|group| vms.contains(&group.name));
        frame.host_groups.retain(|group| hosts.contains(&group.name));
        self.cluster.part(frame, listed, placed)
    }

    /// Gives back what a VM has claimed, if it is not in the inventory by now.
    pub(super) fn release(&mut self, vm: VmId) {
        let Some(claim) = self.claims.remove(&vm) else { return };
        self.remove(vm);
        self.refresh_store(claim.datastore);
        if self.returning.remove(&vm).is_some() {
            self.build_cluster();
        }
    }

    pub(crate) fn in_the_way(&mut self, vm: VmId, host: HostId) -> Vec<Obstacle> {
        match (self.cluster.vm(vm), self.cluster.host(host)) {
            (Some(vm), Some(host)) => in_the_way(&mut self.cluster, vm, host),
            _ => Vec::new(),
        }
    }

    /// What keeps VMs from going to a host together while others are on their way; `None` if one of
    /// them is not there.
    pub(crate) fn may_begin(
        &mut self,
        vms: &[VmId],
        host: HostId,
        moving: &[(VmId, HostId)],
    ) -> Option<Vec<Obstacle>> {
        let to = self.cluster.host(host)?;
        let vms = vms.iter().map(|vm| self.cluster.vm(*vm)).collect::<Option<Vec<_>>>()?;
        let moving = moving.iter().filter_map(|(vm, host)| {
            let (vm, host) = (self.cluster.vm(*vm)?, self.cluster.host(*host)?);
            Some(Wanted { vm, host })
        });
        let moving: Vec<_> = moving.collect();
        Some(may_begin(&mut self.cluster, &vms, to, &moving))
    }

    /// The best of these hosts for a VM of the inventory that is to leave where it is.
    pub(crate) fn elsewhere(&mut self, vm: VmId, among: &[HostId]) -> Option<HostId> {
        let vm = self.cluster.vm(vm)?;
        elsewhere(&mut self.cluster, vm, among)
    }

    /// The cluster and the inventory that it agrees with.
    pub(crate) fn cluster(&self) -> (&Cluster, &Arc<Snapshot>) {
        (&self.cluster, &self.snapshot)
    }
}

/// Whether two VMs ask for the same, whoever they are.
fn is_alike(one: &ClusterVm, other: &ClusterVm) -> bool {
    one.labels == other.labels
        && (one.cpus, one.memory, one.wanted) == (other.cpus, other.memory, other.wanted)
        && (one.datastore, &one.disks) == (other.datastore, &other.disks)
        && (&one.networks, &one.reach) == (&other.networks, &other.reach)
}

/// What all hosts have for guests' machines.
fn shared(hosts: &[ClusterHost]) -> BTreeSet<String> {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    let known = hosts.iter().filter(|host| !host.cpu_features.is_empty());
    let all = known.clone().flat_map(|host| &host.cpu_features);
    all.for_each(|one| *counts.entry(one).or_default() += 1);
    let known = known.count();
    let on_all = counts.into_iter().filter(|(_, count)| *count == known);
    on_all.map(|(one, _)| one.to_owned()).collect()
}

fn is_changed<K: crate::inventory::Held>(old: &Snapshot, new: &Snapshot) -> bool {
    !old.all::<K>().steps_to(new.all::<K>()).is_empty()
}
