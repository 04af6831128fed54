//! Requests: VMs that are asked for, approved, and made.
//!
//! Whoever may look may ask: a request changes nothing until those have agreed whom the approval
//! rules name. What was approved is provisioned by the controller `requests`.

use std::collections::BTreeSet;
use std::sync::Arc;

use hostler_policy::approval::{RequestFacts, decide, may_approve};
use hostler_store::{StoreError, Write};
use hostler_types::{
    Approval, ApprovalDecision, ApprovalRuleKind, ApprovalRuleSpec, Customization, ImageKind,
    LayerOwner, Name, NicAddressing, ProbeCheck, Ref, Request, RequestAction, RequestEvent,
    RequestKind, RequestNetwork, RequestSpec, RequestState, Requester, Role, VmNic,
};
use jiff::Timestamp;

use super::{Page, PageRequest, page};
use crate::actor::{Actor, authorize};
use crate::error::{Class, ServiceError};
use crate::inventory::{Snapshot, images, layer_files};
use crate::redact::Shown;
use crate::world::{Core, World};

mod create;

pub use create::create;

const ATTEMPTS: usize = 20;
const LONGEST_TEXT: usize = 1024;

/// Which requests a list is to hold; all that is given must fit.
#[derive(Debug, Clone, Default)]
pub struct RequestFilter {
    /// Such as `pending`.
    pub state: Option<String>,
    pub requester: Option<String>,
}

/// # Errors
/// `forbidden`, `invalid` paging.
pub fn list(
    world: &World,
    actor: &Actor,
    filter: &RequestFilter,
    request: &PageRequest,
) -> Result<Page<Request>, ServiceError> {
    authorize(actor, Role::Viewer, "list requests")?;
    page::<RequestKind>(&world.snapshot(), request, |request| {
        let state = request.status.state.as_str();
        filter.state.as_ref().is_none_or(|wanted| wanted == state)
            && filter.requester.as_ref().is_none_or(|name| *name == request.spec.requester.name)
    })
}

/// # Errors
/// `forbidden`, `not_found`.
pub fn show(world: &World, actor: &Actor, request: &Ref) -> Result<Arc<Request>, ServiceError> {
    authorize(actor, Role::Viewer, "see requests")?;
    Ok(RequestKind::shown(world.snapshot().find(request)?))
}

/// Who has to agree and why, and what is missing: by the rules of now while it waits, later by
/// those it was decided by.
///
/// # Errors
/// `forbidden`, `not_found`.
pub fn why(world: &World, actor: &Actor, request: &Ref) -> Result<ApprovalDecision, ServiceError> {
    authorize(actor, Role::Viewer, "see requests")?;
    let snapshot = world.snapshot();
    let request = snapshot.find::<RequestKind>(request)?;
    Ok(match request.status.state {
        RequestState::Pending { .. } => decided(world, &snapshot, request),
        _ => request.status.decision.clone(),
    })
}

/// Agrees to a request. The last approval that it needs lets it be provisioned.
///
/// # Errors
/// `not_found`, `wrong_state`, `invalid`, `may_not_approve` with the rules' reasons,
/// `already_approved`.
pub async fn approve(
    world: &World,
    actor: &Actor,
    request: &Ref,
    comment: Option<String>,
) -> Result<Arc<Request>, ServiceError> {
    authorize(actor, Role::Viewer, "approve requests")?;
    check_text("comment", comment.as_deref().unwrap_or_default())?;
    let approval =
        Approval { by: requester(actor), role: actor.role, at: Timestamp::now(), comment };
    change(world, actor, request, "request.approve", |snapshot, request| {
        require_pending(request, "approved")?;
        require_approver(world, snapshot, request, &approval)?;
        if request.status.approvals.iter().any(|before| before.by == approval.by) {
            let message = format!("`{}` has approved it already", approval.by.name);
            return Err(ServiceError::conflict("already_approved", message));
        }
        request.status.approvals.push(approval.clone());
        request.status.decision = decided(world, snapshot, request);
        if request.status.decision.approved {
            happen(request, RequestEvent::Approve)?;
        }
        Ok(())
    })
    .await
}

/// Refuses a request: an admin, or whoever could approve it.
///
/// # Errors
/// `not_found`, `wrong_state`, `invalid`, `may_not_approve`.
pub async fn reject(
    world: &World,
    actor: &Actor,
    request: &Ref,
    reason: String,
) -> Result<Arc<Request>, ServiceError> {
    authorize(actor, Role::Viewer, "reject requests")?;
    check_text("reason", &reason)?;
    if reason.trim().is_empty() {
        return Err(ServiceError::invalid("reason", "say why, for whoever has asked"));
    }
    let (by, at) = (requester(actor), Timestamp::now());
    let would = Approval { by, role: actor.role, at, comment: None };
    change(world, actor, request, "request.reject", |snapshot, request| {
        require_pending(request, "rejected")?;
        if actor.role < Role::Admin {
            require_approver(world, snapshot, request, &would)?;
        }
        request.status.decision = decided(world, snapshot, request);
        let (by, reason) = (actor.name.clone(), reason.clone());
        happen(request, RequestEvent::Reject { by, reason })
    })
    .await
}

/// Takes a request back. What is being made for it is undone as the request says of failures.
///
/// # Errors
/// `forbidden` but for operators and whoever has asked, `not_found`, `wrong_state`.
pub async fn cancel(
    world: &World,
    actor: &Actor,
    request: &Ref,
) -> Result<Arc<Request>, ServiceError> {
    authorize(actor, Role::Viewer, "cancel requests")?;
    let cancelled = change(world, actor, request, "request.cancel", |_, request| {
        require_own(actor, request, "cancel")?;
        if let RequestState::Provisioning { .. } = request.status.state {
            request.status.progress.cancelled_by = Some(actor.name.clone());
            return Ok(());
        }
        happen(request, RequestEvent::Cancel { by: actor.name.clone() })
    })
    .await?;
    if let RequestState::Provisioning { task } = cancelled.status.state {
        let stopped = world.engine.cancel(task, &actor.name).await;
        stopped.map_err(|error| super::submit::refused(world, error))?;
    }
    Ok(cancelled)
}

/// Lets a failed request be provisioned again, from where it failed. It was approved already.
///
/// # Errors
/// `forbidden` but for operators and whoever has asked, `not_found`, `wrong_state`.
pub async fn retry(
    world: &World,
    actor: &Actor,
    request: &Ref,
) -> Result<Arc<Request>, ServiceError> {
    authorize(actor, Role::Viewer, "retry requests")?;
    change(world, actor, request, "request.retry", |_, request| {
        require_own(actor, request, "retry")?;
        happen(request, RequestEvent::Retry)
    })
    .await
}

/// Changes a request as it is now, however often someone else is faster.
async fn change(
    world: &World,
    actor: &Actor,
    request: &Ref,
    reason: &str,
    mut act: impl FnMut(&Snapshot, &mut Request) -> Result<(), ServiceError>,
) -> Result<Arc<Request>, ServiceError> {
    for _ in 0..ATTEMPTS {
        let snapshot = world.snapshot();
        let mut changed = Request::clone(snapshot.find::<RequestKind>(request)?);
        act(&snapshot, &mut changed)?;
        let batch = Core::batch(actor, reason).with(Write::update(&changed));
        match world.commit(batch).await {
            Ok(snapshot) => return Ok(RequestKind::shown(snapshot.find(&changed.reference())?)),
            Err(StoreError::Stale { actual, .. }) => {
                world.inventory.at_least(actual).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(ServiceError::conflict("contended", "it changes faster than this can be done")
        .hint("try again"))
}

fn happen(request: &mut Request, event: RequestEvent) -> Result<(), ServiceError> {
    let next = request.status.state.after(event).map_err(|error| {
        let name = request.name();
        ServiceError::conflict("wrong_state", format!("request `{name}`: {error}"))
            .hint(format!("see `hostler request show {name}`"))
    })?;
    request.status.state = next;
    request.status.since = Timestamp::now();
    Ok(())
}

/// The decision by the rules of now.
pub(crate) fn decided(core: &Core, snapshot: &Snapshot, request: &Request) -> ApprovalDecision {
    let (facts, rules) = (facts(snapshot, request), rules(snapshot));
    decide(&facts, &rules, &core.settings.approval, &request.status.approvals)
}

fn facts(snapshot: &Snapshot, request: &Request) -> RequestFacts {
    let spec = &request.spec;
    let mut images: Vec<Name> = spec.images.iter().map(|image| image.name.clone()).collect();
    images.extend(template_images(snapshot, spec));
    let order = &spec.order;
    let commands = order.probes.iter().any(|it| matches!(it.check, ProbeCheck::Command(_)));
    let actions = order.post.iter().any(RequestAction::is_in_guest);
    let told = order.vm.customization.as_ref();
    let chosen =
        |nic: &VmNic| nic.mac.is_some() || matches!(nic.address, Some(NicAddressing::Static(_)));
    let named = |it: &RequestNetwork| it.name.clone();
    RequestFacts {
        requester: spec.requester.clone(),
        cpus: spec.cpus.count(),
        memory: spec.memory,
        disk: spec.disk,
        labels: order.vm.labels.clone(),
        images,
        templates: spec.template.iter().map(|it| it.name.clone()).collect(),
        customization_specs: spec.customization_spec.iter().cloned().collect(),
        networks: spec.networks.iter().map(named).collect(),
        bridges: spec.networks.iter().filter(|it| it.bridge).map(named).collect(),
        scripts: commands || actions || told.is_some_and(Customization::runs_something),
        addresses: order.vm.nics.iter().flatten().any(chosen)
            || told.is_some_and(|told| told.network_config.is_some()),
        placement: order.vm.host.is_some()
            || order.vm.datastore.is_some()
            || !order.vm.resources.is_empty(),
    }
}

/// What the template's disks lie on, or were made of.
fn template_images(snapshot: &Snapshot, spec: &RequestSpec) -> BTreeSet<Name> {
    let version = spec.template.as_ref().and_then(|it| snapshot.get(it.id));
    let Some(version) = version else { return BTreeSet::new() };
    let beneath = layer_files(version).filter_map(|file| match file.owner() {
        LayerOwner::Image(image) => Some(image),
        LayerOwner::Vm(_) => None,
    });
    let all = beneath.chain(images(version));
    all.filter_map(|id| snapshot.get::<ImageKind>(id)).map(|image| image.name().clone()).collect()
}

fn rules(snapshot: &Snapshot) -> Vec<(Name, ApprovalRuleSpec)> {
    let rules = snapshot.all::<ApprovalRuleKind>().iter();
    rules.map(|rule| (rule.name().clone(), rule.spec.clone())).collect()
}

fn require_pending(request: &Request, what: &str) -> Result<(), ServiceError> {
    match request.status.state {
        // The controller will say so in a moment.
        RequestState::Pending { until } if until <= Timestamp::now() => {}
        RequestState::Pending { .. } => return Ok(()),
        _ => {}
    }
    let (name, state) = (request.name(), request.status.state.as_str());
    let message = format!("request `{name}` is {state} and cannot be {what} any more");
    Err(ServiceError::conflict("wrong_state", message)
        .hint(format!("see `hostler request show {name}`")))
}

fn require_approver(
    world: &World,
    snapshot: &Snapshot,
    request: &Request,
    approval: &Approval,
) -> Result<(), ServiceError> {
    let (facts, rules) = (facts(snapshot, request), rules(snapshot));
    may_approve(&facts, &rules, &world.settings.approval, approval).map_err(|reasons| {
        let (who, name) = (&approval.by.name, request.name());
        let why = reasons.join("; ");
        let message = format!("`{who}` may not decide about request `{name}`: {why}");
        ServiceError::new(Class::Forbidden, "may_not_approve", message)
            .hint(format!("`hostler request show {name}` says who may"))
    })
}

fn require_own(actor: &Actor, request: &Request, attempt: &str) -> Result<(), ServiceError> {
    if actor.role >= Role::Operator || request.spec.requester == requester(actor) {
        return Ok(());
    }
    let (who, name) = (&actor.name, request.name());
    let message =
        format!("`{who}` may not {attempt} request `{name}`, which someone else has made");
    Err(ServiceError::new(Class::Forbidden, "forbidden", message).hint("ask them, or an operator"))
}

fn requester(actor: &Actor) -> Requester {
    Requester { name: actor.name.clone(), user: actor.user }
}

fn check_text(field: &str, text: &str) -> Result<(), ServiceError> {
    if text.chars().count() > LONGEST_TEXT || text.chars().any(|c| c.is_control() && c != '\n') {
        let reason = format!("at most {LONGEST_TEXT} characters, none a control character");
        return Err(ServiceError::invalid(field, reason));
    }
    Ok(())
}
