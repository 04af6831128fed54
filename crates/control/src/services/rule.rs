//! Placement rules: which VMs belong together or apart, and on which hosts.
//!
//! Rules, groups and hosts' labels are written by whoever holds the references alone, and decisions
//! are made by those who share them: a decision never misses a rule that was there before it.

use std::sync::Arc;

use hostler_policy::rules::{Conflict, conflicts, conflicts_with, violations};
use hostler_store::Write;
use hostler_types::{
    Group, GroupKind, GroupOf, HostKind, Labels, Name, Ref, Revision, Role, Rule, RuleKind,
    RuleRelation, RuleSpec, RuleStatus, RuleStrength, RuleViolation, Selector, VmKind,
};
use jiff::Timestamp;

use super::{Page, PageRequest, page, require_revision};
use crate::actor::{Actor, authorize};
use crate::error::ServiceError;
use crate::inventory::{Held, Snapshot};
use crate::placement;
use crate::redact::Shown;
use crate::world::{Core, World};

/// A rule to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleCreate {
    pub name: Name,
    pub labels: Labels,
    pub spec: RuleSpec,
}

/// What is to change; absent fields stay.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RuleUpdate {
    pub relation: Option<RuleRelation>,
    pub strength: Option<RuleStrength>,
    pub vms: Option<Selector>,
    pub hosts: Option<Selector>,
    /// Empty: each host by itself.
    pub scope: Option<String>,
    pub description: Option<String>,
}

/// # Errors
/// `forbidden`, `invalid` paging.
pub fn list(
    world: &World,
    actor: &Actor,
    request: &PageRequest,
) -> Result<Page<Rule>, ServiceError> {
    authorize(actor, Role::Viewer, "list rules")?;
    page::<RuleKind>(&world.snapshot(), request, |_| true)
}

/// # Errors
/// `forbidden`, `not_found`.
pub fn show(world: &World, actor: &Actor, rule: &Ref) -> Result<Arc<Rule>, ServiceError> {
    authorize(actor, Role::Viewer, "see rules")?;
    Ok(RuleKind::shown(world.snapshot().find(rule)?))
}

/// Makes a rule. What is there already stays where it is, and may violate it.
///
/// # Errors
/// `forbidden`, `invalid`, `not_found`, `name_taken`, `rule_conflict` with the smallest set of rules
/// that cannot hold together.
pub async fn create(
    world: &World,
    actor: &Actor,
    request: RuleCreate,
) -> Result<Arc<Rule>, ServiceError> {
    authorize(actor, Role::Admin, "create rules")?;
    let RuleCreate { name, labels, mut spec } = request;
    hostler_types::validate_labels(&labels)
        .map_err(|reason| ServiceError::invalid_as_told("labels", reason))?;
    let _references = world.references.write().await;
    let snapshot = world.snapshot();
    resolve(&snapshot, &mut spec)?;
    require_possible(&snapshot, &name, &spec)?;
    let rule = Rule::new(name, labels, Timestamp::now(), spec, RuleStatus {});
    let batch = Core::batch(actor, "rule.create").with(Write::create(&rule));
    let snapshot = world.commit(batch).await?;
    Ok(RuleKind::shown(snapshot.find(&rule.reference())?))
}

/// # Errors
/// `forbidden`, `not_found`, `invalid`, `stale_revision`, `rule_conflict`.
pub async fn update(
    world: &World,
    actor: &Actor,
    rule: &Ref,
    request: RuleUpdate,
    expected: Option<Revision>,
) -> Result<Arc<Rule>, ServiceError> {
    authorize(actor, Role::Admin, "change rules")?;
    let _references = world.references.write().await;
    let snapshot = world.snapshot();
    let old = snapshot.find::<RuleKind>(rule)?;
    require_revision::<RuleKind>(old, expected)?;
    let mut new = Rule::clone(old);
    let spec = &mut new.spec;
    spec.relation = request.relation.unwrap_or(spec.relation);
    spec.strength = request.strength.unwrap_or(spec.strength);
    if let Some(vms) = request.vms {
        spec.vms = vms;
    }
    if request.hosts.is_some() {
        spec.hosts = request.hosts;
    }
    if let Some(scope) = request.scope {
        spec.scope = Some(scope).filter(|label| !label.is_empty());
    }
    if let Some(description) = request.description {
        spec.description = description;
    }
    resolve(&snapshot, spec)?;
    require_possible(&snapshot, new.name(), &new.spec)?;
    let batch = Core::batch(actor, "rule.update").with(Write::update(&new));
    let snapshot = world.commit(batch).await?;
    Ok(RuleKind::shown(snapshot.find(&new.reference())?))
}

/// # Errors
/// `forbidden`, `not_found`.
pub async fn delete(world: &World, actor: &Actor, rule: &Ref) -> Result<(), ServiceError> {
    authorize(actor, Role::Admin, "delete rules")?;
    let _references = world.references.write().await;
    let snapshot = world.snapshot();
    let rule = snapshot.find::<RuleKind>(rule)?;
    world.commit(Core::batch(actor, "rule.delete").with(Write::delete(rule))).await?;
    Ok(())
}

/// The rules that do not hold now.
///
/// # Errors
/// `forbidden`.
pub fn list_violations(world: &World, actor: &Actor) -> Result<Vec<RuleViolation>, ServiceError> {
    authorize(actor, Role::Viewer, "see violations of rules")?;
    Ok(world.placement.on_board(&world.inventory, |board| {
        let (cluster, _) = board.cluster();
        let all = violations(cluster).into_iter();
        all.map(|violation| placement::violation(cluster, violation)).collect()
    }))
}

/// Checks the spec, and makes its references ids.
fn resolve(snapshot: &Snapshot, spec: &mut RuleSpec) -> Result<(), ServiceError> {
    spec.validate()?;
    resolve_selector::<VmKind>(snapshot, &mut spec.vms, ("vms", GroupOf::Vms))?;
    if let Some(hosts) = &mut spec.hosts {
        resolve_selector::<HostKind>(snapshot, hosts, ("hosts", GroupOf::Hosts))?;
    }
    Ok(())
}

pub(super) fn resolve_selector<K: Held>(
    snapshot: &Snapshot,
    selector: &mut Selector,
    (field, of): (&'static str, GroupOf),
) -> Result<(), ServiceError> {
    match selector {
        Selector::Labels(_) => {}
        Selector::Group(reference) => {
            let group: &Arc<Group> = snapshot.find::<GroupKind>(reference)?;
            if group.spec.of != of {
                let (name, is) = (group.name(), group.spec.of.as_str());
                let reason = format!("group `{name}` is one of {is}, not of {}", of.as_str());
                return Err(ServiceError::invalid(field, reason)
                    .hint("see `hostler group list`, or name them one by one"));
            }
            *reference = group.reference();
        }
        Selector::Names(names) => {
            let mut found: Vec<Ref> = Vec::new();
            for name in names.iter() {
                let id = snapshot.find::<K>(name)?.reference();
                if !found.contains(&id) {
                    found.push(id);
                }
            }
            *names = found;
        }
    }
    Ok(())
}

/// Refuses a rule that cannot hold together with those that are there.
fn require_possible(snapshot: &Snapshot, name: &Name, spec: &RuleSpec) -> Result<(), ServiceError> {
    if spec.strength == RuleStrength::Should {
        return Ok(());
    }
    let rule = placement::rule_for_policy(snapshot, name, spec);
    let found = conflicts_with(&placement::whole(snapshot), &rule);
    refuse(&found.map_err(|error| ServiceError::invalid("spec", error.to_string()))?)
}

/// Refuses a change of the inventory that makes rules impossible that name a group.
pub(super) fn require_possible_with(
    snapshot: &Snapshot,
    group: &Group,
) -> Result<(), ServiceError> {
    let is_about = |rule: &Rule| {
        let names = |selector: &Selector| *selector == Selector::Group(group.reference());
        names(&rule.spec.vms) || rule.spec.hosts.as_ref().is_some_and(names)
    };
    let rules = snapshot.all::<RuleKind>().iter().filter(|rule| is_about(rule));
    let rules: Vec<_> = rules.map(|rule| rule.name().to_string()).collect();
    if rules.is_empty() {
        return Ok(());
    }
    let mut whole = placement::whole(snapshot);
    let changed = placement::group_for_policy(snapshot, group);
    let groups = match group.spec.of {
        GroupOf::Vms => &mut whole.vm_groups,
        GroupOf::Hosts => &mut whole.host_groups,
    };
    groups.retain(|other| other.name != changed.name);
    groups.push(changed);
    let all = conflicts(&whole);
    let all = all.map_err(|error| ServiceError::invalid("members", error.to_string()))?;
    let comes = |conflict: &Conflict| conflict.rules.iter().any(|rule| rules.contains(rule));
    refuse(&all.into_iter().filter(comes).collect::<Vec<_>>())
}

fn refuse(conflicts: &[Conflict]) -> Result<(), ServiceError> {
    if conflicts.is_empty() {
        return Ok(());
    }
    let told = |conflict: &Conflict| match conflict.smallest {
        true => conflict.sentence.clone(),
        false => format!("{} (there may be a smaller conflict)", conflict.sentence),
    };
    let told: Vec<_> = conflicts.iter().map(told).collect();
    Err(ServiceError::conflict("rule_conflict", told.join("; "))
        .hint("leave one of them out, or make it one that only should hold (`--should`)"))
}

/// The rules and groups without what is gone: they are changed in the commit that lets it go. Answers
/// what was changed, for people, beside the writes.
pub(crate) fn without(snapshot: &Snapshot, gone: &Ref) -> Vec<(String, Write)> {
    let mut changed = Vec::new();
    for rule in snapshot.all::<RuleKind>().iter() {
        let mut new = Rule::clone(rule);
        let hosts = new.spec.hosts.as_mut().is_some_and(|hosts| hosts.forget(gone));
        if new.spec.vms.forget(gone) || hosts {
            changed.push((format!("rule {}", rule.name()), Write::update(&new)));
        }
    }
    for group in snapshot.all::<GroupKind>().iter() {
        let mut new = Group::clone(group);
        if new.spec.members.forget(gone) {
            changed.push((format!("group {}", group.name()), Write::update(&new)));
        }
    }
    changed
}
