//! Listening, connections and the end of the server.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use hostler_server::{ListenError, bind_unix};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::rig::Rig;

fn http1(rig: &Rig) -> reqwest::Client {
    let mut config = hostler_pki::tls::pinned_client(rig.fingerprint).unwrap();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    let client = reqwest::Client::builder().no_proxy().tls_backend_preconfigured(config);
    client.build().unwrap()
}

#[tokio::test]
async fn the_socket_is_for_root_and_for_one_server() {
    let rig = Rig::start().await;
    let mode = std::fs::metadata(&rig.socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let second = bind_unix(&rig.socket).unwrap_err();
    assert!(matches!(second, ListenError::InUse { .. }), "{second}");
    let socket = rig.socket.clone();
    let folder = socket.parent().unwrap().to_owned();
    let file = folder.join("file");
    std::fs::write(&file, "mine").unwrap();
    assert!(matches!(bind_unix(&file).unwrap_err(), ListenError::NotASocket { .. }));
    assert_eq!(std::fs::read(&file).unwrap(), b"mine");
    let left = folder.join("left.sock");
    drop(std::os::unix::net::UnixListener::bind(&left).unwrap());
    bind_unix(&left).expect("what a dead server left is replaced");
}

#[tokio::test]
async fn plain_http_and_foreign_certificates_get_nowhere() {
    let rig = Rig::start().await;
    let mut plain = TcpStream::connect(rig.address).await.unwrap();
    plain.write_all(b"GET /v1/version HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let read = plain.read_to_end(&mut answer);
    let _ = tokio::time::timeout(Duration::from_secs(5), read).await.expect("it is closed");
    assert!(!String::from_utf8_lossy(&answer).contains("HTTP/1.1 200"));

    let other = hostler_pki::Ca::create_or_open(tempfile::tempdir().unwrap().path()).unwrap();
    let config = hostler_pki::tls::pinned_client(other.fingerprint()).unwrap();
    let client = reqwest::Client::builder().no_proxy().tls_backend_preconfigured(config);
    let client = client.build().unwrap();
    client.get(rig.url("/v1/version")).send().await.expect_err("another CA is not trusted");
}

#[tokio::test]
async fn http_1_and_2_are_spoken() {
    let rig = Rig::start().await;
    let response = rig.http().get(rig.url("/v1/version")).send().await.unwrap();
    assert_eq!(response.version(), http::Version::HTTP_2);
    let client = http1(&rig);
    let response = client.get(rig.url("/v1/version")).send().await.unwrap();
    assert_eq!(response.version(), http::Version::HTTP_11);
}

#[tokio::test]
async fn huge_headers_are_refused() {
    let rig = Rig::start().await;
    let client = http1(&rig);
    let request = client.get(rig.url("/v1/version")).header("x-long", "x".repeat(100 << 10));
    // Refused, or cut off while it is still being sent.
    if let Ok(response) = request.send().await {
        assert_eq!(response.status(), 431);
    }
    let response = rig.http().get(rig.url("/v1/version")).send().await.unwrap();
    assert_eq!(response.status(), 200, "the server lives on");
}

#[tokio::test]
async fn the_server_ends_though_clients_stay() {
    let rig = Rig::start().await;
    let client = rig.http();
    client.get(rig.url("/v1/version")).send().await.unwrap();
    let silent = TcpStream::connect(rig.address).await.unwrap();
    let url = rig.url("/v1/version");
    rig.stop().await;
    client.get(url).send().await.expect_err("nobody listens");
    drop(silent);
}
