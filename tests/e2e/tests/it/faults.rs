//! Bad input gets a clear error and loses nothing; faults are reported and repaired.

use std::process::Command;
use std::time::Duration;

use hostler_e2e::{Instance, eventually};

#[test]
fn qemu_a_killed_guest_is_started_again_if_its_policy_says_so() {
    let hostler = Instance::start();
    hostler.import_tiny();
    hostler.boot_tiny("web01");
    let never = ["vm", "create", "web02", "--image", "tiny", "--memory", "128MiB"];
    hostler.ok(&[&never[..], &["--restart", "never", "--start"]].concat());
    let before = hostler.qemu_pids();
    assert_eq!(before.len(), 2);
    for pid in &before {
        assert!(Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success());
    }
    eventually("web01 to run again", Duration::from_secs(30), || {
        hostler.power("web01") == "running"
            && hostler.qemu_pids().iter().any(|p| !before.contains(p))
    });
    eventually("web02 to have failed", Duration::from_secs(10), || {
        hostler.power("web02") == "failed"
    });
    assert_eq!(hostler.qemu_pids().len(), 1);
    hostler.ok(&["vm", "start", "web02"]);
    assert_eq!(hostler.power("web02"), "running");
}

#[test]
fn bad_input_is_refused_with_the_reason() {
    let hostler = Instance::start();
    hostler.import_tiny();
    let create = |arguments: &[&str]| {
        let all = [&["vm", "create"], arguments].concat();
        let output = hostler.hostler(&all);
        assert!(!output.status.success(), "{all:?} was accepted");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let check = |arguments: &[&str], words: &[&str]| {
        let error = create(arguments);
        for word in words {
            assert!(error.contains(word), "{arguments:?}: no `{word}` in:\n{error}");
        }
    };
    check(&["Web_01", "--image", "tiny"], &["Web_01", "a-z"]);
    check(&["web,id=x", "--image", "tiny"], &["web,id=x"]);
    check(&["web01", "--image", "nope"], &["nope"]);
    check(&["web01", "--image", "tiny", "--memory", "0"], &["memory"]);
    check(&["web01", "--image", "tiny", "--memory", "900TiB"], &["memory"]);
    check(&["web01", "--image", "tiny", "--memory", "1TiB"], &["memory"]);
    check(&["web01", "--image", "tiny", "--memory", "lots"], &["lots", "8GiB"]);
    check(&["web01", "--image", "tiny", "--cpus", "0"], &["0"]);
    check(&["web01", "--image", "tiny", "--cpus", "-1"], &["-1"]);
    check(&["web01", "--image", "tiny", "--cpus", "1000"], &["1000"]);
    check(&["web01", "--image", "tiny", "--disk", "1MiB"], &["disk"]);
    check(&["web01", "--image", "tiny", "--network", "nowhere"], &["nowhere"]);
    check(&["web01", "--image", "tiny", "--nonsense"], &["--nonsense"]);
    check(&["web01"], &["image"]);
    let file = hostler.path().join("typo.yaml");
    std::fs::write(&file, "kind: vm\nname: web01\nimage: tiny\nmemroy: 1GiB\n").unwrap();
    assert!(hostler.fails(1, &["apply", "-f", &file.to_string_lossy()]).contains("memroy"));

    let list = hostler.json(&["vm", "list"]);
    let items = list["items"].as_array().or(list.as_array()).cloned().unwrap_or_default();
    assert!(items.is_empty(), "{items:?}");
    hostler.ok(&["vm", "create", "web01", "--image", "tiny"]);
    assert!(create(&["web01", "--image", "tiny"]).contains("web01"));
    hostler.ok(&["vm", "delete", "web01", "--yes", "--now"]);
    hostler.assert_clean();
}

#[test]
fn qemu_a_host_that_falls_silent_is_shown_as_such_and_its_vms_as_unknown() {
    let hostler = Instance::start();
    hostler.import_tiny();
    hostler.ok(&["vm", "create", "web01", "--image", "tiny", "--memory", "128MiB", "--start"]);
    let agent = |signal: &str| {
        for pid in hostler.agent_pids() {
            let sent = Command::new("kill").args([signal, &pid.to_string()]).status().unwrap();
            assert!(sent.success());
        }
    };
    let host = || {
        let hosts = hostler.json(&["host", "list"]);
        let hosts = hosts["items"].as_array().or(hosts.as_array()).cloned().unwrap_or_default();
        hosts[0]["status"]["state"].as_str().unwrap_or_default().to_owned()
    };
    // Its connections stay open; it only says nothing any more, as one whose power is gone.
    agent("-STOP");
    let begin = std::time::Instant::now();
    eventually("the host to be away", Duration::from_secs(20), || host() == "disconnected");
    let noticed = begin.elapsed();
    eventually("its VM to be unknown", Duration::from_secs(5), || {
        hostler.power("web01") == "unknown"
    });
    assert_eq!(hostler.qemu_pids().len(), 1, "the guest goes on");
    agent("-CONT");
    eventually("the host to be back", Duration::from_secs(20), || host() == "connected");
    eventually("its VM to run", Duration::from_secs(10), || hostler.power("web01") == "running");
    // 5 s are promised; the rest is what a busy machine takes to say so.
    assert!(noticed < Duration::from_secs(8), "{noticed:?}");
}
