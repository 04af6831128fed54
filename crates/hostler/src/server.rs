//! `hostler server`: opens what the server is made of, in the order in which it is needed.
//!
//! 1. the state directory and the store (a second server on it is refused),
//! 2. the CA and the server's certificate, and the key that seals stored secrets,
//! 3. the inventory,
//! 4. with `--with-agent`: the local host's record and certificate, and its agent,
//! 5. sockets, unfinished tasks, controllers; then requests are answered.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use hostler_cli::ServerOptions;
use hostler_control::{
    BalancingPace, LocalHost, RemoteConnector, Settings, WebhookRules, World, WorldOptions,
    ensure_local_host,
};
use hostler_pki::{Ca, CredentialFile, Credentials, Identity, KeyRequest, Vault, tls};
use hostler_server::{Server, bind_tcp, bind_unix};
use hostler_store::SqliteStore;
use hostler_types::{ApprovalNeed, HostId, HostKind, Name};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::local_agent;

/// How long steps at work may take to come to their end when the server is told to stop.
const LAST_STEPS: Duration = Duration::from_secs(10);
/// How often certificates are looked at.
const RENEWAL: Duration = Duration::from_secs(24 * 3600);

pub(crate) async fn run(options: ServerOptions) -> Result<()> {
    allow_open_files();
    for folder in [&options.state_dir, &options.runtime_dir] {
        create_passable(folder)?;
    }
    // Before everything else: what is in the way is found out before anything is started.
    let unix = bind_unix(&options.runtime_dir.join("server.sock"))?;
    let tcp = bind_tcp(options.listen).await?;

    let database = options.state_dir.join("hostler.db");
    let store = Arc::new(SqliteStore::open(&database)?);
    let ca = Arc::new(Ca::create_or_open(&options.state_dir.join("ca"))?);
    let credentials = server_credentials(&ca, &options)?;
    let vault = Vault::create_or_open(&options.state_dir.join("secrets.key"))?;
    let world = World::open(WorldOptions {
        store,
        connector: Arc::new(RemoteConnector::new(credentials)),
        ca: ca.clone(),
        vault: Arc::new(vault),
        server_address: advertised(&options),
        settings: settings(&options)?,
    })
    .await?;

    let closing = CancellationToken::new();
    let agent = if options.with_agent {
        prepare_local_host(&world, &ca, &options).await?;
        Some(local_agent::supervise(options.clone(), closing.clone()))
    } else {
        None
    };
    let public = match (&options.tls_cert, &options.tls_key) {
        (Some(certificate), Some(key)) => CredentialFile::open_pair(certificate, key)?,
        _ => server_credentials(&ca, &options)?,
    };
    let tls = Arc::new(tls::public_server(&public)?);
    let running = world.start().await?;
    let renewal = tokio::spawn(renew(ca.clone(), options.clone()));

    tracing::info!(
        api = %options.listen,
        socket = %options.runtime_dir.join("server.sock").display(),
        ca = %ca.fingerprint(),
        "ready"
    );
    // Fails only where there is no service manager to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let server = Server { world: world.clone(), tcp, tls, unix: Some(unix) };
    let serving = tokio::spawn(server.run(closing.clone()));
    told_to_end().await?;

    tracing::info!("ending; guests go on");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    closing.cancel();
    renewal.abort();
    running.stop(LAST_STEPS).await;
    if let Some(agent) = agent {
        agent.await.context("the agent's supervisor failed")?;
    }
    serving.await.context("the API failed")
}

/// Each host and each watcher is a connection: as many files may be open as an operator allows at all,
/// not only the 1024 that processes begin with.
fn allow_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "no more files may be open than {:?}", limit.current);
    }
}

/// Others may pass through (QEMU's users reach their disks below), not list.
fn create_passable(folder: &Path) -> Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(folder)
        .with_context(|| format!("cannot make {}", folder.display()))
}

fn server_credentials(ca: &Ca, options: &ServerOptions) -> Result<CredentialFile> {
    let path = options.state_dir.join("tls/server.pem");
    Ok(ca.ensure_server(&path, &addresses(options))?)
}

fn settings(options: &ServerOptions) -> Result<Settings> {
    let retention =
        options.recycle_retention.try_into().context("--recycle-retention is too long")?;
    let lease_grace = options.lease_grace.try_into().context("--lease-grace is too long")?;
    let approval_wait = options.approval_wait.try_into().context("--approval-wait is too long")?;
    let approval = ApprovalNeed { approvals: options.approvals, ..ApprovalNeed::default() };
    let (plain_http, networks) = (options.webhook_http, options.webhook_networks.clone());
    let webhooks = WebhookRules { plain_http, networks };
    Ok(Settings {
        retention,
        lease_grace,
        approval,
        approval_wait,
        webhooks,
        balancing: BalancingPace::default(),
    })
}

/// What clients may call this machine.
fn addresses(options: &ServerOptions) -> Vec<String> {
    let mut addresses = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
    addresses.extend(hostname());
    if !options.listen.ip().is_unspecified() {
        addresses.push(options.listen.ip().to_string());
    }
    addresses.extend(options.tls_names.iter().cloned());
    addresses.sort();
    addresses.dedup();
    addresses
}

/// Where other hosts reach this server: what the operator named, else this machine's name.
fn advertised(options: &ServerOptions) -> String {
    let host = (options.tls_names.first().cloned())
        .or_else(|| {
            let address = options.listen.ip();
            (!address.is_unspecified()).then(|| address.to_string())
        })
        .or_else(hostname)
        .unwrap_or_else(|| "localhost".to_owned());
    format!("{host}:{}", options.listen.port())
}

fn hostname() -> Option<String> {
    let name = rustix::system::uname();
    let name = name.nodename().to_str().ok()?;
    (!name.is_empty()).then(|| name.to_owned())
}

/// The local host's record, and the certificate that makes its agent that host.
async fn prepare_local_host(world: &World, ca: &Ca, options: &ServerOptions) -> Result<()> {
    let path = hostler_agent::identity_path(&options.state_dir);
    let known =
        Credentials::load(&path).ok().filter(|own| own.ca_fingerprint() == ca.fingerprint());
    let known = known.and_then(|own| match own.identity() {
        Identity::Host(host) => Some((host, own.expires_at())),
        Identity::Server => None,
    });
    let local = LocalHost {
        name: local_name(world, known.map(|(host, _)| host)),
        address: options.agent_listen.to_string(),
        datastore: datastore(options)?,
        subnet: LocalHost::SUBNET.parse().context("the default subnet is a network")?,
    };
    let host =
        ensure_local_host(world, &local).await.map_err(|error| anyhow::anyhow!("{error}"))?;
    let fresh = known.is_some_and(|(known, expires_at)| {
        let soon = std::time::SystemTime::now() + 30 * RENEWAL;
        known == host && expires_at > soon
    });
    if !fresh {
        let key = KeyRequest::generate()?;
        let address = options.agent_listen.ip().to_string();
        let certificate = ca.issue_host(host, &[address], key.request())?;
        key.complete(&certificate, ca.pem())?.save(&path)?;
    }
    Ok(())
}

/// The name under which this machine is in the inventory; else one made from its host name.
fn local_name(world: &World, known: Option<HostId>) -> Name {
    let snapshot = world.snapshot();
    if let Some(host) = known.and_then(|id| snapshot.all::<HostKind>().get(id)) {
        return host.name().clone();
    }
    let label: String = hostname()
        .unwrap_or_default()
        .split('.')
        .next()
        .unwrap_or_default()
        .to_lowercase()
        .chars()
        .filter(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == '-')
        .take(63)
        .collect();
    let fallback = || "localhost".parse().expect("`localhost` is a name");
    label.trim_matches('-').parse().unwrap_or_else(|_| fallback())
}

fn datastore(options: &ServerOptions) -> Result<String> {
    let chosen = options.datastore.clone();
    let path = chosen.unwrap_or_else(|| options.state_dir.join("datastores/local"));
    let path =
        std::path::absolute(&path).context("the datastore's path cannot be made absolute")?;
    path.into_os_string().into_string().ok().context("the datastore's path is not UTF-8")
}

/// Renews the certificates long before they end; listeners pick the files up.
async fn renew(ca: Arc<Ca>, options: ServerOptions) {
    let mut days = tokio::time::interval(RENEWAL);
    loop {
        days.tick().await;
        if let Err(error) = server_credentials(&ca, &options) {
            tracing::error!("the server's certificate cannot be renewed: {error:#}");
        }
    }
}

async fn told_to_end() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
