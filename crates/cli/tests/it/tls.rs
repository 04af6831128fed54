//! Trust: which servers are talked to, and which are not.

use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;
use std::sync::Arc;

use hostler_pki::{Ca, tls};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::fake::{State, router};
use crate::process::{Run, command};
use crate::world;

const PASSWORD: &str = "correct horse battery\n";

/// The fake server behind TLS, with a CA of its own.
struct Server {
    folder: TempDir,
    ca: Ca,
    address: SocketAddr,
    state: Arc<State>,
}

struct TlsListener {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

impl axum::serve::Listener for TlsListener {
    type Io = TlsStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, SocketAddr) {
        loop {
            let (stream, peer) = self.listener.accept().await.unwrap();
            // Clients that do not trust us hang up here.
            if let Ok(stream) = self.acceptor.accept(stream).await {
                return (stream, peer);
            }
        }
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Server {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ca = Ca::create_or_open(&folder.path().join("ca")).unwrap();
        let names = ["127.0.0.1".to_owned()];
        let credentials = ca.ensure_server(&folder.path().join("server.pem"), &names).unwrap();
        let mut config = tls::public_server(&credentials).unwrap();
        // axum::serve speaks both; WebSockets need the older.
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let state = Arc::new(State::new());
        let router = router(Arc::clone(&state));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let listener = TlsListener { listener, acceptor };
        std::thread::spawn(move || runtime.block_on(async { axum::serve(listener, router).await }));
        Self { folder, ca, address, state }
    }

    fn url(&self) -> String {
        format!("https://{}", self.address)
    }

    /// What is run after a login names its context: the machine may have a server of its own.
    fn run_there(&self, arguments: &[&str], stdin: &str) -> Run {
        self.run(arguments, stdin, &[("HOSTLER_CONTEXT", "127.0.0.1")])
    }

    fn run(&self, arguments: &[&str], stdin: &str, environment: &[(&str, &str)]) -> Run {
        let mut child = command(self.folder.path(), arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A command that reads nothing may have ended already.
        let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
        child.wait_with_output().unwrap().into()
    }

    fn login(&self, fingerprint: &str, password: &str) -> Run {
        let url = self.url();
        let arguments =
            ["login", "--server", &url, "--user", "ana", "--ca-fingerprint", fingerprint];
        self.run(&arguments, password, &[])
    }
}

#[test]
fn a_login_is_remembered_as_a_context() {
    let server = Server::start();
    let fingerprint = server.ca.fingerprint().to_string();
    let wrong = server.login(&fingerprint, "wrong password here\n").fails(5);
    assert!(wrong.contains("wrong user or password"), "{wrong}");
    let login = server.login(&fingerprint, PASSWORD);
    assert!(login.stderr.contains("context 127.0.0.1"), "{login:?}");
    login.ok();
    let file = server.folder.path().join(".config/hostler/config.json");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(std::fs::read_to_string(&file).unwrap().contains("hostler_session"));
    assert!(server.run_there(&["whoami"], "").ok().contains("admin"));
    let contexts = server.run(&["context", "list"], "", &[]).ok();
    assert!(contexts.contains("*  127.0.0.1") && contexts.contains("CA fingerprint"), "{contexts}");
    assert!(!server.run(&["context", "list", "-o", "json"], "", &[]).ok().contains("session"));
    server.run(&["logout"], "", &[]).ok();
    assert!(server.state.asked.lock().unwrap().iter().any(|asked| asked.starts_with("logout")));
    assert!(!std::fs::read_to_string(&file).unwrap().contains("hostler_session"));
}

#[test]
fn an_unknown_server_is_not_logged_in_to_without_a_person() {
    let server = Server::start();
    let arguments = ["login", "--server", &server.url(), "--user", "ana"];
    let error = server.run(&arguments, PASSWORD, &[]).fails(6);
    assert!(error.contains(&server.ca.fingerprint().to_string()), "{error}");
    assert!(error.contains("--ca-fingerprint"), "{error}");
    assert!(!server.folder.path().join(".config").exists());
}

#[test]
fn a_server_with_another_ca_is_never_talked_to() {
    let (server, other) = (Server::start(), Server::start());
    let error = server.login(&other.ca.fingerprint().to_string(), PASSWORD).fails(6);
    assert!(error.contains("cannot reach"), "{error}");
    let pem = other.folder.path().join("other.pem");
    std::fs::write(&pem, other.ca.pem()).unwrap();
    let token = [("HOSTLER_TOKEN", "hostler_session")];
    let url = server.url();
    let arguments = ["whoami", "--server", &url, "--ca", pem.to_str().unwrap()];
    server.run(&arguments, "", &token).fails(6);
    // And without any word about the CA, the operating system's count.
    server.run(&["whoami", "--server", &url], "", &token).fails(6);
    assert!(server.state.asked.lock().unwrap().is_empty());
}

#[test]
fn the_environment_suffices_for_scripts() {
    let server = Server::start();
    let pem = server.folder.path().join("ours.pem");
    std::fs::write(&pem, server.ca.pem()).unwrap();
    let url = server.url();
    let environment = [
        ("HOSTLER_SERVER", url.as_str()),
        ("HOSTLER_CA", pem.to_str().unwrap()),
        ("HOSTLER_TOKEN", "hostler_session"),
    ];
    assert!(server.run(&["whoami"], "", &environment).ok().contains("admin"));
}

#[test]
fn a_console_goes_through_tls() {
    let server = Server::start();
    server.state.vms.lock().unwrap().insert("web01".to_owned(), world::vm("web01", 0x10));
    server.login(&server.ca.fingerprint().to_string(), PASSWORD).ok();
    let run = server.run_there(&["vm", "console", "web01"], "\x1d");
    run.ok();
}
