//! Hot add, request → the guest itself says that it has it: CPUs, 1 GiB of memory, a disk, a NIC.
//!
//! There is no raw command to compare with that asks the guest; so these are times with a bound.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use hostler_e2e::Instance;

use crate::figure::Figure;

/// What each must reach, in milliseconds.
const MOST: f64 = 1500.0;
/// Of the guest, which had one: whatever this machine has, a host runs guests of more CPUs than its own
/// if no other has more.
const CPUS: &str = "4";
const SMALL: [&str; 4] = ["vm", "set", "web01", "--cpus"];

pub(crate) fn measure(runs: usize) -> Result<Vec<Figure>> {
    let instance = Instance::start();
    instance.import_tiny();
    let create = ["vm", "create", "web01", "--image", "tiny", "--memory", "256MiB"];
    instance.ok(&[&create[..], &["--max-memory", "2GiB", "--start", "--wait=guest"]].concat());

    let (mut cpu, mut memory, mut disk, mut nic) = (vec![], vec![], vec![], vec![]);
    for _ in 0..runs.min(5) {
        cpu.push(timed(&instance, &[&SMALL[..], &[CPUS]].concat(), || {
            in_guest(&instance, "nproc") == CPUS
        })?);
        memory.push(timed(&instance, &["vm", "set", "web01", "--memory", "1280MiB"], || {
            let total = in_guest(&instance, "awk '/MemTotal/ { print $2 }' /proc/meminfo");
            total.parse::<u64>().is_ok_and(|kib| kib > 1100 << 10)
        })?);
        let add = ["vm", "disk", "add", "web01", "--name", "data", "--size", "1GiB"];
        disk.push(timed(&instance, &add, || {
            in_guest(&instance, "grep -h '' /sys/block/*/serial").lines().any(|line| line == "data")
        })?);
        nic.push(timed(&instance, &["vm", "nic", "add", "web01", "--network", "default"], || {
            in_guest(&instance, "ls /sys/class/net").contains("eth1")
        })?);
        // From the beginning: an emulated machine does not get CPUs again that it has lost.
        instance.ok(&["vm", "disk", "remove", "web01", "data", "--delete-data"]);
        instance.ok(&["vm", "nic", "remove", "web01", "nic1"]);
        instance.ok(&["vm", "stop", "web01", "--power-off"]);
        instance.ok(&[&SMALL[..], &["1", "--memory", "256MiB"]].concat());
        instance.ok(&["vm", "start", "web01", "--wait=guest"]);
    }
    Ok(vec![
        Figure::time("hot add: 3 more CPUs", &cpu, MOST),
        Figure::time("hot add: 1 GiB", &memory, MOST),
        Figure::time("hot add: disk", &disk, MOST),
        Figure::time("hot add: NIC", &nic, MOST),
    ])
}

/// From the command line's start until it has ended and the guest has what was asked for: a guest
/// makes a device's node some time after the device was plugged in.
fn timed(instance: &Instance, command: &[&str], has: impl Fn() -> bool) -> Result<Duration> {
    const LONGEST: Duration = Duration::from_secs(10);
    let begin = Instant::now();
    instance.ok(command);
    let mut took = begin.elapsed();
    while !has() {
        ensure!(begin.elapsed() < LONGEST, "{command:?} is done, and the guest does not have it");
        took = begin.elapsed();
    }
    Ok(took)
}

fn in_guest(instance: &Instance, script: &str) -> String {
    instance.ok(&["vm", "exec", "web01", "--", "sh", "-c", script]).trim().to_owned()
}
