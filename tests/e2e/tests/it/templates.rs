//! A template, made of a guest that has lived: sealed without starting it, and two VMs made from it
//! that are two machines.

use std::fs;
use std::time::Duration;

use hostler_e2e::{Instance, build_appliance, eventually};

/// What tells a machine from others: its machine id, its SSH host key, its host name.
fn identity(hostler: &Instance, vm: &str) -> [String; 3] {
    // The data disk is mounted in the background; its last act is this link.
    let wait = "until [ -L /var/log ]; do sleep 0.1; done; cat /etc/machine-id";
    let exec = |command: &str| hostler.ok(&["vm", "exec", vm, "--", "sh", "-c", command]);
    let machine = exec(wait).trim().to_owned();
    assert_eq!(machine.len(), 32, "{machine}");
    let mut address = String::new();
    eventually("the guest's address", Duration::from_secs(60), || {
        let shown = hostler.json(&["vm", "show", vm]);
        let told = shown["status"]["guest"]["addresses"][0].as_str().map(str::to_owned);
        told.map(|told| address = told).is_some()
    });
    // The guest makes its key when the first client comes.
    let scan = hostler
        .namespace()
        .network_command("ssh-keyscan")
        .args(["-T", "60", "-t", "ed25519", &address])
        .output()
        .unwrap();
    let key = String::from_utf8_lossy(&scan.stdout).into_owned();
    let key = key.split_whitespace().last().expect("it has a key").to_owned();
    [machine, key, exec("hostname").trim().to_owned()]
}

#[test]
fn qemu_vms_from_a_sealed_template_are_machines_of_their_own() {
    build_appliance();
    let hostler = Instance::start();
    hostler.import_tiny();
    hostler.boot_tiny("base");
    let base = identity(&hostler, "base");
    assert_eq!(base[2], "base");
    let refused = ["template", "create", "golden", "--from", "base", "--move"];
    assert!(hostler.fails(4, &refused).contains("must be stopped"));
    hostler.ok(&["vm", "stop", "base"]);
    let id = hostler.json(&["vm", "show", "base"])["metadata"]["id"].as_str().unwrap().to_owned();
    hostler.ok(&refused);

    // It is no VM any more.
    hostler.fails(3, &["vm", "show", "base"]);
    for command in [&["vm", "start", &id][..], &["vm", "delete", &id, "--yes", "--now"]] {
        assert!(hostler.fails(4, command).contains("template"));
    }
    hostler.ok(&["template", "seal", "golden"]);
    let shown = hostler.ok(&["template", "show", "golden:1"]);
    for removed in ["machine id: /etc/machine-id", "SSH host key: /etc/dropbear/", "log: /var/log"]
    {
        assert!(shown.contains(removed), "no `{removed}` in {shown}");
    }

    let file = hostler.path().join("one.yaml");
    fs::write(&file, "kind: vm\nname: one\ntemplate: golden\nstart: true\n").unwrap();
    let file = file.to_string_lossy();
    assert!(hostler.ok(&["apply", "-f", &file]).contains("created"));
    assert!(hostler.ok(&["apply", "-f", &file]).contains("unchanged"));
    let create = ["vm", "create", "two", "--template", "golden:1", "--start", "--wait=guest"];
    hostler.ok(&create);
    let two = identity(&hostler, "two");
    let one = identity(&hostler, "one");
    assert_eq!((one[2].as_str(), two[2].as_str()), ("one", "two"));
    for kind in 0..2 {
        assert!(one[kind] != two[kind] && one[kind] != base[kind] && two[kind] != base[kind]);
    }

    // Nobody takes it away from under them, and they say who they are.
    let refused = hostler.fails(4, &["template", "delete", "golden", "--yes"]);
    assert!(refused.contains("`one`") && refused.contains("`two`"), "{refused}");
    assert!(hostler.fails(4, &["template", "to-vm", "golden"]).contains("`one`"));
    for vm in ["one", "two"] {
        hostler.ok(&["vm", "delete", vm, "--force", "--now", "--yes"]);
    }
    // Back to what it was made of; it starts again, and is yet another machine.
    hostler.ok(&["template", "to-vm", "golden", "--name", "back"]);
    hostler.ok(&["vm", "start", "back", "--wait=guest"]);
    assert!(hostler.json(&["vm", "show", "back"])["status"].get("seal").is_none());
    hostler.ok(&["vm", "seal", "back", "--yes"]);
    assert_eq!(hostler.power("back"), "stopped");
    let seal = hostler.json(&["vm", "show", "back"])["status"]["seal"].clone();
    assert_eq!(seal["way"], "guest", "{seal}");
    hostler.ok(&["template", "create", "golden", "--from", "back", "--move"]);
    assert!(hostler.ok(&["template", "versions", "golden"]).contains("back"));
    hostler.ok(&["template", "delete", "golden", "--yes"]);
    hostler.assert_clean();
}
