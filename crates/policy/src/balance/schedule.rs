//! Which steps wait for which, and which can be made at once.
//!
//! The planner's order is allowed as it stands. Here each step gets the earlier ones that it really
//! needs, so that any set of steps that is closed under "after" can be carried out, in any order
//! that respects it, with a VM in motion counted on both hosts.
//!
//! Room: a step may go to a host if all arrivals there up to it in the plan's order fit beside what
//! was there at the beginning, less the departures that it waits for. Whichever arrivals are
//! present, those of the latest of them have been counted, and the departures that it waits for
//! are done. Rules that keep apart: an arrival waits for the departure of each member that was in
//! the place before. Rules that keep together: steps with members are made one after the other.

use std::collections::{BTreeSet, HashMap};

use super::planner::{Draft, seconds};
use super::{BalanceSettings, Move, Step};
use crate::cluster::{Automation, Cluster, Size};

/// Room on the hosts before the first step.
#[derive(Debug)]
pub(super) struct Beginning {
    free: Vec<Size>,
}

impl Beginning {
    pub(super) fn of(cluster: &Cluster) -> Self {
        Self { free: cluster.room.iter().map(|room| room.free).collect() }
    }
}

/// What has gone to and from a host in the steps so far.
#[derive(Debug, Default)]
struct Traffic {
    arrived: Size,
    departed: Vec<(usize, Size)>,
}

#[derive(Debug, Default)]
struct Waits {
    traffic: HashMap<u32, Traffic>,
    last_of_vm: HashMap<u32, usize>,
    /// By rule and place: the steps in which members left.
    left: HashMap<(u32, u32), Vec<usize>>,
    last_of_rule: HashMap<u32, usize>,
}

pub(super) fn schedule(
    beginning: &Beginning,
    cluster: &Cluster,
    settings: &BalanceSettings,
    drafts: Vec<Draft>,
) -> Vec<Step> {
    let mut waits = Waits::default();
    let mut slots = Slots::default();
    let mut steps: Vec<Step> = Vec::with_capacity(drafts.len());
    for (position, draft) in drafts.into_iter().enumerate() {
        let after = waits.before(beginning, cluster, position, &draft);
        let earliest = after.iter().map(|step| steps[*step].wave + 1).max().unwrap_or(0);
        let wave = slots.book(cluster, settings, &draft, earliest);
        let id = |host: u32| cluster.hosts[host as usize].id;
        let automation =
            |vm: &u32| cluster.vms[*vm as usize].automation.unwrap_or(settings.automation);
        steps.push(Step {
            moves: (draft.vms.iter())
                .map(|vm| Move {
                    vm: cluster.vms[*vm as usize].id,
                    from: id(draft.from),
                    to: id(draft.to),
                })
                .collect(),
            why: draft.why,
            after: after.into_iter().collect(),
            wave,
            automatic: draft.vms.iter().all(|vm| automation(vm) == Automation::Full),
            seconds: draft.vms.iter().map(|vm| seconds(cluster, *vm, settings)).sum(),
            reason: draft.reason,
            gain: draft.gain,
        });
    }
    steps
}

impl Waits {
    /// The steps that one waits for; and notes this one.
    fn before(
        &mut self,
        beginning: &Beginning,
        cluster: &Cluster,
        position: usize,
        draft: &Draft,
    ) -> BTreeSet<usize> {
        let mut after = BTreeSet::new();
        let mut size: Size = [0; 4];
        for vm in &draft.vms {
            let item = &cluster.vms[*vm as usize].item;
            size.iter_mut().zip(item.size).for_each(|(sum, own)| *sum += own);
            after.extend(self.last_of_vm.insert(*vm, position));
            for rule in &item.rules {
                let between = &cluster.rules.between[*rule as usize];
                if !between.must {
                    continue;
                }
                if between.together {
                    let last = self.last_of_rule.insert(*rule, position);
                    after.extend(last.filter(|last| *last != position));
                } else {
                    let scope = &cluster.rules.scopes[between.scope];
                    let to = scope.place(draft.to as usize);
                    let from = scope.place(draft.from as usize);
                    if to != from {
                        after.extend(self.left.get(&(*rule, to)).into_iter().flatten());
                        self.left.entry((*rule, from)).or_default().push(position);
                    }
                }
            }
        }
        let traffic = self.traffic.entry(draft.to).or_default();
        let free = beginning.free[draft.to as usize];
        let done = |after: &BTreeSet<usize>, of: usize| {
            let departed = traffic.departed.iter().filter(|(step, _)| after.contains(step));
            departed.map(|(_, size)| size[of]).sum::<i64>()
        };
        for of in 0..4 {
            let mut lacking = traffic.arrived[of] + size[of] - free[of] - done(&after, of);
            if size[of] == 0 {
                continue;
            }
            for (step, departed) in &traffic.departed {
                if lacking <= 0 {
                    break;
                }
                if departed[of] > 0 && after.insert(*step) {
                    lacking -= departed[of];
                }
            }
        }
        traffic.arrived.iter_mut().zip(size).for_each(|(sum, own)| *sum += own);
        self.traffic.entry(draft.from).or_default().departed.push((position, size));
        after
    }
}

/// Who migrates when: by wave, how many migrations a host and a link have.
#[derive(Debug, Default)]
struct Slots {
    hosts: HashMap<(u32, u32), u16>,
    links: HashMap<(u32, u32), u16>,
}

impl Slots {
    /// The first wave from `earliest` on with free slots. A step of more VMs than the limit gets a
    /// wave of its own at its hosts.
    fn book(
        &mut self,
        cluster: &Cluster,
        settings: &BalanceSettings,
        draft: &Draft,
        earliest: u32,
    ) -> u32 {
        let count = u16::try_from(draft.vms.len()).unwrap_or(u16::MAX);
        let hosts = [draft.from, draft.to];
        let mut links = hosts.map(|host| cluster.hosts[host as usize].link).to_vec();
        links.dedup();
        let mut wave = earliest;
        loop {
            let free = |slots: &HashMap<(u32, u32), u16>, key: u32, most: u16| {
                let used = slots.get(&(wave, key)).copied().unwrap_or(0);
                used == 0 || used.saturating_add(count) <= most
            };
            let possible =
                hosts.iter().all(|host| free(&self.hosts, *host, settings.moves_per_host))
                    && links.iter().all(|link| free(&self.links, *link, settings.moves_per_link));
            if possible {
                break;
            }
            wave += 1;
        }
        let book = |slots: &mut HashMap<(u32, u32), u16>, key: u32| {
            let used = slots.entry((wave, key)).or_default();
            *used = used.saturating_add(count);
        };
        hosts.iter().for_each(|host| book(&mut self.hosts, *host));
        links.iter().for_each(|link| book(&mut self.links, *link));
        wave
    }
}
