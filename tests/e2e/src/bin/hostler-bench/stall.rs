//! How long a guest's writes take, asked from a program of ours in the guest (`longest-write`).
//!
//! The time is the guest's. That of an emulated guest stands still with it while its process gets no
//! CPU, and so may be a little short; what is measured beside says what the machine does by itself.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hostler_api::vm::{Exec, VmPath};
use hostler_endpoint::{Client, NoParams};
use hostler_types::{ExecRequest, Ref};

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/bin/longest-write.rs");

/// Where the guest's writes go: behind what is merged, where nothing else writes.
const OFFSET: u64 = 500 << 20;

/// How long the guest writes each time: longer than a merge of 200 MiB with what comes around it.
pub(crate) const SECONDS: u64 = 6;

/// Puts the program into the guest's memory.
pub(crate) async fn install(client: &Client, vm: &Ref, folder: &Path) -> Result<()> {
    let folder = tempfile::tempdir_in(folder)?;
    let program = folder.path().join("longest-write");
    // Static: the guest has hardly a library.
    let mut compiler = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    compiler.args(["--edition", "2024", "-C", "opt-level=s", "-C", "strip=symbols"]);
    compiler.args(["-C", "panic=abort", "-C", "target-feature=+crt-static", SOURCE, "-o"]);
    let status = compiler.arg(&program).status().context("rustc cannot be run")?;
    ensure!(status.success(), "{compiler:?}: {status}");
    let text =
        Command::new("sh").args(["-c", "gzip -9 -c \"$0\" | base64"]).arg(&program).output()?;
    let unpack = "busybox base64 -d | busybox gunzip >/tmp/longest-write && \
                  chmod +x /tmp/longest-write";
    run(client, vm, unpack, String::from_utf8(text.stdout)?).await.map(drop)
}

/// The longest of the guest's writes to its disk within [`SECONDS`].
pub(crate) async fn longest_write(client: &Client, vm: &Ref) -> Result<Duration> {
    let script = format!(
        "for block in /sys/block/*; do \
         [ \"$(cat $block/serial 2>/dev/null)\" != disk0 ] || disk=${{block##*/}}; done; \
         /tmp/longest-write /dev/$disk {OFFSET} {SECONDS}"
    );
    let told = run(client, vm, &script, String::new()).await?;
    let (count, longest) = told.trim().split_once(' ').context("the guest tells two numbers")?;
    ensure!(count.parse::<u64>()? >= 100, "the guest has written {count} times only");
    Ok(Duration::from_micros(longest.parse()?))
}

async fn run(client: &Client, vm: &Ref, script: &str, stdin: String) -> Result<String> {
    let command = ["sh", "-c", script].map(str::to_owned).to_vec();
    let request = ExecRequest { command, stdin, timeout_seconds: 60 };
    let path = VmPath { vm: vm.clone() };
    let answer = client.call::<Exec>(&path, &NoParams {}, request).await?;
    ensure!(answer.exit_code == Some(0), "in the guest: {answer:?}");
    Ok(answer.stdout)
}
