//! A VM's files go to another datastore, from the command line.

use std::time::Duration;

use hostler_e2e::{Instance, eventually};

/// The device of the disk `data`.
const FIND: &str = "for d in /sys/block/vd*; do [ \"$(cat $d/serial)\" = data ] && \
                    disk=/dev/${d##*/}; done; echo 3 > /proc/sys/vm/drop_caches";

fn script(hostler: &Instance, script: &str) -> String {
    hostler.ok(&["vm", "exec", "web01", "--", "sh", "-c", &format!("{FIND}; {script}")])
}

/// With a second datastore, and a VM with something on its disk.
fn instance() -> Instance {
    let hostler = Instance::start();
    hostler.import_tiny();
    let path = hostler.path().join("fast").to_string_lossy().into_owned();
    hostler.ok(&["datastore", "create", "fast", "--path", &path]);
    hostler.ok(&["vm", "create", "web01", "--image", "tiny", "--memory", "256MiB"]);
    hostler.ok(&["vm", "disk", "add", "web01", "--name", "data", "--size", "64MiB"]);
    hostler.ok(&["vm", "start", "web01", "--wait=guest"]);
    let fill = "dd if=/dev/urandom of=$disk bs=1M count=24 conv=fsync 2>/dev/null";
    script(&hostler, fill);
    hostler
}

const SUM: &str = "md5sum $disk | cut -c 1-32";

fn vm(hostler: &Instance) -> serde_json::Value {
    hostler.json(&["vm", "show", "web01"])
}

fn datastore(hostler: &Instance, name: &str) -> serde_json::Value {
    hostler.json(&["datastore", "show", name])["metadata"]["id"].clone()
}

#[test]
fn qemu_a_running_vm_moves_to_another_datastore_and_back() {
    let hostler = instance();
    hostler.ok(&["vm", "snapshot", "create", "web01", "one"]);
    let sum = script(&hostler, SUM);
    hostler.ok(&["vm", "clone", "web01", "late", "--linked"]);
    let refused = hostler.fails(4, &["vm", "migrate", "web01", "--datastore", "fast"]);
    assert!(refused.contains("late"), "{refused}");
    hostler.ok(&["vm", "delete", "late", "--yes", "--now"]);
    let plan = hostler.ok(&["vm", "migrate", "web01", "--datastore", "fast", "--dry-run"]);
    for part in ["datastore fast", "disk `disk0`", "image `tiny`", "snapshots", "goes on running"] {
        assert!(plan.contains(part), "{part}: {plan}");
    }
    let pids = hostler.qemu_pids();
    let said = hostler.ok(&["vm", "migrate", "web01", "--datastore", "fast"]);
    assert!(said.contains("moved to datastore fast"), "{said}");
    assert_eq!(hostler.qemu_pids(), pids, "the same QEMU");
    assert_eq!(vm(&hostler)["status"]["datastore"], datastore(&hostler, "fast"));
    assert_eq!(script(&hostler, SUM), sum);
    assert_eq!(std::fs::read_dir(hostler.datastore().join("vms")).unwrap().count(), 0);
    hostler.ok(&["image", "delete", "tiny", "--yes"]);
    hostler.ok(&["vm", "stop", "web01"]);
    hostler.ok(&["vm", "migrate", "web01", "--datastore", "local"]);
    assert_eq!(vm(&hostler)["status"]["datastore"], datastore(&hostler, "local"));
    hostler.ok(&["vm", "start", "web01", "--wait=guest"]);
    assert_eq!(script(&hostler, SUM), sum);
    hostler.ok(&["vm", "delete", "web01", "--force", "--yes", "--now"]);
    hostler.assert_clean();
}

#[test]
fn qemu_a_move_outlives_its_server_and_can_be_cancelled() {
    let mut hostler = instance();
    let sum = script(&hostler, SUM);
    let slow = ["vm", "migrate", "web01", "--datastore", "fast", "--rate", "8MiB", "--no-wait"];
    let copying = |hostler: &Instance| {
        let folder = hostler.path().join("fast/vms");
        std::fs::read_dir(folder).is_ok_and(|mut folder| folder.next().is_some())
    };
    hostler.ok(&slow);
    eventually("it copies", Duration::from_secs(30), || copying(&hostler));
    let tasks = hostler.json(&["task", "list"]);
    let items = tasks["items"].as_array().or(tasks.as_array()).cloned().unwrap();
    let open = items.iter().find(|task| task["status"]["state"] == "running").unwrap();
    hostler.ok(&["task", "cancel", open["metadata"]["id"].as_str().unwrap()]);
    eventually("nothing is left", Duration::from_secs(30), || !copying(&hostler));
    eventually("it can move again", Duration::from_secs(30), || {
        hostler.hostler(&slow).status.success()
    });
    eventually("it copies", Duration::from_secs(30), || copying(&hostler));
    assert_eq!(vm(&hostler)["status"]["datastore"], datastore(&hostler, "local"));
    hostler.kill_server();
    hostler.start_server();
    let there = datastore(&hostler, "fast");
    eventually("it is there", Duration::from_secs(60), || {
        vm(&hostler)["status"]["datastore"] == there
    });
    assert_eq!(script(&hostler, SUM), sum);
    assert_eq!(std::fs::read_dir(hostler.datastore().join("vms")).unwrap().count(), 0);
}
