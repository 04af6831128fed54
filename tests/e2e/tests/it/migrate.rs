//! Guests move between the hosts of a lab, as users move them, and who is connected stays so.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use hostler_e2e::{Conversation, Lab, Link, eventually, tiny_image};
use serde_json::Value;

/// A lab of one's own, which ends with it.
pub(crate) struct Mine(Lab);

impl Mine {
    pub(crate) fn up(name: &str, hosts: usize) -> Self {
        let folder = PathBuf::from(format!("/tmp/hlab-{name}"));
        let own = std::env::current_exe().unwrap();
        let binary = std::env::var_os("HOSTLER_BINARY").map_or_else(
            || {
                let folder = own.ancestors().find(|folder| folder.join("hostler").is_file());
                folder.expect("the binary `hostler` is built").join("hostler")
            },
            PathBuf::from,
        );
        let lab = Lab::new(folder, name, binary);
        lab.up(hosts).unwrap();
        let lab = Self(lab);
        lab.ok(&[
            "image",
            "import",
            "tiny",
            &tiny_image().to_string_lossy(),
            "--datastore",
            "shared",
        ]);
        lab
    }

    #[track_caller]
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        self.0.ok(arguments).unwrap_or_else(|error| panic!("{error:#}"))
    }

    pub(crate) fn fails(&self, arguments: &[&str]) -> String {
        let output = self.0.hostler(arguments).unwrap();
        assert!(!output.status.success(), "{arguments:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    pub(crate) fn boot(&self, name: &str, host: &str) {
        let create = ["vm", "create", name, "--image", "tiny", "--memory", "256MiB"];
        let place = ["--host", host, "--network", "lab", "--set", "address=pool"];
        self.ok(&[&create[..], &place, &["--start", "--wait=guest"]].concat());
    }

    fn show(&self, vm: &str) -> Value {
        self.0.json(&["vm", "show", vm]).unwrap()
    }

    /// The name of the host that has it.
    pub(crate) fn host_of(&self, vm: &str) -> String {
        let hosts = self.0.json(&["host", "list"]).unwrap();
        let hosts = hosts["items"].as_array().or(hosts.as_array()).cloned().unwrap();
        let id = self.show(vm)["status"]["host"].clone();
        let host = hosts.iter().find(|host| host["metadata"]["id"] == id).unwrap();
        host["metadata"]["name"].as_str().unwrap().to_owned()
    }

    pub(crate) fn exec(&self, vm: &str, script: &str) -> String {
        self.ok(&["vm", "exec", vm, "--", "/bin/sh", "-c", script])
    }

    pub(crate) fn talk(&self, vm: &str) -> Conversation {
        Conversation::begin(&self.0, vm).unwrap_or_else(|error| panic!("{error:#}"))
    }

    /// VMs that the agent of a host knows of.
    fn records(&self, host: usize) -> usize {
        let records = self.0.folder().join(format!("host{host}/state/vms"));
        std::fs::read_dir(records).map_or(0, Iterator::count)
    }

    /// So many QEMUs are on the hosts, soon: who waits for a move does not wait for the end of the old one.
    pub(crate) fn guests_become(&self, expected: &[usize]) {
        eventually(&format!("QEMUs: {expected:?}"), Duration::from_secs(10), || {
            self.guests(expected.len()) == expected
        });
    }

    /// QEMUs on all hosts.
    pub(crate) fn guests(&self, hosts: usize) -> Vec<usize> {
        (1..=hosts).map(|host| self.0.processes_of("qemu-system", host).len()).collect()
    }
}

impl Drop for Mine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for log in ["server.log", "host1/agent.log", "host2/agent.log"] {
                let text = std::fs::read_to_string(self.0.folder().join(log)).unwrap_or_default();
                let tail: Vec<_> = text.lines().rev().take(30).collect();
                let tail: Vec<_> = tail.into_iter().rev().collect();
                let text = format!("--- {log} ---\n{}\n", tail.join("\n"));
                let _ = std::io::Write::write_all(&mut std::io::stderr(), text.as_bytes());
            }
        }
        self.0.down().unwrap();
    }
}

#[test]
fn qemu_a_guest_moves_with_an_open_connection() {
    let lab = Mine::up("move", 2);
    lab.boot("web01", "host1");
    let talk = lab.talk("web01");
    let boot = lab.exec("web01", "cat /proc/sys/kernel/random/boot_id");
    talk.longest_gap();

    let plan = lab.ok(&["vm", "migrate", "web01", "--dry-run"]);
    assert!(plan.contains("it would go to host host2"), "{plan}");
    assert!(plan.contains("may stand still for 300 ms (throttle"), "{plan}");
    assert!(plan.contains("expected: about "), "it was measured: {plan}");
    assert!(!plan.contains("only 300 ms are allowed"), "an idle guest is no trouble: {plan}");
    assert_eq!(lab.guests(2), [1, 0]);
    lab.ok(&["vm", "migrate", "web01"]);
    talk.goes_on();
    assert!(talk.longest_gap() < Duration::from_secs(5), "it was away only for a moment");
    assert_eq!(lab.host_of("web01"), "host2");
    lab.guests_become(&[0, 1]);
    assert_eq!(lab.exec("web01", "cat /proc/sys/kernel/random/boot_id"), boot);
    let task = lab.ok(&["task", "list"]);
    assert!(task.contains("vm.migrate"), "{task}");
    let shown = lab.ok(&["vm", "show", "web01"]);
    assert!(shown.contains("from host1: stood still for "), "{shown}");
    let last = lab.show("web01")["status"]["last_move"].clone();
    assert!(last["paused_microseconds"].as_u64().unwrap() > 0, "{last}");
    assert_eq!(last["allowed_ms"], 300, "{last}");

    // Over a slow link, and back.
    lab.0.link("host2", &Link::Rate("200mbit".to_owned())).unwrap();
    lab.ok(&["vm", "migrate", "web01", "--host", "host1"]);
    talk.goes_on();
    assert!(talk.longest_gap() < Duration::from_secs(5), "it was away only for a moment");
    assert_eq!(lab.host_of("web01"), "host1");
    lab.guests_become(&[1, 0]);
    lab.0.link("host2", &Link::Unlimited).unwrap();

    // What is off moves as well, and starts there.
    lab.ok(&["vm", "stop", "web01", "--power-off"]);
    lab.ok(&["vm", "migrate", "web01", "--host", "host2"]);
    assert_eq!(lab.host_of("web01"), "host2");
    lab.ok(&["vm", "start", "web01", "--wait=guest"]);
    lab.guests_become(&[0, 1]);
}

#[test]
fn qemu_a_guest_that_writes_too_fast_for_its_budget_stays_where_it_is_and_the_numbers_are_told() {
    let lab = Mine::up("budget", 2);
    lab.boot("db01", "host1");
    lab.ok(&["vm", "set", "db01", "--downtime-budget", "60ms", "--downtime-policy", "refuse"]);
    let shown = lab.ok(&["vm", "show", "db01"]);
    assert!(shown.contains("60 ms, else refuse"), "{shown}");
    // 64 MiB again and again, and a link that carries less.
    lab.exec(
        "db01",
        "busybox dd if=/dev/urandom of=/tmp/some bs=1M count=8 2>/dev/null; \
         touch /tmp/go; echo 'while [ -e /tmp/go ]; do for at in 0 1 2 3 4 5 6 7; do busybox dd if=/tmp/some of=/tmp/dirty bs=8M \
         seek=$at conv=notrunc 2>/dev/null; done; done' >/tmp/dirty.sh; \
         busybox sh /tmp/dirty.sh >/dev/null 2>&1 </dev/null & sleep 1",
    );
    lab.0.link("host2", &Link::Rate("100mbit".to_owned())).unwrap();
    // Under emulation it writes little in many a moment that is measured.
    let plans = (0..20).map(|_| lab.ok(&["vm", "migrate", "db01", "--dry-run"]));
    let mut plans = plans.inspect(|plan| {
        assert!(plan.contains("60 ms, as the VM says (refuse"), "{plan}");
    });
    assert!(plans.any(|plan| plan.contains("only 60 ms are allowed: it would not be moved")));
    let refused = lab.fails(&["vm", "migrate", "db01"]);
    // By the forecast, or on the way if the guest wrote less in the moment that was measured.
    let reasons = ["longer than the 60 ms that it may", "and 60 ms are allowed"];
    assert!(reasons.iter().any(|reason| refused.contains(reason)), "{refused}");
    assert_eq!((lab.host_of("db01").as_str(), lab.guests(2)), ("host1", vec![1, 0]));

    // Once it does nothing, it may go.
    lab.exec("db01", "rm /tmp/go; sleep 3");
    lab.0.link("host2", &Link::Unlimited).unwrap();
    lab.ok(&["vm", "migrate", "db01", "--downtime", "300ms"]);
    assert_eq!(lab.host_of("db01"), "host2");
    assert_eq!(lab.show("db01")["status"]["last_move"]["allowed_ms"], 300);
}

#[test]
fn qemu_what_stands_in_the_way_is_told_at_once() {
    let lab = Mine::up("refuse", 2);
    let create = ["vm", "create", "own", "--image", "tiny-own", "--memory", "256MiB"];
    let image = tiny_image();
    lab.ok(&[
        "image",
        "import",
        "tiny-own",
        &image.to_string_lossy(),
        "--datastore",
        "local-host1",
    ]);
    lab.ok(&[&create[..], &["--network", "lab"]].concat());
    let refused = lab.fails(&["vm", "migrate", "own", "--host", "host2"]);
    assert!(refused.contains("datastore `local-host1` is not on it"), "{refused}");
    let refused = lab.fails(&["vm", "migrate", "own"]);
    assert!(refused.contains("can go to no other host"), "{refused}");
    lab.boot("web01", "host1");
    let refused = lab.fails(&["vm", "migrate", "web01", "--host", "host1"]);
    assert!(refused.contains("is on host `host1` already"), "{refused}");
    lab.fails(&["vm", "migrate", "web01", "--downtime", "2h"]);
}

#[test]
fn qemu_a_move_over_a_cut_link_leaves_the_guest_where_it_is() {
    let lab = Mine::up("cut", 2);
    lab.boot("web01", "host1");
    let talk = lab.talk("web01");
    // Before the server knows that the host is away, and while the guest is being sent.
    for rate in [None, Some("10MiB")] {
        let host = |state: &str| {
            eventually(&format!("host2 is {state}"), Duration::from_secs(30), || {
                lab.0.json(&["host", "show", "host2"]).unwrap()["status"]["state"] == state
            });
        };
        match rate {
            None => lab.0.link("host2", &Link::Cut).unwrap(),
            Some(rate) => {
                let order = ["vm", "migrate", "web01", "--rate", rate, "--no-wait"];
                lab.ok(&order);
                eventually("it is on its way", Duration::from_secs(30), || lab.guests(2) == [1, 1]);
                std::thread::sleep(Duration::from_millis(1500));
                lab.0.link("host2", &Link::Cut).unwrap();
            }
        }
        let begun = std::time::Instant::now();
        if rate.is_none() {
            let failed = lab.fails(&["vm", "migrate", "web01", "--host", "host2"]);
            assert!(failed.contains("has not answered for 30 s"), "{failed}");
        } else {
            eventually("the move has failed", Duration::from_secs(60), || {
                let tasks = lab.0.json(&["task", "list"]).unwrap().to_string();
                !tasks.contains("\"running\"") && !tasks.contains("\"undoing\"")
            });
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
        talk.goes_on();
        assert_eq!(lab.host_of("web01"), "host1");
        host("disconnected");
        let begun = std::time::Instant::now();
        let refused = lab.fails(&["vm", "migrate", "web01", "--host", "host2"]);
        let at_once = begun.elapsed() < Duration::from_secs(10);
        assert!(at_once && refused.contains("does not answer"), "{refused}");
        lab.0.link("host2", &Link::Heal).unwrap();
        host("connected");
        eventually("nothing is left there", Duration::from_secs(30), || {
            lab.guests(2) == [1, 0] && lab.records(2) == 0
        });
    }
    lab.ok(&["vm", "migrate", "web01", "--host", "host2"]);
    talk.goes_on();
    assert_eq!(lab.host_of("web01"), "host2");
    lab.guests_become(&[0, 1]);
}

#[test]
fn qemu_a_killed_server_finds_the_move_done() {
    let lab = Mine::up("killed", 2);
    lab.boot("web01", "host1");
    let talk = lab.talk("web01");
    let ordered = lab.0.json(&["vm", "migrate", "web01", "--rate", "20MiB", "--no-wait"]);
    ordered.unwrap();
    eventually("it is on its way", Duration::from_secs(30), || lab.guests(2) == [1, 1]);
    std::thread::sleep(Duration::from_millis(1500));
    lab.0.kill_server();
    eventually("the agents end it without a server", Duration::from_secs(60), || {
        lab.guests(2) == [0, 1]
    });
    talk.goes_on();
    lab.0.start_server().unwrap();
    eventually("the server knows where it is", Duration::from_secs(30), || {
        lab.host_of("web01") == "host2" && lab.show("web01")["status"]["power"] == "running"
    });
    lab.guests_become(&[0, 1]);
}

#[test]
fn a_lab_goes_wholly_whatever_was_killed() {
    let lab = Mine::up("down", 1);
    let before = lab.0.processes();
    assert!(before.len() >= 2, "{before:?}");
    // As if its maker had died in the middle.
    let agent = lab.0.processes_of("hostler", 1)[0];
    Command::new("kill").args(["-9", &agent.to_string()]).status().unwrap();
    lab.0.down().unwrap();
    assert!(lab.0.processes().is_empty() && lab.0.namespaces().is_empty());
    assert!(!lab.0.folder().exists());
    lab.0.down().unwrap();
}
