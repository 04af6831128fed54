//! Makes this machine a host of a server, with the token that the server printed.

use std::path::PathBuf;
use std::time::Duration;

use hostler_pki::{Identity, JoinToken, KeyRequest, tls};
use hostler_types::{HostId, Join, JoinAnswer, Name};

use crate::config::identity_path;

const TIMEOUT: Duration = Duration::from_secs(30);
/// Of the server's answer, in bytes.
const ANSWER_LIMIT: usize = 256 << 10;

/// What an operator says when a host joins.
#[derive(Debug, Clone)]
pub struct JoinRequest {
    pub token: JoinToken,
    /// The host's name in the inventory.
    pub name: Name,
    /// Where the agent will listen, `address:port`.
    pub address: String,
    pub state_dir: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    #[error("this machine is a host already: {} exists", .0.display())]
    AlreadyJoined(PathBuf),
    #[error("cannot reach the server {server}")]
    Connect { server: String, source: reqwest::Error },
    #[error("the server did not let this host in: {0}")]
    Refused(Box<hostler_endpoint::Problem>),
    #[error("the server {server} answered {status} without an explanation")]
    Answer { server: String, status: u16 },
    #[error("the server gave this host the identity {0}")]
    Identity(Identity),
    #[error("TLS cannot be set up")]
    Tls(#[from] tls::TlsError),
    #[error("the host's credentials are not usable")]
    Credentials(#[from] hostler_pki::CredentialsError),
}

/// Gets a certificate from the server and stores it. The server is trusted by the CA fingerprint in
/// the token alone; the host's key never leaves this machine.
///
/// # Errors
/// See [`JoinError`]. Nothing is stored unless all of it went well.
pub async fn join(request: JoinRequest) -> Result<HostId, JoinError> {
    let path = identity_path(&request.state_dir);
    if path.exists() {
        return Err(JoinError::AlreadyJoined(path));
    }
    let key = KeyRequest::generate()?;
    let server = request.token.server.clone();
    let body = Join {
        secret: request.token.secret().to_owned(),
        name: request.name,
        address: request.address,
        csr: key.request().to_owned(),
    };
    let answer = post(&server, &request.token, &body).await?;
    let credentials = key.complete(&answer.certificate, &answer.ca)?;
    // The connection was trusted through the pinned CA; what is stored must be from the same.
    if credentials.ca_fingerprint() != request.token.fingerprint
        || credentials.identity() != Identity::Host(answer.host)
    {
        return Err(JoinError::Identity(credentials.identity()));
    }
    credentials.save(&path)?;
    Ok(answer.host)
}

async fn post(server: &str, token: &JoinToken, body: &Join) -> Result<JoinAnswer, JoinError> {
    let connect = |source| JoinError::Connect { server: server.to_owned(), source };
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(tls::pinned_client(token.fingerprint)?)
        .https_only(true)
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(TIMEOUT)
        .build()
        .map_err(connect)?;
    let url = format!("https://{server}/v1/join");
    let mut response = client.post(url).json(body).send().await.map_err(connect)?;
    let status = response.status();
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(connect)? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > ANSWER_LIMIT {
            break;
        }
    }
    let answer = || JoinError::Answer { server: server.to_owned(), status: status.as_u16() };
    if status.is_success() {
        return serde_json::from_slice(&bytes).map_err(|_| answer());
    }
    match serde_json::from_slice(&bytes) {
        Ok(problem) => Err(JoinError::Refused(Box::new(problem))),
        Err(_) => Err(answer()),
    }
}
