//! The server under test and its clients.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hostler_api::{token, user};
use hostler_control::Actor;
use hostler_control::services::{self, Options};
use hostler_endpoint::{Client, NoParams};
use hostler_pki::{Ca, Fingerprint, tls};
use hostler_server::{Server, bind_tcp, bind_unix};
use hostler_sim::Fleet;
use hostler_types::{Customization, Ref, Role, SecretText};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(crate) const PASSWORD: &str = "correct horse battery";
/// Must never be seen anywhere.
pub(crate) const CANARY: &str = "canary-7f3a-user-data";

pub(crate) struct Rig {
    pub(crate) fleet: Fleet,
    pub(crate) address: SocketAddr,
    pub(crate) socket: PathBuf,
    pub(crate) closing: CancellationToken,
    pub(crate) serving: JoinHandle<()>,
    pub(crate) fingerprint: Fingerprint,
    _folder: TempDir,
}

impl Rig {
    /// A server with one host, one datastore, one network, an image, the running VM `web01` and
    /// the stopped `db01`, both with a secret.
    pub(crate) async fn start() -> Self {
        let fleet = Fleet::new().await;
        fleet.image("tiny").await;
        make(&fleet, "web01", true).await;
        make(&fleet, "db01", false).await;
        let folder = tempfile::tempdir().unwrap();
        let ca = Ca::create_or_open(&folder.path().join("ca")).unwrap();
        let credentials =
            ca.ensure_server(&folder.path().join("server.pem"), &["localhost".to_owned()]).unwrap();
        let socket = folder.path().join("server.sock");
        let tcp = bind_tcp("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = tcp.local_addr().unwrap();
        let tls = Arc::new(tls::public_server(&credentials).unwrap());
        let unix = Some(bind_unix(&socket).unwrap());
        let closing = CancellationToken::new();
        let server = Server { world: fleet.world.clone(), tcp, tls, unix };
        let serving = tokio::spawn(server.run(closing.clone()));
        let fingerprint = ca.fingerprint();
        Self { fleet, address, socket, closing, serving, fingerprint, _folder: folder }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://localhost:{}{path}", self.address.port())
    }

    /// Over TLS, as anyone.
    pub(crate) fn http(&self) -> reqwest::Client {
        let config = tls::pinned_client(self.fingerprint).unwrap();
        let builder = reqwest::Client::builder().no_proxy().tls_backend_preconfigured(config);
        builder.timeout(Duration::from_secs(20)).build().unwrap()
    }

    pub(crate) fn client(&self, token: &str) -> Client {
        Client::new(self.http(), &self.url("")).bearer(token)
    }

    /// Over the Unix socket, as root.
    pub(crate) fn root(&self) -> Client {
        let config = tls::pinned_client(self.fingerprint).unwrap();
        let builder = reqwest::Client::builder().no_proxy().tls_backend_preconfigured(config);
        let http = builder.unix_socket(self.socket.clone()).build().unwrap();
        Client::new(http, "http://localhost")
    }

    pub(crate) async fn user(&self, name: &str, role: Role) {
        let password = Some(SecretText::new(PASSWORD));
        let request = user::UserCreate { name: name.parse().unwrap(), role, password };
        self.root().call::<user::Create>(&NoParams {}, &NoParams {}, request).await.unwrap();
    }

    /// A new token of a user.
    pub(crate) async fn token(&self, user: &str, lifetime_seconds: Option<u64>) -> String {
        let name = format!("{user}-{}", hostler_types::VmId::generate().uuid().simple());
        let request = token::TokenCreate {
            name: name.parse().unwrap(),
            user: Some(user.parse::<Ref>().unwrap()),
            role: None,
            lifetime_seconds,
        };
        let made = self.root().call::<token::Create>(&NoParams {}, &NoParams {}, request).await;
        made.unwrap().secret.reveal().to_owned()
    }

    /// Ends the server as a service manager does.
    pub(crate) async fn stop(self) {
        self.closing.cancel();
        tokio::time::timeout(Duration::from_secs(15), self.serving).await.unwrap().unwrap();
    }
}

async fn make(fleet: &Fleet, name: &str, start: bool) {
    let mut request = hostler_sim::vm_request(name);
    request.start = start;
    request.customization = Some(Customization {
        user_data: Some(SecretText::new(format!("#cloud-config\n# {CANARY}\n"))),
        ..Customization::default()
    });
    let (root, options) = (Actor::root(), Options::default());
    let made = services::vm::create(&fleet.world, &root, request, &options).await.unwrap();
    fleet.done(&made.task.unwrap()).await;
}
