//! `hostler user`.

use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use hostler_api::user::{self, PasswordChange, UserCreate, UserListQuery, UserPath};
use hostler_endpoint::NoParams;
use hostler_types::{Name, Ref, Role, SecretText};

use crate::error::{CliError, Exit};
use crate::output::Listing;
use crate::session::{Session, once};
use crate::table::Cell;
use crate::terminal::{confirm, is_interactive, password};
use crate::time;

/// Users and their passwords
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "Examples:\n  hostler user create ana --role operator\n  hostler user list"
)]
pub(crate) struct UserArgs {
    #[command(subcommand)]
    command: UserCommand,
}

#[derive(Debug, Subcommand)]
enum UserCommand {
    /// List users
    #[command(visible_alias = "ls", after_help = "Examples:\n  hostler user list")]
    List,

    Create(Create),
    SetPassword(SetPassword),

    /// Delete a user; the user's tokens end
    #[command(visible_alias = "rm", after_help = "Examples:\n  hostler user delete ana --yes")]
    Delete(Delete),
}

#[derive(Debug, Args)]
struct Which {
    /// Name or id of the user
    #[arg(value_name = "USER")]
    user: Ref,
}

/// Make a user; asks for a password on a terminal
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler user create ana --role operator
  hostler user create ci --role viewer --no-password
  hostler user create ana --role admin --password-stdin < password")]
struct Create {
    /// Name for the user
    #[arg(value_name = "NAME")]
    name: Name,

    /// What the user may do
    #[arg(long, value_enum, value_name = "ROLE")]
    role: RoleArg,

    /// The user acts with tokens only
    #[arg(long, conflicts_with = "password_stdin")]
    no_password: bool,

    /// Read the password from standard input
    #[arg(long)]
    password_stdin: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum RoleArg {
    /// Reads everything but secrets
    Viewer,
    /// Works with VMs and images
    Operator,
    /// All, including hosts, datastores, networks, users and tokens
    Admin,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Viewer => Self::Viewer,
            RoleArg::Operator => Self::Operator,
            RoleArg::Admin => Self::Admin,
        }
    }
}

/// Set one's own password, or as admin anyone's
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler user set-password ana
  hostler user set-password ana < password")]
struct SetPassword {
    #[command(flatten)]
    which: Which,
}

#[derive(Debug, Args)]
struct Delete {
    #[command(flatten)]
    which: Which,

    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

impl UserArgs {
    pub(crate) async fn run(self, session: &Session) -> Result<ExitCode, CliError> {
        match self.command {
            UserCommand::List => list(session).await?,
            UserCommand::Create(create) => create.run(session).await?,
            UserCommand::SetPassword(set) => {
                let name = set.which.user.to_string();
                let request = PasswordChange { password: new_password()? };
                let path = UserPath { user: set.which.user };
                session.call::<user::SetPassword>(&path, &NoParams {}, request).await?;
                session.output.done("has a new password", "user", &name, &())?;
            }
            UserCommand::Delete(delete) => {
                let name = delete.which.user.to_string();
                confirm(
                    delete.yes,
                    &format!("Delete the user {name}, and end the user's tokens?"),
                )?;
                let path = UserPath { user: delete.which.user };
                session.call::<user::Delete>(&path, &NoParams {}, ()).await?;
                session.output.done("deleted", "user", &name, &())?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn list(session: &Session) -> Result<(), CliError> {
    let query = UserListQuery::default();
    let users = session.call::<user::List>(&NoParams {}, &query, ()).await?.items;
    session.output.list(
        &users,
        &Listing {
            header: &["NAME", "ROLE", "CREATED"],
            empty: "no users",
            name: &|user| user.metadata.name.to_string(),
            row: &|user| {
                vec![
                    Cell::new(user.metadata.name.as_str()),
                    Cell::new(user.spec.role.as_str()),
                    Cell::new(time::show(user.metadata.created_at)),
                ]
            },
        },
    )
}

impl Create {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        let asks = !self.no_password && is_interactive();
        let password = if self.password_stdin || asks { Some(new_password()?) } else { None };
        let tokens_only = password.is_none();
        let request = UserCreate { name: self.name, role: self.role.into(), password };
        let call = session.call_with::<user::Create>(&NoParams {}, &NoParams {}, request, once());
        let user = call.await?;
        session.output.done("created", "user", user.metadata.name.as_str(), &user)?;
        if tokens_only && session.output.is_table() {
            let name = &user.metadata.name;
            session.output.remark(&format!(
                "without a password: make a token with `hostler token create NAME --user {name}`"
            ));
        }
        Ok(())
    }
}

/// Asked twice on a terminal; one line of standard input otherwise.
fn new_password() -> Result<SecretText, CliError> {
    let first = password("New password: ")?;
    if is_interactive() && password("Again: ")? != first {
        return Err(CliError::new(Exit::Usage, "the two passwords differ"));
    }
    Ok(first)
}
