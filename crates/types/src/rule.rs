//! Placement rules and the groups that they name: which VMs belong together or apart, and on which
//! hosts.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::name::Ref;
use crate::object::{Kind, KindName, Labels, Object, validate_labels};
use crate::vm_requests::SpecError;

/// The most VMs or hosts that a rule or a group lists one by one; labels select any number.
const MOST_LISTED: usize = 1_000;
const LONGEST_DESCRIPTION: usize = 1_024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuleKind;
pub type Rule = Object<RuleKind>;

impl Kind for RuleKind {
    const NAME: KindName = KindName::Rule;
    const SCHEMA: &'static str = "Rule";
    type Spec = RuleSpec;
    type Status = RuleStatus;
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RuleSpec {
    pub relation: RuleRelation,
    #[serde(default)]
    pub strength: RuleStrength,
    /// Which VMs it is about.
    pub vms: Selector,
    /// Which hosts; only for `run-on` and `not-run-on`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hosts: Option<Selector>,
    /// Of hosts with the same value of this label it holds as of one host, such as `rack`; absent: of
    /// each host by itself. Only for `affinity` and `anti-affinity`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// At most 1,024 characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
}

/// A rule has no state of its own: whether it holds is asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RuleStatus {}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RuleRelation {
    /// All on one host, or on hosts with the same value of the scope's label.
    Affinity,
    /// No two on one host, or on hosts with the same value of the scope's label.
    AntiAffinity,
    RunOn,
    NotRunOn,
}

impl RuleRelation {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Affinity => "affinity",
            Self::AntiAffinity => "anti-affinity",
            Self::RunOn => "run-on",
            Self::NotRunOn => "not-run-on",
        }
    }

    /// Whether it is about VMs and hosts, and not about VMs among each other.
    pub const fn is_with_hosts(self) -> bool {
        match self {
            Self::RunOn | Self::NotRunOn => true,
            Self::Affinity | Self::AntiAffinity => false,
        }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum RuleStrength {
    /// Never broken by placement.
    #[default]
    Must,
    /// Kept where that is possible.
    Should,
}

impl RuleStrength {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Must => "must",
            Self::Should => "should",
        }
    }
}

/// VMs, or hosts. References are stored as ids, so that a rule follows what it names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Selector {
    /// The members of a group.
    #[schema(value_type = String)]
    Group(Ref),
    #[schema(value_type = Vec<String>)]
    Names(Vec<Ref>),
    /// Those that have all of these labels, also those that come later.
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    Labels(Labels),
}

impl RuleSpec {
    /// # Errors
    /// The field that does not go with the relation, or is out of range.
    pub fn validate(&self) -> Result<(), SpecError> {
        self.vms.validate("vms")?;
        let relation = self.relation.as_str();
        match (&self.hosts, &self.scope) {
            (None, _) if self.relation.is_with_hosts() => {
                let reason = format!("a rule `{relation}` says which hosts it is about");
                return Err(SpecError::new("hosts", reason));
            }
            (Some(_), _) if !self.relation.is_with_hosts() => {
                let reason = format!("a rule `{relation}` is about VMs only");
                return Err(SpecError::new("hosts", reason));
            }
            (_, Some(_)) if self.relation.is_with_hosts() => {
                let reason = format!("a rule `{relation}` names its hosts, and has no scope");
                return Err(SpecError::new("scope", reason));
            }
            (hosts, scope) => {
                hosts.as_ref().map_or(Ok(()), |hosts| hosts.validate("hosts"))?;
                let label = scope.iter().map(|key| (key.clone(), String::new())).collect();
                validate_labels(&label).map_err(|reason| SpecError::new("scope", reason))?;
            }
        }
        describe(&self.description)
    }
}

impl Selector {
    /// # Errors
    /// It selects nothing, lists too many, or its labels are none.
    pub fn validate(&self, field: &'static str) -> Result<(), SpecError> {
        let wrong = |reason: String| Err(SpecError::new(field, reason));
        match self {
            Self::Group(_) => Ok(()),
            Self::Names(names) if names.is_empty() => {
                wrong("it names none; give at least one, a group or labels".to_owned())
            }
            Self::Names(names) if names.len() > MOST_LISTED => wrong(format!(
                "{} are listed, at most {MOST_LISTED} can be; select them by a label",
                names.len()
            )),
            Self::Names(_) => Ok(()),
            Self::Labels(labels) if labels.is_empty() => {
                wrong("no label selects nothing; give at least one".to_owned())
            }
            Self::Labels(labels) => {
                validate_labels(labels).map_err(|reason| SpecError::new(field, reason))
            }
        }
    }

    /// Takes a reference out of the list, if it is one and has it.
    pub fn forget(&mut self, gone: &Ref) -> bool {
        let Self::Names(names) = self else { return false };
        let before = names.len();
        names.retain(|name| name != gone);
        names.len() < before
    }
}

fn describe(description: &str) -> Result<(), SpecError> {
    if description.chars().count() > LONGEST_DESCRIPTION {
        let reason = format!("at most {LONGEST_DESCRIPTION} characters");
        return Err(SpecError::new("description", reason));
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupKind;
pub type Group = Object<GroupKind>;

impl Kind for GroupKind {
    const NAME: KindName = KindName::Group;
    const SCHEMA: &'static str = "Group";
    type Spec = GroupSpec;
    type Status = GroupStatus;
}

/// VMs, or hosts, that rules name as one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupSpec {
    pub of: GroupOf,
    /// By names or by labels; a group has no groups.
    pub members: Selector,
    /// At most 1,024 characters.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum GroupOf {
    Vms,
    Hosts,
}

impl GroupOf {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Vms => "vms",
            Self::Hosts => "hosts",
        }
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GroupStatus {}

impl GroupSpec {
    /// # Errors
    /// The field that is wrong, and why.
    pub fn validate(&self) -> Result<(), SpecError> {
        if matches!(self.members, Selector::Group(_)) {
            return Err(SpecError::new("members", "a group has no groups; give names or labels"));
        }
        self.members.validate("members")?;
        describe(&self.description)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(text: &str) -> RuleSpec {
        serde_json::from_str(text).expect("it reads as a rule")
    }

    #[test]
    fn what_does_not_go_with_a_relation_is_refused() {
        let check = |text: &str, wrong: Option<&str>| {
            let refused = rule(text).validate().err();
            assert_eq!(refused.map(|error| error.field).as_deref(), wrong, "{text}");
        };
        check(r#"{"relation": "affinity", "vms": {"names": ["a", "b"]}}"#, None);
        check(
            r#"{"relation": "anti-affinity", "vms": {"labels": {"a": "b"}}, "scope": "rack"}"#,
            None,
        );
        check(r#"{"relation": "run-on", "vms": {"group": "g"}, "hosts": {"names": ["h"]}}"#, None);
        check(r#"{"relation": "run-on", "vms": {"group": "g"}}"#, Some("hosts"));
        check(
            r#"{"relation": "affinity", "vms": {"group": "g"}, "hosts": {"names": ["h"]}}"#,
            Some("hosts"),
        );
        check(
            r#"{"relation": "run-on", "vms": {"group": "g"}, "hosts": {"group": "h"}, "scope": "x"}"#,
            Some("scope"),
        );
        check(r#"{"relation": "affinity", "vms": {"group": "g"}, "scope": "A B"}"#, Some("scope"));
        check(r#"{"relation": "affinity", "vms": {"names": []}}"#, Some("vms"));
        check(r#"{"relation": "affinity", "vms": {"labels": {}}}"#, Some("vms"));
    }
}
