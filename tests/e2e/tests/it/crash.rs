//! kill -9 of any part at any instant is a normal event.

use std::process::Stdio;
use std::time::Duration;

use hostler_e2e::{Instance, eventually};

/// The abort is injected before or after the n-th commit since the server's start; the first
/// commits of a start belong to the start itself, so n runs over them all until nothing aborts.
const MOST_COMMITS: u32 = 40;

/// Kills the server at every store write of `action`, restarts it, and checks the end state.
fn crash_at_every_commit(prepare: &[&[&str]], action: &[&str], check: &dyn Fn(&Instance, &str)) {
    let mut hostler = Instance::start();
    hostler.import_tiny();
    let mut aborted = 0;
    for n in 1..=MOST_COMMITS {
        let mut any = false;
        for when in ["before", "after"] {
            for command in prepare {
                hostler.ok(command);
            }
            hostler.kill_server();
            hostler.settings_mut().environment =
                vec![("HOSTLER_ABORT_AT".to_owned(), format!("{n}:{when}"))];
            hostler.spawn_server();
            let place = format!("{n}:{when}");
            let ended = !hostler.wait_ready_or_ended() || dies_during(&mut hostler, action);
            any |= ended;
            hostler.kill_server();
            hostler.settings_mut().environment.clear();
            hostler.start_server();
            eventually("the end of all tasks", Duration::from_secs(30), || no_open_task(&hostler));
            check(&hostler, &place);
            let _ = hostler.hostler(&["vm", "delete", "web01", "--force", "--yes", "--now"]);
            hostler.assert_clean();
        }
        aborted += u32::from(any);
        if !any {
            break;
        }
    }
    assert!(aborted >= 2, "only {aborted} commits were hit: the injection does not work");
    assert!(aborted < MOST_COMMITS, "the action makes more commits than were tried");
}

/// Whether the server ended during a command or a moment later. The command, which would wait a minute
/// for the server's return, is then given up.
fn dies_during(hostler: &mut Instance, action: &[&str]) -> bool {
    let mut command = hostler.command(action);
    let mut client = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    while client.try_wait().unwrap().is_none() {
        if hostler.wait_server_ended(Duration::from_millis(10)) {
            client.kill().unwrap();
            client.wait().unwrap();
            return true;
        }
    }
    hostler.wait_server_ended(Duration::from_millis(300))
}

fn no_open_task(hostler: &Instance) -> bool {
    let tasks = hostler.json(&["task", "list"]);
    let items = tasks["items"].as_array().or(tasks.as_array()).cloned().unwrap_or_default();
    items.iter().all(|task| {
        let state = task["status"]["state"].as_str().unwrap_or_default();
        assert_ne!(state, "stuck", "{task:#}");
        ["done", "failed", "cancelled"].contains(&state)
    })
}

/// `None` when the VM is not there.
fn power(hostler: &Instance) -> Option<String> {
    let output = hostler.hostler(&["vm", "show", "web01", "-o", "json"]);
    output.status.success().then(|| hostler.power("web01"))
}

#[test]
fn qemu_a_crash_during_create_leaves_the_vm_complete_or_absent() {
    let create = ["vm", "create", "web01", "--image", "tiny", "--memory", "256MiB"];
    crash_at_every_commit(&[], &create, &|hostler, place| match power(hostler).as_deref() {
        Some("stopped") => assert!(!hostler.leftovers().files.is_empty(), "{place}: no files"),
        None => assert!(hostler.leftovers().is_empty(), "{place}: {:?}", hostler.leftovers()),
        Some(other) => panic!("{place}: the VM is {other}"),
    });
}

#[test]
fn qemu_a_crash_during_start_leaves_the_vm_running_once_or_stopped() {
    let create = ["vm", "create", "web01", "--image", "tiny", "--memory", "128MiB"];
    crash_at_every_commit(&[&create], &["vm", "start", "web01"], &|hostler, place| {
        let processes = hostler.qemu_pids().len();
        match power(hostler).as_deref() {
            Some("running") => assert_eq!(processes, 1, "{place}"),
            Some("stopped") => assert_eq!(processes, 0, "{place}"),
            other => panic!("{place}: the VM is {other:?}"),
        }
    });
}

#[test]
fn qemu_a_crash_during_delete_leaves_the_vm_whole_or_gone() {
    let create = ["vm", "create", "web01", "--image", "tiny", "--memory", "128MiB"];
    let delete = ["vm", "delete", "web01", "--yes", "--now"];
    crash_at_every_commit(&[&create], &delete, &|hostler, place| match power(hostler).as_deref() {
        Some("stopped") => {
            hostler.ok(&["vm", "start", "web01"]);
            assert_eq!(hostler.qemu_pids().len(), 1, "{place}: it does not start any more");
        }
        None => hostler.assert_clean(),
        other => panic!("{place}: the VM is {other:?}"),
    });
}

#[test]
fn qemu_guests_outlive_server_and_agent() {
    let mut hostler = Instance::start();
    hostler.import_tiny();
    hostler.boot_tiny("web01");
    let before = hostler.qemu_pids();
    hostler.kill_agent();
    eventually("a new agent", Duration::from_secs(20), || {
        hostler.is_ready() && hostler.power("web01") == "running"
    });
    hostler.kill_server();
    assert_eq!(hostler.qemu_pids(), before, "the guest runs on without anyone");
    hostler.start_server();
    eventually("the guest to be found again", Duration::from_secs(20), || {
        hostler.power("web01") == "running"
            && hostler.hostler(&["vm", "exec", "web01", "--", "true"]).status.success()
    });
    assert_eq!(hostler.qemu_pids(), before, "it is the same process");
    hostler.ok(&["vm", "stop", "web01"]);
    assert!(hostler.qemu_pids().is_empty());
}
