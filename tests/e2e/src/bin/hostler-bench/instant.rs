//! Instant clones: request → the clone's guest agent answers, as `--wait=guest` waits for it, and →
//! it has taken its own identity; how long the parent's guest stands still; what ten clones weigh.
//! Nothing else does this, so these are times with a bound.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hostler_api::event::Change;
use hostler_api::vm::{Clone, VmCreateQuery, VmPath};
use hostler_e2e::Instance;
use hostler_endpoint::{Client, EventStream, NoParams};
use hostler_types::{KindName, Name, Ref, VmClone};
use serde_json::json;

use crate::api;
use crate::figure::Figure;

/// What each must reach, in milliseconds and MiB.
const ONE: f64 = 300.0;
const OWN: f64 = 1500.0;
const TEN: f64 = 1500.0;
const PAUSE: f64 = 30.0;
const MEMORY_OF_TEN: f64 = 600.0;
const SETTLED: f64 = 1000.0;

pub(crate) fn measure(runs: usize) -> Result<Vec<Figure>> {
    let instance = Instance::start();
    instance.import_tiny();
    instance.ok(&["vm", "create", "web01", "--image", "tiny", "--memory", "256MiB"]);
    let runtime = api::runtime()?;
    let client = api::client(&instance.socket())?;
    let (mut one, mut ten, mut again) = (vec![], vec![], vec![]);
    let (mut pauses, mut own, mut memory, mut settled) = (vec![], vec![], vec![], vec![]);
    for _ in 0..runs.min(5) {
        for (count, times) in [(1, &mut one), (10, &mut ten)] {
            // From the beginning: a VM that has been cloned moves to fresh memory first.
            instance.ok(&["vm", "start", "web01", "--wait=guest"]);
            let cloned = runtime.block_on(clone(&client, &instance, "a", count))?;
            times.push(cloned.answers);
            pauses.push(cloned.pause);
            if count == 10 {
                memory.push(cloned.memory);
                settled.push(clones_memory(&instance)?);
            } else {
                own.push(cloned.own);
                again.push(runtime.block_on(clone(&client, &instance, "b", 1))?.answers);
            }
            remove_clones(&instance);
            instance.ok(&["vm", "stop", "web01", "--power-off"]);
        }
    }
    Ok(vec![
        Figure::time("instant clone: request → its guest agent answers", &one, ONE),
        Figure::time("instant clone: request → it is a machine of its own", &own, OWN),
        Figure::time("instant clone: 10 in one request → all answer", &ten, TEN),
        Figure::time("instant clone: the parent's guest stands still", &pauses, PAUSE),
        Figure::time("instant clone: of a VM that was cloned before", &again, TEN),
        weight("instant clone: memory of 10 (PSS) when all answer", &mut memory, MEMORY_OF_TEN),
        weight("instant clone: memory of 10 (PSS), all their own", &mut settled, SETTLED),
    ])
}

struct Cloned {
    /// From the request until each clone's guest agent has answered.
    answers: Duration,
    /// From the request until each has its own name, keys and addresses.
    own: Duration,
    /// What all clones weigh when the last has answered, in MiB.
    memory: f64,
    /// How long the parent's guest stood still.
    pause: Duration,
}

async fn clone(client: &Client, instance: &Instance, prefix: &str, count: u32) -> Result<Cloned> {
    let parent: Name = "web01".parse()?;
    let path = VmPath { vm: Ref::from(parent) };
    let request: VmClone = serde_json::from_value(json!({
        "mode": "instant", "name": format!("{prefix}-{{01..}}"), "count": count,
    }))?;
    let mut changes = api::watch(client).await?;
    let begin = Instant::now();
    let cloned = client.call::<Clone>(&path, &VmCreateQuery::default(), request).await?;
    let names: BTreeSet<String> = cloned.vms.iter().map(|vm| vm.name().to_string()).collect();
    let look = || clones_memory(instance);
    let (answers, memory, own) = follow(&mut changes, &names, begin, look).await?;
    let task = cloned.task.context("no task")?;
    let path = hostler_api::task::TaskPath { task: task.id() };
    let task = client.call::<hostler_api::task::Show>(&path, &NoParams {}, ()).await?;
    let told = serde_json::to_string(&task)?;
    let pause = told.split("stood still for ").nth(1).and_then(|rest| rest.split(' ').next());
    let pause: f64 = pause.context("the task does not tell the pause")?.parse()?;
    Ok(Cloned { answers, own, memory, pause: Duration::from_secs_f64(pause / 1e3) })
}

/// When all of the VMs' guest agents had answered, and when all were machines of their own.
async fn follow(
    changes: &mut EventStream<Change>,
    names: &BTreeSet<String>,
    begin: Instant,
    weigh: impl Fn() -> Result<f64>,
) -> Result<(Duration, f64, Duration)> {
    let (mut silent, mut strange) = (names.clone(), names.clone());
    let (mut answers, mut memory, mut own) = (None, None, None);
    let mut look = |change: &Change| {
        let vm = change.new.as_ref().filter(|_| change.kind == KindName::Vm);
        if vm.is_some_and(|vm| vm["status"]["guest"]["agent"] == true) {
            silent.remove(change.name.as_str());
        }
        if vm.is_some_and(|vm| vm["status"]["customization"]["state"] == "applied") {
            strange.remove(change.name.as_str());
        }
        let now = |none: bool| none.then(|| begin.elapsed());
        answers = answers.or(now(silent.is_empty()));
        if answers.is_some() && memory.is_none() {
            memory = Some(weigh());
        }
        own = own.or(now(strange.is_empty()));
        own.is_some() && answers.is_some()
    };
    api::until(changes, "the clones are machines of their own", &mut look).await?;
    let missing = "the clones do not answer";
    Ok((answers.context(missing)?, memory.context(missing)??, own.context(missing)?))
}

/// What the clones' processes have of the host's memory, in MiB: what they share counts once.
fn clones_memory(instance: &Instance) -> Result<f64> {
    let mut kib = 0.0;
    for pid in instance.qemu_pids() {
        let line = std::fs::read(format!("/proc/{pid}/cmdline"))?;
        if String::from_utf8_lossy(&line).contains("guest=web01") {
            continue;
        }
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let pss = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss")?;
        kib += pss.trim().trim_end_matches("kB").trim().parse::<f64>()?;
    }
    Ok(kib / 1024.0)
}

fn weight(what: &str, measured: &mut [f64], most: f64) -> Figure {
    let (what, unit, raw) = (what.to_owned(), "MiB", None);
    let middle = median(measured);
    let (lowest, highest) = (measured.first().copied(), measured.last().copied());
    let (lowest, highest) = (lowest.unwrap_or_default(), highest.unwrap_or_default());
    Figure { what, unit, measured: middle, raw, most, lowest, highest }
}

fn remove_clones(instance: &Instance) {
    let vms = instance.json(&["vm", "list"]);
    for vm in vms.as_array().into_iter().flatten() {
        if let Some(name) = vm["metadata"]["name"].as_str().filter(|name| *name != "web01") {
            instance.ok(&["vm", "delete", name, "--force", "--now", "--yes"]);
        }
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
