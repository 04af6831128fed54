//! Rules that do not hold now.

use std::collections::BTreeMap;

use hostler_types::VmId;
use serde::{Deserialize, Serialize};

use super::{NOWHERE, Strength};
use crate::cluster::{Cluster, narrow};
use crate::placement::listed;

/// A rule, and the VMs that are where it does not want them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Violation {
    pub rule: String,
    pub strength: Strength,
    /// In ascending order.
    pub vms: Vec<VmId>,
    pub sentence: String,
}

/// All violations: by rule, those between VMs first, in the order of the rules.
pub fn violations(cluster: &Cluster) -> Vec<Violation> {
    let mut found = Vec::new();
    let members = members(cluster);
    for (at, rule) in cluster.rules.between.iter().enumerate() {
        if !members.between.contains_key(&narrow(at)) {
            continue;
        }
        let scope = &cluster.rules.scopes[rule.scope];
        let mut by_place: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for vm in members.between.get(&narrow(at)).into_iter().flatten() {
            if let Some(host) = cluster.vms[*vm as usize].host {
                by_place.entry(scope.place(host as usize)).or_default().push(*vm);
            }
        }
        let told = |place: u32| match scope.told(place) {
            Some(told) => told,
            None if place == NOWHERE => "a host without the label".to_owned(),
            None => format!("host `{}`", cluster.name_of(place)),
        };
        let (vms, reason) = if rule.together {
            if by_place.len() < 2 && !by_place.contains_key(&NOWHERE) {
                continue;
            }
            let places: Vec<_> = by_place.keys().map(|place| told(*place)).collect();
            let vms: Vec<_> = by_place.into_values().flatten().collect();
            (vms, format!("are on {} and not together", places.join(" and ")))
        } else {
            by_place.retain(|place, vms| vms.len() > 1 || *place == NOWHERE);
            if by_place.is_empty() {
                continue;
            }
            let places: Vec<_> = by_place.keys().map(|place| told(*place)).collect();
            let vms: Vec<_> = by_place.into_values().flatten().collect();
            (vms, format!("are not apart: {}", places.join(", ")))
        };
        found.push(violation(cluster, &rule.name, rule.must, vms, &reason));
    }
    for (at, rule) in cluster.rules.with_hosts.iter().enumerate() {
        let wrong = members.with_hosts.get(&narrow(at)).cloned().unwrap_or_default();
        if !wrong.is_empty() {
            let reason = match rule.run_on {
                true => "are on hosts that it does not name",
                false => "are on hosts that it forbids",
            };
            found.push(violation(cluster, &rule.name, rule.must, wrong, reason));
        }
    }
    found
}

fn violation(
    cluster: &Cluster,
    rule: &str,
    must: bool,
    mut vms: Vec<u32>,
    reason: &str,
) -> Violation {
    vms.sort_unstable_by_key(|vm| cluster.vms[*vm as usize].id);
    let names: Vec<_> = vms.iter().map(|vm| cluster.vms[*vm as usize].name.clone()).collect();
    Violation {
        rule: rule.to_owned(),
        strength: if must { Strength::Must } else { Strength::Should },
        vms: vms.iter().map(|vm| cluster.vms[*vm as usize].id).collect(),
        sentence: format!("rule `{rule}`: {} {reason}", listed(&names)),
    }
}

/// The VMs of each rule that may not hold.
#[derive(Debug, Default)]
struct RuleMembers {
    between: BTreeMap<u32, Vec<u32>>,
    with_hosts: BTreeMap<u32, Vec<u32>>,
}

fn members(cluster: &Cluster) -> RuleMembers {
    let mut members = RuleMembers::default();
    // Most rules hold, as the counts of their members say; only of the others are members needed.
    let suspect: Vec<bool> = cluster
        .rules
        .between
        .iter()
        .map(|rule| !rule.holds() || cluster.rules.scopes[rule.scope].has_nowhere())
        .collect();
    for vm in cluster.ruled.iter().copied() {
        let facts = &cluster.vms[vm as usize];
        if facts.host.is_none() {
            continue;
        }
        for rule in facts.item.rules.iter().filter(|rule| suspect[**rule as usize]) {
            members.between.entry(*rule).or_default().push(vm);
        }
        for class in &facts.item.classes {
            for rule in &cluster.classes[*class as usize].key.host_rules {
                let allowed = &cluster.rules.with_hosts[*rule as usize].allowed;
                if facts.host.is_some_and(|host| !allowed.has(host as usize)) {
                    members.with_hosts.entry(*rule).or_default().push(vm);
                }
            }
        }
    }
    members
}
