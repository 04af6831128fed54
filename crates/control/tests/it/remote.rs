//! The real link: HTTP/2 with mutual TLS, to a server that stands in for an agent.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use hostler_agent_api as contract;
use hostler_agent_api::{AgentEvent, FactsAnswer, VERSION};
use hostler_control::{AgentError, AgentLink, Connector, RemoteConnector};
use hostler_endpoint::{EventStream, Routes};
use hostler_pki::{Ca, CredentialFile, KeyRequest, tls};
use hostler_sim::SimHost;
use hostler_types::{Host, HostId, HostSpec, HostStatus, Labels, VmId};
use jiff::Timestamp;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

struct TlsListener {
    tcp: TcpListener,
    tls: TlsAcceptor,
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        loop {
            let (stream, peer) = self.tcp.accept().await.unwrap();
            // A peer that fails here is what the tests are about.
            if let Ok(stream) = self.tls.accept(stream).await {
                return (stream, peer);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.tcp.local_addr()
    }
}

/// Credentials of a host, from `ca`.
fn host_credentials(ca: &Ca, host: HostId, path: &Path) -> CredentialFile {
    let key = KeyRequest::generate().unwrap();
    let addresses = ["127.0.0.1".to_owned()];
    let certificate = ca.issue_host(host, &addresses, key.request()).unwrap();
    key.complete(&certificate, ca.pem()).unwrap().save(path).unwrap();
    CredentialFile::open(path).unwrap()
}

/// An agent that shows these credentials and answers for `sim`.
async fn serve(credentials: &CredentialFile, sim: SimHost) -> SocketAddr {
    let tls = TlsAcceptor::from(Arc::new(tls::agent_server(credentials).unwrap()));
    let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = tcp.local_addr().unwrap();
    let routes = Routes::new(sim)
        .serve::<contract::Facts, _>(|sim, _| async move {
            let facts = AgentLink::facts(&sim).await.unwrap();
            Ok::<FactsAnswer, _>(facts)
        })
        .serve::<contract::HostEvents, _>(|sim, _| async move {
            Ok::<EventStream<AgentEvent>, _>(sim.events().await.unwrap())
        })
        .serve::<contract::VmReset, _>(|sim, call| async move {
            let answer = sim.vm_reset(call.path.vm, call.body).await;
            answer.map_err(|error| match error {
                AgentError::Refused(problem) => problem,
                AgentError::Unreachable { .. } => panic!("{error}"),
            })
        });
    let router = routes.build();
    tokio::spawn(async move { axum::serve(TlsListener { tcp, tls }, router).await });
    address
}

fn host(id: HostId, address: SocketAddr) -> Host {
    let spec = HostSpec::new(address.to_string());
    let since = Timestamp::now();
    let status = HostStatus::joined(since);
    let mut host = Host::new("h1".parse().unwrap(), Labels::new(), since, spec, status);
    host.metadata.id = id;
    host
}

struct Bench {
    directory: tempfile::TempDir,
    ca: Ca,
    connector: RemoteConnector,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let ca = Ca::create_or_open(&directory.path().join("ca")).unwrap();
        let server = ca.ensure_server(&directory.path().join("server.pem"), &[]).unwrap();
        Self { directory, ca, connector: RemoteConnector::new(server) }
    }

    /// A link that expects `expected`, to an agent whose certificate is from `ca` for `actual`.
    async fn link(&self, ca: &Ca, actual: HostId, expected: HostId) -> Arc<dyn AgentLink> {
        let credentials = host_credentials(ca, actual, &self.directory.path().join("host.pem"));
        let address = serve(&credentials, SimHost::new(actual)).await;
        self.connector.connect(&host(expected, address)).unwrap()
    }
}

#[tokio::test]
async fn an_agent_is_asked_and_followed() {
    let (bench, id) = (Bench::new(), HostId::generate());
    let link = bench.link(&bench.ca, id, id).await;
    let facts = link.facts().await.unwrap();
    assert_eq!((facts.host, facts.contract), (id, VERSION));
    let first = link.events().await.unwrap().next().await.unwrap().unwrap();
    assert!(matches!(first.data, AgentEvent::Inventory(_)));
    let op = hostler_types::OperationId::generate();
    let command = contract::VmCommand { op, epoch: hostler_types::Epoch(1) };
    let error = link.vm_reset(VmId::generate(), command).await.unwrap_err();
    let AgentError::Refused(problem) = error else { panic!("{error}") };
    assert_eq!(problem.code, contract::code::NOT_FOUND);
}

#[tokio::test]
async fn an_agent_with_another_hosts_certificate_is_not_talked_to() {
    let bench = Bench::new();
    let link = bench.link(&bench.ca, HostId::generate(), HostId::generate()).await;
    let error = link.facts().await.unwrap_err();
    assert!(matches!(error, AgentError::Unreachable { .. }), "{error}");
    assert!(link.events().await.is_err());
}

#[tokio::test]
async fn an_agent_with_a_foreign_certificate_is_not_talked_to() {
    let (bench, id) = (Bench::new(), HostId::generate());
    let foreign = Ca::create_or_open(&bench.directory.path().join("foreign")).unwrap();
    let link = bench.link(&foreign, id, id).await;
    let error = link.facts().await.unwrap_err();
    assert!(matches!(error, AgentError::Unreachable { .. }), "{error}");
}

#[tokio::test]
async fn a_silent_host_is_noticed_within_five_seconds() {
    let (bench, id) = (Bench::new(), HostId::generate());
    let credentials = host_credentials(&bench.ca, id, &bench.directory.path().join("host.pem"));
    let agent = serve(&credentials, SimHost::new(id)).await;
    // Between the two stands a wire that can be cut without either side being told.
    let wire = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = wire.local_addr().unwrap();
    let (cut, mut is_cut) = tokio::sync::watch::channel(false);
    tokio::spawn(async move {
        let (mut near, _) = wire.accept().await.unwrap();
        let mut far = TcpStream::connect(agent).await.unwrap();
        let until_cut = async { is_cut.wait_for(|cut| *cut).await.is_ok() };
        tokio::select! {
            _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
            _ = until_cut => {}
        }
        // Neither end is closed, and nothing goes through any more.
        std::future::pending::<()>().await;
    });
    let link = bench.connector.connect(&host(id, address)).unwrap();
    let mut events = link.events().await.unwrap();
    events.next().await.unwrap().unwrap();
    cut.send_replace(true);
    let begin = Instant::now();
    let end = tokio::time::timeout(Duration::from_secs(10), events.next()).await.unwrap();
    assert!(end.is_none_or(|item| item.is_err()));
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
}
