//! Snapshot policies: how old, how many and how large the snapshots of VMs with certain labels may
//! become, and what happens then. The controller `snapshots` carries them out.

use std::sync::Arc;

use hostler_store::Write;
use hostler_types::{
    Labels, Name, Ref, Revision, Role, SnapshotLimits, SnapshotPolicy, SnapshotPolicyKind,
    SnapshotPolicySpec, SnapshotPolicyStatus, SnapshotRules, Vm, validate_labels,
};
use jiff::Timestamp;

use super::{Page, PageRequest, page, require_revision};
use crate::actor::{Actor, authorize};
use crate::error::ServiceError;
use crate::inventory::Snapshot;
use crate::redact::Shown;
use crate::world::{Core, World};

/// A snapshot policy to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotPolicyCreate {
    pub name: Name,
    pub spec: SnapshotPolicySpec,
}

/// What is to change; absent fields stay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SnapshotPolicyUpdate {
    pub selector: Option<Labels>,
    /// All of them anew.
    pub limits: Option<SnapshotLimits>,
}

/// # Errors
/// `forbidden`, `invalid` paging.
pub fn list(
    world: &World,
    actor: &Actor,
    request: &PageRequest,
) -> Result<Page<SnapshotPolicy>, ServiceError> {
    authorize(actor, Role::Viewer, "list snapshot policies")?;
    page::<SnapshotPolicyKind>(&world.snapshot(), request, |_| true)
}

/// # Errors
/// `forbidden`, `not_found`.
pub fn show(
    world: &World,
    actor: &Actor,
    policy: &Ref,
) -> Result<Arc<SnapshotPolicy>, ServiceError> {
    authorize(actor, Role::Viewer, "see snapshot policies")?;
    Ok(SnapshotPolicyKind::shown(world.snapshot().find(policy)?))
}

/// # Errors
/// `forbidden`, `invalid`, `name_taken`.
pub async fn create(
    world: &World,
    actor: &Actor,
    request: SnapshotPolicyCreate,
) -> Result<Arc<SnapshotPolicy>, ServiceError> {
    authorize(actor, Role::Admin, "create snapshot policies")?;
    let SnapshotPolicyCreate { name, spec } = request;
    validate(&spec)?;
    let status = SnapshotPolicyStatus::default();
    let policy = SnapshotPolicy::new(name, Labels::new(), Timestamp::now(), spec, status);
    let batch = Core::batch(actor, "snapshot-policy.create").with(Write::create(&policy));
    let snapshot = world.commit(batch).await?;
    Ok(SnapshotPolicyKind::shown(snapshot.find(&policy.reference())?))
}

/// # Errors
/// `forbidden`, `not_found`, `invalid`, `stale_revision`.
pub async fn update(
    world: &World,
    actor: &Actor,
    policy: &Ref,
    request: SnapshotPolicyUpdate,
    expected: Option<Revision>,
) -> Result<Arc<SnapshotPolicy>, ServiceError> {
    authorize(actor, Role::Admin, "change snapshot policies")?;
    let snapshot = world.snapshot();
    let old = snapshot.find::<SnapshotPolicyKind>(policy)?;
    require_revision::<SnapshotPolicyKind>(old, expected)?;
    let mut new = SnapshotPolicy::clone(old);
    new.spec.selector = request.selector.unwrap_or_else(|| old.spec.selector.clone());
    new.spec.limits = request.limits.unwrap_or(old.spec.limits);
    validate(&new.spec)?;
    let batch = Core::batch(actor, "snapshot-policy.update").with(Write::update(&new));
    let snapshot = world.commit(batch).await?;
    Ok(SnapshotPolicyKind::shown(snapshot.find(&new.reference())?))
}

/// # Errors
/// `forbidden`, `not_found`.
pub async fn delete(world: &World, actor: &Actor, policy: &Ref) -> Result<(), ServiceError> {
    authorize(actor, Role::Admin, "delete snapshot policies")?;
    let snapshot = world.snapshot();
    let policy = snapshot.find::<SnapshotPolicyKind>(policy)?;
    world.commit(Core::batch(actor, "snapshot-policy.delete").with(Write::delete(policy))).await?;
    Ok(())
}

/// What counts for the snapshots of a VM.
pub(crate) fn rules_of(snapshot: &Snapshot, vm: &Vm) -> SnapshotRules {
    let policies = snapshot.all::<SnapshotPolicyKind>().iter();
    let policies = policies.map(|policy| (policy.name(), &policy.spec));
    SnapshotRules::of(&vm.metadata.labels, &vm.spec.snapshot_limits, policies)
}

fn validate(spec: &SnapshotPolicySpec) -> Result<(), ServiceError> {
    validate_labels(&spec.selector)
        .map_err(|reason| ServiceError::invalid_as_told("selector", reason))?;
    Ok(spec.limits.validate()?)
}
