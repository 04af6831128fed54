//! Approval rules: who has to agree to which requests.

use std::sync::Arc;

use hostler_store::Write;
use hostler_types::{
    ApprovalRule, ApprovalRuleKind, ApprovalRuleSpec, ApprovalRuleStatus, KindName, Labels, Name,
    Ref, Revision, Role,
};
use jiff::Timestamp;

use super::{Page, PageRequest, page, require_revision};
use crate::actor::{Actor, authorize};
use crate::error::ServiceError;
use crate::redact::Shown;
use crate::world::{Core, World};

/// An approval rule to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApprovalRuleCreate {
    pub name: Name,
    pub spec: ApprovalRuleSpec,
}

/// # Errors
/// `forbidden`, `invalid` paging.
pub fn list(
    world: &World,
    actor: &Actor,
    request: &PageRequest,
) -> Result<Page<ApprovalRule>, ServiceError> {
    authorize(actor, Role::Viewer, "list approval rules")?;
    page::<ApprovalRuleKind>(&world.snapshot(), request, |_| true)
}

/// # Errors
/// `forbidden`, `not_found`.
pub fn show(world: &World, actor: &Actor, rule: &Ref) -> Result<Arc<ApprovalRule>, ServiceError> {
    authorize(actor, Role::Viewer, "see approval rules")?;
    Ok(ApprovalRuleKind::shown(world.snapshot().find(rule)?))
}

/// Makes a rule. It counts for the requests that wait, too.
///
/// # Errors
/// `forbidden`, `invalid`, `name_taken`.
pub async fn create(
    world: &World,
    actor: &Actor,
    request: ApprovalRuleCreate,
) -> Result<Arc<ApprovalRule>, ServiceError> {
    authorize(actor, Role::Admin, "create approval rules")?;
    request.spec.validate()?;
    let (now, status) = (Timestamp::now(), ApprovalRuleStatus::default());
    let rule = ApprovalRule::new(request.name, Labels::new(), now, request.spec, status);
    let batch = Core::batch(actor, "approval-rule.create").with(Write::create(&rule));
    let snapshot = world.commit(batch).await?;
    Ok(ApprovalRuleKind::shown(snapshot.find(&rule.reference())?))
}

/// Puts another rule in its place.
///
/// # Errors
/// `forbidden`, `not_found`, `invalid`, `stale_revision`.
pub async fn update(
    world: &World,
    actor: &Actor,
    rule: &Ref,
    spec: ApprovalRuleSpec,
    expected: Option<Revision>,
) -> Result<Arc<ApprovalRule>, ServiceError> {
    authorize(actor, Role::Admin, "change approval rules")?;
    let old = world.snapshot().find::<ApprovalRuleKind>(rule)?.clone();
    require_revision::<ApprovalRuleKind>(&old, expected)?;
    spec.validate()?;
    let new = ApprovalRule { spec, ..ApprovalRule::clone(&old) };
    let batch = Core::batch(actor, "approval-rule.update").with(Write::update(&new));
    let snapshot = world.commit(batch).await?;
    Ok(ApprovalRuleKind::shown(snapshot.find(&new.reference())?))
}

/// # Errors
/// `forbidden`, `not_found`.
pub async fn delete(world: &World, actor: &Actor, rule: &Ref) -> Result<(), ServiceError> {
    authorize(actor, Role::Admin, "delete approval rules")?;
    let id = world.snapshot().find::<ApprovalRuleKind>(rule)?.id().untyped();
    let gone = Write::Delete { kind: KindName::ApprovalRule, id, expected: None };
    world.commit(Core::batch(actor, "approval-rule.delete").with(gone)).await?;
    Ok(())
}
