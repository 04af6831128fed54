//! `hostler context`: the servers that one works with.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::address::{Trust, origin, parse_url};
use crate::contexts::{Context, ContextFile, Contexts};
use crate::error::{CliError, Exit};
use crate::options::GlobalOptions;
use crate::output::{Listing, Output};
use crate::table::Cell;

/// Contexts: the servers you work with, and as whom
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "Examples:\n  hostler context list\n  hostler context use prod"
)]
pub(crate) struct ContextArgs {
    #[command(subcommand)]
    command: ContextCommand,
}

#[derive(Debug, Subcommand)]
enum ContextCommand {
    /// List contexts; the current one has a star
    #[command(visible_alias = "ls", after_help = "Examples:\n  hostler context list")]
    List,

    /// Make a context the current one
    #[command(after_help = "Examples:\n  hostler context use prod")]
    Use(Which),

    /// Add a server without logging in; --server names it, --ca what it is recognised by
    #[command(after_help = "\
Examples:
  hostler context add prod --server https://vm.example.org:8443 --ca ca.pem")]
    Add(Which),

    /// Forget a context; its token stays valid until `hostler logout`
    #[command(visible_alias = "rm", after_help = "Examples:\n  hostler context delete prod")]
    Delete(Which),
}

#[derive(Debug, Args)]
struct Which {
    /// Name of the context
    #[arg(value_name = "CONTEXT")]
    name: String,
}

/// A context as it is shown: without the token.
#[derive(Debug, Serialize)]
struct Shown {
    name: String,
    current: bool,
    server: String,
    user: Option<String>,
    trust: &'static str,
    logged_in: bool,
}

impl ContextArgs {
    pub(super) fn run(self, globals: &GlobalOptions) -> Result<ExitCode, CliError> {
        let file = ContextFile::of_user()?;
        let mut contexts = file.load()?;
        let output = Output::new(globals);
        match self.command {
            ContextCommand::List => list(&output, &contexts)?,
            ContextCommand::Use(which) => {
                contexts.find(Some(&which.name))?;
                contexts.current = Some(which.name.clone());
                file.save(&contexts)?;
                output.done("is the current one now", "context", &which.name, &which.name)?;
            }
            ContextCommand::Add(which) => {
                let context = add(globals, &contexts, &which.name)?;
                contexts.contexts.insert(which.name.clone(), context);
                contexts.current.get_or_insert_with(|| which.name.clone());
                file.save(&contexts)?;
                output.done("added", "context", &which.name, &which.name)?;
            }
            ContextCommand::Delete(which) => {
                contexts.find(Some(&which.name))?;
                contexts.contexts.remove(&which.name);
                contexts.current = contexts.current.filter(|current| *current != which.name);
                file.save(&contexts)?;
                output.done("deleted", "context", &which.name, &which.name)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn add(globals: &GlobalOptions, contexts: &Contexts, name: &str) -> Result<Context, CliError> {
    if contexts.contexts.contains_key(name) {
        return Err(CliError::new(Exit::Conflict, format!("there is a context `{name}` already"))
            .hint("delete it first, or choose another name"));
    }
    let server = globals.server.as_ref().ok_or_else(|| {
        CliError::new(Exit::Usage, "which server?").hint("add --server https://HOST:8443")
    })?;
    let trust = globals.ca.as_deref().map_or(Ok(Trust::System), Trust::parse)?;
    let (ca_fingerprint, ca) = match trust {
        Trust::System => (None, None),
        Trust::Fingerprint(fingerprint) => (Some(fingerprint.to_string()), None),
        Trust::Pem(pem) => (None, Some(pem)),
    };
    let server = origin(&parse_url(server)?);
    Ok(Context { server, ca_fingerprint, ca, user: None, token: None })
}

fn list(output: &Output, contexts: &Contexts) -> Result<(), CliError> {
    let shown = contexts.contexts.iter().map(|(name, context)| Shown {
        name: name.clone(),
        current: contexts.current.as_ref() == Some(name),
        server: context.server.clone(),
        user: context.user.clone(),
        trust: match (&context.ca_fingerprint, &context.ca) {
            (Some(_), _) => "CA fingerprint",
            (None, Some(_)) => "CA file",
            (None, None) => "system",
        },
        logged_in: context.token.is_some(),
    });
    output.list(
        &shown.collect::<Vec<_>>(),
        &Listing {
            header: &["", "NAME", "SERVER", "USER", "TRUST"],
            empty: "no contexts; `hostler login --server https://HOST:8443` makes one",
            name: &|context| context.name.clone(),
            row: &|context| {
                let user = context.user.as_deref().filter(|_| context.logged_in);
                vec![
                    Cell::blank(if context.current { "*" } else { "" }),
                    Cell::new(&context.name),
                    Cell::new(&context.server),
                    Cell::new(user.unwrap_or("(logged out)")),
                    Cell::new(context.trust),
                ]
            },
        },
    )
}
