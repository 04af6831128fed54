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
use serde_json::{Value, json};

use crate::api;
use crate::figure::Figure;

/// What each must reach, in milliseconds and MiB.
const ONE: f64 = 300.0;
const OWN: f64 = 1500.0;
const TEN: f64 = 1500.0;
const PAUSE: f64 = 30.0;
const MEMORY_OF_TEN: f64 = 600.0;

pub(crate) fn measure(runs: usize) -> Result<Vec<Figure>> {
    let instance = Instance::start();
    instance.import_tiny();
    instance.ok(&["vm", "create", "web01", "--image", "tiny", "--memory", "256MiB"]);
    let runtime = api::runtime()?;
    let client = api::client(&instance.socket())?;
    let (mut one, mut ten, mut again) = (vec![], vec![], vec![]);
    let (mut pauses, mut own, mut memory) = (vec![], vec![], vec![]);
    for _ in 0..runs.min(5) {
        for (count, times) in [(1, &mut one), (10, &mut ten)] {
            // From the beginning: a VM that has been cloned moves to fresh memory first.
            instance.ok(&["vm", "start", "web01", "--wait=guest"]);
            let cloned = runtime.block_on(clone(&client, "a", count))?;
            times.push(cloned.answers);
            pauses.push(cloned.pause);
            if count == 10 {
                memory.push(clones_memory(&instance)?);
            } else {
                own.push(cloned.own);
                again.push(runtime.block_on(clone(&client, "b", 1))?.answers);
            }
            remove_clones(&instance);
            instance.ok(&["vm", "stop", "web01", "--power-off"]);
        }
    }
    let weight = Figure {
        what: "instant clone: memory of 10 (PSS)".to_owned(),
        unit: "MiB",
        measured: median(&mut memory),
        raw: None,
        most: MEMORY_OF_TEN,
        lowest: memory.first().copied().unwrap_or_default(),
        highest: memory.last().copied().unwrap_or_default(),
    };
    Ok(vec![
        Figure::time("instant clone: request → its guest agent answers", &one, ONE),
        Figure::time("instant clone: request → it is a machine of its own", &own, OWN),
        Figure::time("instant clone: 10 in one request → all answer", &ten, TEN),
        Figure::time("instant clone: the parent's guest stands still", &pauses, PAUSE),
        Figure::time("instant clone: of a VM that was cloned before", &again, TEN),
        weight,
    ])
}

struct Cloned {
    /// From the request until each clone's guest agent has answered.
    answers: Duration,
    /// From the request until each has its own name, keys and addresses.
    own: Duration,
    /// How long the parent's guest stood still.
    pause: Duration,
}

async fn clone(client: &Client, prefix: &str, count: u32) -> Result<Cloned> {
    let parent: Name = "web01".parse()?;
    let path = VmPath { vm: Ref::from(parent) };
    let request: VmClone = serde_json::from_value(json!({
        "mode": "instant", "name": format!("{prefix}-{{01..}}"), "count": count,
    }))?;
    let mut changes = api::watch(client).await?;
    let begin = Instant::now();
    let cloned = client.call::<Clone>(&path, &VmCreateQuery::default(), request).await?;
    let names: BTreeSet<String> = cloned.vms.iter().map(|vm| vm.name().to_string()).collect();
    all(&mut changes, &names, "answers", |vm| vm["status"]["guest"]["agent"] == true).await?;
    let answers = begin.elapsed();
    let applied = |vm: &Value| vm["status"]["customization"]["state"] == "applied";
    all(&mut changes, &names, "is its own", applied).await?;
    let own = begin.elapsed();
    let task = cloned.task.context("no task")?;
    let path = hostler_api::task::TaskPath { task: task.id() };
    let task = client.call::<hostler_api::task::Show>(&path, &NoParams {}, ()).await?;
    let told = serde_json::to_string(&task)?;
    let pause = told.split("stood still for ").nth(1).and_then(|rest| rest.split(' ').next());
    let pause: f64 = pause.context("the task does not tell the pause")?.parse()?;
    Ok(Cloned { answers, own, pause: Duration::from_secs_f64(pause / 1e3) })
}

/// Reads the stream until each of the VMs has been so.
async fn all(
    changes: &mut EventStream<Change>,
    names: &BTreeSet<String>,
    what: &str,
    condition: impl Fn(&Value) -> bool,
) -> Result<()> {
    let missing = std::cell::RefCell::new(names.clone());
    api::until(changes, what, |change| {
        let mut missing = missing.borrow_mut();
        if change.kind == KindName::Vm && change.new.as_ref().is_some_and(&condition) {
            missing.remove(change.name.as_str());
        }
        missing.is_empty()
    })
    .await
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
