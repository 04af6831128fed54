//! `hostler request`: a file for each verb that is more than a call.

mod create;
mod show;
mod watch;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use hostler_api::request::{self, RequestApprove, RequestListQuery, RequestPath, RequestReject};
use hostler_endpoint::NoParams;
use hostler_types::{Ref, Request, RequestState};
use jiff::Timestamp;

use crate::error::CliError;
use crate::output::Listing;
use crate::session::Session;
use crate::table::{Cell, Tone};
use crate::time;

/// Requests: ask for VMs, approve them, follow them to delivery
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
Examples:
  hostler request create web01 --image debian-12 --purpose 'the shop' --lease 30d
  hostler request list --state pending
  hostler request approve web01-3f2a1b
  hostler request watch web01-3f2a1b"
)]
pub(crate) struct RequestArgs {
    #[command(subcommand)]
    command: RequestCommand,
}

#[derive(Debug, Subcommand)]
enum RequestCommand {
    Create(Box<create::Create>),

    List(List),

    /// Show a request: who has to agree and why, and each step of its making
    #[command(after_help = "Examples:\n  hostler request show web01-3f2a1b")]
    Show(Which),

    /// Follow a request to its end
    #[command(after_help = "Examples:\n  hostler request watch web01-3f2a1b")]
    Watch(Which),

    Approve(Approve),

    Reject(Reject),

    /// Take a request back; what is being made is undone
    #[command(after_help = "Examples:\n  hostler request cancel web01-3f2a1b")]
    Cancel(Which),

    /// Try a failed request again, from where it failed
    #[command(after_help = "Examples:\n  hostler request retry web01-3f2a1b")]
    Retry(Which),
}

#[derive(Debug, Args)]
struct Which {
    /// Name or id of the request
    #[arg(value_name = "REQUEST")]
    request: Ref,
}

impl Which {
    fn path(&self) -> RequestPath {
        RequestPath { request: self.request.clone() }
    }
}

/// List requests
#[derive(Debug, Args)]
#[command(
    visible_alias = "ls",
    after_help = "Examples:\n  hostler request list --state pending --by anna"
)]
struct List {
    /// Only those in this state, such as pending or failed
    #[arg(long, value_name = "STATE")]
    state: Option<String>,

    /// Only those by this user
    #[arg(long, value_name = "USER")]
    by: Option<String>,
}

/// Agree to a request
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  hostler request approve web01-3f2a1b --comment 'as discussed'"
)]
struct Approve {
    #[command(flatten)]
    which: Which,

    /// A word about it
    #[arg(long, value_name = "TEXT")]
    comment: Option<String>,
}

/// Refuse a request
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  hostler request reject web01-3f2a1b --reason 'ask for less'")]
struct Reject {
    #[command(flatten)]
    which: Which,

    /// Why, for whoever has asked
    #[arg(long, value_name = "TEXT")]
    reason: String,
}

impl RequestArgs {
    pub(crate) async fn run(self, session: &Session) -> Result<ExitCode, CliError> {
        let none = NoParams {};
        match self.command {
            RequestCommand::Create(create) => create.run(session).await?,
            RequestCommand::List(list) => list.run(session).await?,
            RequestCommand::Show(which) => show::run(session, &which.path()).await?,
            RequestCommand::Watch(which) => watch::run(session, &which.path()).await?,
            RequestCommand::Approve(approve) => {
                let body = RequestApprove { comment: approve.comment };
                let path = approve.which.path();
                let request = session.call::<request::Approve>(&path, &none, body).await?;
                let missing: u32 =
                    request.status.decision.rules.iter().map(|rule| rule.missing).sum();
                let waits = matches!(request.status.state, RequestState::Pending { .. });
                if waits && missing > 0 {
                    session.output.remark("it still waits for others: see `hostler request show`");
                }
                done(session, "approved", &request)?;
            }
            RequestCommand::Reject(reject) => {
                let body = RequestReject { reason: reject.reason };
                let path = reject.which.path();
                let request = session.call::<request::Reject>(&path, &none, body).await?;
                done(session, "rejected", &request)?;
            }
            RequestCommand::Cancel(which) => {
                let path = which.path();
                let request = session.call::<request::Cancel>(&path, &none, ()).await?;
                done(session, "cancelled", &request)?;
            }
            RequestCommand::Retry(which) => {
                let path = which.path();
                let request = session.call::<request::Retry>(&path, &none, ()).await?;
                done(session, "tried again", &request)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn done(session: &Session, verb: &str, request: &Request) -> Result<(), CliError> {
    session.output.done(verb, "request", request.metadata.name.as_str(), request)
}

impl List {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        let query =
            RequestListQuery { state: self.state, requester: self.by, ..Default::default() };
        let page = session.call::<request::List>(&NoParams {}, &query, ()).await?;
        session.output.list(
            &page.items,
            &Listing {
                header: &["NAME", "STATE", "VM", "CPUS", "MEMORY", "DISK", "BY", "OWNER", "AGE"],
                empty: "no requests",
                name: &|request| request.metadata.name.to_string(),
                row: &|request| row(request, Timestamp::now()),
            },
        )
    }
}

fn row(request: &Request, now: Timestamp) -> Vec<Cell> {
    let (spec, vm) = (&request.spec, &request.spec.order.vm);
    vec![
        Cell::new(request.metadata.name.as_str()),
        state(request),
        Cell::new(vm.name.as_str()),
        Cell::number(spec.cpus.count()),
        Cell::number(spec.memory),
        Cell::number(spec.disk),
        Cell::new(&spec.requester.name),
        Cell::new(&spec.owner),
        Cell::new(time::age(request.metadata.created_at, now)),
    ]
}

fn state(request: &Request) -> Cell {
    let state = &request.status.state;
    let tone = match state {
        RequestState::Pending { .. } | RequestState::Approved => Tone::Plain,
        RequestState::Provisioning { .. } => Tone::Busy,
        RequestState::Delivered { .. } => Tone::Good,
        RequestState::Failed { .. } | RequestState::Rejected { .. } => Tone::Bad,
        RequestState::Cancelled { .. } | RequestState::Expired => Tone::Dim,
    };
    Cell::new(state.as_str()).tone(tone)
}

/// What its state means, in a sentence.
fn sentence(request: &Request) -> String {
    match &request.status.state {
        RequestState::Pending { until } => {
            format!("waits for approvals until {}", time::show(*until))
        }
        RequestState::Approved => "will be provisioned in a moment".to_owned(),
        RequestState::Provisioning { .. } => "is being made".to_owned(),
        RequestState::Delivered { .. } => {
            format!("vm {} is delivered", request.spec.order.vm.name)
        }
        RequestState::Rejected { by, reason } => format!("by {by}: {reason}"),
        RequestState::Failed { step, reason } => format!("`{step}` has failed: {reason}"),
        RequestState::Cancelled { by } => format!("by {by}"),
        RequestState::Expired => "nobody has approved it in time".to_owned(),
    }
}
