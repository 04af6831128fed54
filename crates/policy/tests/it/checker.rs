//! Checks a snapshot by its words alone: names, labels and sizes, host by host. It knows nothing
//! of indices, classes or residuals, and is slow.
//!
//! A snapshot has faults, each with a name and an amount. A decision is sound if it makes no fault
//! that was not there, and no fault larger.

use std::collections::{BTreeMap, BTreeSet};

use hostler_policy::cluster::{ClusterHost, ClusterSnapshot, ClusterVm, HostCondition};
use hostler_policy::refuses;
use hostler_policy::rules::{Group, RuleKind, Scope, Selector, Strength};
use hostler_types::{DatastoreId, HostId, Labels, VmId};

pub(crate) type Faults = BTreeMap<String, i128>;

pub(crate) fn faults(snapshot: &ClusterSnapshot) -> Faults {
    let mut faults = Faults::new();
    for host in &snapshot.hosts {
        let on: Vec<_> = snapshot.vms.iter().filter(|vm| vm.host == Some(host.id)).collect();
        room_faults(snapshot, host, &on, &mut faults);
        for vm in on {
            vm_faults(snapshot, host, vm, &mut faults);
        }
    }
    for datastore in &snapshot.datastores {
        if let Some(percent) = datastore.limits.overcommit_percent {
            let allowed = i128::from(datastore.capacity.0) * i128::from(percent) / 100;
            let over = i128::from(datastore.provisioned.0) - allowed;
            add(&mut faults, format!("datastore {}", datastore.name), over);
        }
    }
    for rule in snapshot.rules.iter().filter(|rule| rule.strength == Strength::Must) {
        rule_faults(snapshot, &rule.name, &rule.kind, &mut faults);
    }
    faults
}

/// What of `after` was not in `before`, or was less.
pub(crate) fn worse(before: &Faults, after: &Faults) -> Vec<String> {
    let grown =
        after.iter().filter(|(name, amount)| before.get(*name).copied().unwrap_or(0) < **amount);
    grown.map(|(name, amount)| format!("{name}: {amount}")).collect()
}

fn add(faults: &mut Faults, name: String, amount: i128) {
    if amount > 0 {
        faults.insert(name, amount);
    }
}

fn room_faults(
    snapshot: &ClusterSnapshot,
    host: &ClusterHost,
    on: &[&ClusterVm],
    faults: &mut Faults,
) {
    let settings = &snapshot.settings;
    let memory: i128 = on.iter().map(|vm| i128::from(vm.memory.0)).sum();
    let memory = memory + i128::from(host.promised_memory.0);
    if let Some(percent) = settings.memory_overcommit_percent {
        let most = i128::from(host.memory.0) * i128::from(percent) / 100;
        add(faults, format!("memory of {}", host.name), memory - most);
    }
    let cpus: i128 = on.iter().map(|vm| i128::from(vm.cpus)).sum();
    if let Some(ratio) = settings.vcpus_per_cpu {
        let over =
            cpus + i128::from(host.promised_cpus) - i128::from(host.cpus) * i128::from(ratio);
        add(faults, format!("vcpus of {}", host.name), over);
    }
    let reserved: i128 = on.iter().map(|vm| i128::from(vm.memory_reservation.0)).sum();
    add(faults, format!("reserved memory of {}", host.name), reserved - i128::from(host.memory.0));
    let reserved: i128 = on.iter().map(|vm| i128::from(vm.cpu_reservation)).sum();
    let mhz = i128::from(host.cpus) * i128::from(host.mhz_per_cpu);
    add(faults, format!("reserved cpu of {}", host.name), reserved - mhz);
}

fn vm_faults(snapshot: &ClusterSnapshot, host: &ClusterHost, vm: &ClusterVm, faults: &mut Faults) {
    let mut broken = |what: &str| add(faults, format!("{} on {}: {what}", vm.name, host.name), 1);
    if host.condition != HostCondition::Available {
        broken("state");
    }
    let wider = snapshot.hosts.iter().any(|other| other.cpus > host.cpus);
    let most = host.cpus * if wider { 1 } else { 8 };
    if vm.cpus > most || vm.memory > host.memory {
        broken("larger than the host");
    }
    let needed =
        if vm.cpu_features.is_empty() { &snapshot.settings.baseline } else { &vm.cpu_features };
    if needed.iter().any(|feature| !host.cpu_features.contains(feature)) {
        broken("features");
    }
    if vm.networks.iter().any(|network| !host.networks.contains(network)) {
        broken("networks");
    }
    let reaches = |id: DatastoreId| host.datastores.iter().any(|own| own.id == id);
    if vm.reach.iter().any(|reach| !reaches(reach.datastore)) {
        broken("reach");
    }
    if let Some(id) = vm.datastore
        && !host.datastores.iter().any(|own| own.id == id && own.ready)
    {
        broken("datastore");
    }
}

fn members<'a>(snapshot: &'a ClusterSnapshot, selector: &Selector) -> Vec<&'a ClusterVm> {
    let vms = snapshot.vms.iter();
    vms.filter(|vm| selected(selector, &snapshot.vm_groups, &vm.name, &vm.labels)).collect()
}

fn selected(selector: &Selector, groups: &[Group], name: &str, labels: &Labels) -> bool {
    match selector {
        Selector::Names(names) => names.iter().any(|own| own == name),
        Selector::Labels(wanted) => {
            !wanted.is_empty() && wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
        }
        Selector::Group(group) => {
            let group = groups.iter().find(|own| own.name == *group).unwrap();
            selected(&group.members, &[], name, labels)
        }
    }
}

fn rule_faults(snapshot: &ClusterSnapshot, name: &str, kind: &RuleKind, faults: &mut Faults) {
    let host_of = |vm: &ClusterVm| snapshot.hosts.iter().find(|host| Some(host.id) == vm.host);
    let vms = members(snapshot, kind.vms());
    let placed: Vec<_> = vms.iter().filter_map(|vm| Some((vm, host_of(vm)?))).collect();
    if let Some(hosts) = kind.hosts() {
        let run_on = matches!(kind, RuleKind::RunOn { .. });
        for (vm, host) in placed {
            if selected(hosts, &snapshot.host_groups, &host.name, &host.labels) != run_on {
                add(faults, format!("rule {name}: {}", vm.name), 1);
            }
        }
        return;
    }
    let place = |host: &ClusterHost| match kind.scope() {
        Some(Scope::Label(label)) => host.labels.get(label).cloned(),
        _ => Some(host.name.clone()),
    };
    let mut counts: BTreeMap<String, i128> = BTreeMap::new();
    for (vm, host) in placed {
        match place(host) {
            Some(place) => *counts.entry(place).or_default() += 1,
            None => add(faults, format!("rule {name}: {} is nowhere", vm.name), 1),
        }
    }
    if matches!(kind, RuleKind::Affinity { .. }) {
        let places = i128::try_from(counts.len()).unwrap();
        add(faults, format!("rule {name}: places"), places - 1);
    } else {
        for (place, count) in counts {
            add(faults, format!("rule {name}: {place}"), count - 1);
        }
    }
}

/// With a new VM on a host and datastore; `None` if the datastore takes no such disks.
pub(crate) fn with_placed(
    snapshot: &ClusterSnapshot,
    vm: &ClusterVm,
    host: HostId,
    datastore: Option<DatastoreId>,
) -> Option<ClusterSnapshot> {
    let mut after = snapshot.clone();
    after.vms.retain(|other| other.id != vm.id);
    let mut placed = ClusterVm { host: Some(host), ..vm.clone() };
    let makes = !(vm.disks.is_empty() && vm.datastore.is_some());
    if makes {
        let id = datastore?;
        if vm.datastore.is_some_and(|own| own != id) {
            return None;
        }
        let on_host = after.hosts.iter().find(|own| own.id == host)?.datastores.iter();
        let ready = on_host.filter(|own| own.id == id).any(|own| own.ready);
        let store = after.datastores.iter_mut().find(|store| store.id == id)?;
        store.ready = ready;
        if refuses(store, &vm.disks).is_some() {
            return None;
        }
        store.provisioned.0 += vm.disks.iter().map(|disk| disk.0).sum::<u64>();
        store.ready = true;
        placed.datastore = Some(id);
    }
    after.vms.push(placed);
    Some(after)
}

/// All hosts and datastores on which a VM makes nothing worse.
pub(crate) fn possible(
    snapshot: &ClusterSnapshot,
    vm: &ClusterVm,
) -> Vec<(HostId, Option<DatastoreId>)> {
    let before = faults(snapshot);
    let mut found = Vec::new();
    for host in &snapshot.hosts {
        let stores = host.datastores.iter().map(|own| Some(own.id));
        for store in stores.chain([None]) {
            let after = with_placed(snapshot, vm, host.id, store);
            if after.is_some_and(|after| worse(&before, &faults(&after)).is_empty()) {
                found.push((host.id, store));
            }
        }
    }
    found
}

/// Whether all can be placed, by trying everything.
pub(crate) fn all_possible(snapshot: &ClusterSnapshot, vms: &[ClusterVm]) -> bool {
    let Some((first, rest)) = vms.split_first() else { return true };
    possible(snapshot, first).into_iter().any(|(host, store)| {
        let after = with_placed(snapshot, first, host, store);
        after.is_some_and(|after| all_possible(&after, rest))
    })
}

pub(crate) fn moved(snapshot: &mut ClusterSnapshot, vm: VmId, to: HostId) {
    let vm = snapshot.vms.iter_mut().find(|own| own.id == vm).unwrap();
    vm.host = Some(to);
}

/// The faults of room alone, with VMs that are being moved counted on both hosts.
pub(crate) fn faults_in_motion(snapshot: &ClusterSnapshot, moving: &[(VmId, HostId)]) -> Faults {
    let mut both = snapshot.clone();
    both.rules.clear();
    for (id, to) in moving {
        let vm = snapshot.vms.iter().find(|vm| vm.id == *id).unwrap();
        let name = format!("{} in motion", vm.name);
        both.vms.push(ClusterVm { host: Some(*to), name, ..vm.clone() });
    }
    faults(&both)
}

/// VMs whose hosts differ.
pub(crate) fn displaced(before: &ClusterSnapshot, after: &ClusterSnapshot) -> BTreeSet<VmId> {
    let host_of = |snapshot: &ClusterSnapshot, id: VmId| {
        snapshot.vms.iter().find(|vm| vm.id == id).and_then(|vm| vm.host)
    };
    let vms = before.vms.iter().map(|vm| vm.id);
    vms.filter(|id| host_of(before, *id) != host_of(after, *id)).collect()
}
