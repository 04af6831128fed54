//! `hostler decision`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use hostler_api::placement::{self, DecisionListQuery, DecisionPath};
use hostler_endpoint::NoParams;
use hostler_types::{Decision, DecisionId, Ref};

use crate::error::CliError;
use crate::output::Listing;
use crate::session::Session;
use crate::table::{Cell, Tone};
use crate::time;

/// Decisions about where VMs go, each with all that it depended on
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
Examples:
  hostler decision list --vm web01
  hostler decision replay 0197f3c2-8d5e-7cc0-b5a6-3b8d6c1f2a10

The newest 10,000 are kept, or as many of the newest as take 256 MiB."
)]
pub(crate) struct DecisionArgs {
    #[command(subcommand)]
    command: DecisionCommand,
}

#[derive(Debug, Subcommand)]
enum DecisionCommand {
    List(List),

    /// Show a decision; -o json has its record
    #[command(
        visible_alias = "get",
        after_help = "Examples:\n  hostler decision show 0197f3c2-8d5e-7cc0-b5a6-3b8d6c1f2a10"
    )]
    Show(Which),

    /// Make a decision again, from its record alone: the same bytes come out
    ///
    /// It fails if they do not.
    #[command(
        after_help = "Examples:\n  hostler decision replay 0197f3c2-8d5e-7cc0-b5a6-3b8d6c1f2a10"
    )]
    Replay(Which),
}

/// List decisions, newest first
#[derive(Debug, Args)]
#[command(
    visible_alias = "ls",
    after_help = "Examples:\n  hostler decision list\n  hostler decision list --vm web01 --limit 5"
)]
struct List {
    /// Only those about this VM
    #[arg(long, value_name = "VM")]
    vm: Option<Ref>,

    /// Only those before this one
    #[arg(long, value_name = "DECISION")]
    before: Option<DecisionId>,

    /// At most this many
    #[arg(long, value_name = "COUNT", default_value = "100", value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
}

#[derive(Debug, Args)]
struct Which {
    /// Id of the decision
    #[arg(value_name = "DECISION")]
    decision: DecisionId,
}

impl DecisionArgs {
    pub(crate) async fn run(self, session: &Session) -> Result<ExitCode, CliError> {
        let none = NoParams {};
        match self.command {
            DecisionCommand::List(list) => list.run(session).await?,
            DecisionCommand::Show(which) => {
                let path = DecisionPath { decision: which.decision };
                let shown = session.call::<placement::ShowDecision>(&path, &none, ()).await?;
                let id = shown.decision.id.to_string();
                session.output.object(&shown, &id, || fields(&shown.decision))?;
            }
            DecisionCommand::Replay(which) => {
                let path = DecisionPath { decision: which.decision };
                let replay = session.call::<placement::ReplayDecision>(&path, &none, ()).await?;
                let outcome = match replay.same {
                    true => Cell::new("the same bytes").tone(Tone::Good),
                    false => Cell::new("other bytes").tone(Tone::Bad),
                };
                let fields = || {
                    vec![
                        ("Decision", vec![Cell::new(replay.id.to_string())]),
                        ("Outcome", vec![outcome]),
                        ("Bytes", vec![Cell::number(replay.bytes)]),
                    ]
                };
                session.output.object(&replay, &replay.id.to_string(), fields)?;
                if !replay.same {
                    return Ok(ExitCode::FAILURE);
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl List {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        let query = DecisionListQuery { vm: self.vm, before: self.before, limit: Some(self.limit) };
        let found = session.call::<placement::ListDecisions>(&NoParams {}, &query, ()).await?;
        session.output.list(
            &found.decisions,
            &Listing {
                header: &["DECISION", "AT", "FOR", "BY", "VMS", "HOSTS"],
                empty: "no decisions",
                name: &|decision| decision.id.to_string(),
                row: &|decision| {
                    let names = decision.vms.iter().map(|vm| vm.name.to_string());
                    let hosts = decision.vms.iter().map(|vm| vm.host_name.to_string());
                    vec![
                        Cell::new(decision.id.to_string()),
                        Cell::new(time::show(decision.at)),
                        Cell::new(&decision.action),
                        Cell::new(&decision.actor),
                        Cell::new(few(names.collect())),
                        Cell::new(few(hosts.collect())),
                    ]
                },
            },
        )
    }
}

/// At most three different ones.
fn few(mut names: Vec<String>) -> String {
    names.sort_unstable();
    names.dedup();
    let more = names.len().saturating_sub(3);
    names.truncate(3);
    match more {
        0 => names.join(","),
        more => format!("{} and {more} more", names.join(",")),
    }
}

fn fields(decision: &Decision) -> Vec<(&'static str, Vec<Cell>)> {
    let one = |text: String| vec![Cell::new(text)];
    let vms = decision.vms.iter();
    let vms = vms.map(|vm| Cell::new(format!("{} on {}", vm.name, vm.host_name)));
    vec![
        ("Id", one(decision.id.to_string())),
        ("At", one(time::show(decision.at))),
        ("For", one(decision.action.clone())),
        ("By", one(decision.actor.clone())),
        ("Task", decision.task.iter().map(|task| Cell::new(task.to_string())).collect()),
        ("Revision", one(decision.revision.0.to_string())),
        ("VMs", vms.collect()),
        ("Why", decision.sentences.iter().map(Cell::new).collect()),
        ("Record", one(format!("{} bytes", decision.bytes))),
    ]
}
