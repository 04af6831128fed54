//! Moving a VM's files to another datastore of its host: the three harness tests, and what is told before.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use hostler_control::services::Options;
use hostler_control::services::datastore::{self, DatastoreCreate};
use hostler_control::services::vm::{self as vms, Migration, VmMigrate};
use hostler_control::{Actor, Core, ServiceError, testing};
use hostler_sim::{Fault, Fleet, SimConnector};
use hostler_store::{Batch, Store, Write};
use hostler_tasks::harness::{
    Scenario, Stage, fails_at_each_step, repeats_each_step, survives_a_crash_at_each_commit,
};
use hostler_types::{
    DatastoreId, DatastoreLimits, DiskSource, HostId, KindName, Labels, MigrationPolicy, Object,
    PowerState, StorageKind, TaskState, Vm, VmKind,
};
use jiff::Timestamp;

use crate::migrate::{datastore as shared, host, plant, vm};

/// A VM in a state, on a host.
struct Case {
    power: PowerState,
    /// Of the trial at work.
    trial: Mutex<Option<(SimConnector, HostId)>>,
}

#[async_trait]
impl Scenario for Case {
    type World = Core;

    async fn set_up(&self, store: Arc<dyn Store>) -> Stage<Core> {
        let hosts = [host("one", 7444), host("two", 7445)];
        let ids = hosts.each_ref().map(Object::id);
        let [from, to] = [shared(ids), shared(ids)];
        let vm = vm(ids[0], &from, self.power);
        let batch = Batch::new("tester", "set up", Timestamp::now())
            .with_all(hosts.iter().map(Write::create))
            .with(Write::create(&from))
            .with(Write::create(&vm));
        store.commit(batch).await.unwrap();
        let connector = SimConnector::default();
        plant(&connector, ids, &vm);
        *self.trial.lock().unwrap() = Some((connector.clone(), ids[0]));
        let world = testing::core(store, Arc::new(connector)).await.unwrap();
        let vm = Vm::clone(world.snapshot().get(vm.id()).unwrap());
        let submit = testing::vm_migrate_storage(&vm, to.id());
        Stage { world, registry: testing::registry(), submit }
    }

    async fn restart(&self, _: Arc<Core>, store: Arc<dyn Store>) -> Arc<Core> {
        let (connector, _) = self.trial.lock().unwrap().clone().unwrap();
        testing::core(store, Arc::new(connector)).await.unwrap()
    }

    async fn describe(&self, _: &Core, store: &dyn Store) -> String {
        // Files that have gone are not brought back: only that the record says where they are.
        let (connector, host) = self.trial.lock().unwrap().clone().unwrap();
        let snapshot = store.load_all().await.unwrap();
        let record = snapshot.records.iter().find(|record| record.kind == KindName::Vm).unwrap();
        let vm = record.object::<VmKind>().unwrap();
        let there = connector.host(host).vm(vm.id()).unwrap();
        let agrees = there.definition.vm.status.datastore == vm.status.datastore;
        format!("{} {}, agrees {agrees}", vm.status.power, there.power)
    }
}

async fn check(power: PowerState) {
    let case = Case { power, trial: Mutex::default() };
    fails_at_each_step(&case).await;
    repeats_each_step(&case).await;
    survives_a_crash_at_each_commit(&case).await;
}

#[tokio::test]
async fn a_running_vms_files_are_where_the_record_says() {
    check(PowerState::Running).await;
}

#[tokio::test]
async fn a_stopped_vms_files_are_where_the_record_says() {
    check(PowerState::Stopped).await;
}

async fn another(fleet: &Fleet) -> DatastoreId {
    let request = DatastoreCreate {
        name: "fast".parse().unwrap(),
        labels: Labels::new(),
        hosts: vec!["sim".parse().unwrap()],
        kind: StorageKind::Local,
        limits: DatastoreLimits::default(),
        path: "/mnt/fast".to_owned(),
    };
    datastore::create(&fleet.world, &Actor::root(), request).await.unwrap().id()
}

async fn ask(fleet: &Fleet, request: VmMigrate, dry_run: bool) -> Result<Migration, ServiceError> {
    let options = Options { dry_run, ..Options::default() };
    let vm = "web01".parse().unwrap();
    vms::migrate(&fleet.world, &Actor::root(), &vm, &request, &options).await
}

fn to(datastore: &str) -> VmMigrate {
    VmMigrate { datastore: Some(datastore.parse().unwrap()), ..VmMigrate::default() }
}

#[tokio::test]
async fn the_plan_says_what_goes_where_and_the_record_follows() {
    let fleet = Fleet::new().await;
    let fast = another(&fleet).await;
    fleet.running_vm("web01").await;
    let before = fleet.show("web01");
    let DiskSource::Image(image) = before.spec.disks[0].source else { panic!("it has an image") };

    let plan = ask(&fleet, to("fast"), true).await.unwrap();
    assert!(plan.task.is_none());
    assert_eq!(plan.datastore.unwrap().as_str(), "fast");
    let told = plan.explanation.join("\n");
    for part in ["to `fast`, which has", "disk `disk0`: 1 file", "goes on running"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert_eq!(fleet.show("web01").status.datastore, before.status.datastore);

    let moved = ask(&fleet, to("fast"), false).await.unwrap();
    fleet.done(&moved.task.unwrap()).await;
    let vm = fleet.show("web01");
    assert_eq!((vm.status.datastore, vm.status.power), (fast, PowerState::Running));
    assert!(
        matches!(&vm.spec.disks[0].source, DiskSource::Copy(copy) if copy.file
        == hostler_types::LayerFile::image(image)),
        "it does not need its image any more"
    );
    let again = ask(&fleet, to("fast"), false).await.unwrap_err();
    assert!(again.message.contains("lies on datastore `fast` already"), "{again:?}");
}

#[tokio::test]
async fn what_is_in_the_way_is_told_before_anything_moves() {
    let fleet = Fleet::new().await;
    another(&fleet).await;
    fleet.join("two").await;
    fleet.running_vm("web01").await;
    let refused = ask(&fleet, to("nowhere"), true).await.unwrap_err();
    assert_eq!(refused.code, "not_found");
    let both = VmMigrate { host: Some("two".parse().unwrap()), ..to("fast") };
    let refused = ask(&fleet, both, true).await.unwrap_err();
    assert!(refused.message.contains("not both at once"), "{refused:?}");
    let policy = VmMigrate { policy: Some(MigrationPolicy::Refuse), ..to("fast") };
    assert_eq!(ask(&fleet, policy, true).await.unwrap_err().code, "invalid");
    let no_speed = VmMigrate { max_bandwidth: Some(0), ..to("fast") };
    assert_eq!(ask(&fleet, no_speed, true).await.unwrap_err().code, "invalid");
}

#[tokio::test]
async fn a_host_that_cannot_leaves_the_files_where_they_are() {
    let fleet = Fleet::new().await;
    another(&fleet).await;
    fleet.running_vm("web01").await;
    let before = fleet.show("web01");
    fleet.host.fault("vm_disks_move", Fault::refuse(507, "no_space", "the datastore is full"));
    let task = ask(&fleet, to("fast"), false).await.unwrap().task.unwrap();
    let ended = fleet.ended(&task).await;
    assert_eq!(ended.status.state, TaskState::Failed);
    assert_eq!(ended.status.error_code.as_deref(), Some("no_space"));
    let vm = fleet.show("web01");
    assert_eq!(vm.status.datastore, before.status.datastore);
    assert_eq!(vm.spec, before.spec);
}
