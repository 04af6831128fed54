//! Becoming a host of a server, which is recognised by the token's fingerprint alone.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use hostler_agent::{JoinError, JoinRequest, identity_path, join};
use hostler_endpoint::Problem;
use hostler_pki::{Ca, Credentials, Identity, JoinToken, tls};
use hostler_types::{HostId, Join, JoinAnswer};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use tempfile::TempDir;
use tokio_rustls::TlsAcceptor;

#[derive(Clone)]
struct Server {
    ca: Arc<Ca>,
    secret: String,
}

async fn answer(State(server): State<Server>, Json(join): Json<Join>) -> Response {
    if join.secret != server.secret {
        return Problem::new(401, "unauthorized", "the join token is not valid").response();
    }
    let host = HostId::generate();
    let certificate = server.ca.issue_host(host, &[], &join.csr).unwrap();
    Json(JoinAnswer { host, certificate, ca: server.ca.pem().to_owned() }).into_response()
}

/// A server with its CA, and the address it listens on.
async fn serve(dir: &TempDir, secret: &str) -> (Arc<Ca>, String) {
    let ca = Arc::new(Ca::create_or_open(&dir.path().join("ca")).unwrap());
    let credentials = ca.ensure_server(&dir.path().join("server.pem"), &[]).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(tls::public_server(&credentials).unwrap()));
    let state = Server { ca: ca.clone(), secret: secret.to_owned() };
    let router =
        axum::Router::new().route("/v1/join", axum::routing::post(answer)).with_state(state);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, router) = (acceptor.clone(), router.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
                    .await;
            });
        }
    });
    (ca, address)
}

fn request(token: &JoinToken, state: &TempDir) -> JoinRequest {
    JoinRequest {
        token: token.clone(),
        name: "host2".parse().unwrap(),
        address: "10.0.0.5:8444".to_owned(),
        state_dir: state.path().to_owned(),
    }
}

#[tokio::test]
async fn a_host_joins_once() {
    let (dir, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let secret = JoinToken::generate("00".repeat(32).parse().unwrap(), "unused:1");
    let (ca, address) = serve(&dir, secret.secret()).await;
    let text = format!("hostler-join-1.{}.{address}.{}", ca.fingerprint(), secret.secret());
    let token: JoinToken = text.parse().unwrap();

    let wrong = JoinToken::generate(ca.fingerprint(), address.clone());
    let refused = join(request(&wrong, &state)).await.unwrap_err();
    assert!(matches!(&refused, JoinError::Refused(problem) if problem.status == 401), "{refused}");
    assert!(!identity_path(state.path()).exists());

    let host = join(request(&token, &state)).await.unwrap();
    let stored = Credentials::load(&identity_path(state.path())).unwrap();
    assert_eq!(stored.identity(), Identity::Host(host));
    let again = join(request(&token, &state)).await.unwrap_err();
    assert!(matches!(again, JoinError::AlreadyJoined(_)), "{again}");
}

#[tokio::test]
async fn a_server_with_another_ca_learns_nothing() {
    let (dir, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (_, address) = serve(&dir, "unused").await;
    let token = JoinToken::generate("ab".repeat(32).parse().unwrap(), address);
    let error = join(request(&token, &state)).await.unwrap_err();
    assert!(matches!(error, JoinError::Connect { .. }), "{error}");
    assert!(!identity_path(state.path()).exists());
}
