//! `hostler recycle-bin`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use hostler_api::recycle_bin::{self, Purge};
use hostler_api::vm::VmPath;
use hostler_endpoint::{NoParams, PageQuery};
use hostler_types::{Ref, Task, Vm};
use jiff::Timestamp;

use crate::error::CliError;
use crate::names::Names;
use crate::output::{Listing, Several};
use crate::session::{Session, once};
use crate::table::Cell;
use crate::terminal::confirm;
use crate::time;
use crate::wait::{self, WaitOptions};

/// The recycle bin: deleted VMs that can still be taken back
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
Examples:
  hostler recycle-bin list
  hostler vm undelete web01
  hostler recycle-bin empty --yes"
)]
pub(crate) struct RecycleBinArgs {
    #[command(subcommand)]
    command: RecycleBinCommand,
}

#[derive(Debug, Subcommand)]
enum RecycleBinCommand {
    /// List deleted VMs that can still be taken back
    #[command(visible_alias = "ls", after_help = "Examples:\n  hostler recycle-bin list")]
    List,

    Empty(Empty),
}

/// Delete what is in the recycle bin for good
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler recycle-bin empty
  hostler recycle-bin empty web01 --yes")]
struct Empty {
    /// Only these: the names they had, or ids [default: all]
    #[arg(value_name = "VM")]
    vms: Vec<Ref>,

    /// Do not ask
    #[arg(short, long)]
    yes: bool,

    #[command(flatten)]
    wait: WaitOptions,
}

impl RecycleBinArgs {
    pub(crate) async fn run(self, session: &Session) -> Result<ExitCode, CliError> {
        match self.command {
            RecycleBinCommand::List => list(session).await?,
            RecycleBinCommand::Empty(empty) => empty.run(session).await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn all(session: &Session) -> Result<Vec<Vm>, CliError> {
    let mut vms = Vec::new();
    let mut query = PageQuery::default();
    loop {
        let page = session.call::<recycle_bin::List>(&NoParams {}, &query, ()).await?;
        vms.extend(page.items);
        match page.next {
            Some(next) => query.after = Some(next),
            None => return Ok(vms),
        }
    }
}

async fn list(session: &Session) -> Result<(), CliError> {
    let (vms, names) = futures::try_join!(all(session), Names::datastores(session))?;
    let now = Timestamp::now();
    session.output.list(
        &vms,
        &Listing {
            header: &["NAME", "DELETED", "BY", "LEFT", "DATASTORE", "ID"],
            empty: "the recycle bin is empty",
            name: &|vm| vm.called().to_string(),
            row: &|vm| {
                let recycled = vm.spec.recycled.as_ref();
                vec![
                    Cell::new(vm.called().as_str()),
                    Cell::maybe(recycled.map(|r| format!("{} ago", time::age(r.at, now)))),
                    Cell::maybe(recycled.map(|recycled| &recycled.by)),
                    Cell::maybe(recycled.map(|recycled| time::age(now, recycled.until))),
                    names.cell(vm.status.datastore),
                    Cell::new(vm.metadata.id.to_string()),
                ]
            },
        },
    )
}

impl Empty {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        let alone = self.vms.len() == 1;
        let mut wanted = self.vms;
        if wanted.is_empty() {
            let vms = all(session).await?;
            for vm in &vms {
                session.output.remark(&format!("vm {} goes for good", vm.called()));
            }
            wanted.extend(vms.iter().map(|vm| Ref::by_id(vm.metadata.id)));
        }
        if wanted.is_empty() {
            session.output.remark("the recycle bin is empty");
            return Several::<Task>::new(&session.output, alone).finish(Ok(()));
        }
        confirm(self.yes, "Delete this and all data on the disks?")?;
        let mut done = Several::new(&session.output, alone);
        let purged = async {
            for vm in wanted {
                let path = VmPath { vm };
                let task = session.call_with::<Purge>(&path, &NoParams {}, (), once()).await?;
                if !self.wait.waits() {
                    done.add(task, |task| crate::commands::task::print_ordered(session, task))?;
                    continue;
                }
                let task = wait::task(session, task).await?;
                done.add(task, |task| {
                    let name = task.spec.target.strip_prefix("vm/").unwrap_or(&task.spec.target);
                    session.output.done("deleted for good", "vm", name, task)
                })?;
            }
            Ok(())
        };
        let purged = purged.await;
        done.finish(purged)
    }
}
