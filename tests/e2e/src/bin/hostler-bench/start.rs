//! `POST` start → QEMU running, over raw QEMU with the same arguments: exec → running.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hostler_api::vm::{Start, VmPath};
use hostler_e2e::Instance;
use hostler_endpoint::NoParams;
use hostler_types::{Name, Ref};

use crate::api;
use crate::figure::Figure;

pub(crate) fn measure(runs: usize) -> Result<Vec<Figure>> {
    let instance = Instance::start();
    instance.import_tiny();
    instance.ok(&[
        "vm",
        "create",
        "web01",
        "--image",
        "tiny",
        "--memory",
        "256MiB",
        "--restart",
        "never",
    ]);
    let runtime = api::runtime()?;
    let client = api::client(&instance.socket())?;
    let name: Name = "web01".parse()?;
    let path = VmPath { vm: Ref::from(name) };

    let mut measured = Vec::new();
    let mut raw = Vec::new();
    for run in 0..=runs {
        let took = runtime.block_on(async {
            let mut changes = api::watch(&client).await?;
            let begin = Instant::now();
            client.call::<Start>(&path, &NoParams {}, ()).await?;
            api::until(&mut changes, "the VM to run", |change| api::runs(change, "web01")).await?;
            anyhow::Ok(begin.elapsed())
        })?;
        let pid = *instance.qemu_pids().first().context("no QEMU runs")?;
        let line = std::fs::read(format!("/proc/{pid}/cmdline"))?;
        instance.ok(&["vm", "stop", "web01", "--power-off"]);
        let took_raw = raw_start(&line, instance.path())?;
        // The first run warms the caches of both.
        if run > 0 {
            measured.push(took);
            raw.push(took_raw);
        }
    }
    Ok(vec![Figure::ratio(
        "start: POST → running, over raw QEMU exec → running",
        &measured,
        &raw,
        1.5,
    )])
}

/// Runs QEMU with the arguments that Hostler gave it, but for descriptors it inherits: sockets are
/// made by QEMU itself, the tap is one that exists already.
fn raw_start(line: &[u8], folder: &Path) -> Result<Duration> {
    let text = String::from_utf8_lossy(line);
    let arguments: Vec<_> = text.trim_end_matches('\0').split('\0').collect();
    let sockets = tempfile::tempdir_in(folder)?;
    let replaced: Vec<_> =
        arguments.iter().map(|one| without_descriptors(one, sockets.path())).collect();
    let qmp = sockets.path().join("bench-qmp");
    let _tap = Tap::new()?;
    let begin = Instant::now();
    let mut child = Command::new(arguments[0])
        .args(&replaced[1..])
        .arg("-qmp")
        .arg(format!("unix:{},server=on,wait=off", qmp.display()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    let running = wait_running(&qmp, begin);
    let took = begin.elapsed();
    if running.is_err() {
        let _ = child.kill();
        let output = child.wait_with_output()?;
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        return running.map(|()| took).context(words);
    }
    child.kill()?;
    child.wait()?;
    Ok(took)
}

pub(crate) fn without_descriptors(argument: &str, sockets: &Path) -> String {
    if argument.contains("\"type\":\"tap\"") || argument.starts_with("tap,") {
        let id = between(argument, "\"id\":\"", "\"").unwrap_or("nic0");
        return format!("tap,id={id},ifname={TAP},script=no,downscript=no");
    }
    if let Some(chardev) = argument.strip_prefix("socket,")
        && chardev.contains("fd=")
    {
        let id = between(chardev, "id=", ",").unwrap_or("chardev");
        let path = sockets.join(id);
        return format!("socket,id={id},path={},server=on,wait=off", path.display());
    }
    if argument.contains("\"mem-path\":\"/proc/self/fd/")
        && let Ok(object) = serde_json::from_str::<serde_json::Value>(argument)
    {
        return format!("memory-backend-memfd,id=ram0,share=on,size={}", object["size"]);
    }
    if argument.starts_with("unix:") {
        return format!("unix:{}", sockets.join("vnc").display());
    }
    argument.to_owned()
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let rest = text.split_once(before)?.1;
    Some(rest.split_once(after).map_or(rest, |(found, _)| found))
}

/// Connects as soon as the socket is there and asks until QEMU says `running`.
fn wait_running(qmp: &Path, begin: Instant) -> Result<()> {
    let stream = loop {
        match UnixStream::connect(qmp) {
            Ok(stream) => break stream,
            Err(_) if begin.elapsed() < Duration::from_secs(20) => {
                std::thread::sleep(Duration::from_micros(200));
            }
            Err(error) => return Err(error).context("raw QEMU opens no monitor"),
        }
    };
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    let mut stream = stream;
    stream.write_all(b"{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"query-status\"}\n")?;
    for line in lines.by_ref() {
        let line = line?;
        if line.contains("\"status\"") {
            ensure!(line.contains("\"running\": true"), "raw QEMU does not run: {line}");
            return Ok(());
        }
    }
    anyhow::bail!("raw QEMU closed its monitor")
}

const TAP: &str = "hostlerbench0";

/// A tap for raw QEMU.
struct Tap;

impl Tap {
    fn new() -> Result<Self> {
        let add = ["tuntap", "add", "dev", TAP, "mode", "tap", "vnet_hdr"];
        ensure!(Command::new("ip").args(add).status()?.success(), "cannot make a tap");
        Ok(Self)
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "del", TAP]).status();
    }
}
