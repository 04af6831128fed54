//! Naming rules: what VMs may be called, and names that are counted up without giving one twice.

use std::sync::Arc;

use hostler_store::{StoreError, Write};
use hostler_types::{
    Labels, Name, NamingRule, NamingRuleKind, NamingRuleSpec, NamingRuleStatus, Ref, Role, VmKind,
    validate_labels,
};
use jiff::Timestamp;
use regex::{Regex, RegexBuilder};

use super::{Page, PageRequest, page};
use crate::actor::{Actor, authorize};
use crate::error::ServiceError;
use crate::inventory::Snapshot;
use crate::redact::Shown;
use crate::world::{Core, World};

/// A pattern takes at most so much memory when it is compiled; matching is linear in the name.
const PATTERN_MEMORY: usize = 1 << 20;
const LONGEST_PATTERN: usize = 1024;
/// Names that others have taken are passed over, so many at a time.
const TAKEN: usize = 100_000;
const ATTEMPTS: usize = 200;

/// A naming rule to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamingRuleCreate {
    pub name: Name,
    pub spec: NamingRuleSpec,
}

/// # Errors
/// `forbidden`, `invalid` paging.
pub fn list(
    world: &World,
    actor: &Actor,
    request: &PageRequest,
) -> Result<Page<NamingRule>, ServiceError> {
    authorize(actor, Role::Viewer, "list naming rules")?;
    page::<NamingRuleKind>(&world.snapshot(), request, |_| true)
}

/// # Errors
/// `forbidden`, `not_found`.
pub fn show(world: &World, actor: &Actor, rule: &Ref) -> Result<Arc<NamingRule>, ServiceError> {
    authorize(actor, Role::Viewer, "see naming rules")?;
    Ok(NamingRuleKind::shown(world.snapshot().find(rule)?))
}

/// Makes a rule. VMs that there are keep their names.
///
/// # Errors
/// `forbidden`, `invalid`, `name_taken`.
pub async fn create(
    world: &World,
    actor: &Actor,
    request: NamingRuleCreate,
) -> Result<Arc<NamingRule>, ServiceError> {
    authorize(actor, Role::Admin, "create naming rules")?;
    let NamingRuleCreate { name, spec } = request;
    validate_labels(&spec.selector)
        .map_err(|reason| ServiceError::invalid_as_told("selector", reason))?;
    let pattern = compiled(&spec.pattern)?;
    if spec.template.is_some() {
        let first = spec.numbered(1)?;
        if !pattern.is_match(first.as_str()) {
            let reason = format!("its first name, `{first}`, does not match the pattern");
            return Err(ServiceError::invalid("template", reason));
        }
    }
    let status = NamingRuleStatus::default();
    let rule = NamingRule::new(name, Labels::new(), Timestamp::now(), spec, status);
    let batch = Core::batch(actor, "naming-rule.create").with(Write::create(&rule));
    let snapshot = world.commit(batch).await?;
    Ok(NamingRuleKind::shown(snapshot.find(&rule.reference())?))
}

/// # Errors
/// `forbidden`, `not_found`.
pub async fn delete(world: &World, actor: &Actor, rule: &Ref) -> Result<(), ServiceError> {
    authorize(actor, Role::Admin, "delete naming rules")?;
    let rule = world.snapshot().find::<NamingRuleKind>(rule)?.clone();
    let (kind, id) = (hostler_types::KindName::NamingRule, rule.id().untyped());
    // Whoever counts meanwhile only loses a number.
    let gone = Write::Delete { kind, id, expected: None };
    world.commit(Core::batch(actor, "naming-rule.delete").with(gone)).await?;
    Ok(())
}

/// The next name of a rule with a template: it is given to nobody else, whether it is used or not.
///
/// # Errors
/// `forbidden`, `not_found`, `invalid` without a template, `contended`.
pub async fn next(world: &World, actor: &Actor, rule: &Ref) -> Result<Name, ServiceError> {
    authorize(actor, Role::Operator, "take names")?;
    for _ in 0..ATTEMPTS {
        let snapshot = world.snapshot();
        let mut rule = NamingRule::clone(snapshot.find::<NamingRuleKind>(rule)?);
        let name = free(&snapshot, &mut rule)?;
        let batch = Core::batch(actor, format!("naming-rule.next: {name}"));
        match world.commit(batch.with(Write::update(&rule))).await {
            Ok(_) => return Ok(name),
            // Someone else has taken this number.
            Err(StoreError::Stale { actual, .. }) => {
                world.inventory.at_least(actual).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(ServiceError::conflict("contended", "too many take names at once").hint("try again"))
}

/// Counts up to a name that no VM has.
fn free(snapshot: &Snapshot, rule: &mut NamingRule) -> Result<Name, ServiceError> {
    for _ in 0..TAKEN {
        rule.status.last = rule.status.last.saturating_add(1);
        let name = rule.spec.numbered(rule.status.last)?;
        if snapshot.all::<VmKind>().get_by_name(&name).is_none() {
            return Ok(name);
        }
    }
    let message = format!("the next {TAKEN} names of rule `{}` are taken", rule.name());
    Err(ServiceError::conflict("name_taken", message))
}

/// Refuses a name that a rule does not allow. For whoever gives a VM a name.
///
/// # Errors
/// `naming_rule`, with the rule and the pattern.
pub(crate) fn require_allowed(
    snapshot: &Snapshot,
    name: &Name,
    labels: &Labels,
) -> Result<(), ServiceError> {
    require_allowed_by(snapshot, name, |rule| rule.spec.is_about(labels))
}

/// As [`require_allowed`], for whoever gives a VM other labels: by the rules that come with them. Under
/// those that it has been under before, it keeps its name.
///
/// # Errors
/// `naming_rule`, with the rule and the pattern.
pub(crate) fn require_allowed_anew(
    snapshot: &Snapshot,
    name: &Name,
    before: &Labels,
    labels: &Labels,
) -> Result<(), ServiceError> {
    let comes = |rule: &NamingRule| rule.spec.is_about(labels) && !rule.spec.is_about(before);
    require_allowed_by(snapshot, name, comes)
}

fn require_allowed_by(
    snapshot: &Snapshot,
    name: &Name,
    counts: impl Fn(&NamingRule) -> bool,
) -> Result<(), ServiceError> {
    let rules = snapshot.all::<NamingRuleKind>().iter();
    for rule in rules.filter(|rule| counts(rule)) {
        if compiled(&rule.spec.pattern)?.is_match(name.as_str()) {
            continue;
        }
        let (rule_name, pattern) = (rule.name(), &rule.spec.pattern);
        let message = format!(
            "the naming rule `{rule_name}` does not allow `{name}`: it must match {pattern}"
        );
        let error = ServiceError::conflict("naming_rule", message);
        return Err(match rule.spec.template {
            Some(_) => error
                .hint(format!("take its next name with `hostler naming-rule next {rule_name}`")),
            None => error.hint(format!("see `hostler naming-rule show {rule_name}`")),
        });
    }
    Ok(())
}

fn compiled(pattern: &str) -> Result<Regex, ServiceError> {
    if pattern.is_empty() || pattern.len() > LONGEST_PATTERN {
        let reason = format!("a pattern is 1 to {LONGEST_PATTERN} bytes");
        return Err(ServiceError::invalid("pattern", reason));
    }
    let whole = format!("^(?:{pattern})$");
    RegexBuilder::new(&whole).size_limit(PATTERN_MEMORY).build().map_err(|error| {
        let line = error.to_string();
        let line = line.lines().last().unwrap_or_default().trim().to_owned();
        ServiceError::invalid("pattern", format!("it is no regular expression: {line}"))
    })
}
