//! Datastores: their limits, and several hosts that share one.

use expect_test::expect;
use hostler_control::services::datastore::{
    self, DatastoreCreate, DatastoreFilter, DatastoreUpdate,
};
use hostler_control::services::{Options, PageRequest, image, vm};
use hostler_control::{Actor, ServiceError};
use hostler_sim::{Fleet, vm_request};
use hostler_types::{
    ByteSize, Datastore, DatastoreKind, DatastoreLimits, DatastoreState, Labels, Ref, StorageKind,
    VmCreate,
};

const PATH: &str = "/mnt/nfs/hostler";

fn root() -> Actor {
    Actor::root()
}

fn plain() -> Options {
    Options::default()
}

fn local() -> Ref {
    "local".parse().unwrap()
}

async fn set(
    fleet: &Fleet,
    update: DatastoreUpdate,
) -> Result<std::sync::Arc<Datastore>, ServiceError> {
    datastore::update(&fleet.world, &root(), &local(), update, None).await
}

fn limits(limits: DatastoreLimits) -> DatastoreUpdate {
    DatastoreUpdate { limits: Some(limits), ..DatastoreUpdate::default() }
}

fn shared(hosts: &[&str]) -> DatastoreCreate {
    DatastoreCreate {
        name: "nfs".parse().unwrap(),
        labels: Labels::new(),
        hosts: hosts.iter().map(|host| host.parse().unwrap()).collect(),
        kind: StorageKind::Shared,
        limits: DatastoreLimits::default(),
        path: PATH.to_owned(),
    }
}

fn on(vm: &str, host: &str, datastore: &str) -> VmCreate {
    let request = serde_json::json!({
        "name": vm, "disks": [{"size": "1GiB"}], "host": host, "datastore": datastore, "nics": [],
    });
    serde_json::from_value(request).unwrap()
}

#[tokio::test]
async fn new_disks_are_kept_away_by_maintenance_fullness_and_overcommitment() {
    let fleet = Fleet::new().await;
    fleet.vm("web01").await;
    let world = &fleet.world;
    let create = |name: &'static str| async move {
        vm::create(world, &root(), vm_request(name), &plain()).await
    };
    let mut text = String::new();
    let mut refused = |error: ServiceError| {
        assert_eq!(error.code, "no_capacity");
        text += &format!("{}\n", error.message);
    };
    let on = DatastoreUpdate { maintenance: Some(true), ..DatastoreUpdate::default() };
    set(&fleet, on).await.unwrap();
    refused(create("web02").await.unwrap_err());
    let request = serde_json::json!({
        "name": "other", "source": {"url": "https://images.test/other"}, "datastore": "local",
    });
    let request = serde_json::from_value(request).unwrap();
    refused(image::create(world, &root(), request, &plain()).await.unwrap_err());
    let request = serde_json::json!({
        "name": "other", "source": {"url": "https://images.test/other"},
    });
    let request = serde_json::from_value(request).unwrap();
    let error = image::create(world, &root(), request, &plain()).await.unwrap_err();
    assert!(error.message.ends_with("in maintenance: it takes no new disks"), "{}", error.message);
    // What is there goes on.
    let start = vm::start(world, &root(), &fleet.show("web01").reference(), &plain()).await;
    fleet.done(&start.unwrap()).await;
    let off = DatastoreUpdate { maintenance: Some(false), ..DatastoreUpdate::default() };
    set(&fleet, off).await.unwrap();

    let one = DatastoreLimits { overcommit_percent: Some(10), ..DatastoreLimits::default() };
    set(&fleet, limits(one)).await.unwrap();
    let mut big = vm_request("big");
    big.disk_size = Some(ByteSize::gib(60));
    refused(vm::create(world, &root(), big, &plain()).await.unwrap_err());
    set(&fleet, limits(DatastoreLimits::default())).await.unwrap();

    let id = fleet.snapshot().find::<DatastoreKind>(&local()).unwrap().id();
    fleet.host.set_free(id, ByteSize::gib(50));
    let told = move |free| {
        move |now: &hostler_control::Snapshot| {
            now.get::<DatastoreKind>(id).unwrap().status.free == ByteSize::gib(free)
        }
    };
    fleet.until("it is told", told(50)).await;
    let warned = create("warned").await.unwrap();
    assert!(warned.explanation[1].starts_with("warning: datastore `local` is 90 % full"));
    fleet.done(&warned.task.unwrap()).await;
    fleet.host.set_free(id, ByteSize::gib(5));
    fleet.until("it is told", told(5)).await;
    refused(create("web02").await.unwrap_err());
    expect![[r#"
        no host can take vm `web02`: host `sim` has no room: its datastore `local` is in maintenance: it takes no new disks
        datastore `local` is in maintenance: it takes no new disks
        no host can take vm `big`: host `sim` has no room: its datastore `local` would have 62GiB of disks on 500GiB: more than the 10 % that may be promised
        no host can take vm `web02`: host `sim` has no room: its datastore `local` is 99 % full (5GiB free), and takes no new disks from 97 % on
    "#]]
    .assert_eq(&text);
    let page =
        datastore::list(world, &root(), &DatastoreFilter::default(), &PageRequest::default());
    let usage = page.unwrap().items[0].status.usage.clone().unwrap();
    assert_eq!(usage.warnings.len(), 2, "it refuses, and it warns: {:?}", usage.warnings);
    assert_eq!((usage.vms, usage.images, usage.provisioned), (2, 1, ByteSize::gib(4)));
}

#[tokio::test]
async fn a_shared_datastore_is_marked_once_and_missed_where_it_is_not_mounted() {
    let fleet = Fleet::new().await;
    let other = fleet.join("other").await;
    let world = &fleet.world;
    let made = datastore::create(world, &root(), shared(&["sim", "other"])).await.unwrap();
    assert_eq!(fleet.host.marked().len(), 2, "its own and the shared one");
    assert_eq!(other.marked(), [] as [&str; 0], "an empty mount point is left alone");
    assert_eq!(made.status.state, DatastoreState::Ready);
    let message = made.status.message.as_deref();
    assert_eq!(message, Some("missing on 1 of 2 hosts: it has no datastore marker"));

    let there = vm::create(world, &root(), on("a", "sim", "nfs"), &plain()).await.unwrap();
    fleet.done(&there.task.unwrap()).await;
    let error = vm::create(world, &root(), on("b", "other", "nfs"), &plain()).await.unwrap_err();
    assert!(error.message.contains("not mounted"), "{}", error.message);

    // It is mounted, and the host looks when it connects again.
    other.mount(PATH, made.id());
    other.disconnect();
    other.reconnect();
    let both = |now: &hostler_control::Snapshot| {
        let found = now.get::<DatastoreKind>(made.id()).unwrap();
        found.spec.all_hosts().all(|host| found.status.is_ready_on(&found.spec, host))
    };
    fleet.until("both have it", both).await;
    let there = vm::create(world, &root(), on("b", "other", "nfs"), &plain()).await.unwrap();
    fleet.done(&there.task.unwrap()).await;

    let nfs = "nfs".parse().unwrap();
    let alone = DatastoreUpdate { hosts: Some(Vec::new()), ..DatastoreUpdate::default() };
    let error = datastore::update(world, &root(), &nfs, alone.clone(), None).await.unwrap_err();
    assert_eq!(error.message, "host `other` has 1 VM on datastore `nfs`");
    let now = vm::VmDelete { now: true, ..vm::VmDelete::default() };
    for vm in ["a", "b"] {
        let task = vm::delete(world, &root(), &vm.parse().unwrap(), now, &plain()).await.unwrap();
        fleet.done(&task).await;
    }
    datastore::update(world, &root(), &nfs, alone, None).await.unwrap();
    assert_eq!(other.marked(), [PATH], "the host that leaves takes no marker away");
    datastore::delete(world, &root(), &nfs).await.unwrap();
    assert_eq!(fleet.host.marked().len(), 1);
    datastore::create(world, &root(), shared(&["sim"])).await.unwrap();
}

#[tokio::test]
async fn limits_that_make_no_sense_are_refused() {
    let fleet = Fleet::new().await;
    let usual = DatastoreLimits::default();
    let mut text = String::new();
    for wrong in [
        DatastoreLimits { warn_percent: 0, ..usual },
        DatastoreLimits { refuse_percent: 101, ..usual },
        DatastoreLimits { warn_percent: 90, refuse_percent: 80, ..usual },
        DatastoreLimits { overcommit_percent: Some(1), ..usual },
    ] {
        let error = set(&fleet, limits(wrong)).await.unwrap_err();
        text += &format!("{}: {}\n", error.code, error.message);
    }
    let hosts = DatastoreUpdate { hosts: Some(vec!["sim".parse().unwrap()]), ..limits(usual) };
    text += &format!("{}\n", set(&fleet, hosts).await.unwrap_err().message);
    let mut two = shared(&["sim"]);
    two.kind = StorageKind::Local;
    two.hosts.push("none".parse().unwrap());
    let error = datastore::create(&fleet.world, &root(), two).await.unwrap_err();
    text += &format!("{}\n", error.message);
    expect![[r#"
        invalid: warn_percent: 1 to 100 are possible
        invalid: refuse_percent: from the warning, 85, to 100 are possible
        invalid: refuse_percent: from the warning, 90, to 100 are possible
        invalid: overcommit_percent: 10 to 100000 are possible
        datastore `local` is local: it stays on its host
        there is no host `none`
    "#]]
    .assert_eq(&text);
}

/// An overlay lies beside what is beneath it.
#[tokio::test]
async fn a_disk_of_an_image_goes_where_the_image_is() {
    let fleet = Fleet::new().await;
    fleet.image("tiny").await;
    let other = DatastoreCreate {
        name: "other".parse().unwrap(),
        kind: StorageKind::Local,
        path: "/srv/other".to_owned(),
        ..shared(&["sim"])
    };
    datastore::create(&fleet.world, &root(), other).await.unwrap();
    let id = fleet.snapshot().find::<DatastoreKind>(&local()).unwrap().id();
    fleet.host.set_free(id, ByteSize::gib(100));
    let told = move |now: &hostler_control::Snapshot| {
        now.get::<DatastoreKind>(id).unwrap().status.free == ByteSize::gib(100)
    };
    fleet.until("it is told that more is free on the other", told).await;
    let create = async |datastore: Option<&str>| {
        let request = serde_json::json!({"name": "web01", "image": "tiny", "datastore": datastore});
        let request = serde_json::from_value(request).unwrap();
        vm::create(&fleet.world, &root(), request, &plain()).await
    };
    let error = create(Some("other")).await.unwrap_err();
    assert_eq!(error.code, "invalid");
    assert_eq!(
        error.message,
        "datastore: image `tiny` lies on datastore `local`, and so do disks that lie on it"
    );
    let hint = error.hint.unwrap();
    assert!(hint.contains("import the image") && hint.contains("--full"), "{hint}");
    let made = create(None).await.unwrap();
    assert_eq!(made.object.status.datastore, id);
    fleet.done(&made.task.unwrap()).await;
}
