//! `hostler login|logout|whoami`.

use std::process::ExitCode;

use clap::Args;
use hostler_api::user::{
    Login as LoginCall, LoginRequest, Logout as LogoutCall, Whoami as WhoamiCall,
};
use hostler_endpoint::NoParams;
use hostler_pki::Fingerprint;
use hostler_types::SecretText;
use url::Url;

use crate::address::{Address, Environment, Trust, origin, parse_url};
use crate::contexts::{Context, ContextFile};
use crate::error::{CliError, Exit};
use crate::options::GlobalOptions;
use crate::session::Session;
use crate::table::Cell;
use crate::terminal::{ask, is_interactive, password};
use crate::trust::{self, Presented};

/// Log in to a server and remember it as a context
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler login --server https://vm.example.org:8443
  hostler login --server vm.example.org --user ana --ca-fingerprint 0123…cdef
  hostler login --server vm.example.org --token-stdin < token

An unknown server is shown with its CA's fingerprint. Compare it with what the server's log or
`openssl x509 -noout -fingerprint -sha256 -in /var/lib/hostler/ca/ca.pem` on the server says.")]
pub(crate) struct Login {
    /// Who you are
    #[arg(short, long, value_name = "NAME")]
    user: Option<String>,

    /// SHA-256 of the CA that the server must present
    #[arg(long, value_name = "HEX", conflicts_with = "ca")]
    ca_fingerprint: Option<Fingerprint>,

    /// Use this token, read from standard input, instead of a password
    #[arg(long, conflicts_with = "user")]
    token_stdin: bool,

    /// Name for the context [default: the server's host name, or --context]
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
}

impl Login {
    pub(super) async fn run(self, globals: &GlobalOptions) -> Result<ExitCode, CliError> {
        let file = ContextFile::of_user()?;
        let mut contexts = file.load()?;
        let environment = Environment::read();
        let known = contexts.find(globals.context.as_deref().or(environment.context.as_deref()));
        let known = known.ok().flatten().map(|(name, context)| (name.to_owned(), context.clone()));
        let url = match (globals.server.as_ref().or(environment.server.as_ref()), &known) {
            (Some(text), _) => parse_url(text)?,
            (None, Some((_, context))) => parse_url(&context.server)?,
            (None, None) => {
                return Err(CliError::new(Exit::Usage, "which server?")
                    .hint("add --server https://HOST:8443"));
            }
        };
        let known = known.filter(|(_, context)| context.server == origin(&url));
        let ca = globals.ca.as_ref().or(environment.ca.as_ref());
        let trust = match (&self.ca_fingerprint, ca, &known) {
            (Some(fingerprint), ..) => Trust::Fingerprint(*fingerprint),
            (None, Some(ca), _) => Trust::parse(ca)?,
            (None, None, Some((_, context))) => context.trust()?,
            (None, None, None) => meet(&url).await?,
        };
        let (token, user) = self.token(&url, &trust, globals).await?;
        let name = (self.name.clone().or_else(|| globals.context.clone()))
            .or_else(|| known.map(|(name, _)| name))
            .unwrap_or_else(|| url.host_str().unwrap_or_default().to_owned());
        contexts.contexts.insert(name.clone(), context(&url, &trust, &token, user.clone()));
        contexts.current = Some(name.clone());
        file.save(&contexts)?;
        let session = Session::open(globals)?;
        session.output.remark(&format!("logged in to {} as {user}; context {name}", origin(&url)));
        if environment.local.is_some() && globals.socket.is_none() {
            session.output.remark(&format!(
                "commands here still use the server on this machine; add `--context {name}` for this one"
            ));
        }
        Ok(ExitCode::SUCCESS)
    }

    /// A token that works, and whose it is.
    async fn token(
        &self,
        url: &Url,
        trust: &Trust,
        globals: &GlobalOptions,
    ) -> Result<(SecretText, String), CliError> {
        let at = |token: Option<String>| {
            let (url, trust) = (url.clone(), trust.clone());
            Session::at(&Address::Server { url, trust, token }, globals)
        };
        if self.token_stdin {
            let token = password("Token: ")?;
            let session = at(Some(token.reveal().to_owned()))?;
            let who = session.call::<WhoamiCall>(&NoParams {}, &NoParams {}, ()).await?;
            return Ok((token, who.name));
        }
        let user = match &self.user {
            Some(user) => user.clone(),
            None if is_interactive() => ask("User: ")?,
            None => return Err(CliError::new(Exit::Usage, "who are you?").hint("add --user NAME")),
        };
        let request = LoginRequest { user: user.clone(), password: password("Password: ")? };
        let answer = at(None)?.call::<LoginCall>(&NoParams {}, &NoParams {}, request).await?;
        Ok((answer.token, user))
    }
}

/// The first meeting: a person must recognise the CA, unless the operating system does.
async fn meet(url: &Url) -> Result<Trust, CliError> {
    let fingerprint = match trust::look(url).await? {
        Presented::Trusted => return Ok(Trust::System),
        Presented::Unknown(fingerprint) => fingerprint,
    };
    let server = origin(url);
    if !is_interactive() {
        return Err(CliError::new(Exit::CannotConnect, format!("{server} is not known"))
            .detail(format!("it presents the CA {fingerprint}"))
            .hint("if that is its CA, add --ca-fingerprint with it"));
    }
    let question = format!(
        "{server} is not known. It presents a CA with the SHA-256 fingerprint\n  {fingerprint}\nIs that the server's? [y/N] "
    );
    match ask(&question)?.to_ascii_lowercase().as_str() {
        "y" | "yes" => Ok(Trust::Fingerprint(fingerprint)),
        _ => Err(CliError::new(Exit::CannotConnect, "not logged in: the server is not trusted")),
    }
}

fn context(url: &Url, trust: &Trust, token: &SecretText, user: String) -> Context {
    let (ca_fingerprint, ca) = match trust {
        Trust::System => (None, None),
        Trust::Fingerprint(fingerprint) => (Some(fingerprint.to_string()), None),
        Trust::Pem(pem) => (None, Some(pem.clone())),
    };
    let token = Some(token.reveal().to_owned());
    Context { server: origin(url), ca_fingerprint, ca, user: Some(user), token }
}

/// End the token of the current context and forget it
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  hostler logout\n  hostler logout --context prod")]
pub(crate) struct Logout {}

impl Logout {
    pub(super) async fn run(&self, globals: &GlobalOptions) -> Result<ExitCode, CliError> {
        let file = ContextFile::of_user()?;
        let mut contexts = file.load()?;
        let found = contexts.find(globals.context.as_deref())?;
        let Some((name, context)) = found.map(|(name, context)| (name.to_owned(), context.clone()))
        else {
            return Err(CliError::new(Exit::Usage, "you are not logged in"));
        };
        let Some(token) = context.token.clone() else {
            return Err(CliError::new(Exit::Usage, format!("context {name} is not logged in")));
        };
        let url = parse_url(&context.server)?;
        let address = Address::Server { url, trust: context.trust()?, token: Some(token) };
        let session = Session::at(&address, globals)?;
        // A token that has ended already is as good.
        match session.call::<LogoutCall>(&NoParams {}, &NoParams {}, ()).await {
            Err(error) if error.exit() != Exit::Unauthorised => return Err(error),
            _ => {}
        }
        if let Some(context) = contexts.contexts.get_mut(&name) {
            context.token = None;
        }
        file.save(&contexts)?;
        session.output.remark(&format!("logged out of {name}"));
        Ok(ExitCode::SUCCESS)
    }
}

/// Tell who you are and what you may do
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  hostler whoami")]
pub(crate) struct Whoami {}

impl Whoami {
    pub(super) async fn run(&self, session: &Session) -> Result<ExitCode, CliError> {
        let who = session.call::<WhoamiCall>(&NoParams {}, &NoParams {}, ()).await?;
        session.output.object(&who, &who.name, || {
            vec![
                ("Name", vec![Cell::new(&who.name)]),
                ("Role", vec![Cell::new(who.role.as_str())]),
                ("Server", vec![Cell::new(session.connection.name())]),
            ]
        })?;
        Ok(ExitCode::SUCCESS)
    }
}
