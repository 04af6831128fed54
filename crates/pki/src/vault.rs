//! The vault: seals the secrets that the store keeps, so that its file (and every copy of it) tells
//! nobody anything without the key file beside it.
//!
//! The key file has a line per key, `<id> <256 bits in base64>`; the first key seals, all of them
//! open. A key is replaced by writing a new line above: a sealed secret names its key. Sealed text
//! is `hostler-sealed:1:<key's id>:<base64 of nonce and ciphertext>`, ChaCha20-Poly1305 with a
//! random nonce, so that equal secrets look different.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hostler_types::SecretText;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use crate::file::{create_directory, write_private};

const KEY_BYTES: usize = 32;
const VERSION: &str = "1";
/// A key file with thousands of keys is none.
const LONGEST_FILE: u64 = 64 << 10;

/// Seals and opens secrets.
pub struct Vault {
    path: PathBuf,
    /// The first one seals.
    keys: Vec<Key>,
}

struct Key {
    id: String,
    key: LessSafeKey,
}

#[derive(Debug, thiserror::Error)]
pub enum VaultError {
    #[error("cannot use the key file {}", .path.display())]
    File { path: PathBuf, source: io::Error },
    #[error("the key file {} can be read by others (mode {mode:o}); make it 0600", .path.display())]
    Exposed { path: PathBuf, mode: u32 },
    #[error("line {line} of the key file {} is not a key", .path.display())]
    Malformed { path: PathBuf, line: usize },
    #[error("a secret is sealed with the key {id}, which is not in {}; put the key file back", .path.display())]
    NoKey { id: String, path: PathBuf },
    #[error("a sealed secret is damaged")]
    Damaged,
}

impl Vault {
    /// Reads the key file; makes it, with one key, when there is none.
    ///
    /// # Errors
    /// It cannot be read or written, others can read it, or it holds something else.
    pub fn create_or_open(path: &Path) -> Result<Self, VaultError> {
        let failed = |source| VaultError::File { path: path.to_owned(), source };
        let text = match File::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if let Some(directory) = path.parent() {
                    create_directory(directory).map_err(failed)?;
                }
                let text = new_line();
                write_private(path, &text).map_err(failed)?;
                text
            }
            file => {
                let file = file.map_err(failed)?;
                let mode = file.metadata().map_err(failed)?.mode() & 0o7777;
                if mode & 0o077 != 0 {
                    return Err(VaultError::Exposed { path: path.to_owned(), mode });
                }
                let mut text = Zeroizing::new(String::new());
                file.take(LONGEST_FILE).read_to_string(&mut text).map_err(failed)?;
                text
            }
        };
        Self::from_text(path, &text)
    }

    /// The vault of a key file with this content; `path` is for messages.
    ///
    /// # Errors
    /// A line that is not a key, or none.
    pub fn from_text(path: &Path, text: &str) -> Result<Self, VaultError> {
        let malformed = |line| VaultError::Malformed { path: path.to_owned(), line };
        let keys = text.lines().enumerate();
        let keys = keys.map(|(index, line)| Key::parse(line).ok_or(malformed(index + 1)));
        let keys = keys.collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() {
            return Err(malformed(1));
        }
        Ok(Self { path: path.to_owned(), keys })
    }

    /// The secret in a form that tells nothing. What is sealed already, or a placeholder, stays.
    ///
    /// # Panics
    /// When the system has no randomness.
    #[must_use]
    pub fn seal(&self, secret: &SecretText) -> SecretText {
        let key = self.keys.first().expect("a vault has a key");
        let mut nonce = [0; NONCE_LEN];
        SystemRandom::new().fill(&mut nonce).expect("the system has randomness");
        let mut bytes = secret.reveal().as_bytes().to_vec();
        key.key
            .seal_in_place_append_tag(
                Nonce::assume_unique_for_key(nonce),
                Aad::from(key.header()),
                &mut bytes,
            )
            .expect("secrets are far shorter than what the cipher can take");
        let sealed = STANDARD.encode([nonce.as_slice(), &bytes].concat());
        SecretText::new(format!("{}{sealed}", key.header()))
    }

    /// The secret as it was before it was sealed. One that was stored before there was a vault is
    /// returned as it is.
    ///
    /// # Errors
    /// Its key is not there, or it was changed.
    pub fn open(&self, secret: &SecretText) -> Result<SecretText, VaultError> {
        let Some(rest) = secret.reveal().strip_prefix(SecretText::SEALED) else {
            return Ok(secret.clone());
        };
        let rest = rest.strip_prefix(VERSION).and_then(|rest| rest.strip_prefix(':'));
        let (id, sealed) = rest.and_then(|rest| rest.split_once(':')).ok_or(VaultError::Damaged)?;
        let key = self.keys.iter().find(|key| key.id == id);
        let no_key = || VaultError::NoKey {
            id: id.chars().take(16).filter(char::is_ascii_alphanumeric).collect(),
            path: self.path.clone(),
        };
        let key = key.ok_or_else(no_key)?;
        let mut bytes = Zeroizing::new(STANDARD.decode(sealed).map_err(|_| VaultError::Damaged)?);
        let (nonce, text) = bytes.split_at_mut_checked(NONCE_LEN).ok_or(VaultError::Damaged)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| VaultError::Damaged)?;
        let text = key
            .key
            .open_in_place(nonce, Aad::from(key.header()), text)
            .map_err(|_| VaultError::Damaged)?;
        std::str::from_utf8(text).map(SecretText::new).map_err(|_| VaultError::Damaged)
    }
}

impl Key {
    fn parse(line: &str) -> Option<Self> {
        let (id, key) = line.split_once(' ')?;
        let known =
            id.len() <= 16 && !id.is_empty() && id.chars().all(|c| c.is_ascii_alphanumeric());
        let bytes = Zeroizing::new(STANDARD.decode(key).ok().filter(|key| key.len() == KEY_BYTES)?);
        let key = UnboundKey::new(&CHACHA20_POLY1305, &bytes).ok()?;
        known.then(|| Self { id: id.to_owned(), key: LessSafeKey::new(key) })
    }

    /// What stands before the sealed bytes, and is protected with them.
    fn header(&self) -> String {
        format!("{}{VERSION}:{}:", SecretText::SEALED, self.id)
    }
}

fn new_line() -> Zeroizing<String> {
    let mut bytes = Zeroizing::new([0; KEY_BYTES]);
    let mut id = [0; 4];
    let random = SystemRandom::new();
    random.fill(&mut *bytes).expect("the system has randomness");
    random.fill(&mut id).expect("the system has randomness");
    let id = u32::from_be_bytes(id);
    Zeroizing::new(format!("{id:08x} {}\n", STANDARD.encode(*bytes)))
}

impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vault").field("path", &self.path).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn vault() -> (tempfile::TempDir, PathBuf, Vault) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("secrets/key");
        let vault = Vault::create_or_open(&path).unwrap();
        (directory, path, vault)
    }

    #[test]
    fn a_secret_is_sealed_and_opened() {
        let (_directory, path, vault) = vault();
        let secret = SecretText::new("hunter2 ä");
        let (one, two) = (vault.seal(&secret), vault.seal(&secret));
        assert!(one.is_sealed() && !one.reveal().contains("hunter2"));
        assert_ne!(one, two, "equal secrets look different");
        let again = Vault::create_or_open(&path).unwrap();
        assert_eq!(again.open(&one).unwrap(), secret);
        // What only looks sealed is sealed as well: nothing a client sends is taken for ours.
        let nested = again.seal(&one);
        assert_eq!(again.open(&nested).unwrap(), one);
        let old = SecretText::new("from before there was a vault");
        assert_eq!(again.open(&old).unwrap(), old);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!format!("{vault:?}").contains(&fs::read_to_string(&path).unwrap()[..8]));
    }

    #[test]
    fn what_was_changed_is_not_opened() {
        let (_directory, _path, vault) = vault();
        let sealed = vault.seal(&SecretText::new("hunter2"));
        let text = sealed.reveal();
        let mut changed = text.as_bytes().to_vec();
        let middle = changed.len() - 12;
        changed[middle] = if changed[middle] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(changed).unwrap();
        for bad in
            [changed.as_str(), &text[..text.len() - 8], "hostler-sealed:", "hostler-sealed:1:x"]
        {
            assert!(vault.open(&SecretText::new(bad)).is_err(), "{bad}");
        }
        let (_directory, _path, other) = self::vault();
        assert!(matches!(other.open(&sealed), Err(VaultError::NoKey { .. })));
    }

    #[test]
    fn keys_are_replaced_by_a_line_above() {
        let (_directory, path, vault) = vault();
        let sealed = vault.seal(&SecretText::new("old"));
        let old = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("{}{old}", *new_line())).unwrap();
        let rotated = Vault::create_or_open(&path).unwrap();
        assert_eq!(rotated.open(&sealed).unwrap().reveal(), "old");
        let new = rotated.seal(&SecretText::new("new"));
        assert!(matches!(vault.open(&new), Err(VaultError::NoKey { .. })));
    }

    #[test]
    fn a_key_file_that_others_can_read_is_refused() {
        let (_directory, path, _vault) = vault();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(Vault::create_or_open(&path), Err(VaultError::Exposed { .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        for bad in ["", "x", "id !!!", "a-b AAAA"] {
            fs::write(&path, bad).unwrap();
            assert!(
                matches!(Vault::create_or_open(&path), Err(VaultError::Malformed { .. })),
                "{bad}"
            );
        }
    }
}
