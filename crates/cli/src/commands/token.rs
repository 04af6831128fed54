//! `hostler token`.

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use hostler_api::token::{self, TokenCreate, TokenListQuery, TokenPath};
use hostler_endpoint::NoParams;
use hostler_types::{Name, Ref, Role};
use serde_json::json;

use super::user::RoleArg;
use crate::error::CliError;
use crate::names::Names;
use crate::options::Format;
use crate::output::{self, Listing};
use crate::session::{Session, once};
use crate::table::Cell;
use crate::terminal::confirm;
use crate::time;

/// Tokens: what programs authenticate with
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "Examples:\n  hostler token create ci --role operator --expires 90d\n  hostler token list"
)]
pub(crate) struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// List one's own tokens, or as admin everyone's
    #[command(visible_alias = "ls", after_help = "Examples:\n  hostler token list --user ana")]
    List(List),

    Create(Create),

    /// End a token
    #[command(visible_alias = "rm", after_help = "Examples:\n  hostler token delete ci --yes")]
    Delete(Delete),
}

#[derive(Debug, Args)]
struct List {
    /// Only tokens of this user
    #[arg(long, value_name = "USER")]
    user: Option<Ref>,
}

/// Make a token; it is printed once
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler token create ci --role operator --expires 90d
  HOSTLER_TOKEN=$(hostler token create reading --user vera -q) hostler vm list")]
struct Create {
    /// Name for the token
    #[arg(value_name = "NAME")]
    name: Name,

    /// Whose it is [default: your own]
    #[arg(long, value_name = "USER")]
    user: Option<Ref>,

    /// What it may do, at most what the user may [default: the user's role]
    #[arg(long, value_enum, value_name = "ROLE")]
    role: Option<RoleArg>,

    /// How long it lasts, such as 90d [default: until it is deleted]
    #[arg(long, value_name = "DURATION", value_parser = crate::duration::parse)]
    expires: Option<Duration>,
}

#[derive(Debug, Args)]
struct Delete {
    /// Name or id of the token
    #[arg(value_name = "TOKEN")]
    token: Ref,

    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

impl TokenArgs {
    pub(crate) async fn run(self, session: &Session) -> Result<ExitCode, CliError> {
        match self.command {
            TokenCommand::List(list) => list.run(session).await?,
            TokenCommand::Create(create) => create.run(session).await?,
            TokenCommand::Delete(delete) => {
                let name = delete.token.to_string();
                confirm(delete.yes, &format!("End the token {name}?"))?;
                let path = TokenPath { token: delete.token };
                session.call::<token::Delete>(&path, &NoParams {}, ()).await?;
                session.output.done("deleted", "token", &name, &())?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl List {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        let query = TokenListQuery { user: self.user, ..TokenListQuery::default() };
        let tokens = session.call::<token::List>(&NoParams {}, &query, ());
        let (tokens, names) = futures::try_join!(tokens, Names::users(session))?;
        session.output.list(
            &tokens.items,
            &Listing {
                header: &["NAME", "USER", "ROLE", "EXPIRES", "CREATED"],
                empty: "no tokens",
                name: &|token| token.metadata.name.to_string(),
                row: &|token| {
                    vec![
                        Cell::new(token.metadata.name.as_str()),
                        names.cell(token.spec.user),
                        Cell::new(token.spec.role.as_str()),
                        Cell::new(token.spec.expires_at.map(time::show).unwrap_or_default()),
                        Cell::new(time::show(token.metadata.created_at)),
                    ]
                },
            },
        )
    }
}

impl Create {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        let request = TokenCreate {
            name: self.name,
            user: self.user,
            role: self.role.map(Role::from),
            lifetime_seconds: self.expires.map(|expires| expires.as_secs()),
        };
        let call = session.call_with::<token::Create>(&NoParams {}, &NoParams {}, request, once());
        let created = call.await?;
        match session.output.format {
            Format::Json | Format::Yaml => session.output.data(&json!({
                "token": created.secret.reveal(),
                "id": created.token.metadata.id,
                "name": created.token.metadata.name,
                "spec": created.token.spec,
            })),
            Format::Table | Format::Name => {
                output::print(&format!("{}\n", created.secret.reveal()))?;
                session.output.remark("shown only now; pass it as HOSTLER_TOKEN");
                Ok(())
            }
        }
    }
}
