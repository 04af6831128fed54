//! What would happen: the decisions of this crate on a cluster that has been edited.
//!
//! Question and answer are plain data, so that they can be files. Nothing here decides by itself:
//! VMs without a host are placed, what is left is balanced, and what does not fit is told with the
//! reasons that placement gives.

use hostler_types::{HostId, VmId, cpu};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::balance::{BalanceSettings, Plan, balance};
use crate::cluster::{Cluster, ClusterSnapshot, ClusterVm, HostCondition, SnapshotError};
use crate::placement::{Choosing, Placed, place_all, place_listed};
use crate::rules::{Conflict, Rule, Violation, conflicts, violations};

/// Copies of one VM that headroom counts at most.
const MOST_HEADROOM: usize = 100_000;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    pub snapshot: ClusterSnapshot,
    /// In this order.
    #[serde(default)]
    pub edits: Vec<Edit>,
    #[serde(default)]
    pub balance: BalanceSettings,
    /// VMs of which it is asked how many more would fit; ids, names and hosts are not looked at.
    #[serde(default)]
    pub headroom: Vec<ClusterVm>,
}

/// A change that is tried. Hosts, VMs and rules are told by name.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Edit {
    /// Their VMs leave them; then they are no part of the cluster.
    RemoveHosts(Vec<String>),
    /// They stop at once: their VMs start elsewhere, if their datastore is reached there.
    FailHosts(Vec<String>),
    /// More hosts that are as this one is.
    AddHosts {
        like: String,
        count: usize,
    },
    /// VMs of this size, named `NAME-1` and so on.
    AddVms {
        vm: Box<ClusterVm>,
        count: usize,
    },
    /// Takes the place of the rule of that name, if there is one.
    SetRule(Rule),
    RemoveRule(String),
    /// In MHz and bytes; absent: as it is.
    Reserve {
        vms: Vec<String>,
        #[serde(default)]
        cpu: Option<u64>,
        #[serde(default)]
        memory: Option<hostler_types::ByteSize>,
    },
    /// CPU features; a model's name stands for all of its.
    Baseline(Vec<String>),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    pub conflicts: Vec<Conflict>,
    /// Before anything moves.
    pub violations: Vec<Violation>,
    /// VMs that had no host.
    pub placed: Vec<Placed>,
    pub misfits: Vec<Misfit>,
    pub plan: Plan,
    pub headroom: Vec<Headroom>,
}

/// A VM that is left without a host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Misfit {
    pub vm: VmId,
    pub name: String,
    pub why: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Headroom {
    pub name: String,
    /// How many more fit, one after the other, after all moves; at most 100,000 are counted.
    pub count: usize,
    /// Why no more do.
    pub then: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WhatIfError {
    #[error("edit {edit}: there is no {kind} `{name}`; use a name of the snapshot")]
    Unknown { edit: usize, kind: &'static str, name: String },
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
}

/// Answers a question.
///
/// # Errors
/// If an edit names what is not there, or the edited snapshot makes no sense.
pub fn simulate(question: &Question) -> Result<Answer, WhatIfError> {
    let snapshot = edited(&question.snapshot, &question.edits)?;
    let conflicts = conflicts(&snapshot)?;
    let mut cluster = Cluster::build(&snapshot)?;
    let broken = violations(&cluster);
    let seed = question.balance.seed;
    let (placed, misfits) = place_homeless(&mut cluster, seed);
    let plan = balance(&mut cluster, &question.balance);
    let headroom = question.headroom.iter().map(|vm| headroom(&cluster, vm, seed));
    let headroom = headroom.collect();
    Ok(Answer { conflicts, violations: broken, placed, misfits, plan, headroom })
}

/// VMs that have no host: each gets the best that it can have, the largest first.
fn place_homeless(cluster: &mut Cluster, seed: u64) -> (Vec<Placed>, Vec<Misfit>) {
    let (mut placed, mut misfits) = (Vec::new(), Vec::new());
    let mut homeless: Vec<u32> =
        (0..).zip(&cluster.vms).filter(|(_, vm)| vm.host.is_none()).map(|(at, _)| at).collect();
    homeless.sort_by_key(|vm| (std::cmp::Reverse(cluster.vms[*vm as usize].item.size), *vm));
    for vm in homeless {
        let seed = seed.wrapping_add(u64::from(vm));
        match place_listed(cluster, &[vm], Choosing::seeded(seed)) {
            Ok(own) => placed.extend(own),
            Err(refusal) => {
                let facts = &cluster.vms[vm as usize];
                let (vm, name) = (facts.id, facts.name.clone());
                misfits.push(Misfit { vm, name, why: refusal.to_string() });
            }
        }
    }
    (placed, misfits)
}

fn headroom(cluster: &Cluster, vm: &ClusterVm, seed: u64) -> Headroom {
    let mut cluster = cluster.clone();
    let (mut count, mut then) = (0, None);
    while count < MOST_HEADROOM {
        let number = count as u128;
        let copy = ClusterVm {
            // Ids of time are below it: the version bits of these say that they are made up.
            id: VmId::from_uuid(Uuid::from_u128(u128::MAX - number)),
            name: format!("{}-{}", vm.name, count + 1),
            host: None,
            ..vm.clone()
        };
        let choosing = Choosing::seeded(seed.wrapping_add(count as u64));
        if let Err(refusal) = place_all(&mut cluster, &[copy], choosing) {
            then = Some(refusal.to_string());
            break;
        }
        count += 1;
    }
    Headroom { name: vm.name.clone(), count, then }
}

/// The snapshot with the edits made.
///
/// # Errors
/// If an edit names what is not there.
pub fn edited(snapshot: &ClusterSnapshot, edits: &[Edit]) -> Result<ClusterSnapshot, WhatIfError> {
    let mut after = snapshot.clone();
    for (position, edit) in edits.iter().enumerate() {
        apply(&mut after, edit).map_err(|(kind, name)| WhatIfError::Unknown {
            edit: position + 1,
            kind,
            name: name.to_owned(),
        })?;
    }
    Ok(after)
}

type Missing<'a> = (&'static str, &'a str);

fn apply<'a>(snapshot: &mut ClusterSnapshot, edit: &'a Edit) -> Result<(), Missing<'a>> {
    match edit {
        Edit::RemoveHosts(names) => {
            for name in names {
                host(snapshot, name)?.condition = HostCondition::Maintenance;
            }
        }
        Edit::FailHosts(names) => {
            for name in names {
                let failed = host(snapshot, name)?;
                failed.condition = HostCondition::Disconnected;
                let failed = failed.id;
                for vm in snapshot.vms.iter_mut().filter(|vm| vm.host == Some(failed)) {
                    vm.host = None;
                    // Its disks are there; only a VM that never had one may go anywhere.
                    vm.disks.clear();
                }
            }
        }
        Edit::AddHosts { like, count } => {
            let pattern = host(snapshot, like)?.clone();
            let mut last = snapshot.hosts.iter().map(|host| host.id.uuid().as_u128()).max();
            for number in 1..=*count {
                let mut added = pattern.clone();
                let id = last.unwrap_or(0).wrapping_add(1);
                last = Some(id);
                added.id = HostId::from_uuid(Uuid::from_u128(id));
                added.name = format!("{like}-more-{number}");
                added.condition = HostCondition::Available;
                added.deficit = crate::cluster::Demand::default();
                (added.promised_cpus, added.promised_memory) = (0, hostler_types::ByteSize(0));
                snapshot.hosts.push(added);
            }
        }
        Edit::AddVms { vm, count } => {
            let mut last = snapshot.vms.iter().map(|vm| vm.id.uuid().as_u128()).max();
            for number in 1..=*count {
                let id = last.unwrap_or(0).wrapping_add(1);
                last = Some(id);
                snapshot.vms.push(ClusterVm {
                    id: VmId::from_uuid(Uuid::from_u128(id)),
                    name: format!("{}-{number}", vm.name),
                    host: None,
                    ..ClusterVm::clone(vm)
                });
            }
        }
        Edit::SetRule(rule) => match snapshot.rules.iter_mut().find(|own| own.name == rule.name) {
            Some(own) => *own = rule.clone(),
            None => snapshot.rules.push(rule.clone()),
        },
        Edit::RemoveRule(name) => {
            let before = snapshot.rules.len();
            snapshot.rules.retain(|rule| rule.name != *name);
            if snapshot.rules.len() == before {
                return Err(("rule", name));
            }
        }
        Edit::Reserve { vms, cpu, memory } => {
            for name in vms {
                let found = snapshot.vms.iter_mut().find(|vm| vm.name == *name);
                let vm = found.ok_or(("vm", name.as_str()))?;
                vm.cpu_reservation = cpu.unwrap_or(vm.cpu_reservation);
                vm.memory_reservation = memory.unwrap_or(vm.memory_reservation);
            }
        }
        Edit::Baseline(features) => {
            let each = features.iter().flat_map(|one| match cpu::model(one) {
                Some(model) => model.features.iter().map(|own| (*own).to_owned()).collect(),
                None => vec![one.clone()],
            });
            snapshot.settings.baseline = each.collect();
        }
    }
    Ok(())
}

fn host<'s, 'a>(
    snapshot: &'s mut ClusterSnapshot,
    name: &'a str,
) -> Result<&'s mut crate::cluster::ClusterHost, Missing<'a>> {
    snapshot.hosts.iter_mut().find(|host| host.name == name).ok_or(("host", name))
}
