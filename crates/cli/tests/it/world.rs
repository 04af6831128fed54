//! Objects that the fake server knows.

use hostler_types::{
    Accelerator, Cores, Datastore, DatastoreSpec, DatastoreState, DatastoreStatus, DiskSource,
    DiskSpec, Epoch, GuestReport, Host, HostFacts, HostSpec, HostState, HostStatus, Id, Image,
    ImageFormat, ImageMedia, ImageSource, ImageSpec, ImageState, ImageStatus, Kind, Metadata,
    Network, NetworkSpec, NetworkState, NetworkStatus, NicSpec, NicStatus, Object, PowerState,
    Task, TaskSpec, TaskStatus, Vm, VmSpec, VmStatus,
};
use jiff::Timestamp;

/// The same at each run: the `n`-th object.
fn metadata<K>(name: &str, n: u8) -> Metadata<K> {
    let id = format!("01890a5d-ac96-774b-bcce-b302099a80{n:02x}");
    Metadata {
        id: id.parse::<Id<K>>().unwrap(),
        name: name.parse().unwrap(),
        labels: Default::default(),
        generation: 1,
        revision: hostler_types::Revision(u64::from(n)),
        created_at: at(0),
        updated_at: at(0),
    }
}

fn object<K: Kind>(name: &str, n: u8, spec: K::Spec, status: K::Status) -> Object<K> {
    Object { metadata: metadata(name, n), spec, status }
}

pub(crate) fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

pub(crate) fn host() -> Host {
    let facts = HostFacts {
        hostname: "host01".to_owned(),
        agent_version: "0.1.0".to_owned(),
        kernel: "6.1.0".to_owned(),
        cpu_model: "Some CPU".to_owned(),
        mhz_per_cpu: 2000,
        cpus: 16,
        memory: "64GiB".parse().unwrap(),
        qemu_version: "10.0.2".to_owned(),
        accelerator: Accelerator::Tcg,
        warnings: vec!["/dev/kvm hangs: guests run emulated".to_owned()],
        cgroup_version: 2,
        bridges: vec!["br0".to_owned()],
        cpu_features: Vec::new(),
        guest_cpu: None,
    };
    let status = HostStatus {
        state: HostState::Connected,
        since: at(0),
        message: None,
        facts: Some(facts),
        evacuated: Vec::new(),
    };
    object("host01", 1, HostSpec::new("10.0.0.5:8444".to_owned()), status)
}

pub(crate) fn datastore() -> Datastore {
    let spec = DatastoreSpec::local(host().id(), "/var/lib/hostler/local");
    let status = DatastoreStatus {
        state: DatastoreState::Ready,
        message: None,
        capacity: "1TiB".parse().unwrap(),
        free: "900GiB".parse().unwrap(),
        hosts: Vec::new(),
        usage: None,
    };
    object("local", 2, spec, status)
}

pub(crate) fn network() -> Network {
    let spec = NetworkSpec::Nat { subnet: "10.77.0.0/24".parse().unwrap(), pool: None };
    object("default", 3, spec, NetworkStatus { state: NetworkState::Ready, message: None })
}

pub(crate) fn image() -> Image {
    let source = ImageSource::Url("https://example.org/tiny.qcow2".to_owned());
    let spec = ImageSpec { datastore: datastore().id(), source, sha256: None };
    let status = ImageStatus {
        state: ImageState::Ready,
        message: None,
        format: Some(ImageFormat::Qcow2),
        media: Some(ImageMedia::Disk),
        virtual_size: "2GiB".parse().unwrap(),
        allocated: "17MiB".parse().unwrap(),
        sha256: None,
    };
    object("tiny", 4, spec, status)
}

/// A VM that is off; its guest's words are as a hostile guest would choose them.
pub(crate) fn vm(name: &str, n: u8) -> Vm {
    let spec = VmSpec {
        max_memory: None,
        detached: Vec::new(),
        balloon: None,
        cpu_limit: None,
        resources: Default::default(),
        automation: None,
        migration: hostler_types::MigrationTerms::default(),
        description: String::new(),
        cpus: Cores::try_from(2).unwrap(),
        memory: "1GiB".parse().unwrap(),
        firmware: Default::default(),
        cpu_model: None,
        boot_order: hostler_types::BootDevice::default_order(),
        disks: vec![DiskSpec {
            name: "disk0".parse().unwrap(),
            size: "2GiB".parse().unwrap(),
            source: DiskSource::Image(image().id()),
            bus: Default::default(),
            limits: Default::default(),
            provisioning: Default::default(),
        }],
        cdroms: Vec::new(),
        nics: vec![NicSpec {
            name: "nic0".parse().unwrap(),
            network: network().id(),
            address: None,
            mac: "52:54:00:12:34:56".parse().unwrap(),
            link: Default::default(),
        }],
        customization: None,
        restart: Default::default(),
        protected: false,
        recycled: None,
        lease: None,
        snapshot_limits: hostler_types::SnapshotLimits::default(),
        template: None,
    };
    let status = VmStatus {
        hardware: None,
        cpu: None,
        moved_at: None,
        last_move: None,
        pending: Vec::new(),
        power: PowerState::Stopped,
        power_since: at(0),
        message: None,
        host: host().id(),
        epoch: Epoch(1),
        datastore: datastore().id(),
        disks: Vec::new(),
        nics: vec![NicStatus {
            name: "nic0".parse().unwrap(),
            tap: None,
            reserved: Some("10.77.0.10".parse().unwrap()),
        }],
        customization: None,
        guest: None,
        snapshots: hostler_types::SnapshotTree::default(),
        snapshot_warnings: Vec::new(),
        seal: None,
        placement: vec!["host01 has 62GiB of memory free".to_owned()],
    };
    object(name, n, spec, status)
}

pub(crate) fn report() -> GuestReport {
    GuestReport {
        cpus: None,
        memory: None,
        nics: Vec::new(),
        agent: true,
        since: at(5),
        hostname: Some("web01\u{1b}]0;evil\u{7}".to_owned()),
        os: Some("Debian GNU/Linux 12\u{1b}[2J (bookworm)".to_owned()),
        kernel: Some("6.1.0".to_owned()),
        addresses: vec!["10.77.0.10".parse().unwrap()],
    }
}

pub(crate) fn task(action: &str, target: &str, n: u8) -> Task {
    let spec = TaskSpec {
        action: action.to_owned(),
        target: target.to_owned(),
        objects: Vec::new(),
        actor: "root".to_owned(),
        parent: None,
        deadline: None,
        input: serde_json::Value::Null,
    };
    let status = serde_json::json!({
        "state": "running",
        "steps": [],
        "progress": {"percent": 10, "activity": "making disks"},
    });
    let status: TaskStatus = serde_json::from_value(status).unwrap();
    object(&format!("task-{n}"), n, spec, status)
}
