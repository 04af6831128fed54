//! The server under test and its clients.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use hostler_api::{token, user};
use hostler_control::{World, WorldOptions};
use hostler_endpoint::{Client, NoParams};
use hostler_pki::{Ca, Fingerprint, tls};
use hostler_server::{Server, bind_tcp, bind_unix};
use hostler_store::{Batch, SqliteStore, Store, Write};
use hostler_types::{
    Accelerator, ByteSize, Datastore, Host, Image, Labels, Network, Ref, Role, SecretText, Vm,
};
use jiff::Timestamp;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::host::SimulatedHosts;

pub(crate) const PASSWORD: &str = "correct horse battery";
/// Must never be seen anywhere.
pub(crate) const CANARY: &str = "canary-7f3a-user-data";

pub(crate) struct Rig {
    pub(crate) address: SocketAddr,
    pub(crate) socket: PathBuf,
    pub(crate) store: Arc<SqliteStore>,
    pub(crate) closing: CancellationToken,
    pub(crate) serving: JoinHandle<()>,
    pub(crate) fingerprint: Fingerprint,
    _folder: TempDir,
}

impl Rig {
    /// A server with one host, one datastore, one network, an image, the running VM `web01` and
    /// the stopped `db01`.
    pub(crate) async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(SqliteStore::open(folder.path().join("hostler.db")).unwrap());
        store.commit(inventory()).await.unwrap();
        let ca = Arc::new(Ca::create_or_open(&folder.path().join("ca")).unwrap());
        let credentials =
            ca.ensure_server(&folder.path().join("server.pem"), &["localhost".to_owned()]).unwrap();
        let world = World::open(WorldOptions {
            store: store.clone(),
            connector: Arc::new(SimulatedHosts),
            ca: ca.clone(),
            server_address: "localhost:1".to_owned(),
        });
        let world = world.await.unwrap();
        let socket = folder.path().join("server.sock");
        let tcp = bind_tcp("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = tcp.local_addr().unwrap();
        let tls = Arc::new(tls::public_server(&credentials).unwrap());
        let unix = Some(bind_unix(&socket).unwrap());
        let closing = CancellationToken::new();
        let server = Server { world, tcp, tls, unix };
        let serving = tokio::spawn(server.run(closing.clone()));
        let fingerprint = ca.fingerprint();
        Self { address, socket, store, closing, serving, fingerprint, _folder: folder }
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

fn object<T: serde::de::DeserializeOwned>(name: &str, spec: &Value, status: &Value) -> T {
    let now = Timestamp::now();
    let metadata = json!({
        "id": hostler_types::VmId::generate(), "name": name, "labels": Labels::new(),
        "generation": 1, "revision": 0, "created_at": now, "updated_at": now,
    });
    serde_json::from_value(json!({"metadata": metadata, "spec": spec, "status": status})).unwrap()
}

fn inventory() -> Batch {
    let now = Timestamp::now();
    let facts = json!({
        "hostname": "sim", "agent_version": "0", "kernel": "6.1", "cpu_model": "x", "cpus": 64,
        "memory": ByteSize::gib(256), "qemu_version": "10.0.2", "accelerator": Accelerator::Kvm,
        "cgroup_version": 2,
    });
    let host: Host = object(
        "sim",
        &json!({"address": "127.0.0.1:1"}),
        &json!({"state": "connected", "since": now, "facts": facts}),
    );
    let datastore: Datastore = object(
        "local",
        &json!({"host": host.id(), "path": "/ds"}),
        &json!({"state": "ready", "capacity": "1TiB", "free": "1TiB"}),
    );
    let network: Network = object(
        "default",
        &json!({"mode": "nat", "subnet": "10.77.0.0/24"}),
        &json!({"state": "ready"}),
    );
    let image: Image = object(
        "debian",
        &json!({"datastore": datastore.id(), "source": {"upload": 100}}),
        &json!({"state": "uploading", "virtual_size": 0, "allocated": 0}),
    );
    let vm = |name: &str, power: &str| -> Vm {
        object(
            name,
            &json!({
                "cpus": 1, "memory": "1GiB", "disks": [], "customization": {"user_data": CANARY},
            }),
            &json!({
                "power": power, "power_since": now, "host": host.id(), "epoch": 1,
                "datastore": datastore.id(), "placement": ["the only host"],
            }),
        )
    };
    Batch::new("system", "test", now)
        .with(Write::create(&host))
        .with(Write::create(&datastore))
        .with(Write::create(&network))
        .with(Write::create(&image))
        .with(Write::create(&vm("web01", "running")))
        .with(Write::create(&vm("db01", "stopped")))
}
