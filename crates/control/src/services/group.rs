//! Groups of VMs or hosts, which placement rules name as one.

use std::sync::Arc;

use hostler_store::Write;
use hostler_types::{
    Group, GroupKind, GroupOf, GroupSpec, GroupStatus, HostKind, Labels, Name, Ref, Revision, Role,
    RuleKind, Selector, VmKind,
};
use jiff::Timestamp;

use super::rule::{require_possible_with, resolve_selector};
use super::{Page, PageRequest, page, require_revision};
use crate::actor::{Actor, authorize};
use crate::error::ServiceError;
use crate::inventory::Snapshot;
use crate::redact::Shown;
use crate::world::{Core, World};

/// A group to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupCreate {
    pub name: Name,
    pub labels: Labels,
    pub spec: GroupSpec,
}

/// What is to change; absent fields stay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupUpdate {
    pub members: Option<Selector>,
    pub description: Option<String>,
}

/// # Errors
/// `forbidden`, `invalid` paging.
pub fn list(
    world: &World,
    actor: &Actor,
    request: &PageRequest,
) -> Result<Page<Group>, ServiceError> {
    authorize(actor, Role::Viewer, "list groups")?;
    page::<GroupKind>(&world.snapshot(), request, |_| true)
}

/// # Errors
/// `forbidden`, `not_found`.
pub fn show(world: &World, actor: &Actor, group: &Ref) -> Result<Arc<Group>, ServiceError> {
    authorize(actor, Role::Viewer, "see groups")?;
    Ok(GroupKind::shown(world.snapshot().find(group)?))
}

/// # Errors
/// `forbidden`, `invalid`, `not_found`, `name_taken`.
pub async fn create(
    world: &World,
    actor: &Actor,
    request: GroupCreate,
) -> Result<Arc<Group>, ServiceError> {
    authorize(actor, Role::Admin, "create groups")?;
    let GroupCreate { name, labels, mut spec } = request;
    hostler_types::validate_labels(&labels)
        .map_err(|reason| ServiceError::invalid_as_told("labels", reason))?;
    let _references = world.references.write().await;
    resolve(&world.snapshot(), &mut spec)?;
    let group = Group::new(name, labels, Timestamp::now(), spec, GroupStatus {});
    let batch = Core::batch(actor, "group.create").with(Write::create(&group));
    let snapshot = world.commit(batch).await?;
    Ok(GroupKind::shown(snapshot.find(&group.reference())?))
}

/// # Errors
/// `forbidden`, `not_found`, `invalid`, `stale_revision`, `rule_conflict` for rules that name it.
pub async fn update(
    world: &World,
    actor: &Actor,
    group: &Ref,
    request: GroupUpdate,
    expected: Option<Revision>,
) -> Result<Arc<Group>, ServiceError> {
    authorize(actor, Role::Admin, "change groups")?;
    let _references = world.references.write().await;
    let snapshot = world.snapshot();
    let old = snapshot.find::<GroupKind>(group)?;
    require_revision::<GroupKind>(old, expected)?;
    let mut new = Group::clone(old);
    if let Some(members) = request.members {
        new.spec.members = members;
    }
    if let Some(description) = request.description {
        new.spec.description = description;
    }
    resolve(&snapshot, &mut new.spec)?;
    require_possible_with(&snapshot, &new)?;
    let batch = Core::batch(actor, "group.update").with(Write::update(&new));
    let snapshot = world.commit(batch).await?;
    Ok(GroupKind::shown(snapshot.find(&new.reference())?))
}

/// # Errors
/// `forbidden`, `not_found`, `in_use` while a rule names it.
pub async fn delete(world: &World, actor: &Actor, group: &Ref) -> Result<(), ServiceError> {
    authorize(actor, Role::Admin, "delete groups")?;
    let _references = world.references.write().await;
    let snapshot = world.snapshot();
    let group = snapshot.find::<GroupKind>(group)?;
    let named = Selector::Group(group.reference());
    let mut rules = snapshot.all::<RuleKind>().iter();
    let user =
        rules.find(|rule| rule.spec.vms == named || rule.spec.hosts.as_ref() == Some(&named));
    if let Some(rule) = user {
        let (name, rule) = (group.name(), rule.name());
        let message = format!("group `{name}` is named by rule `{rule}`");
        return Err(ServiceError::conflict("in_use", message)
            .hint(format!("`hostler rule set {rule}` or `hostler rule delete {rule}` first")));
    }
    world.commit(Core::batch(actor, "group.delete").with(Write::delete(group))).await?;
    Ok(())
}

fn resolve(snapshot: &Snapshot, spec: &mut GroupSpec) -> Result<(), ServiceError> {
    spec.validate()?;
    let of = ("members", spec.of);
    match spec.of {
        GroupOf::Vms => resolve_selector::<VmKind>(snapshot, &mut spec.members, of),
        GroupOf::Hosts => resolve_selector::<HostKind>(snapshot, &mut spec.members, of),
    }
}
