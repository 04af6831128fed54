//! Create from image (overlay, definition, durable record), over `qemu-img create -b` alone.

use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use hostler_api::vm::{Create, VmCreateQuery};
use hostler_e2e::Instance;
use hostler_endpoint::NoParams;
use hostler_types::VmCreate;

use crate::api;
use crate::figure::Figure;

pub(crate) fn measure(runs: usize) -> Result<Vec<Figure>> {
    let instance = Instance::start();
    instance.import_tiny();
    let runtime = api::runtime()?;
    let client = api::client(&instance.socket())?;
    let images = instance.datastore().join("images");
    let files = std::fs::read_dir(&images)?.flatten().map(|entry| entry.path());
    let mut disks = files.filter(|path| path.extension().is_some_and(|kind| kind == "qcow2"));
    let image = disks.next().context("the image is not on the datastore")?;

    let mut measured = Vec::new();
    let mut raw = Vec::new();
    for run in 0..=runs {
        let name = format!("web{run:02}");
        let request: VmCreate = serde_json::from_value(serde_json::json!({
            "name": name, "image": "tiny", "memory": "256MiB",
        }))?;
        let took = runtime.block_on(async {
            let mut changes = api::watch(&client).await?;
            let begin = Instant::now();
            client.call::<Create>(&NoParams {}, &VmCreateQuery::default(), request).await?;
            let ends = |change: &_| api::ends_task(change, "vm.create");
            api::until(&mut changes, "the VM to be made", ends).await?;
            anyhow::Ok(begin.elapsed())
        })?;
        let overlay = instance.datastore().join(format!("raw{run}.qcow2"));
        let begin = Instant::now();
        let status = Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"])
            .args([&image, &overlay])
            .stdout(Stdio::null())
            .status()?;
        let took_raw = begin.elapsed();
        ensure!(status.success(), "qemu-img create failed");
        if run > 0 {
            measured.push(took);
            raw.push(took_raw);
        }
    }
    Ok(vec![Figure::ratio("create from image, over qemu-img create -b", &measured, &raw, 2.5)])
}
