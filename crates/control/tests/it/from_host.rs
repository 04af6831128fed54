//! VMs that a host has and the inventory lacks are shown, and taken back as they are.

use hostler_control::Actor;
use hostler_control::services::datastore::{self, DatastoreCreate};
use hostler_control::services::vm::{self, HostVm, VmRegisterFromHost};
use hostler_control::services::{Options, network};
use hostler_sim::{Fault, Fleet, SimHost, SimVm};
use hostler_types::{
    DatastoreLimits, Epoch, HostState, Labels, NetworkId, NicAddress, PowerState, Ref, StopMode,
    StorageKind, Vm, VmId, VmKind,
};

fn root() -> Actor {
    Actor::root()
}

/// A VM that runs at the host, and that the inventory has lost.
async fn lost(fleet: &Fleet, name: &str) -> (VmId, SimVm) {
    let known = fleet.vm("known").await;
    let mut lost = fleet.host.vm(known.id()).unwrap();
    let vm = &mut lost.definition.vm;
    (vm.metadata.id, vm.metadata.name) = (VmId::generate(), name.parse().unwrap());
    vm.metadata.labels.insert("tier".to_owned(), "web".to_owned());
    vm.spec.nics[0].mac = "52:54:00:aa:bb:cc".parse().unwrap();
    let id = vm.id();
    (lost.epoch, lost.power) = (Epoch(7), PowerState::Running);
    fleet.host.plant(lost.clone());
    (id, lost)
}

fn request(host: &SimHost, vm: VmId, name: Option<&str>) -> VmRegisterFromHost {
    let name = name.map(|name| name.parse().unwrap());
    VmRegisterFromHost { host: Ref::by_id(host.id()), vm, name }
}

async fn taken_back(fleet: &Fleet, vm: VmId, name: Option<&str>) -> Result<Vm, String> {
    let request = request(&fleet.host, vm, name);
    let taken = vm::register_from_host(&fleet.world, &root(), request, &Options::default()).await;
    let changed = taken.map_err(|error| format!("{}: {}", error.code, error.message))?;
    fleet.done(&changed.task.unwrap()).await;
    Ok(Vm::clone(fleet.snapshot().get(vm).unwrap()))
}

async fn found(fleet: &Fleet) -> Vec<HostVm> {
    vm::on_host(&fleet.world, &root(), &Ref::by_id(fleet.host.id())).await.unwrap()
}

#[tokio::test]
async fn a_vm_of_a_host_is_shown_and_taken_back_as_it_runs() {
    let fleet = Fleet::new().await;
    let (id, lost) = lost(&fleet, "web01").await;
    let list = found(&fleet).await;
    assert_eq!(list.len(), 1, "what is in the inventory is not told: {list:?}");
    assert_eq!((list[0].id, list[0].power, list[0].epoch), (id, PowerState::Running, Epoch(7)));
    assert_eq!(list[0].vm.as_ref().unwrap().name().as_str(), "web01");
    assert_eq!(list[0].problem, None);

    let vm = taken_back(&fleet, id, None).await.unwrap();
    assert_eq!((vm.name().as_str(), vm.status.epoch), ("web01", Epoch(8)));
    assert_eq!(vm.spec, lost.definition.vm.spec);
    assert_eq!(vm.metadata.labels.get("tier").map(String::as_str), Some("web"));
    assert_eq!(vm.status.power, PowerState::Running);
    let now = fleet.host.vm(id).unwrap();
    assert_eq!((now.power, now.since, now.epoch), (PowerState::Running, lost.since, Epoch(8)));
    for method in ["vm_start", "vm_stop", "vm_reset", "vm_register", "vm_remove"] {
        assert_eq!(fleet.host.times_done(method), 0, "{method}");
    }
    assert!(found(&fleet).await.is_empty());
    // From here on it is a VM like any other.
    let by_id = Ref::by_id(id);
    let off = vm::VmStop { mode: StopMode::PowerOff, timeout_seconds: None };
    let stop = vm::stop(&fleet.world, &root(), &by_id, off, &Options::default()).await;
    fleet.done(&stop.unwrap()).await;
    assert_eq!(fleet.show("web01").status.power, PowerState::Stopped);
    let again = taken_back(&fleet, id, None).await.unwrap_err();
    assert_eq!(again, "wrong_state: vm `web01` is in the inventory already");
}

#[tokio::test]
async fn a_name_that_is_taken_is_told_and_another_one_helps() {
    let fleet = Fleet::new().await;
    let (id, _) = lost(&fleet, "known").await;
    let problem = found(&fleet).await.remove(0).problem.unwrap();
    assert!(problem.contains("`known`") && problem.contains("--name"), "{problem}");
    assert!(taken_back(&fleet, id, None).await.unwrap_err().starts_with("name_taken"));
    assert!(fleet.snapshot().get::<VmKind>(id).is_none());
    let vm = taken_back(&fleet, id, Some("web07")).await.unwrap();
    assert_eq!(vm.name().as_str(), "web07");
    assert_eq!(fleet.host.vm(id).unwrap().definition.vm.name().as_str(), "web07");
}

#[tokio::test]
async fn what_a_vm_refers_to_has_to_be_there_and_to_be_its_own() {
    let fleet = Fleet::new().await;
    let (id, whole) = lost(&fleet, "web01").await;
    let known = fleet.show("known");
    let check = async |change: &dyn Fn(&mut Vm), expected: &str| {
        let mut changed = whole.clone();
        change(&mut changed.definition.vm);
        fleet.host.plant(changed);
        let error = taken_back(&fleet, id, None).await.unwrap_err();
        assert!(error.contains(expected), "{error}");
        let problem = found(&fleet).await.remove(0).problem;
        assert!(problem.is_some() || error.starts_with("address_taken"), "{error}");
        assert!(fleet.snapshot().get::<VmKind>(id).is_none());
    };
    check(&|vm| vm.spec.nics[0].network = NetworkId::generate(), "which is not there").await;
    check(&|vm| vm.status.datastore = hostler_types::Id::generate(), "its datastore").await;
    let mac = known.spec.nics[0].mac;
    check(&|vm| vm.spec.nics[0].mac = mac, "mac_taken").await;

    // The address of another VM of the same host.
    let network = Ref::by_id(known.spec.nics[0].network);
    assert!(network::show(&fleet.world, &root(), &network).is_ok());
    let address = NicAddress {
        address: "10.77.0.9".parse().unwrap(),
        prefix: 24,
        gateway: None,
        dns: Vec::new(),
        search: Vec::new(),
    };
    let mut holder = whole.clone();
    let vm = &mut holder.definition.vm;
    (vm.metadata.id, vm.metadata.name) = (VmId::generate(), "holder".parse().unwrap());
    vm.spec.nics[0].mac = "52:54:00:aa:bb:01".parse().unwrap();
    vm.spec.nics[0].address = Some(address.clone());
    let holder_id = vm.id();
    fleet.host.plant(holder);
    taken_back(&fleet, holder_id, None).await.unwrap();
    let expected =
        "address_taken: its address 10.77.0.9 of network `default` belongs to vm `holder`";
    check(&|vm| vm.spec.nics[0].address = Some(address.clone()), expected).await;
    // Nothing of it is left behind that would keep the address from others.
    fleet.host.plant(whole.clone());
    taken_back(&fleet, id, None).await.unwrap();
}

#[tokio::test]
async fn of_two_hosts_with_a_vm_the_one_with_the_newer_epoch_is_right() {
    let fleet = Fleet::new().await;
    let other = fleet.join("other").await;
    let shared = DatastoreCreate {
        name: "nfs".parse().unwrap(),
        labels: Labels::new(),
        hosts: vec!["sim".parse().unwrap(), "other".parse().unwrap()],
        kind: StorageKind::Shared,
        limits: DatastoreLimits::default(),
        path: "/mnt/nfs".to_owned(),
    };
    let nfs = datastore::create(&fleet.world, &root(), shared).await.unwrap();
    let (id, mut vm) = lost(&fleet, "web01").await;
    vm.definition.vm.status.datastore = nfs.id();
    fleet.host.plant(vm.clone());
    for epoch in [8, 7] {
        vm.epoch = Epoch(epoch);
        other.plant(vm.clone());
        let error = taken_back(&fleet, id, None).await.unwrap_err();
        assert!(error.starts_with("stale_epoch"), "{error}");
        assert!(error.contains(&format!("`other` has it under epoch {epoch}, running")), "{error}");
    }
    // A host that does not say may have it.
    other.disconnect();
    let away = |now: &hostler_control::Snapshot| {
        now.get(other.id()).is_some_and(|host: &std::sync::Arc<hostler_types::Host>| {
            host.status.state == HostState::Disconnected
        })
    };
    fleet.until("the other host is away", away).await;
    assert!(taken_back(&fleet, id, None).await.unwrap_err().starts_with("host_disconnected"));
    other.reconnect();
    other.lose(id);
    vm.epoch = Epoch(6);
    other.plant(vm);
    let taken = loop {
        match taken_back(&fleet, id, None).await {
            Err(error) if error.starts_with("host_disconnected") => tokio::task::yield_now().await,
            taken => break taken.unwrap(),
        }
    };
    assert_eq!((taken.status.epoch, taken.status.host), (Epoch(8), fleet.host.id()));
}

#[tokio::test]
async fn a_host_that_refuses_keeps_its_vm_and_the_inventory_has_no_trace_of_it() {
    let fleet = Fleet::new().await;
    let (id, _) = lost(&fleet, "web01").await;
    let problem = hostler_endpoint::Problem::new(409, "wrong_state", "its disks are copied");
    fleet.host.fault("vm_define", Fault::Refuse(problem));
    let request = request(&fleet.host, id, Some("web09"));
    let ordered = vm::register_from_host(&fleet.world, &root(), request, &Options::default()).await;
    let ended = fleet.ended(&ordered.unwrap().task.unwrap()).await;
    assert!(format!("{:?}", ended.status.error).contains("copied"), "{ended:?}");
    assert!(fleet.snapshot().get::<VmKind>(id).is_none());
    let now = fleet.host.vm(id).unwrap();
    assert_eq!((now.power, now.definition.vm.name().as_str()), (PowerState::Running, "web01"));
    assert_eq!(taken_back(&fleet, id, None).await.unwrap().status.epoch, Epoch(now.epoch.0 + 1));
}
