//! What an operator carries from the server to a new host: where the server is, how to recognise
//! it, and a secret that lets one host in, once.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

use crate::fingerprint::{Fingerprint, from_hex, to_hex};

/// The text's first part; the number is the format's version.
const PREFIX: &str = "hostler-join-1.";

/// `hostler-join-1.<CA fingerprint>.<server address:port>.<secret>`
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    pub fingerprint: Fingerprint,
    /// `address:port` of the server's API.
    pub server: String,
    /// 256 bits, in hexadecimal.
    secret: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinTokenError {
    #[error("this is not a join token; one begins with `{PREFIX}`")]
    Prefix,
    #[error("the join token is incomplete or damaged; copy it again as a whole")]
    Form,
}

impl JoinToken {
    /// A token with a new secret: reads randomness.
    ///
    /// # Panics
    /// The operating system gives no randomness.
    pub fn generate(fingerprint: Fingerprint, server: impl Into<String>) -> Self {
        let mut secret = [0; 32];
        crate::tls::provider()
            .secure_random
            .fill(&mut secret)
            .expect("the operating system gives randomness");
        Self { fingerprint, server: server.into(), secret: to_hex(&secret) }
    }

    /// What is sent to the server.
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// What the server keeps of it.
    pub fn secret_hash(&self) -> String {
        Self::hash(&self.secret)
    }

    /// The hash of a secret that somebody presents. Hashing suffices for a secret of 256 random
    /// bits: there is nothing to guess, and comparing hashes leaks nothing of use.
    pub fn hash(secret: &str) -> String {
        to_hex(&Sha256::digest(secret.as_bytes()))
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}.{}.{}", self.fingerprint, self.server, self.secret)
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinToken({}, {}, [redacted])", self.fingerprint, self.server)
    }
}

impl FromStr for JoinToken {
    type Err = JoinTokenError;

    fn from_str(text: &str) -> Result<Self, JoinTokenError> {
        let rest = text.trim().strip_prefix(PREFIX).ok_or(JoinTokenError::Prefix)?;
        let (fingerprint, rest) = rest.split_once('.').ok_or(JoinTokenError::Form)?;
        // The address itself has dots.
        let (server, secret) = rest.rsplit_once('.').ok_or(JoinTokenError::Form)?;
        let host = server.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok());
        let plain = |c: char| c.is_ascii_alphanumeric() || ".-:[]".contains(c);
        if host.is_none_or(|(host, _)| host.is_empty())
            || !server.chars().all(plain)
            || from_hex(secret).is_none()
        {
            return Err(JoinTokenError::Form);
        }
        Ok(Self {
            fingerprint: fingerprint.parse().map_err(|_| JoinTokenError::Form)?,
            server: server.to_owned(),
            secret: secret.to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(server: &str) -> JoinToken {
        JoinToken::generate("ab".repeat(32).parse().unwrap(), server)
    }

    #[test]
    fn a_token_is_read_as_it_is_shown() {
        for server in ["10.0.0.1:7443", "hostler.example.org:443", "[fd00::1]:7443"] {
            let token = token(server);
            assert_eq!(format!(" {token}\n").parse(), Ok(token));
        }
        assert_ne!(token("a:1").secret(), token("a:1").secret());
    }

    #[test]
    fn damaged_tokens_are_refused() {
        let good = token("10.0.0.1:7443").to_string();
        assert_eq!("x".parse::<JoinToken>(), Err(JoinTokenError::Prefix));
        let cut = &good[..good.len() - 1];
        let (no_port, path) = (good.replace(":7443", ""), good.replace(":7443", ":7443/x"));
        for bad in [cut, &no_port, &path, &good.replace("abab", "ab"), PREFIX] {
            assert_eq!(bad.parse::<JoinToken>(), Err(JoinTokenError::Form), "{bad}");
        }
    }

    #[test]
    fn the_secret_is_not_in_debug_output() {
        let token = token("a:1");
        assert!(!format!("{token:?}").contains(token.secret()));
    }
}
