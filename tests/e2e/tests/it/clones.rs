//! Clones of a real guest, from the command line: full and linked, their parent's protection, and
//! becoming independent.

use std::process::Command;
use std::time::{Duration, Instant};

use hostler_e2e::Instance;

/// The device of the disk `data`.
const FIND: &str = "for d in /sys/block/vd*; do [ \"$(cat $d/serial)\" = data ] && \
                    disk=/dev/${d##*/}; done; echo 3 > /proc/sys/vm/drop_caches";

fn write(hostler: &Instance, vm: &str, text: &str) {
    let script =
        format!("{FIND}; echo {text} | dd of=$disk bs=4096 conv=sync,notrunc,fsync 2>/dev/null");
    hostler.ok(&["vm", "exec", vm, "--", "sh", "-c", &script]);
}

fn read(hostler: &Instance, vm: &str) -> String {
    let script = format!("{FIND}; head -n 1 $disk");
    hostler.ok(&["vm", "exec", vm, "--", "sh", "-c", &script]).trim().to_owned()
}

fn vm(hostler: &Instance, name: &str) -> serde_json::Value {
    hostler.json(&["vm", "show", name])
}

fn mac(vm: &serde_json::Value) -> String {
    vm["spec"]["nics"][0]["mac"].as_str().unwrap().to_owned()
}

#[test]
fn qemu_clones_keep_what_their_parent_had() {
    let hostler = Instance::start();
    hostler.import_tiny();
    hostler.ok(&["vm", "create", "web01", "--image", "tiny", "--memory", "256MiB"]);
    hostler.ok(&["vm", "disk", "add", "web01", "--name", "data", "--size", "64MiB"]);
    hostler.ok(&["vm", "start", "web01", "--wait=guest"]);
    write(&hostler, "web01", "before");

    // Of a running VM, without a trace in it.
    hostler.ok(&["vm", "clone", "web01", "copy"]);
    assert!(vm(&hostler, "web01")["status"].get("snapshots").is_none(), "nothing is left");
    write(&hostler, "web01", "after");
    hostler.ok(&["vm", "clone", "web01", "late", "--linked"]);
    write(&hostler, "web01", "later");

    // Of a stopped one, several at once; it runs on in layers of its own.
    hostler.ok(&["vm", "stop", "web01"]);
    let start = ["--linked", "--start", "--wait=guest"];
    let said =
        hostler.ok(&[&["vm", "clone", "web01", "--name", "web-{02..03}"], &start[..]].concat());
    assert!(said.contains("vm web-02 cloned and started") && said.contains("web-03"), "{said}");
    hostler.ok(&["vm", "start", "web01", "--wait=guest"]);
    write(&hostler, "web01", "latest");
    assert_eq!(read(&hostler, "web-02"), "later");
    let names = ["web01", "copy", "late", "web-02", "web-03"];
    let macs: std::collections::BTreeSet<_> =
        names.iter().map(|name| mac(&vm(&hostler, name))).collect();
    assert_eq!(macs.len(), names.len());
    let host = ["vm", "exec", "web-03", "--", "hostname"];
    assert_eq!(hostler.ok(&host).trim(), "web-03", "it knows who it is");

    // Who lies on whom is told, and protects.
    let shown = hostler.ok(&["vm", "show", "web01"]);
    assert!(shown.contains("Needed by") && shown.contains("web-03"), "{shown}");
    let disks = hostler.ok(&["vm", "disk", "list", "web-03"]);
    assert!(disks.contains("linked to vm web01"), "{disks}");
    let refused = hostler.fails(4, &["vm", "delete", "web01", "--yes", "--now", "--force"]);
    assert!(refused.contains("`web-02`") && refused.contains("flatten"), "{refused}");

    // Independent: one that runs, and those that do not.
    hostler.ok(&["vm", "flatten", "web-02"]);
    hostler.ok(&["vm", "stop", "web-03", "--power-off"]);
    hostler.ok(&["vm", "flatten", "web-03", "--disk", "data"]);
    hostler.ok(&["vm", "flatten", "web-03"]);
    hostler.ok(&["vm", "flatten", "late"]);
    hostler.fails(4, &["vm", "flatten", "late"]);
    hostler.ok(&["vm", "delete", "web01", "--yes", "--now", "--force"]);
    assert_eq!(read(&hostler, "web-02"), "later");
    for (name, expected) in [("copy", "before"), ("late", "after"), ("web-03", "later")] {
        hostler.ok(&["vm", "start", name, "--wait=guest"]);
        assert_eq!(read(&hostler, name), expected);
        hostler.ok(&["vm", "stop", name, "--power-off"]);
    }
    hostler.ok(&["vm", "delete", "copy", "late", "web-02", "web-03", "--yes", "--now", "--force"]);
    hostler.assert_clean();
}

#[test]
fn a_server_that_dies_in_a_full_clone_brings_it_to_its_end() {
    let mut hostler = Instance::start();
    hostler.ok(&["vm", "create", "big", "--disk", "1GiB", "--memory", "256MiB"]);
    let id = vm(&hostler, "big")["metadata"]["id"].as_str().unwrap().to_owned();
    let disk = hostler.datastore().join("vms").join(&id).join("disk0.qcow2");
    let mut fill = Command::new("qemu-io");
    fill.args(["-f", "qcow2", "-c", "write -P 7 0 300M"]).arg(disk);
    assert!(fill.output().unwrap().status.success());
    for round in 0..3 {
        let name = format!("copy-{round}");
        let task = hostler.ok(&["vm", "clone", "big", &name, "--no-wait", "-o", "name"]);
        std::thread::sleep(Duration::from_millis(60 * round));
        hostler.kill_server();
        if round == 1 {
            hostler.kill_agent();
        }
        hostler.start_server();
        hostler.ok(&["task", "watch", task.trim()]);
        let begin = Instant::now();
        while vm(&hostler, &name)["status"]["power"] != "stopped" {
            assert!(begin.elapsed() < Duration::from_secs(60), "{name} is made");
        }
        let id = vm(&hostler, &name)["metadata"]["id"].as_str().unwrap().to_owned();
        let disk = hostler.datastore().join("vms").join(&id).join("disk0.qcow2");
        let whole = ["-r", "-f", "qcow2", "-c", "read -P 7 0 300M"];
        assert!(Command::new("qemu-io").args(whole).arg(disk).output().unwrap().status.success());
        hostler.ok(&["vm", "delete", &name, "--yes", "--now"]);
    }
    hostler.ok(&["vm", "delete", "big", "--yes", "--now"]);
    hostler.assert_clean();
}
