//! The order of moves that are all wanted, so that every state on the way is allowed.
//!
//! What can go now goes. If nothing can, the VMs left wait for each other in a cycle, and one of
//! them steps aside to a spare host that can take it, and from there to its own later.

use super::planner::Planner;
use super::{BalanceSettings, Plan, Why, schedule};
use crate::cluster::{Cluster, HostIndex, VmIndex};
use crate::placement::Choosing;

/// A VM, and the host on which it shall be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    pub vm: VmIndex,
    pub host: HostIndex,
}

/// There is no order; these would be left.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} VMs wait for each other and no spare host can take one of them; free a host, or want fewer moves at once", .0.len())]
pub struct Unordered(pub Vec<Wanted>);

/// Steps to what is wanted. The cluster is left as it is afterwards, or as it was.
///
/// # Errors
/// If some of the moves wait for each other, and stepping aside does not help.
pub fn order(
    cluster: &mut Cluster,
    settings: &BalanceSettings,
    wanted: &[Wanted],
) -> Result<Plan, Unordered> {
    let before = super::measure(cluster, settings);
    let beginning = schedule::Beginning::of(cluster);
    let mut planner = Planner::new(cluster, settings);
    let moves = planner.units_wanted(wanted);
    let left = planner.sequence(moves, &|_| (Why::Wanted, "asked for".to_owned(), 0.0));
    if !left.is_empty() {
        let vms = left.iter().flat_map(|(unit, to)| unit.iter().map(move |vm| (*vm, *to)));
        let left = vms.map(|(vm, to)| Wanted { vm: VmIndex(vm), host: HostIndex(to) }).collect();
        planner.undo_to(0);
        return Err(Unordered(left));
    }
    let (drafts, blocked) = planner.finish();
    let steps = schedule::schedule(&beginning, cluster, settings, drafts);
    Ok(Plan { steps, blocked, before, after: super::measure(cluster, settings) })
}

/// What a unit moves for: kind, sentence, gain.
type Told<'a> = dyn Fn(&[u32]) -> (Why, String, f64) + 'a;

impl Planner<'_> {
    /// What is wanted, by VMs that go together.
    fn units_wanted(&self, wanted: &[Wanted]) -> Vec<(Vec<u32>, u32)> {
        let mut units: Vec<(Vec<u32>, u32)> = Vec::new();
        for Wanted { vm, host } in wanted {
            let there = self.cluster.vms[vm.0 as usize].host == Some(host.0);
            if there || units.iter().any(|(unit, _)| unit.contains(&vm.0)) {
                continue;
            }
            let mut unit = self.unit(vm.0);
            // Those of its unit that are wanted elsewhere do not go with it.
            unit.retain(|own| {
                let other = wanted.iter().find(|other| other.vm.0 == *own);
                other.is_none_or(|other| other.host == *host)
            });
            units.push((unit, host.0));
        }
        units
    }

    /// Makes the moves in an order that is allowed; answers those that it could not make.
    pub(super) fn sequence(
        &mut self,
        mut pending: Vec<(Vec<u32>, u32)>,
        told: &Told<'_>,
    ) -> Vec<(Vec<u32>, u32)> {
        let mut aside: Vec<u32> = Vec::new();
        while !pending.is_empty() {
            if let Some(at) =
                (0..pending.len()).find(|at| self.can_go(&pending[*at].0, pending[*at].1))
            {
                let (unit, to) = pending.remove(at);
                let (why, reason, gain) = told(&unit);
                self.step(unit, to, why, reason, gain);
                continue;
            }
            // Whoever is in the way of the others steps aside, once.
            let spare = pending.iter().find_map(|(unit, to)| {
                let first = unit[0];
                let spare = if aside.contains(&first) { None } else { self.spare(unit, *to)? };
                spare.map(|spare| (unit.clone(), spare))
            });
            let Some((unit, spare)) = spare else { break };
            aside.push(unit[0]);
            let (why, reason, _) = told(&unit);
            let name = self.cluster.name_of(spare).to_owned();
            let reason =
                format!("{reason}; steps aside to host `{name}`, for others wait for its place");
            self.step(unit, spare, why, reason, 0.0);
        }
        pending
    }

    fn can_go(&mut self, unit: &[u32], to: u32) -> bool {
        let Some(from) = self.cluster.vms[unit[0] as usize].host else { return false };
        let item = self.item(unit);
        self.lift(unit);
        let allowed = self.cluster.hosts_of_all(&item.classes).has(to as usize)
            && self.cluster.fits(&item, to as usize);
        self.put(unit, from);
        allowed
    }

    /// A host where a unit can wait. `None` in it: there is none for this unit.
    fn spare(&mut self, unit: &[u32], to: u32) -> Option<Option<u32>> {
        let from = self.cluster.vms[unit[0] as usize].host?;
        let item = self.item(unit);
        self.lift(unit);
        let mut hosts = self.hosts_but(&item, from);
        let mut not = crate::cluster::Bits::none(self.cluster.hosts.len());
        not.insert(to as usize);
        hosts.and_not(&not);
        let spot = self.cluster.choose_among(&item, &hosts, Choosing::seeded(self.seed()));
        self.put(unit, from);
        Some(spot.map(|spot| spot.host))
    }
}
