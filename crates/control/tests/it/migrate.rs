//! Moving VMs between simulated hosts: the three harness tests, and what the service refuses.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use hostler_control::{Core, testing};
use hostler_sim::{SimConnector, SimStorage, SimVm};
use hostler_store::{Batch, Store, Write};
use hostler_tasks::harness::{
    Scenario, Stage, fails_at_each_step, repeats_each_step, survives_a_crash_at_each_commit,
};
use hostler_types::{
    ByteSize, Datastore, DatastoreOnHost, DatastoreSpec, DatastoreState, DatastoreStatus, Epoch,
    Host, HostFacts, HostId, HostSpec, HostState, HostStatus, Kind, KindName, Labels, Object,
    PowerState, Vm, VmKind, VmSpec, VmStatus,
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
        pending: Vec::new(),
        snapshots: hostler_types::SnapshotTree::default(),
        snapshot_warnings: Vec::new(),
        seal: None,
        placement: Vec::new(),
        moved_at: None,
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
            let left: usize = hosts.iter().map(|h| h.awaited().len() + h.given().len()).sum();
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
