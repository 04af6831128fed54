//! What balancing would do now: the inventory with what was measured, the cluster's settings, and the
//! plan that `policy` makes of them. Nothing here moves anything.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use hostler_policy::balance::{self, Balance, BalanceSettings, Plan, Step, Why};
use hostler_policy::cluster::{Automation, Cluster, ClusterSnapshot};
use hostler_policy::record::Record;
use hostler_policy::rules::{Strength, violations};
use hostler_store::NewDecision;
use hostler_types::{
    BlockedMove, ClusterBalance, ClusterSpec, DecidedVm, DecisionId, HostId, HostKind, PlannedMove,
    PlannedStep, Recommendation, RecommendedMove, VmId, VmKind,
};
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use crate::error::ServiceError;
use crate::inventory::Snapshot;
use crate::placement;
use crate::pools::demand::Demands;
use crate::world::Core;

/// A plan's record is kept of clusters of up to so many VMs: it holds all of them, some 500 bytes each.
const MOST_RECORDED: usize = 2_000;

/// A plan, and the inventory that it was made from.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) settings: BalanceSettings,
    pub(crate) plan: Plan,
    pub(crate) before: ClusterBalance,
    pub(crate) expected: ClusterBalance,
    input: ClusterSnapshot,
}

/// What a plan is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum For {
    Balance,
    /// This host is to be empty, whether it is in maintenance already or not. Only what must be is done
    /// for it.
    Maintenance(HostId),
}

/// Plans on the inventory as it is now.
///
/// # Errors
/// `internal`: a mistake of ours.
pub(crate) async fn plan(core: &Core, what: For) -> Result<Planned, ServiceError> {
    let snapshot = core.snapshot();
    let (measured, now) = (core.demands.clone(), Timestamp::now());
    let planned = tokio::task::spawn_blocking(move || {
        let spec = snapshot.cluster().map(|cluster| cluster.spec.clone()).unwrap_or_default();
        let mut settings = settings(&spec);
        let mut input = measured_cluster(&snapshot, &measured, now);
        if let For::Maintenance(host) = what {
            settings.aggressiveness = 1;
            if settings.automation == Automation::Disabled {
                settings.automation = Automation::Manual;
            }
            let host = input.hosts.iter_mut().find(|own| own.id == host);
            if let Some(host) = host {
                host.condition = hostler_policy::cluster::HostCondition::Maintenance;
            }
        }
        let mut cluster = built(&input);
        let broken = broken_rules(&cluster);
        let plan = balance::balance(&mut cluster, &settings);
        let before = shown(&plan.before, broken);
        let expected = shown(&plan.after, broken_rules(&cluster));
        Planned { snapshot, settings, plan, before, expected, input }
    });
    planned.await.map_err(|error| ServiceError::internal("the balancing ended", error))
}

/// How balanced the cluster is now.
///
/// # Errors
/// `internal`: a mistake of ours.
pub(crate) async fn measure(core: &Core) -> Result<ClusterBalance, ServiceError> {
    let snapshot = core.snapshot();
    let (measured, now) = (core.demands.clone(), Timestamp::now());
    let measured = tokio::task::spawn_blocking(move || {
        let spec = snapshot.cluster().map(|cluster| cluster.spec.clone()).unwrap_or_default();
        let cluster = built(&measured_cluster(&snapshot, &measured, now));
        shown(&balance::measure(&cluster, &settings(&spec)), broken_rules(&cluster))
    });
    measured.await.map_err(|error| ServiceError::internal("the measuring ended", error))
}

fn settings(spec: &ClusterSpec) -> BalanceSettings {
    BalanceSettings {
        aggressiveness: spec.aggressiveness,
        automation: spec.automation,
        ..BalanceSettings::default()
    }
}

/// The cluster of a snapshot. Rules that make no sense are passed over, as placement does.
fn built(input: &ClusterSnapshot) -> Cluster {
    Cluster::build(input).unwrap_or_else(|error| {
        tracing::error!(%error, "the rules cannot be kept: they are passed over");
        let plain = ClusterSnapshot { rules: Vec::new(), ..input.clone() };
        Cluster::build(&plain).expect("hosts, datastores and VMs are there once each")
    })
}

fn measured_cluster(snapshot: &Snapshot, demands: &Demands, now: Timestamp) -> ClusterSnapshot {
    let mut whole = placement::measured(snapshot, demands);
    for own in &mut whole.vms {
        let Some(vm) = snapshot.get::<VmKind>(own.id) else { continue };
        own.seconds_since_move = vm.status.moved_at.map(|at| {
            // A clock that was set back makes it a move of just now.
            u64::try_from(now.duration_since(at).as_secs()).unwrap_or(0)
        });
    }
    whole
}

fn broken_rules(cluster: &Cluster) -> usize {
    violations(cluster).iter().filter(|broken| broken.strength == Strength::Must).count()
}

fn shown(balance: &Balance, broken_rules: usize) -> ClusterBalance {
    let count = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    ClusterBalance {
        busy_hosts: count(balance.busy_hosts),
        excess: balance.excess,
        most_cpu: balance.most_cpu,
        most_memory: balance.most_memory,
        unmet: balance.unmet,
        broken_rules: count(broken_rules),
    }
}

impl Planned {
    /// The same for the same moves, and of no others: what people name a recommendation by.
    pub(crate) fn id(step: &Step) -> String {
        let mut hash = Sha256::new();
        for one in &step.moves {
            for id in [one.vm.uuid(), one.from.uuid(), one.to.uuid()] {
                hash.update(id.as_bytes());
            }
        }
        hash.finalize().iter().take(4).map(|byte| format!("{byte:02x}")).collect()
    }

    /// Positions of the steps that pass, and of those that they wait for, in the plan's order.
    pub(crate) fn select(&self, passes: impl Fn(&Step) -> bool) -> BTreeSet<usize> {
        let steps = &self.plan.steps;
        let mut chosen: BTreeSet<usize> =
            (0..steps.len()).filter(|at| passes(&steps[*at])).collect();
        // A step waits for earlier ones only.
        for at in (0..steps.len()).rev() {
            if chosen.contains(&at) {
                chosen.extend(&steps[at].after);
            }
        }
        chosen
    }

    /// Positions of the steps that pass, if they and all that they wait for may be made; with those.
    pub(crate) fn select_allowed(
        &self,
        passes: impl Fn(&Step) -> bool,
        may: impl Fn(&Step) -> bool,
    ) -> BTreeSet<usize> {
        let mut allowed = BTreeSet::new();
        for (at, step) in self.plan.steps.iter().enumerate() {
            if may(step) && step.after.iter().all(|other| allowed.contains(other)) {
                allowed.insert(at);
            }
        }
        let mut chosen = BTreeSet::new();
        for at in allowed.into_iter().rev() {
            let step = &self.plan.steps[at];
            if chosen.contains(&at) || passes(step) {
                chosen.insert(at);
                chosen.extend(&step.after);
            }
        }
        chosen
    }

    /// Selected steps, as a task keeps them.
    pub(crate) fn steps(&self, chosen: &BTreeSet<usize>) -> Vec<PlannedStep> {
        let new: HashMap<usize, usize> = chosen.iter().copied().zip(0..).collect();
        let of = chosen.iter().filter_map(|at| self.plan.steps.get(*at));
        of.map(|step| PlannedStep {
            id: Self::id(step),
            moves: (step.moves.iter())
                .map(|one| PlannedMove { vm: one.vm, from: one.from, to: one.to })
                .collect(),
            why: told(step.why).to_owned(),
            reason: step.reason.clone(),
            gain: step.gain,
            after: step.after.iter().filter_map(|at| new.get(at).copied()).collect(),
        })
        .collect()
    }

    /// Selected steps, as people see them.
    pub(crate) fn recommended(&self, chosen: &BTreeSet<usize>) -> Vec<Recommendation> {
        let planned = self.steps(chosen);
        let of = chosen.iter().filter_map(|at| self.plan.steps.get(*at)).zip(planned);
        of.map(|(step, planned)| Recommendation {
            id: planned.id,
            moves: named_moves(&self.snapshot, &planned.moves),
            why: planned.why,
            reason: planned.reason,
            after: planned.after,
            wave: step.wave,
            gain: step.gain,
            automatic: step.automatic,
            seconds: step.seconds,
        })
        .collect()
    }

    pub(crate) fn all(&self) -> BTreeSet<usize> {
        (0..self.plan.steps.len()).collect()
    }

    pub(crate) fn blocked(&self) -> impl Iterator<Item = BlockedMove> {
        let name = |vm: &VmId| Some(self.snapshot.get::<VmKind>(*vm)?.name().to_string());
        self.plan.blocked.iter().map(move |blocked| BlockedMove {
            vms: blocked.vms.iter().filter_map(name).collect(),
            why: told(blocked.why).to_owned(),
            reason: blocked.reason.clone(),
        })
    }

    /// The decision to make the selected steps, to be kept; `None` if its record would be too large.
    pub(crate) fn decision(&self, action: &str, chosen: &BTreeSet<usize>) -> Option<NewDecision> {
        let of = || chosen.iter().filter_map(|at| self.plan.steps.get(*at));
        if self.input.vms.len() > MOST_RECORDED {
            return None;
        }
        let (input, settings) = (self.input.clone(), self.settings.clone());
        let record = Record::of_balanced(input, settings, &self.plan).ok()?.bytes().ok()?;
        let decided = of().flat_map(|step| &step.moves).filter_map(|one| {
            let vm = self.snapshot.get::<VmKind>(one.vm)?;
            Some(DecidedVm {
                id: one.vm,
                name: vm.name().clone(),
                host: one.to,
                host_name: self.snapshot.get::<HostKind>(one.to)?.name().clone(),
                datastore: vm.status.datastore,
            })
        });
        Some(NewDecision {
            id: DecisionId::generate(),
            action: action.to_owned(),
            revision: self.snapshot.revision,
            vms: decided.collect(),
            sentences: of().map(|step| step.reason.clone()).collect(),
            record: String::from_utf8(record).ok()?,
        })
    }
}

/// Moves by names; those of VMs and hosts that are gone are left out.
pub(crate) fn named_moves(snapshot: &Snapshot, moves: &[PlannedMove]) -> Vec<RecommendedMove> {
    let host = |id| snapshot.get::<HostKind>(id).map(|host| host.name().to_string());
    let vm = |id| snapshot.get::<VmKind>(id).map(|vm| vm.name().to_string());
    let told = moves.iter().filter_map(|one| {
        Some(RecommendedMove { vm: vm(one.vm)?, from: host(one.from)?, to: host(one.to)? })
    });
    told.collect()
}

pub(crate) fn told(why: Why) -> &'static str {
    match why {
        Why::Maintenance => "maintenance",
        Why::Rule => "rule",
        Why::Load => "load",
        Why::Room => "room",
        Why::Wanted => "wanted",
    }
}
