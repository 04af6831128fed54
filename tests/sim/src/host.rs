//! A host without a machine: its state, and how commands change it.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hostler_agent_api::{
    AgentEvent, DatastoreReport, FileOwner, FileUser, FoundFile, HostResources, Inventory,
    VmDefinition, VmElsewhere, VmMigrationMeasured, VmMoved, VmReport, code,
};
use hostler_endpoint::Problem;
use hostler_types::{
    Accelerator, ByteSize, CpuBaseline, DatastoreId, DatastoreState, Epoch, GuestCpu, GuestReport,
    Hardware, HostFacts, HostId, ImageId, NetworkId, OperationId, PowerState, Seal, Vm, VmId, cpu,
};
use jiff::Timestamp;
use serde_json::Value;
use tokio::sync::{broadcast, watch};

use crate::faults::{Fault, Gate};
use crate::storage::SimStorage;

/// A simulated host. Clones are the same host.
#[derive(Debug, Clone)]
pub struct SimHost {
    pub(crate) id: HostId,
    pub(crate) state: Arc<Mutex<State>>,
    pub(crate) events: broadcast::Sender<AgentEvent>,
    /// Changes whenever all connections break.
    pub(crate) connections: watch::Sender<u64>,
    /// Operations that were asked to be cancelled.
    pub(crate) cancelled: watch::Sender<BTreeSet<OperationId>>,
}

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) reachable: bool,
    pub(crate) facts: HostFacts,
    /// The version of the contract that its agent speaks.
    pub(crate) contract: u32,
    pub(crate) vms: BTreeMap<VmId, SimVm>,
    /// What lies on the datastores: survives `remove` with `keep_files`.
    pub(crate) files: BTreeMap<(DatastoreId, VmId), Vm>,
    /// VMs whose files say that no inventory has them.
    pub(crate) unregistered: BTreeSet<VmId>,
    pub(crate) images: BTreeMap<ImageId, ByteSize>,
    /// Files that belong to nothing.
    pub(crate) strays: BTreeMap<(DatastoreId, String), FoundFile>,
    /// Files that are not there though they should be.
    pub(crate) lost: BTreeSet<String>,
    /// What lies on whose files.
    pub(crate) users: HashMap<FileOwner, Vec<FileUser>>,
    pub(crate) uploads: BTreeMap<ImageId, u64>,
    pub(crate) exports: BTreeSet<VmId>,
    /// VMs that are awaited from other hosts.
    pub(crate) awaited: BTreeMap<VmId, (VmDefinition, Epoch)>,
    /// VMs that were given to other hosts.
    pub(crate) given: BTreeMap<VmId, VmMoved>,
    /// What moving any of its VMs would take.
    pub(crate) measured: VmMigrationMeasured,
    pub(crate) datastores: BTreeMap<DatastoreId, (DatastoreReport, String)>,
    /// Directories with a marker, also those that other hosts have made.
    pub(crate) marked: BTreeMap<String, DatastoreId>,
    pub(crate) networks: BTreeSet<NetworkId>,
    /// What pools and VMs may use of it.
    pub(crate) resources: HostResources,
    /// Answers of operations, refusals too.
    pub(crate) journal: HashMap<OperationId, Result<Value, Problem>>,
    pub(crate) faults: HashMap<&'static str, VecDeque<Fault>>,
    /// Names of the commands that were carried out (not those answered from the journal).
    pub(crate) done: Vec<&'static str>,
}

/// A VM as the host has it.
#[derive(Debug, Clone)]
pub struct SimVm {
    pub definition: VmDefinition,
    pub epoch: Epoch,
    pub power: PowerState,
    pub since: Timestamp,
    pub message: Option<String>,
    pub guest: Option<GuestReport>,
    pub storage: SimStorage,
    pub seal: Option<Seal>,
    /// The CPU that its guest sees.
    pub cpu: Option<CpuBaseline>,
}

impl SimVm {
    pub(crate) fn report(&self) -> VmReport {
        let vm = &self.definition.vm;
        VmReport {
            vm: vm.id(),
            epoch: self.epoch,
            power: self.power,
            since: self.since,
            message: self.message.clone(),
            disks: self.storage.disks(vm.id(), &vm.spec),
            nics: Vec::new(),
            guest: self.guest.clone(),
            hardware: self.power.is_live().then(|| hardware(&vm.spec)),
            cpu: self.cpu.clone().filter(|_| self.power.is_live()),
            pending: Vec::new(),
            customization: vm.status.customization.clone(),
            snapshots: self.storage.told(vm.id(), &vm.spec),
            seal: self.seal.clone(),
            guest_disks: None,
            datastore: Some(vm.status.datastore),
        }
    }

    pub(crate) fn become_(&mut self, power: PowerState) {
        self.power = power;
        self.since = Timestamp::now();
        self.message = None;
        if power.is_live() {
            self.seal = None;
        } else if power != PowerState::Suspended {
            self.cpu = None;
        }
    }
}

/// What guests can have on a host whose best CPU model is this one.
///
/// # Panics
/// When nobody knows such a model.
pub fn guest_cpu(model: &str) -> GuestCpu {
    let own = cpu::model(model).expect("a known CPU model");
    let has =
        |one: &cpu::CpuModel| one.features.iter().all(|feature| own.features.contains(feature));
    let models = cpu::models().iter().filter(|one| has(one)).map(|one| one.name.to_owned());
    GuestCpu {
        vendor: "GenuineIntel".to_owned(),
        features: own.features.iter().map(|feature| (*feature).to_owned()).collect(),
        models: models.collect(),
    }
}

/// Of a guest that takes everything at once: room for twice as much.
fn hardware(spec: &hostler_types::VmSpec) -> Hardware {
    let (cpus, memory) = (spec.cpus.count(), spec.memory);
    Hardware {
        cpus,
        max_cpus: (cpus * 2).max(4),
        memory,
        boot_memory: memory,
        max_memory: ByteSize(memory.bytes() * 2),
        free_ports: 8,
    }
}

impl SimHost {
    /// What the server last said that pools and VMs may use of it.
    pub fn resources(&self) -> HostResources {
        self.lock().resources.clone()
    }

    /// Tells the server what a VM used.
    pub fn measured(&self, vm: VmId, used: hostler_types::ResourceUse) {
        let vms = vec![hostler_agent_api::VmUse { vm, used }];
        // Nobody listens: nobody needs to know.
        let _ = self.events.send(AgentEvent::Usage { vms, host: None });
    }

    /// A connected host with 8 CPUs and 64 GiB.
    pub fn new(id: HostId) -> Self {
        let facts = HostFacts {
            hostname: "sim".to_owned(),
            agent_version: "sim".to_owned(),
            kernel: "sim".to_owned(),
            cpu_model: "sim".to_owned(),
            mhz_per_cpu: 2000,
            cpus: 8,
            memory: ByteSize::gib(64),
            qemu_version: "10.0.2".to_owned(),
            accelerator: Accelerator::Tcg,
            warnings: Vec::new(),
            cgroup_version: 2,
            bridges: vec!["br0".to_owned()],
            cpu_features: vec!["aes".to_owned(), "avx2".to_owned()],
            guest_cpu: Some(guest_cpu("Nehalem")),
        };
        let state = State {
            reachable: true,
            facts,
            contract: hostler_agent_api::VERSION,
            vms: BTreeMap::new(),
            files: BTreeMap::new(),
            unregistered: BTreeSet::new(),
            images: BTreeMap::new(),
            strays: BTreeMap::new(),
            lost: BTreeSet::new(),
            users: HashMap::new(),
            uploads: BTreeMap::new(),
            exports: BTreeSet::new(),
            awaited: BTreeMap::new(),
            given: BTreeMap::new(),
            measured: VmMigrationMeasured {
                resident: 100 << 20,
                dirty_rate: 0,
                bandwidth: 1 << 30,
            },
            datastores: BTreeMap::new(),
            marked: BTreeMap::new(),
            networks: BTreeSet::new(),
            resources: HostResources::default(),
            journal: HashMap::new(),
            faults: HashMap::new(),
            done: Vec::new(),
        };
        Self {
            id,
            state: Arc::new(Mutex::new(state)),
            events: broadcast::Sender::new(4096),
            connections: watch::Sender::new(0),
            cancelled: watch::Sender::new(BTreeSet::new()),
        }
    }

    /// What it tells of itself.
    /// Its agent is of another version from the next connection on.
    pub fn speak(&self, contract: u32) {
        self.lock().contract = contract;
    }

    /// From its next connection on it has another machine.
    pub fn change_facts(&self, change: impl FnOnce(&mut HostFacts)) {
        change(&mut self.lock().facts);
    }

    pub fn facts(&self) -> HostFacts {
        self.lock().facts.clone()
    }

    pub fn id(&self) -> HostId {
        self.id
    }

    /// The next call of `method` (such as `vm_start`) goes wrong; several are used up in order.
    pub fn fault(&self, method: &'static str, fault: Fault) {
        self.lock().faults.entry(method).or_default().push_back(fault);
    }

    /// The next calls of `method` wait for as long as the gate lives.
    pub fn hold(&self, method: &'static str, calls: usize) -> Gate {
        let (sender, receiver) = watch::channel(());
        for _ in 0..calls {
            self.fault(method, Fault::Held(receiver.clone()));
        }
        Gate(sender)
    }

    /// Waits until the faults of `method` have befallen someone.
    pub async fn taken(&self, method: &str) {
        while self.lock().faults.get(method).is_some_and(|faults| !faults.is_empty()) {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }

    /// Breaks all connections and refuses new ones.
    pub fn disconnect(&self) {
        self.lock().reachable = false;
        self.connections.send_modify(|count| *count += 1);
    }

    pub fn reconnect(&self) {
        self.lock().reachable = true;
    }

    /// As the host has it.
    pub fn vm(&self, vm: VmId) -> Option<SimVm> {
        self.lock().vms.get(&vm).cloned()
    }

    pub fn vms(&self) -> Vec<VmId> {
        self.lock().vms.keys().copied().collect()
    }

    /// VMs whose files lie on a datastore, whether the agent knows them or not.
    pub fn files(&self) -> Vec<VmId> {
        self.lock().files.keys().map(|(_, vm)| *vm).collect()
    }

    pub fn images(&self) -> Vec<ImageId> {
        self.lock().images.keys().copied().collect()
    }

    /// As if a shared file system with this datastore were mounted.
    pub fn mount(&self, path: &str, datastore: DatastoreId) {
        self.lock().marked.insert(path.to_owned(), datastore);
    }

    /// Directories with a marker.
    pub fn marked(&self) -> Vec<String> {
        self.lock().marked.keys().cloned().collect()
    }

    /// VMs of which there is an archive.
    pub fn exports(&self) -> Vec<VmId> {
        self.lock().exports.iter().copied().collect()
    }

    /// VMs that are awaited from other hosts.
    pub fn awaited(&self) -> Vec<VmId> {
        self.lock().awaited.keys().copied().collect()
    }

    /// VMs that were given to other hosts and are not forgotten.
    pub fn given(&self) -> Vec<VmId> {
        self.lock().given.keys().copied().collect()
    }

    pub fn networks(&self) -> Vec<NetworkId> {
        self.lock().networks.iter().copied().collect()
    }

    /// How often a command was carried out.
    pub fn times_done(&self, method: &str) -> usize {
        self.lock().done.iter().filter(|done| **done == method).count()
    }

    /// QEMU dies, or whatever else happens to a VM by itself; told as an event.
    pub fn change(&self, vm: VmId, change: impl FnOnce(&mut SimVm)) {
        let mut state = self.lock();
        let Some(vm) = state.vms.get_mut(&vm) else { return };
        change(vm);
        self.tell(AgentEvent::Vm(Box::new(vm.report())));
    }

    /// The agent no longer has the VM, though nobody has ordered it; its files stay. Told as an
    /// event.
    pub fn lose(&self, vm: VmId) {
        self.lock().vms.remove(&vm);
        self.tell(AgentEvent::VmGone { vm });
    }

    /// A VM that no server has made, with its files.
    pub fn plant(&self, vm: SimVm) {
        let definition = vm.definition.vm.clone();
        let mut state = self.lock();
        state.files.insert((definition.status.datastore, definition.id()), definition);
        state.vms.insert(vm.definition.vm.id(), vm);
    }

    /// What moving any of its VMs takes from now on.
    pub fn measures(&self, measured: VmMigrationMeasured) {
        self.lock().measured = measured;
    }

    /// An image that lies on the host already.
    pub fn plant_image(&self, image: ImageId) {
        self.lock().images.insert(image, ByteSize::gib(2));
    }

    /// A file that belongs to nothing.
    pub fn plant_file(&self, datastore: DatastoreId, file: FoundFile) {
        self.lock().strays.insert((datastore, file.path.clone()), file);
    }

    /// Somebody deletes a file by hand.
    pub fn lose_file(&self, path: &str) {
        self.lock().lost.insert(path.to_owned());
    }

    /// Something that no inventory has lies on a VM's or an image's files.
    pub fn plant_user(&self, owner: FileOwner, user: FileUser) {
        self.lock().users.entry(owner).or_default().push(user);
    }

    /// Nothing lies on anybody's files any more.
    pub fn forget_users(&self) {
        self.lock().users.clear();
    }

    /// A datastore's free space as of now; told as an event.
    pub fn set_free(&self, datastore: DatastoreId, free: ByteSize) {
        let mut state = self.lock();
        let Some((report, _)) = state.datastores.get_mut(&datastore) else { return };
        report.free = free;
        self.tell(AgentEvent::Datastore(report.clone()));
    }

    /// All that matters, without ids and times: for comparing worlds.
    pub fn describe(&self) -> String {
        let state = self.lock();
        let vm = |vm: &SimVm| {
            let name = vm.definition.vm.name();
            format!("vm {name} {} epoch {} {:?}\n", vm.power, vm.epoch, vm.definition.vm.spec.cpus)
        };
        let vms: String = state.vms.values().map(vm).collect();
        let (files, images) = (state.files.len(), state.images.len());
        let (strays, uploads) = (state.strays.len(), state.uploads.len());
        format!("{vms}files {files} images {images} uploads {uploads} strays {strays}\n")
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn tell(&self, event: AgentEvent) {
        // Nobody may be listening.
        let _nobody = self.events.send(event);
    }
}

impl State {
    pub(crate) fn inventory(&self) -> Inventory {
        Inventory {
            vms: self.vms.values().map(SimVm::report).collect(),
            datastores: self.datastores.values().map(|(report, _)| report.clone()).collect(),
            used: Vec::new(),
            host_used: None,
            elsewhere: self.elsewhere(),
        }
    }

    fn elsewhere(&self) -> Vec<VmElsewhere> {
        let awaited = self.awaited.iter().map(|(vm, (_, epoch))| (*vm, *epoch, true));
        let given = self.given.iter().map(|(vm, moved)| (*vm, moved.epoch, false));
        let told = awaited.chain(given);
        told.map(|(vm, epoch, awaited)| VmElsewhere { vm, epoch, awaited }).collect()
    }

    /// The VM, if `epoch` is not that of an earlier owner; remembers a newer one.
    pub(crate) fn owned(&mut self, vm: VmId, epoch: Epoch) -> Result<&mut SimVm, Problem> {
        let found = self.vms.get_mut(&vm);
        let found = found.ok_or_else(|| {
            Problem::new(404, code::NOT_FOUND, format!("there is no vm {vm} here"))
        })?;
        if epoch < found.epoch {
            let detail = format!("epoch {epoch} is older than {}", found.epoch);
            return Err(Problem::new(409, code::STALE_EPOCH, detail));
        }
        found.epoch = epoch;
        Ok(found)
    }

    pub(crate) fn place(&mut self, definition: VmDefinition, epoch: Epoch, power: PowerState) {
        let vm = &definition.vm;
        self.files.insert((vm.status.datastore, vm.id()), vm.clone());
        self.unregistered.remove(&vm.id());
        let (message, guest, since) = (None, None, Timestamp::now());
        let (seal, storage) = (None, SimStorage::of(vm.id(), &vm.spec));
        let cpu = definition.vm.status.cpu.clone();
        let placed = SimVm { cpu, definition, epoch, power, since, message, guest, storage, seal };
        self.vms.insert(placed.definition.vm.id(), placed);
    }

    /// The directory as a datastore, if it is marked or may be.
    pub(crate) fn datastore(
        &mut self,
        id: DatastoreId,
        path: &str,
        create: bool,
    ) -> DatastoreReport {
        if create {
            self.marked.entry(path.to_owned()).or_insert(id);
        }
        let there = self.marked.get(path) == Some(&id);
        let (state, message) = match there {
            true => (DatastoreState::Ready, None),
            false => (DatastoreState::Missing, Some("it has no datastore marker".to_owned())),
        };
        let size = |gib| if there { ByteSize::gib(gib) } else { ByteSize(0) };
        let report =
            DatastoreReport { datastore: id, state, message, capacity: size(500), free: size(400) };
        let known = self.datastores.entry(id).or_insert((report.clone(), path.to_owned()));
        if known.0.state != state {
            known.0 = report;
        }
        known.0.clone()
    }

    pub(crate) fn unmark(&mut self, id: DatastoreId, path: &str) {
        if self.marked.get(path) == Some(&id) {
            self.marked.remove(path);
        }
    }
}
