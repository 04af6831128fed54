//! A server with 400,000 VMs on 10,000 hosts, whose agents are simulated (`hostler-fleet`) and speak
//! to it over the network as real ones do.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures::StreamExt;
use hostler_api::host::{HostListQuery, List as ListHosts};
use hostler_api::vm::{List, VmListQuery};
use hostler_e2e::Namespace;
use hostler_endpoint::{Client, NoParams};
use hostler_types::{HostState, KindName};
use jiff::Timestamp;

use crate::api;
use crate::figure::Figure;
use crate::footprint::resident;

const HOSTS: usize = 10_000;
const VMS: usize = 400_000;
/// How many VMs change in a second, of themselves.
const CHANGES: usize = 100;
/// Changes whose way to a watcher is measured.
const WATCHED: usize = 1_000;
/// For recording everything, and until all hosts are connected.
const PATIENCE: Duration = Duration::from_secs(900);

/// The server and the hosts; they end with the value.
struct Scene {
    processes: Vec<Child>,
    folder: tempfile::TempDir,
    namespace: Namespace,
}

impl Drop for Scene {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Scene {
    fn new() -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("hostler-scale-").tempdir()?;
        Ok(Self { processes: Vec::new(), folder, namespace: Namespace::new() })
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("run/server.sock")
    }

    fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Records the fleet and serves its agents.
    fn start_fleet(&mut self) -> Result<()> {
        let mut fleet = self
            .namespace
            .network_command(beside("hostler-fleet")?)
            .arg("--state-dir")
            .arg(self.state())
            .args(["--hosts", &HOSTS.to_string(), "--vms", &VMS.to_string()])
            .args(["--changes", &CHANGES.to_string()])
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = fleet.stdout.take().context("no output")?;
        self.processes.push(fleet);
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line)?;
        ensure!(line.trim() == "ready", "the fleet has not come up");
        Ok(())
    }

    fn start_server(&mut self) -> Result<u32> {
        let log = File::create(self.folder.path().join("server.log"))?;
        let server = self
            .namespace
            .network_command(beside("hostler")?)
            .args(["server", "--listen", "127.0.0.1:8443", "--state-dir"])
            .arg(self.state())
            .arg("--runtime-dir")
            .arg(self.folder.path().join("run"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        let pid = server.id();
        self.processes.push(server);
        Ok(pid)
    }
}

pub(crate) fn measure(runs: usize) -> Result<Vec<Figure>> {
    let mut scene = Scene::new()?;
    scene.start_fleet()?;
    let pid = scene.start_server()?;
    let socket = scene.socket();
    api::runtime()?.block_on(async {
        let client = api::client(&socket)?;
        connected(&client).await?;
        let pages = pages(&socket, runs.max(5) * 20).await?;
        let lags = lags(&client).await?;
        let memory = resident(pid)?;
        let size = Figure {
            what: "server with 400,000 VMs on 10,000 hosts: memory".to_owned(),
            unit: "MiB",
            measured: memory,
            raw: None,
            most: 2560.0,
            lowest: memory,
            highest: memory,
        };
        Ok(vec![
            size,
            Figure::time("with 400,000 VMs: a page of 100", &pages, 10.0),
            Figure::p99("with 400,000 VMs: a host's event to a watcher, p99", &lags, 200.0),
        ])
    })
}

/// Where the program lies that was built together with this one.
fn beside(program: &str) -> Result<PathBuf> {
    let own = std::env::current_exe()?;
    let path = own.parent().context("no directory")?.join(program);
    ensure!(path.exists(), "{} is not built", path.display());
    Ok(path)
}

/// Waits until all hosts are.
async fn connected(client: &Client) -> Result<()> {
    let begin = Instant::now();
    loop {
        let query = HostListQuery { state: Some(HostState::Connected), ..HostListQuery::default() };
        let there = match client.call::<ListHosts>(&NoParams {}, &query, ()).await {
            Ok(page) => page.items.len(),
            Err(_) => 0,
        };
        if there >= HOSTS {
            return Ok(());
        }
        ensure!(begin.elapsed() < PATIENCE, "only {there} of {HOSTS} hosts are connected");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// The whole answer as it comes over the socket, from one page to the next.
async fn pages(socket: &Path, count: usize) -> Result<Vec<Duration>> {
    let client = api::client(socket)?;
    let mut after = None;
    let mut times = Vec::new();
    for _ in 0..count {
        let query = VmListQuery { limit: Some(100), after, ..VmListQuery::default() };
        let begin = Instant::now();
        let page = client.call::<List>(&NoParams {}, &query, ()).await?;
        times.push(begin.elapsed());
        ensure!(page.items.len() == 100, "{} VMs on a page", page.items.len());
        after = page.next;
    }
    Ok(times)
}

/// From when a host's agent says that a guest answers until a watcher reads it.
async fn lags(client: &Client) -> Result<Vec<Duration>> {
    let mut stream = api::watch(client).await?;
    let mut lags = Vec::new();
    while lags.len() < WATCHED {
        let Some(item) = stream.next().await else { bail!("the event stream ended") };
        let change = item?.data;
        let now = Timestamp::now();
        if change.kind != KindName::Vm {
            continue;
        }
        let since = change.new.as_ref().and_then(|vm| vm["status"]["guest"]["since"].as_str());
        let Some(since) = since else { continue };
        let since: Timestamp = since.parse()?;
        lags.push(Duration::try_from(now - since).unwrap_or_default());
    }
    Ok(lags)
}
