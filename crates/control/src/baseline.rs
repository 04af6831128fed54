//! The CPU baseline of the cluster: what VMs see of their host's CPU that start now, and which hosts hold it back.
//!
//! It is kept in the cluster's status, written with a change of the setting and by
//! `controllers::baseline` when hosts come, go, or tell something else than before.

use hostler_types::cpu::{common_baseline, held_back};
use hostler_types::{
    Accelerator, BaselineHost, BaselineSetting, ClusterSpec, CpuBaseline, CpuBaselineReport,
    GuestCpu, Host, HostKind, VmKind,
};

use crate::inventory::Snapshot;

/// Hosts and VMs that are listed.
const MOST_LISTED: usize = 100;

/// A host that has ever told what it has, and what guests can have there, unless its agent is of before.
type Told<'a> = (&'a Host, Option<(&'a GuestCpu, Accelerator)>);

fn told(snapshot: &Snapshot) -> Vec<Told<'_>> {
    let told = snapshot.all::<HostKind>().iter().filter_map(|host| {
        let facts = host.status.facts.as_ref()?;
        Some((&**host, facts.guest_cpu.as_ref().map(|cpu| (cpu, facts.accelerator))))
    });
    told.collect()
}

/// The baseline by a setting. An automatic one waits until every host has told what its guests can have: to
/// agents of before it would not apply.
pub(crate) fn of(snapshot: &Snapshot, spec: &ClusterSpec) -> Option<CpuBaseline> {
    match &spec.cpu_baseline {
        BaselineSetting::None => None,
        BaselineSetting::Fixed(baseline) => Some(baseline.clone()),
        BaselineSetting::Auto => {
            let all = told(snapshot);
            if all.iter().any(|(_, cpu)| cpu.is_none()) {
                return None;
            }
            common_baseline(&all.iter().filter_map(|(_, cpu)| *cpu).collect::<Vec<_>>())
        }
    }
}

/// What a VM sees that is started now on any host.
pub(crate) fn at_start(snapshot: &Snapshot, vm: &hostler_types::Vm) -> Option<CpuBaseline> {
    let cluster = snapshot.cluster().ok().filter(|_| vm.spec.cpu_model.is_none())?;
    cluster.status.cpu_baseline.clone()
}

/// How the baseline stands. Looks at all VMs.
pub(crate) fn report(
    snapshot: &Snapshot,
    spec: &ClusterSpec,
    baseline: Option<CpuBaseline>,
) -> CpuBaselineReport {
    let silent: Vec<_> =
        told(snapshot).into_iter().filter(|(_, cpu)| cpu.is_none()).map(|(host, _)| host).collect();
    let message = match (&baseline, &spec.cpu_baseline) {
        (None, BaselineSetting::Auto) if !silent.is_empty() => {
            let names: Vec<_> = silent.iter().take(3).map(|host| host.name().as_str()).collect();
            let more = if silent.len() > 3 { ", …" } else { "" };
            Some(format!(
                "{}{more}: the agent does not tell what guests can have of the CPU; upgrade it",
                names.join(", ")
            ))
        }
        (None, BaselineSetting::Auto) if told(snapshot).is_empty() => {
            Some("no host has told yet what it has".to_owned())
        }
        (None, BaselineSetting::Auto) => Some("the hosts share no CPU model".to_owned()),
        _ => None,
    };
    let mut hosts: Vec<BaselineHost> = match (&spec.cpu_baseline, &baseline) {
        (BaselineSetting::Fixed(_), Some(baseline)) => below(snapshot, baseline),
        _ => holding(snapshot),
    };
    hosts.sort_by(|one, other| one.host.cmp(&other.host));
    hosts.truncate(MOST_LISTED);
    let others = snapshot.all::<VmKind>().iter().filter(|vm| {
        let given = baseline.as_ref().filter(|_| vm.spec.cpu_model.is_none());
        vm.status.power.is_live() && vm.spec.cpu_model.is_none() && vm.status.cpu.as_ref() != given
    });
    let mut names: Vec<_> = others.map(|vm| vm.name().to_string()).collect();
    names.sort_unstable();
    let other_vms = u64::try_from(names.len()).unwrap_or(u64::MAX);
    names.truncate(MOST_LISTED);
    let features = baseline.iter().flat_map(|it| it.features().into_iter().map(str::to_owned));
    CpuBaselineReport {
        setting: spec.cpu_baseline.clone(),
        features: features.collect(),
        baseline,
        message,
        hosts,
        other_vms,
        other_vm_names: names,
    }
}

/// Hosts that cannot give a baseline.
fn below(snapshot: &Snapshot, baseline: &CpuBaseline) -> Vec<BaselineHost> {
    let lacking = |(host, cpu): Told<'_>| {
        let missing: Vec<_> = match cpu {
            Some((cpu, accelerator)) => baseline
                .lacking(cpu, accelerator)
                .into_iter()
                .map(std::borrow::Cow::into_owned)
                .collect(),
            None => vec!["its agent does not tell; upgrade it".to_owned()],
        };
        (!missing.is_empty()).then(|| BaselineHost {
            host: host.name().to_string(),
            below: true,
            missing,
        })
    };
    told(snapshot).into_iter().filter_map(lacking).collect()
}

/// Hosts without which the baseline could be more.
fn holding(snapshot: &Snapshot) -> Vec<BaselineHost> {
    let all: Vec<_> =
        told(snapshot).into_iter().filter_map(|(host, cpu)| Some((host, cpu?.0))).collect();
    let cpus: Vec<_> = all.iter().map(|(_, cpu)| *cpu).collect();
    let missing = held_back(&cpus);
    let holding = all.iter().zip(missing).filter(|(_, missing)| !missing.is_empty());
    holding
        .map(|((host, _), missing)| BaselineHost {
            host: host.name().to_string(),
            below: false,
            missing: missing.into_iter().map(str::to_owned).collect(),
        })
        .collect()
}
