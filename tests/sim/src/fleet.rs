//! A server's mind on a fresh store, with simulated hosts.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hostler_control::services::{self, Options};
use hostler_control::{
    Actor, AgentError, AgentLink, Connector, LocalHost, Running, Settings, Snapshot, World,
    WorldOptions, ensure_local_host,
};
use hostler_pki::{Ca, JoinToken, KeyRequest, Vault};
use hostler_store::{SqliteStore, Store, StoreError};
use hostler_types::{
    Host, HostId, HostKind, HostState, Image, ImageCreate, ImageKind, ImageSource, Join, Labels,
    Name, Ref, Task, TaskKind, Vm, VmCreate, VmKind,
};
use tempfile::TempDir;

use crate::host::SimHost;

/// Nothing in a simulation takes longer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Leads to simulated hosts; makes one for each host that it is asked for first.
#[derive(Debug, Clone, Default)]
pub struct SimConnector {
    hosts: Arc<Mutex<HashMap<HostId, SimHost>>>,
}

impl SimConnector {
    /// The host behind an id.
    pub fn host(&self, id: HostId) -> SimHost {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.entry(id).or_insert_with(|| SimHost::new(id)).clone()
    }
}

impl Connector for SimConnector {
    fn connect(&self, host: &Host) -> Result<Arc<dyn AgentLink>, AgentError> {
        Ok(Arc::new(self.host(host.id())))
    }
}

/// A world with one connected host `sim`, its datastore `local` and the network `default`.
#[derive(Debug)]
pub struct Fleet {
    pub world: Arc<World>,
    pub connector: SimConnector,
    pub host: SimHost,
    running: Option<Running>,
    directory: Directory,
    settings: Settings,
}

/// Where a fleet's store lies.
#[derive(Debug, Clone)]
enum Directory {
    /// Goes with the fleet.
    Temporary(Arc<TempDir>),
    Lasting(PathBuf),
}

impl Directory {
    fn temporary() -> Self {
        Self::Temporary(Arc::new(tempfile::tempdir().expect("a temporary directory can be made")))
    }

    fn path(&self) -> &Path {
        match self {
            Self::Temporary(directory) => directory.path(),
            Self::Lasting(path) => path,
        }
    }
}

impl Fleet {
    /// # Panics
    /// When the fleet cannot be made.
    pub async fn new() -> Self {
        Self::open(Directory::temporary(), SimConnector::default(), Settings::default()).await
    }

    /// With its state where a server can take it over.
    ///
    /// # Panics
    /// When the fleet cannot be made.
    pub async fn in_directory(directory: &Path) -> Self {
        let directory = Directory::Lasting(directory.to_owned());
        Self::open(directory, SimConnector::default(), Settings::default()).await
    }

    /// Ends the server; its state stays where it is, if it is to stay.
    pub async fn end(mut self) {
        if let Some(running) = self.running.take() {
            running.stop(PATIENCE).await;
        }
    }

    /// With other settings than the usual ones.
    ///
    /// # Panics
    /// When the fleet cannot be made.
    pub async fn with_settings(settings: Settings) -> Self {
        Self::open(Directory::temporary(), SimConnector::default(), settings).await
    }

    async fn open(directory: Directory, connector: SimConnector, settings: Settings) -> Self {
        let world = open_world(directory.path(), &connector, settings.clone()).await;
        let local = LocalHost {
            name: name("sim"),
            address: "127.0.0.1:7444".to_owned(),
            datastore: "/var/lib/hostler/datastores/local".to_owned(),
            subnet: LocalHost::SUBNET.parse().expect("it is a subnet"),
        };
        let id = ensure_local_host(&world, &local).await.expect("the host can be made");
        let running = world.start().await.expect("the world can be started");
        let fleet = Self {
            host: connector.host(id),
            world,
            connector,
            running: Some(running),
            directory,
            settings,
        };
        fleet
            .until("the host is connected", |snapshot| {
                snapshot
                    .get::<HostKind>(id)
                    .is_some_and(|host| host.status.state == HostState::Connected)
            })
            .await;
        fleet
    }

    /// Ends the server as a crash would (`kill`) or properly, and starts it again on the same store
    /// with the same hosts.
    ///
    /// # Panics
    /// When it cannot be started again.
    pub async fn restart(mut self, kill: bool) -> Self {
        let running = self.running.take().expect("it runs");
        if kill {
            running.kill().await;
        } else {
            running.stop(PATIENCE).await;
        }
        let Self { world, connector, directory, settings, .. } = self;
        drop(world);
        Self::open(directory, connector, settings).await
    }

    /// One more connected host.
    ///
    /// # Panics
    /// When it cannot join.
    pub async fn join(&self, host: &str) -> SimHost {
        let token = services::join_token::create(&self.world, &Actor::root(), None).await;
        let token: JoinToken = token.expect("a token").text.parse().expect("it is one");
        let key = KeyRequest::generate().expect("a key");
        let request = Join {
            secret: token.secret().to_owned(),
            name: name(host),
            address: "127.0.0.2:7444".to_owned(),
            csr: key.request().to_owned(),
        };
        let joined = services::host::join(&self.world, request).await.expect("it may join");
        let connected = |snapshot: &Snapshot| {
            let host = snapshot.get::<HostKind>(joined.host);
            host.is_some_and(|host| host.status.state == HostState::Connected)
        };
        self.until("the host is connected", connected).await;
        self.connector.host(joined.host)
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.world.snapshot()
    }

    /// Waits until the inventory is as wished.
    ///
    /// # Panics
    /// When it does not become so.
    pub async fn until(&self, what: &str, wished: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
        let changes = services::watch::watch(&self.world, &Actor::system(), None, Vec::new());
        let mut changes = changes.expect("the system may watch");
        let waiting = async {
            loop {
                let snapshot = self.snapshot();
                if wished(&snapshot) {
                    return snapshot;
                }
                futures::StreamExt::next(&mut changes).await;
            }
        };
        tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| {
            let vms: Vec<_> = (self.snapshot().all::<VmKind>().iter())
                .map(|vm| format!("{} {} {:?}", vm.name(), vm.status.power, vm.status.message))
                .collect();
            panic!("it does not happen that {what}: {vms:?}")
        })
    }

    /// The task as it has ended.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn ended(&self, task: &Task) -> Arc<Task> {
        let id = task.id();
        let what = format!("{} ends", task.name());
        let snapshot = self
            .until(&what, |snapshot| {
                let state = snapshot.get::<TaskKind>(id).map(|task| task.status.state);
                state.is_some_and(|state| {
                    state.is_terminal() || state == hostler_types::TaskState::Stuck
                })
            })
            .await;
        snapshot.get::<TaskKind>(id).expect("it was there").clone()
    }

    /// The task's end, which must be a good one.
    ///
    /// # Panics
    /// When the task fails.
    pub async fn done(&self, task: &Task) {
        let ended = self.ended(task).await;
        let error = &ended.status.error;
        assert_eq!(ended.status.state, hostler_types::TaskState::Done, "{error:?}");
    }

    /// A VM that is made and stopped, from the image `tiny`, which is imported if it is not there.
    ///
    /// # Panics
    /// When it cannot be made.
    pub async fn vm(&self, vm: &str) -> Arc<Vm> {
        self.image("tiny").await;
        let (root, options) = (Actor::root(), Options::default());
        let created = services::vm::create(&self.world, &root, vm_request(vm), &options);
        let created = created.await.unwrap_or_else(|error| panic!("{error:?}"));
        self.done(&created.task.expect("it is no dry run")).await;
        self.show(vm)
    }

    /// A VM that runs.
    ///
    /// # Panics
    /// When it cannot be made or started.
    pub async fn running_vm(&self, vm: &str) -> Arc<Vm> {
        let reference = self.vm(vm).await.reference();
        let (root, options) = (Actor::root(), Options::default());
        let start = services::vm::start(&self.world, &root, &reference, &options);
        self.done(&start.await.expect("it can be started")).await;
        self.show(vm)
    }

    /// The VM as it is.
    ///
    /// # Panics
    /// When there is none.
    pub fn show(&self, vm: &str) -> Arc<Vm> {
        self.snapshot().find::<VmKind>(&Ref::Name(name(vm))).expect("it is there").clone()
    }

    /// An image that is ready.
    ///
    /// # Panics
    /// When it cannot be imported.
    pub async fn image(&self, image: &str) -> Arc<Image> {
        let reference = Ref::Name(name(image));
        if let Ok(found) = self.snapshot().find::<ImageKind>(&reference) {
            return found.clone();
        }
        let (root, options) = (Actor::root(), Options::default());
        let request = ImageCreate {
            name: name(image),
            labels: Labels::new(),
            datastore: None,
            source: ImageSource::Url(format!("https://images.test/{image}")),
            sha256: None,
        };
        let created = services::image::create(&self.world, &root, request, &options);
        let created = created.await.unwrap_or_else(|error| panic!("{error:?}"));
        self.done(&created.task.expect("an import is a task")).await;
        self.snapshot().find::<ImageKind>(&reference).expect("it is there").clone()
    }

    /// The file of the store.
    pub fn store_path(&self) -> std::path::PathBuf {
        self.directory.path().join("hostler.db")
    }
}

/// The tasks of the world before let go of the store when they are polled for the last time.
pub(crate) async fn open_store(path: &Path) -> SqliteStore {
    let begin = std::time::Instant::now();
    loop {
        match SqliteStore::open(path) {
            Err(StoreError::InUse { .. }) if begin.elapsed() < PATIENCE => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            opened => return opened.expect("the store can be opened"),
        }
    }
}

async fn open_world(directory: &Path, connector: &SimConnector, settings: Settings) -> Arc<World> {
    let store: Arc<dyn Store> = Arc::new(open_store(&directory.join("hostler.db")).await);
    let ca = Ca::create_or_open(&directory.join("ca")).expect("the CA can be made");
    let vault = Vault::create_or_open(&directory.join("secrets.key")).expect("a key can be made");
    let options = WorldOptions {
        store,
        connector: Arc::new(connector.clone()),
        ca: Arc::new(ca),
        vault: Arc::new(vault),
        server_address: "10.0.0.1:7443".to_owned(),
        settings,
    };
    World::open(options).await.expect("the world can be opened")
}

fn name(text: &str) -> Name {
    text.parse().expect("tests use good names")
}

/// A request for a small VM from the image `tiny`.
///
/// # Panics
/// When `vm` is no name.
pub fn vm_request(vm: &str) -> VmCreate {
    serde_json::from_value(serde_json::json!({ "name": vm, "image": "tiny" }))
        .expect("it is a request")
}
