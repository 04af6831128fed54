//! The answer of a simulation, for people.

use std::collections::HashMap;

use hostler_policy::balance::Why;
use hostler_policy::cluster::ClusterSnapshot;
use hostler_policy::whatif::Answer;
use hostler_types::{HostId, VmId, counted};

use crate::error::CliError;
use crate::output::{Output, print as print_text};
use crate::table::{Cell, Tone, render};

/// Names of the edited inventory.
struct Known<'a> {
    hosts: HashMap<HostId, &'a str>,
    vms: HashMap<VmId, &'a str>,
}

impl<'a> Known<'a> {
    fn of(snapshot: &'a ClusterSnapshot) -> Self {
        Self {
            hosts: snapshot.hosts.iter().map(|host| (host.id, host.name.as_str())).collect(),
            vms: snapshot.vms.iter().map(|vm| (vm.id, vm.name.as_str())).collect(),
        }
    }

    fn host(&self, id: HostId) -> String {
        self.hosts.get(&id).map_or_else(|| id.to_string(), |name| (*name).to_owned())
    }

    fn vm(&self, id: VmId) -> String {
        self.vms.get(&id).map_or_else(|| id.to_string(), |name| (*name).to_owned())
    }
}

pub(super) fn print(
    output: &Output,
    after: &ClusterSnapshot,
    answer: &Answer,
) -> Result<(), CliError> {
    let known = Known::of(after);
    sentences(answer)?;
    let mut rows = Vec::new();
    for placed in &answer.placed {
        rows.push(vec![
            Cell::new("start"),
            Cell::new(known.vm(placed.vm)),
            Cell::new(""),
            Cell::new(known.host(placed.host)),
            Cell::new("it has no host"),
        ]);
    }
    for (number, step) in (1_usize..).zip(&answer.plan.steps) {
        for one in &step.moves {
            rows.push(vec![
                Cell::new(format!("move {number}")),
                Cell::new(known.vm(one.vm)),
                Cell::new(known.host(one.from)),
                Cell::new(known.host(one.to)),
                Cell::new(&step.reason),
            ]);
        }
    }
    for misfit in &answer.misfits {
        let nowhere = Cell::new("nowhere").tone(Tone::Bad);
        let (name, why) = (Cell::new(&misfit.name), Cell::new(&misfit.why));
        rows.push(vec![Cell::new("start"), name, Cell::new(""), nowhere, why]);
    }
    for blocked in &answer.plan.blocked {
        let vms: Vec<_> = blocked.vms.iter().map(|vm| known.vm(*vm)).collect();
        rows.push(vec![
            Cell::new(called(blocked.why)),
            Cell::new(vms.join(",")),
            Cell::new(""),
            Cell::new("nowhere").tone(Tone::Bad),
            Cell::new(&blocked.reason),
        ]);
    }
    if !rows.is_empty() {
        let header = ["WHAT", "VM", "FROM", "TO", "WHY"];
        print_text(&render(&header, &rows, output.is_colored()))?;
    }
    print_text(&(summary(answer) + "\n"))?;
    for headroom in &answer.headroom {
        let then = headroom.then.as_ref();
        let then = then.map(|then| format!("; then {then}")).unwrap_or_default();
        let line = format!("headroom: {} more of {}{then}", headroom.count, headroom.name);
        print_text(&(crate::sanitise::line(&line) + "\n"))?;
    }
    Ok(())
}

/// Conflicts and violations.
fn sentences(answer: &Answer) -> Result<(), CliError> {
    let conflicts =
        answer.conflicts.iter().map(|conflict| format!("conflict: {}", conflict.sentence));
    let violations = answer.violations.iter();
    let violations = violations.map(|violation| format!("violation: {}", violation.sentence));
    for line in conflicts.chain(violations) {
        print_text(&(crate::sanitise::line(&line) + "\n"))?;
    }
    Ok(())
}

fn summary(answer: &Answer) -> String {
    let count = |count: usize, what| counted(i64::try_from(count).unwrap_or(i64::MAX), what);
    let moves: usize = answer.plan.steps.iter().map(|step| step.moves.len()).sum();
    let blocked: usize = answer.plan.blocked.iter().map(|blocked| blocked.vms.len()).sum();
    format!(
        "{} started, {} in {}, {} would not fit",
        count(answer.placed.len(), "VM"),
        count(moves, "move"),
        count(answer.plan.steps.len(), "step"),
        count(answer.misfits.len() + blocked, "VM"),
    )
}

fn called(why: Why) -> &'static str {
    match why {
        Why::Maintenance => "leave",
        Why::Rule => "rule",
        Why::Load => "load",
        Why::Room => "room",
        Why::Wanted => "move",
    }
}
