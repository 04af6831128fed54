//! `hostler vm`: a file for each verb that is more than a call.

mod change;
mod clone;
mod console;
mod create;
mod customize;
mod delete;
mod disk;
mod exec;
mod export;
mod import;
mod lease;
mod list;
mod log;
mod migrate;
mod nic;
mod power;
mod remove;
mod screenshot;
mod seal;
mod set;
mod snapshot;
mod ssh;
mod stats;
mod tell;
mod why;

use std::process::ExitCode;

use clap::{Args, Subcommand};
use hostler_api::vm::{Show, VmPath};
use hostler_endpoint::NoParams;
use hostler_types::{Ref, Task, Vm};

pub(crate) use create::{Wish, from_document};

use crate::error::CliError;
use crate::session::Session;
use crate::wait;

/// Virtual machines: create, clone, list, start, stop, reach, change, delete
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
Examples:
  hostler vm create web01 --image debian-12 --start --wait=guest
  hostler vm list
  hostler vm console web01"
)]
pub(crate) struct VmArgs {
    #[command(subcommand)]
    command: VmCommand,
}

#[derive(Debug, Subcommand)]
enum VmCommand {
    Create(Box<create::Create>),
    Clone(Box<clone::Clone>),
    Flatten(clone::Flatten),
    Migrate(migrate::Migrate),
    List(list::List),
    Show(list::ShowVm),
    Start(power::Start),
    Stop(power::Stop),
    Reset(power::Reset),
    Suspend(power::Suspend),
    Resume(power::Resume),
    Seal(seal::SealVm),
    Set(Box<set::Set>),
    Rename(set::Rename),
    Renew(lease::Renew),
    Nic(nic::NicArgs),
    Disk(disk::DiskArgs),
    #[command(visible_alias = "snap")]
    Snapshot(snapshot::SnapshotArgs),
    Consolidate(snapshot::Consolidate),
    Customize(customize::Customize),
    Console(console::Console),
    Vnc(console::Vnc),
    Log(log::Log),
    Screenshot(screenshot::Screenshot),
    Exec(exec::Exec),
    Ssh(ssh::Ssh),
    Export(export::Export),
    Import(import::Import),
    Unregister(remove::Unregister),
    Register(remove::Register),
    Delete(delete::Delete),
    Undelete(delete::Undelete),
    Stats(stats::Stats),
    Why(why::Why),
    WhyNot(why::WhyNot),
    History(tell::History),
}

/// Which VM.
#[derive(Debug, Clone, Args)]
pub(crate) struct VmName {
    /// Name or id of the VM
    #[arg(value_name = "VM")]
    vm: Ref,
}

impl VmName {
    fn path(&self) -> VmPath {
        VmPath { vm: self.vm.clone() }
    }
}

impl VmArgs {
    pub(crate) async fn run(self, session: &Session) -> Result<ExitCode, CliError> {
        match self.command {
            VmCommand::Create(command) => command.run(session).await,
            VmCommand::Clone(command) => command.run(session).await,
            VmCommand::Flatten(command) => command.run(session).await,
            VmCommand::Migrate(command) => command.run(session).await,
            VmCommand::List(command) => command.run(session).await,
            VmCommand::Show(command) => command.run(session).await,
            VmCommand::Start(command) => command.run(session).await,
            VmCommand::Stop(command) => command.run(session).await,
            VmCommand::Reset(command) => command.run(session).await,
            VmCommand::Suspend(command) => command.run(session).await,
            VmCommand::Resume(command) => command.run(session).await,
            VmCommand::Seal(command) => command.run(session).await,
            VmCommand::Set(command) => command.run(session).await,
            VmCommand::Rename(command) => command.run(session).await,
            VmCommand::Renew(command) => command.run(session).await,
            VmCommand::Nic(command) => command.run(session).await,
            VmCommand::Disk(command) => command.run(session).await,
            VmCommand::Snapshot(command) => command.run(session).await,
            VmCommand::Consolidate(command) => command.run(session).await,
            VmCommand::Customize(command) => command.run(session).await,
            VmCommand::Console(command) => return command.run(session).await,
            VmCommand::Vnc(command) => command.run(session).await,
            VmCommand::Log(command) => command.run(session).await,
            VmCommand::Screenshot(command) => command.run(session).await,
            VmCommand::Exec(command) => return command.run(session).await,
            VmCommand::Ssh(command) => command.run(session).await,
            VmCommand::Export(command) => command.run(session).await,
            VmCommand::Import(command) => command.run(session).await,
            VmCommand::Unregister(command) => command.run(session).await,
            VmCommand::Register(command) => command.run(session).await,
            VmCommand::Delete(command) => command.run(session).await,
            VmCommand::Undelete(command) => command.run(session).await,
            VmCommand::Stats(command) => command.run(session).await,
            VmCommand::Why(command) => command.run(session).await,
            VmCommand::WhyNot(command) => command.run(session).await,
            VmCommand::History(command) => command.run(session).await,
        }?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The VM as it is now.
async fn show(session: &Session, path: &VmPath) -> Result<Vm, CliError> {
    session.call::<Show>(path, &NoParams {}, ()).await
}

/// Sees a task on a VM through, and says what was done: the VM as it is then, for programs.
async fn finish(
    session: &Session,
    ordered: Task,
    waits: bool,
    verb: &str,
    path: &VmPath,
) -> Result<(), CliError> {
    if !waits {
        return super::task::print_ordered(session, &ordered);
    }
    wait::task(session, ordered).await?;
    let vm = show(session, path).await?;
    session.output.done(verb, "vm", vm.metadata.name.as_str(), &vm)
}
