//! Snapshots of a running guest of 256 MiB, through the API: taken, with memory, gone back to, merged.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use hostler_api::snapshot::{
    Create, Delete, Revert, RevertRequest, SnapshotCreate, SnapshotDeleteQuery, SnapshotPath,
};
use hostler_api::vm::VmPath;
use hostler_e2e::Instance;
use hostler_endpoint::{Client, NoParams};
use hostler_types::{Name, Ref};
use serde_json::json;

use crate::api;
use crate::figure::Figure;
use crate::stall;

/// What is merged.
const MIB: u64 = 200;

pub(crate) fn measure(runs: usize) -> Result<Vec<Figure>> {
    let instance = Instance::start();
    instance.import_tiny();
    let create = ["vm", "create", "web01", "--image", "tiny", "--memory", "256MiB", "--disk"];
    instance.ok(&[&create[..], &["1GiB", "--start", "--wait=guest"]].concat());
    let runtime = api::runtime()?;
    let client = api::client(&instance.socket())?;

    let (mut plain, mut pauses, mut reverts) = (vec![], vec![], vec![]);
    let (mut merges, mut raw) = (vec![], vec![]);
    let (mut calm, mut stalls) = (vec![], vec![]);
    runtime.block_on(stall::install(&client, &vm()?, instance.path()))?;
    for _ in 0..runs.min(5) {
        plain.push(runtime.block_on(take(&client, "plain", false))?);
        runtime.block_on(take(&client, "memory", true))?;
        let told = instance.json(&["vm", "snapshot", "show", "web01", "memory"]);
        let paused = told["paused_ms"].as_u64().context("the pause is told")?;
        pauses.push(Duration::from_millis(paused));
        reverts.push(runtime.block_on(revert(&client, "memory"))?);
        runtime.block_on(take(&client, "last", false))?;
        fill(&instance)?;
        merges.push(runtime.block_on(delete(&client, "last"))?);
        raw.push(raw_merge(instance.path())?);
        runtime.block_on(take(&client, "stall", false))?;
        fill(&instance)?;
        calm.push(runtime.block_on(stall::longest_write(&client, &vm()?))?);
        stalls.push(runtime.block_on(merge_under_writes(&client))?);
        instance.ok(&["vm", "snapshot", "delete", "web01", "--all", "--yes"]);
    }
    Ok(vec![
        Figure::time("snapshot: POST → done", &plain, 15.0),
        Figure::time("snapshot with memory: the guest's pause", &pauses, 80.0),
        Figure::time("revert to memory: POST → the guest goes on", &reverts, 400.0),
        Figure::ratio("merge of 200 MiB, over raw block-commit", &merges, &raw, 1.5),
        Figure::time("merge of 200 MiB: the guest's longest write", &stalls, 100.0),
        Figure::time("the same guest's longest write without a merge", &calm, 100.0),
    ])
}

fn vm() -> Result<Ref> {
    Ok(Ref::from("web01".parse::<Name>()?))
}

fn path(snapshot: &str) -> Result<SnapshotPath> {
    Ok(SnapshotPath { vm: vm()?, snapshot: Ref::from(snapshot.parse::<Name>()?) })
}

async fn take(client: &Client, name: &str, memory: bool) -> Result<Duration> {
    let request = SnapshotCreate { name: Some(name.parse()?), memory, ..SnapshotCreate::default() };
    let path = VmPath { vm: vm()? };
    let call = client.call::<Create>(&path, &NoParams {}, request);
    timed(client, "vm.snapshot", async { call.await.map(drop).map_err(Into::into) }).await
}

async fn revert(client: &Client, name: &str) -> Result<Duration> {
    let path = path(name)?;
    let call = client.call::<Revert>(&path, &NoParams {}, RevertRequest::default());
    timed(client, "vm.revert", async { call.await.map(drop).map_err(Into::into) }).await
}

async fn delete(client: &Client, name: &str) -> Result<Duration> {
    let (path, query) = (path(name)?, SnapshotDeleteQuery::default());
    let call = client.call::<Delete>(&path, &query, ());
    timed(client, "vm.snapshot_delete", async { call.await.map(drop).map_err(Into::into) }).await
}

/// The guest's longest write while a snapshot is merged.
async fn merge_under_writes(client: &Client) -> Result<Duration> {
    let vm = vm()?;
    let begin = Instant::now();
    let merge = async {
        // The guest's agent has to start the program first.
        tokio::time::sleep(Duration::from_secs(1)).await;
        delete(client, "stall").await?;
        Ok(begin.elapsed())
    };
    let (longest, merged) = tokio::try_join!(stall::longest_write(client, &vm), merge)?;
    ensure!(merged.as_secs() < stall::SECONDS, "the merge took longer than the guest's writes");
    Ok(longest)
}

/// From the request to the end of its task.
async fn timed(
    client: &Client,
    action: &str,
    request: impl Future<Output = Result<()>>,
) -> Result<Duration> {
    let mut changes = api::watch(client).await?;
    let begin = Instant::now();
    request.await?;
    api::until(&mut changes, action, |change| api::ends_task(change, action)).await?;
    Ok(begin.elapsed())
}

/// Has the guest write to its disk, where no file system is.
fn fill(instance: &Instance) -> Result<()> {
    let script = format!(
        "for block in /sys/block/*; do \
         [ \"$(cat $block/serial 2>/dev/null)\" != disk0 ] || disk=${{block##*/}}; done; \
         busybox dd if=/dev/urandom of=/tmp/some bs=1M count=4 2>/dev/null; \
         set -- $(cat /sys/block/$disk/stat); before=$7; \
         for at in $(busybox seq 100 4 {}); do \
         busybox dd if=/tmp/some of=/dev/$disk bs=1M seek=$at conv=notrunc,fsync 2>/dev/null; done; \
         set -- $(cat /sys/block/$disk/stat); echo $(($7 - before))",
        100 + MIB - 4
    );
    let exec = ["vm", "exec", "web01", "--timeout", "10m", "--", "sh", "-c", &script];
    let sectors: u64 = instance.ok(&exec).trim().parse().context("the guest counts")?;
    ensure!(sectors >= MIB << 11, "the guest has written {sectors} sectors only");
    Ok(())
}

/// As much in a layer of its own, merged by a QEMU that does nothing else, with files opened as ours are.
fn raw_merge(folder: &Path) -> Result<Duration> {
    let folder = tempfile::tempdir_in(folder)?;
    let make = format!(
        "qemu-img create -q -f qcow2 base.qcow2 1G
         qemu-img create -q -f qcow2 -F qcow2 -b base.qcow2 top.qcow2
         qemu-io -t none -f qcow2 -c 'write -P 7 100M {MIB}M' -c flush top.qcow2 >/dev/null"
    );
    let made = Command::new("sh").args(["-ec", &make]).current_dir(folder.path()).status()?;
    ensure!(made.success(), "{make}: {made}");
    let mut arguments: Vec<_> =
        ["-machine", "none", "-nodefaults", "-display", "none", "-qmp", "stdio"]
            .map(String::from)
            .into();
    for (name, backing) in [("base", None), ("top", Some("base"))] {
        let file = json!({
            "driver": "file", "node-name": format!("{name}-file"), "filename": format!("{name}.qcow2"),
            "aio": "io_uring", "cache": {"direct": true}, "discard": "unmap",
        });
        let format = json!({
            "driver": "qcow2", "node-name": name, "file": format!("{name}-file"), "backing": backing,
            "cache": {"direct": true}, "discard": "unmap",
        });
        for node in [file, format] {
            arguments.extend(["-blockdev".to_owned(), node.to_string()]);
        }
    }
    let mut qemu = Command::new("qemu-system-x86_64")
        .args(arguments)
        .current_dir(folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let took = commit(&mut qemu);
    qemu.kill()?;
    qemu.wait()?;
    took
}

/// Of the top layer, through QEMU's monitor: command to completed.
fn commit(qemu: &mut Child) -> Result<Duration> {
    let (input, output) = (qemu.stdin.as_mut(), qemu.stdout.as_mut());
    let (Some(input), Some(output)) = (input, output) else { bail!("QEMU has no monitor") };
    let mut lines = BufReader::new(output).lines();
    let mut until = |told: &str| -> Result<()> {
        for line in lines.by_ref() {
            let line = line?;
            ensure!(!line.contains("\"error\""), "raw QEMU: {line}");
            if line.contains(told) {
                return Ok(());
            }
        }
        bail!("raw QEMU ended before it said {told}")
    };
    until("\"QMP\"")?;
    input.write_all(b"{\"execute\":\"qmp_capabilities\"}\n")?;
    until("\"return\"")?;
    let begin = Instant::now();
    input.write_all(
        b"{\"execute\":\"block-commit\",\"arguments\":{\"job-id\":\"j\",\"device\":\"top\"}}\n",
    )?;
    until("\"BLOCK_JOB_READY\"")?;
    input.write_all(b"{\"execute\":\"block-job-complete\",\"arguments\":{\"device\":\"j\"}}\n")?;
    until("\"BLOCK_JOB_COMPLETED\"")?;
    Ok(begin.elapsed())
}
