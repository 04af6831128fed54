//! Changes of a VM, said before and after: what will happen when, and what the guest has then.

use hostler_api::vm::{self, ChangePlan, VmPath};
use hostler_endpoint::{CallOptions, NoParams};
use hostler_types::{ChangeWhen, Name, NicSpec, Ref, Vm, VmChange, VmNic, VmUpdate, counted};

use super::show;
use crate::error::{CliError, Exit};
use crate::output::{self, Listing};
use crate::sanitise;
use crate::session::Session;
use crate::table::{Cell, Tone};
use crate::wait::{self, WaitOptions};

/// A change to be made, or only to be told.
pub(super) struct Request<'a> {
    pub(super) path: VmPath,
    pub(super) update: VmUpdate,
    pub(super) options: CallOptions,
    pub(super) plan_only: bool,
    pub(super) wait: &'a WaitOptions,
}

/// Says what will happen, does it, and says what has become of it.
///
/// # Errors
/// What could have been done now was not, because the guest did not join in.
pub(super) async fn carry_out(session: &Session, request: Request<'_>) -> Result<(), CliError> {
    let Request { path, update, options, plan_only, wait } = request;
    let plan = session.call::<vm::Plan>(&path, &NoParams {}, update.clone()).await?;
    if plan_only {
        return print(session, &plan);
    }
    for change in &plan.changes {
        session.output.remark(&change.to_string());
    }
    let task = session.call_with::<vm::Update>(&path, &NoParams {}, update, options).await?;
    if !wait.waits() {
        return crate::commands::task::print_ordered(session, &task);
    }
    wait::task(session, task).await?;
    let vm = show(session, &path).await?;
    session.output.done("changed", "vm", vm.metadata.name.as_str(), &vm)?;
    tell(session, &plan.changes, &vm)
}

fn print(session: &Session, plan: &ChangePlan) -> Result<(), CliError> {
    let row = |change: &VmChange| {
        let tone = match change.when {
            ChangeWhen::Now | ChangeWhen::WithGuest => Tone::Good,
            ChangeWhen::PowerOff => Tone::Busy,
        };
        vec![
            Cell::new(&change.subject),
            Cell::new(&change.from),
            Cell::new(&change.to),
            Cell::new(change.when.as_str()).tone(tone),
            Cell::maybe(change.reason.as_ref()),
        ]
    };
    let listing = Listing {
        header: &["CHANGE", "FROM", "TO", "WHEN", "WHY"],
        empty: "nothing changes",
        name: &|change: &VmChange| change.subject.clone(),
        row: &row,
    };
    session.output.list(&plan.changes, &listing)
}

/// What has become of each change, and what the guest itself says.
fn tell(session: &Session, changes: &[VmChange], vm: &Vm) -> Result<(), CliError> {
    let mut missed = Vec::new();
    let has_agent = vm.status.guest.as_ref().is_some_and(|guest| guest.agent);
    for change in changes {
        let VmChange { subject, to, .. } = change;
        let pending = vm.status.pending.iter().find(|pending| pending.subject == *subject);
        let Some(pending) = pending else {
            say(session, &made(change, vm.status.hardware.is_some(), has_agent))?;
            continue;
        };
        let why = pending.reason.as_deref().unwrap_or("not done yet");
        say(session, &format!("  {subject}: {to} at the next start after a power-off: {why}"))?;
        if change.when != ChangeWhen::PowerOff {
            missed.push(format!("{subject}: {why}"));
        }
    }
    if vm.status.hardware.is_some() && !changes.is_empty() {
        say(session, &guest(vm))?;
    }
    if missed.is_empty() {
        return Ok(());
    }
    let message = format!("vm {} did not get everything: {}", vm.metadata.name, missed.join("; "));
    let name = &vm.metadata.name;
    Err(CliError::new(Exit::Failed, message).hint(format!(
        "it is kept as pending: the guest may still follow, else `hostler vm stop {name}` and start it"
    )))
}

/// A change that was made. What only the guest knows is not said in its place.
fn made(change: &VmChange, runs: bool, has_agent: bool) -> String {
    let VmChange { subject, to, .. } = change;
    let plugged = runs && matches!(subject.as_str(), "cpus" | "memory");
    match plugged && !has_agent {
        true => format!("  {subject}: {to} plugged in; the guest was not asked: it has no agent"),
        false => format!("  {subject}: {to}, done"),
    }
}

fn say(session: &Session, line: &str) -> Result<(), CliError> {
    let line = sanitise::line(line);
    if session.output.is_table() && !session.output.is_quiet() {
        return output::print(&format!("{line}\n"));
    }
    session.output.remark(&line);
    Ok(())
}

/// What the guest says that it has.
pub(super) fn guest(vm: &Vm) -> String {
    let Some(guest) = vm.status.guest.as_ref().filter(|guest| guest.agent) else {
        return "  the guest has no agent that could tell what it has now".to_owned();
    };
    let mut parts = Vec::new();
    if let Some(cpus) = guest.cpus {
        parts.push(format!("{} online", counted(cpus, "CPU")));
    }
    if let Some(memory) = guest.memory {
        parts.push(format!("{memory} of memory to use"));
    }
    let nics = guest.nics.iter().map(|nic| format!("{} ({})", nic.name, nic.mac));
    let nics: Vec<_> = nics.collect();
    if !nics.is_empty() {
        parts.push(format!("NICs {}", nics.join(", ")));
    }
    format!("  the guest has {}", parts.join(", "))
}

/// A NIC as it is, to be asked for again.
pub(super) fn kept(nic: &NicSpec) -> VmNic {
    VmNic {
        name: Some(nic.name.clone()),
        network: Ref::by_id(nic.network),
        mac: Some(nic.mac),
        address: None,
        link: nic.link,
    }
}

/// The lowest `<prefix><number>` that no NIC has.
pub(super) fn free_name(nics: &[NicSpec]) -> Option<Name> {
    (0..nics.len() + 1)
        .filter_map(|number| format!("nic{number}").parse::<Name>().ok())
        .find(|name| nics.iter().all(|nic| nic.name != *name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_said_to_have_what_was_only_plugged_in() {
        let change = |subject: &str| VmChange {
            subject: subject.to_owned(),
            from: "1".to_owned(),
            to: "2".to_owned(),
            when: ChangeWhen::WithGuest,
            reason: None,
        };
        let unasked = "  cpus: 2 plugged in; the guest was not asked: it has no agent";
        assert_eq!(made(&change("cpus"), true, false), unasked);
        assert_eq!(made(&change("cpus"), true, true), "  cpus: 2, done");
        assert_eq!(made(&change("cpus"), false, false), "  cpus: 2, done");
        assert_eq!(made(&change("cpu limit"), true, false), "  cpu limit: 2, done");
    }
}
