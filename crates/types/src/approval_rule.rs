//! Approval rules: how many people have to agree to a request, and which.
//!
//! All rules that fit a request count; where none does, the server's default. The decision itself
//! is `hostler_policy::approval`.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::name::Name;
use crate::object::{Kind, KindName, Labels, Object, validate_labels};
use crate::operations::Role;
use crate::size::ByteSize;
use crate::vm::Cores;
use crate::vm_requests::SpecError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApprovalRuleKind;
pub type ApprovalRule = Object<ApprovalRuleKind>;

impl Kind for ApprovalRuleKind {
    const NAME: KindName = KindName::ApprovalRule;
    const SCHEMA: &'static str = "ApprovalRule";
    type Spec = ApprovalRuleSpec;
    type Status = ApprovalRuleStatus;
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ApprovalRuleSpec {
    /// Which requests it is about.
    pub when: ApprovalConditions,
    /// What it asks for.
    pub need: ApprovalNeed,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApprovalRuleStatus {}

/// All that is given must fit; nothing given: every request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ApprovalConditions {
    /// Labels that the VM is to have.
    #[serde(skip_serializing_if = "Labels::is_empty")]
    #[schema(inline)]
    pub selector: Labels,
    /// One of these images is used: by the VM, or by its template.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<Name>,
    /// It is made from one of these templates.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub templates: Vec<Name>,
    /// One of these customization specs is used.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub customization_specs: Vec<Name>,
    /// One of its NICs is in one of these networks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub networks: Vec<Name>,
    /// Commands or scripts are run in the guest: after the start, as probes, or by its customization
    /// (run-once commands, user data, packages, domain join, an unattend file).
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub scripts: bool,
    /// Addresses are chosen: a MAC or a static address of a NIC, or the guest's own network
    /// configuration.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub addresses: bool,
    /// A host, a datastore, or a place in the resource pools (pool, shares, reservation) is chosen.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub placement: bool,
    /// One of these users asks.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub requesters: Vec<Name>,
    /// At least so many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_cpus: Option<Cores>,
    /// At most so many.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_cpus: Option<Cores>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_memory: Option<ByteSize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_memory: Option<ByteSize>,
    /// Of all disks together.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_disk: Option<ByteSize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_disk: Option<ByteSize>,
}

/// How many approvals, and whose count.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ApprovalNeed {
    /// 0 to 10; 0: none. Such a rule fits no request with a template, a customization spec, a bridged
    /// network, commands or scripts in the guest, chosen addresses, or a chosen host or datastore,
    /// unless its conditions name them.
    #[schema(minimum = 0, maximum = 10)]
    pub approvals: u32,
    /// The least role of an approver.
    pub role: Role,
    /// Only these users; empty: everyone with the role.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub approvers: Vec<Name>,
    /// Whoever asks may approve, too.
    pub self_approval: bool,
}

/// One approval by an admin.
impl Default for ApprovalNeed {
    fn default() -> Self {
        Self { approvals: 1, role: Role::Admin, approvers: Vec::new(), self_approval: false }
    }
}

/// What was decided about a request, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApprovalDecision {
    /// Nothing is missing.
    pub approved: bool,
    /// Every rule, in the order of names; the default last, when no rule fits.
    pub rules: Vec<RuleVerdict>,
}

/// What one rule has to say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RuleVerdict {
    /// Absent: the server's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<Name>,
    /// Whether it is about this request.
    pub fits: bool,
    /// Why it is, or is not.
    pub why: String,
    /// What it asks for, in words; only when it fits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needs: Option<String>,
    /// Whose approvals count for it.
    #[serde(default)]
    pub given: Vec<String>,
    /// How many approvals it still waits for.
    pub missing: u32,
}

impl ApprovalNeed {
    const MOST: u32 = 10;

    /// # Errors
    /// More approvals than are possible, or more than there are approvers.
    pub fn validate(&self, field: &str) -> Result<(), SpecError> {
        let wrong = |reason: String| Err(SpecError::new(format!("{field}.approvals"), reason));
        if self.approvals > Self::MOST {
            return wrong(format!("{} is not possible; 0 to {}", self.approvals, Self::MOST));
        }
        let approvers = self.approvers.len();
        let enough = usize::try_from(self.approvals).is_ok_and(|wanted| wanted <= approvers);
        if approvers > 0 && !enough {
            return wrong(format!("{} of {approvers} approvers are not possible", self.approvals));
        }
        Ok(())
    }
}

impl ApprovalRuleSpec {
    /// # Errors
    /// A condition that nothing can fulfil, or a need that nobody can.
    pub fn validate(&self) -> Result<(), SpecError> {
        let when = &self.when;
        validate_labels(&when.selector).map_err(|e| SpecError::new("when.selector", e))?;
        let empty = [
            ("cpus", when.min_cpus.zip(when.max_cpus).is_some_and(|(min, max)| min > max)),
            ("memory", when.min_memory.zip(when.max_memory).is_some_and(|(min, max)| min > max)),
            ("disk", when.min_disk.zip(when.max_disk).is_some_and(|(min, max)| min > max)),
        ];
        if let Some((what, _)) = empty.iter().find(|(_, empty)| *empty) {
            let reason = format!("it is more than max_{what}: nothing fits");
            return Err(SpecError::new(format!("when.min_{what}"), reason));
        }
        self.need.validate("need")
    }
}
