//! `hostler drs`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use hostler_api::drs::{self, DryRunQuery, HistoryQuery};
use hostler_endpoint::NoParams;
use hostler_types::{
    BlockedMove, ClusterBalance, DrsApply, DrsOutcome, DrsRun, Recommendation, TaskId,
};

use super::task::print_ordered;
use crate::error::CliError;
use crate::output::{self, Listing};
use crate::session::{Session, once};
use crate::table::{self, Cell, Tone};
use crate::time;
use crate::wait::{self, WaitOptions};

/// Balancing: which VMs should move where, and moving them
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "Examples:\n  hostler drs recommendations\n  hostler drs apply\n  hostler drs history"
)]
pub(crate) struct DrsArgs {
    #[command(subcommand)]
    command: DrsCommand,
}

#[derive(Debug, Subcommand)]
enum DrsCommand {
    /// List the moves that balancing would make now, each with its reason; nothing is moved
    #[command(
        after_help = "Examples:\n  hostler drs recommendations\n  hostler drs recommendations -o json"
    )]
    Recommendations,

    Apply(Apply),

    History(History),
}

/// Make the moves that balancing recommends: all, or those named and what they wait for
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler drs apply
  hostler drs apply 5f3a09c1 --dry-run

Each move is looked at again before it begins: one that rules or room do not allow any more is skipped,
and told. What has moved stays where it is, also when the task is cancelled (Ctrl-C) or another move fails.")]
struct Apply {
    /// Ids, as `hostler drs recommendations` lists them [default: all]
    #[arg(value_name = "ID")]
    ids: Vec<String>,

    /// Only tell which moves would be made
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    wait: WaitOptions,
}

/// Show what balancing has done: when, why, and what came of it
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  hostler drs history\n  hostler drs history --limit 5 -o json")]
struct History {
    /// At most so many, 1 to 1000
    #[arg(long, value_name = "COUNT", default_value_t = 20)]
    limit: u32,

    /// Only what was before this one
    #[arg(long, value_name = "TASK")]
    before: Option<TaskId>,
}

impl DrsArgs {
    pub(crate) async fn run(self, session: &Session) -> Result<ExitCode, CliError> {
        match self.command {
            DrsCommand::Recommendations => recommendations(session).await?,
            DrsCommand::Apply(apply) => apply.run(session).await?,
            DrsCommand::History(history) => history.run(session).await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn recommendations(session: &Session) -> Result<(), CliError> {
    let none = NoParams {};
    let told = session.call::<drs::ListRecommendations>(&none, &none, ()).await?;
    if session.output.is_data() {
        return session.output.data(&told);
    }
    print(session, &told.steps, &told.blocked, "nothing to move")
}

/// Steps, and what cannot move, as a table.
pub(super) fn print(
    session: &Session,
    steps: &[Recommendation],
    blocked: &[BlockedMove],
    empty: &str,
) -> Result<(), CliError> {
    let mut rows = Vec::new();
    for step in steps {
        for one in &step.moves {
            rows.push(vec![
                Cell::new(&step.id),
                Cell::new(&one.vm),
                Cell::new(&one.from),
                Cell::new(&one.to),
                Cell::new(&step.why),
                Cell::new(&step.reason),
            ]);
        }
    }
    for blocked in blocked {
        rows.push(vec![
            Cell::new("-"),
            Cell::new(blocked.vms.join(",")),
            Cell::new(""),
            Cell::new("nowhere").tone(Tone::Bad),
            Cell::new(&blocked.why),
            Cell::new(&blocked.reason),
        ]);
    }
    if rows.is_empty() {
        session.output.remark(empty);
        return Ok(());
    }
    let header = ["ID", "VM", "FROM", "TO", "WHY", "REASON"];
    output::print(&table::render(&header, &rows, session.output.is_colored()))
}

impl Apply {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        let (none, query) = (NoParams {}, DryRunQuery { dry_run: self.dry_run });
        let request = DrsApply { recommendations: self.ids };
        let applied = session.call_with::<drs::Apply>(&none, &query, request, once()).await?;
        let Some(task) = applied.task.clone() else {
            if session.output.is_data() {
                return session.output.data(&applied);
            }
            print(session, &applied.steps, &[], "nothing to move")?;
            if self.dry_run && !applied.steps.is_empty() {
                session.output.remark("nothing was moved: --dry-run");
            }
            return Ok(());
        };
        if !self.wait.waits() {
            return print_ordered(session, &task);
        }
        if session.output.is_table() {
            print(session, &applied.steps, &[], "")?;
        }
        let task = wait::task(session, task).await?;
        told(session, &task)
    }
}

/// How a task ended that moved VMs: what it has to tell.
pub(super) fn told(session: &Session, task: &hostler_types::Task) -> Result<(), CliError> {
    if session.output.is_data() {
        return session.output.data(task);
    }
    for message in &task.status.messages {
        session.output.remark(&message.text);
    }
    print_ordered(session, task)
}

impl History {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        let query = HistoryQuery { before: self.before, limit: Some(self.limit) };
        let runs = session.call::<drs::History>(&NoParams {}, &query, ()).await?.runs;
        session.output.list(
            &runs,
            &Listing {
                header: &[
                    "STARTED",
                    "TASK",
                    "BY",
                    "MOVES",
                    "WHY",
                    "EXCESS",
                    "BUSIEST CPU",
                    "BROKEN RULES",
                ],
                empty: "balancing has done nothing yet",
                name: &|run| run.task.to_string(),
                row: &row,
            },
        )
    }
}

fn row(run: &DrsRun) -> Vec<Cell> {
    let all: usize = run.steps.iter().map(|step| step.moves.len()).sum();
    let moved = run.steps.iter().filter(|step| step.outcome == DrsOutcome::Moved);
    let moved: usize = moved.map(|step| step.moves.len()).sum();
    let mut whys: Vec<&str> = run.steps.iter().map(|step| step.why.as_str()).collect();
    whys.sort_unstable();
    whys.dedup();
    let tone = match run.ended_at {
        None => Tone::Busy,
        Some(_) if moved == all => Tone::Good,
        Some(_) => Tone::Bad,
    };
    let change = |of: &dyn Fn(&ClusterBalance) -> String| {
        let after = run.after.as_ref().map_or_else(|| "…".to_owned(), of);
        Cell::new(format!("{} → {after}", of(&run.before)))
    };
    vec![
        Cell::new(time::show(run.started_at)),
        Cell::new(run.task.to_string()),
        Cell::new(&run.actor),
        Cell::new(format!("{moved} of {all}")).tone(tone),
        Cell::new(whys.join(",")),
        change(&|balance| format!("{:.2}", balance.excess)),
        change(&|balance| format!("{:.0} %", balance.most_cpu * 100.0)),
        change(&|balance| balance.broken_rules.to_string()),
    ]
}
