//! Moving VMs between simulated hosts: the three harness tests, and targets that are lost meanwhile.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use hostler_control::services::datastore::{self, DatastoreCreate};
use hostler_control::services::vm::VmMigrate;
use hostler_control::services::{Options, vm as vms};
use hostler_control::{Actor, Core, Settings, testing};
use hostler_sim::{Fault, Fleet, SimConnector, SimHost, SimStorage, SimVm};
use hostler_store::{Batch, Store, Write};
use hostler_tasks::harness::{
    Scenario, Stage, fails_at_each_step, repeats_each_step, survives_a_crash_at_each_commit,
};
use hostler_types::{
    ByteSize, Datastore, DatastoreKind, DatastoreLimits, DatastoreOnHost, DatastoreSpec,
    DatastoreState, DatastoreStatus, Epoch, Host, HostFacts, HostId, HostKind, HostSpec, HostState,
    HostStatus, Kind, KindName, Labels, Object, PowerState, Ref, StorageKind, Task, TaskState, Vm,
    VmId, VmKind, VmSpec, VmStatus,
};
use jiff::Timestamp;
use serde_json::json;

/// A VM on the first of two hosts, in a state.
struct Case {
    power: PowerState,
    /// Of the trial at work.
    trial: Mutex<Option<(SimConnector, [HostId; 2])>>,
}

pub(crate) fn object<K: Kind>(name: &str, spec: K::Spec, status: K::Status) -> Object<K> {
    Object::new(name.parse().unwrap(), Labels::new(), Timestamp::now(), spec, status)
}

fn facts() -> HostFacts {
    serde_json::from_value(json!({
        "hostname": "sim", "agent_version": "sim", "kernel": "sim", "cpu_model": "sim",
        "cpus": 8, "memory": "64GiB", "qemu_version": "10.0.2", "accelerator": "tcg",
        "cgroup_version": 2,
    }))
    .unwrap()
}

pub(crate) fn host(name: &str, port: u16) -> Host {
    object(
        name,
        HostSpec::new(format!("127.0.0.1:{port}")),
        HostStatus {
            state: HostState::Connected,
            since: Timestamp::now(),
            message: None,
            facts: Some(facts()),
            evacuated: Vec::new(),
        },
    )
}

pub(crate) fn datastore(hosts: [HostId; 2]) -> Datastore {
    let ready = |host| DatastoreOnHost { host, state: DatastoreState::Ready, message: None };
    let mut spec = DatastoreSpec::local(hosts[0], "/shared");
    spec.kind = hostler_types::StorageKind::Shared;
    spec.hosts = vec![hosts[1]];
    object(
        "shared",
        spec,
        DatastoreStatus {
            state: DatastoreState::Ready,
            message: None,
            capacity: ByteSize::gib(100),
            free: ByteSize::gib(50),
            hosts: hosts.map(ready).to_vec(),
            usage: None,
        },
    )
}

pub(crate) fn vm(host: HostId, datastore: &Datastore, power: PowerState) -> Vm {
    let spec: VmSpec = serde_json::from_value(json!({
        "cpus": 1, "memory": "1GiB",
        "disks": [{"name": "disk0", "size": "2GiB", "source": "blank"}],
    }))
    .unwrap();
    let status = VmStatus {
        power,
        power_since: Timestamp::now(),
        message: None,
        host,
        epoch: Epoch(1),
        datastore: datastore.id(),
        disks: Vec::new(),
        nics: Vec::new(),
        guest: None,
        customization: None,
        hardware: None,
        cpu: None,
        pending: Vec::new(),
        snapshots: hostler_types::SnapshotTree::default(),
        snapshot_warnings: Vec::new(),
        seal: None,
        placement: Vec::new(),
        moved_at: None,
        last_move: None,
    };
    object("web01", spec, status)
}

/// A VM on the first of two hosts, which have the same files.
pub(crate) fn plant(connector: &SimConnector, hosts: [HostId; 2], vm: &Vm) {
    let planted = SimVm {
        definition: hostler_agent_api::VmDefinition {
            vm: vm.clone(),
            images: Vec::new(),
            networks: Vec::new(),
            customization_hash: None,
        },
        epoch: Epoch(1),
        power: vm.status.power,
        since: vm.status.power_since,
        message: None,
        guest: None,
        storage: SimStorage::with_snapshots(vm.id(), &vm.spec, &[]),
        seal: None,
        cpu: None,
    };
    connector.host(hosts[0]).plant(planted.clone());
    connector.host(hosts[1]).plant(planted);
    connector.host(hosts[1]).lose(vm.id());
}

#[async_trait]
impl Scenario for Case {
    type World = Core;

    async fn set_up(&self, store: Arc<dyn Store>) -> Stage<Core> {
        let hosts = [host("one", 7444), host("two", 7445)];
        let ids = hosts.each_ref().map(Object::id);
        let datastore = datastore(ids);
        let vm = vm(ids[0], &datastore, self.power);
        let batch = Batch::new("tester", "set up", Timestamp::now())
            .with_all(hosts.iter().map(Write::create))
            .with(Write::create(&datastore))
            .with(Write::create(&vm));
        store.commit(batch).await.unwrap();
        let connector = SimConnector::default();
        plant(&connector, ids, &vm);
        *self.trial.lock().unwrap() = Some((connector.clone(), ids));
        let world = testing::core(store, Arc::new(connector)).await.unwrap();
        let vm = Vm::clone(world.snapshot().get(vm.id()).unwrap());
        Stage { world, registry: testing::registry(), submit: testing::vm_migrate(&vm, ids[1]) }
    }

    async fn restart(&self, _: Arc<Core>, store: Arc<dyn Store>) -> Arc<Core> {
        let (connector, _) = self.trial.lock().unwrap().clone().unwrap();
        testing::core(store, Arc::new(connector)).await.unwrap()
    }

    async fn describe(&self, _: &Core, store: &dyn Store) -> String {
        let (connector, ids) = self.trial.lock().unwrap().clone().unwrap();
        let snapshot = store.load_all().await.unwrap();
        let record = snapshot.records.iter().find(|record| record.kind == KindName::Vm).unwrap();
        let vm = record.object::<VmKind>().unwrap();
        if self.power == PowerState::Running {
            // A guest that was given away is not brought back: only that exactly one host has it, that
            // the record says which, and that nothing is left on the other.
            let owner = connector.host(vm.status.host);
            let agrees = owner.vm(vm.id()).is_some_and(|there| {
                there.power == vm.status.power && there.epoch == vm.status.epoch
            });
            let hosts = ids.map(|id| connector.host(id));
            let have = hosts.iter().filter(|host| host.vm(vm.id()).is_some()).count();
            let left = || hosts.iter().map(|h| h.awaited().len() + h.given().len()).sum();
            // The source forgets by itself: nobody waits for that.
            let (begun, mut left_there): (_, usize) = (Instant::now(), left());
            while left_there > 0 && begun.elapsed() < Duration::from_secs(2) {
                tokio::time::sleep(Duration::from_millis(5)).await;
                left_there = left();
            }
            let left = left_there;
            return format!("{} agrees {agrees}, on {have}, left {left}", vm.status.power);
        }
        let name = |id| if id == ids[0] { "one" } else { "two" };
        let mut text =
            format!("{} on {}, epoch {}\n", vm.status.power, name(vm.status.host), vm.status.epoch);
        for id in ids {
            let host = connector.host(id);
            let has: Vec<_> = host.vm(vm.id()).iter().map(|v| (v.power, v.epoch)).collect();
            let (awaited, given) = (host.awaited().len(), host.given().len());
            text += &format!("{}: {has:?}, awaits {awaited}, gave {given}\n", name(id));
        }
        text
    }
}

async fn check(power: PowerState) {
    let case = Case { power, trial: Mutex::default() };
    fails_at_each_step(&case).await;
    repeats_each_step(&case).await;
    survives_a_crash_at_each_commit(&case).await;
}

#[tokio::test]
async fn a_running_vm_is_moved_wholly_or_not_at_all() {
    check(PowerState::Running).await;
}

#[tokio::test]
async fn a_stopped_vm_is_moved_wholly_or_not_at_all() {
    check(PowerState::Stopped).await;
}

/// Two hosts with a datastore of both, and a VM on one of them. A host that is lost is waited for a second.
pub(crate) struct Two {
    pub(crate) fleet: Fleet,
    pub(crate) source: SimHost,
    pub(crate) target: SimHost,
    pub(crate) vm: VmId,
}

const NFS: &str = "/mnt/nfs";

impl Two {
    pub(crate) async fn with_vm(power: PowerState) -> Self {
        let migration_patience = Duration::from_secs(1);
        let settings = Settings { migration_patience, ..Settings::default() };
        let fleet = Fleet::with_settings(settings).await;
        let other = fleet.join("two").await;
        let request = DatastoreCreate {
            name: "nfs".parse().unwrap(),
            labels: Labels::new(),
            hosts: ["sim", "two"].map(|host| host.parse().unwrap()).to_vec(),
            kind: StorageKind::Shared,
            limits: DatastoreLimits::default(),
            path: NFS.to_owned(),
        };
        let nfs = datastore::create(&fleet.world, &Actor::root(), request).await.unwrap();
        other.mount(NFS, nfs.id());
        other.disconnect();
        other.reconnect();
        let there = |snapshot: &hostler_control::Snapshot| {
            let store = snapshot.get::<DatastoreKind>(nfs.id()).unwrap();
            store.status.is_ready_on(&store.spec, other.id())
        };
        fleet.until("the datastore is there", there).await;
        let request = json!({
            "name": "web01", "datastore": "nfs", "disks": [{"size": "1GiB"}], "nics": [],
        });
        let request = serde_json::from_value(request).unwrap();
        let made = vms::create(&fleet.world, &Actor::root(), request, &plain()).await.unwrap();
        fleet.done(&made.task.unwrap()).await;
        let vm = fleet.show("web01");
        if power == PowerState::Running {
            let start = vms::start(&fleet.world, &Actor::root(), &vm.reference(), &plain()).await;
            fleet.done(&start.unwrap()).await;
        }
        let hosts = [fleet.host.clone(), other];
        let [source, target] = match hosts[0].id() == vm.status.host {
            true => hosts,
            false => [hosts[1].clone(), hosts[0].clone()],
        };
        // The same files.
        let planted = source.vm(vm.id()).unwrap();
        target.plant(planted);
        target.lose(vm.id());
        Self { fleet, source, target, vm: vm.id() }
    }

    async fn migrate(&self) -> Arc<Task> {
        let request = VmMigrate { host: Some(Ref::by_id(self.target.id())), ..Default::default() };
        let vm = Ref::by_id(self.vm);
        let moved = vms::migrate(&self.fleet.world, &Actor::root(), &vm, &request, &plain()).await;
        moved.unwrap().task.unwrap()
    }

    async fn fails_soon(&self, task: &Task) {
        let begun = Instant::now();
        let ended = self.fleet.ended(task).await;
        assert_eq!(ended.status.state, TaskState::Failed);
        assert_eq!(ended.status.error_code.as_deref(), Some("host_unreachable"));
        let error = ended.status.error.clone().unwrap();
        assert!(error.contains("the VM stays where it is"), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        let vm = self.fleet.show("web01");
        assert_eq!(vm.status.host, self.source.id());
    }

    async fn comes_back(&self) {
        self.target.reconnect();
        let id = self.target.id();
        let connected = |snapshot: &hostler_control::Snapshot| {
            snapshot.get::<HostKind>(id).unwrap().status.state == HostState::Connected
        };
        self.fleet.until("the host is back", connected).await;
    }

    /// And it can move after all.
    async fn moves(&self, power: PowerState) {
        self.fleet.done(&*self.migrate().await).await;
        let vm = self.fleet.show("web01");
        assert_eq!((vm.status.host, vm.status.power), (self.target.id(), power));
        assert!(self.source.vm(self.vm).is_none());
    }
}

pub(crate) fn plain() -> Options {
    Options::default()
}

pub(crate) async fn soon(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(20), "it does not happen that {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_target_that_is_lost_fails_the_move_and_forgets_the_vm_when_it_is_back() {
    let two = Two::with_vm(PowerState::Running).await;
    two.target.fault("vm_migration_prepare", Fault::AnswerLost);
    let task = two.migrate().await;
    soon("it is prepared", || !two.target.awaited().is_empty()).await;
    two.target.disconnect();
    two.fails_soon(&task).await;
    assert_eq!(two.fleet.show("web01").status.power, PowerState::Running);
    assert_eq!(two.target.awaited(), [two.vm], "nobody could tell it");
    two.comes_back().await;
    soon("it has forgotten the VM", || two.target.awaited().is_empty()).await;
    two.moves(PowerState::Running).await;
}

#[tokio::test]
async fn a_target_that_is_lost_when_it_has_taken_in_what_is_off_gives_it_back() {
    let two = Two::with_vm(PowerState::Stopped).await;
    two.target.fault("vm_register", Fault::AnswerLost);
    let task = two.migrate().await;
    soon("it is taken in", || two.target.vm(two.vm).is_some()).await;
    two.target.disconnect();
    two.fails_soon(&task).await;
    two.comes_back().await;
    soon("it has forgotten the VM", || two.target.vm(two.vm).is_none()).await;
    assert_eq!(two.fleet.show("web01").status.power, PowerState::Stopped, "its host has it");
    two.moves(PowerState::Stopped).await;
}

#[tokio::test]
async fn a_source_that_is_lost_at_the_end_forgets_the_vm_when_it_is_back() {
    let two = Two::with_vm(PowerState::Running).await;
    two.source.fault("vm_migration_forget", Fault::Unheard);
    two.fleet.done(&*two.migrate().await).await;
    assert_eq!(two.source.given(), [two.vm]);
    two.source.disconnect();
    two.source.reconnect();
    soon("it has forgotten the VM", || two.source.given().is_empty()).await;
    assert_eq!(two.fleet.show("web01").status.host, two.target.id());
}

#[tokio::test]
async fn a_host_that_is_away_gets_no_vm() {
    let two = Two::with_vm(PowerState::Running).await;
    two.target.disconnect();
    let id = two.target.id();
    let away = |snapshot: &hostler_control::Snapshot| {
        snapshot.get::<HostKind>(id).unwrap().status.state == HostState::Disconnected
    };
    two.fleet.until("the host is away", away).await;
    for host in [Some(Ref::by_id(id)), None] {
        let request = VmMigrate { host, ..Default::default() };
        let (vm, root) = (Ref::by_id(two.vm), Actor::root());
        let refused = vms::migrate(&two.fleet.world, &root, &vm, &request, &plain()).await;
        let refused = refused.unwrap_err();
        assert!(refused.message.contains("not answer"), "{refused:?}");
    }
}
