//! VMs made from a template with a disk of 2 GiB, 500 MiB of which are written: linked ones over
//! `qemu-img create -b` alone, one by one and 50 in one request; a full one over the faster of `cp` and
//! `qemu-img convert`, each with its result on the disk, as ours is.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hostler_api::template::{self, Clone, TemplateCloneQuery, TemplatePath};
use hostler_api::vm::{Create, Delete, VmCreateQuery, VmDeleteQuery, VmPath};
use hostler_e2e::Instance;
use hostler_endpoint::{Client, NoParams};
use hostler_types::{Name, Ref};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::api;
use crate::figure::Figure;

const MANY: u32 = 50;

pub(crate) fn measure(runs: usize) -> Result<Vec<Figure>> {
    let bench = Bench::begin()?;
    let (mut linked, mut overlay, mut many) = (Vec::new(), Vec::new(), Vec::new());
    let (mut full, mut copied, mut converted) = (Vec::new(), Vec::new(), Vec::new());
    for run in 0..=runs {
        let took = bench.clone(&json!({"mode": "linked", "name": "linked"}))?;
        let raw = bench.raw("create", &["-f", "qcow2", "-F", "qcow2", "-b"])?;
        let names = format!("many-{{01..{MANY}}}");
        let all = bench.clone(&json!({"mode": "linked", "name": names}))?;
        let whole = bench.clone(&json!({"mode": "full", "name": "full"}))?;
        let convert = bench.raw("convert", &["-f", "qcow2", "-O", "qcow2"])?;
        let copy = bench.copied()?;
        bench.clean()?;
        // The first warms up.
        if run > 0 {
            linked.push(took);
            overlay.push(raw);
            many.push(all / MANY);
            full.push(whole);
            converted.push(convert);
            copied.push(copy);
        }
    }
    let faster = if middle(&copied) < middle(&converted) { copied } else { converted };
    Ok(vec![
        Figure::ratio(
            "linked clone of a template, over qemu-img create -b",
            &linked,
            &overlay,
            2.5,
        ),
        Figure::time("50 linked clones of it in one request, each", &many, 15.0),
        Figure::ratio("full clone, over cp or qemu-img convert, flushed", &full, &faster, 1.15),
    ])
}

fn middle(times: &[Duration]) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

struct Bench {
    instance: Instance,
    runtime: Runtime,
    client: Client,
    /// The template's disk.
    disk: PathBuf,
}

impl Bench {
    fn begin() -> Result<Self> {
        let instance = Instance::start();
        let runtime = api::runtime()?;
        let client = api::client(&instance.socket())?;
        let request = serde_json::from_value(json!({
            "name": "base", "disks": [{"size": "2GiB"}], "memory": "256MiB", "nics": [],
        }))?;
        let vm = runtime.block_on(async {
            let mut changes = api::watch(&client).await?;
            let query = VmCreateQuery::default();
            let made = client.call::<Create>(&NoParams {}, &query, request).await?;
            let ends = |change: &_| api::ends_task(change, "vm.create");
            api::until(&mut changes, "the VM to be made", ends).await?;
            anyhow::Ok(made.vm.id())
        })?;
        let disk = instance.datastore().join(format!("vms/{vm}/disk0.qcow2"));
        for part in 0..5 {
            let write = format!("write -P {} {}M 100M", part + 1, part * 400);
            run(Command::new("qemu-io").args(["-f", "qcow2", "-c", &write]).arg(&disk))?;
        }
        let request = json!({"name": "golden", "vm": "base", "move": true});
        let request = serde_json::from_value(request)?;
        runtime.block_on(async {
            let mut changes = api::watch(&client).await?;
            client.call::<template::Create>(&NoParams {}, &NoParams {}, request).await?;
            let ends = |change: &_| api::ends_task(change, "template.create");
            api::until(&mut changes, "the template to be made", ends).await
        })?;
        Ok(Self { instance, runtime, client, disk })
    }

    /// From the request until the clones are recorded as made.
    fn clone(&self, request: &serde_json::Value) -> Result<Duration> {
        let request = serde_json::from_value(request.clone())?;
        let path = TemplatePath { template: "golden".parse().context("a template")? };
        self.runtime.block_on(async {
            let mut changes = api::watch(&self.client).await?;
            let begin = Instant::now();
            self.client.call::<Clone>(&path, &TemplateCloneQuery::default(), request).await?;
            let ends = |change: &_| api::ends_task(change, "vm.clone");
            api::until(&mut changes, "the clones to be made", ends).await?;
            Ok(begin.elapsed())
        })
    }

    fn raw(&self, verb: &str, options: &[&str]) -> Result<Duration> {
        let target = self.target();
        let begin = Instant::now();
        run(Command::new("qemu-img").args([verb, "-q"]).args(options).args([&self.disk, &target]))?;
        if verb == "convert" {
            std::fs::File::open(&target)?.sync_all()?;
        }
        let took = begin.elapsed();
        std::fs::remove_file(target)?;
        Ok(took)
    }

    fn copied(&self) -> Result<Duration> {
        let target = self.target();
        let begin = Instant::now();
        run(Command::new("cp").arg("--reflink=auto").args([&self.disk, &target]))?;
        std::fs::File::open(&target)?.sync_all()?;
        let took = begin.elapsed();
        std::fs::remove_file(target)?;
        Ok(took)
    }

    fn target(&self) -> PathBuf {
        self.disk.parent().unwrap_or(Path::new("/")).join("raw.img")
    }

    fn clean(&self) -> Result<()> {
        let many = (1..=MANY).map(|number| format!("many-{number:02}"));
        for name in many.chain(["linked".to_owned(), "full".to_owned()]) {
            let path = VmPath { vm: named(&name)? };
            let query = VmDeleteQuery { now: true, ..VmDeleteQuery::default() };
            self.runtime.block_on(async {
                let mut changes = api::watch(&self.client).await?;
                self.client.call::<Delete>(&path, &query, ()).await?;
                let ends = |change: &_| api::ends_task(change, "vm.delete");
                api::until(&mut changes, "the clone to be gone", ends).await
            })?;
        }
        ensure!(self.instance.is_ready(), "the server has ended");
        Ok(())
    }
}

fn named(name: &str) -> Result<Ref> {
    let name: Name = name.parse().context("a name")?;
    Ok(Ref::Name(name))
}

fn run(command: &mut Command) -> Result<()> {
    let status = command.stdout(Stdio::null()).status()?;
    ensure!(status.success(), "{command:?} failed");
    Ok(())
}
