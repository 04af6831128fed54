//! Placement and balancing of large clusters, in this process: the decisions alone.
//!
//! The fleets are made up (`hostler_policy::synthetic`), with rules, shared datastores and CPU
//! generations. Each placement removes a VM and places a new one, so that the fleet stays as full
//! as it is.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hostler_policy::balance::{BalanceSettings, Why, balance, fewest_moves};
use hostler_policy::cluster::{Cluster, Strategy};
use hostler_policy::placement::{Choosing, place_all};
use hostler_policy::synthetic::Fleet;

use crate::figure::Figure;

/// Seconds that one measurement of placements takes at most, besides the fleet's making.
const PLACEMENTS: usize = 40_000;

pub(crate) fn measure(runs: usize) -> Result<Vec<Figure>> {
    let mut figures = vec![packing()?];
    figures.extend(scale(
        "1,000 × 20,000",
        &Fleet::of(1_000, 20_000, 1),
        runs,
        (20.0, 100.0, 100.0),
    )?);
    figures.extend(scale(
        "10,000 × 400,000",
        &Fleet::of(10_000, 400_000, 1),
        runs.min(3),
        (200.0, 1_000.0, 2_000.0),
    )?);
    Ok(figures)
}

/// `most`: mean and 99th percentile of a placement in µs, a balancing pass in ms.
fn scale(what: &str, fleet: &Fleet, runs: usize, most: (f64, f64, f64)) -> Result<Vec<Figure>> {
    let snapshot = fleet.filled();
    let mut builds = Vec::new();
    let mut cluster = Cluster::build(&snapshot)?;
    let (mut means, mut tails) = (Vec::new(), Vec::new());
    for run in 0..runs {
        let begin = Instant::now();
        cluster = Cluster::build(&snapshot)?;
        builds.push(begin.elapsed());
        let (mean, tail) = placements(&mut cluster, fleet, run)?;
        means.push(mean);
        tails.push(tail);
    }
    let mut figures = vec![
        micros(&format!("placement, {what}, mean"), &means, most.0),
        micros(&format!("placement, {what}, p99"), &tails, most.1),
    ];
    drop(cluster);
    let settings = BalanceSettings { aggressiveness: 5, ..BalanceSettings::default() };
    let (mut times, mut ratios, mut left, mut again) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..runs.min(5) {
        let mut cluster = Cluster::build(&snapshot)?;
        let bound = fewest_moves(&cluster, &settings);
        let begin = Instant::now();
        let plan = balance(&mut cluster, &settings);
        times.push(begin.elapsed());
        let for_load = plan.steps.iter().filter(|step| step.why == Why::Load);
        let moves: usize = for_load.map(|step| step.moves.len()).sum();
        ratios.push(moves as f64 / bound.max(1) as f64);
        left.push(plan.after.excess / plan.before.excess.max(f64::MIN_POSITIVE) * 100.0);
        let mut after = snapshot.clone();
        let to: std::collections::HashMap<_, _> =
            plan.steps.iter().flat_map(|step| &step.moves).map(|step| (step.vm, step.to)).collect();
        for vm in &mut after.vms {
            if let Some(host) = to.get(&vm.id) {
                (vm.host, vm.seconds_since_move) = (Some(*host), Some(0));
            }
        }
        again.push(balance(&mut Cluster::build(&after)?, &settings).steps.len() as f64);
    }
    figures.push(Figure::time(&format!("balancing pass, {what}"), &times, most.2));
    figures.push(numbers(
        &format!("moves for load beside the lower bound, {what}"),
        "×",
        &ratios,
        1.25,
    ));
    figures.push(numbers(&format!("excess load left, {what}"), "%", &left, 30.0));
    figures.push(numbers(&format!("moves of a second run, {what}"), "moves", &again, 0.0));
    figures.push(Figure::time(&format!("index of a snapshot, {what}"), &builds, most.2));
    Ok(figures)
}

/// Mean and 99th percentile of one placement, in µs.
fn placements(cluster: &mut Cluster, fleet: &Fleet, run: usize) -> Result<(f64, f64)> {
    let first = fleet.vms * (run + 2);
    let new: Vec<_> =
        (first..first + PLACEMENTS.min(fleet.vms)).map(|number| fleet.vm(number)).collect();
    let mut times = Vec::with_capacity(new.len());
    for (at, vm) in new.iter().enumerate() {
        if let Some(leaving) = cluster.vm(fleet.vm(at * 7 % fleet.vms).id) {
            cluster.remove(leaving);
        }
        let choosing = Choosing::seeded(at as u64);
        let begin = Instant::now();
        let placed = place_all(cluster, std::slice::from_ref(vm), choosing);
        times.push(begin.elapsed());
        // Rules leave a few without a host; that counts as a decision.
        drop(placed);
    }
    times.sort_unstable();
    let mean = times.iter().sum::<Duration>().as_secs_f64() / times.len() as f64 * 1e6;
    let tail = times.get(times.len() * 99 / 100).context("no placements")?;
    Ok((mean, tail.as_secs_f64() * 1e6))
}

/// How much memory, of which there is too little, is left when one of a thousand VMs has found no
/// host.
fn packing() -> Result<Figure> {
    let fleet = Fleet { strategy: Strategy::Pack, ..Fleet::of(1_000, 36_000, 3) };
    let fleet = Fleet { memory: hostler_types::ByteSize::gib(384), cpus: 64, ..fleet };
    let mut cluster = Cluster::build(&fleet.empty())?;
    let (mut asked, mut refused, mut promised) = (0u64, 0u64, 0u64);
    while refused * 1_000 <= asked || asked < 1_000 {
        let number = usize::try_from(asked)?;
        asked += 1;
        // Companions are asked for together, as groups are.
        let vms = match Fleet::companions(number / 100) {
            [first, second] if first == number => vec![fleet.vm(first), fleet.vm(second)],
            [_, second] if second == number => continue,
            _ => vec![fleet.vm(number)],
        };
        match place_all(&mut cluster, &vms, Choosing::seeded(asked)) {
            Ok(_) => promised += vms.iter().map(|vm| vm.memory.0).sum::<u64>(),
            Err(_) => refused += 1,
        }
    }
    let has = fleet.memory.0 * fleet.hosts as u64;
    let left = 100.0 - promised as f64 / has as f64 * 100.0;
    Ok(numbers("memory left when 0.1 % of requests fail, 1,000 hosts", "%", &[left], 5.0))
}

fn micros(what: &str, measured: &[f64], most: f64) -> Figure {
    numbers(what, "µs", measured, most)
}

fn numbers(what: &str, unit: &'static str, measured: &[f64], most: f64) -> Figure {
    let mut sorted = measured.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    Figure {
        what: what.to_owned(),
        unit,
        measured: sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN),
        raw: None,
        most,
        lowest: sorted.first().copied().unwrap_or(f64::NAN),
        highest: sorted.last().copied().unwrap_or(f64::NAN),
    }
}
