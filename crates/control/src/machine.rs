//! What a guest needs of its host's machine, and what hosts have of that: CPU features, and for a guest that runs
//! also the accelerator, a QEMU that can take over from its own, and the maker of the CPU. The one place that
//! says so: placement and balancing see it as what VMs need and hosts have, and a move is checked against the same.
//!
//! A need is a CPU feature by QEMU's name, or a few words ([`is_feature`] tells them apart).

use std::collections::BTreeSet;

use hostler_policy::placement::is_feature;
use hostler_types::{Accelerator, Host, HostFacts, HostKind, Vm, VmSpec, cpu};

use crate::inventory::Snapshot;

/// The oldest series of QEMU that has the board of our VMs.
const OLDEST: (u32, u32) = (10, 0);
/// The last minor version of a series: 10.0, 10.1, 10.2, 11.0, …
const LAST_MINOR: u32 = 2;

/// What a host has of these.
pub(crate) fn offers_among(facts: &HostFacts, among: &BTreeSet<String>) -> Vec<String> {
    let told = facts.guest_cpu.as_ref();
    let features = told.map_or(&facts.cpu_features, |cpu| &cpu.features);
    // Sorted, both by the agent.
    let has = |need: &&String| features.binary_search(need).is_ok();
    let mut found: Vec<_> = among.iter().filter(has).cloned().collect();
    if among.iter().any(|need| !is_feature(need)) {
        let others = offers(facts).into_iter();
        found.extend(others.filter(|one| !is_feature(one) && among.contains(one)));
    }
    found
}

/// All that a host has.
pub(crate) fn offers(facts: &HostFacts) -> Vec<String> {
    let told = facts.guest_cpu.as_ref();
    let features = told.map_or(&facts.cpu_features, |cpu| &cpu.features);
    let mut all = features.clone();
    all.extend([accelerator(facts.accelerator), exactly(&facts.qemu_version)]);
    if facts.accelerator == Accelerator::Kvm {
        all.push(processor(&facts.cpu_model));
        all.extend(told.map(|cpu| maker(&cpu.vendor)));
    }
    if let Some((major, minor)) = series(&facts.qemu_version) {
        let older =
            (OLDEST.0..=major).flat_map(|major| (0..=LAST_MINOR).map(move |minor| (major, minor)));
        let older = older.filter(|older| (OLDEST..(major, minor)).contains(older));
        all.extend(older.chain([(major, minor)]).map(or_newer));
    }
    all
}

/// What a VM needs to be started somewhere that asks for a CPU model itself. Of others the cluster's baseline
/// decides; of models that nobody knows QEMU does.
pub(crate) fn asked(spec: &VmSpec) -> Vec<String> {
    let model = spec.cpu_model.as_deref().and_then(cpu::model);
    model
        .map(|model| model.features.iter().map(|one| (*one).to_owned()).collect())
        .unwrap_or_default()
}

/// What a VM needs where it is to go on from here. Empty: the cluster's baseline, or nothing.
pub(crate) fn needs(snapshot: &Snapshot, vm: &Vm) -> Vec<String> {
    let here = snapshot.get::<HostKind>(vm.status.host);
    let facts = here.and_then(|host| host.status.facts.as_ref());
    let (true, Some(facts)) = (vm.status.power.is_live(), facts) else { return asked(&vm.spec) };
    let mut all = vec![accelerator(facts.accelerator)];
    let mut of_a_model = |features: Vec<String>| {
        all.extend(features);
        all.extend(series(&facts.qemu_version).map(or_newer));
        if facts.accelerator == Accelerator::Kvm {
            all.extend(facts.guest_cpu.as_ref().map(|cpu| maker(&cpu.vendor)));
        }
    };
    match (&vm.spec.cpu_model, &vm.status.cpu, facts.accelerator) {
        (_, Some(cpu), _) => of_a_model(cpu.features().into_iter().map(str::to_owned).collect()),
        (Some(_), None, _) => {
            // It runs with what its host could give it of the model.
            let given = facts.guest_cpu.as_ref().map(|cpu| &cpu.features);
            let is_given = |one: &String| given.is_none_or(|given| given.contains(one));
            of_a_model(asked(&vm.spec).into_iter().filter(is_given).collect());
        }
        // The guest sees the host's own; and what an emulator can do depends on its version.
        (None, None, Accelerator::Kvm) => all.push(processor(&facts.cpu_model)),
        (None, None, Accelerator::Tcg) => all.push(exactly(&facts.qemu_version)),
    }
    all
}

/// Why a running guest cannot go on on a host; `None` if it can.
pub(crate) fn other(snapshot: &Snapshot, vm: &Vm, host: &Host) -> Option<String> {
    let offers: BTreeSet<String> = offers(host.status.facts.as_ref()?).into_iter().collect();
    let missing: Vec<_> =
        needs(snapshot, vm).into_iter().filter(|need| !offers.contains(need)).collect();
    if missing.is_empty() {
        return None;
    }
    let whole = match (&vm.spec.cpu_model, &vm.status.cpu) {
        (None, None) => {
            "; its guest sees all of its host's processor: cycle its power, so that it gets the \
                         cluster's CPU baseline"
        }
        _ => "; stop it first, or choose another host",
    };
    Some(format!(
        "its running guest needs what the host does not have: {}{whole}",
        missing.join(", ")
    ))
}

fn accelerator(accelerator: Accelerator) -> String {
    format!("accelerator {}", accelerator.as_str())
}

fn processor(model: &str) -> String {
    format!("the processor {model}")
}

fn maker(vendor: &str) -> String {
    format!("a processor by {vendor}")
}

fn exactly(version: &str) -> String {
    format!("QEMU {version}")
}

fn or_newer((major, minor): (u32, u32)) -> String {
    format!("QEMU {major}.{minor} or newer")
}

/// As in `10.0` of `10.0.2`.
fn series(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split('.').map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}
