//! Every task through the engine's three harness tests: each step fails, each step is repeated, the
//! server dies before and after each commit.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use hostler_agent_api::VmDefinition;
use hostler_control::{Core, testing};
use hostler_sim::{SimConnector, SimHost, SimStorage, SimVm, describe_snapshots};
use hostler_store::{Batch, Store, Write};
use hostler_tasks::harness::{
    Scenario, Stage, fails_at_each_step, repeats_each_step, survives_a_crash_at_each_commit,
};
use hostler_tasks::{Registry, Submit};
use hostler_types::{
    ByteSize, CopySource, Customization, Datastore, DatastoreSpec, DatastoreState, DatastoreStatus,
    DiskSource, DiskSpec, Epoch, Host, HostFacts, HostSpec, HostState, HostStatus, Image,
    ImageFormat, ImageKind, ImageMedia, ImageSource, ImageSpec, ImageState, ImageStatus, Kind,
    KindName, Labels, LayerFile, Network, NetworkSpec, NetworkState, NetworkStatus, Object,
    PowerState, Recycled, Request, RequestKind, RequestState, StopMode, Template, TemplateSpec,
    TemplateStatus, VersionOf, Vm, VmKind, VmSpec, VmStatus,
};
use jiff::Timestamp;
use serde_json::json;

/// What is there before the task.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Given {
    NoVm,
    Vm(PowerState),
    /// Running, with the snapshots `one` and `two`.
    Snapshots,
    /// Running, with a file that waits to be merged.
    Waiting,
    /// Running, and another one has a detached disk.
    Lender,
    /// In the recycle bin.
    Recycled,
    /// The version of a template.
    Template,
    /// Its files lie on the datastore, and nobody knows it.
    Files,
    /// It runs at the host, and the inventory does not know it.
    Unknown,
    NoImage,
    /// It lies on the datastore, and nobody knows it.
    FoundImage,
}

impl Given {
    fn knows_image(self) -> bool {
        !matches!(self, Self::NoImage | Self::FoundImage)
    }
}

/// What must be the same in the end.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Compare {
    Everything,
    /// A guest that was stopped is not started again: only that the record tells what is.
    ButPower,
}

/// Everything a trial consists of.
struct Objects {
    host: Host,
    datastore: Datastore,
    network: Network,
    image: Image,
    vm: Vm,
    /// Another one, which has a detached disk `data`.
    lender: Vm,
    /// Of the VM at its host.
    storage: SimStorage,
    template: Template,
}

struct Case {
    given: Given,
    compare: Compare,
    submit: fn(&Objects) -> Submit,
    /// Of the trial at work.
    connector: Mutex<SimConnector>,
}

impl Case {
    fn new(given: Given, compare: Compare, submit: fn(&Objects) -> Submit) -> Self {
        Self { given, compare, submit, connector: Mutex::default() }
    }

    async fn check(&self) {
        fails_at_each_step(self).await;
        repeats_each_step(self).await;
        survives_a_crash_at_each_commit(self).await;
    }
}

fn object<K: Kind>(name: &str, spec: K::Spec, status: K::Status) -> Object<K> {
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

/// Of the VM.
fn status(
    given: Given,
    now: Timestamp,
    host: hostler_types::HostId,
    datastore: hostler_types::DatastoreId,
) -> VmStatus {
    let power = match given {
        Given::Vm(power) => power,
        Given::NoVm | Given::NoImage | Given::FoundImage => PowerState::Creating,
        Given::Snapshots | Given::Waiting | Given::Lender | Given::Unknown => PowerState::Running,
        Given::Recycled | Given::Template => PowerState::Stopped,
        Given::Files => PowerState::Unknown,
    };
    VmStatus {
        power,
        power_since: now,
        message: None,
        host,
        epoch: Epoch(1),
        datastore,
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
    }
}

fn objects(given: Given) -> Objects {
    let now = Timestamp::now();
    let host: Host = object(
        "sim",
        HostSpec::new("127.0.0.1:7444".to_owned()),
        HostStatus {
            state: HostState::Connected,
            since: now,
            message: None,
            facts: Some(facts()),
            evacuated: Vec::new(),
        },
    );
    let (capacity, free) = (ByteSize::gib(100), ByteSize::gib(50));
    let datastore: Datastore = object(
        "local",
        DatastoreSpec::local(host.id(), "/local"),
        DatastoreStatus {
            state: DatastoreState::Ready,
            message: None,
            capacity,
            free,
            hosts: Vec::new(),
            usage: None,
        },
    );
    let network: Network = object(
        "default",
        NetworkSpec::Nat { subnet: "10.77.0.0/24".parse().unwrap(), pool: None },
        NetworkStatus { state: NetworkState::Ready, message: None },
    );
    let image: Image = object(
        "tiny",
        ImageSpec {
            datastore: datastore.id(),
            source: ImageSource::Url("https://images.test/tiny".to_owned()),
            sha256: None,
        },
        ImageStatus {
            state: if given.knows_image() { ImageState::Ready } else { ImageState::Importing },
            message: None,
            format: Some(ImageFormat::Qcow2),
            media: Some(ImageMedia::Disk),
            virtual_size: ByteSize::gib(2),
            allocated: ByteSize::mib(17),
            sha256: None,
        },
    );
    let spec: VmSpec = serde_json::from_value(json!({
        "cpus": 1, "memory": "1GiB",
        "disks": [{"name": "disk0", "size": "2GiB", "source": {"image": image.id()}}],
        "nics": [{"name": "nic0", "network": network.id(), "mac": "52:54:00:00:00:01"}],
    }))
    .unwrap();
    let status = status(given, now, host.id(), datastore.id());
    let mut vm: Vm = object("web01", spec, status);
    if given == Given::Recycled {
        let (name, by) = (vm.name().clone(), "tester".to_owned());
        vm.metadata.name = Recycled::bin_name(&name, vm.id());
        vm.spec.recycled = Some(Recycled { name, at: now, until: Timestamp::MAX, by });
    }
    let has_snapshots = matches!(given, Given::Snapshots | Given::Waiting);
    let names: &[&str] = if has_snapshots { &["one", "two"] } else { &[] };
    let mut storage = SimStorage::with_snapshots(vm.id(), &vm.spec, names);
    if given == Given::Waiting {
        let first = storage.tree.snapshots[0].id;
        storage.forget(&[first]);
    }
    vm.status.snapshots = storage.told(vm.id(), &vm.spec);
    let template: Template =
        object("golden", TemplateSpec::default(), TemplateStatus { last: 1, versions: Vec::new() });
    if given == Given::Template {
        let (name, by) = (vm.name().clone(), "tester".to_owned());
        vm.metadata.name = VersionOf::record_name(template.name(), 1, vm.id());
        let (template, description) = (template.id(), String::new());
        vm.spec.template = Some(VersionOf { template, version: 1, description, name, at: now, by });
    }
    let mut lender: Vm = object("db01", vm.spec.clone(), vm.status.clone());
    lender.spec.nics[0].mac = "52:54:00:00:00:03".parse().unwrap();
    let disk = DiskSpec { name: "data".parse().unwrap(), ..lender.spec.disks[0].clone() };
    lender.spec.detached.push(DiskSpec { source: DiskSource::Blank, ..disk });
    Objects { host, datastore, network, image, vm, lender, storage, template }
}

fn place(host: &SimHost, objects: &Objects, given: Given) {
    let definition = VmDefinition {
        vm: objects.vm.clone(),
        images: vec![(objects.image.id(), objects.datastore.id())],
        networks: Vec::new(),
        customization_hash: None,
    };
    let power = objects.vm.status.power;
    let (message, guest, since) = (None, None, Timestamp::now());
    let (seal, storage) = (None, objects.storage.clone());
    let vm = SimVm {
        definition,
        epoch: Epoch(1),
        power,
        since,
        message,
        guest,
        storage,
        seal,
        cpu: None,
    };
    match given {
        Given::Lender => {
            let mut lender = vm.clone();
            lender.definition.vm = objects.lender.clone();
            host.plant(vm);
            host.plant(lender);
        }
        Given::Vm(_)
        | Given::Snapshots
        | Given::Waiting
        | Given::Recycled
        | Given::Template
        | Given::Unknown => host.plant(vm),
        Given::Files => {
            host.plant(vm);
            host.lose(objects.vm.id());
        }
        Given::NoVm | Given::NoImage | Given::FoundImage => {}
    }
    if given != Given::NoImage {
        host.plant_image(objects.image.id());
    }
}

#[async_trait]
impl Scenario for Case {
    type World = Core;

    async fn set_up(&self, store: Arc<dyn Store>) -> Stage<Core> {
        let objects = objects(self.given);
        let mut batch = Batch::new("tester", "set up", Timestamp::now())
            .with(Write::create(&objects.host))
            .with(Write::create(&objects.datastore))
            .with(Write::create(&objects.network));
        if self.given.knows_image() {
            batch = batch.with(Write::create(&objects.image));
        }
        let unknown = [Given::NoVm, Given::NoImage, Given::Files, Given::Unknown];
        if !unknown.contains(&self.given) {
            batch = batch.with(Write::create(&objects.vm));
        }
        if self.given == Given::Lender {
            batch = batch.with(Write::create(&objects.lender));
        }
        if self.given == Given::Template {
            batch = batch.with(Write::create(&objects.template));
        }
        store.commit(batch).await.unwrap();
        let connector = SimConnector::default();
        place(&connector.host(objects.host.id()), &objects, self.given);
        *self.connector.lock().unwrap() = connector.clone();
        let world = testing::core(store.clone(), Arc::new(connector)).await.unwrap();
        // With the revisions that the store has given them.
        let stored = world.snapshot().get(objects.vm.id()).map(|vm| Vm::clone(vm));
        let lender = world.snapshot().get(objects.lender.id()).map(|vm| Vm::clone(vm));
        let image = world.snapshot().get(objects.image.id()).map(|image| Image::clone(image));
        let objects = Objects {
            vm: stored.unwrap_or(objects.vm),
            lender: lender.unwrap_or(objects.lender),
            image: image.unwrap_or(objects.image),
            ..objects
        };
        Stage { world, registry: registry(), submit: (self.submit)(&objects) }
    }

    async fn restart(&self, _: Arc<Core>, store: Arc<dyn Store>) -> Arc<Core> {
        let connector = self.connector.lock().unwrap().clone();
        testing::core(store, Arc::new(connector)).await.unwrap()
    }

    async fn describe(&self, _: &Core, store: &dyn Store) -> String {
        let snapshot = store.load_all().await.unwrap();
        let connector = self.connector.lock().unwrap().clone();
        let host = snapshot.records.iter().find(|record| record.kind == KindName::Host).unwrap();
        let host = connector.host(host.id.typed());
        let mut text = String::new();
        for record in &snapshot.records {
            if record.kind == KindName::Vm {
                let vm = record.object::<VmKind>().unwrap();
                let actual = host.vm(vm.id());
                let agrees = actual.as_ref().is_some_and(|actual| {
                    actual.power == vm.status.power
                        && actual.definition.vm.spec == vm.spec
                        && describe_snapshots(&actual.storage.tree)
                            == describe_snapshots(&vm.status.snapshots)
                });
                let bin = match (vm.is_recycled(), vm.is_template()) {
                    (true, _) => " in the bin",
                    (_, true) => " as a template",
                    _ if vm.name() != vm.called() => " under another name",
                    _ => "",
                };
                text += &format!("vm {}{bin} {} agrees {agrees}", vm.called(), vm.spec.cpus);
                if self.compare == Compare::Everything {
                    text += &format!(" {}", vm.status.power);
                    text += &actual
                        .as_ref()
                        .map(|a| a.storage.describe(vm.id(), &vm.spec))
                        .unwrap_or_default();
                }
                text += "\n";
            }
            if record.kind == KindName::Template {
                text += &format!("template {}\n", record.name);
            }
            if record.kind == KindName::Request {
                let request = record.object::<RequestKind>().unwrap();
                if let RequestState::Delivered { vm } = request.status.state {
                    let vm = snapshot.records.iter().find(|record| record.id == vm.untyped());
                    let vm = vm.unwrap();
                    text += &format!("delivered: {} {:?}\n", vm.name, vm.labels.get("owner"));
                }
            }
            if record.kind == KindName::Image {
                let image = record.object::<ImageKind>().unwrap();
                text += &format!("image {} {:?}\n", image.name(), image.status.state);
            }
        }
        if self.given == Given::Unknown {
            // Also when nobody has a record of it.
            let vm = host.vm(host.vms()[0]).unwrap();
            text += &format!("at the host: {} {}\n", vm.definition.vm.name(), vm.power);
        }
        let files = (host.files().len(), host.vms().len(), host.images().len());
        let exports = host.exports().len();
        text + &format!("files, VMs and images at the host: {files:?}, exports {exports}\n")
    }
}

/// A VM stays when only its start fails, and so does what a guest is to be told; so creation and
/// customization are looked at without the start.
fn registry() -> Registry<Core> {
    let all = testing::registry();
    let mut registry = Registry::new();
    for action in all.actions() {
        let mut definition = all.get(action).unwrap().as_ref().clone();
        if ["vm.create", "vm.customize"].contains(&action) {
            definition.steps.truncate(1);
        }
        if action == "vm.clone" {
            definition.steps.retain(|step| step.name != "start");
        }
        registry = registry.with(definition);
    }
    registry
}

#[tokio::test]
async fn vm_create() {
    let submit = |objects: &Objects| testing::vm_create(&objects.vm, false);
    Case::new(Given::NoVm, Compare::Everything, submit).check().await;
}

/// Another VM, with disks made from `parent`'s.
fn child(parent: &Vm, source: fn(&Vm) -> DiskSource) -> Vm {
    let mut child: Vm = object("web02", parent.spec.clone(), parent.status.clone());
    child.status.power = PowerState::Creating;
    child.spec.disks[0].source = source(parent);
    child.spec.nics[0].mac = "52:54:00:00:00:02".parse().unwrap();
    child
}

fn file(vm: &Vm) -> LayerFile {
    LayerFile::disk(vm.id(), &vm.spec.disks[0].name, 0)
}

#[tokio::test]
async fn vm_clone_linked() {
    let submit = |objects: &Objects| {
        let clone = child(&objects.vm, |parent| DiskSource::Linked(file(parent)));
        testing::vm_clone(&objects.vm, &clone, false)
    };
    Case::new(Given::Vm(PowerState::Stopped), Compare::Everything, submit).check().await;
}

#[tokio::test]
async fn vm_clone_full_of_a_running_vm() {
    let submit = |objects: &Objects| {
        let source = |parent: &Vm| {
            let datastore = parent.status.datastore;
            DiskSource::Copy(CopySource { datastore, file: file(parent) })
        };
        testing::vm_clone(&objects.vm, &child(&objects.vm, source), true)
    };
    Case::new(Given::Vm(PowerState::Running), Compare::Everything, submit).check().await;
}

/// A template neither runs nor is locked, and its clones may be made elsewhere: nobody asks its host what
/// its disks are made of.
#[tokio::test]
async fn vm_clone_of_a_template() {
    let submit = |objects: &Objects| {
        let clone = child(&objects.vm, |parent| DiskSource::Linked(file(parent)));
        testing::vm_clone(&objects.vm, &of_a_template(clone), false)
    };
    Case::new(Given::Template, Compare::Everything, submit).check().await;
    let submit = |objects: &Objects| {
        let source = |parent: &Vm| {
            let datastore = parent.status.datastore;
            DiskSource::Copy(CopySource { datastore, file: file(parent) })
        };
        testing::vm_clone(&objects.vm, &of_a_template(child(&objects.vm, source)), false)
    };
    Case::new(Given::Template, Compare::Everything, submit).check().await;
}

/// As the service specifies it: a VM that can be started.
fn of_a_template(mut clone: Vm) -> Vm {
    clone.spec.template = None;
    clone
}

#[tokio::test]
async fn vm_flatten() {
    let submit = |objects: &Objects| testing::vm_flatten(&objects.vm);
    Case::new(Given::Vm(PowerState::Running), Compare::Everything, submit).check().await;
}

#[tokio::test]
async fn vm_start() {
    let given = Given::Vm(PowerState::Stopped);
    let submit = |objects: &Objects| testing::vm_start(&objects.vm);
    Case::new(given, Compare::Everything, submit).check().await;
}

#[tokio::test]
async fn vm_stop() {
    let given = Given::Vm(PowerState::Running);
    let submit = |objects: &Objects| testing::vm_stop(&objects.vm, StopMode::Graceful);
    Case::new(given, Compare::ButPower, submit).check().await;
}

#[tokio::test]
async fn vm_reset() {
    let given = Given::Vm(PowerState::Running);
    let submit = |objects: &Objects| testing::vm_reset(&objects.vm);
    Case::new(given, Compare::Everything, submit).check().await;
}

#[tokio::test]
async fn vm_suspend() {
    let given = Given::Vm(PowerState::Running);
    let submit = |objects: &Objects| testing::vm_suspend(&objects.vm);
    Case::new(given, Compare::ButPower, submit).check().await;
}

#[tokio::test]
async fn vm_fork() {
    let submit = |objects: &Objects| {
        let clone = |name: &str| {
            let mut spec = objects.vm.spec.clone();
            spec.disks[0].source =
                DiskSource::Linked(LayerFile::disk(objects.vm.id(), &spec.disks[0].name, 0));
            let status = VmStatus { power: PowerState::Creating, ..objects.vm.status.clone() };
            object(name, spec, status)
        };
        testing::vm_fork(&objects.vm, &[clone("ci-01"), clone("ci-02")])
    };
    let given = Given::Vm(PowerState::Running);
    Case::new(given, Compare::Everything, submit).check().await;
}

#[tokio::test]
async fn vm_update() {
    let submit = |objects: &Objects| {
        let mut new = objects.vm.clone();
        new.spec.cpus = 4.try_into().unwrap();
        new.metadata.name = "web02".parse().unwrap();
        testing::vm_update(&objects.vm, &new)
    };
    Case::new(Given::Vm(PowerState::Stopped), Compare::Everything, submit).check().await;
}

/// As it is with its disk detached.
fn detached(vm: &Vm) -> (Vm, hostler_types::Name) {
    let mut new = vm.clone();
    let disk = new.spec.disks.remove(0);
    let name = disk.name.clone();
    new.spec.detached.push(disk);
    (new, name)
}

#[tokio::test]
async fn disk_detach() {
    let submit = |objects: &Objects| {
        let (new, disk) = detached(&objects.vm);
        testing::disk_detach(&objects.vm, &new, &disk)
    };
    Case::new(Given::Vm(PowerState::Running), Compare::Everything, submit).check().await;
}

#[tokio::test]
async fn disk_remove() {
    let submit = |objects: &Objects| {
        let (new, disk) = detached(&objects.vm);
        testing::disk_remove(&objects.vm, &new, &disk)
    };
    Case::new(Given::Vm(PowerState::Running), Compare::Everything, submit).check().await;
}

/// The VM with the disk of another one, which does not have it any more.
#[tokio::test]
async fn disk_take() {
    let submit = |objects: &Objects| {
        let (mut new, mut without) = (objects.vm.clone(), objects.lender.clone());
        let disk = without.spec.detached.remove(0);
        let name = disk.name.clone();
        new.spec.disks.push(disk);
        testing::disk_take((&objects.vm, &new), (&objects.lender, &without), &name)
    };
    Case::new(Given::Lender, Compare::Everything, submit).check().await;
}

#[tokio::test]
async fn vm_customize() {
    let submit = |objects: &Objects| {
        let mut new = objects.vm.clone();
        new.spec.customization =
            Some(Box::new(Customization { run: 1, ..Customization::default() }));
        testing::vm_customize(&objects.vm, &new, false)
    };
    Case::new(Given::Vm(PowerState::Running), Compare::Everything, submit).check().await;
}

#[tokio::test]
async fn vm_register() {
    let submit = |objects: &Objects| testing::vm_register(&objects.vm);
    Case::new(Given::Files, Compare::Everything, submit).check().await;
}

/// Whatever happens, the guest runs on.
#[tokio::test]
async fn vm_register_from_host() {
    let submit = |objects: &Objects| testing::vm_register_from_host(&objects.vm);
    Case::new(Given::Unknown, Compare::Everything, submit).check().await;
}

#[tokio::test]
async fn vm_unregister() {
    let submit = |objects: &Objects| testing::vm_unregister(&objects.vm);
    Case::new(Given::Vm(PowerState::Stopped), Compare::Everything, submit).check().await;
}

#[tokio::test]
async fn vm_delete() {
    let submit = |objects: &Objects| testing::vm_delete(&objects.vm, false);
    Case::new(Given::Vm(PowerState::Stopped), Compare::Everything, submit).check().await;
    let submit = |objects: &Objects| testing::vm_delete(&objects.vm, true);
    Case::new(Given::Vm(PowerState::Running), Compare::ButPower, submit).check().await;
}

#[tokio::test]
async fn vm_recycle() {
    let submit = |objects: &Objects| testing::vm_recycle(&objects.vm, false);
    Case::new(Given::Vm(PowerState::Stopped), Compare::Everything, submit).check().await;
    let submit = |objects: &Objects| testing::vm_recycle(&objects.vm, true);
    Case::new(Given::Vm(PowerState::Running), Compare::ButPower, submit).check().await;
}

#[tokio::test]
async fn vm_export() {
    let submit = |objects: &Objects| testing::vm_export(&objects.vm);
    Case::new(Given::Vm(PowerState::Stopped), Compare::Everything, submit).check().await;
}

#[tokio::test]
async fn vm_undelete() {
    let submit = |objects: &Objects| testing::vm_undelete(&objects.vm);
    Case::new(Given::Recycled, Compare::Everything, submit).check().await;
}

/// What was sealed stays so, whatever comes after: only that the record tells what is.
#[tokio::test]
async fn vm_seal() {
    let submit = |objects: &Objects| testing::vm_seal(&objects.vm);
    Case::new(Given::Vm(PowerState::Stopped), Compare::Everything, submit).check().await;
    Case::new(Given::Vm(PowerState::Running), Compare::ButPower, submit).check().await;
    Case::new(Given::Template, Compare::Everything, submit).check().await;
}

#[tokio::test]
async fn template_create() {
    let submit = |objects: &Objects| testing::template_create(&objects.vm, &objects.template);
    Case::new(Given::Vm(PowerState::Stopped), Compare::Everything, submit).check().await;
}

#[tokio::test]
async fn template_copy() {
    let submit = |objects: &Objects| {
        let mut version = objects.vm.clone();
        version.metadata.id = hostler_types::VmId::generate();
        version.metadata.name = "golden-v1".parse().unwrap();
        version.status.power = PowerState::Creating;
        version.spec.nics.clear();
        version.spec.template = Some(VersionOf {
            template: objects.template.id(),
            version: 1,
            description: String::new(),
            name: objects.vm.name().clone(),
            at: Timestamp::UNIX_EPOCH,
            by: "tester".to_owned(),
        });
        let disk = &mut version.spec.disks[0];
        let file = hostler_types::LayerFile::disk(objects.vm.id(), &disk.name, 0);
        let datastore = objects.datastore.id();
        disk.source =
            hostler_types::DiskSource::Copy(hostler_types::CopySource { datastore, file });
        testing::template_copy(&objects.vm, version, &objects.template)
    };
    Case::new(Given::Vm(PowerState::Stopped), Compare::Everything, submit).check().await;
    Case::new(Given::Vm(PowerState::Running), Compare::Everything, submit).check().await;
}

#[tokio::test]
async fn template_to_vm() {
    let submit = |objects: &Objects| testing::template_to_vm(&objects.vm);
    Case::new(Given::Template, Compare::Everything, submit).check().await;
}

#[tokio::test]
async fn template_delete() {
    let submit = |objects: &Objects| testing::template_delete(&objects.template, &[&objects.vm]);
    Case::new(Given::Template, Compare::Everything, submit).check().await;
}

/// A VM that lies on a template's disk.
#[tokio::test]
async fn template_deploy() {
    let submit = |objects: &Objects| {
        let mut clone = objects.vm.clone();
        clone.metadata.id = hostler_types::VmId::generate();
        clone.metadata.name = "clone".parse().unwrap();
        clone.status.power = PowerState::Creating;
        clone.spec.template = None;
        clone.spec.nics.clear();
        let disk = &mut clone.spec.disks[0];
        let file = hostler_types::LayerFile::disk(objects.vm.id(), &disk.name, 0);
        disk.source = hostler_types::DiskSource::Linked(file);
        testing::vm_create(&clone, false)
    };
    Case::new(Given::Template, Compare::Everything, submit).check().await;
}

/// What has failed is removed, so that all is as it was.
fn request(objects: &Objects) -> Request {
    let image = json!([{"name": objects.image.name(), "id": objects.image.id()}]);
    let order = json!({
        "vm": {"name": "web01", "image": "tiny", "lease_seconds": 3600},
        "proof_seconds": 0,
        "probes": [{"check": {"command": ["true"]}}],
        "notify": [{"url": "https://127.0.0.1/", "retries": 0}],
        "on_failure": "remove",
    });
    let spec = json!({
        "order": order, "requester": {"name": "anna"}, "owner": "anna",
        "images": image, "cpus": 1, "memory": "1GiB", "disk": "2GiB",
    });
    let status = json!({"state": "approved", "since": "2026-01-01T00:00:00Z"});
    let spec = serde_json::from_value(spec).unwrap();
    object("web01-1", spec, serde_json::from_value(status).unwrap())
}

#[tokio::test]
async fn request_provision() {
    let submit = |objects: &Objects| testing::request_provision(&request(objects));
    Case::new(Given::NoVm, Compare::Everything, submit).check().await;
}

#[tokio::test]
async fn image_import() {
    let submit = |objects: &Objects| testing::image_import(&objects.image);
    Case::new(Given::NoImage, Compare::Everything, submit).check().await;
}

#[tokio::test]
async fn image_delete() {
    let submit = |objects: &Objects| testing::image_delete(&objects.image);
    Case::new(Given::NoVm, Compare::Everything, submit).check().await;
}

#[tokio::test]
async fn vm_snapshot() {
    let submit = |objects: &Objects| testing::vm_snapshot(&objects.vm);
    Case::new(Given::Snapshots, Compare::Everything, submit).check().await;
}

#[tokio::test]
async fn vm_snapshot_update() {
    let submit = |objects: &Objects| testing::vm_snapshot_update(&objects.vm);
    Case::new(Given::Snapshots, Compare::Everything, submit).check().await;
}

#[tokio::test]
async fn vm_revert() {
    let submit = |objects: &Objects| testing::vm_revert(&objects.vm);
    Case::new(Given::Snapshots, Compare::ButPower, submit).check().await;
}

#[tokio::test]
async fn vm_snapshot_delete() {
    let submit = |objects: &Objects| testing::vm_snapshot_delete(&objects.vm);
    Case::new(Given::Snapshots, Compare::ButPower, submit).check().await;
}

#[tokio::test]
async fn vm_consolidate() {
    let submit = |objects: &Objects| testing::vm_consolidate(&objects.vm);
    Case::new(Given::Waiting, Compare::ButPower, submit).check().await;
}

#[tokio::test]
async fn image_adopt() {
    let submit = |objects: &Objects| testing::image_adopt(&objects.image);
    Case::new(Given::FoundImage, Compare::Everything, submit).check().await;
}

#[tokio::test]
async fn datastore_clean() {
    let submit = |objects: &Objects| {
        let paths = [format!("vms/{}", objects.vm.id())];
        testing::datastore_clean(&objects.datastore, &paths)
    };
    Case::new(Given::Files, Compare::Everything, submit).check().await;
}
