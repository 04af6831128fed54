//! Rules: which VMs belong together or apart, and on which hosts.
//!
//! A `must` rule is never broken by placement or balancing; a `should` rule costs. Members are said
//! by names or by labels, so that a rule holds for VMs that do not exist yet. [`conflicts`] tells
//! when rules cannot hold together, [`violations`] which do not hold now.

mod conflict;
mod satisfy;
mod selector;
mod table;
mod violation;

use hostler_types::Labels;
use serde::{Deserialize, Serialize};

pub use conflict::{Conflict, conflicts, conflicts_with};
pub(crate) use selector::{Matcher, Members};
pub(crate) use table::{Between, HostRule, NOWHERE, RuleTable, ScopeTable};
pub use violation::{Violation, violations};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Unique among the rules.
    pub name: String,
    pub strength: Strength,
    pub kind: RuleKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Strength {
    Must,
    Should,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum RuleKind {
    /// All on the same host, or on hosts with the same value of a label.
    Affinity {
        vms: Selector,
        scope: Scope,
    },
    /// No two on the same host, or on hosts with the same value of a label.
    AntiAffinity {
        vms: Selector,
        scope: Scope,
    },
    RunOn {
        vms: Selector,
        hosts: Selector,
    },
    NotRunOn {
        vms: Selector,
        hosts: Selector,
    },
}

impl RuleKind {
    pub fn vms(&self) -> &Selector {
        match self {
            Self::Affinity { vms, .. }
            | Self::AntiAffinity { vms, .. }
            | Self::RunOn { vms, .. }
            | Self::NotRunOn { vms, .. } => vms,
        }
    }

    pub fn hosts(&self) -> Option<&Selector> {
        match self {
            Self::RunOn { hosts, .. } | Self::NotRunOn { hosts, .. } => Some(hosts),
            Self::Affinity { .. } | Self::AntiAffinity { .. } => None,
        }
    }

    pub fn scope(&self) -> Option<&Scope> {
        match self {
            Self::Affinity { scope, .. } | Self::AntiAffinity { scope, .. } => Some(scope),
            Self::RunOn { .. } | Self::NotRunOn { .. } => None,
        }
    }
}

/// What counts as the same place.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    #[default]
    Host,
    /// Hosts with the same value of this label, such as `rack`. A host without it is no place for
    /// VMs of a `must` rule: nobody knows where it stands.
    Label(String),
}

/// VMs, or hosts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Selector {
    /// The members of a [`Group`].
    Group(String),
    Names(Vec<String>),
    /// Those that have all of these labels; none selects nothing.
    Labels(Labels),
}

/// VMs or hosts with a name of their own, for several rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    pub name: String,
    /// By names or by labels; a group of groups is refused.
    pub members: Selector,
}
