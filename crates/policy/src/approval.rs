//! Who has to agree to a request, and what is still missing.
//!
//! **All** rules that fit a request count, in whatever order they were made: one more rule never
//! asks for less. Where none fits, the default does. One person's approval counts for each rule
//! that takes it, and for none of them twice.
//!
//! A rule that asks for nobody lets a request through without a look. So it fits only what its author
//! had in mind: templates, customization specs (with their secrets), bridges of the hosts, what runs
//! in the guest, and addresses, hosts, datastores and resources that are chosen have to be named in its
//! conditions.

use hostler_types::{
    Approval, ApprovalConditions, ApprovalDecision, ApprovalNeed, ApprovalRuleSpec, ByteSize,
    Labels, Name, Requester, Role, RuleVerdict, counted,
};

/// All that rules look at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestFacts {
    pub requester: Requester,
    pub cpus: u32,
    pub memory: ByteSize,
    /// Of all disks together.
    pub disk: ByteSize,
    pub labels: Labels,
    /// Of its disks and drives, and of what they lie on.
    pub images: Vec<Name>,
    pub templates: Vec<Name>,
    pub customization_specs: Vec<Name>,
    pub networks: Vec<Name>,
    /// Those of the networks that are bridges of the hosts.
    pub bridges: Vec<Name>,
    /// Commands or scripts are run in the guest.
    pub scripts: bool,
    /// A MAC or static address, or a network configuration, is chosen.
    pub addresses: bool,
    /// A host, a datastore, or a place in the resource pools (pool, shares, reservation) is chosen.
    pub placement: bool,
}

/// The decision about a request, with what each rule had to say. `rules` are in the order of names.
pub fn decide(
    facts: &RequestFacts,
    rules: &[(Name, ApprovalRuleSpec)],
    default: &ApprovalNeed,
    approvals: &[Approval],
) -> ApprovalDecision {
    let mut verdicts: Vec<RuleVerdict> = rules
        .iter()
        .map(|(name, rule)| match misfit(rule, facts) {
            Some(why) => {
                let (rule, needs, given) = (Some(name.clone()), None, Vec::new());
                RuleVerdict { rule, fits: false, why, needs, given, missing: 0 }
            }
            None => verdict(Some(name), told(&rule.when, facts), &rule.need, facts, approvals),
        })
        .collect();
    if !verdicts.iter().any(|verdict| verdict.fits) {
        let why = "no rule is about this request".to_owned();
        verdicts.push(verdict(None, why, default, facts, approvals));
    }
    let approved = verdicts.iter().all(|verdict| verdict.missing == 0);
    ApprovalDecision { approved, rules: verdicts }
}

/// Whether an approval by `approval.by` would count for a rule that fits, else why for none.
///
/// # Errors
/// One sentence for each rule that fits.
pub fn may_approve(
    facts: &RequestFacts,
    rules: &[(Name, ApprovalRuleSpec)],
    default: &ApprovalNeed,
    approval: &Approval,
) -> Result<(), Vec<String>> {
    let fitting = rules.iter().filter(|(_, rule)| misfit(rule, facts).is_none());
    let mut needs: Vec<_> =
        fitting.map(|(name, rule)| (format!("rule `{name}`"), &rule.need)).collect();
    if needs.is_empty() {
        needs.push(("the default".to_owned(), default));
    }
    let mut reasons = Vec::new();
    for (rule, need) in needs.iter().filter(|(_, need)| need.approvals > 0) {
        match refusal(need, facts, approval) {
            None => return Ok(()),
            Some(why) => reasons.push(format!("{rule}: {why}")),
        }
    }
    Err(reasons)
}

fn verdict(
    rule: Option<&Name>,
    why: String,
    need: &ApprovalNeed,
    facts: &RequestFacts,
    approvals: &[Approval],
) -> RuleVerdict {
    let mut given: Vec<String> = Vec::new();
    for approval in approvals.iter().filter(|it| refusal(need, facts, it).is_none()) {
        if !given.contains(&approval.by.name) {
            given.push(approval.by.name.clone());
        }
    }
    let count = u32::try_from(given.len()).unwrap_or(u32::MAX);
    let missing = need.approvals.saturating_sub(count);
    let needs = Some(in_words(need));
    RuleVerdict { rule: rule.cloned(), fits: true, why, needs, given, missing }
}

/// Why an approval does not count.
fn refusal(need: &ApprovalNeed, facts: &RequestFacts, approval: &Approval) -> Option<String> {
    let by = &approval.by;
    let same_user = by.user.is_some() && by.user == facts.requester.user;
    if !need.self_approval && (by.name == facts.requester.name || same_user) {
        return Some(format!("`{}` has asked for it", by.name));
    }
    if !need.approvers.is_empty() && !need.approvers.iter().any(|it| it.as_str() == by.name) {
        return Some(format!("`{}` is none of its approvers ({})", by.name, listed(need)));
    }
    if approval.role < need.role {
        return Some(format!("the role {} is needed", need.role));
    }
    None
}

fn in_words(need: &ApprovalNeed) -> String {
    if need.approvals == 0 {
        return "no approval".to_owned();
    }
    let plural = if need.approvals == 1 { "" } else { "s" };
    let whose = match need.approvers.as_slice() {
        [] => match need.role {
            Role::Viewer => "anyone".to_owned(),
            Role::Operator => "operators or admins".to_owned(),
            Role::Admin => "admins".to_owned(),
        },
        _ => listed(need),
    };
    let own = if need.self_approval { ", the requester included" } else { "" };
    format!("{} approval{plural} by {whose}{own}", need.approvals)
}

fn listed(need: &ApprovalNeed) -> String {
    need.approvers.iter().map(Name::as_str).collect::<Vec<_>>().join(", ")
}

/// Why a rule is not about a request.
fn misfit(rule: &ApprovalRuleSpec, facts: &RequestFacts) -> Option<String> {
    let unmet = unmet(&rule.when, facts);
    unmet.or_else(|| if rule.need.approvals == 0 { unnamed(&rule.when, facts) } else { None })
}

/// What a rule that asks for nobody would have to name, and does not.
fn unnamed(when: &ApprovalConditions, facts: &RequestFacts) -> Option<String> {
    let named = [
        ("template", &when.templates, &facts.templates),
        ("customization spec", &when.customization_specs, &facts.customization_specs),
        ("bridged network", &when.networks, &facts.bridges),
    ];
    for (what, named, used) in named {
        if let Some(name) = used.iter().find(|name| !named.contains(name)) {
            return Some(format!("it asks for nobody, and does not name the {what} `{name}`"));
        }
    }
    let silent = flags(when, facts).into_iter().find(|flag| flag.used && !flag.wanted);
    silent.map(|flag| format!("it asks for nobody, and is not about {}", flag.what))
}

/// Something that a request does or does not.
struct Flag {
    wanted: bool,
    used: bool,
    what: &'static str,
    told: &'static str,
    absent: &'static str,
}

fn flags(when: &ApprovalConditions, facts: &RequestFacts) -> [Flag; 3] {
    [
        Flag {
            wanted: when.scripts,
            used: facts.scripts,
            what: "what runs in the guest",
            told: "it runs something in the guest",
            absent: "it runs nothing in the guest",
        },
        Flag {
            wanted: when.addresses,
            used: facts.addresses,
            what: "addresses that are chosen",
            told: "it chooses addresses",
            absent: "it chooses no address",
        },
        Flag {
            wanted: when.placement,
            used: facts.placement,
            what: "hosts, datastores and resources that are chosen",
            told: "it chooses a host, a datastore, a pool, shares or a reservation",
            absent: "it chooses no host, datastore, pool, shares or reservation",
        },
    ]
}

/// The first condition that does not hold, with the numbers.
fn unmet(when: &ApprovalConditions, facts: &RequestFacts) -> Option<String> {
    for (key, value) in &when.selector {
        if facts.labels.get(key) != Some(value) {
            return Some(format!("the VM has no label {key}={value}"));
        }
    }
    for (what, wanted, used) in lists(when, facts) {
        if !wanted.is_empty() && !wanted.iter().any(|name| used.contains(name)) {
            return Some(format!("it uses none of the rule's {what}s"));
        }
    }
    if let Some(flag) = flags(when, facts).into_iter().find(|flag| flag.wanted && !flag.used) {
        return Some(flag.absent.to_owned());
    }
    let asks = |name: &Name| name.as_str() == facts.requester.name;
    if !when.requesters.is_empty() && !when.requesters.iter().any(asks) {
        return Some(format!("`{}` is none of the rule's requesters", facts.requester.name));
    }
    let cpus = |cores: Option<hostler_types::Cores>| cores.map(|cores| u64::from(cores.count()));
    let bytes = |size: Option<ByteSize>| size.map(ByteSize::bytes);
    let sizes = [
        ("CPUs", u64::from(facts.cpus), cpus(when.min_cpus), cpus(when.max_cpus), false),
        ("memory", facts.memory.bytes(), bytes(when.min_memory), bytes(when.max_memory), true),
        ("disk", facts.disk.bytes(), bytes(when.min_disk), bytes(when.max_disk), true),
    ];
    for (what, asked, least, most, is_size) in sizes {
        let shown = |n: u64| if is_size { ByteSize(n).to_string() } else { n.to_string() };
        if let Some(least) = least.filter(|least| asked < *least) {
            return Some(format!("{} {what} are less than {}", shown(asked), shown(least)));
        }
        if let Some(most) = most.filter(|most| asked > *most) {
            return Some(format!("{} {what} are more than {}", shown(asked), shown(most)));
        }
    }
    None
}

/// What is named: by the rule, and by the request.
fn lists<'a>(
    when: &'a ApprovalConditions,
    facts: &'a RequestFacts,
) -> [(&'static str, &'a [Name], &'a [Name]); 4] {
    [
        ("image", &when.images, &facts.images),
        ("template", &when.templates, &facts.templates),
        ("customization spec", &when.customization_specs, &facts.customization_specs),
        ("network", &when.networks, &facts.networks),
    ]
}

/// What made the rule fit.
fn told(when: &ApprovalConditions, facts: &RequestFacts) -> String {
    let mut parts: Vec<String> =
        when.selector.iter().map(|(key, value)| format!("label {key}={value}")).collect();
    for (what, wanted, used) in lists(when, facts) {
        let both = used.iter().filter(|name| wanted.contains(name));
        parts.extend(both.map(|name| format!("{what} {name}")));
    }
    let wanted = flags(when, facts).into_iter().filter(|flag| flag.wanted);
    parts.extend(wanted.map(|flag| flag.told.to_owned()));
    if !when.requesters.is_empty() {
        parts.push(format!("asked for by {}", facts.requester.name));
    }
    if when.min_cpus.is_some() || when.max_cpus.is_some() {
        parts.push(counted(facts.cpus, "CPU"));
    }
    if when.min_memory.is_some() || when.max_memory.is_some() {
        parts.push(format!("{} memory", facts.memory));
    }
    if when.min_disk.is_some() || when.max_disk.is_some() {
        parts.push(format!("{} disk", facts.disk));
    }
    if parts.is_empty() { "it is about every request".to_owned() } else { parts.join(", ") }
}

#[cfg(test)]
mod tests;
