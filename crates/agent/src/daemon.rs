//! The daemon's life: listen, find the guests again, serve, and end without touching them.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hostler_host::{Access, Cgroups, Networks as HostNetworks, QemuImg};
use hostler_pki::{CredentialFile, CredentialsError, Identity, tls};
use hostler_types::HostId;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::blocking::blocking;
use crate::cancel::Cancels;
use crate::config::{AgentConfig, identity_path, ready_path};
use crate::context::HostContext;
use crate::datastores::Datastores;
use crate::events::Hub;
use crate::export::Exports;
use crate::facts::FactsSource;
use crate::fault::Fault;
use crate::image::Images;
use crate::listener::Listener;
use crate::measure::{self, Measured};
use crate::networks::Networks;
use crate::peers::Peers;
use crate::resources::Resources;
use crate::routes::{Service, router};
use crate::seats::Seats;
use crate::vm::{Records, Vms};

/// Guests that do not answer must not keep the others from being served.
const ADOPTION: Duration = Duration::from_secs(20);

/// What an operation may still take when the agent is told to end.
const LAST_WORK: Duration = Duration::from_secs(10);

/// Why the agent does not run.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    #[error("cannot make the agent's directories")]
    Directories(#[source] io::Error),
    #[error("this machine is not a host yet; join it with `hostler agent join`")]
    NotJoined(#[source] CredentialsError),
    #[error("the agent's certificate says {0}, which is no host")]
    NotAHost(Identity),
    #[error("TLS cannot be set up")]
    Tls(#[from] tls::TlsError),
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("cannot start the runtime")]
    Runtime(#[source] io::Error),
    #[error("this host cannot run guests")]
    Cgroups(#[from] hostler_host::CgroupError),
    #[error("cannot read the agent's state: {0}")]
    State(String),
}

impl From<Fault> for AgentError {
    fn from(fault: Fault) -> Self {
        Self::State(fault.to_string())
    }
}

/// Runs the agent on a small runtime of its own until SIGTERM or SIGINT.
///
/// # Errors
/// See [`AgentError`].
pub fn run_until_signalled(config: AgentConfig) -> Result<(), AgentError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(16)
        .thread_keep_alive(Duration::from_secs(2))
        .thread_stack_size(2 << 20)
        .enable_all()
        .build()
        .map_err(AgentError::Runtime)?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(AgentError::Runtime)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(AgentError::Runtime)?;
        let told = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        run(config, told).await
    })
}

/// Runs the agent until `until` is over. Guests run on afterwards.
///
/// # Errors
/// See [`AgentError`].
pub async fn run(config: AgentConfig, until: impl Future<Output = ()>) -> Result<(), AgentError> {
    config.create_directories().map_err(AgentError::Directories)?;
    let path = identity_path(&config.state_dir);
    let credentials = CredentialFile::open(&path).map_err(AgentError::NotJoined)?;
    let id = host_id(&credentials)?;
    let listener = bind(&config, &credentials).await?;
    let stop = CancellationToken::new();
    // Whatever way this ends, the tasks do too.
    let _guard = stop.clone().drop_guard();

    let service = prepare(&config, id, Peers::new(credentials), stop.clone()).await?;
    let datastores = tokio::spawn(service.host.datastores.clone().watch(stop.clone()));
    let hub = service.host.hub.clone();
    let measured = (service.resources.clone(), service.vms.clone(), service.measured.clone());
    let measuring = measure::run(measured, hub, stop.clone());
    let measuring = tokio::spawn(measuring);
    let networks = service.host.networks.clone();
    let networks = tokio::spawn(async move { networks.ensure_all().await });
    announce(&config, &listener)?;
    let vms = service.vms.clone();
    let seats = service.host.seats.clone();
    let serving = tokio::spawn(listener.serve(router(service), seats, stop.clone()));
    until.await;
    tracing::info!("ending; guests run on");
    let _ = std::fs::remove_file(ready_path(&config.runtime_dir));
    stop.cancel();
    networks.abort();
    for task in [serving, datastores, measuring] {
        if let Err(error) = task.await {
            tracing::error!(%error, "a task of the agent panicked");
        }
    }
    if tokio::time::timeout(LAST_WORK, vms.ended()).await.is_err() {
        tracing::warn!("some operations were cut off; they are repeated when asked for again");
    }
    Ok(())
}

fn host_id(credentials: &CredentialFile) -> Result<HostId, AgentError> {
    let no_identity = AgentError::Tls(tls::TlsError::NoIdentity);
    match credentials.credentials().map(hostler_pki::Credentials::identity) {
        Some(Identity::Host(id)) => Ok(id),
        Some(other) => Err(AgentError::NotAHost(other)),
        None => Err(no_identity),
    }
}

async fn bind(config: &AgentConfig, credentials: &CredentialFile) -> Result<Listener, AgentError> {
    let tls = Arc::new(tls::agent_server(credentials)?);
    let address = config.listen;
    Listener::bind(address, tls).await.map_err(|source| AgentError::Listen { address, source })
}

fn processors() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Reads the state and takes the guests up again.
async fn prepare(
    config: &AgentConfig,
    id: HostId,
    peers: Peers,
    stop: CancellationToken,
) -> Result<Service, AgentError> {
    let hub = Hub::new();
    match hostler_host::userfault::grant() {
        Ok(true) => {}
        Ok(false) => tracing::warn!("no userfaultfd: guests stand still for longer in snapshots"),
        Err(error) => tracing::warn!(%error, "QEMU cannot be given userfaultfd"),
    }
    match hostler_host::huge_pages::allow() {
        Ok(true) => {}
        Ok(false) => tracing::warn!("no huge pages for guests' memory: guests run slower"),
        Err(error) => tracing::warn!(%error, "guests' memory cannot have huge pages"),
    }
    let cgroups = Cgroups::detect()?;
    let facts = FactsSource::begin(config.state().join("accelerator.json"), cgroups.clone());
    let records = Records::new(config.vm_records());
    let (datastores, networks, known, resources) = blocking({
        let (config, hub, records) = (config.clone(), hub.clone(), records.clone());
        let cgroups = cgroups.clone();
        move || {
            let datastores = Datastores::load(config.state().join("datastores.json"), hub)?;
            let host = HostNetworks::new(config.networks());
            let networks = Networks::load(host, config.state().join("networks.json"))?;
            let resources = Resources::load(config.state().join("resources.json"), cgroups)?;
            Ok((datastores, networks, records.load()?, resources))
        }
    })
    .await?;
    let qemu_img = QemuImg::new();
    let host = Arc::new(HostContext {
        id,
        hub: hub.clone(),
        datastores: datastores.clone(),
        networks,
        cgroups,
        qemu_img: qemu_img.clone(),
        records,
        facts,
        cancels: Cancels::default(),
        peers,
        seats: Seats::default(),
        identities: Arc::new(Semaphore::new(processors())),
        appliance: config.appliance.clone(),
        runtime: config.vm_runtime(),
        stop,
    });
    let vms = Vms::new(host.clone());
    let adopting = vms.adopt_all(known);
    if tokio::time::timeout(ADOPTION, adopting).await.is_err() {
        tracing::warn!("some guests do not answer; serving without them for now");
    }
    let images = Images::new(config.image_records(), datastores, hub, qemu_img);
    let exports = Exports::new(host.clone(), vms.clone());
    let measured = Measured::default();
    Ok(Service { host, vms, images, exports, resources, measured })
}

/// Tells whoever waits that the agent can be called, and where.
fn announce(config: &AgentConfig, listener: &Listener) -> Result<(), AgentError> {
    let listen = |source| AgentError::Listen { address: config.listen, source };
    let address = listener.address().map_err(listen)?;
    let access = Access { mode: 0o644, ..Access::ROOT_ONLY };
    let path = ready_path(&config.runtime_dir);
    hostler_host::write_atomic(&path, address.to_string().as_bytes(), access)
        .map_err(AgentError::Directories)?;
    notify_service_manager();
    tracing::info!(%address, "the agent listens");
    Ok(())
}

/// Tells systemd, if it asked, that the service is up.
fn notify_service_manager() {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let Ok(socket) = std::os::unix::net::UnixDatagram::unbound() else { return };
    let sent = match path.to_str().and_then(|path| path.strip_prefix('@')) {
        Some(name) => {
            use std::os::linux::net::SocketAddrExt;
            std::os::unix::net::SocketAddr::from_abstract_name(name)
                .and_then(|address| socket.send_to_addr(b"READY=1", &address))
        }
        None => socket.send_to(b"READY=1", path),
    };
    if let Err(error) = sent {
        tracing::debug!(%error, "cannot notify the service manager");
    }
}
