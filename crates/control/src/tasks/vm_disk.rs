//! `vm.disk_add`, `vm.disk_change`, `vm.disk_detach`, `vm.disk_attach`: Change one disk of a VM.
//!
//! 1. `define`: the agent replaces the VM's definition and changes the running guest; a guest that
//!    does not take the disk, or does not let it go, fails the step. Undone by putting the spec back.
//! 2. `grow`: if asked for, a command in the guest grows partition and file system. The disk has
//!    grown by then and cannot shrink, so what goes wrong here is told and fails nothing.
//!
//! `vm.disk_remove`: Removes a disk with its data.
//!
//! 1. `check`: nobody's disk lies on it, now that the lock keeps new ones away: in the inventory, and in
//!    the headers of the files on the datastore. Before the guest loses it; undone by putting back the
//!    record, which the submission has changed.
//! 2. `define`: detaches it, as above.
//! 3. `discard`: the agent deletes its file, after a look at what lies on it. There is no way back.

use hostler_agent_api::{FileOwner, VmDefineRequest, VmReport};
use hostler_store::Write;
use hostler_tasks::{Definition, Outcome, Step as TaskStep, StepError, StepResult};
use hostler_types::{ExecRequest, Name, Vm, VmId, VmSpec};
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::command::{
    Step, ask, command, definition as define, link, require_unneeded, told, told_back, vm,
    vm_if_there,
};
use super::naming::named_change;
use crate::services::Order;
use crate::services::vm::{own_files, require_disk_unused};
use crate::world::Core;

const LIMIT: SignedDuration = SignedDuration::from_mins(30);

/// Whose file system is to be grown.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Grow {
    pub(crate) disk: Name,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Input {
    vm: VmId,
    /// As it was before.
    spec: VmSpec,
    /// The change that must come about.
    subject: String,
    grow: Option<Grow>,
    /// To be deleted in the end.
    discard: Option<Name>,
    /// Whether it is taken from a guest that uses it.
    #[serde(default)]
    force: bool,
    /// The disk that comes, goes or grows, of which the guest is heard; absent: from a server of before.
    #[serde(default)]
    disk: Option<Name>,
}

pub(crate) fn definitions() -> impl Iterator<Item = Definition<Core>> {
    let changes = ["vm.disk_add", "vm.disk_change", "vm.disk_detach", "vm.disk_attach"];
    let change = |action| {
        Definition::new(action)
            .step(TaskStep::new("define", apply).undo(put_back))
            .step(TaskStep::new("grow", grow))
    };
    let remove = Definition::new("vm.disk_remove")
        .step(TaskStep::new("check", check).undo(restore))
        .step(TaskStep::new("define", apply).undo(put_back))
        .step(TaskStep::new("discard", discard).no_return());
    changes.into_iter().map(change).chain([remove])
}

/// The caller adds the write of the new spec.
pub(crate) fn order(action: &'static str, old: &Vm, disk: &Name, grow: Option<Grow>) -> Order {
    Order::new(action, old, &Input { grow, ..Input::of(old, disk) }).limit(LIMIT)
}

/// As [`order`], of a disk that goes; with `force` also from a guest that uses it.
pub(crate) fn order_detach(old: &Vm, disk: &Name, force: bool) -> Order {
    let input = Input { force, ..Input::of(old, disk) };
    Order::new("vm.disk_detach", old, &input).limit(LIMIT)
}

/// The caller adds the write of the spec in which the disk is detached.
pub(crate) fn order_remove(old: &Vm, disk: &Name, force: bool) -> Order {
    let input = Input { force, discard: Some(disk.clone()), ..Input::of(old, disk) };
    Order::new("vm.disk_remove", old, &input).limit(LIMIT)
}

impl Input {
    fn of(vm: &Vm, disk: &Name) -> Self {
        Self {
            vm: vm.id(),
            spec: vm.spec.clone(),
            subject: format!("disk {disk}"),
            grow: None,
            discard: None,
            force: false,
            disk: Some(disk.clone()),
        }
    }
}

async fn check(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let (vm, Some(disk)) = (vm(&step, input.vm).await?, &input.discard) else {
        return Ok(Outcome::none());
    };
    // Whoever got in before the lock is in the log before it.
    let world = step.world();
    let snapshot = world.inventory.at_least(world.store.revision().await?).await;
    require_disk_unused(&snapshot, &vm, disk)
        .map_err(|error| StepError::failed(error.code, error.message))?;
    for file in own_files(&vm, disk) {
        let owner = FileOwner::File(file.clone());
        require_unneeded(&step, vm.status.host, vm.status.datastore, owner).await?;
    }
    Ok(Outcome::none())
}

/// The host knows of nothing yet, or has been told to forget it.
async fn restore(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let Some(mut vm) = vm_if_there(&step, input.vm).await? else { return Ok(Outcome::none()) };
    vm.spec = input.spec;
    Ok(Outcome::none().with(Write::update(&vm)))
}

async fn apply(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let vm = vm(&step, input.vm).await?;
    let wanted = Wanted { subject: &input.subject, disk: input.disk.as_ref(), force: input.force };
    define_at_host(&step, vm, Some(wanted)).await
}

async fn put_back(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let Some(mut vm) = vm_if_there(&step, input.vm).await? else { return Ok(Outcome::none()) };
    vm.spec = input.spec;
    let told = define_at_host(&step, vm.clone(), None).await;
    told_back(&step, &vm, "define", told)
}

/// What a definition is to bring about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    /// The change that must come about.
    pub(super) subject: &'a str,
    /// Of which disk the guest is heard.
    pub(super) disk: Option<&'a Name>,
    /// Whether it is taken from a guest that uses it.
    pub(super) force: bool,
}

pub(super) async fn define_at_host(step: &Step, vm: Vm, wanted: Option<Wanted<'_>>) -> StepResult {
    let subject = wanted.map(|wanted| wanted.subject);
    let (link, command) = (link(step, &vm)?, command(step, &vm));
    let force = wanted.is_some_and(|wanted| wanted.force);
    let request = VmDefineRequest { force, ..VmDefineRequest::new(command, define(step, &vm)?) };
    let report = ask(step, &link, command.op, link.vm_define(vm.id(), request)).await?;
    // `disk data`, `disk data size`, but not `disk database`.
    let missed = report.pending.iter().find(|change| {
        let rest = subject.and_then(|subject| change.subject.strip_prefix(subject));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
    });
    if let Some(missed) = missed {
        let missed = named_change(&step.world().snapshot(), missed.clone());
        let why = missed.reason.unwrap_or_else(|| "the guest did not join in".to_owned());
        return Err(StepError::failed("guest_refused", format!("{}: {why}", missed.subject)));
    }
    if let Some(disk) = wanted.and_then(|wanted| wanted.disk) {
        tell(step, &vm, disk, &report);
    }
    Ok(Outcome::of(&json!({ "defined": true })).with(told(step, vm, &report)))
}

/// What has become of the disk, in the guest's own words where there are some.
fn tell(step: &Step, vm: &Vm, disk: &Name, report: &VmReport) {
    if !report.power.is_live() {
        return;
    }
    let spec = vm.spec.disks.iter().find(|spec| spec.name == *disk);
    let told = report.guest_disks.as_ref();
    let seen = told.and_then(|told| told.iter().find(|told| told.disk == *disk));
    step.message(match (spec, told, seen) {
        (None, None, _) => {
            format!("disk {disk} is unplugged; nobody could be asked whether the guest used it")
        }
        (None, Some(_), _) => format!("the guest has let go of disk {disk}, and did not use it"),
        (Some(spec), None, _) => {
            format!("disk {disk} is plugged in with {}; the guest was not asked", spec.size)
        }
        (Some(_), Some(_), None) => format!("disk {disk} is plugged in; the guest does not see it"),
        (Some(spec), Some(_), Some(seen)) => match seen.size {
            Some(size) if size != spec.size => {
                format!(
                    "the guest still sees {size} of {} of disk {disk} ({})",
                    spec.size, seen.device
                )
            }
            Some(size) => format!("the guest has disk {disk} as {}, with {size}", seen.device),
            None => format!("the guest has disk {disk} as {}", seen.device),
        },
    });
}

async fn discard(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let Some(mut vm) = vm_if_there(&step, input.vm).await? else { return Ok(Outcome::none()) };
    let told = vm.status.disks.iter().find(|disk| Some(&disk.name) == input.discard.as_ref());
    if let Some(disk) = told {
        step.message(format!("deleted disk {}: {} freed", disk.name, disk.allocated));
    }
    vm.spec.detached.retain(|disk| Some(&disk.name) != input.discard.as_ref());
    define_at_host(&step, vm, None).await
}

/// Takes the disk's serial number.
const GROW: &str = include_str!("vm_disk/grow.sh");

async fn grow(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let Some(Grow { disk }) = input.grow else { return Ok(Outcome::none()) };
    let vm = vm(&step, input.vm).await?;
    let serial = hostler_types::disk_serial(&disk);
    let command = ["/bin/sh", "-c", GROW, "sh", &serial].map(str::to_owned).to_vec();
    let request = ExecRequest { command, stdin: String::new(), timeout_seconds: 120 };
    let said = match link(&step, &vm)?.vm_exec(vm.id(), request).await {
        Ok(answer) if answer.exit_code == Some(0) => {
            step.message(format!("the file system on disk {disk} has grown"));
            return Ok(Outcome::none());
        }
        Ok(answer) => answer.stderr.lines().next_back().unwrap_or("it failed").to_owned(),
        Err(error) => error.to_string(),
    };
    let said: String = said.chars().filter(|c| !c.is_control()).take(300).collect();
    step.message(format!("disk {disk} has grown, but not the file system on it: {said}"));
    Ok(Outcome::none())
}
