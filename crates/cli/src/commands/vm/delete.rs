//! `hostler vm delete|undelete`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use hostler_api::recycle_bin::{Undelete as UndeleteVm, UndeleteRequest};
use hostler_api::vm::{self, StopRequest, VmDeleteQuery, VmPath};
use hostler_endpoint::NoParams;
use hostler_types::{DeletionPlan, Name, Ref, StopMode, Task};

use super::VmName;
use super::export::export;
use crate::error::{CliError, Exit};
use crate::output::Several;
use crate::session::{Session, once};
use crate::terminal::{confirm, require_answers};
use crate::time;
use crate::wait::{self, WaitOptions};

/// Delete a VM with its disks: into the recycle bin, unless --now
#[derive(Debug, Args)]
#[command(
    visible_alias = "rm",
    after_help = "\
Examples:
  hostler vm delete web01
  hostler vm delete web01 --dry-run
  hostler vm delete web01 --stop --timeout 5m
  hostler vm delete web01 web02 --yes --force --now
  hostler vm delete web01 --stop --export web01.tar

What is deleted stays in the recycle bin for the server's retention (24 h unless set otherwise):
`hostler vm undelete web01` takes it back."
)]
pub(crate) struct Delete {
    /// Names or ids of the VMs
    #[arg(value_name = "VM", required = true)]
    vms: Vec<Ref>,

    /// Stop it gracefully first, if it runs
    #[arg(long)]
    stop: bool,

    /// How long a graceful stop may take, such as 90s or 5m [default: 2m]
    #[arg(long, value_name = "DURATION", requires = "stop", value_parser = crate::duration::parse)]
    timeout: Option<Duration>,

    /// Also when it runs: it is powered off first (with --stop: if it does not stop in time).
    /// Protection still holds
    #[arg(long)]
    force: bool,

    /// For good: not into the recycle bin
    #[arg(long)]
    now: bool,

    /// First save it as this file, as `hostler vm export` does; it is deleted only when all of it is
    /// on the disk. Of one VM, which is off or is stopped with --stop
    #[arg(long, value_name = "FILE", conflicts_with_all = ["force", "dry_run"])]
    export: Option<PathBuf>,

    /// Say what would go, and change nothing
    #[arg(long)]
    dry_run: bool,

    /// Do not ask
    #[arg(short, long)]
    yes: bool,

    #[command(flatten)]
    wait: WaitOptions,
}

impl Delete {
    pub(super) async fn run(&self, session: &Session) -> Result<(), CliError> {
        if !self.dry_run {
            require_answers(self.yes)?;
        }
        if self.export.is_some() && self.vms.len() != 1 {
            return Err(CliError::new(Exit::Usage, "--export is for deleting one VM"));
        }
        let mut plans = Vec::new();
        for vm in &self.vms {
            let path = VmPath { vm: vm.clone() };
            plans.push(session.call::<vm::PlanDeletion>(&path, &NoParams {}, ()).await?);
        }
        if self.dry_run && !session.output.is_table() {
            return session.output.data(&plans);
        }
        for plan in &plans {
            for line in told(plan, self.now) {
                session.output.remark(&line);
            }
        }
        if self.dry_run {
            return Ok(());
        }
        self.require_all(&plans)?;
        let names: Vec<String> = self.vms.iter().map(ToString::to_string).collect();
        confirm(self.yes, &format!("Delete {}?", names.join(", ")))?;
        if let (Some(file), [plan]) = (&self.export, plans.as_slice()) {
            self.save(session, plan, file).await?;
        }
        let mut done = Several::new(&session.output, self.vms.len() == 1);
        let deleted = async {
            for (vm, plan) in self.vms.iter().zip(&plans) {
                self.delete(session, vm, plan, &mut done).await?;
            }
            Ok(())
        };
        let deleted = deleted.await;
        done.finish(deleted)
    }

    /// All or nothing, as far as the plans know: of several VMs none goes if one will be refused.
    fn require_all(&self, plans: &[DeletionPlan]) -> Result<(), CliError> {
        let refusal = |(at, plan): (usize, &DeletionPlan)| {
            let goes_before = |name: &Name| plans[..at].iter().any(|before| before.name == *name);
            let needed = plan.used_by.iter().any(|user| !(self.now && goes_before(&user.name)));
            let why = plan.refused.clone().filter(|_| needed || plan.used_by.is_empty());
            let runs = || {
                let runs = plan.power.is_live() && !self.force && !self.stop;
                runs.then(|| format!("vm {} is {}: add --stop or --force", plan.name, plan.power))
            };
            why.or_else(runs)
        };
        let mut refusals = plans.iter().enumerate().filter_map(refusal).peekable();
        if plans.len() < 2 || refusals.peek().is_none() {
            return Ok(());
        }
        let error = CliError::new(Exit::Conflict, "nothing was deleted, for not all of it can be");
        let error = refusals.fold(error, CliError::detail);
        Err(error.hint("leave these out, or remove what holds them"))
    }

    fn timeout_seconds(&self) -> Option<u32> {
        self.timeout.map(|timeout| timeout.as_secs().try_into().unwrap_or(u32::MAX))
    }

    /// Saves the VM that is to be deleted.
    async fn save(
        &self,
        session: &Session,
        plan: &DeletionPlan,
        file: &Path,
    ) -> Result<(), CliError> {
        if let Some(why) = &plan.refused {
            return Err(CliError::new(Exit::Conflict, why.clone()));
        }
        let path = VmPath { vm: Ref::by_id(plan.vm) };
        if self.stop && plan.power.is_live() {
            let timeout_seconds = self.timeout_seconds();
            let request = StopRequest { mode: StopMode::Graceful, timeout_seconds };
            let task = session.call_with::<vm::Stop>(&path, &NoParams {}, request, once()).await?;
            wait::task(session, task).await?;
        }
        export(session, &path, file, false).await?;
        session.output.remark(&format!("exported to {}", file.display()));
        Ok(())
    }

    async fn delete(
        &self,
        session: &Session,
        vm: &Ref,
        plan: &DeletionPlan,
        done: &mut Several<'_, Task>,
    ) -> Result<(), CliError> {
        let query = VmDeleteQuery {
            force: self.force,
            stop: self.stop,
            timeout_seconds: self.timeout_seconds(),
            now: self.now,
        };
        // By its id: what was planned is what is deleted, whoever is called so by now.
        let path = VmPath { vm: Ref::by_id(plan.vm) };
        let task = session.call_with::<vm::Delete>(&path, &query, (), once()).await?;
        if !self.wait.waits() {
            return done.add(task, |task| crate::commands::task::print_ordered(session, task));
        }
        let task = wait::task(session, task).await?;
        done.add(task, |task| tell_deleted(session, vm, plan, task))
    }
}

/// That it is gone, what went with it, and the way back if there is one.
fn tell_deleted(
    session: &Session,
    vm: &Ref,
    plan: &DeletionPlan,
    task: &Task,
) -> Result<(), CliError> {
    session.output.done("deleted", "vm", &vm.to_string(), task)?;
    if session.output.is_table() && task.spec.action == "vm.delete" {
        task.status.messages.iter().for_each(|message| session.output.remark(&message.text));
    }
    if session.output.is_table() && task.spec.action == "vm.recycle" {
        let until = plan.kept_until.map(time::show).unwrap_or_default();
        let back = format!("hostler vm undelete {}", plan.name);
        session.output.remark(&format!("in the recycle bin until {until}; back with `{back}`"));
    }
    Ok(())
}

/// What would go, in lines for people.
fn told(plan: &DeletionPlan, now: bool) -> Vec<String> {
    let bin = plan.kept_until.is_some() && !now;
    let place = if bin { "goes to the recycle bin" } else { "goes for good" };
    let mut lines = vec![format!("vm {} ({}) {place}:", plan.name, plan.power)];
    for disk in &plan.disks {
        let written = disk.allocated.map(|size| format!(", {size} written")).unwrap_or_default();
        lines.push(format!("  disk {}: {}{written}", disk.name, disk.size));
    }
    for nic in &plan.nics {
        let address = nic.address.map(|address| format!(", {address}")).unwrap_or_default();
        lines.push(format!("  NIC {}: {}, {}{address}", nic.name, nic.network, nic.mac));
    }
    let labels = plan.labels.iter().map(|(key, value)| format!("  label {key}={value}"));
    lines.extend(labels);
    let users =
        plan.used_by.iter().map(|user| format!("  needed by {}: {}", user.name, user.reason));
    lines.extend(users);
    lines.extend(plan.refused.iter().map(|why| format!("  will be refused: {why}")));
    lines
}

/// Take a VM out of the recycle bin
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler vm undelete web01
  hostler vm undelete web01 --name web01-old
  hostler vm undelete 01890a5d-ac96-774b-bcce-b302099a8057")]
pub(crate) struct Undelete {
    #[command(flatten)]
    vm: VmName,

    /// Another name, if its own is taken by now
    #[arg(long, value_name = "NAME")]
    name: Option<Name>,

    #[command(flatten)]
    wait: WaitOptions,
}

impl Undelete {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let path = self.vm.path();
        let request = UndeleteRequest { name: self.name };
        let task = session.call_with::<UndeleteVm>(&path, &NoParams {}, request, once()).await?;
        let back = task.spec.objects.first().map(|id| Ref::Id(id.uuid()));
        let path = back.map_or(path, |vm| VmPath { vm });
        super::finish(session, task, self.wait.waits(), "is back", &path).await
    }
}
