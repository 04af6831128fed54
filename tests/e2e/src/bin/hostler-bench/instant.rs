//! Instant clones: request → the clone's guest agent answers; how long the parent's guest stands
//! still; what ten clones weigh. Nothing else does this, so these are times with a bound.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use futures::future::try_join_all;
use hostler_api::vm::{Clone, Exec, VmCreateQuery, VmPath};
use hostler_e2e::Instance;
use hostler_endpoint::{Client, NoParams};
use hostler_types::{ExecRequest, Name, Ref, VmClone};
use serde_json::json;

use crate::api;
use crate::figure::Figure;

/// What each must reach, in milliseconds and MiB.
const ONE: f64 = 300.0;
const TEN: f64 = 1500.0;
const PAUSE: f64 = 30.0;
const MEMORY_OF_TEN: f64 = 600.0;

pub(crate) fn measure(runs: usize) -> Result<Vec<Figure>> {
    let instance = Instance::start();
    instance.import_tiny();
    instance.ok(&["vm", "create", "web01", "--image", "tiny", "--memory", "256MiB"]);
    let runtime = api::runtime()?;
    let client = api::client(&instance.socket())?;
    let (mut one, mut ten, mut again, mut pauses, mut memory) =
        (vec![], vec![], vec![], vec![], vec![]);
    for _ in 0..runs.min(5) {
        for (count, times) in [(1, &mut one), (10, &mut ten)] {
            // From the beginning: a VM that has been cloned moves to fresh memory first.
            instance.ok(&["vm", "start", "web01", "--wait=guest"]);
            let (took, pause) = runtime.block_on(clone(&client, "a", count))?;
            times.push(took);
            pauses.push(pause);
            if count == 10 {
                memory.push(clones_memory(&instance)?);
            } else {
                again.push(runtime.block_on(clone(&client, "b", 1))?.0);
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
        Figure::time("instant clone: 10 in one request → all answer", &ten, TEN),
        Figure::time("instant clone: the parent's guest stands still", &pauses, PAUSE),
        Figure::time("instant clone: of a VM that was cloned before", &again, TEN),
        weight,
    ])
}

/// From the request until a program has run in each clone's guest; and the parent's pause.
async fn clone(client: &Client, prefix: &str, count: u32) -> Result<(Duration, Duration)> {
    let parent: Name = "web01".parse()?;
    let path = VmPath { vm: Ref::from(parent) };
    let request: VmClone = serde_json::from_value(json!({
        "mode": "instant", "name": format!("{prefix}-{{01..}}"), "count": count,
    }))?;
    let begin = Instant::now();
    let cloned = client.call::<Clone>(&path, &VmCreateQuery::default(), request).await?;
    try_join_all(cloned.vms.iter().map(|vm| answers(client, vm.name().clone()))).await?;
    let took = begin.elapsed();
    let task = cloned.task.context("no task")?;
    let path = hostler_api::task::TaskPath { task: task.id() };
    let task = client.call::<hostler_api::task::Show>(&path, &NoParams {}, ()).await?;
    let told = serde_json::to_string(&task)?;
    let pause = told.split("stood still for ").nth(1).and_then(|rest| rest.split(' ').next());
    let pause: f64 = pause.context("the task does not tell the pause")?.parse()?;
    Ok((took, Duration::from_secs_f64(pause / 1e3)))
}

/// Asks until the guest runs a program.
async fn answers(client: &Client, vm: Name) -> Result<()> {
    let path = VmPath { vm: Ref::from(vm) };
    let begin = Instant::now();
    loop {
        let command = vec!["/bin/true".to_owned()];
        let request = ExecRequest { command, stdin: String::new(), timeout_seconds: 10 };
        match client.call::<Exec>(&path, &NoParams {}, request).await {
            Ok(_) => return Ok(()),
            Err(error) if begin.elapsed() > Duration::from_secs(30) => {
                bail!("{} does not answer: {error}", path.vm)
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
        }
    }
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
