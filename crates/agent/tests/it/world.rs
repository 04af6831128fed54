//! An agent of one's own: directories, CA, certificates, and a client that is the server.

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use hostler_agent::{AgentConfig, identity_path, ready_path};
use hostler_agent_api as api;
use hostler_agent_api::{
    DatastoreCheck, DatastorePath, ImageContentQuery, ImageImportRequest, ImageImportSource,
    ImageImported, ImagePath, VmCommand, VmCreateRequest, VmDefinition, VmPath, VmReport,
};
use hostler_endpoint::{ByteStream, CallOptions, Client, ClientError, NoParams, Problem};
use hostler_pki::{Ca, CredentialFile, Identity, KeyRequest, tls};
use hostler_types::{
    ByteSize, DatastoreId, DiskBus, DiskSource, DiskSpec, Epoch, HostId, ImageId, NetworkSpec,
    OperationId, PowerState, SnapshotId, Vm, VmId, VmSpec, VmStatus,
};
use jiff::Timestamp;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const STATE_VARIABLE: &str = "HOSTLER_TEST_AGENT";

pub(crate) struct World {
    folder: TempDir,
    pub(crate) ca: Ca,
    pub(crate) host: HostId,
    pub(crate) datastore: DatastoreId,
    pub(crate) client: Client,
    /// What an agent in a process of its own has mounted, beside what all have: from, and where.
    mounts: Vec<(PathBuf, PathBuf)>,
    running: Option<Running>,
}

enum Running {
    Task(oneshot::Sender<()>, JoinHandle<()>),
    Process(Child),
}

impl World {
    /// An agent that runs in this process, with one datastore.
    pub(crate) async fn start() -> Self {
        let mut world = Self::prepare();
        world.start_agent().await;
        world.ensure_datastore().await.unwrap();
        world
    }

    /// An agent in a process of its own, which can be killed.
    pub(crate) async fn start_process() -> Self {
        let mut world = Self::prepare();
        world.spawn_agent().await;
        world.ensure_datastore().await.unwrap();
        world
    }

    pub(crate) fn prepare() -> Self {
        crate::enter::enter();
        Self::beside()
    }

    /// Another host in the same network, that is in the one of the thread.
    pub(crate) fn beside() -> Self {
        Self::of_ca(None)
    }

    /// As [`World::beside`], of the same server.
    pub(crate) fn joined(other: &Self) -> Self {
        Self::of_ca(Some(&other.path("ca")))
    }

    fn of_ca(authority: Option<&Path>) -> Self {
        // Short: the path of a Unix socket has at most 107 bytes.
        let folder = tempfile::Builder::new().prefix("ha-").tempdir().unwrap();
        if let Some(authority) = authority {
            let copied = Command::new("cp").arg("-a").arg(authority).arg(folder.path()).status();
            assert!(copied.unwrap().success());
        }
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        std::fs::set_permissions(folder.path(), open).unwrap();
        let ca = Ca::create_or_open(&folder.path().join("ca")).unwrap();
        let host = HostId::generate();
        host_credentials(&ca, host).save(&identity_path(folder.path())).unwrap();
        let datastore = DatastoreId::generate();
        let unused = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::pinned_client(ca.fingerprint()).unwrap())
            .build()
            .unwrap();
        let client = Client::new(unused, "https://127.0.0.1:1");
        Self { folder, ca, host, datastore, client, mounts: Vec::new(), running: None }
    }

    /// What agents that are spawned from now on have mounted: from, and where.
    pub(crate) fn mounts(&mut self) -> &mut Vec<(PathBuf, PathBuf)> {
        &mut self.mounts
    }

    /// What it has mounted is gone from there, whoever uses it, for the agent that runs.
    pub(crate) fn unmount(&self, place: &Path) {
        let Some(Running::Process(child)) = &self.running else { panic!("it is no process") };
        let mut umount = Command::new("nsenter");
        umount
            .args(["--mount", "--target", &child.id().to_string(), "umount", "--lazy"])
            .arg(place);
        assert!(umount.status().unwrap().success());
    }

    pub(crate) fn config(&self) -> AgentConfig {
        AgentConfig {
            state_dir: self.folder.path().to_owned(),
            runtime_dir: self.folder.path().join("run"),
            listen: "127.0.0.1:0".parse().unwrap(),
            appliance: appliance(),
        }
    }

    pub(crate) async fn start_agent(&mut self) {
        let (stop, stopped) = oneshot::channel();
        let config = self.config();
        let task = tokio::spawn(async move {
            hostler_agent::run(config, async { drop(stopped.await) }).await.unwrap();
        });
        self.running = Some(Running::Task(stop, task));
        self.connect().await;
    }

    pub(crate) async fn spawn_agent(&mut self) {
        let program = std::env::current_exe().unwrap();
        let mut command = match self.mounts.is_empty() {
            true => Command::new(program),
            false => {
                // Each becomes the next, so that the process is the agent's in the end.
                let mut command = Command::new("unshare");
                command.args(["--mount", "--propagation", "private", "sh", "-ec"]);
                let mounts = "while [ \"$1\" ]; do mount --bind \"$1\" \"$2\"; shift 2; done; \
                              shift; exec \"$@\"";
                command.args([mounts, "sh"]);
                command.args(self.mounts.iter().flat_map(|(from, to)| [from, to]));
                command.arg("").arg(program);
                command
            }
        };
        let child = command
            .args(["--exact", "world::an_agent_process", "--nocapture"])
            .env(STATE_VARIABLE, self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        self.running = Some(Running::Process(child));
        self.connect().await;
    }

    /// Ends the agent in an orderly way (in this process) or by SIGKILL (in its own).
    pub(crate) async fn end_agent(&mut self) {
        match self.running.take() {
            Some(Running::Task(stop, task)) => {
                drop(stop);
                task.await.unwrap();
            }
            Some(Running::Process(mut child)) => {
                child.kill().unwrap();
                child.wait().unwrap();
            }
            None => {}
        }
        let _ = std::fs::remove_file(ready_path(&self.config().runtime_dir));
    }

    /// Of an agent in a process of its own.
    pub(crate) fn agent_pid(&self) -> u32 {
        let Some(Running::Process(child)) = &self.running else { panic!("it is no process") };
        child.id()
    }

    async fn connect(&mut self) {
        let ready = ready_path(&self.config().runtime_dir);
        let address = eventually("the agent listens", Duration::from_secs(30), async || {
            std::fs::read_to_string(&ready).ok()?.parse().ok()
        })
        .await;
        self.client = self.client_as(&self.server_credentials(), address);
    }

    pub(crate) fn address(&self) -> SocketAddr {
        let ready = ready_path(&self.config().runtime_dir);
        std::fs::read_to_string(ready).unwrap().parse().unwrap()
    }

    pub(crate) fn server_credentials(&self) -> CredentialFile {
        self.ca.ensure_server(&self.folder.path().join("server.pem"), &[]).unwrap()
    }

    pub(crate) fn client_as(&self, credentials: &CredentialFile, address: SocketAddr) -> Client {
        let tls = tls::agent_client(credentials, Identity::Host(self.host)).unwrap();
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .http2_prior_knowledge()
            .no_proxy()
            .build()
            .unwrap();
        Client::new(http, &format!("https://{address}"))
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) async fn ensure_datastore(&self) -> Result<api::DatastoreReport, ClientError> {
        let path = DatastorePath { datastore: self.datastore };
        let check = DatastoreCheck {
            path: self.path("store").to_str().unwrap().to_owned(),
            create: true,
            shared: false,
        };
        self.client.call::<api::DatastoreEnsure>(&path, &NoParams {}, check).await
    }

    pub(crate) async fn upload(&self, image: ImageId, bytes: &[u8]) -> u64 {
        self.upload_at(image, 0, bytes).await.unwrap()
    }

    pub(crate) async fn upload_at(
        &self,
        image: ImageId,
        offset: u64,
        bytes: &[u8],
    ) -> Result<u64, Problem> {
        let query = ImageContentQuery { datastore: self.datastore, offset };
        let chunks: Vec<_> = bytes
            .chunks(64 << 10)
            .map(|c| Ok(hostler_endpoint::Bytes::copy_from_slice(c)))
            .collect();
        let body: ByteStream = Box::pin(futures::stream::iter(chunks));
        let path = ImagePath { image };
        let answer = self.client.call::<api::ImageUpload>(&path, &query, body).await;
        answer.map(|answer| answer.received.bytes()).map_err(problem)
    }

    pub(crate) async fn import(
        &self,
        image: ImageId,
        source: ImageImportSource,
    ) -> Result<ImageImported, Problem> {
        let op = OperationId::generate();
        let request = ImageImportRequest { op, datastore: self.datastore, source, sha256: None };
        let path = ImagePath { image };
        let options = long();
        let answer =
            self.client.call_with::<api::ImageImport>(&path, &NoParams {}, request, options).await;
        answer.map_err(problem)
    }

    /// Uploads the tiny guest.
    pub(crate) async fn tiny_image(&self) -> ImageId {
        let bytes = std::fs::read(tiny_image()).unwrap();
        let image = ImageId::generate();
        let size = self.upload(image, &bytes).await;
        self.import(image, ImageImportSource::Uploaded(ByteSize(size))).await.unwrap();
        image
    }

    /// A VM with one disk, not created yet.
    pub(crate) fn vm(&self, source: DiskSource) -> VmDefinition {
        let image = source.image();
        let disk = DiskSpec {
            limits: Default::default(),
            provisioning: Default::default(),
            name: "disk0".parse().unwrap(),
            size: ByteSize::gib(1),
            source,
            bus: DiskBus::VirtioBlk,
        };
        let spec: VmSpec = serde_json::from_value(serde_json::json!({
            "cpus": 1,
            "memory": "256MiB",
            "disks": [disk],
            "customization": {"hostname": "tiny01"},
        }))
        .unwrap();
        let status = VmStatus {
            hardware: None,
            cpu: None,
            pending: Vec::new(),
            power: PowerState::Creating,
            power_since: Timestamp::now(),
            message: None,
            host: self.host,
            epoch: Epoch(1),
            datastore: self.datastore,
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
        let name = "web01".parse().unwrap();
        let vm = Vm::new(name, hostler_types::Labels::new(), Timestamp::now(), spec, status);
        let images = image.map(|image| (image, self.datastore)).into_iter().collect();
        VmDefinition { vm, images, networks: Vec::new(), customization_hash: None }
    }

    pub(crate) async fn create(&self, definition: &VmDefinition) -> Result<VmReport, Problem> {
        self.create_as(command(1), definition).await
    }

    pub(crate) async fn create_as(
        &self,
        command: VmCommand,
        definition: &VmDefinition,
    ) -> Result<VmReport, Problem> {
        let path = VmPath { vm: definition.vm.id() };
        let request = VmCreateRequest { command, definition: definition.clone() };
        self.client.call::<api::VmCreate>(&path, &NoParams {}, request).await.map_err(problem)
    }

    pub(crate) async fn vm_start(&self, vm: VmId) -> Result<VmReport, Problem> {
        let path = VmPath { vm };
        let answer =
            self.client.call_with::<api::VmStart>(&path, &NoParams {}, command(1).into(), long());
        answer.await.map_err(problem)
    }

    pub(crate) async fn stop(
        &self,
        vm: VmId,
        mode: hostler_types::StopMode,
        timeout_seconds: u32,
    ) -> Result<VmReport, Problem> {
        let request = api::VmStopRequest { command: command(1), mode, timeout_seconds };
        let path = VmPath { vm };
        let answer = self.client.call_with::<api::VmStop>(&path, &NoParams {}, request, long());
        answer.await.map_err(problem)
    }

    /// Lends its disks, or those of a snapshot, to others.
    pub(crate) async fn freeze(
        &self,
        vm: VmId,
        snapshot: Option<SnapshotId>,
    ) -> Result<api::VmFrozen, Problem> {
        let (request, path) =
            (api::VmFreezeRequest { command: command(1), snapshot }, VmPath { vm });
        self.client.call::<api::VmFreeze>(&path, &NoParams {}, request).await.map_err(problem)
    }

    pub(crate) async fn remove(&self, vm: VmId, keep: bool, force: bool) -> Result<(), Problem> {
        let request = api::VmRemoveRequest {
            command: command(1),
            datastore: self.datastore,
            keep_files: keep,
            force,
        };
        let answer = self.client.call::<api::VmRemove>(&VmPath { vm }, &NoParams {}, request).await;
        answer.map_err(problem)
    }

    pub(crate) async fn report(&self, vm: VmId) -> Option<VmReport> {
        let inventory =
            self.client.call::<api::HostInventory>(&NoParams {}, &NoParams {}, ()).await.unwrap();
        inventory.vms.into_iter().find(|report| report.vm == vm)
    }

    /// What an agent that was started just now finds out: it answers at once, and needs a moment to
    /// know what the VM does.
    pub(crate) async fn found(&self, vm: VmId) -> VmReport {
        self.wait_for("known", vm, |report| report.power != PowerState::Unknown).await
    }

    pub(crate) async fn wait_for(
        &self,
        what: &str,
        vm: VmId,
        holds: impl Fn(&VmReport) -> bool,
    ) -> VmReport {
        eventually(what, Duration::from_secs(90), async || {
            self.report(vm).await.filter(|report| holds(report))
        })
        .await
    }

    /// Nothing of any VM is left: files, records, runtime directories, processes.
    pub(crate) fn assert_nothing_left(&self) {
        for folder in ["store/vms", "agent/vms", "run/agent/vms"] {
            let left: Vec<_> = std::fs::read_dir(self.path(folder))
                .unwrap()
                .map(|entry| entry.unwrap().path())
                .collect();
            assert!(left.is_empty(), "{folder}: {left:?}");
        }
        assert_eq!(self.qemu_pids(), Vec::<u32>::new());
    }

    /// QEMU processes of this world.
    pub(crate) fn qemu_pids(&self) -> Vec<u32> {
        let folder = self.folder.path().to_str().unwrap().to_owned();
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).into_owned();
            if line.contains("qemu-system") && line.contains(&folder) {
                found.push(pid);
            }
        }
        found
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(Running::Process(child)) = &mut self.running {
            let _ = child.kill();
            let _ = child.wait();
        }
        for pid in self.qemu_pids() {
            let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
}

/// Not a test: the agent of [`World::spawn_agent`], when it is told to be one.
#[test]
fn an_agent_process() {
    let Some(folder) = std::env::var_os(STATE_VARIABLE) else { return };
    let folder = PathBuf::from(folder);
    let config = AgentConfig {
        runtime_dir: folder.join("run"),
        state_dir: folder,
        listen: "127.0.0.1:0".parse().unwrap(),
        appliance: appliance(),
    };
    hostler_agent::run_until_signalled(config).unwrap();
}

pub(crate) fn host_credentials(ca: &Ca, host: HostId) -> hostler_pki::Credentials {
    let key = KeyRequest::generate().unwrap();
    let certificate = ca.issue_host(host, &["127.0.0.1".to_owned()], key.request()).unwrap();
    key.complete(&certificate, ca.pem()).unwrap()
}

pub(crate) fn command(epoch: u64) -> VmCommand {
    VmCommand { op: OperationId::generate(), epoch: Epoch(epoch) }
}

pub(crate) fn long() -> CallOptions {
    CallOptions { timeout: Some(Duration::from_secs(180)), ..CallOptions::default() }
}

/// The agent's refusal; anything else is a broken test.
#[track_caller]
pub(crate) fn problem(error: ClientError) -> Problem {
    match error {
        ClientError::Problem(problem) => *problem,
        other => panic!("not an answer: {other}"),
    }
}

pub(crate) async fn eventually<T>(
    what: &str,
    within: Duration,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> T {
    let begin = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(begin.elapsed() < within, "waited {within:?} in vain: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Runs a future with a limit, so that a hang is a failure with a name.
pub(crate) async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(limit, future).await.expect("it ends in time")
}

pub(crate) fn nat(subnet: &str) -> NetworkSpec {
    NetworkSpec::Nat { subnet: subnet.parse().unwrap(), pool: None }
}

fn tiny_image() -> PathBuf {
    built("tiny")
}

/// The machine that seals disks; only built by who calls [`build_appliance`].
fn appliance() -> PathBuf {
    let from = |variable: &str| std::env::var_os(variable).map(PathBuf::from);
    let cache = from("HOSTLER_CACHE")
        .or_else(|| from("XDG_CACHE_HOME").map(|cache| cache.join("hostler")))
        .or_else(|| from("HOME").map(|home| home.join(".cache/hostler")));
    cache.expect("somebody runs the tests").join("images/appliance")
}

pub(crate) fn build_appliance() {
    assert_eq!(built("appliance"), appliance());
}

fn built(kind: &str) -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/build-image");
    let output = std::process::Command::new(script).arg(kind).output().unwrap();
    assert!(output.status.success(), "scripts/build-image {kind} failed");
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}
