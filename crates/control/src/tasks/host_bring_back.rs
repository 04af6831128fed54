//! `host.bring_back`: VMs that left a host for its maintenance come back to it.
//!
//! 1. `move`: each that is somewhere else and may run on the host, with those that a rule keeps it
//!    together with, as far as the world allows it when
//!    its turn comes; see [`super::moves`]. What cannot come is told, and stays where it is.
//!    Undone, when it is cancelled, as it ends: those who have not come stay where they are.
//! 2. `note`: the host no longer remembers who had left.
//!
//! That the host takes VMs again was done when this was asked for, and is not undone.

use std::collections::BTreeMap;
use std::sync::Arc;

use hostler_store::Write;
use hostler_tasks::{Definition, Outcome, Step as TaskStep, StepError, StepResult};
use hostler_types::{
    DrsOutcome, GroupKind, Host, HostId, HostKind, PlannedMove, PlannedStep, Ref, RuleKind,
    RuleRelation, RuleStrength, Selector, Vm, VmId, VmKind,
};
use serde::{Deserialize, Serialize};

use super::command::Step;
use super::moves::{Retry, carry_out};
use crate::inventory::Snapshot;
use crate::services::Order;
use crate::world::Core;

/// What the tasks of this file are called.
pub(crate) const ACTION: &str = "host.bring_back";

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Input {
    host: HostId,
    steps: Vec<PlannedStep>,
}

pub(crate) fn definition() -> Definition<Core> {
    Definition::new(ACTION)
        .step(TaskStep::new("move", move_).undo(note))
        .step(TaskStep::new("note", note))
}

pub(crate) fn order(snapshot: &Snapshot, host: &Host) -> Order {
    let back = units(snapshot, host).into_iter().map(|unit| returning(host, unit));
    Order::new(ACTION, host, &Input { host: host.id(), steps: back.collect() })
}

/// What comes back together: VMs that a rule keeps in one place can only go there as one. Such a VM comes along
/// even if it did not leave this host. Those that are gone, there already, or could not run are left out.
fn units(snapshot: &Snapshot, host: &Host) -> Vec<Vec<PlannedMove>> {
    let evacuated = host.status.evacuated.iter().filter_map(|vm| snapshot.get::<VmKind>(*vm));
    let can_run = |vm: &Vm| !vm.is_recycled() && !vm.is_template();
    let back = evacuated.filter(|vm| vm.status.host != host.id() && can_run(vm));
    let mut waiting: BTreeMap<VmId, HostId> = back.map(|vm| (vm.id(), vm.status.host)).collect();
    let rules = snapshot.all::<RuleKind>().iter();
    let together = rules.filter(|rule| {
        (rule.spec.relation, rule.spec.strength) == (RuleRelation::Affinity, RuleStrength::Must)
    });
    let together: Vec<_> = together.collect();
    let mut units = Vec::new();
    while let Some((first, from)) = waiting.pop_first() {
        let mut unit = vec![first];
        let beside: Vec<&Arc<Vm>> =
            if together.is_empty() { Vec::new() } else { snapshot.vms_on(from).collect() };
        let mut at = 0;
        while let Some(vm) = unit.get(at).and_then(|id| snapshot.get::<VmKind>(*id)) {
            at += 1;
            for rule in together.iter().filter(|rule| selects(snapshot, &rule.spec.vms, vm)) {
                let members = beside.iter().filter(|other| can_run(other));
                let members = members.filter(|other| selects(snapshot, &rule.spec.vms, other));
                for other in members.map(|other| other.id()) {
                    if !unit.contains(&other) {
                        waiting.remove(&other);
                        unit.push(other);
                    }
                }
            }
        }
        let to = host.id();
        units.push(unit.into_iter().map(|vm| PlannedMove { vm, from, to }).collect());
    }
    units
}

fn selects(snapshot: &Snapshot, selector: &Selector, vm: &Vm) -> bool {
    match selector {
        // They are stored as ids.
        Selector::Names(names) => names.contains(&Ref::by_id(vm.id())),
        Selector::Labels(labels) => {
            let own = &vm.metadata.labels;
            labels.iter().all(|(key, value)| own.get(key) == Some(value))
        }
        Selector::Group(group) => {
            let group = snapshot.find::<GroupKind>(group);
            group.is_ok_and(|group| match &group.spec.members {
                // Groups hold no groups.
                Selector::Group(_) => false,
                members => selects(snapshot, members, vm),
            })
        }
    }
}

fn returning(host: &Host, moves: Vec<PlannedMove>) -> PlannedStep {
    PlannedStep {
        // One move a VM: nothing else needs to be told apart.
        id: "back".to_owned(),
        moves,
        why: "maintenance".to_owned(),
        reason: format!("host `{}` is no longer in maintenance", host.name()),
        gain: 0.0,
        after: Vec::new(),
    }
}

async fn move_(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let made = carry_out(&step, &input.steps, Retry::Never).await?;
    let count = |moved: bool| {
        let each = input.steps.iter().zip(&made);
        let each = each.filter(|(_, one)| !moved || one.outcome == DrsOutcome::Moved);
        each.map(|(step, _)| step.moves.len()).sum::<usize>()
    };
    step.message(format!("{} of {} VMs came back", count(true), count(false)));
    Ok(Outcome::none())
}

async fn note(step: Step) -> StepResult {
    let input: Input = step.input()?;
    let host = step.world().stored::<HostKind>(input.host).await?;
    let mut host = host.ok_or_else(|| StepError::failed("not_found", "the host is gone"))?;
    host.status.evacuated.clear();
    Ok(Outcome::none().with(Write::update(&host)))
}
