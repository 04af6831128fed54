//! The inventory against the store: whatever is written, both say the same.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hostler_control::{Inventory, Snapshot};
use hostler_store::{Batch, SqliteStore, Store, Write};
use hostler_types::{
    DatastoreId, Epoch, HostId, Labels, MacAddress, NetworkId, NicSpec, PowerState, Vm, VmKind,
    VmSpec, VmStatus,
};
use jiff::Timestamp;
use proptest::prelude::*;

mod commits;

fn vm(name: &str, host: HostId, network: NetworkId, mac: u32) -> Vm {
    let [_, a, b, c] = mac.to_be_bytes();
    let now = Timestamp::UNIX_EPOCH;
    let mut spec: VmSpec =
        serde_json::from_value(serde_json::json!({"cpus": 1, "memory": "1GiB", "disks": []}))
            .unwrap();
    let mac = MacAddress::from_suffix([a, b, c]);
    spec.nics = vec![NicSpec {
        name: "nic0".parse().unwrap(),
        network,
        mac,
        link: Default::default(),
        address: None,
    }];
    let status = VmStatus {
        hardware: None,
        cpu: None,
        pending: Vec::new(),
        power: PowerState::Stopped,
        power_since: now,
        message: None,
        host,
        epoch: Epoch(1),
        datastore: DatastoreId::generate(),
        disks: Vec::new(),
        nics: Vec::new(),
        customization: None,
        guest: None,
        snapshots: hostler_types::SnapshotTree::default(),
        snapshot_warnings: Vec::new(),
        seal: None,
        placement: Vec::new(),
        moved_at: None,
        last_move: None,
    };
    Vm::new(name.parse().unwrap(), Labels::new(), now, spec, status)
}

#[derive(Debug, Clone)]
enum Act {
    Create { name: u8, host: u8, mac: u32 },
    Move { nth: u8, host: u8 },
    Rename { nth: u8, name: u8 },
    Delete { nth: u8 },
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        (0u8..20, 0u8..3, 0u32..1000).prop_map(|(name, host, mac)| Act::Create { name, host, mac }),
        (0u8..20, 0u8..3).prop_map(|(nth, host)| Act::Move { nth, host }),
        (0u8..20, 0u8..20).prop_map(|(nth, name)| Act::Rename { nth, name }),
        (0u8..20).prop_map(|nth| Act::Delete { nth }),
    ];
    proptest::collection::vec(act, 1..40)
}

struct Bench {
    store: Arc<dyn Store>,
    inventory: Arc<Inventory>,
    hosts: Vec<HostId>,
    network: NetworkId,
    _directory: tempfile::TempDir,
}

impl Bench {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store: Arc<dyn Store> =
            Arc::new(SqliteStore::open(directory.path().join("hostler.db")).unwrap());
        let inventory = Arc::new(Inventory::load(store.as_ref()).await.unwrap());
        let following = inventory.clone();
        let followed = store.clone();
        tokio::spawn(async move { following.follow(followed).await });
        let hosts = (0..3).map(|_| HostId::generate()).collect();
        let network = NetworkId::generate();
        Self { store, inventory, hosts, network, _directory: directory }
    }

    async fn carry_out(&self, act: &Act) {
        let snapshot = self.inventory.snapshot();
        let nth = |nth: u8| {
            let vms = snapshot.all::<VmKind>();
            vms.iter().nth(usize::from(nth) % vms.len().max(1)).map(|vm| Vm::clone(vm))
        };
        let write = match act {
            Act::Create { name, host, mac } => {
                let host = self.hosts[usize::from(*host)];
                Some(Write::create(&vm(&format!("vm{name}"), host, self.network, *mac)))
            }
            Act::Move { nth: index, host } => nth(*index).map(|mut vm| {
                vm.status.host = self.hosts[usize::from(*host)];
                Write::update(&vm)
            }),
            Act::Rename { nth: index, name } => nth(*index).map(|mut vm| {
                vm.metadata.name = format!("vm{name}").parse().unwrap();
                Write::update(&vm)
            }),
            Act::Delete { nth: index } => nth(*index).map(|vm| Write::delete(&vm)),
        };
        let Some(write) = write else { return };
        let batch = Batch::new("tester", "test", Timestamp::UNIX_EPOCH).with(write);
        // A name may be taken: then nothing changes, in either.
        if let Ok(committed) = self.store.commit(batch).await {
            self.inventory.at_least(committed.revision).await;
        }
    }

    /// What a snapshot that was built change by change says, against one loaded afresh.
    async fn compare(&self) {
        let live = self.inventory.snapshot();
        let fresh = Snapshot::load(self.store.load_all().await.unwrap()).unwrap();
        assert_eq!(live.revision, fresh.revision);
        let all = |snapshot: &Snapshot| -> Vec<Vm> {
            snapshot.all::<VmKind>().iter().map(|vm| Vm::clone(vm)).collect()
        };
        assert_eq!(all(&live), all(&fresh));
        for host in &self.hosts {
            let on = |snapshot: &Snapshot| -> Vec<_> {
                snapshot.vms_on(*host).map(|vm| vm.id()).collect()
            };
            assert_eq!(on(&live), on(&fresh));
        }
        let network = |snapshot: &Snapshot| snapshot.vms_with_network(self.network).count();
        assert_eq!(network(&live), live.all::<VmKind>().len());
        assert_eq!(network(&live), network(&fresh));
        for vm in live.all::<VmKind>().iter() {
            assert_eq!(live.get(vm.id()), Some(vm));
            assert!(live.vm_with_mac(vm.spec.nics[0].mac).is_some());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn the_inventory_says_what_the_store_says(acts in acts()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let bench = Bench::new().await;
            for act in &acts {
                bench.carry_out(act).await;
            }
            bench.compare().await;
        });
    }
}

/// The figure is 300 ms for a whole server in a release build; this is the inventory's part, with
/// much room for a slow machine and an unoptimised build.
#[tokio::test]
async fn five_thousand_vms_are_loaded_quickly() {
    let bench = Bench::new().await;
    for page in 0..10u32 {
        let vms = (0..500u32).map(|number| {
            let number = page * 500 + number;
            vm(&format!("vm{number}"), bench.hosts[0], bench.network, number)
        });
        let batch = Batch::new("tester", "test", Timestamp::UNIX_EPOCH);
        let batch = batch.with_all(vms.map(|vm| Write::create(&vm)));
        bench.store.commit(batch).await.unwrap();
    }
    let begin = Instant::now();
    let loaded = Inventory::load(bench.store.as_ref()).await.unwrap();
    let took = begin.elapsed();
    assert_eq!(loaded.snapshot().all::<VmKind>().len(), 5000);
    assert!(took < Duration::from_secs(5), "{took:?}");
}
