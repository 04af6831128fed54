//! The server's state is lost, its guests are not: they are found at their host, and taken back.

use std::fs;
use std::time::Duration;

use hostler_e2e::{Instance, eventually};

/// In the guest.
fn told(hostler: &Instance, vm: &str, command: &str) -> String {
    hostler.ok(&["vm", "exec", vm, "--", "sh", "-c", command]).trim().to_owned()
}

fn uptime(hostler: &Instance, vm: &str) -> f64 {
    told(hostler, vm, "cut -d' ' -f1 /proc/uptime").parse().unwrap()
}

/// Whether the host has been connected since the server's start.
fn is_connected(hostler: &Instance, host: &str) -> bool {
    hostler.json(&["host", "show", host])["status"]["state"] == "connected"
}

/// A backup of the store from before the VM was made is put back while its guest runs.
#[test]
fn qemu_a_guest_that_a_restored_store_does_not_know_is_taken_back_and_runs_on() {
    let mut hostler = Instance::start();
    hostler.import_tiny();
    let hosts = hostler.json(&["host", "list"]);
    let host = hosts.as_array().or(hosts["items"].as_array()).unwrap()[0]["metadata"]["name"]
        .as_str()
        .unwrap()
        .to_owned();
    let (database, backup) = (hostler.state().join("hostler.db"), hostler.path().join("backup.db"));
    let sql = format!("VACUUM INTO '{}'", backup.display());
    let status = std::process::Command::new("sqlite3").arg(&database).arg(sql).status();
    assert!(status.unwrap().success());
    hostler.boot_tiny("web01");
    hostler.ok(&["vm", "set", "web01", "--label", "project=shop"]);
    let id = hostler.json(&["vm", "show", "web01"])["metadata"]["id"].as_str().unwrap().to_owned();
    let (boot, before) =
        (told(&hostler, "web01", "cat /proc/sys/kernel/random/boot_id"), uptime(&hostler, "web01"));
    let processes = hostler.qemu_pids();

    hostler.kill_server();
    for name in ["hostler.db-wal", "hostler.db-shm"] {
        let _ = fs::remove_file(database.with_file_name(name));
    }
    fs::copy(&backup, &database).unwrap();
    hostler.start_server();
    eventually("the host is connected", Duration::from_secs(30), || is_connected(&hostler, &host));
    hostler.fails(3, &["vm", "show", "web01"]);
    let shown = hostler.hostler(&["host", "show", &host]);
    let remark = String::from_utf8_lossy(&shown.stderr).into_owned();
    assert!(remark.contains("web01 (running)") && remark.contains("--from-host"), "{remark}");
    let found = hostler.json(&["vm", "register", "--from-host", &host]);
    let found = &found.as_array().or(found["items"].as_array()).unwrap()[0];
    assert_eq!((&found["id"], &found["name"]), (&id.as_str().into(), &"web01".into()), "{found}");
    assert!(found["problem"].is_null(), "{found}");
    let refused = hostler.fails(4, &["vm", "register", "local", &id]);
    assert!(refused.contains("--from-host"), "{refused}");

    // Somebody has taken its name meanwhile.
    hostler.ok(&["vm", "create", "web01", "--disk", "16MiB", "--memory", "128MiB"]);
    let refused = hostler.fails(4, &["vm", "register", "--from-host", &host, &id]);
    assert!(refused.contains("--name"), "{refused}");
    hostler.ok(&["vm", "register", "--from-host", &host, &id, "--name", "web07"]);
    let vm = hostler.json(&["vm", "show", "web07"]);
    assert_eq!(vm["status"]["power"], "running", "{vm:#}");
    assert_eq!(vm["metadata"]["labels"]["project"], "shop", "{vm:#}");
    assert_eq!(told(&hostler, "web07", "cat /proc/sys/kernel/random/boot_id"), boot);
    assert!(uptime(&hostler, "web07") > before, "its clock goes on");
    assert_eq!(hostler.qemu_pids(), processes, "the same process");

    // It is a VM like any other again, also for an agent that starts anew.
    hostler.kill_agent();
    eventually("the host is connected", Duration::from_secs(30), || {
        is_connected(&hostler, &host) && hostler.power("web07") == "running"
    });
    hostler.ok(&["vm", "snapshot", "create", "web07", "taken-back"]);
    hostler.ok(&["vm", "stop", "web07", "--power-off"]);
    hostler.ok(&["vm", "start", "web07"]);
    hostler.ok(&["vm", "delete", "web07", "web01", "--force", "--yes", "--now"]);
    hostler.assert_clean();
}
