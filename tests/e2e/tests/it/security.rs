//! Rows of the security cases that need the whole product.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use hostler_e2e::Instance;

const CANARY: &str = "canary-7f3a9c51";

/// Whether a file below the folder holds the text; looks into binary files too.
fn holds(folder: &std::path::Path, text: &str) -> Vec<std::path::PathBuf> {
    let output =
        Command::new("grep").args(["-rlaF", text]).arg(folder).output().expect("grep runs");
    String::from_utf8_lossy(&output.stdout).lines().map(Into::into).collect()
}

#[test]
fn qemu_secrets_stay_where_they_belong() {
    let hostler = Instance::start();
    hostler.import_tiny();
    let data = hostler.path().join("user-data");
    fs::write(&data, format!("#cloud-config\nruncmd:\n- echo {CANARY} > /root/secret\n")).unwrap();
    let create = ["vm", "create", "web01", "--image", "tiny", "--memory", "256MiB", "--start"];
    let data = data.to_string_lossy().into_owned();
    hostler.ok(&[&create[..], &["--wait=guest", "--user-data", &data]].concat());
    fs::remove_file(&data).unwrap();

    for command in [
        &["vm", "show", "web01", "-o", "json"][..],
        &["vm", "list", "-o", "yaml"],
        &["event", "list", "-o", "json"],
        &["task", "list", "-o", "json"],
        &["vm", "history", "web01", "-o", "json"],
    ] {
        assert!(!hostler.ok(command).contains(CANARY), "{command:?} shows the secret");
    }
    let log = fs::read_to_string(hostler.log()).unwrap();
    assert!(!log.contains(CANARY), "the log shows the secret");
    for pid in hostler.qemu_pids() {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
        assert!(!String::from_utf8_lossy(&line).contains(CANARY), "QEMU's arguments show it");
    }
    for path in holds(hostler.path(), CANARY) {
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o077;
        assert_eq!(mode, 0, "{} holds the secret and others may read it", path.display());
    }
}

#[test]
fn qemu_sockets_and_disks_are_for_their_vm_only() {
    let hostler = Instance::start();
    hostler.import_tiny();
    for name in ["web01", "web02"] {
        let create = ["vm", "create", name, "--image", "tiny", "--memory", "128MiB", "--start"];
        hostler.ok(&create);
    }
    let users: Vec<String> = hostler
        .qemu_pids()
        .iter()
        .map(|pid| {
            let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
            let field = |name: &str| {
                let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
                line.split_whitespace().nth(1).unwrap_or_default().to_owned()
            };
            assert_eq!(field("NoNewPrivs:"), "1");
            assert_eq!(field("Seccomp:"), "2");
            assert_eq!(field("CapEff:"), "0000000000000000");
            field("Uid:")
        })
        .collect();
    assert_ne!(users[0], users[1], "each VM has a user of its own");
    assert_ne!(users[0], "0");
    // Neither another VM's user nor nobody gets to sockets and disks.
    for user in [users[0].as_str(), "65534"] {
        let script = "find \"$1\" -type s -writable -o -name '*.qcow2' -path '*/vms/*' -readable";
        let output = Command::new("setpriv")
            .args(["--reuid", user, "--regid", user, "--clear-groups", "sh", "-c", script, "sh"])
            .arg(hostler.path())
            .stderr(std::process::Stdio::null())
            .output()
            .expect("setpriv runs");
        let reached = String::from_utf8_lossy(&output.stdout).lines().count();
        assert_eq!(reached, 0, "user {user} reaches:\n{}", String::from_utf8_lossy(&output.stdout));
    }
}

#[test]
fn qemu_every_listener_is_authenticated() {
    let hostler = Instance::start();
    hostler.import_tiny();
    hostler.ok(&["vm", "create", "web01", "--image", "tiny", "--memory", "128MiB", "--start"]);
    let output = hostler
        .namespace()
        .network_command("ss")
        .args(["-H", "-l", "-t", "-n", "-p"])
        .output()
        .unwrap();
    let listeners = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut seen = 0;
    for line in listeners.lines() {
        let port = line.split_whitespace().nth(3).and_then(|at| at.rsplit(':').next()).unwrap();
        // The NAT network's DNS: for guests, filtered from elsewhere.
        if line.contains("dnsmasq") {
            continue;
        }
        assert!(line.contains("hostler"), "an unknown listener: {line}");
        seen += 1;
        // Plain HTTP gets nothing, TLS without identity gets no answer but 401 or a refusal.
        let plain = format!("http://127.0.0.1:{port}/v1/vms");
        let tls = format!("https://127.0.0.1:{port}/v1/vms");
        for (url, fine) in [(plain, ["000", "400"]), (tls, ["000", "401"])] {
            let output = hostler
                .namespace()
                .network_command("curl")
                .args(["-sk", "--max-time", "5", "-o", "/dev/null", "-w", "%{http_code}", &url])
                .output()
                .unwrap();
            let code = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(fine.contains(&code.as_str()), "{url} answers {code}");
        }
    }
    assert!(seen >= 2, "server and agent listen:\n{listeners}");
}

#[test]
fn tokens_have_roles_and_end() {
    let hostler = Instance::start();
    hostler.ok(&["user", "create", "vera", "--role", "viewer"]);
    let token = hostler.json(&["token", "create", "reading", "--user", "vera"]);
    let token = token["token"].as_str().expect("the token").to_owned();
    let with_token = |token: &str, arguments: &[&str]| {
        hostler.command_with_token(token, arguments).output().unwrap()
    };
    assert!(with_token(&token, &["vm", "list"]).status.success());
    let refused = with_token(&token, &["user", "create", "eve", "--role", "admin"]);
    assert_eq!(refused.status.code(), Some(5), "{}", String::from_utf8_lossy(&refused.stderr));
    assert_eq!(with_token("hostler_nonsense", &["vm", "list"]).status.code(), Some(5));
    hostler.ok(&["user", "delete", "vera", "--yes"]);
    hostler.ok(&["user", "create", "vera", "--role", "admin"]);
    let reborn = with_token(&token, &["vm", "list"]);
    assert_eq!(reborn.status.code(), Some(5), "a recreated user inherits nothing");
}
