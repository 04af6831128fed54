//! Memory of server and agent when nothing happens.

use std::time::Duration;

use anyhow::{Context, Result};
use hostler_e2e::Instance;

use crate::figure::Figure;

pub(crate) fn measure(_runs: usize) -> Result<Vec<Figure>> {
    let instance = Instance::start();
    // Idle means after the start's own work: let it settle.
    std::thread::sleep(Duration::from_secs(10));
    let mut total = 0.0;
    for pid in instance.daemon_pids() {
        total += resident(pid)?;
    }
    Ok(vec![Figure {
        what: "memory of server + agent, idle".to_owned(),
        unit: "MiB",
        measured: total,
        raw: None,
        most: 40.0,
        lowest: total,
        highest: total,
    }])
}

/// Resident set in MiB.
pub(crate) fn resident(pid: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
    let kib: f64 = line.split_whitespace().nth(1).context("no number")?.parse()?;
    Ok(kib / 1024.0)
}
