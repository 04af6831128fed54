//! A server with 5,000 VMs recorded: start to ready, and the whole list.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hostler_api::system::ShowReady;
use hostler_e2e::{Instance, Settings};
use hostler_endpoint::{NoParams, Page};
use hostler_store::{Batch, SqliteStore, Store, Write};
use hostler_types::{KindName, Object, Vm, VmKind};
use jiff::Timestamp;

use crate::api;
use crate::figure::Figure;

const VMS: usize = 5_000;

pub(crate) fn measure(runs: usize) -> Result<Vec<Figure>> {
    let mut instance = Instance::prepare(Settings::default());
    instance.start_server();
    instance.import_tiny();
    instance.ok(&["vm", "create", "pattern", "--image", "tiny", "--memory", "256MiB"]);
    instance.kill_server();
    let runtime = api::runtime()?;
    runtime.block_on(fill(&instance))?;

    let mut ready = Vec::new();
    let mut list = Vec::new();
    for run in 0..=runs.min(7) {
        let begin = Instant::now();
        instance.spawn_server();
        runtime.block_on(wait_ready(&instance, begin))?;
        let took_ready = begin.elapsed();
        instance.wait_ready();
        let took_list = runtime.block_on(list_all(&instance))?;
        if run > 0 {
            ready.push(took_ready);
            list.push(took_list);
        }
        instance.kill_server();
    }
    Ok(vec![
        Figure::time("list 5,000 VMs through the API, whole answer", &list, 60.0),
        Figure::time("server start to ready with 5,000 VMs recorded", &ready, 300.0),
    ])
}

/// Records copies of the VM `pattern` straight into the store: the agent knows nothing of them.
async fn fill(instance: &Instance) -> Result<()> {
    let store = SqliteStore::open(instance.state().join("hostler.db"))?;
    let name = "pattern".parse()?;
    let record = store.get_by_name(KindName::Vm, &name).await?.context("no VM to copy")?;
    let pattern: Vm = record.object::<VmKind>()?;
    let now = Timestamp::now();
    for chunk in 0..VMS / 500 {
        let mut batch = Batch::new("bench", "fill", now);
        for n in chunk * 500..(chunk + 1) * 500 {
            let name = format!("vm-{n:05}").parse()?;
            let labels = pattern.metadata.labels.clone();
            let vm: Vm =
                Object::new(name, labels, now, pattern.spec.clone(), pattern.status.clone());
            batch = batch.with(Write::create(&vm));
        }
        store.commit(batch).await?;
    }
    Ok(())
}

async fn wait_ready(instance: &Instance, begin: Instant) -> Result<()> {
    loop {
        if instance.socket().exists() {
            let client = api::client(&instance.socket())?;
            if client.call::<ShowReady>(&NoParams {}, &NoParams {}, ()).await.is_ok() {
                return Ok(());
            }
        }
        ensure!(begin.elapsed() < Duration::from_secs(30), "the server does not get ready");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The whole answer as it comes over the socket; what a client makes of it is the client's time.
async fn list_all(instance: &Instance) -> Result<Duration> {
    let http = reqwest::Client::builder().unix_socket(instance.socket()).build()?;
    // The connection is there already, as in any program that asks twice.
    http.get("http://localhost/v1/version").send().await?.bytes().await?;
    let begin = Instant::now();
    let answer = http.get("http://localhost/v1/vms").send().await?.error_for_status()?;
    let bytes = answer.bytes().await?;
    let took = begin.elapsed();
    let page: Page<Vm> = serde_json::from_slice(&bytes)?;
    ensure!(page.items.len() > VMS, "only {} VMs were listed", page.items.len());
    Ok(took)
}
