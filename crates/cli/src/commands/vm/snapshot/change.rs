//! Taking snapshots, going back to them, renaming them.

use clap::Args;
use hostler_api::snapshot::{
    Create as Take, Revert as GoBack, RevertRequest, SnapshotCreate, SnapshotUpdate, Update,
};
use hostler_endpoint::NoParams;
use hostler_types::{Name, Task};

use super::{SnapshotName, all};
use crate::commands::vm::VmName;
use crate::error::{CliError, Exit};
use crate::session::{Session, once};
use crate::terminal::{confirm, require_answers};
use crate::wait::{self, WaitOptions};

/// Take a snapshot of all disks at one instant, also while the VM runs
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler vm snapshot create web01
  hostler vm snapshot create web01 before-upgrade --quiesce --description 'before 13.1'
  hostler vm snapshot create web01 mid-test --memory")]
pub(super) struct Create {
    #[command(flatten)]
    vm: VmName,

    /// Its name, unique within the VM [default: made from the time]
    #[arg(value_name = "NAME")]
    name: Option<Name>,

    /// With the guest's memory: going back goes on where it was
    #[arg(long)]
    memory: bool,

    /// With the guest's file systems frozen for the instant, through its agent
    #[arg(long)]
    quiesce: bool,

    /// What it is for, in words
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,

    #[command(flatten)]
    wait: WaitOptions,
}

impl Create {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let request = SnapshotCreate {
            name: self.name.clone(),
            description: self.description.unwrap_or_default(),
            memory: self.memory,
            quiesce: self.quiesce,
        };
        let path = self.vm.path();
        let task = session.call_with::<Take>(&path, &NoParams {}, request, once()).await?;
        if !self.wait.waits() {
            return crate::commands::task::print_ordered(session, &task);
        }
        wait::task(session, task).await?;
        let found = all(session, &self.vm).await?;
        // The one taken is where the VM goes on from, unless someone was faster.
        let taken = found.snapshots.iter().rev().find(|snapshot| match &self.name {
            Some(name) => snapshot.name == *name,
            None => found.current == Some(snapshot.id),
        });
        let Some(taken) = taken else {
            return Err(CliError::new(Exit::NotFound, "the snapshot was taken, and is gone again"));
        };
        session.output.done("taken", "snapshot", taken.name.as_str(), taken)?;
        if let Some(paused) = taken.paused_ms.filter(|_| session.output.is_table()) {
            session.output.remark(&format!("the guest stood still for {paused} ms"));
        }
        Ok(())
    }
}

/// Make a VM what it was; what it is now is lost, unless a snapshot holds it
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler vm snapshot revert web01 before-upgrade
  hostler vm snapshot revert web01 mid-test --off --yes

A snapshot with memory goes on running where it was. After one without, the VM boots if it ran before.")]
pub(super) struct Revert {
    #[command(flatten)]
    snapshot: SnapshotName,

    /// Start it afterwards, also if it does not run now
    #[arg(long, conflicts_with = "off")]
    start: bool,

    /// Leave it off, also if it runs now or the snapshot has memory
    #[arg(long)]
    off: bool,

    /// Also when the VM is protected
    #[arg(long)]
    force: bool,

    /// Do not ask
    #[arg(short, long)]
    yes: bool,

    #[command(flatten)]
    wait: WaitOptions,
}

impl Revert {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        require_answers(self.yes)?;
        let (vm, snapshot) = (&self.snapshot.vm.vm, &self.snapshot.snapshot);
        confirm(self.yes, &format!("Go back to {snapshot}, and lose what vm {vm} is now?"))?;
        let request = RevertRequest {
            start: (self.start || self.off).then_some(self.start),
            force: self.force,
        };
        let path = self.snapshot.path();
        let task = session.call_with::<GoBack>(&path, &NoParams {}, request, once()).await?;
        let verb = format!("reverted to {snapshot}");
        let waits = self.wait.waits();
        crate::commands::vm::finish(session, task, waits, &verb, &self.snapshot.vm.path()).await
    }
}

/// Give a snapshot another name or description
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler vm snapshot rename web01 snap-20261125-103005 before-upgrade
  hostler vm snapshot rename web01 before-upgrade --description 'keep until Friday'")]
pub(super) struct Rename {
    #[command(flatten)]
    snapshot: SnapshotName,

    /// The new name
    #[arg(value_name = "NAME", required_unless_present = "description")]
    name: Option<Name>,

    /// What it is for, in words
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,

    #[command(flatten)]
    wait: WaitOptions,
}

impl Rename {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let called =
            self.name.as_ref().map_or(self.snapshot.snapshot.to_string(), ToString::to_string);
        let request = SnapshotUpdate { name: self.name, description: self.description };
        let path = self.snapshot.path();
        let task = session.call_with::<Update>(&path, &NoParams {}, request, once()).await?;
        if !self.wait.waits() {
            return crate::commands::task::print_ordered(session, &task);
        }
        let task: Task = wait::task(session, task).await?;
        session.output.done("changed", "snapshot", &called, &task)
    }
}
