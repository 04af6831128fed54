//! `hostler vm seal`.

use clap::Args;
use hostler_api::vm;
use hostler_endpoint::NoParams;
use hostler_types::PowerState;

use super::VmName;
use crate::commands::template::tell;
use crate::error::CliError;
use crate::session::{Session, once};
use crate::terminal::confirm;
use crate::wait::{self, WaitOptions};

/// Take out of a guest what must not be the same in two machines
///
/// SSH host keys, machine id, network rules, DHCP leases, logs, shell history, cloud-init state,
/// package caches, random seed, temporary files. A guest that runs is sealed through its agent, and
/// is off then; one that is off is sealed without starting it. What went is listed. The seal is broken
/// when the guest runs again.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler vm seal web01
  hostler template create debian-12 --from web01 --move")]
pub(crate) struct SealVm {
    #[command(flatten)]
    vm: VmName,

    /// Do not ask
    #[arg(short, long)]
    yes: bool,

    #[command(flatten)]
    wait: WaitOptions,
}

impl SealVm {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let path = self.vm.path();
        let before = super::show(session, &path).await?;
        let off = match before.status.power {
            PowerState::Running => " and switch it off",
            _ => "",
        };
        let name = before.metadata.name.as_str();
        confirm(self.yes, &format!("Take logs, keys and history out of {name}{off}?"))?;
        let task = session.call_with::<vm::Seal>(&path, &NoParams {}, (), once()).await?;
        if !self.wait.waits() {
            return crate::commands::task::print_ordered(session, &task);
        }
        wait::task(session, task).await?;
        let sealed = super::show(session, &path).await?;
        if session.output.is_table()
            && let Some(seal) = &sealed.status.seal
        {
            tell(session, seal);
        }
        session.output.done("sealed", "vm", sealed.metadata.name.as_str(), &sealed)
    }
}
