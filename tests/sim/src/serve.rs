//! The agents of thousands of hosts in one process, over the network as real ones: TCP, mutual TLS,
//! HTTP/2. They tell what they have and that it changes; they carry nothing out.
//!
//! All listen on one port. Which host is meant tells the address that was called.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use futures::StreamExt;
use hostler_agent_api as api;
use hostler_agent_api::{AgentEvent, DatastoreReport, FactsAnswer, Inventory, VmReport, VmUse};
use hostler_endpoint::{EventStream, Item, Problem, Routes};
use hostler_pki::{Ca, CredentialFile, KeyRequest, tls};
use hostler_types::{ByteSize, DatastoreState, DiskUse, HostFacts, HostUse, ResourceUse, VmId};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use jiff::Timestamp;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::BroadcastStream;

use crate::bulk::{PORT, Pattern, Recorded, RecordedHost};
use crate::host::SimHost;

/// Changes kept for a reader that is behind.
const KEPT: usize = 16;

/// A host's agent.
#[derive(Debug)]
struct Agent {
    host: RecordedHost,
    facts: HostFacts,
    tls: Arc<rustls::ServerConfig>,
    pattern: Arc<Pattern>,
    /// VMs that change, and when.
    events: broadcast::Sender<(VmId, Timestamp)>,
    changes: AtomicU64,
}

impl Agent {
    /// A VM whose guest began to answer at some time, if it has.
    fn report(&self, vm: VmId, answers: Option<Timestamp>) -> VmReport {
        let mut report = self.pattern.report(vm);
        if let Some(since) = answers {
            let text = serde_json::json!({ "agent": true, "since": since });
            let guest = serde_json::from_value(text);
            report.guest = Some(guest.expect("everything else may be left out"));
        }
        report
    }

    fn datastore(&self) -> DatastoreReport {
        DatastoreReport {
            datastore: self.host.datastore,
            state: DatastoreState::Ready,
            message: None,
            capacity: ByteSize::gib(4096),
            free: ByteSize::gib(3000),
        }
    }

    fn inventory(&self) -> Inventory {
        let vms: Vec<_> = self.host.vms.iter().map(|vm| self.report(*vm, None)).collect();
        let running = vms.iter().filter(|report| report.power.is_live());
        let used = running.map(|report| VmUse { vm: report.vm, used: used() }).collect();
        let host_used = Some(HostUse { cpu_millicpus: 4000, ..HostUse::default() });
        Inventory {
            vms,
            datastores: vec![self.datastore()],
            used,
            host_used,
            elsewhere: Vec::new(),
        }
    }

    fn stream(self: Arc<Self>) -> EventStream<AgentEvent> {
        let changes = BroadcastStream::new(self.events.subscribe());
        let first = Item { id: 0, data: AgentEvent::Inventory(self.inventory()) };
        let changes = changes.map(move |change| match change {
            Ok((vm, at)) => {
                let id = self.changes.fetch_add(1, Ordering::Relaxed) + 1;
                Ok(Item { id, data: AgentEvent::Vm(Box::new(self.report(vm, Some(at)))) })
            }
            Err(_) => Err(Problem::new(503, "slow_reader", "the reader is too slow")),
        });
        futures::stream::once(async { Ok(first) }).chain(changes).boxed()
    }
}

/// Of a guest with something to do.
fn used() -> ResourceUse {
    let disk = DiskUse { per_second: 10, bytes_per_second: 1 << 20, latency_us: 900 };
    ResourceUse {
        cpu_millicpus: 120,
        cpu_ready_millicpus: 10,
        memory: 700 << 20,
        memory_active: 500 << 20,
        reads: disk,
        writes: disk,
        ..ResourceUse::default()
    }
}

/// The agents of a recorded fleet, ready to be served.
#[derive(Debug)]
pub struct Agents(HashMap<Ipv4Addr, Arc<Agent>>);

impl Agents {
    /// Lets the CA in `directory`, which the server has to use, say who they are.
    ///
    /// # Errors
    /// The CA or the certificates cannot be read or written.
    pub fn new(directory: &Path, recorded: Recorded) -> Result<Self> {
        let ca = Ca::create_or_open(&directory.join("ca"))?;
        let folder = tempfile::tempdir()?;
        let pattern = Arc::new(recorded.pattern);
        let mut agents = HashMap::new();
        for host in recorded.hosts {
            let key = KeyRequest::generate()?;
            let certificate = ca.issue_host(host.id, &[host.address.to_string()], key.request())?;
            let path = folder.path().join(format!("{}.pem", host.id));
            key.complete(&certificate, ca.pem())?.save(&path)?;
            let tls = Arc::new(tls::agent_server(&CredentialFile::open(&path)?)?);
            let agent = Agent {
                facts: SimHost::new(host.id).facts(),
                tls,
                pattern: pattern.clone(),
                events: broadcast::Sender::new(KEPT),
                changes: AtomicU64::new(0),
                host,
            };
            agents.insert(agent.host.address, Arc::new(agent));
        }
        Ok(Self(agents))
    }

    /// Serves for ever, with so many changes a second in all, evenly over the hosts.
    ///
    /// # Errors
    /// The port is taken.
    pub async fn serve(self, changes_per_second: f64, listening: impl FnOnce()) -> Result<()> {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT)).await;
        let listener = listener.with_context(|| format!("cannot listen on port {PORT}"))?;
        listening();
        if changes_per_second > 0.0 {
            let agents: Vec<_> = self.0.values().cloned().collect();
            tokio::spawn(change(agents, Duration::from_secs_f64(1.0 / changes_per_second)));
        }
        loop {
            let Ok((stream, _)) = listener.accept().await else {
                // Out of file descriptors: some may be free again in a moment.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            let Ok(std::net::SocketAddr::V4(called)) = stream.local_addr() else { continue };
            let Some(agent) = self.0.get(called.ip()).cloned() else { continue };
            // Whoever calls notices by itself, and calls again.
            tokio::spawn(async move { connection(stream, agent).await.ok() });
        }
    }
}

/// One VM after the other changes: the first of each host, then the second, …
async fn change(agents: Vec<Arc<Agent>>, interval: Duration) {
    let mut ticks = tokio::time::interval(interval);
    for number in 0_usize.. {
        ticks.tick().await;
        let agent = &agents[number % agents.len()];
        let vms = &agent.host.vms;
        if let Some(vm) = vms.get(number / agents.len() % vms.len().max(1)) {
            // Nobody may be listening.
            let _nobody = agent.events.send((*vm, Timestamp::now()));
        }
    }
}

fn router(agent: Arc<Agent>) -> Router {
    type Answered<T> = Result<T, Problem>;
    Routes::new(agent)
        .serve::<api::Facts, _>(|agent, _| async move {
            let facts = agent.facts.clone();
            Ok(FactsAnswer { host: agent.host.id, contract: api::VERSION, facts })
        })
        .serve::<api::HostInventory, _>(|agent, _| async move { Ok(agent.inventory()) })
        .serve::<api::HostEvents, _>(|agent, _| async move { Ok(agent.stream()) })
        .serve::<api::DatastoreEnsure, _>(|agent, _| async move { Ok(agent.datastore()) })
        .serve::<api::NetworkEnsure, _>(|_, _| async move { Answered::Ok(()) })
        .serve::<api::ResourcesSet, _>(|_, _| async move { Answered::Ok(()) })
        .build()
}

async fn connection(stream: TcpStream, agent: Arc<Agent>) -> Result<()> {
    stream.set_nodelay(true)?;
    let stream = TlsAcceptor::from(agent.tls.clone()).accept(stream).await?;
    let service = tower::util::MapRequest::new(
        router(agent),
        |request: http::Request<hyper::body::Incoming>| request.map(axum::body::Body::new),
    );
    hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
        .await?;
    Ok(())
}
