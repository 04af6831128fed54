//! The built-in certificate authority, and the TLS configurations made from its certificates.
//!
//! Used by the server (owns the CA, calls agents), the agent (listens, joins) and the CLI (trusts
//! the server). Who a peer *is* stands in one URI of its certificate, an [`Identity`]; DNS names and
//! addresses in certificates are only for foreign clients such as browsers and curl.
//!
//! * [`Ca`] issues certificates: the server's, and a host's from its request.
//! * [`CredentialFile`] is a key with its certificate on disk; a renewed file is picked up by
//!   running listeners and clients.
//! * [`tls`] makes the rustls configurations of each kind of link.
//! * [`Vault`] seals the secrets that the store keeps.
//! * [`JoinToken`] is what an operator carries from the server to a new host.
//!
//! What it deliberately does not do: sockets, HTTP, deciding what an identity may do.

mod ca;
mod credentials;
mod file;
mod fingerprint;
mod identity;
mod join_token;
pub mod tls;
mod vault;
mod verifier;

pub use ca::{Ca, CaError};
pub use credentials::{CredentialFile, Credentials, CredentialsError, KeyRequest};
pub use fingerprint::{Fingerprint, FingerprintError};
pub use identity::{Identity, IdentityError, peer_identity};
pub use join_token::{JoinToken, JoinTokenError};
pub use vault::{Vault, VaultError};
