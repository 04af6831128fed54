//! A store with many hosts and VMs, as a server has it after years: written straight into it.

use std::net::Ipv4Addr;
use std::path::Path;

use hostler_agent_api::VmReport;
use hostler_store::{Batch, Store, StoreError, Write};
use hostler_types::{
    Datastore, DatastoreId, DatastoreKind, DatastoreSpec, Host, HostId, HostSpec, HostStatus,
    Labels, Object, Vm, VmId,
};
use jiff::Timestamp;

use crate::fleet::{Fleet, open_store};

/// Objects written in one transaction.
const CHUNK: usize = 500;
/// Where the first host's agent listens.
const FIRST_ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 1, 0, 1);
/// Where the agent of the first VM's host listens.
const PATTERN_ADDRESS: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// The port that all agents listen on, each at an address of its own.
pub const PORT: u16 = 7444;

/// How many there are to be.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    pub hosts: usize,
    /// In all; they are dealt out evenly.
    pub vms: usize,
}

/// What was written: who the agents have to be.
#[derive(Debug)]
pub struct Recorded {
    pub hosts: Vec<RecordedHost>,
    pub pattern: Pattern,
}

#[derive(Debug)]
pub struct RecordedHost {
    pub id: HostId,
    pub address: Ipv4Addr,
    pub datastore: DatastoreId,
    pub vms: Vec<VmId>,
}

/// A VM as a host reports it; all others are the same but for their id.
#[derive(Debug)]
pub struct Pattern {
    id: String,
    report: String,
}

impl Pattern {
    fn of(report: &VmReport) -> Self {
        let text = serde_json::to_string(report).expect("a report has a JSON form");
        Self { id: report.vm.to_string(), report: text }
    }

    /// The report of another VM.
    pub fn report(&self, vm: VmId) -> VmReport {
        let text = self.report.replace(&self.id, &vm.to_string());
        serde_json::from_str(&text).expect("it is the same but for an id")
    }
}

/// Makes a server's state in `directory`: hosts that have never been seen, each with a datastore
/// and its VMs, which run; and the host with the VM that they are made after.
///
/// # Errors
/// What the store says.
///
/// # Panics
/// When the first VM cannot be made.
pub async fn record(directory: &Path, plan: Plan) -> Result<Recorded, StoreError> {
    let fleet = Fleet::in_directory(directory).await;
    let first = Vm::clone(fleet.running_vm("pattern").await.as_ref());
    let held = fleet.host.vm(first.id()).expect("it runs there");
    let pattern = Pattern::of(&held.report());
    let snapshot = fleet.snapshot();
    let local = snapshot.get::<DatastoreKind>(first.status.datastore).expect("it is there");
    let local = Object::clone(local);
    fleet.end().await;

    let store = open_store(&directory.join("hostler.db")).await;
    let mut hosts = vec![RecordedHost {
        id: first.status.host,
        address: PATTERN_ADDRESS,
        datastore: local.id(),
        vms: vec![first.id()],
    }];
    let each = plan.vms / plan.hosts.max(1);
    let mut writes = Vec::new();
    for number in 0..plan.hosts {
        let (address, host, datastore) = host(number, &local);
        writes.push(Write::create(&host));
        writes.push(Write::create(&datastore));
        let vms = (0..each).map(|vm| copy(&first, number * each + vm, &host, &datastore));
        let mut ids = Vec::new();
        for vm in vms {
            writes.push(Write::create(&vm));
            ids.push(vm.id());
        }
        hosts.push(RecordedHost { id: host.id(), address, datastore: datastore.id(), vms: ids });
        if writes.len() >= CHUNK || number + 1 == plan.hosts {
            let batch = Batch::new("sim", "fleet", Timestamp::now());
            store.commit(batch.with_all(writes.drain(..))).await?;
        }
    }
    Ok(Recorded { hosts, pattern })
}

fn host(number: usize, local: &Datastore) -> (Ipv4Addr, Host, Datastore) {
    let now = Timestamp::now();
    let offset = u32::try_from(number).expect("there are fewer addresses than that");
    let address = Ipv4Addr::from_bits(FIRST_ADDRESS.to_bits() + offset);
    let spec = HostSpec::new(format!("{address}:{PORT}"));
    let status = HostStatus::joined(now);
    let name = format!("h{number:05}").parse().expect("it is a name");
    let host = Host::new(name, Labels::new(), now, spec, status);
    let name = format!("local-h{number:05}").parse().expect("it is a name");
    let spec = DatastoreSpec::local(host.id(), local.spec.path.clone());
    let datastore = Datastore::new(name, Labels::new(), now, spec, local.status.clone());
    (address, host, datastore)
}

/// The first VM with what is each one's own.
fn copy(first: &Vm, number: usize, host: &Host, datastore: &Datastore) -> Vm {
    let name = format!("vm-{number:06}").parse().expect("it is a name");
    let (spec, status) = (first.spec.clone(), first.status.clone());
    let mut vm: Vm = Object::new(name, Labels::new(), Timestamp::now(), spec, status);
    vm.status.host = host.id();
    vm.status.datastore = datastore.id();
    let mut text = serde_json::to_string(&(&vm.spec, &vm.status)).expect("it has a JSON form");
    text = text.replace(&first.id().to_string(), &vm.id().to_string());
    for nic in &first.spec.nics {
        let [_, high, middle, low] = u32::try_from(number).unwrap_or(0).to_be_bytes();
        let mac = format!("52:54:00:{high:02x}:{middle:02x}:{low:02x}");
        text = text.replace(&nic.mac.to_string(), &mac);
    }
    (vm.spec, vm.status) = serde_json::from_str(&text).expect("it is the same but for its names");
    vm
}
