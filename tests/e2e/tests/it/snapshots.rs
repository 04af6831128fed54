//! Snapshots of a real guest, typed as people type them; and what comes of them when everything is
//! killed in the middle.

use std::time::Duration;

use hostler_e2e::{Instance, eventually};

/// The tiny guest lives in its memory, so a disk of its own tells what is on disks.
const DISK: &str = "d=/dev/$(basename $(dirname $(grep -l data /sys/block/vd*/serial)));";

fn exec(hostler: &Instance, command: &str) -> String {
    let command = format!("{DISK} {command}");
    let script = ["vm", "exec", "web01", "--", "sh", "-c", &command];
    hostler.ok(&script).trim().to_owned()
}

fn write(hostler: &Instance, text: &str) {
    let put = "busybox dd of=$d bs=4k conv=sync,notrunc,fsync 2>/dev/null";
    exec(hostler, &format!("echo {text} | {put}"));
}

/// What the guest has on its disk.
fn state(hostler: &Instance) -> String {
    let get = "busybox dd if=$d bs=4k count=1 2>/dev/null | tr -d '\\0'";
    exec(hostler, &format!("echo 3 >/proc/sys/vm/drop_caches; {get}"))
}

fn wait_for_guest(hostler: &Instance) {
    eventually("the guest's agent", Duration::from_secs(60), || {
        let output = hostler.hostler(&["vm", "exec", "web01", "--", "true"]);
        output.status.success()
    });
}

fn names(hostler: &Instance) -> Vec<String> {
    let list = hostler.ok(&["vm", "snapshot", "list", "web01", "-o", "name"]);
    list.lines().map(str::to_owned).collect()
}

fn no_open_task(hostler: &Instance) -> bool {
    let tasks = hostler.json(&["task", "list", "--active"]);
    tasks.as_array().is_some_and(Vec::is_empty)
}

#[test]
fn qemu_a_guest_goes_back_and_forth() {
    let mut hostler = Instance::start();
    hostler.import_tiny();
    hostler.ok(&["vm", "create", "web01", "--image", "tiny", "--memory", "256MiB"]);
    hostler.ok(&["vm", "disk", "add", "web01", "--name", "data", "--size", "64MiB"]);
    hostler.ok(&["vm", "start", "web01", "--wait=guest"]);
    write(&hostler, "one");
    hostler.ok(&["vm", "snapshot", "create", "web01", "one", "--description", "the first"]);
    write(&hostler, "two");
    hostler.ok(&["vm", "snapshot", "create", "web01", "two", "--quiesce"]);
    write(&hostler, "three");
    exec(&hostler, "echo kept >/dev/remembered");
    hostler.ok(&["vm", "snapshot", "create", "web01", "three", "--memory"]);
    write(&hostler, "four");
    exec(&hostler, "echo lost >/dev/remembered");
    let tree = hostler.ok(&["vm", "snapshot", "tree", "web01"]);
    assert!(tree.contains("└─ you are here") && tree.contains("application"), "{tree}");
    let told = hostler.json(&["vm", "snapshot", "list", "web01"]);
    assert_eq!(told["snapshots"][1]["consistency"], "application");
    assert!(told["snapshots"][2]["memory"].as_u64().is_some_and(|size| size > 1 << 20));

    // Where it was, running, in the middle of what it did.
    hostler.ok(&["vm", "snapshot", "revert", "web01", "three", "--yes"]);
    wait_for_guest(&hostler);
    assert_eq!(state(&hostler), "three");
    assert_eq!(exec(&hostler, "cat /dev/remembered"), "kept");

    // One in the middle goes while the guest runs; those around it stay what they were.
    let plan = hostler.ok(&["vm", "snapshot", "delete", "web01", "two", "--plan"]);
    assert!(plan.contains("merge") && plan.contains("assumed"), "{plan}");
    hostler.ok(&["vm", "snapshot", "delete", "web01", "two", "--yes"]);
    assert_eq!(state(&hostler), "three");
    hostler.ok(&["vm", "snapshot", "rename", "web01", "one", "first"]);
    assert_eq!(names(&hostler), ["first", "three"]);
    let shown = hostler.json(&["vm", "snapshot", "show", "web01", "first"]);
    assert_eq!(shown["description"], "the first");
    hostler.fails(3, &["vm", "snapshot", "revert", "web01", "two", "--yes"]);

    // Protected, only by force; from its boot, as the snapshot has no memory.
    hostler.ok(&["vm", "set", "web01", "--protect"]);
    let refused = hostler.fails(4, &["vm", "snapshot", "revert", "web01", "first", "--yes"]);
    assert!(refused.contains("protected"), "{refused}");
    hostler.ok(&["vm", "snapshot", "revert", "web01", "first", "--yes", "--force"]);
    wait_for_guest(&hostler);
    assert_eq!(state(&hostler), "one");
    hostler.ok(&["vm", "set", "web01", "--no-protect"]);

    killed_in_the_middle(&mut hostler);

    hostler.ok(&["vm", "snapshot", "delete", "web01", "--all", "--yes"]);
    assert_eq!(names(&hostler), [] as [String; 0]);
    hostler.ok(&["vm", "stop", "web01", "--power-off"]);
    hostler.ok(&["vm", "start", "web01", "--wait=guest"]);
    assert_eq!(state(&hostler), "last", "all is merged, nothing is lost");
    hostler.ok(&["vm", "delete", "web01", "--force", "--yes", "--now"]);
    hostler.assert_clean();
}

/// Server and agent die while a snapshot is deleted whose merge takes seconds; then it is gone and
/// the guest has what it had.
fn killed_in_the_middle(hostler: &mut Instance) {
    hostler.ok(&["vm", "snapshot", "create", "web01", "large"]);
    let much = "busybox dd if=/dev/urandom of=$d bs=1M seek=1 count=16 conv=fsync 2>/dev/null";
    exec(hostler, much);
    write(hostler, "last");
    const SUM: &str = "echo 3 >/proc/sys/vm/drop_caches; md5sum <$d";
    let sum = exec(hostler, SUM);
    let delete = ["vm", "snapshot", "delete", "web01", "large", "--yes", "--no-wait"];
    hostler.ok(&[&delete[..], &["--max-rate", "4MiB"]].concat());
    eventually("the merge", Duration::from_secs(20), || {
        let tasks = hostler.json(&["task", "list", "--active"]);
        let percent = &tasks[0]["status"]["progress"]["percent"];
        percent.as_u64().is_some_and(|percent| percent > 0)
    });
    let busy = hostler.fails(4, &["vm", "snapshot", "delete", "web01", "first", "--yes"]);
    assert!(busy.contains("vm.snapshot_delete") && busy.contains("task cancel"), "{busy}");
    let guest = hostler.qemu_pids();
    hostler.kill_agent();
    hostler.kill_server();
    hostler.start_server();
    eventually("the end of the merge", Duration::from_secs(60), || no_open_task(hostler));
    assert_eq!(hostler.qemu_pids(), guest, "the guest has run all the time");
    assert!(!names(hostler).contains(&"large".to_owned()));
    let plan = hostler.json(&["vm", "consolidate", "web01", "--plan"]);
    if plan["files"]["merges"].as_array().is_some_and(|merges| !merges.is_empty()) {
        hostler.ok(&["vm", "consolidate", "web01"]);
    }
    assert_eq!(exec(hostler, SUM), sum);
    assert_eq!(state(hostler), "last");
}
