//! What a placement must hold to, case by case.

use super::*;

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

fn host(name: &str, cpus: u32, memory: u64) -> HostCandidate {
    HostCandidate {
        id: HostId::generate(),
        name: name.to_owned(),
        connected: true,
        cpus,
        memory: ByteSize::gib(memory),
        promised_memory: ByteSize(0),
        promised_cpus: 0,
        bridges: Vec::new(),
        datastores: vec![store("local", 100, 50)],
    }
}

fn wish() -> Wish {
    Wish {
        cpus: 2,
        memory: ByteSize::gib(2),
        disks: vec![ByteSize::gib(10)],
        host: None,
        datastore: None,
        template: None,
        images: Vec::new(),
        bridges: Vec::new(),
    }
}

fn refused(hosts: Vec<HostCandidate>, wish: Wish, refusal: Refusal, expected: &str) {
    let placement = place(&PlacementInput { wish, hosts });
    assert_eq!(placement.decision, Err(refusal));
    assert_eq!(placement.explanation.to_string(), expected);
}

#[test]
fn the_host_with_the_most_unpromised_memory_wins() {
    let mut full = host("a", 8, 64);
    full.promised_memory = ByteSize::gib(60);
    let hosts = vec![full, host("b", 4, 16), host("c", 4, 8)];
    let expected = Decision { host: hosts[1].id, datastore: hosts[1].datastores[0].id };
    let placement = place(&PlacementInput { wish: wish(), hosts });
    assert_eq!(placement.decision, Ok(expected));
    assert_eq!(
        placement.explanation.to_string(),
        "host `b`: the most unpromised memory of 3 possible hosts; 14GiB of 16GiB memory stay \
         unpromised; datastore `local` has 50GiB of 100GiB free"
    );
}

#[test]
fn each_refusal_tells_the_numbers() {
    let one = || vec![host("a", 2, 4)];
    refused(vec![], wish(), Refusal::NoHost, "no host has joined yet");
    let mut away = one();
    away[0].connected = false;
    refused(away, wish(), Refusal::NoHost, "host `a` does not answer");
    let check = |wish: Wish, expected| refused(one(), wish, Refusal::NoRoom, expected);
    check(Wish { cpus: 3, ..wish() }, "host `a` has 2 CPUs, 3 are asked for");
    let memory = ByteSize::gib(5);
    check(Wish { memory, ..wish() }, "host `a` has 4GiB of memory, 5GiB are asked for");
    let bridges = vec!["br9".to_owned()];
    check(Wish { bridges, ..wish() }, "host `a` has no bridge `br9`");
    let disks = vec![ByteSize::gib(101)];
    check(
        Wish { disks, ..wish() },
        "host `a` has no room: its datastore `local` holds 100GiB, 101GiB more are asked for",
    );
    let images = vec![(ImageId::generate(), "debian".to_owned(), DatastoreId::generate())];
    check(Wish { images, ..wish() }, "host `a` has no datastore with the image `debian`");
    let datastore = Some(DatastoreId::generate());
    check(Wish { datastore, ..wish() }, "host `a` does not have that datastore");
}

#[test]
fn a_full_or_missing_datastore_takes_nothing() {
    let mut full = host("a", 2, 4);
    full.datastores[0].free = ByteSize::mib(1);
    refused(
        vec![full.clone()],
        wish(),
        Refusal::NoRoom,
        "host `a` has no room: its datastore `local` has 1MiB free, too little to begin with",
    );
    full.datastores[0].ready = false;
    refused(
        vec![full],
        wish(),
        Refusal::NoRoom,
        "host `a` has no room: its datastore `local` is missing (not mounted?)",
    );
}

#[test]
fn wishes_for_host_and_datastore_are_followed() {
    let mut hosts = vec![host("a", 4, 64), host("b", 4, 8)];
    hosts[1].datastores.push(store("small", 20, 20));
    let small = hosts[1].datastores[1].id;
    let wish = Wish { host: Some(hosts[1].id), datastore: Some(small), ..wish() };
    let expected = Decision { host: hosts[1].id, datastore: small };
    assert_eq!(place(&PlacementInput { wish, hosts }).decision, Ok(expected));
}

#[test]
fn the_same_input_gives_the_same_decision_in_any_order() {
    let mut hosts = vec![host("a", 4, 8), host("b", 4, 8), host("c", 4, 8)];
    let first = place(&PlacementInput { wish: wish(), hosts: hosts.clone() });
    hosts.reverse();
    let second = place(&PlacementInput { wish: wish(), hosts });
    assert_eq!(first.decision, second.decision);
}

#[test]
fn promised_memory_beyond_the_host_is_told() {
    let mut hosts = vec![host("a", 4, 8)];
    hosts[0].promised_memory = ByteSize::gib(7);
    let placement = place(&PlacementInput { wish: wish(), hosts });
    assert!(
        placement.explanation.0[0]
            .contains("9GiB of memory are promised to VMs, more than the 8GiB it has"),
        "{}",
        placement.explanation
    );
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
