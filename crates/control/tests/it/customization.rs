//! Customization specs, address pools, and telling a guest anew.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use hostler_agent_api::code;
use hostler_control::services::customization_spec::{
    self, CustomizationSpecCreate, CustomizationSpecUpdate,
};
use hostler_control::services::vm::{VmCustomize, VmDelete};
use hostler_control::services::{Options, network, vm};
use hostler_control::{Actor, ServiceError};
use hostler_sim::{Fault, Fleet, vm_request};
use hostler_types::{
    AddressPool, Customization, CustomizationRules, Labels, NicAddressing, Ref, SecretText,
    StaticAddress, TaskState, Vm, VmCreate, VmKind, VmNic, VmUpdate,
};

fn root() -> Actor {
    Actor::root()
}

fn plain() -> Options {
    Options::default()
}

async fn with_pool(range: &str) -> Fleet {
    let fleet = Fleet::new().await;
    fleet.image("tiny").await;
    set_pool(&fleet, range).await.unwrap();
    fleet
}

async fn set_pool(fleet: &Fleet, range: &str) -> Result<(), ServiceError> {
    let pool = AddressPool {
        range: range.parse().unwrap(),
        prefix: None,
        gateway: None,
        dns: Vec::new(),
        search: Vec::new(),
    };
    let network = "default".parse().unwrap();
    network::set_pool(&fleet.world, &root(), &network, Some(pool), None).await.map(drop)
}

async fn spec(fleet: &Fleet, name: &str, rules: serde_json::Value) -> Result<(), ServiceError> {
    let spec: CustomizationRules = serde_json::from_value(rules).unwrap();
    let request =
        CustomizationSpecCreate { name: name.parse().unwrap(), labels: Labels::new(), spec };
    customization_spec::create(&fleet.world, &root(), request).await.map(drop)
}

fn by_spec(name: &str, spec: &str) -> VmCreate {
    VmCreate { customization_spec: Some(spec.parse().unwrap()), ..vm_request(name) }
}

fn at(name: &str, way: NicAddressing) -> VmCreate {
    let nic = VmNic {
        name: None,
        network: "default".parse().unwrap(),
        mac: None,
        address: Some(way),
        link: hostler_types::LinkState::Up,
    };
    VmCreate { nics: Some(vec![nic]), ..vm_request(name) }
}

fn fixed(address: &str) -> NicAddressing {
    let address = address.parse().unwrap();
    NicAddressing::Static(StaticAddress { address, prefix: None, gateway: None })
}

async fn create(fleet: &Fleet, request: VmCreate) -> Result<Vm, ServiceError> {
    let changed = vm::create(&fleet.world, &root(), request, &plain()).await?;
    fleet.done(changed.task.as_ref().unwrap()).await;
    Ok(Vm::clone(fleet.snapshot().get::<VmKind>(changed.object.id()).unwrap()))
}

fn address(vm: &Vm) -> Ipv4Addr {
    vm.spec.nics[0].address.as_ref().unwrap().address
}

#[tokio::test]
async fn a_vm_remembers_which_state_of_a_spec_made_it() {
    let fleet = with_pool("10.77.0.50-10.77.0.59").await;
    let rules = serde_json::json!({
        "computer_name": {"numbered": {"prefix": "web-", "digits": 2}},
        "networks": ["pool"],
        "guest": {"time_zone": "Europe/Berlin", "packages": ["nginx"]},
    });
    spec(&fleet, "web", rules).await.unwrap();
    let one = create(&fleet, by_spec("one", "web")).await.unwrap();
    let told = one.spec.customization.as_ref().unwrap();
    assert_eq!(told.hostname.as_ref().unwrap().as_str(), "web-01");
    assert_eq!((told.time_zone.as_deref(), told.run), (Some("Europe/Berlin"), 0));
    let nic = one.spec.nics[0].address.as_ref().unwrap();
    assert_eq!(nic.to_string(), "10.77.0.50/24");
    assert_eq!(nic.gateway, Some([10, 77, 0, 1].into()), "the host's");

    let update = CustomizationSpecUpdate {
        spec: Some(serde_json::from_value(serde_json::json!({"guest": {}})).unwrap()),
        labels: None,
    };
    let reference: Ref = "web".parse().unwrap();
    let changed =
        customization_spec::update(&fleet.world, &root(), &reference, update, None).await.unwrap();
    assert_eq!(changed.metadata.generation, 2);
    let mut request = by_spec("two", "web");
    request.customization =
        Some(Customization { hostname: Some("db".parse().unwrap()), ..Default::default() });
    let two = create(&fleet, request).await.unwrap();
    let generation = |vm: &Vm| {
        vm.spec.customization.as_ref().unwrap().origin.as_ref().map(|origin| origin.generation)
    };
    assert_eq!((generation(&one), generation(&two)), (Some(1), Some(2)));
    let told = two.spec.customization.unwrap();
    assert_eq!((told.hostname.unwrap().as_str(), told.time_zone), ("db", None));
    assert_eq!(two.spec.nics[0].address, None, "by DHCP");

    // A VM outlives its spec.
    customization_spec::delete(&fleet.world, &root(), &reference).await.unwrap();
    let error = create(&fleet, by_spec("three", "web")).await.unwrap_err();
    assert_eq!(error.code, "not_found");
}

/// More at once than there are addresses: each is given once, the rest is told that there is none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_address_and_no_number_is_given_twice_under_concurrent_creates() {
    let fleet = with_pool("10.77.0.50-10.77.0.79").await;
    let rules = serde_json::json!({
        "computer_name": {"numbered": {"prefix": "web-", "digits": 3}},
        "networks": ["pool"],
    });
    spec(&fleet, "web", rules).await.unwrap();
    let creations = (0..50).map(|number| {
        let world = fleet.world.clone();
        tokio::spawn(async move {
            let request = by_spec(&format!("vm{number}"), "web");
            vm::create(&world, &root(), request, &plain()).await
        })
    });
    let mut refused = 0;
    for creation in creations.collect::<Vec<_>>() {
        match creation.await.unwrap() {
            Ok(changed) => fleet.done(&changed.task.unwrap()).await,
            Err(error) => {
                assert_eq!(error.code, "pool_exhausted", "{error}");
                refused += 1;
            }
        }
    }
    let snapshot = fleet.snapshot();
    let vms: Vec<_> = snapshot.all::<VmKind>().iter().collect();
    let addresses: HashSet<_> = vms.iter().map(|vm| address(vm)).collect();
    let names: HashSet<_> =
        vms.iter().map(|vm| vm.spec.customization.clone().unwrap().hostname.unwrap()).collect();
    assert_eq!((vms.len(), addresses.len(), names.len(), refused), (30, 30, 30, 20));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_who_want_one_address_one_gets_it() {
    let fleet = with_pool("10.77.0.50-10.77.0.59").await;
    let creations = (0..10).map(|number| {
        let world = fleet.world.clone();
        tokio::spawn(async move {
            let request = at(&format!("vm{number}"), fixed("10.77.0.200"));
            vm::create(&world, &root(), request, &plain()).await
        })
    });
    let mut made = 0;
    for creation in creations.collect::<Vec<_>>() {
        match creation.await.unwrap() {
            Ok(changed) => {
                made += 1;
                fleet.done(&changed.task.unwrap()).await;
            }
            Err(error) => assert_eq!(error.code, "address_taken"),
        }
    }
    assert_eq!(made, 1);
}

#[tokio::test]
async fn a_taken_address_is_refused_with_its_holder() {
    let fleet = with_pool("10.77.0.50-10.77.0.51").await;
    let one = create(&fleet, at("one", NicAddressing::Pool)).await.unwrap();
    assert_eq!(address(&one), Ipv4Addr::new(10, 77, 0, 50));
    let error = create(&fleet, at("two", fixed("10.77.0.50"))).await.unwrap_err();
    assert_eq!(error.code, "address_taken");
    assert!(error.message.contains("vm `one`"), "{error}");
    for (bad, words) in [
        ("10.77.0.1", "host's own"),
        ("10.77.0.255", "no address for a host"),
        ("10.78.0.5", "not in 10.77.0.0/24"),
    ] {
        let error = create(&fleet, at("two", fixed(bad))).await.unwrap_err();
        assert!(error.message.contains(words) && error.code == "invalid", "{error}");
    }
    // An address of the pool that somebody has chosen is skipped.
    create(&fleet, at("two", fixed("10.77.0.51"))).await.unwrap();
    let error = create(&fleet, at("three", NicAddressing::Pool)).await.unwrap_err();
    assert_eq!(error.code, "pool_exhausted");
    assert!(error.message.contains("10.77.0.50-10.77.0.51"), "{error}");

    // The address is free again when its VM is gone for good.
    let now = VmDelete { now: true, ..VmDelete::default() };
    let task = vm::delete(&fleet.world, &root(), &one.reference(), now, &plain()).await.unwrap();
    fleet.done(&task).await;
    let three = create(&fleet, at("three", NicAddressing::Pool)).await.unwrap();
    assert_eq!(address(&three), address(&one));
}

/// A creation that comes to nothing, and a server that dies in the middle of one.
#[tokio::test]
async fn an_address_is_neither_lost_nor_given_twice_when_things_break() {
    let mut fleet = with_pool("10.77.0.50-10.77.0.51").await;
    let refused = Fault::refuse(507, code::NO_SPACE, "full");
    fleet.host.fault("vm_create", refused);
    let request = at("broken", NicAddressing::Pool);
    let changed = vm::create(&fleet.world, &root(), request, &plain()).await.unwrap();
    let ended = fleet.ended(&changed.task.unwrap()).await;
    assert_eq!(ended.status.state, TaskState::Failed);

    // Its server dies while it is being made.
    let request = at("waits", NicAddressing::Pool);
    let waits = vm::create(&fleet.world, &root(), request, &plain()).await.unwrap();
    assert_eq!(address(&waits.object), Ipv4Addr::new(10, 77, 0, 50), "given back by the failure");
    fleet = fleet.restart(true).await;
    let other = create(&fleet, at("other", NicAddressing::Pool)).await.unwrap();
    assert_eq!(address(&other), Ipv4Addr::new(10, 77, 0, 51));
    let error = create(&fleet, at("none", NicAddressing::Pool)).await.unwrap_err();
    assert_eq!(error.code, "pool_exhausted");
}

#[tokio::test]
async fn a_guest_is_told_anew_in_the_next_run() {
    let fleet = with_pool("10.77.0.50-10.77.0.59").await;
    spec(&fleet, "zone", serde_json::json!({"guest": {"time_zone": "UTC"}})).await.unwrap();
    let mut request = vm_request("web01");
    request.customization = Some(Customization {
        user_data: Some(SecretText::new("#!/bin/sh\ntrue\n")),
        ..Customization::default()
    });
    let one = create(&fleet, request).await.unwrap();
    let reference = one.reference();
    let anew = |request: VmCustomize| {
        let (world, reference) = (fleet.world.clone(), reference.clone());
        async move { vm::customize(&world, &root(), &reference, request, &plain()).await }
    };
    let told = || fleet.show("web01").spec.customization.clone().unwrap();

    fleet.done(&anew(VmCustomize::default()).await.unwrap()).await;
    assert_eq!(told().run, 1);
    assert!(told().user_data.is_some(), "what it was told before");
    let over = Customization { locale: Some("C.UTF-8".to_owned()), ..Customization::default() };
    let request = VmCustomize { customization: Some(over), ..VmCustomize::default() };
    fleet.done(&anew(request).await.unwrap()).await;
    assert_eq!((told().run, told().locale.as_deref()), (2, Some("C.UTF-8")));
    let spec = Some("zone".parse().unwrap());
    let addresses = vec![Some(NicAddressing::Pool)];
    let request = VmCustomize { spec, addresses, ..VmCustomize::default() };
    fleet.done(&anew(request).await.unwrap()).await;
    assert_eq!((told().run, told().time_zone.as_deref()), (3, Some("UTC")));
    assert_eq!(told().user_data, None, "the spec says all");
    assert_eq!(address(&fleet.show("web01")), Ipv4Addr::new(10, 77, 0, 50));
    let known = fleet.host.vm(one.id()).unwrap().definition;
    assert_eq!(known.vm.spec.customization.unwrap().run, 3);
    assert_eq!(known.customization_hash.unwrap().len(), 24);

    // While it runs it is told at its next start; its addresses wait for it to be off.
    let task = vm::start(&fleet.world, &root(), &reference, &plain()).await.unwrap();
    fleet.done(&task).await;
    let request =
        VmCustomize { addresses: vec![Some(NicAddressing::Dhcp)], ..VmCustomize::default() };
    assert_eq!(anew(request).await.unwrap_err().code, "wrong_state");
    let request = VmCustomize { reboot: true, ..VmCustomize::default() };
    fleet.done(&anew(request).await.unwrap()).await;
    assert_eq!(told().run, 4);
    assert_eq!((fleet.host.times_done("vm_stop"), fleet.host.times_done("vm_start")), (1, 2));
}

/// What an update that fails would put back is nobody else's meanwhile.
#[tokio::test]
async fn an_address_stays_taken_until_it_is_certain_that_it_is_free() {
    let fleet = with_pool("10.77.0.50-10.77.0.59").await;
    let one = create(&fleet, at("one", fixed("10.77.0.200"))).await.unwrap();
    fleet.host.fault("vm_define", Fault::refuse(409, code::WRONG_STATE, "no"));
    let nics = at("x", fixed("10.77.0.201")).nics;
    let update = VmUpdate { nics, ..VmUpdate::default() };
    let reference = one.reference();
    let changed =
        vm::update(&fleet.world, &root(), &reference, update, None, &plain()).await.unwrap();
    let (who, dry) = (root(), Options { dry_run: true, ..plain() });
    let meanwhile = vm::create(&fleet.world, &who, at("two", fixed("10.77.0.200")), &dry);
    let error = meanwhile.await.unwrap_err();
    assert_eq!(error.code, "address_taken");
    let ended = fleet.ended(&changed.task.unwrap()).await;
    assert_eq!(ended.status.state, TaskState::Failed);
    assert_eq!(address(&fleet.show("one")), Ipv4Addr::new(10, 77, 0, 200));
    create(&fleet, at("two", fixed("10.77.0.201"))).await.unwrap();
}

#[tokio::test]
async fn a_render_shows_everything_but_the_secrets() {
    let fleet = with_pool("10.77.0.50-10.77.0.59").await;
    let rules = serde_json::json!({
        "networks": ["pool"],
        "guest": {"users": [{"name": "ada", "password": "hunter2"}], "run_once": ["true"]},
    });
    spec(&fleet, "web", rules).await.unwrap();
    let reference = "web".parse().unwrap();
    let seed = customization_spec::render(&fleet.world, &root(), &reference, None).unwrap();
    let text = format!("{seed:?}");
    assert!(text.contains("192.0.2.10/24") && text.contains("run-once command 1"), "{text}");
    assert!(!text.contains("hunter2") && !text.contains(SecretText::SEALED), "{text}");
    let one = create(&fleet, by_spec("one", "web")).await.unwrap();
    let vm = one.reference();
    let seed = customization_spec::render(&fleet.world, &root(), &reference, Some(&vm)).unwrap();
    assert!(format!("{seed:?}").contains("10.77.0.50/24"));
    // Only looking reserves nothing.
    let two = create(&fleet, by_spec("two", "web")).await.unwrap();
    assert_eq!(address(&two), Ipv4Addr::new(10, 77, 0, 51));
}

/// Moves the VM's only NIC; what it is addressed by then.
async fn moved(
    fleet: &Fleet,
    vm: &Vm,
    network: &str,
    way: Option<NicAddressing>,
) -> Option<Ipv4Addr> {
    let nic = VmNic {
        name: None,
        network: network.parse().unwrap(),
        mac: None,
        address: way,
        link: hostler_types::LinkState::Up,
    };
    let update = VmUpdate { nics: Some(vec![nic]), ..VmUpdate::default() };
    let updated = vm::update(&fleet.world, &root(), &vm.reference(), update, None, &plain()).await;
    fleet.done(&updated.unwrap().task.unwrap()).await;
    let vm = fleet.show(vm.name().as_str());
    vm.spec.nics[0].address.as_ref().map(|address| address.address)
}

#[tokio::test]
async fn a_nic_that_moves_gets_its_address_there_as_it_did_here() {
    let fleet = with_pool("10.77.0.50-10.77.0.59").await;
    for (name, subnet, pool) in
        [("lab", "10.78.0.0/24", Some("10.78.0.20-10.78.0.29")), ("bare", "10.79.0.0/24", None)]
    {
        let spec = serde_json::json!({
            "mode": "nat", "subnet": subnet, "pool": pool.map(|range| serde_json::json!({"range": range})),
        });
        let spec = serde_json::from_value(spec).unwrap();
        let (name, labels) = (name.parse().unwrap(), Labels::new());
        let request = network::NetworkCreate { name, labels, spec };
        network::create(&fleet.world, &root(), request).await.unwrap();
    }
    let pooled = create(&fleet, at("pooled", NicAddressing::Pool)).await.unwrap();
    assert_eq!(address(&pooled).to_string(), "10.77.0.50");
    let there = moved(&fleet, &pooled, "lab", None).await;
    assert_eq!(there.unwrap().to_string(), "10.78.0.20", "from pool to pool");
    assert_eq!(moved(&fleet, &pooled, "default", Some(NicAddressing::Dhcp)).await, None);
    assert_eq!(moved(&fleet, &pooled, "lab", None).await, None, "from DHCP to DHCP");
    let asked = moved(&fleet, &pooled, "default", Some(NicAddressing::Pool)).await;
    assert_eq!(asked.unwrap().to_string(), "10.77.0.50", "the one it had was given back");
    assert_eq!(moved(&fleet, &pooled, "bare", None).await, None, "there is no pool");

    // Chosen by hand, outside of the pool: it says nothing of another network.
    let by_hand = create(&fleet, at("by-hand", fixed("10.77.0.9"))).await.unwrap();
    assert_eq!(moved(&fleet, &by_hand, "lab", None).await, None);
}
