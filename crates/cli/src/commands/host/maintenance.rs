//! `hostler host maintenance`.

use clap::{Args, Subcommand};
use hostler_api::drs::DryRunQuery;
use hostler_api::host::{EnterMaintenance, ExitMaintenance, HostPath};
use hostler_endpoint::NoParams;
use hostler_types::{MaintenanceEnter, MaintenanceExit};

use super::Which;
use crate::commands::drs;
use crate::commands::task::print_ordered;
use crate::error::CliError;
use crate::session::{Session, once};
use crate::wait::{self, WaitOptions};

/// Empty a host for work on it, and put it back into service
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "Examples:\n  hostler host maintenance enter host01 --dry-run\n  hostler host maintenance enter host01\n  hostler host maintenance exit host01 --bring-back"
)]
pub(crate) struct Maintenance {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Enter(Enter),
    Exit(Exit),
}

/// Let a host take no VMs, and those that run on it leave it; they go on running
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler host maintenance enter host01 --dry-run
  hostler host maintenance enter host01
  hostler host maintenance enter host01 --wait-blocked

VMs that are off leave as well if they lie on a shared datastore: nothing is copied. What runs and cannot
leave is told, with the way out, before anything is done. Cancelling (Ctrl-C) opens the host again; what has
left it stays where it is (`exit --bring-back`).")]
struct Enter {
    #[command(flatten)]
    which: Which,

    /// Begin even if some VMs cannot leave now, and wait until they can, or are stopped
    #[arg(long)]
    wait_blocked: bool,

    /// Only tell who would go where, and what is in the way
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    wait: WaitOptions,
}

/// Let a host take VMs again
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler host maintenance exit host01
  hostler host maintenance exit host01 --bring-back")]
struct Exit {
    #[command(flatten)]
    which: Which,

    /// The VMs that left it for the maintenance come back, as far as rules and room allow it
    #[arg(long)]
    bring_back: bool,

    #[command(flatten)]
    wait: WaitOptions,
}

impl Maintenance {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        match self.command {
            Command::Enter(enter) => enter.run(session).await,
            Command::Exit(exit) => exit.run(session).await,
        }
    }
}

impl Enter {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        let path = HostPath { host: self.which.host };
        let query = DryRunQuery { dry_run: self.dry_run };
        let request = MaintenanceEnter { wait_blocked: self.wait_blocked };
        let entered = session.call_with::<EnterMaintenance>(&path, &query, request, once()).await?;
        let plan = || {
            drs::print(session, &entered.steps, &entered.blocked, "nothing has to leave")?;
            for vm in &entered.staying {
                session.output.remark(&format!("vm {vm} does not run, and stays on the host"));
            }
            Ok::<(), CliError>(())
        };
        let Some(task) = entered.task.clone() else {
            if session.output.is_data() {
                return session.output.data(&entered);
            }
            plan()?;
            session.output.remark("nothing was moved: --dry-run");
            return Ok(());
        };
        if !self.wait.waits() {
            return print_ordered(session, &task);
        }
        if session.output.is_table() {
            plan()?;
        }
        let task = wait::task(session, task).await?;
        if session.output.is_data() {
            return session.output.data(&task);
        }
        let name = path.host.to_string();
        session.output.done("in maintenance", "host", &name, &task)
    }
}

impl Exit {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        let path = HostPath { host: self.which.host };
        let request = MaintenanceExit { bring_back: self.bring_back };
        let ended =
            session.call_with::<ExitMaintenance>(&path, &NoParams {}, request, once()).await?;
        let name = path.host.to_string();
        let Some(task) = ended.task.clone() else {
            return session.output.done("takes VMs again", "host", &name, &ended);
        };
        if !self.wait.waits() {
            return print_ordered(session, &task);
        }
        let task = wait::task(session, task).await?;
        for message in &task.status.messages {
            session.output.remark(&message.text);
        }
        session.output.done("takes VMs again", "host", &name, &task)
    }
}
