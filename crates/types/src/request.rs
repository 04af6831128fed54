//! Requests: a VM that is asked for, and what becomes of it.
//!
//! ```text
//!            rejected    expired
//!               ^           ^
//!        reject |           | nobody has approved in time
//!               |           |
//!             pending ------+--> approved ----> provisioning ----> delivered
//!                       all the     ^    begin       | fail
//!                      approvals    |                v
//!                                   '--- retry --- failed
//!
//!  pending, approved, provisioning, failed ---- cancel ----> cancelled
//! ```
//!
//! - The happy path: pending, approved (at once, where the rules ask for nobody), provisioning,
//!   delivered.
//! - What was made before a failure is remembered beside the state, so that another try goes on
//!   from there.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::Cores;
use crate::approval_rule::ApprovalDecision;
use crate::id::{ImageId, TaskId, UserId, VmId};
use crate::name::Name;
use crate::object::{Kind, KindName, Object};
use crate::operations::Role;
use crate::request_work::{Probe, RequestAction, Webhook};
use crate::size::ByteSize;
use crate::vm_requests::{SpecError, VmCreate};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestKind;
pub type Request = Object<RequestKind>;

impl Kind for RequestKind {
    const NAME: KindName = KindName::Request;
    const SCHEMA: &'static str = "Request";
    type Spec = RequestSpec;
    type Status = RequestStatus;
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RequestOrder {
    /// The VM. It is started unless `leave_off` says otherwise, whatever its `start` says.
    pub vm: VmCreate,
    /// What it is for, in words.
    #[serde(default)]
    pub purpose: String,
    /// Whose it is when it is delivered; absent: of whoever asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Deliver it switched off; then nothing is done in the guest.
    #[serde(default)]
    pub leave_off: bool,
    /// How long the guest may take to prove its customization, 0 to 86400; 0: it is not waited for.
    #[serde(default = "RequestOrder::default_proof")]
    pub proof_seconds: u32,
    /// What is done when the guest is up.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub post: Vec<RequestAction>,
    /// What must be so before it is delivered.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<Probe>,
    /// Who is told of the end, good or bad.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notify: Vec<Webhook>,
    #[serde(default)]
    pub on_failure: OnFailure,
}

/// What becomes of a VM whose provisioning has failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// It stays as it is, to be looked at; another try goes on with it.
    #[default]
    Keep,
    /// It is deleted; another try begins anew.
    Remove,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RequestSpec {
    pub order: RequestOrder,
    pub requester: Requester,
    /// Whose the VM will be: the label `owner`.
    pub owner: String,
    /// The images as they were when it was asked: no other is taken in their place.
    #[serde(default)]
    pub images: Vec<RequestImage>,
    /// The version of a template, likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<RequestTemplate>,
    /// By the name that it had.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub customization_spec: Option<Name>,
    /// Of the VM's NICs, each once.
    #[serde(default)]
    pub networks: Vec<RequestNetwork>,
    /// What it will have, whether asked for or the template's.
    pub cpus: Cores,
    pub memory: ByteSize,
    /// Of all disks together.
    pub disk: ByteSize,
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Requester {
    pub name: String,
    /// Absent for `root`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserId>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RequestImage {
    pub name: Name,
    pub id: ImageId,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RequestTemplate {
    pub name: Name,
    pub version: u32,
    /// The record of this version.
    pub id: VmId,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RequestNetwork {
    pub name: Name,
    /// A bridge of the hosts: what is on it is not the platform's alone.
    pub bridge: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RequestStatus {
    #[serde(flatten)]
    pub state: RequestState,
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    #[serde(default)]
    pub approvals: Vec<Approval>,
    /// Why it needs the approvals that it needs: as of the last one, or of the end of waiting.
    #[serde(default)]
    pub decision: ApprovalDecision,
    #[serde(default)]
    pub progress: RequestProgress,
}

/// What was made already.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RequestProgress {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<VmId>,
    /// How many of its actions were done: another try does not do them again.
    #[serde(default)]
    pub actions: usize,
    /// The task of the last try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub task: Option<TaskId>,
    /// Who has asked to stop it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancelled_by: Option<String>,
}

/// Someone has agreed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Approval {
    pub by: Requester,
    /// Their role at that time.
    pub role: Role,
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum RequestState {
    /// It waits for approvals, until then.
    Pending {
        #[schema(value_type = String, format = DateTime)]
        until: Timestamp,
    },
    /// It will be provisioned in a moment.
    Approved,
    Provisioning {
        task: TaskId,
    },
    Delivered {
        vm: VmId,
    },
    Rejected {
        by: String,
        reason: String,
    },
    /// It can be tried again.
    Failed {
        step: String,
        reason: String,
    },
    Cancelled {
        by: String,
    },
    /// Nobody has approved in time.
    Expired,
}

/// What can happen to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestEvent {
    Approve,
    Begin { task: TaskId },
    Deliver { vm: VmId },
    Reject { by: String, reason: String },
    Fail { step: String, reason: String },
    Retry,
    Cancel { by: String },
    Expire,
}

/// A step that its state does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a request that is {from} cannot be {what}")]
pub struct IllegalRequestEvent {
    pub from: &'static str,
    pub what: &'static str,
}

impl RequestState {
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Pending { .. } => "pending",
            Self::Approved => "approved",
            Self::Provisioning { .. } => "provisioning",
            Self::Delivered { .. } => "delivered",
            Self::Rejected { .. } => "rejected",
            Self::Failed { .. } => "failed",
            Self::Cancelled { .. } => "cancelled",
            Self::Expired => "expired",
        }
    }

    /// Something will still happen by itself, or is waited for.
    pub const fn is_open(&self) -> bool {
        match self {
            Self::Pending { .. } | Self::Approved | Self::Provisioning { .. } => true,
            Self::Delivered { .. }
            | Self::Rejected { .. }
            | Self::Failed { .. }
            | Self::Cancelled { .. }
            | Self::Expired => false,
        }
    }

    /// The state after `event`.
    ///
    /// # Errors
    /// It cannot happen in this state.
    pub fn after(&self, event: RequestEvent) -> Result<Self, IllegalRequestEvent> {
        use RequestEvent as Event;
        let illegal = |what| Err(IllegalRequestEvent { from: self.as_str(), what });
        match (self, event) {
            (Self::Pending { .. }, Event::Approve) => Ok(Self::Approved),
            (Self::Pending { .. }, Event::Reject { by, reason }) => {
                Ok(Self::Rejected { by, reason })
            }
            (Self::Pending { .. }, Event::Expire) => Ok(Self::Expired),
            (Self::Approved, Event::Begin { task }) => Ok(Self::Provisioning { task }),
            (Self::Provisioning { .. }, Event::Deliver { vm }) => Ok(Self::Delivered { vm }),
            (Self::Provisioning { .. }, Event::Fail { step, reason }) => {
                Ok(Self::Failed { step, reason })
            }
            (Self::Failed { .. }, Event::Retry) => Ok(Self::Approved),
            (
                Self::Pending { .. }
                | Self::Approved
                | Self::Provisioning { .. }
                | Self::Failed { .. },
                Event::Cancel { by },
            ) => Ok(Self::Cancelled { by }),
            (
                Self::Approved
                | Self::Provisioning { .. }
                | Self::Delivered { .. }
                | Self::Rejected { .. }
                | Self::Failed { .. }
                | Self::Cancelled { .. }
                | Self::Expired,
                Event::Approve | Event::Reject { .. } | Event::Expire,
            ) => illegal("approved or rejected"),
            (
                Self::Pending { .. }
                | Self::Provisioning { .. }
                | Self::Delivered { .. }
                | Self::Rejected { .. }
                | Self::Failed { .. }
                | Self::Cancelled { .. }
                | Self::Expired,
                Event::Begin { .. },
            ) => illegal("provisioned"),
            (
                Self::Pending { .. }
                | Self::Approved
                | Self::Delivered { .. }
                | Self::Rejected { .. }
                | Self::Failed { .. }
                | Self::Cancelled { .. }
                | Self::Expired,
                Event::Deliver { .. } | Event::Fail { .. },
            ) => illegal("ended"),
            (
                Self::Pending { .. }
                | Self::Approved
                | Self::Provisioning { .. }
                | Self::Delivered { .. }
                | Self::Rejected { .. }
                | Self::Cancelled { .. }
                | Self::Expired,
                Event::Retry,
            ) => illegal("tried again"),
            (
                Self::Delivered { .. }
                | Self::Rejected { .. }
                | Self::Cancelled { .. }
                | Self::Expired,
                Event::Cancel { .. },
            ) => illegal("cancelled"),
        }
    }
}

impl RequestOrder {
    const LISTS: usize = 32;

    pub const fn default_proof() -> u32 {
        1200
    }

    /// What the server signs with. They are sealed in the store.
    pub fn webhooks_mut(&mut self) -> impl Iterator<Item = &mut Webhook> {
        let post = self.post.iter_mut().filter_map(RequestAction::webhook_mut);
        post.chain(&mut self.notify)
    }

    /// Checks what can be checked without looking at the inventory.
    ///
    /// # Errors
    /// The first field that is wrong, with its range.
    pub fn validate(&self) -> Result<(), SpecError> {
        let wrong = |field: &str, reason: &str| Err(SpecError::new(field, reason));
        if self.purpose.chars().count() > 1024 {
            return wrong("purpose", "at most 1024 characters");
        }
        if let Some(owner) = &self.owner
            && (owner.trim().is_empty()
                || owner.chars().count() > 255
                || owner.chars().any(char::is_control))
        {
            return wrong("owner", "1 to 255 characters, none a control character");
        }
        if self.proof_seconds > 86_400 {
            return wrong("proof_seconds", "0 to 86400");
        }
        let lists = [self.post.len(), self.probes.len(), self.notify.len()];
        if lists.into_iter().any(|length| length > Self::LISTS) {
            return wrong("post", "at most 32 actions, 32 probes and 32 notifications");
        }
        if self.leave_off {
            if self.post.iter().any(RequestAction::is_in_guest) {
                return wrong("post", "nothing can be done in a guest that is left switched off");
            }
            if !self.probes.is_empty() {
                return wrong("probes", "a guest that is left switched off answers no probe");
            }
        }
        if self.on_failure == OnFailure::Remove && self.vm.protected {
            return wrong("on_failure", "a protected VM cannot be removed");
        }
        for (index, action) in self.post.iter().enumerate() {
            action.validate(&format!("post[{index}]"))?;
        }
        for (index, probe) in self.probes.iter().enumerate() {
            probe.validate(&format!("probes[{index}]"))?;
        }
        for (index, webhook) in self.notify.iter().enumerate() {
            webhook.validate(&format!("notify[{index}]"))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn states() -> [RequestState; 8] {
        let text = String::new;
        [
            RequestState::Pending { until: Timestamp::UNIX_EPOCH },
            RequestState::Approved,
            RequestState::Provisioning { task: TaskId::generate() },
            RequestState::Delivered { vm: VmId::generate() },
            RequestState::Rejected { by: text(), reason: text() },
            RequestState::Failed { step: text(), reason: text() },
            RequestState::Cancelled { by: text() },
            RequestState::Expired,
        ]
    }

    #[test]
    fn a_request_goes_the_ways_of_the_diagram_and_no_other() {
        let (text, task) = (String::new, TaskId::generate());
        let events = [
            ("approve", RequestEvent::Approve),
            ("begin", RequestEvent::Begin { task }),
            ("deliver", RequestEvent::Deliver { vm: VmId::generate() }),
            ("reject", RequestEvent::Reject { by: text(), reason: text() }),
            ("fail", RequestEvent::Fail { step: text(), reason: text() }),
            ("retry", RequestEvent::Retry),
            ("cancel", RequestEvent::Cancel { by: text() }),
            ("expire", RequestEvent::Expire),
        ];
        let mut ways = Vec::new();
        for state in states() {
            for (name, event) in &events {
                if let Ok(next) = state.after(event.clone()) {
                    ways.push(format!("{} {name} {}", state.as_str(), next.as_str()));
                }
            }
        }
        let expected = [
            "pending approve approved",
            "pending reject rejected",
            "pending cancel cancelled",
            "pending expire expired",
            "approved begin provisioning",
            "approved cancel cancelled",
            "provisioning deliver delivered",
            "provisioning fail failed",
            "provisioning cancel cancelled",
            "failed retry approved",
            "failed cancel cancelled",
        ];
        assert_eq!(ways, expected);
    }

    #[test]
    fn each_state_is_stored_and_read_again() {
        for state in states() {
            let status = RequestStatus {
                state,
                since: Timestamp::UNIX_EPOCH,
                approvals: Vec::new(),
                decision: ApprovalDecision::default(),
                progress: RequestProgress::default(),
            };
            let text = serde_json::to_value(&status).unwrap();
            assert_eq!(text["state"], status.state.as_str());
            assert_eq!(serde_json::from_value::<RequestStatus>(text).unwrap(), status);
        }
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_field() {
        let check = |change: &str, field: &str| {
            let mut order = serde_json::json!({"vm": {"name": "web01", "image": "tiny"}});
            let change: serde_json::Value = serde_json::from_str(change).unwrap();
            order.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            let order: RequestOrder = serde_json::from_value(order).unwrap();
            let found = order.validate().map_or_else(|error| error.field, |()| "fine".to_owned());
            assert_eq!(found, field, "{change}");
        };
        check("{}", "fine");
        check(r#"{"owner": " "}"#, "owner");
        check(r#"{"post": [{"command": {"run": []}}]}"#, "post[0].command.run");
        check(r#"{"post": [{"script": {"text": " "}}]}"#, "post[0].script.text");
        check(r#"{"post": [{"webhook": {"url": ""}}]}"#, "post[0].webhook.url");
        check(r#"{"notify": [{"url": "x", "retries": 11}]}"#, "notify[0].retries");
        check(r#"{"probes": [{"check": {"tcp": 0}}]}"#, "probes[0].check.tcp");
        check(r#"{"probes": [{"check": {"http": {"path": "x"}}}]}"#, "probes[0].check.http.path");
        check(r#"{"probes": [{"check": "agent", "retries": 5000}]}"#, "probes[0].retries");
        check(r#"{"leave_off": true, "probes": [{"check": "agent"}]}"#, "probes");
        check(r#"{"leave_off": true, "post": [{"script": {"text": "true"}}]}"#, "post");
        check(r#"{"proof_seconds": 100000}"#, "proof_seconds");
        let protected = r#"{"on_failure": "remove", "vm": {"name": "a", "protected": true}}"#;
        check(protected, "on_failure");
    }
}
