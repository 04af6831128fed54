//! Rules that cannot hold together, found when one of them is written.
//!
//! Only `must` rules conflict. Room and what runs where is left aside: a conflict is one whatever
//! the cluster's load is.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::satisfy::{Constraint, Problem, Verdict};
use super::{Members, Rule, RuleKind, Scope, Strength};
use crate::cluster::{Bits, Cluster, ClusterSnapshot, SnapshotError};

/// Subsets that are tried for a smaller conflict than the irreducible one that was found.
const MOST_SUBSETS: usize = 2_000;
/// Conflicts that are told of rules that hang together.
const MOST_CONFLICTS: usize = 10;

/// Rules that cannot hold together, while any of them left out makes the others possible.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conflict {
    pub rules: Vec<String>,
    /// Whether it was proved that no conflict has fewer rules.
    pub smallest: bool,
    pub sentence: String,
}

/// All conflicts of a cluster's rules.
///
/// # Errors
/// As [`Cluster::build`].
pub fn conflicts(snapshot: &ClusterSnapshot) -> Result<Vec<Conflict>, SnapshotError> {
    Cluster::build(snapshot)?;
    let (problem, rules) = problem(snapshot)?;
    let mut found = Vec::new();
    for component in components(&problem) {
        found.extend(conflicts_among(&problem, &rules, component));
    }
    Ok(found)
}

/// The conflicts that a rule would bring that is not yet in the snapshot, or is there under the
/// same name and would change.
///
/// # Errors
/// As [`Cluster::build`].
pub fn conflicts_with(
    snapshot: &ClusterSnapshot,
    rule: &Rule,
) -> Result<Vec<Conflict>, SnapshotError> {
    let mut changed = snapshot.clone();
    changed.rules.retain(|other| other.name != rule.name);
    changed.rules.push(rule.clone());
    let all = conflicts(&changed)?;
    Ok(all.into_iter().filter(|conflict| conflict.rules.contains(&rule.name)).collect())
}

/// The `must` rules as constraints, and which rule each comes from.
fn problem(snapshot: &ClusterSnapshot) -> Result<(Problem, Vec<&Rule>), SnapshotError> {
    let hosts = &snapshot.hosts;
    let mut scopes: Vec<Option<&String>> = vec![None];
    let mut places: Vec<Vec<Option<usize>>> = vec![(0..hosts.len()).map(Some).collect()];
    let (mut constraints, mut rules) = (Vec::new(), Vec::new());
    let (mut names, mut position) = (Vec::new(), HashMap::new());
    for rule in snapshot.rules.iter().filter(|rule| rule.strength == Strength::Must) {
        let missing = |group: &str| SnapshotError::NoSuchGroup {
            rule: rule.name.clone(),
            group: group.to_owned(),
        };
        let members = Members::of(rule.kind.vms(), &snapshot.vm_groups).map_err(missing)?;
        let selected = snapshot.vms.iter().filter(|vm| members.select(&vm.name, &vm.labels));
        let vms: Vec<usize> = selected
            .map(|vm| {
                *position.entry(vm.name.as_str()).or_insert_with(|| {
                    names.push(vm.name.clone());
                    names.len() - 1
                })
            })
            .collect();
        let scope = match rule.kind.scope() {
            None | Some(Scope::Host) => 0,
            Some(Scope::Label(label)) => {
                let known = scopes.iter().position(|own| *own == Some(label));
                known.unwrap_or_else(|| {
                    let mut numbers = BTreeMap::new();
                    let of = hosts.iter().map(|host| {
                        let value = host.labels.get(label)?;
                        let next = numbers.len();
                        Some(*numbers.entry(value).or_insert(next))
                    });
                    places.push(of.collect());
                    scopes.push(Some(label));
                    scopes.len() - 1
                })
            }
        };
        let constraint = match &rule.kind {
            RuleKind::Affinity { .. } => Constraint::Together { vms, scope },
            RuleKind::AntiAffinity { .. } => Constraint::Apart { vms, scope },
            RuleKind::RunOn { hosts: selector, .. }
            | RuleKind::NotRunOn { hosts: selector, .. } => {
                let wanted = matches!(rule.kind, RuleKind::RunOn { .. });
                let of = Members::of(selector, &snapshot.host_groups).map_err(missing)?;
                let mut allowed = Bits::none(hosts.len());
                for (at, host) in hosts.iter().enumerate() {
                    if of.select(&host.name, &host.labels) == wanted {
                        allowed.insert(at);
                    }
                }
                Constraint::On { vms, allowed }
            }
        };
        constraints.push(constraint);
        rules.push(rule);
    }
    let problem = Problem { vms: names, hosts: hosts.len(), places, constraints };
    Ok((problem, rules))
}

/// Rules that have VMs in common, directly or through others.
fn components(problem: &Problem) -> Vec<Vec<usize>> {
    let mut component_of: Vec<usize> = (0..problem.constraints.len()).collect();
    let mut first_with: HashMap<usize, usize> = HashMap::new();
    // Union by path halving: rules are up to thousands.
    fn root(of: &mut [usize], mut at: usize) -> usize {
        while of[at] != at {
            of[at] = of[of[at]];
            at = of[at];
        }
        at
    }
    for (at, constraint) in problem.constraints.iter().enumerate() {
        for vm in constraint.vms() {
            let other = *first_with.entry(*vm).or_insert(at);
            let (a, b) = (root(&mut component_of, at), root(&mut component_of, other));
            component_of[a.max(b)] = a.min(b);
        }
    }
    let mut components: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for at in 0..component_of.len() {
        components.entry(root(&mut component_of, at)).or_default().push(at);
    }
    components.into_values().collect()
}

fn conflicts_among(problem: &Problem, rules: &[&Rule], mut active: Vec<usize>) -> Vec<Conflict> {
    let mut found = Vec::new();
    while found.len() < MOST_CONFLICTS && matches!(problem.solve(&active), Verdict::Impossible(_)) {
        let mut core = active.clone();
        for at in &active {
            let without: Vec<_> = core.iter().copied().filter(|other| other != at).collect();
            if matches!(problem.solve(&without), Verdict::Impossible(_)) {
                core = without;
            }
        }
        let (core, smallest) = smaller(problem, &active, core);
        let Verdict::Impossible(reason) = problem.solve(&core) else { break };
        let names: Vec<_> = core.iter().map(|at| rules[*at].name.clone()).collect();
        let sentence = match names.as_slice() {
            [one] => format!("rule `{one}` cannot hold: {reason}; change it, or the hosts"),
            all => {
                let all: Vec<_> = all.iter().map(|name| format!("`{name}`")).collect();
                format!(
                    "rules {} cannot hold together: {reason}; change or remove one of them",
                    all.join(", ")
                )
            }
        };
        found.push(Conflict { rules: names, smallest, sentence });
        // Whatever conflicts besides does so without one of these.
        let last = core.last().copied();
        active.retain(|at| Some(*at) != last);
    }
    found
}

/// A conflict of fewer rules, if one is found within [`MOST_SUBSETS`]; and whether all smaller ones
/// were looked at.
fn smaller(problem: &Problem, active: &[usize], core: Vec<usize>) -> (Vec<usize>, bool) {
    let mut tried = 0;
    for size in 1..core.len() {
        let mut chosen: Vec<usize> = (0..size).collect();
        if size > active.len() {
            break;
        }
        loop {
            tried += 1;
            if tried > MOST_SUBSETS {
                return (core, false);
            }
            let subset: Vec<_> = chosen.iter().map(|at| active[*at]).collect();
            match problem.solve(&subset) {
                Verdict::Impossible(_) => return (subset, true),
                Verdict::Unknown => return (core, false),
                Verdict::Possible => {}
            }
            // The next combination in lexicographic order.
            let end = active.len();
            let Some(at) = (0..size).rev().find(|at| chosen[*at] < end - size + at) else { break };
            chosen[at] += 1;
            for next in at + 1..size {
                chosen[next] = chosen[next - 1] + 1;
            }
        }
    }
    (core, true)
}
