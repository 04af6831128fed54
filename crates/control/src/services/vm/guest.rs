//! What goes on inside a VM: commands, the serial log, the screen.

use std::time::Duration;

use hostler_endpoint::ByteStream;
use hostler_types::{ExecAnswer, ExecRequest, PowerState, Ref, Role, VmKind};

use crate::actor::{Actor, authorize};
use crate::error::ServiceError;
use crate::world::World;

/// Runs a command in the guest through its agent, and waits for its end.
///
/// # Errors
/// `forbidden`, `not_found`, `invalid`, `wrong_state`, `guest_agent_unavailable`, `timeout`.
pub async fn exec(
    world: &World,
    actor: &Actor,
    vm: &Ref,
    request: ExecRequest,
) -> Result<ExecAnswer, ServiceError> {
    authorize(actor, Role::Operator, "run commands in guests")?;
    check(&request)?;
    let vm = world.snapshot().find::<VmKind>(vm).cloned()?;
    if vm.status.power != PowerState::Running {
        let message = format!("vm `{}` is {} and runs no commands", vm.name(), vm.status.power);
        return Err(ServiceError::conflict("wrong_state", message)
            .hint(format!("start it with `hostler vm start {}`", vm.name())));
    }
    tracing::info!(actor = actor.name, vm = %vm.name(), program = request.command[0], "guest exec");
    // The agent keeps to the limit itself; this is for an agent that does not.
    let limit = Duration::from_secs(u64::from(request.timeout_seconds) + 15);
    let link = world.link(vm.status.host)?;
    world.limited_to(limit, link.vm_exec(vm.id(), request)).await
}

fn check(request: &ExecRequest) -> Result<(), ServiceError> {
    let size: usize = request.command.iter().map(String::len).sum();
    if request.command.first().is_none_or(String::is_empty) || request.command.len() > 1024 {
        return Err(ServiceError::invalid(
            "command",
            "1 to 1024 words, the first being the program",
        ));
    }
    if size > 128 << 10 || request.command.iter().any(|word| word.contains('\0')) {
        return Err(ServiceError::invalid("command", "at most 128KiB in all, and no NUL bytes"));
    }
    if request.stdin.len() > 1 << 20 {
        return Err(ServiceError::invalid("stdin", "at most 1MiB"));
    }
    if !(1..=3600).contains(&request.timeout_seconds) {
        let reason = format!("{} is not possible; 1 to 3600", request.timeout_seconds);
        return Err(ServiceError::invalid("timeout_seconds", reason));
    }
    Ok(())
}

/// What the serial console printed, from its bounded log; with `follow` also what it prints from
/// now on.
///
/// # Errors
/// `forbidden`, `not_found`, or the host's problem.
pub async fn log(
    world: &World,
    actor: &Actor,
    vm: &Ref,
    follow: bool,
) -> Result<ByteStream, ServiceError> {
    // Logs show what guests print at boot, which may be secrets: not for viewers.
    authorize(actor, Role::Operator, "read console logs")?;
    let vm = world.snapshot().find::<VmKind>(vm).cloned()?;
    let link = world.link(vm.status.host)?;
    world.limited(link.vm_log(vm.id(), follow)).await
}

/// The screen as PNG.
///
/// # Errors
/// `forbidden`, `not_found`, `wrong_state`, or the host's problem.
pub async fn screenshot(
    world: &World,
    actor: &Actor,
    vm: &Ref,
) -> Result<ByteStream, ServiceError> {
    authorize(actor, Role::Operator, "see screens")?;
    let vm = world.snapshot().find::<VmKind>(vm).cloned()?;
    if !vm.status.power.is_live() {
        let message = format!("vm `{}` is {} and has no screen", vm.name(), vm.status.power);
        return Err(ServiceError::conflict("wrong_state", message));
    }
    let link = world.link(vm.status.host)?;
    world.limited(link.vm_screenshot(vm.id())).await
}
