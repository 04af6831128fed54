//! From a viewer's wish to a delivered VM.

use std::fs;
use std::process::Output;
use std::time::Duration;

use hostler_e2e::{Instance, eventually};
use serde_json::Value;

/// Someone with a token instead of root's socket rights.
struct Person<'a> {
    hostler: &'a Instance,
    token: String,
}

impl<'a> Person<'a> {
    fn new(hostler: &'a Instance, name: &str, role: &str) -> Self {
        hostler.ok(&["user", "create", name, "--role", role]);
        let token = hostler.json(&["token", "create", name, "--user", name]);
        Self { hostler, token: token["token"].as_str().expect("the token").to_owned() }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.hostler.command_with_token(&self.token, arguments).output().unwrap()
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{arguments:?}: {said}");
        String::from_utf8(output.stdout).unwrap()
    }
}

const REQUEST: &str = "
vm: {image: tiny, memory: 256MiB, labels: {tier: web}}
purpose: the shop
owner: team-web
post:
  - command: {run: [touch, /root/first]}
  - script: {text: 'echo hello >>/root/hello'}
probes:
  - {check: agent}
  - {check: {http: {path: /index.html}}}
  - {check: {command: [grep, -q, hello, /root/hello]}}
";

/// The server is killed while the guest boots; everything goes on as if nothing had been.
#[test]
fn qemu_a_request_is_approved_made_and_delivered_though_the_server_dies() {
    let mut hostler = Instance::start();
    hostler.import_tiny();
    let file = hostler.path().join("web01.yaml");
    fs::write(&file, REQUEST).unwrap();
    let create = ["request", "create", "web01", "--lease", "30d", "-o", "name", "-f"];
    let (name, bert) = {
        let (anna, bert) =
            (Person::new(&hostler, "anna", "viewer"), Person::new(&hostler, "bert", "admin"));
        assert_eq!(anna.run(&["vm", "create", "web01", "--image", "tiny"]).status.code(), Some(5));
        let name = anna.ok(&[&create[..], &[&file.to_string_lossy()]].concat()).trim().to_owned();
        assert_eq!(anna.run(&["request", "approve", &name]).status.code(), Some(5));
        let shown = anna.ok(&["request", "show", &name]);
        assert!(shown.contains("default: 1 approval by admins, 1 missing"), "{shown}");
        bert.ok(&["request", "approve", &name, "--comment", "as discussed"]);
        (name, bert.token)
    };
    let runs = || {
        let output = hostler.hostler(&["vm", "show", "web01", "-o", "json"]);
        let vm: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        vm["status"]["power"] == "running"
    };
    eventually("the VM runs", Duration::from_secs(30), runs);
    let guests = hostler.qemu_pids();
    hostler.kill_server();
    hostler.start_server();
    let bert = Person { hostler: &hostler, token: bert };
    bert.ok(&["request", "watch", &name]);

    assert_eq!(hostler.qemu_pids(), guests, "it is the guest of before");
    let vm = hostler.json(&["vm", "show", "web01"]);
    assert_eq!(vm["metadata"]["labels"]["owner"], "team-web");
    assert_eq!(vm["metadata"]["labels"]["request"], name.as_str());
    assert_eq!(vm["spec"]["lease"]["seconds"], 30 * 24 * 3600);
    assert_eq!(hostler.ok(&["vm", "exec", "web01", "--", "cat", "/root/hello"]), "hello\n");
    hostler.ok(&["vm", "exec", "web01", "--", "test", "-e", "/root/first"]);
    let made = hostler.json(&["task", "list", "--action", "vm.create"]);
    assert_eq!(made.as_array().unwrap().len(), 1);
    let shown = hostler.ok(&["request", "show", &name]);
    for told in ["delivered", "bert (admin)", "as discussed", "validate: done", "it answered 200"] {
        assert!(shown.contains(told), "no `{told}` in {shown}");
    }
    let shown = hostler.ok(&["vm", "show", "web01"]);
    assert!(shown.lines().any(|line| line.starts_with("Owner:") && line.ends_with("team-web")));
}
