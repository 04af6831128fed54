//! From the inventory to what `policy` decides on: hosts, datastores, VMs, rules and groups as plain
//! data. No secret is in it: neither customizations nor descriptions are taken over.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use hostler_policy::cluster::{
    ClusterHost, ClusterSettings, ClusterSnapshot, ClusterVm, HostCondition, HostDatastore, Reach,
    ReachOf,
};
use hostler_policy::{DatastoreCandidate, rules};
use hostler_types::{
    ByteSize, Cores, Datastore, DatastoreId, DatastoreKind, Group, GroupKind, GroupOf, Host,
    HostFacts, HostId, HostKind, HostState, ImageKind, Labels, Name, Network, NetworkSpec,
    PowerState, Ref, RuleKind, RuleRelation, RuleSpec, RuleStrength, Selector, Vm, VmId, VmKind,
    VmSpec,
};

use crate::inventory::Snapshot;
use crate::machine;
use crate::pools::demand::{Demands, Lately, deficit};

/// VMs that come out of the recycle bin, by the name that they get.
pub(super) type Returning = BTreeMap<VmId, String>;

/// What the cluster allows and prefers: the one place that decisions take it from. A store in which
/// no cluster has been made yet is decided about as a new cluster.
pub(crate) fn settings(snapshot: &Snapshot) -> ClusterSettings {
    let spec = snapshot.cluster().map(|cluster| cluster.spec.clone()).unwrap_or_default();
    ClusterSettings {
        strategy: spec.strategy,
        memory_overcommit_percent: spec.memory_overcommit_percent,
        vcpus_per_cpu: spec.vcpus_per_cpu,
        baseline: baseline(snapshot),
    }
}

/// What hosts must have for a VM that asks for no CPU model.
fn baseline(snapshot: &Snapshot) -> Vec<String> {
    let cluster = snapshot.cluster().ok();
    let baseline = cluster.and_then(|cluster| cluster.status.cpu_baseline.as_ref());
    let features = baseline.map(|baseline| baseline.features()).unwrap_or_default();
    features.into_iter().map(str::to_owned).collect()
}

/// Everything, as a file may hold it and questions may be asked about it.
pub(crate) fn whole(snapshot: &Snapshot) -> ClusterSnapshot {
    let provisioned = provisioned(snapshot);
    let vms = snapshot.all::<VmKind>().iter().filter_map(|own| vm(snapshot, own));
    let frame =
        frame(snapshot, &Returning::new(), |id| provisioned.get(&id).copied(), machine::offers);
    ClusterSnapshot { vms: vms.collect(), ..frame }
}

/// Everything, with what VMs were measured to want and to miss.
pub(crate) fn measured(snapshot: &Snapshot, demands: &Demands) -> ClusterSnapshot {
    let mut whole = whole(snapshot);
    let mut lately: HashMap<VmId, Lately> = HashMap::new();
    for host in &mut whole.hosts {
        let vms = demands.lately(snapshot, host.id);
        host.deficit = deficit(&vms);
        lately.extend(vms);
    }
    for vm in &mut whole.vms {
        let Some(lately) = lately.get(&vm.id) else { continue };
        vm.demand = lately.demand;
        vm.demand_hour = Some(lately.demand_hour);
        vm.contention = lately.contention;
    }
    whole
}

/// Everything but the VMs. `provisioned` are the disks on a datastore, together; `offers` what hosts have for
/// guests' machines.
pub(super) fn frame(
    snapshot: &Snapshot,
    returning: &Returning,
    provisioned: impl Fn(DatastoreId) -> Option<u64>,
    offers: impl Fn(&HostFacts) -> Vec<String>,
) -> ClusterSnapshot {
    let mut stores: HashMap<HostId, Vec<HostDatastore>> = HashMap::new();
    for store in snapshot.all::<DatastoreKind>().iter() {
        for host in store.spec.all_hosts() {
            stores.entry(host).or_default().push(on_host(store, host));
        }
    }
    let mut stores = |own: &Host| stores.remove(&own.id()).unwrap_or_default();
    let hosts = snapshot.all::<HostKind>().iter().map(|own| host_with(own, stores(own), &offers));
    let datastores = snapshot.all::<DatastoreKind>().iter();
    let datastores = datastores.map(|own| datastore(own, provisioned(own.id()).unwrap_or(0)));
    let groups = |of: GroupOf| {
        let all = snapshot.all::<GroupKind>().iter().filter(move |own| own.spec.of == of);
        all.map(|own| group(snapshot, own, returning)).collect()
    };
    let rules = snapshot.all::<RuleKind>().iter();
    ClusterSnapshot {
        settings: settings(snapshot),
        hosts: hosts.collect(),
        datastores: datastores.collect(),
        vms: Vec::new(),
        rules: rules.map(|own| rule(snapshot, own.name(), &own.spec, returning)).collect(),
        vm_groups: groups(GroupOf::Vms),
        host_groups: groups(GroupOf::Hosts),
    }
}

/// The disks on each datastore, together. VMs in the recycle bin count: their disks are still there.
pub(super) fn provisioned(snapshot: &Snapshot) -> HashMap<DatastoreId, u64> {
    let mut all = HashMap::new();
    for vm in snapshot.all::<VmKind>().iter() {
        let sum: &mut u64 = all.entry(vm.status.datastore).or_default();
        *sum = sum.saturating_add(disks_of(vm));
    }
    all
}

pub(super) fn disks_of(vm: &Vm) -> u64 {
    vm.spec.own_disks().map(|disk| disk.size.0).fold(0, u64::saturating_add)
}

pub(super) fn condition(host: &Host) -> HostCondition {
    let known = host.status.facts.is_some();
    match host.status.state {
        HostState::Connected if known && host.spec.maintenance => HostCondition::Maintenance,
        HostState::Connected if known => HostCondition::Available,
        HostState::Connected | HostState::Joined | HostState::Disconnected => {
            HostCondition::Disconnected
        }
    }
}

pub(super) fn host(snapshot: &Snapshot, host: &Host) -> ClusterHost {
    let stores = snapshot.all::<DatastoreKind>().iter();
    let stores = stores.filter(|own| own.spec.is_on(host.id()));
    let stores = stores.map(|own| on_host(own, host.id())).collect();
    host_with(host, stores, machine::offers)
}

fn on_host(store: &Datastore, host: HostId) -> HostDatastore {
    HostDatastore { id: store.id(), ready: store.status.is_ready_on(&store.spec, host) }
}

fn host_with(
    host: &Host,
    stores: Vec<HostDatastore>,
    offers: impl Fn(&HostFacts) -> Vec<String>,
) -> ClusterHost {
    let facts = host.status.facts.as_ref();
    let (cpus, memory) = facts.map_or((0, ByteSize(0)), |facts| (facts.cpus, facts.memory));
    ClusterHost {
        labels: host.metadata.labels.clone(),
        condition: condition(host),
        cpu_features: facts.map(offers).unwrap_or_default(),
        mhz_per_cpu: facts.map_or_else(HostFacts::default_mhz, |facts| facts.mhz_per_cpu),
        networks: facts.map(|facts| facts.bridges.clone()).unwrap_or_default(),
        datastores: stores,
        ..ClusterHost::new(host.id(), host.name().to_string(), cpus, memory)
    }
}

pub(super) fn datastore(datastore: &Datastore, provisioned: u64) -> DatastoreCandidate {
    let (spec, status) = (&datastore.spec, &datastore.status);
    DatastoreCandidate {
        id: datastore.id(),
        name: datastore.name().to_string(),
        ready: true,
        capacity: status.capacity,
        free: status.free,
        maintenance: spec.maintenance,
        provisioned: ByteSize(provisioned),
        limits: spec.limits,
    }
}

/// A VM that is there. `None` for what needs disk space only: a template, or in the recycle bin.
pub(super) fn vm(snapshot: &Snapshot, vm: &Vm) -> Option<ClusterVm> {
    if vm.is_recycled() || vm.is_template() {
        return None;
    }
    let asked = wish(snapshot, vm.id(), vm.name().as_str(), &vm.metadata.labels, &vm.spec);
    let datastore = Some(vm.status.datastore);
    let (host, pinned) = (Some(vm.status.host), pinned(snapshot, vm));
    let cpu_features = machine::needs(snapshot, vm);
    let here = ClusterVm { host, datastore, disks: Vec::new(), pinned, cpu_features, ..asked };
    Some(if vm.status.power.is_live() { here } else { at_rest(here) })
}

/// Why it cannot be moved now, whatever for.
fn pinned(snapshot: &Snapshot, vm: &Vm) -> Option<String> {
    match vm.status.power {
        PowerState::Stopped | PowerState::Failed => None,
        PowerState::Running => {
            let networks = vm.spec.nics.iter().filter_map(|nic| snapshot.get(nic.network));
            let private =
                networks.map(Arc::as_ref).find(|network: &&Network| match network.spec {
                    NetworkSpec::Nat { .. } => true,
                    NetworkSpec::Bridge { .. } => false,
                })?;
            let name = private.name();
            Some(format!(
                "network `{name}` is a private one of each host (nat), where its guest would lose its \
                 connections; stop it, or put it on a bridge network"
            ))
        }
        PowerState::Paused | PowerState::Suspended => {
            Some(format!("it is {}; resume it, or stop it", vm.status.power))
        }
        PowerState::Creating
        | PowerState::Starting
        | PowerState::Stopping
        | PowerState::Suspending
        | PowerState::Unknown => {
            Some(format!("it is {}; wait until that is over", vm.status.power))
        }
    }
}

/// One that does not run: what it reserves is set aside only while it does.
pub(crate) fn at_rest(vm: ClusterVm) -> ClusterVm {
    ClusterVm { cpu_reservation: 0, memory_reservation: ByteSize(0), ..vm }
}

/// A VM that is to be placed, wherever it may be, and to run.
pub(crate) fn wish(
    snapshot: &Snapshot,
    id: VmId,
    name: &str,
    labels: &Labels,
    spec: &VmSpec,
) -> ClusterVm {
    let disk_images = spec.disks.iter().filter_map(|disk| disk.source.image());
    let all = disk_images.chain(spec.cdroms.iter().filter_map(|cdrom| cdrom.image));
    let images = all.filter_map(|id| snapshot.get::<ImageKind>(id));
    let known = images.filter(|image| snapshot.get(image.spec.datastore).is_some());
    let reach = known.map(|image| Reach {
        datastore: image.spec.datastore,
        what: ReachOf::Image(image.name().to_string()),
    });
    let bridges = spec.nics.iter().filter_map(|nic| match &snapshot.get(nic.network)?.spec {
        NetworkSpec::Bridge { bridge, .. } => Some(bridge.clone()),
        NetworkSpec::Nat { .. } => None,
    });
    let sizes = spec.disks.iter().map(|disk| disk.size);
    // Even without disks it needs a datastore that takes some: its definition lies there.
    let none = spec.disks.is_empty().then_some(ByteSize(0));
    ClusterVm {
        labels: labels.clone(),
        disks: sizes.chain(none).collect(),
        reach: reach.collect(),
        networks: bridges.collect(),
        cpu_features: machine::asked(spec),
        automation: spec.automation,
        cpu_reservation: spec.resources.cpu_reservation.0,
        memory_reservation: spec.resources.memory_reservation,
        ..ClusterVm::new(id, name, Cores::count(spec.cpus), spec.memory)
    }
}

/// A rule as it would be.
pub(crate) fn rule_for_policy(snapshot: &Snapshot, name: &Name, spec: &RuleSpec) -> rules::Rule {
    rule(snapshot, name, spec, &Returning::new())
}

fn rule(snapshot: &Snapshot, name: &Name, spec: &RuleSpec, returning: &Returning) -> rules::Rule {
    let vms = vms(snapshot, &spec.vms, returning);
    let hosts = || {
        spec.hosts.as_ref().map_or(rules::Selector::Names(Vec::new()), |hosts| {
            selector::<HostKind>(snapshot, hosts, |_| true)
        })
    };
    let scope = match &spec.scope {
        None => rules::Scope::Host,
        Some(label) => rules::Scope::Label(label.clone()),
    };
    rules::Rule {
        name: name.to_string(),
        strength: match spec.strength {
            RuleStrength::Must => rules::Strength::Must,
            RuleStrength::Should => rules::Strength::Should,
        },
        kind: match spec.relation {
            RuleRelation::Affinity => rules::RuleKind::Affinity { vms, scope },
            RuleRelation::AntiAffinity => rules::RuleKind::AntiAffinity { vms, scope },
            RuleRelation::RunOn => rules::RuleKind::RunOn { vms, hosts: hosts() },
            RuleRelation::NotRunOn => rules::RuleKind::NotRunOn { vms, hosts: hosts() },
        },
    }
}

/// A group as it would be.
pub(crate) fn group_for_policy(snapshot: &Snapshot, own: &Group) -> rules::Group {
    group(snapshot, own, &Returning::new())
}

fn group(snapshot: &Snapshot, group: &Group, returning: &Returning) -> rules::Group {
    let members = match group.spec.of {
        GroupOf::Vms => vms(snapshot, &group.spec.members, returning),
        GroupOf::Hosts => selector::<HostKind>(snapshot, &group.spec.members, |_| true),
    };
    rules::Group { name: group.name().to_string(), members }
}

/// What is in the recycle bin has another name there, and is no member until it comes back.
fn vms(snapshot: &Snapshot, members: &Selector, returning: &Returning) -> rules::Selector {
    let is_there = |vm: &Vm| !vm.is_recycled() && !vm.is_template();
    let mut selected = selector::<VmKind>(snapshot, members, is_there);
    if let (rules::Selector::Names(selected), Selector::Names(listed)) = (&mut selected, members) {
        let back = returning.iter().filter(|(vm, _)| listed.contains(&Ref::by_id(**vm)));
        selected.extend(back.map(|(_, name)| name.clone()));
    }
    selected
}

fn selector<K: crate::inventory::Held>(
    snapshot: &Snapshot,
    members: &Selector,
    is_member: impl Fn(&hostler_types::Object<K>) -> bool,
) -> rules::Selector {
    match members {
        Selector::Labels(labels) => rules::Selector::Labels(labels.clone()),
        Selector::Group(group) => {
            let found = snapshot.find::<GroupKind>(group).ok();
            // One that is gone would be refused as unknown, with what it is called here.
            let name = found.map_or_else(|| group.to_string(), |group| group.name().to_string());
            rules::Selector::Group(name)
        }
        Selector::Names(names) => {
            let found = names.iter().filter_map(|name: &Ref| snapshot.find::<K>(name).ok());
            let found = found.filter(|object| is_member(object));
            rules::Selector::Names(found.map(|object| object.name().to_string()).collect())
        }
    }
}
