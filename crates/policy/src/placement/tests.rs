//! What a placement must hold to, case by case.

use hostler_types::{ByteSize, DatastoreId, DatastoreLimits, HostId, VmId};

use super::*;
use crate::cluster::{
    Cluster, ClusterHost, ClusterSettings, ClusterSnapshot, ClusterVm, HostCondition,
    HostDatastore, Strategy,
};

fn store(name: &str, capacity: u64, free: u64) -> DatastoreCandidate {
    let (capacity, free) = (ByteSize::gib(capacity), ByteSize::gib(free));
    DatastoreCandidate {
        id: DatastoreId::generate(),
        name: name.to_owned(),
        ready: true,
        capacity,
        free,
        maintenance: false,
        provisioned: ByteSize(0),
        limits: DatastoreLimits::default(),
    }
}

/// Hosts by name, CPUs and memory, each with a datastore `local` of its own; anything may be promised.
fn cluster(hosts: &[(&str, u32, u64)]) -> ClusterSnapshot {
    let mut snapshot = ClusterSnapshot {
        settings: ClusterSettings {
            strategy: Strategy::FreeMemory,
            memory_overcommit_percent: None,
            vcpus_per_cpu: None,
            baseline: Vec::new(),
        },
        ..ClusterSnapshot::default()
    };
    for (name, cpus, memory) in hosts {
        let local = store("local", 100, 50);
        let mut host = ClusterHost::new(HostId::generate(), *name, *cpus, ByteSize::gib(*memory));
        host.datastores = vec![HostDatastore { id: local.id, ready: true }];
        snapshot.datastores.push(local);
        snapshot.hosts.push(host);
    }
    snapshot
}

fn wish() -> ClusterVm {
    let disks = vec![ByteSize::gib(10)];
    ClusterVm { disks, ..ClusterVm::new(VmId::generate(), "new", 2, ByteSize::gib(2)) }
}

/// Where it goes, and why.
fn placed(
    snapshot: &ClusterSnapshot,
    vm: &ClusterVm,
) -> Result<(Placed, Vec<String>), BatchRefusal> {
    let mut cluster = Cluster::build(snapshot)?;
    let count = possible(&mut cluster, vm)?;
    let placed = place_all(&mut cluster, std::slice::from_ref(vm), Choosing::thorough())?[0];
    Ok((placed, told(&cluster, vm, &placed, count)))
}

fn refused(snapshot: &ClusterSnapshot, vm: &ClusterVm, expected: &str) {
    let refusal = placed(snapshot, vm).map(|(placed, _)| placed).unwrap_err();
    assert_eq!(refusal.to_string(), format!("no host can take vm `new`: {expected}"));
}

#[test]
fn the_host_with_the_most_unpromised_memory_wins() {
    let mut snapshot = cluster(&[("a", 8, 64), ("b", 4, 16), ("c", 4, 8)]);
    snapshot.hosts[0].promised_memory = ByteSize::gib(60);
    let (placed, told) = placed(&snapshot, &wish()).unwrap();
    let expected = (snapshot.hosts[1].id, Some(snapshot.datastores[1].id));
    assert_eq!((placed.host, placed.datastore), expected);
    assert_eq!(
        told,
        [
            "host `b`: the best of 3 possible hosts; 14GiB of 16GiB memory stay unpromised; datastore \
          `local` has 50GiB of 100GiB free"
        ]
    );
}

/// Where any memory may be promised, a host that is twice as large takes twice as much.
#[test]
fn hosts_of_all_sizes_are_filled_alike() {
    let mut snapshot = cluster(&[("small", 8, 16), ("large", 16, 32)]);
    snapshot.settings.strategy = Strategy::Spread;
    let mut index = Cluster::build(&snapshot).unwrap();
    let vms: Vec<_> = (0..9).map(|_| ClusterVm { id: VmId::generate(), ..wish() }).collect();
    for vm in &vms {
        place_all(&mut index, std::slice::from_ref(vm), Choosing::thorough()).unwrap();
    }
    let on_large = vms.iter().filter(|vm| {
        let at = index.vm(vm.id).unwrap();
        index.host_of(at) == Some(snapshot.hosts[1].id)
    });
    assert_eq!(on_large.count(), 6);
}

#[test]
fn each_refusal_tells_the_numbers() {
    let one = || cluster(&[("a", 2, 4)]);
    refused(&ClusterSnapshot::default(), &wish(), "no host has joined yet");
    let mut away = one();
    away.hosts[0].condition = HostCondition::Disconnected;
    refused(&away, &wish(), "host `a` does not answer");
    let check = |vm: ClusterVm, expected| refused(&one(), &vm, expected);
    let memory = ByteSize::gib(5);
    check(ClusterVm { memory, ..wish() }, "host `a` has 4GiB of memory, 5GiB are asked for");
    let networks = vec!["br9".to_owned()];
    check(ClusterVm { networks, ..wish() }, "host `a` has no bridge `br9`");
    let disks = vec![ByteSize::gib(101)];
    check(
        ClusterVm { disks, ..wish() },
        "host `a` has no room: its datastore `local` holds 100GiB, 101GiB more are asked for",
    );
}

#[test]
fn a_vm_of_more_cpus_than_a_host_has_goes_to_the_widest_one_only() {
    let wide = |cpus| ClusterVm { cpus, ..wish() };
    let two = cluster(&[("narrow", 2, 64), ("wide", 4, 4)]);
    let name = |vm| {
        let (placed, _) = placed(&two, &vm).unwrap();
        two.hosts.iter().find(|host| host.id == placed.host).unwrap().name.clone()
    };
    assert_eq!([2, 3, 32].map(|cpus| name(wide(cpus))), ["narrow", "wide", "wide"]);
    refused(
        &cluster(&[("alone", 4, 4)]),
        &wide(33),
        "host `alone` has 4 CPUs, enough for VMs of up to 32; 33 are asked for",
    );
    let way_out = Obstacle::TooFewCpus { has: 4, most: 32, asked: 33 }.way_out();
    assert_eq!(way_out, "give the VM 1 CPU less (32 at most)");
    let mut away = two.clone();
    away.hosts[1].condition = HostCondition::Disconnected;
    let expected = "no host can take vm `new`: size: host `narrow` has 2 CPUs, 3 are asked for (1 of \
                    2 hosts); state: host `wide` does not answer (1 of 2 hosts)";
    let refusal = placed(&away, &wide(3)).unwrap_err();
    assert_eq!(refusal.to_string(), expected);
    // What a host is may change.
    let mut cluster = Cluster::build(&away).unwrap();
    away.hosts[1].cpus = 2;
    assert!(cluster.refresh_host(&away.hosts[1]));
    assert!(place_all(&mut cluster, &[wide(3)], Choosing::thorough()).is_ok());
}

#[test]
fn a_full_or_missing_datastore_takes_nothing() {
    let mut snapshot = cluster(&[("a", 2, 4)]);
    snapshot.datastores[0].free = ByteSize::mib(1);
    let full =
        "host `a` has no room: its datastore `local` has 1MiB free, too little to begin with";
    refused(&snapshot, &wish(), full);
    snapshot.hosts[0].datastores[0].ready = false;
    let missing = "host `a` has no room: its datastore `local` is missing (not mounted?)";
    refused(&snapshot, &wish(), missing);
}

#[test]
fn wishes_for_host_and_datastore_are_followed() {
    let mut snapshot = cluster(&[("a", 8, 64), ("b", 4, 8)]);
    let small = store("small", 20, 20);
    snapshot.hosts[1].datastores.push(HostDatastore { id: small.id, ready: true });
    let (host, datastore) = (snapshot.hosts[1].id, Some(small.id));
    snapshot.datastores.push(small);
    let vm = ClusterVm { wanted: Some(host), datastore, ..wish() };
    let (placed, told) = placed(&snapshot, &vm).unwrap();
    assert_eq!((placed.host, placed.datastore), (host, datastore));
    assert!(told[0].starts_with("host `b`: as asked for; "), "{told:?}");
    // Nothing is said of hosts that are not asked for.
    let vm = ClusterVm { cpus: 8, ..vm };
    refused(&snapshot, &vm, "host `b` has 4 CPUs, 8 are asked for");
}

#[test]
fn the_same_input_gives_the_same_decision_in_any_order() {
    let mut snapshot = cluster(&[("a", 4, 8), ("b", 4, 8), ("c", 4, 8)]);
    let vm = wish();
    let first = placed(&snapshot, &vm).unwrap();
    snapshot.hosts.reverse();
    assert_eq!(placed(&snapshot, &vm).unwrap(), first);
}

#[test]
fn promised_memory_beyond_the_host_is_told() {
    let mut snapshot = cluster(&[("a", 4, 8)]);
    snapshot.hosts[0].promised_memory = ByteSize::gib(7);
    let (_, told) = placed(&snapshot, &wish()).unwrap();
    let expected = "9GiB of memory are promised to VMs, more than the 8GiB it has";
    assert!(told[0].contains(expected), "{told:?}");
}

#[test]
fn the_best_other_host_is_one_of_those_that_are_left() {
    let mut snapshot = cluster(&[("a", 4, 8), ("b", 4, 16), ("c", 4, 64)]);
    let shared = store("shared", 100, 50);
    for host in &mut snapshot.hosts {
        host.datastores.push(HostDatastore { id: shared.id, ready: true });
    }
    let (host, datastore) = (Some(snapshot.hosts[0].id), Some(shared.id));
    snapshot.datastores.push(shared);
    let vm = ClusterVm { host, datastore, disks: Vec::new(), ..wish() };
    snapshot.vms.push(vm.clone());
    let mut index = Cluster::build(&snapshot).unwrap();
    let own = index.vm(vm.id).unwrap();
    let all = [snapshot.hosts[1].id, snapshot.hosts[2].id];
    assert_eq!(elsewhere(&mut index, own, &all), Some(all[1]));
    assert_eq!(elsewhere(&mut index, own, &all[..1]), Some(all[0]));
    assert_eq!(elsewhere(&mut index, own, &[]), None);
    assert_eq!(index.host_of(own), host, "it stays where it is");
}

#[test]
fn a_datastore_takes_disks_within_its_limits() {
    let check =
        |change: fn(&mut DatastoreCandidate), refusal: Option<&str>, warning: Option<&str>| {
            let mut store = store("fast", 100, 50);
            change(&mut store);
            let disks = [ByteSize::gib(10)];
            assert_eq!(refuses(&store, &disks).as_deref(), refusal);
            if refusal.is_none() {
                assert_eq!(warns(&store, &disks).as_deref(), warning);
            }
        };
    check(|_| {}, None, None);
    check(|s| s.maintenance = true, Some("is in maintenance: it takes no new disks"), None);
    let full = "is 98 % full (2GiB free), and takes no new disks from 97 % on";
    check(|s| s.free = ByteSize::gib(2), Some(full), None);
    check(|s| s.free = ByteSize::gib(10), None, Some("is 90 % full: 10GiB are free"));
    let beyond = "has 110GiB of disks on 100GiB: they cannot all be filled";
    check(|s| s.provisioned = ByteSize::gib(100), None, Some(beyond));
    let within = |s: &mut DatastoreCandidate| {
        (s.provisioned, s.limits.overcommit_percent) = (ByteSize::gib(190), Some(200));
    };
    check(within, None, None);
    let promised = "would have 201GiB of disks on 100GiB: more than the 200 % that may be promised";
    let over = |s: &mut DatastoreCandidate| {
        (s.provisioned, s.limits.overcommit_percent) = (ByteSize::gib(191), Some(200));
    };
    check(over, Some(promised), None);
}
