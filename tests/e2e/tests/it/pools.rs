//! Resource pools on real guests: shares, limits and reservations that are kept by the kernel.

use std::time::{Duration, Instant};

use hostler_e2e::{Instance, eventually};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(30);

/// Nanoseconds of CPU time that a VM has used, from its control group.
fn used(id: &str) -> u64 {
    let find = std::process::Command::new("find")
        .args(["/sys/fs/cgroup", "-maxdepth", "6", "-type", "d", "-name", id])
        .output()
        .unwrap();
    let groups = String::from_utf8(find.stdout).unwrap();
    let read = |group: &str| {
        if let Ok(v1) = std::fs::read_to_string(format!("{group}/cpuacct.usage")) {
            return v1.trim().parse::<u64>().ok();
        }
        let v2 = std::fs::read_to_string(format!("{group}/cpu.stat")).ok()?;
        let line = v2.lines().find_map(|line| line.strip_prefix("usage_usec "))?;
        line.trim().parse::<u64>().ok().map(|micros| micros * 1000)
    };
    groups.lines().find_map(read).unwrap_or_else(|| panic!("{id} has no group in {groups:?}"))
}

fn id(hostler: &Instance, name: &str) -> String {
    hostler.json(&["vm", "show", name])["metadata"]["id"].as_str().unwrap().to_owned()
}

/// What each VM used, in thousandths of a CPU, over some seconds.
#[expect(clippy::print_stdout, reason = "the figures of a measurement")]
fn measured(ids: &[String]) -> Vec<u64> {
    let read = || ids.iter().map(|id| used(id)).collect::<Vec<_>>();
    let (before, begin) = (read(), Instant::now());
    std::thread::sleep(Duration::from_secs(10));
    let (after, span) = (read(), begin.elapsed().as_nanos());
    let rate = |(before, after): (u64, u64)| {
        u64::try_from(u128::from(after - before) * 1000 / span).unwrap()
    };
    let rates: Vec<_> = before.into_iter().zip(after).map(rate).collect();
    println!("thousandths of a CPU: {rates:?}");
    rates
}

fn assert_ratio(one: u64, other: u64, expected: f64) {
    let ratio = one as f64 / other as f64;
    assert!((ratio / expected - 1.0).abs() < 0.1, "{one}:{other} is {ratio}, not {expected}");
}

fn node<'a>(tree: &'a Value, name: &str) -> &'a Value {
    let mut nodes = tree["nodes"].as_array().unwrap().iter();
    nodes.find(|node| node["name"] == name).unwrap()
}

#[test]
fn qemu_busy_guests_get_cpu_by_shares_limits_and_reservations() {
    let hostler = Instance::start();
    hostler.import_tiny();
    let cpus = std::thread::available_parallelism().unwrap().get().to_string();
    hostler.ok(&["pool", "create", "gold", "--cpu-shares", "4000"]);
    hostler.ok(&["pool", "create", "iron", "--cpu-shares", "2000"]);
    for (vm, pool) in [("gold01", "gold"), ("iron01", "iron")] {
        hostler.ok(&[
            "vm",
            "create",
            vm,
            "--image",
            "tiny",
            "--memory",
            "128MiB",
            "--cpus",
            &cpus,
            "--pool",
            pool,
            "--no-network",
            "--start",
            "--wait=guest",
        ]);
        let spin = "(while :; do :; done) >/dev/null 2>&1 & ".repeat(cpus.parse().unwrap());
        hostler.ok(&["vm", "exec", vm, "--", "sh", "-c", &spin]);
    }
    let ids = ["gold01", "iron01"].map(|name| id(&hostler, name));
    let mhz = hostler.json(&["host", "list"]);
    let mhz =
        mhz["items"].as_array().or(mhz.as_array()).unwrap()[0]["status"]["facts"]["mhz_per_cpu"]
            .as_u64()
            .unwrap();

    // All of them on one CPU: on several, how fair groups are is also a matter of what the kernel's
    // balancer puts where.
    for pid in hostler.qemu_pids() {
        let pinned = std::process::Command::new("taskset")
            .args(["-acp", "0", &pid.to_string()])
            .output()
            .unwrap();
        assert!(pinned.status.success(), "{pinned:?}");
    }

    // 2 : 1 by the shares of their pools.
    let rates = measured(&ids);
    assert_ratio(rates[0], rates[1], 2.0);

    // The tree knows that both want more than they are entitled to.
    eventually("both are measured and starved", PATIENCE, || {
        let tree = hostler.json(&["pool", "tree"]);
        let starved = |name: &str| {
            let cpu = &node(&tree, name)["cpu"];
            cpu["used"].is_u64() && cpu["starved"].as_u64() > Some(0)
        };
        starved("gold01") && starved("iron01")
    });
    let explained = hostler.ok(&["pool", "explain", "iron01"]);
    assert!(explained.contains("vm `iron01` is entitled to "), "{explained}");

    // A limit of a fifth of a CPU on the pool caps the guest in it, and the other takes the rest.
    let limit = format!("{}MHz", mhz / 5);
    hostler.ok(&["pool", "set", "gold", "--cpu-limit", &limit]);
    std::thread::sleep(Duration::from_secs(2));
    let rates = measured(&ids);
    assert!((50..=220).contains(&rates[0]) && rates[1] > 2 * rates[0], "{rates:?}");
    hostler.ok(&["pool", "set", "gold", "--cpu-limit", "none"]);

    // A reservation holds against any shares: three quarters of the host for the poorer one.
    let host: u64 = mhz * cpus.parse::<u64>().unwrap();
    let reserved = format!("{}MHz", host * 3 / 4);
    hostler.ok(&["vm", "set", "iron01", "--cpu-reservation", &reserved]);
    std::thread::sleep(Duration::from_secs(2));
    let rates = measured(&ids);
    assert_ratio(rates[1], rates[0], 3.0);

    // Nobody is promised it twice, and it is told why.
    hostler.ok(&[
        "vm",
        "create",
        "late",
        "--image",
        "tiny",
        "--cpus",
        &cpus,
        "--no-network",
        "--cpu-reservation",
        &reserved,
    ]);
    let error = hostler.fails(8, &["vm", "start", "late"]);
    assert!(error.contains("are asked for") && error.contains("or add hosts"), "{error}");
    hostler.ok(&["vm", "stop", "iron01", "--power-off"]);
    hostler.ok(&["vm", "start", "late"]);
}

/// Two guests that want a whole CPU each, and there is one: both use about half of it and wait for as
/// long, and each is known to want about one.
#[test]
fn qemu_guests_that_wait_for_a_cpu_are_known_to_wait() {
    let hostler = Instance::start();
    hostler.import_tiny();
    let names = ["busy01", "busy02"];
    for vm in names {
        let size = ["--image", "tiny", "--memory", "128MiB", "--cpus", "1", "--no-network"];
        let create = ["vm", "create", vm];
        hostler.ok(&[&create[..], &size, &["--start", "--wait=guest"]].concat());
        let spin = "(while :; do :; done) >/dev/null 2>&1 & dd if=/dev/vda of=/dev/null bs=64k &";
        hostler.ok(&["vm", "exec", vm, "--", "sh", "-c", spin]);
    }
    for pid in hostler.qemu_pids() {
        let pinned = std::process::Command::new("taskset")
            .args(["-acp", "0", &pid.to_string()])
            .output()
            .unwrap();
        assert!(pinned.status.success(), "{pinned:?}");
    }
    let stats = |name: &str| hostler.json(&["vm", "stats", name]);
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    eventually("both use a part of a CPU and want about one", PATIENCE, || {
        names.iter().all(|name| {
            let used = &stats(name)["used"];
            let (cpu, ready) =
                (number(&used["cpu_millicpus"]), number(&used["cpu_ready_millicpus"]));
            // Others use that CPU as well.
            cpu >= 150 && ready >= 250 && (700..=1300).contains(&(cpu + ready))
        })
    });
    let text = hostler.ok(&["-o", "table", "vm", "stats", "busy01"]);
    assert!(text.contains("CPU ready") && text.contains("of the time it could run"), "{text}");
    let shown = hostler.json(&["vm", "show", "busy01"]);
    let of_host = &hostler.json(&["host", "stats", shown["status"]["host"].as_str().unwrap()]);
    assert!(number(&of_host["used"]["cpu_millicpus"]) > 500, "{of_host}");
    assert!(
        number(&of_host["used"]["memory"]) > 0 && of_host["vms"].as_array().unwrap().len() == 2
    );

    // The limit of its own is not taken for others' doing.
    hostler.ok(&["vm", "stop", "busy02", "--power-off"]);
    assert!(stats("busy02")["used"].is_null());
    hostler.ok(&["vm", "set", "busy01", "--cpu-limit", "0.2"]);
    eventually("it is kept back, and not by others", PATIENCE, || {
        let used = &stats("busy01")["used"];
        let of = |field: &str| number(&used[field]);
        of("cpu_millicpus") < 300
            && of("cpu_limited_millicpus") > 400
            && of("cpu_ready_millicpus") < of("cpu_limited_millicpus")
    });
}

#[test]
fn qemu_an_agent_that_comes_back_keeps_pools_as_they_were() {
    let mut hostler = Instance::start();
    hostler.import_tiny();
    hostler.ok(&["pool", "create", "gold"]);
    hostler.ok(&[
        "vm",
        "create",
        "gold01",
        "--image",
        "tiny",
        "--memory",
        "128MiB",
        "--pool",
        "gold",
        "--no-network",
        "--start",
    ]);
    let vm = id(&hostler, "gold01");
    let pool =
        hostler.json(&["pool", "get", "gold"])["metadata"]["id"].as_str().unwrap().to_owned();
    let group = |hostler: &Instance| {
        let pid = hostler.qemu_pids().first().copied()?;
        std::fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()
    };
    let inside = format!("/pool-{pool}/{vm}");
    eventually("the guest is in its pool's group", PATIENCE, || {
        group(&hostler).is_some_and(|groups| groups.contains(&inside))
    });
    hostler.kill_server();
    hostler.start_server();
    hostler.ok(&["vm", "set", "gold01", "--pool", "default"]);
    eventually("the guest is in no pool's group", PATIENCE, || {
        group(&hostler).is_some_and(|groups| groups.contains(&vm) && !groups.contains("pool-"))
    });
}
