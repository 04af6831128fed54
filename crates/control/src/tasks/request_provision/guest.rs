//! What is waited for, done and looked at once the guest runs.

use std::time::Duration;

use hostler_tasks::{Outcome, StepError, StepResult};
use hostler_types::{CustomizationState, PowerState, Vm};

use super::{record, vm_of};
use crate::tasks::command::Step;
use crate::tasks::request_action::{self, Which};
use crate::tasks::{guest, request_probe};

pub(super) async fn customize(step: Step) -> StepResult {
    let request = record(&step).await?;
    let (order, vm) = (&request.spec.order, vm_of(&request)?);
    if order.leave_off || order.proof_seconds == 0 {
        return Ok(Outcome::none());
    }
    step.progress(None, "waiting for the guest to prove its customization");
    let limit = Duration::from_secs(order.proof_seconds.into());
    if guest::until(&step, vm, limit, proved).await?.is_none() {
        let message = format!(
            "the guest has not proved its customization within {} s; see `hostler vm log`",
            limit.as_secs()
        );
        return Err(StepError::failed("timeout", message));
    }
    Ok(Outcome::none())
}

/// A VM that is told nothing has nothing to prove.
fn proved(vm: &Vm) -> Option<Result<(), StepError>> {
    let Some(told) = &vm.spec.customization else { return Some(Ok(())) };
    let status = vm.status.customization.as_ref().filter(|status| status.run == told.run);
    match (status.map(|status| status.state), vm.status.power) {
        (Some(CustomizationState::Applied), _) => Some(Ok(())),
        (Some(CustomizationState::Failed), _) => {
            let why = status.and_then(|status| status.reason.clone()).unwrap_or_default();
            let message = format!("the guest could not be customized: {why}");
            Some(Err(StepError::failed("customization_failed", message)))
        }
        (_, PowerState::Stopped | PowerState::Failed) => {
            let message = format!("vm `{}` is {} by itself", vm.name(), vm.status.power);
            Some(Err(StepError::failed("wrong_state", message)))
        }
        (Some(CustomizationState::Pending) | None, _) => None,
    }
}

pub(super) async fn post_configure(step: Step) -> StepResult {
    let request = record(&step).await?;
    let vm = vm_of(&request)?;
    let done = request.status.progress.actions;
    for (index, action) in request.spec.order.post.iter().enumerate().skip(done) {
        step.progress(None, action.title());
        let order = request_action::order(&request, Some(vm), &Which::Post(index));
        step.run_child(&index.to_string(), order.submit(step.actor())).await?;
    }
    Ok(Outcome::none())
}

pub(super) async fn validate(step: Step) -> StepResult {
    let request = record(&step).await?;
    let vm = vm_of(&request)?;
    for (index, probe) in request.spec.order.probes.iter().enumerate() {
        step.progress(None, probe.title());
        let order = request_probe::order(&request, vm, probe);
        step.run_child(&index.to_string(), order.submit(step.actor())).await?;
    }
    Ok(Outcome::none())
}
