//! What steps do with a guest: wait for its word, and run commands in it through its agent.

use std::time::Duration;

use hostler_tasks::StepError;
use hostler_types::{ExecAnswer, ExecRequest, PowerState, Vm, VmId, VmKind};

use super::command::{Step, link, vm as stored};
use crate::agents::AgentError;
use crate::error::ServiceError;

/// Beyond what the command may take, for an agent that does not keep to it.
const MORE: Duration = Duration::from_secs(15);
const AGAIN: Duration = Duration::from_secs(1);
/// What is told of a command's output.
const TOLD: usize = 200;

/// Why a command was not carried out.
#[derive(Debug)]
pub(super) enum ExecError {
    /// The host does not answer, or the task is to stop.
    Step(StepError),
    /// The guest, its agent or its host refuses.
    Refused(String),
}

/// Waits until `judge` says something of the VM; `None`: it has not within `limit`.
pub(super) async fn until<T>(
    step: &Step,
    vm: VmId,
    limit: Duration,
    judge: impl Fn(&Vm) -> Option<Result<T, StepError>>,
) -> Result<Option<T>, StepError> {
    let world = step.world();
    world.inventory.at_least(world.store.revision().await?).await;
    let mut revisions = world.inventory.revisions();
    let waiting = async {
        loop {
            revisions.borrow_and_update();
            let snapshot = world.snapshot();
            let gone = || StepError::failed("not_found", format!("the vm {vm} was deleted"));
            if let Some(verdict) = judge(snapshot.get::<VmKind>(vm).ok_or_else(gone)?) {
                return verdict.map(Some);
            }
            if revisions.changed().await.is_err() {
                return Err(StepError::retry(AGAIN, "the inventory has ended"));
            }
        }
    };
    tokio::select! {
        answered = tokio::time::timeout(limit, waiting) => answered.unwrap_or(Ok(None)),
        () = step.cancelled().cancelled() => Err(StepError::cancelled()),
    }
}

/// Waits until the guest's agent answers.
pub(super) async fn agent(step: &Step, vm: VmId, limit: Duration) -> Result<bool, StepError> {
    let answers = until(step, vm, limit, |vm| {
        let agent = vm.status.guest.as_ref().is_some_and(|guest| guest.agent);
        match vm.status.power {
            PowerState::Running if agent => Some(Ok(())),
            PowerState::Stopped | PowerState::Failed | PowerState::Suspended => {
                let message = format!("vm `{}` is {}", vm.name(), vm.status.power);
                Some(Err(StepError::failed("wrong_state", message)))
            }
            PowerState::Running
            | PowerState::Creating
            | PowerState::Starting
            | PowerState::Paused
            | PowerState::Stopping
            | PowerState::Suspending
            | PowerState::Unknown => None,
        }
    });
    Ok(answers.await?.is_some())
}

/// Runs a command in the guest and waits for its end.
pub(super) async fn exec(
    step: &Step,
    vm: VmId,
    request: ExecRequest,
) -> Result<ExecAnswer, ExecError> {
    let vm = stored(step, vm).await?;
    let link = link(step, &vm)?;
    let limit = Duration::from_secs(request.timeout_seconds.into()) + MORE;
    let answered = tokio::select! {
        answered = tokio::time::timeout(limit, link.vm_exec(vm.id(), request)) => answered,
        () = step.cancelled().cancelled() => return Err(StepError::cancelled().into()),
    };
    match answered {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(AgentError::Refused(problem))) => {
            Err(ExecError::Refused(ServiceError::from(problem).message))
        }
        Ok(Err(error @ AgentError::Unreachable { .. })) => {
            Err(StepError::retry(AGAIN, error.to_string()).into())
        }
        Err(_) => {
            Err(ExecError::Refused(format!("the host has not answered in {} s", limit.as_secs())))
        }
    }
}

/// How a command has ended, in words; an error unless with 0.
pub(super) fn ended(answer: &ExecAnswer) -> Result<(), String> {
    let how = match (answer.exit_code, answer.signal) {
        (Some(0), None) => return Ok(()),
        (Some(code), _) => format!("it ended with {code}"),
        (None, Some(signal)) => format!("signal {signal} ended it"),
        (None, None) => "nobody knows how it ended".to_owned(),
    };
    let said = [&answer.stderr, &answer.stdout];
    let last = said.iter().find_map(|text| text.lines().rfind(|line| !line.trim().is_empty()));
    Err(last.map_or(how.clone(), |line| format!("{how}: {}", clean(line))))
}

/// A guest's line as it may be stored and shown.
fn clean(line: &str) -> String {
    line.trim().chars().filter(|c| !c.is_control()).take(TOLD).collect()
}

impl From<StepError> for ExecError {
    fn from(error: StepError) -> Self {
        Self::Step(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commands_end_is_told_with_its_last_line() {
        let check = |exit_code, signal, stdout: &str, stderr: &str, expected: &str| {
            let (stdout, stderr) = (stdout.to_owned(), stderr.to_owned());
            let answer = ExecAnswer { exit_code, signal, stdout, stderr, truncated: false };
            assert_eq!(ended(&answer).unwrap_err(), expected);
        };
        check(
            Some(3),
            None,
            "",
            "a\n no\u{7} such \x1b[31mhost \n\n",
            "it ended with 3: no such [31mhost",
        );
        check(Some(1), None, "out", "", "it ended with 1: out");
        check(None, Some(9), "", "", "signal 9 ended it");
        let long = "x".repeat(1 << 20);
        let answer = ExecAnswer {
            exit_code: Some(1),
            signal: None,
            stdout: long,
            stderr: String::new(),
            truncated: true,
        };
        assert!(ended(&answer).unwrap_err().len() < 300);
    }
}
