//! What people get told when a request cannot be: the whole text, reviewed.

use std::fmt::Write as _;

use expect_test::{Expect, expect};
use hostler_control::services::network::NetworkCreate;
use hostler_control::services::vm::{VmDelete, VmStop};
use hostler_control::services::{Options, datastore, image, network, vm};
use hostler_control::{Actor, ServiceError};
use hostler_sim::Fleet;
use hostler_types::{
    DatastoreLimits, ImageCreate, ImageSource, Labels, StopMode, StorageKind, VmCreate, VmUpdate,
};
use serde_json::{Value, json};

fn root() -> Actor {
    Actor::root()
}

fn plain() -> Options {
    Options::default()
}

fn told(error: &ServiceError) -> String {
    let mut text = format!("{:?} {}: {}\n", error.class, error.code, error.message);
    if let Some(hint) = &error.hint {
        let _ = writeln!(text, "hint: {hint}");
    }
    text
}

async fn create(fleet: &Fleet, request: Value) -> String {
    let request: VmCreate = match serde_json::from_value(request) {
        Ok(request) => request,
        Err(error) => return format!("{error}\n"),
    };
    match vm::create(&fleet.world, &root(), request, &plain()).await {
        Ok(changed) => format!("made {}\n", changed.object.name()),
        Err(error) => told(&error),
    }
}

async fn check(fleet: &Fleet, request: Value, expected: Expect) {
    expected.assert_eq(&create(fleet, request).await);
}

#[tokio::test]
async fn bad_sizes_are_refused_with_the_range() {
    let fleet = Fleet::new().await;
    fleet.image("tiny").await;
    let with = |key: &str, value: Value| {
        let mut request = json!({"name": "web01", "image": "tiny"});
        request[key] = value;
        request
    };
    check(
        &fleet,
        with("cpus", json!(0)),
        expect![[r#"
        0 is not a possible number of CPUs; a VM has 1 to 1024
    "#]],
    )
    .await;
    check(
        &fleet,
        with("cpus", json!(-1)),
        expect![[r#"
        invalid value: integer `-1`, expected u32
    "#]],
    )
    .await;
    check(
        &fleet,
        with("cpus", json!(65)),
        expect![[r#"
            NoCapacity no_capacity: no host can take vm `web01`: host `sim` has 8 CPUs, enough for VMs of up to 64; 65 are asked for
            hint: ask for less, change what stands in the way, or add a host or datastore
        "#]],
    )
    .await;
    check(
        &fleet,
        with("memory", json!(0)),
        expect![[r#"
        Invalid invalid: memory: 0B is not possible; 64MiB to 24TiB in whole MiB
    "#]],
    )
    .await;
    check(
        &fleet,
        with("memory", json!("-1GiB")),
        expect![[r#"
        `-1GiB` is not a size; write a number and a unit, such as 512MiB or 8GiB
    "#]],
    )
    .await;
    check(
        &fleet,
        with("memory", json!("65GiB")),
        expect![[r#"
            NoCapacity no_capacity: no host can take vm `web01`: host `sim` has 64GiB of memory, 65GiB are asked for
            hint: ask for less, change what stands in the way, or add a host or datastore
        "#]],
    )
    .await;
    check(&fleet, with("disk_size", json!("1GiB")), expect![[r#"
        Invalid invalid: disk_size: 1GiB is less than the 2GiB of image `tiny`; a disk cannot be smaller than its image
    "#]]).await;
    check(&fleet, with("disk_size", json!("501GiB")), expect![[r#"
        NoCapacity no_capacity: no host can take vm `web01`: host `sim` has no room: its datastore `local` holds 500GiB, 501GiB more are asked for
        hint: ask for less, change what stands in the way, or add a host or datastore
    "#]]).await;
    check(
        &fleet,
        with("disks", json!([{}])),
        expect![[r#"
        Invalid invalid: disks[0].size: a blank disk needs a size
    "#]],
    )
    .await;
    check(
        &fleet,
        with("disks", json!([{"size": 1}])),
        expect![[r#"
            Invalid invalid: disks[0].size: 1B is not possible; 1MiB to 64TiB in whole sectors
        "#]],
    )
    .await;
}

#[tokio::test]
async fn what_does_not_exist_or_is_taken_is_named() {
    let fleet = Fleet::new().await;
    fleet.vm("web01").await;
    check(
        &fleet,
        json!({"name": "web01", "image": "tiny"}),
        expect![[r#"
        Conflict name_taken: there is already a vm named `web01`
        hint: choose another name, or delete the other one first
    "#]],
    )
    .await;
    check(&fleet, json!({"name": "Web_02", "image": "tiny"}), expect![[r#"
        `Web_02` is not a valid name: `W` is not allowed; use a-z, 0-9 and `-`, and no `-` at the start or end
    "#]]).await;
    check(&fleet, json!({"name": "a,b=c", "image": "tiny"}), expect![[r#"
        `a,b=c` is not a valid name: `,` is not allowed; use a-z, 0-9 and `-`, and no `-` at the start or end
    "#]]).await;
    check(
        &fleet,
        json!({"name": "web02", "image": "nope"}),
        expect![[r#"
        NotFound not_found: there is no image `nope`
        hint: list them with `hostler image list`
    "#]],
    )
    .await;
    check(&fleet, json!({"name": "web02", "imgae": "tiny"}), expect![[r#"
        unknown field `imgae`, expected one of `name`, `labels`, `description`, `template`, `full`, `cpus`, `memory`, `max_memory`, `cpu_limit`, `resources`, `firmware`, `cpu_model`, `boot_order`, `image`, `disk_size`, `disks`, `iso`, `nics`, `customization_spec`, `customization`, `restart`, `migration`, `protected`, `host`, `datastore`, `start`, `lease_seconds`
    "#]]).await;
    check(
        &fleet,
        json!({"name": "web02", "iso": "tiny"}),
        expect![[r#"
        Invalid invalid: iso: image `tiny` is a disk, not an ISO; give it as `image`
    "#]],
    )
    .await;
    check(
        &fleet,
        json!({"name": "web02", "host": "nowhere"}),
        expect![[r#"
        NotFound not_found: there is no host `nowhere`
        hint: list them with `hostler host list`
    "#]],
    )
    .await;
    check(
        &fleet,
        json!({"name": "web02", "nics": [{"network": "nope"}]}),
        expect![[r#"
        NotFound not_found: there is no network `nope`
        hint: list them with `hostler network list`
    "#]],
    )
    .await;
    let mac = fleet.show("web01").spec.nics[0].mac;
    let nic = json!([{"network": "default", "mac": mac}]);
    let text = create(&fleet, json!({"name": "web02", "nics": nic})).await;
    expect![[r#"
        Conflict mac_taken: nics[0].mac: <mac> belongs to vm `web01` already
        hint: leave `mac` out, and a free one is chosen
    "#]]
    .assert_eq(&text.replace(&mac.to_string(), "<mac>"));
    let twice = json!([
        {"network": "default", "mac": "52:54:00:00:00:09"},
        {"network": "default", "mac": "52:54:00:00:00:09"},
    ]);
    check(
        &fleet,
        json!({"name": "web02", "nics": twice}),
        expect![[r#"
        Conflict mac_taken: nics[1].mac: 52:54:00:00:00:09 is used twice, here or by another request
        hint: leave `mac` out, and a free one is chosen
    "#]],
    )
    .await;
    check(
        &fleet,
        json!({"name": "web02", "labels": {"A": "b"}}),
        expect![[r#"
            Invalid invalid: label key `A` must be 1 to 63 of a-z, 0-9 and -_./
        "#]],
    )
    .await;
}

#[tokio::test]
async fn wrong_states_are_told_with_what_would_be_right() {
    let fleet = Fleet::new().await;
    let reference = fleet.vm("web01").await.reference();
    let world = &fleet.world;
    let mut text = String::new();
    let off = VmStop { mode: StopMode::PowerOff, timeout_seconds: None };
    let never = VmStop { mode: StopMode::Graceful, timeout_seconds: Some(0) };
    text += &told(&vm::stop(world, &root(), &reference, off, &plain()).await.unwrap_err());
    text += &told(&vm::stop(world, &root(), &reference, never, &plain()).await.unwrap_err());
    text += &told(&vm::reset(world, &root(), &reference, &plain()).await.unwrap_err());
    text += &told(&vm::suspend(world, &root(), &reference, &plain()).await.unwrap_err());
    text += &told(&vm::resume(world, &root(), &reference, &plain()).await.unwrap_err());
    fleet.done(&vm::start(world, &root(), &reference, &plain()).await.unwrap()).await;
    text += &told(&vm::start(world, &root(), &reference, &plain()).await.unwrap_err());
    let plainly = VmDelete::default();
    text += &told(&vm::delete(world, &root(), &reference, plainly, &plain()).await.unwrap_err());
    text += &told(&vm::unregister(world, &root(), &reference, &plain()).await.unwrap_err());
    let limit = VmUpdate { cpu_limit: Some(1), ..VmUpdate::default() };
    let error = vm::update(world, &root(), &reference, limit, None, &plain()).await.unwrap_err();
    text += &told(&error);
    expect![[r#"
        Conflict wrong_state: vm `web01` is stopped: it does not run
        Invalid invalid: timeout_seconds: 0 is not possible; 1 to 86400
        Conflict wrong_state: vm `web01` is stopped and cannot be reset; it must be running or paused
        Conflict wrong_state: vm `web01` is stopped and cannot be suspended; it must be running or paused
        Conflict wrong_state: vm `web01` is stopped and cannot be resumed; it must be suspended
        Conflict wrong_state: vm `web01` runs already
        Conflict wrong_state: vm `web01` is running and is not deleted
        hint: let it be stopped first with `--stop`, or force the deletion, which pulls its plug
        Conflict wrong_state: vm `web01` is running and cannot be unregistered; it must be stopped or suspended or failed
        Invalid invalid: 1 thousandths of a CPU are not possible; 10 to 1024000
    "#]].assert_eq(&text);
}

#[tokio::test]
async fn images_networks_and_datastores_are_checked() {
    let fleet = Fleet::new().await;
    fleet.vm("web01").await;
    let world = &fleet.world;
    let mut text = String::new();
    let import = |name: &str, source: ImageSource| {
        let labels = Labels::new();
        let name = name.parse().unwrap();
        ImageCreate { name, labels, datastore: None, source, sha256: None }
    };
    let sources = [
        ("x", ImageSource::Url("file:///etc/shadow".to_owned())),
        ("x", ImageSource::Url("https://user:secret@host/x".to_owned())),
        ("x", ImageSource::Url("https:///x".to_owned())),
        ("x", ImageSource::Upload(hostler_types::ByteSize(0))),
        ("tiny", ImageSource::Url("https://host/x".to_owned())),
    ];
    for (name, source) in sources {
        let error = image::create(world, &root(), import(name, source), &plain()).await;
        text += &told(&error.unwrap_err());
    }
    let tiny = "tiny".parse().unwrap();
    text += &told(&image::delete(world, &root(), &tiny, &plain()).await.unwrap_err());
    let networks = [
        ("default", json!({"mode": "nat", "subnet": "10.78.0.0/24"})),
        ("other", json!({"mode": "nat", "subnet": "10.77.0.128/25"})),
        ("other", json!({"mode": "nat", "subnet": "10.0.0.0/8"})),
        ("other", json!({"mode": "bridge", "bridge": "br0; rm -rf /"})),
        ("other", json!({"mode": "bridge", "bridge": "br0", "vlan": 4095})),
    ];
    for (name, spec) in networks {
        let (name, spec) = (name.parse().unwrap(), serde_json::from_value(spec).unwrap());
        let request = NetworkCreate { name, labels: Labels::new(), spec };
        text += &told(&network::create(world, &root(), request).await.unwrap_err());
    }
    let default = "default".parse().unwrap();
    text += &told(&network::delete(world, &root(), &default).await.unwrap_err());
    let local = "local".parse().unwrap();
    text += &told(&datastore::delete(world, &root(), &local).await.unwrap_err());
    for path in ["relative", "/a/../etc", "/", "/var/lib/hostler/datastores/local"] {
        let request = datastore::DatastoreCreate {
            name: "other".parse().unwrap(),
            labels: Labels::new(),
            hosts: Vec::new(),
            kind: StorageKind::Local,
            limits: DatastoreLimits::default(),
            path: path.to_owned(),
        };
        text += &told(&datastore::create(world, &root(), request).await.unwrap_err());
    }
    expect![[r#"
        Invalid invalid: source.url: it must begin with https:// or http://
        Invalid invalid: source.url: it must hold no user name or password: everyone can read it
        Invalid invalid: source.url: it names no host
        Invalid invalid: source.upload: 0B is not possible; 1 byte to 16TiB
        Conflict name_taken: there is already an image named `tiny`
        hint: choose another name, or delete the other one first
        Conflict in_use: image `tiny` is used by vm `web01`: their disks lie on it
        hint: delete these VMs first
        Conflict name_taken: there is already a network named `default`
        hint: choose another name
        Conflict subnet_taken: the subnet 10.77.0.128/25 overlaps with 10.77.0.0/24 of network `default`
        hint: choose another subnet of 10.0.0.0/8, 172.16.0.0/12 or 192.168.0.0/16
        Invalid invalid: subnet 10.0.0.0/8: a NAT network is between /16 and /29
        Invalid invalid: bridge `br0; rm -rf /` is not the name of an interface
        Invalid invalid: VLAN tag 4095: 1 to 4094
        Conflict in_use: network `default` is used by vm `web01`
        hint: delete these VMs or put their NICs on another network first
        Conflict in_use: datastore `local` still holds 1 VM and 1 image
        hint: delete or unregister the VMs and delete the images first
        Invalid invalid: path `relative` must be absolute, below `/`, without `.` and `..` parts, and at most 512 bytes
        Invalid invalid: path `/a/../etc` must be absolute, below `/`, without `.` and `..` parts, and at most 512 bytes
        Invalid invalid: path `/` must be absolute, below `/`, without `.` and `..` parts, and at most 512 bytes
        Conflict path_taken: the directory is the datastore `local` already
    "#]].assert_eq(&text);
}
