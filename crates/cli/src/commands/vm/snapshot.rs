//! `hostler vm snapshot create|list|tree|show|revert|rename|delete`, and `hostler vm consolidate`.

mod change;
mod delete;
mod view;

use clap::{Args, Subcommand};
use hostler_api::snapshot::{List, SnapshotPath};
use hostler_endpoint::NoParams;
use hostler_types::{Ref, SnapshotTree, VmSnapshots};

pub(super) use delete::Consolidate;
pub(super) use view::{count, lines};

use super::VmName;
use crate::error::CliError;
use crate::session::Session;

/// Snapshots of a VM: take, list, go back, delete; also while it runs
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
Examples:
  hostler vm snapshot create web01 before-upgrade --quiesce
  hostler vm snapshot tree web01
  hostler vm snapshot revert web01 before-upgrade
  hostler vm snapshot delete web01 before-upgrade --plan

A snapshot is no backup: it lies on the same datastore as the disks, and on files that they need too."
)]
pub(crate) struct SnapshotArgs {
    #[command(subcommand)]
    command: SnapshotCommand,
}

#[derive(Debug, Subcommand)]
enum SnapshotCommand {
    Create(change::Create),
    List(view::ListSnapshots),
    Tree(view::Tree),
    Show(view::ShowSnapshot),
    Revert(change::Revert),
    Rename(change::Rename),
    Delete(delete::Delete),
}

impl SnapshotArgs {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        match self.command {
            SnapshotCommand::Create(command) => command.run(session).await,
            SnapshotCommand::List(command) => command.run(session).await,
            SnapshotCommand::Tree(command) => command.run(session).await,
            SnapshotCommand::Show(command) => command.run(session).await,
            SnapshotCommand::Revert(command) => command.run(session).await,
            SnapshotCommand::Rename(command) => command.run(session).await,
            SnapshotCommand::Delete(command) => command.run(session).await,
        }
    }
}

/// Which snapshot of which VM.
#[derive(Debug, Args)]
struct SnapshotName {
    #[command(flatten)]
    vm: VmName,

    /// Name or id of the snapshot
    #[arg(value_name = "SNAPSHOT")]
    snapshot: Ref,
}

impl SnapshotName {
    fn path(&self) -> SnapshotPath {
        SnapshotPath { vm: self.vm.vm.clone(), snapshot: self.snapshot.clone() }
    }
}

/// The VM's snapshots as they are now.
async fn all(session: &Session, vm: &VmName) -> Result<VmSnapshots, CliError> {
    session.call::<List>(&vm.path(), &NoParams {}, ()).await
}

/// As a tree, which knows who descends from whom.
fn tree(snapshots: &VmSnapshots) -> SnapshotTree {
    SnapshotTree { current: snapshots.current, snapshots: snapshots.snapshots.clone() }
}
