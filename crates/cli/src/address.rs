//! Which server a command talks to, and how it recognises it: from flags, environment, contexts.
//!
//! Flags win over the environment, and that over the contexts. Without any of them, a server on
//! this machine is used through its Unix socket, if the user may, and else the current context.

use std::path::{Path, PathBuf};

use hostler_pki::Fingerprint;
use url::Url;

use crate::contexts::{Context, Contexts};
use crate::error::{CliError, Exit};
use crate::options::GlobalOptions;

/// Where a server on this machine listens for root.
pub(crate) const SOCKET: &str = "/run/hostler/server.sock";
const PORT: u16 = 8443;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Address {
    /// A server on this machine, which knows root by the socket's permissions.
    Socket(PathBuf),
    Server {
        url: Url,
        trust: Trust,
        token: Option<String>,
    },
}

/// What proves that the server is the right one. There is no way to go without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Trust {
    /// The CAs that the operating system trusts.
    System,
    /// The CA with this fingerprint.
    Fingerprint(Fingerprint),
    /// The CAs of this PEM text.
    Pem(String),
}

/// What the environment says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Environment {
    pub(crate) server: Option<String>,
    pub(crate) token: Option<String>,
    pub(crate) ca: Option<String>,
    pub(crate) socket: Option<PathBuf>,
    pub(crate) context: Option<String>,
    /// The socket of a server on this machine, if there is one that this user may open.
    pub(crate) local: Option<PathBuf>,
}

impl Environment {
    pub(crate) fn read() -> Self {
        let text = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let open = rustix::fs::Access::READ_OK | rustix::fs::Access::WRITE_OK;
        Self {
            server: text("HOSTLER_SERVER"),
            token: text("HOSTLER_TOKEN"),
            ca: text("HOSTLER_CA"),
            socket: text("HOSTLER_SOCKET").map(PathBuf::from),
            context: text("HOSTLER_CONTEXT"),
            local: rustix::fs::access(SOCKET, open).is_ok().then(|| PathBuf::from(SOCKET)),
        }
    }
}

impl Address {
    /// # Errors
    /// Nothing says which server, or what says it is wrong.
    pub(crate) fn resolve(
        globals: &GlobalOptions,
        environment: &Environment,
        contexts: &Contexts,
    ) -> Result<Self, CliError> {
        let ca = globals.ca.as_deref().or(environment.ca.as_deref());
        let token = environment.token.clone();
        let server = |text: &str| {
            let url = parse_url(text)?;
            // A server that is named by its address is still the one of a context.
            let known = contexts.contexts.values().find(|context| context.server == origin(&url));
            Self::server(url, ca, token.clone(), known)
        };
        let context = |name: Option<&str>| match contexts.find(name)? {
            None => Ok(None),
            Some((_, context)) => {
                let url = parse_url(&context.server)?;
                Self::server(url, ca, token.clone(), Some(context)).map(Some)
            }
        };
        let named = |name: &Option<String>| match name {
            None => Ok(None),
            Some(name) => context(Some(name)),
        };

        if let Some(text) = &globals.server {
            return server(text);
        }
        if let Some(socket) = &globals.socket {
            return Ok(Self::Socket(socket.clone()));
        }
        if let Some(address) = named(&globals.context)? {
            return Ok(address);
        }
        if let Some(text) = &environment.server {
            return server(text);
        }
        if let Some(socket) = &environment.socket {
            return Ok(Self::Socket(socket.clone()));
        }
        if let Some(address) = named(&environment.context)? {
            return Ok(address);
        }
        if let Some(socket) = &environment.local {
            return Ok(Self::Socket(socket.clone()));
        }
        context(None)?.ok_or_else(no_server)
    }

    fn server(
        url: Url,
        ca: Option<&str>,
        token: Option<String>,
        known: Option<&Context>,
    ) -> Result<Self, CliError> {
        let trust = match (ca, known) {
            (Some(ca), _) => Trust::parse(ca)?,
            (None, Some(context)) => context.trust()?,
            (None, None) => Trust::System,
        };
        let token = token.or_else(|| known.and_then(|context| context.token.clone()));
        Ok(Self::Server { url, trust, token })
    }
}

fn no_server() -> CliError {
    CliError::new(Exit::CannotConnect, "no server is known")
        .hint("log in with `hostler login --server https://HOST:8443`, or start one here with `hostler server --with-agent` and be root")
}

impl Trust {
    /// A fingerprint, or the path of a PEM file.
    pub(crate) fn parse(text: &str) -> Result<Self, CliError> {
        if let Ok(fingerprint) = text.parse() {
            return Ok(Self::Fingerprint(fingerprint));
        }
        let path = Path::new(text);
        std::fs::read_to_string(path).map(Self::Pem).map_err(|error| {
            CliError::new(Exit::Usage, format!("cannot read the CA file {text}: {error}"))
                .hint("give a PEM file or a SHA-256 fingerprint of 64 hexadecimal digits")
        })
    }
}

impl Context {
    pub(crate) fn trust(&self) -> Result<Trust, CliError> {
        if let Some(text) = &self.ca_fingerprint {
            return text.parse().map(Trust::Fingerprint).map_err(|_| {
                let server = &self.server;
                CliError::new(Exit::Failed, format!("the CA fingerprint of {server} is damaged"))
                    .hint("log in again")
            });
        }
        Ok(self.ca.clone().map_or(Trust::System, Trust::Pem))
    }
}

/// A server's address as people write it: `host`, `host:port` or `https://host:port`.
pub(crate) fn parse_url(text: &str) -> Result<Url, CliError> {
    let wrong = |reason: &str| {
        CliError::new(Exit::Usage, format!("`{}` is not a server: {reason}", text.escape_debug()))
            .hint("write it like https://vm.example.org:8443")
    };
    let whole = if text.contains("://") { text.to_owned() } else { format!("https://{text}") };
    let mut url = Url::parse(&whole).map_err(|error| wrong(&error.to_string()))?;
    if url.scheme() != "https" {
        return Err(wrong("only https is spoken over networks"));
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err(wrong("it has a path"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(wrong("it has a user name"));
    }
    // `https://host` means our port, `https://host:443` the web's; the parser drops the latter.
    let says_port = whole.trim_end_matches('/').ends_with(":443");
    if url.port().is_none() && !says_port && url.set_port(Some(PORT)).is_err() {
        return Err(wrong("it has no host"));
    }
    Ok(url)
}

/// The address as contexts keep it.
pub(crate) fn origin(url: &Url) -> String {
    url.as_str().trim_end_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINGERPRINT: &str = "abababababababababababababababababababababababababababababababab";

    fn contexts() -> Contexts {
        let context = |server: &str| Context {
            server: server.to_owned(),
            ca_fingerprint: Some(FINGERPRINT.to_owned()),
            ca: None,
            user: None,
            token: Some("kept".to_owned()),
        };
        Contexts {
            current: Some("prod".to_owned()),
            contexts: [
                ("prod".to_owned(), context("https://prod:8443")),
                ("dev".to_owned(), context("https://dev:8443")),
            ]
            .into(),
        }
    }

    fn resolve(flags: &GlobalOptions, environment: &Environment) -> String {
        match Address::resolve(flags, environment, &contexts()) {
            Ok(Address::Socket(path)) => path.display().to_string(),
            Ok(Address::Server { url, trust, token }) => {
                let trust = match trust {
                    Trust::System => "system",
                    Trust::Fingerprint(_) => "pinned",
                    Trust::Pem(_) => "pem",
                };
                format!("{} {trust} {}", origin(&url), token.unwrap_or_default())
            }
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn flags_win_over_environment_and_contexts() {
        let flags = GlobalOptions::default();
        let nothing = Environment::default();
        let socket = |path: &str| Some(PathBuf::from(path));
        assert_eq!(resolve(&flags, &nothing), "https://prod:8443 pinned kept");
        let local = Environment { local: socket("/local"), ..Environment::default() };
        assert_eq!(resolve(&flags, &local), "/local");
        let named = Environment { context: Some("dev".to_owned()), ..local.clone() };
        assert_eq!(resolve(&flags, &named), "https://dev:8443 pinned kept");
        let by_socket = Environment { socket: socket("/env"), ..named.clone() };
        assert_eq!(resolve(&flags, &by_socket), "/env");
        let by_server = Environment {
            server: Some("other".to_owned()),
            token: Some("mine".to_owned()),
            ..by_socket
        };
        assert_eq!(resolve(&flags, &by_server), "https://other:8443 system mine");
        let flags = GlobalOptions { context: Some("dev".to_owned()), ..flags };
        assert_eq!(resolve(&flags, &by_server), "https://dev:8443 pinned mine");
        let flags = GlobalOptions { socket: socket("/flag"), ..flags };
        assert_eq!(resolve(&flags, &by_server), "/flag");
        let flags = GlobalOptions { server: Some("dev:8443".to_owned()), ..flags };
        assert_eq!(resolve(&flags, &nothing), "https://dev:8443 pinned kept");
        let flags = GlobalOptions { context: Some("no".to_owned()), ..GlobalOptions::default() };
        assert_eq!(resolve(&flags, &nothing), "there is no context `no`");
    }

    #[test]
    fn servers_are_written_as_people_do() {
        let check = |text: &str, url: &str| {
            assert_eq!(parse_url(text).map(|url| origin(&url)), Ok(url.to_owned()), "{text}");
        };
        check("vm.example.org", "https://vm.example.org:8443");
        check("vm.example.org:9", "https://vm.example.org:9");
        check("https://vm.example.org/", "https://vm.example.org:8443");
        check("https://vm.example.org:443", "https://vm.example.org");
        check("[fd00::1]:8443", "https://[fd00::1]:8443");
        for bad in ["", "http://a:8443", "https://a/b", "https://me@a", "a b", "unix:///x"] {
            let error = parse_url(bad).expect_err(bad);
            assert_eq!(error.exit(), Exit::Usage, "{bad}");
        }
    }
}
