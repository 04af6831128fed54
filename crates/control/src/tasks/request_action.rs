//! `request.action`: One thing that is done for a request: in its guest, or by a webhook.
//!
//! 1. `act`: does it. A script marks in the guest that it has ended, and a webhook carries the same
//!    id at each try, so that each counts once; a command is run again if the server died during
//!    it. With the step's end the request remembers that it was done.

use std::time::Duration;

use hostler_store::Write;
use hostler_tasks::{Definition, Outcome, Step as TaskStep, StepError, StepResult};
use hostler_types::{
    ExecRequest, Request, RequestAction, RequestId, RequestKind, VmId, VmKind, Webhook,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::command::Step;
use super::guest::{self, ExecError};
use crate::services::Order;
use crate::webhook::{Call, CallError};
use crate::world::Core;

/// How long a guest's agent may be away.
const AGENT: Duration = Duration::from_secs(300);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Runs what it reads, unless that has ended well in this guest already.
const ONCE: &str = r#"d=/var/lib/hostler; m="$d/done-$0"
[ -e "$m" ] && exit 0
/bin/sh -s && mkdir -p "$d" && : >"$m""#;

/// Which of a request's actions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Which {
    Post(usize),
    /// That it was delivered or has failed is told to the webhook of this number.
    Notify {
        index: usize,
        end: Ending,
    },
}

/// What a notification tells.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Ending {
    Delivered,
    Failed { step: String, reason: String },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Input {
    request: RequestId,
    vm: Option<VmId>,
    which: Which,
}

pub(crate) fn definition() -> Definition<Core> {
    Definition::new("request.action").step(TaskStep::new("act", act))
}

pub(crate) fn order(request: &Request, vm: Option<VmId>, which: &Which) -> Order {
    let input = Input { request: request.id(), vm, which: which.clone() };
    let mut order = Order::new("request.action", request, &input);
    order.objects.clear();
    order.target = match which {
        Which::Post(index) => request.spec.order.post[*index].title(),
        Which::Notify { index, .. } => {
            format!("notify {}", request.spec.order.notify[*index].shown_url())
        }
    };
    order
}

async fn act(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let mut request = record(&step, input.request).await?;
    let index = match &input.which {
        Which::Notify { index, end } => {
            let webhook = &request.spec.order.notify[*index];
            let body = body(&step, &request, input.vm, end.as_str(), end.reason().as_deref());
            post(&step, webhook, step.operation_id().uuid(), &body).await?;
            return Ok(Outcome::none());
        }
        Which::Post(index) => *index,
    };
    if request.status.progress.actions > index {
        return Ok(Outcome::none());
    }
    let id = call_id(&request, index);
    let vm = || input.vm.ok_or_else(|| StepError::internal("there is no VM yet"));
    match &request.spec.order.post[index] {
        RequestAction::Command(command) => {
            run(&step, vm()?, &command.run, String::new(), command.timeout_seconds).await?;
        }
        RequestAction::Script(script) => {
            let shell = ["/bin/sh", "-c", ONCE, &id.to_string()].map(str::to_owned);
            run(&step, vm()?, &shell, script.text.clone(), script.timeout_seconds).await?;
        }
        RequestAction::Webhook(webhook) => {
            let body = body(&step, &request, input.vm, "post-configure", None);
            post(&step, webhook, id, &body).await?;
        }
    }
    request.status.progress.actions = index + 1;
    Ok(Outcome::none().with(Write::update(&request)))
}

async fn record(step: &Step, request: RequestId) -> Result<Request, StepError> {
    let request = step.world().stored::<RequestKind>(request).await?;
    request.ok_or_else(|| StepError::failed("not_found", "the request is gone"))
}

async fn run(
    step: &Step,
    vm: VmId,
    command: &[String],
    stdin: String,
    timeout_seconds: u32,
) -> Result<(), StepError> {
    if !guest::agent(step, vm, AGENT).await? {
        let message = format!("the guest's agent has not answered within {} s", AGENT.as_secs());
        return Err(StepError::failed("guest_agent_unavailable", message));
    }
    let request = ExecRequest { command: command.to_vec(), stdin, timeout_seconds };
    let failed = |why| Err(StepError::failed("action_failed", why));
    match guest::exec(step, vm, request).await {
        Ok(answer) => match guest::ended(&answer) {
            Ok(()) => Ok(()),
            Err(why) => failed(why),
        },
        Err(ExecError::Step(error)) => Err(error),
        Err(ExecError::Refused(why)) => failed(why),
    }
}

async fn post(
    step: &Step,
    webhook: &Webhook,
    id: Uuid,
    body: &serde_json::Value,
) -> Result<(), StepError> {
    let secret = webhook.secret.as_ref().map(|secret| step.world().vault.open(secret)).transpose();
    let secret =
        secret.map_err(|error| StepError::failed("secret_unreadable", error.to_string()))?;
    let rules = &step.world().settings.webhooks;
    let mut pause = Duration::from_secs(1);
    for retry in 0..=webhook.retries {
        let call = Call {
            url: webhook.url.clone(),
            secret: secret.clone(),
            id,
            body: body.to_string().into_bytes(),
            timeout: Duration::from_secs(webhook.timeout_seconds.into()),
        };
        let answered = tokio::select! {
            answered = rules.post(call) => answered,
            () = step.cancelled().cancelled() => return Err(StepError::cancelled()),
        };
        match answered {
            Ok(status) => {
                step.message(format!("it answered {}", status.as_u16()));
                return Ok(());
            }
            Err(CallError::Final(why)) => return Err(StepError::failed("webhook_failed", why)),
            Err(CallError::Passing(why)) if retry == webhook.retries => {
                let why = format!("{why} ({} tries)", retry + 1);
                return Err(StepError::failed("webhook_failed", why));
            }
            Err(CallError::Passing(why)) => {
                step.message(format!("{why}; trying again in {} s", pause.as_secs()));
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = step.cancelled().cancelled() => return Err(StepError::cancelled()),
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    Err(StepError::internal("a webhook was not called at all"))
}

/// What webhooks are told.
fn body(
    step: &Step,
    request: &Request,
    vm: Option<VmId>,
    event: &str,
    reason: Option<&str>,
) -> serde_json::Value {
    let snapshot = step.world().snapshot();
    let vm = vm.and_then(|id| snapshot.get::<VmKind>(id)).map(|vm| {
        json!({
            "id": vm.id(),
            "name": vm.name(),
            "addresses": super::request_probe::addresses(step.world(), &snapshot, vm),
        })
    });
    let spec = &request.spec;
    json!({
        "event": event,
        "request": {
            "id": request.id(),
            "name": request.name(),
            "purpose": spec.order.purpose,
            "requester": spec.requester.name,
            "owner": spec.owner,
        },
        "vm": vm,
        "reason": reason,
    })
}

/// The same for one action of one request, however often the request is tried.
fn call_id(request: &Request, index: usize) -> Uuid {
    let digest = Sha256::new_with_prefix(request.id().uuid().as_bytes())
        .chain_update(index.to_be_bytes())
        .finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

impl Ending {
    fn as_str(&self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Failed { .. } => "failed",
        }
    }

    fn reason(&self) -> Option<String> {
        match self {
            Self::Delivered => None,
            Self::Failed { step, reason } => Some(format!("{step}: {reason}")),
        }
    }
}
