//! Deleting snapshots and merging files, said before: which files go where, and how long it takes.

use clap::Args;
use hostler_api::snapshot::{
    Consolidate as Merge, ConsolidateRequest, DeleteSeveral, PlanDeletion, SnapshotSelection,
};
use hostler_endpoint::NoParams;
use hostler_types::{ByteSize, Ref, SnapshotDeletionPlan, Task};

use crate::commands::vm::VmName;
use crate::error::{CliError, Exit};
use crate::output::print;
use crate::session::{Session, once};
use crate::terminal::{confirm, require_answers};
use crate::time;
use crate::wait::{self, WaitOptions};

/// Delete snapshots and merge what they held; the VM stays as it is
#[derive(Debug, Args)]
#[command(
    visible_alias = "rm",
    after_help = "\
Examples:
  hostler vm snapshot delete web01 before-upgrade --plan
  hostler vm snapshot delete web01 before-upgrade after-upgrade --yes
  hostler vm snapshot delete web01 before-upgrade --children --max-rate 50MiB
  hostler vm snapshot delete web01 --all

The guest runs on meanwhile. Ctrl-C stops the merge and ends this with 130: the snapshots are gone
then, and their files wait for `hostler vm consolidate web01`."
)]
pub(super) struct Delete {
    #[command(flatten)]
    vm: VmName,

    /// Names or ids of the snapshots
    #[arg(value_name = "SNAPSHOT", required_unless_present = "all")]
    snapshots: Vec<Ref>,

    /// With all that descend from them
    #[arg(long, conflicts_with = "all")]
    children: bool,

    /// All snapshots of the VM
    #[arg(long, conflicts_with = "snapshots")]
    all: bool,

    /// Say which files would be merged and how long it should take; change nothing
    #[arg(long, alias = "dry-run")]
    plan: bool,

    /// Bytes a second at most, such as 50MiB
    #[arg(long, value_name = "SIZE")]
    max_rate: Option<ByteSize>,

    /// Do not ask
    #[arg(short, long)]
    yes: bool,

    #[command(flatten)]
    wait: WaitOptions,
}

impl Delete {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let query = SnapshotSelection {
            snapshot: self.snapshots,
            children: self.children,
            all: self.all,
            max_rate: self.max_rate.map(ByteSize::bytes),
        };
        if !self.plan {
            require_answers(self.yes)?;
        }
        let plan = session.call::<PlanDeletion>(&self.vm.path(), &query, ()).await?;
        if self.plan {
            return show(session, &plan);
        }
        for line in told(&plan) {
            session.output.remark(&line);
        }
        let names: Vec<_> = plan.snapshots.iter().map(ToString::to_string).collect();
        confirm(self.yes, &format!("Delete {}?", names.join(", ")))?;
        let path = self.vm.path();
        let task = session.call_with::<DeleteSeveral>(&path, &query, (), once()).await?;
        finish(session, &self.wait, task, "deleted", &names).await
    }
}

/// Merge what earlier deletions of snapshots could not
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler vm consolidate web01 --plan
  hostler vm consolidate web01 --max-rate 50MiB")]
pub(crate) struct Consolidate {
    #[command(flatten)]
    vm: VmName,

    /// Say which files would be merged and how long it should take; change nothing
    #[arg(long, alias = "dry-run")]
    plan: bool,

    /// Bytes a second at most, such as 50MiB
    #[arg(long, value_name = "SIZE")]
    max_rate: Option<ByteSize>,

    #[command(flatten)]
    wait: WaitOptions,
}

impl Consolidate {
    pub(crate) async fn run(self, session: &Session) -> Result<(), CliError> {
        let (path, query) = (self.vm.path(), SnapshotSelection::default());
        if self.plan {
            let plan = session.call::<PlanDeletion>(&path, &query, ()).await?;
            return show(session, &plan);
        }
        let request = ConsolidateRequest { max_rate: self.max_rate.map(ByteSize::bytes) };
        let task = session.call_with::<Merge>(&path, &NoParams {}, request, once()).await?;
        finish(session, &self.wait, task, "consolidated", &[self.vm.vm.to_string()]).await
    }
}

/// Sees the task through and passes on what it found worth telling.
async fn finish(
    session: &Session,
    wait: &WaitOptions,
    ordered: Task,
    verb: &str,
    names: &[String],
) -> Result<(), CliError> {
    if !wait.waits() {
        return crate::commands::task::print_ordered(session, &ordered);
    }
    let (ended, stopped) = wait::task_or_less(session, ordered).await?;
    let kind = if verb == "deleted" { "snapshot" } else { "vm" };
    session.output.done(verb, kind, &names.join(", "), &ended)?;
    for message in &ended.status.messages {
        session.output.remark(&message.text);
    }
    if stopped {
        return Err(CliError::new(Exit::Interrupted, "interrupted before all was merged"));
    }
    Ok(())
}

fn show(session: &Session, plan: &SnapshotDeletionPlan) -> Result<(), CliError> {
    if !session.output.is_table() {
        return session.output.data(plan);
    }
    let lines = told(plan).into_iter().map(|line| crate::sanitise::line(&line) + "\n");
    print(&lines.collect::<String>())
}

/// What would be done, in lines for people.
fn told(plan: &SnapshotDeletionPlan) -> Vec<String> {
    let names: Vec<_> = plan.snapshots.iter().map(ToString::to_string).collect();
    let what = match names.is_empty() {
        true => "what earlier deletions left".to_owned(),
        false => format!("without {}", names.join(", ")),
    };
    let mut lines = vec![format!("vm {}, {what}:", plan.name)];
    lines.extend(plan.files.to_string().lines().map(|line| format!("  {line}")));
    let estimate = &plan.estimate;
    if estimate.bytes.bytes() > 0 {
        lines.push(format!(
            "  {} to merge, about {} at {} a second ({})",
            estimate.bytes,
            time::span(estimate.seconds),
            estimate.bytes_per_second,
            estimate.basis
        ));
    }
    lines.extend(plan.refused.iter().map(|why| format!("  will be refused: {why}")));
    lines
}
