//! The life of a VM, from the command line.

use std::fs;
use std::time::Duration;

use hostler_e2e::{Instance, eventually};

#[test]
fn qemu_a_vm_lives_from_create_to_delete() {
    let hostler = Instance::start();
    hostler.import_tiny();
    hostler.boot_tiny("web01");

    let vm = hostler.json(&["vm", "show", "web01"]);
    assert_eq!(vm["status"]["power"], "running");
    assert_eq!(vm["status"]["guest"]["agent"], true);
    assert_eq!(vm["status"]["guest"]["hostname"], "web01");
    let address = vm["status"]["guest"]["addresses"][0].as_str().expect("an address").to_owned();
    assert_eq!(
        vm["status"]["nics"][0]["reserved"],
        address.as_str(),
        "DHCP gave what was reserved"
    );

    // The guest is reachable from its host.
    let ping = ["ping", "-c", "1", "-W", "5", &address];
    assert!(hostler.namespace().network_command("busybox").args(ping).status().unwrap().success());

    assert_eq!(hostler.ok(&["vm", "exec", "web01", "--", "hostname"]).trim(), "web01");
    let failed = hostler.hostler(&["vm", "exec", "web01", "--", "sh", "-c", "echo no >&2; exit 3"]);
    assert_eq!(failed.status.code(), Some(3));
    assert_eq!(String::from_utf8_lossy(&failed.stderr).trim(), "no");

    assert!(hostler.ok(&["vm", "log", "web01"]).contains("READY"));
    let png = hostler.path().join("screen.png");
    hostler.ok(&["vm", "screenshot", "web01", &png.to_string_lossy()]);
    assert!(fs::read(&png).unwrap().starts_with(b"\x89PNG"));

    // A running VM is not deleted, and says what it needs for a change.
    assert!(hostler.fails(4, &["vm", "delete", "web01", "--yes"]).contains("running"));
    let plan = hostler.ok(&["vm", "set", "web01", "--memory", "320MiB", "--plan"]);
    assert!(plan.contains("needs power off"), "{plan}");

    hostler.ok(&["vm", "stop", "web01"]);
    assert_eq!(hostler.power("web01"), "stopped");
    hostler.ok(&["vm", "set", "web01", "--cpus", "2", "--memory", "320MiB"]);
    hostler.ok(&["vm", "rename", "web01", "web02"]);
    hostler.fails(3, &["vm", "show", "web01"]);
    hostler.ok(&["vm", "start", "web02", "--wait=guest"]);
    assert_eq!(hostler.ok(&["vm", "exec", "web02", "--", "nproc"]).trim(), "2");

    hostler.ok(&["vm", "stop", "web02", "--power-off"]);
    hostler.ok(&["vm", "set", "web02", "--protect"]);
    assert!(hostler.fails(4, &["vm", "delete", "web02", "--yes"]).contains("protect"));
    hostler.ok(&["vm", "set", "web02", "--no-protect"]);
    let id = hostler.json(&["vm", "show", "web02"])["metadata"]["id"].as_str().unwrap().to_owned();
    hostler.ok(&["vm", "delete", "web02", "--yes"]);
    assert!(hostler.fails(3, &["vm", "show", "web02"]).contains("hostler vm undelete web02"));
    assert!(hostler.ok(&["recycle-bin", "list"]).contains(&id));
    assert!(hostler.fails(4, &["vm", "start", &id]).contains("recycle bin"));
    // Its name is free; the agent that it was told to knows it too, after a restart.
    hostler.kill_agent();
    hostler.ok(&["vm", "create", "web02", "--image", "tiny", "--memory", "128MiB"]);
    assert!(hostler.fails(4, &["vm", "undelete", "web02"]).contains("--name"));
    hostler.ok(&["vm", "delete", "web02", "--yes", "--now"]);
    hostler.ok(&["vm", "undelete", "web02"]);
    assert_eq!(hostler.json(&["vm", "show", "web02"])["metadata"]["id"], id.as_str());
    hostler.ok(&["vm", "start", "web02", "--wait=guest"]);
    let gone = hostler.ok(&["vm", "delete", "web02", "--yes", "--stop", "--now", "-o", "json"]);
    assert!(gone.contains("removed disk disk0"), "{gone}");
    hostler.fails(3, &["vm", "show", "web02"]);
    hostler.assert_clean();
}

#[test]
fn qemu_suspend_keeps_what_the_guest_was_doing() {
    let hostler = Instance::start();
    hostler.import_tiny();
    hostler.boot_tiny("web01");
    hostler.ok(&["vm", "exec", "web01", "--", "sh", "-c", "echo kept > /tmp/in-memory"]);
    hostler.ok(&["vm", "suspend", "web01"]);
    assert_eq!(hostler.power("web01"), "suspended");
    assert!(hostler.qemu_pids().is_empty(), "a suspended VM uses no memory");
    hostler.ok(&["vm", "resume", "web01"]);
    assert_eq!(hostler.power("web01"), "running");
    eventually("the guest agent's return", Duration::from_secs(30), || {
        let output = hostler.hostler(&["vm", "exec", "web01", "--", "cat", "/tmp/in-memory"]);
        String::from_utf8_lossy(&output.stdout).trim() == "kept"
    });
    hostler.ok(&["vm", "reset", "web01"]);
    eventually("a fresh boot", Duration::from_secs(60), || {
        !hostler
            .hostler(&["vm", "exec", "web01", "--", "test", "-e", "/tmp/in-memory"])
            .status
            .success()
            && hostler.hostler(&["vm", "exec", "web01", "--", "true"]).status.success()
    });
}

#[test]
fn qemu_a_vm_leaves_the_inventory_and_comes_back_from_its_files() {
    let hostler = Instance::start();
    hostler.import_tiny();
    hostler.ok(&["vm", "create", "web01", "--image", "tiny", "--memory", "256MiB"]);
    let id = hostler.json(&["vm", "show", "web01"])["metadata"]["id"].as_str().unwrap().to_owned();
    hostler.ok(&["vm", "unregister", "web01"]);
    hostler.fails(3, &["vm", "show", "web01"]);
    let folder = hostler.datastore().join("vms").join(&id);
    let kept = |ending: &str| {
        let mut files = fs::read_dir(&folder).unwrap().flatten();
        files.any(|file| file.file_name().to_string_lossy().contains(ending))
    };
    assert!(kept(".json") && kept(".qcow2"), "definition and disk stay on the datastore");
    hostler.ok(&["vm", "register", "local", &id]);
    let vm = hostler.json(&["vm", "show", "web01"]);
    assert_eq!(vm["metadata"]["id"], id.as_str());
    hostler.ok(&["vm", "start", "web01"]);
    assert_eq!(hostler.power("web01"), "running");
    hostler.ok(&["vm", "delete", "web01", "--yes", "--force", "--now"]);
    hostler.assert_clean();
}

#[test]
fn qemu_a_vm_is_made_from_a_blank_disk_and_an_iso() {
    let hostler = Instance::start();
    let iso = hostler.path().join("install.iso");
    fs::write(hostler.path().join("readme"), "hello").unwrap();
    let made = std::process::Command::new("genisoimage")
        .args(["-quiet", "-r", "-V", "INSTALL", "-o"])
        .arg(&iso)
        .arg(hostler.path().join("readme"))
        .status();
    assert!(made.expect("genisoimage runs").success());
    hostler.ok(&["image", "import", "install", &iso.to_string_lossy()]);
    assert_eq!(hostler.json(&["image", "show", "install"])["status"]["media"], "cdrom");
    let create = ["vm", "create", "blank", "--disk", "1GiB", "--iso", "install"];
    hostler.ok(&[&create[..], &["--memory", "256MiB", "--start"]].concat());
    assert_eq!(hostler.power("blank"), "running");
    // An image that a VM uses stays.
    hostler.fails(4, &["image", "delete", "install", "--yes"]);
    hostler.ok(&["vm", "delete", "blank", "--force", "--yes", "--now"]);
    hostler.ok(&["image", "delete", "install", "--yes"]);
    hostler.assert_clean();
}

#[test]
fn qemu_a_vm_is_made_from_a_file() {
    let hostler = Instance::start();
    hostler.import_tiny();
    let file = hostler.path().join("web.yaml");
    fs::write(
        &file,
        "kind: vm\nname: web01\nimage: tiny\ncpus: 1\nmemory: 256MiB\nlabels:\n  tier: web\n",
    )
    .unwrap();
    let file = file.to_string_lossy();
    assert!(hostler.ok(&["apply", "-f", &file]).contains("created"));
    assert!(hostler.ok(&["apply", "-f", &file]).contains("unchanged"));
    let vm = hostler.json(&["vm", "show", "web01"]);
    assert_eq!(vm["metadata"]["labels"]["tier"], "web");
    assert_eq!(vm["spec"]["memory"], 256 << 20);
}
