//! The file of contexts: the servers a person works with, how to recognise them, and the token to
//! act with. `~/.config/hostler/config.json`, readable by its owner only.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{CliError, Exit};

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Contexts {
    /// The one that commands use when they name none.
    pub(crate) current: Option<String>,
    pub(crate) contexts: BTreeMap<String, Context>,
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Context {
    /// `https://host:port`.
    pub(crate) server: String,
    /// The CA that the server must present: SHA-256, hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca_fingerprint: Option<String>,
    /// Or the CAs to trust, PEM. Neither: those that the operating system trusts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ca: Option<String>,
    /// Who logged in, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) token: Option<String>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let token = self.token.as_ref().map(|_| "[redacted]");
        f.debug_struct("Context").field("server", &self.server).field("token", &token).finish()
    }
}

/// Where the file lies.
#[derive(Debug, Clone)]
pub(crate) struct ContextFile(PathBuf);

impl ContextFile {
    /// In the user's configuration directory.
    pub(crate) fn of_user() -> Result<Self, CliError> {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        if let Some(file) = set("HOSTLER_CONFIG") {
            return Ok(Self(file.into()));
        }
        let base = set("XDG_CONFIG_HOME")
            .map(PathBuf::from)
            .or_else(|| set("HOME").map(|home| Path::new(&home).join(".config")))
            .ok_or_else(|| {
                CliError::new(Exit::Failed, "cannot tell where the contexts are kept")
                    .hint("set HOME or HOSTLER_CONFIG")
            })?;
        Ok(Self(base.join("hostler/config.json")))
    }

    #[cfg(test)]
    pub(crate) fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// What it holds; nothing when there is no file.
    pub(crate) fn load(&self) -> Result<Contexts, CliError> {
        let failed = |reason: String| {
            CliError::new(Exit::Failed, format!("cannot read {}: {reason}", self.0.display()))
        };
        match std::fs::read(&self.0) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                failed(error.to_string()).hint("correct it, or delete it and log in again")
            }),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Contexts::default()),
            Err(error) => Err(failed(error.to_string())),
        }
    }

    /// Replaces the file as a whole, so that no other command ever reads half of it.
    pub(crate) fn save(&self, contexts: &Contexts) -> Result<(), CliError> {
        self.write(contexts).map_err(|error| {
            CliError::new(Exit::Failed, format!("cannot write {}: {error}", self.0.display()))
        })
    }

    fn write(&self, contexts: &Contexts) -> std::io::Result<()> {
        let directory = self.0.parent().unwrap_or(Path::new("."));
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let mut file = tempfile::NamedTempFile::new_in(directory)?;
        file.as_file().set_permissions(std::fs::Permissions::from_mode(0o600))?;
        serde_json::to_writer_pretty(&mut file, contexts)?;
        file.write_all(b"\n")?;
        file.as_file().sync_all()?;
        file.persist(&self.0)?;
        Ok(())
    }
}

impl Contexts {
    /// A context by its name, or the current one.
    pub(crate) fn find(&self, name: Option<&str>) -> Result<Option<(&str, &Context)>, CliError> {
        let Some(wanted) = name.or(self.current.as_deref()) else { return Ok(None) };
        match self.contexts.get_key_value(wanted) {
            Some((name, context)) => Ok(Some((name, context))),
            None => Err(CliError::new(Exit::NotFound, format!("there is no context `{wanted}`"))
                .hint("`hostler context list` shows those there are")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context(server: &str) -> Context {
        Context {
            server: server.to_owned(),
            ca_fingerprint: None,
            ca: None,
            user: None,
            token: Some("secret".to_owned()),
        }
    }

    #[test]
    fn the_file_is_for_its_owner_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a/hostler/config.json");
        let file = ContextFile::at(&path);
        assert_eq!(file.load().unwrap(), Contexts::default());
        let mut contexts = Contexts::default();
        contexts.contexts.insert("prod".to_owned(), context("https://a:8443"));
        contexts.current = Some("prod".to_owned());
        file.save(&contexts).unwrap();
        assert_eq!(file.load().unwrap(), contexts);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_damaged_file_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.json");
        std::fs::write(&path, "{\"contexts\": 5}").unwrap();
        let error = ContextFile::at(&path).load().unwrap_err();
        assert!(error.to_string().contains("config.json"), "{error}");
    }

    #[test]
    fn contexts_are_found_by_name_or_as_current() {
        let mut contexts = Contexts::default();
        assert_eq!(contexts.find(None), Ok(None));
        contexts.contexts.insert("prod".to_owned(), context("https://a:8443"));
        assert_eq!(contexts.find(Some("prod")).unwrap().unwrap().0, "prod");
        assert_eq!(contexts.find(Some("dev")).unwrap_err().exit(), Exit::NotFound);
    }

    #[test]
    fn tokens_are_not_in_debug_output() {
        assert!(!format!("{:?}", context("https://a")).contains("secret"));
    }
}
