//! Secrets: how they are made, hashed and compared.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// 256 random bits as text that fits into addresses and command lines.
pub(crate) fn generate() -> String {
    URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())
}

/// SHA-256 in hexadecimal. Enough for secrets of 256 random bits; passwords get Argon2id.
pub(crate) fn hash(secret: &str) -> String {
    use std::fmt::Write as _;
    let digest = Sha256::digest(secret.as_bytes());
    digest.iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Whether `secret` hashes to `expected`, in a time that does not tell how much of it is right.
pub(crate) fn matches(secret: &str, expected: &str) -> bool {
    hash(secret).as_bytes().ct_eq(expected.as_bytes()).into()
}
