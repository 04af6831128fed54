//! `hostler simulate` on a file, with no server anywhere.

use expect_test::expect;
use serde_json::json;

use crate::process::{Run, command};

fn id(number: u32) -> String {
    format!("00000000-0000-7000-8000-{number:012}")
}

/// Three hosts with a shared datastore, and four VMs on two of them.
fn inventory() -> serde_json::Value {
    let store = id(100);
    let host = |number: u32| {
        json!({
            "id": id(number), "name": format!("host{number:02}"), "labels": {"rack": format!("r{number}")},
            "cpus": 8, "memory": "16GiB", "datastores": [{"id": store, "ready": true}],
        })
    };
    let vm = |number: u32, host: u32| {
        json!({
            "id": id(200 + number), "name": format!("web{number:02}"), "labels": {"tier": "web"},
            "host": id(host), "datastore": store, "cpus": 2, "memory": "4GiB",
        })
    };
    let limits = json!({"warn_percent": 85, "refuse_percent": 95});
    json!({
        "format": 1, "revision": 7, "exported_at": "2026-11-27T20:00:00Z",
        "snapshot": {
            "hosts": [host(1), host(2), host(3)],
            "datastores": [{
                "id": store, "name": "nfs", "ready": true, "capacity": "1TiB", "free": "900GiB",
                "maintenance": false, "provisioned": 0, "limits": limits,
            }],
            "vms": [vm(1, 1), vm(2, 1), vm(3, 2), vm(4, 2)],
        },
    })
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("inventory.json"), inventory().to_string()).unwrap();
        Self(folder)
    }

    fn file(&self, name: &str, text: &str) {
        std::fs::write(self.0.path().join(name), text).unwrap();
    }

    fn run(&self, arguments: &str) -> Run {
        let line = format!("simulate --inventory inventory.json {arguments}");
        let arguments: Vec<_> = line.split_whitespace().collect();
        command(self.0.path(), &arguments).current_dir(self.0.path()).output().unwrap().into()
    }
}

#[test]
fn a_host_that_goes_is_emptied_first() {
    let folder = Folder::new();
    expect![[r#"
        WHAT    VM     FROM    TO      WHY
        move 1  web01  host01  host03  host `host01` is in maintenance; `web01` (0 MHz, 4GiB) goes to host `host03`
        move 2  web02  host01  host03  host `host01` is in maintenance; `web02` (0 MHz, 4GiB) goes to host `host03`
        0 VMs started, 2 moves in 2 steps, 0 VMs would not fit
    "#]].assert_eq(&folder.run("--remove-host host01").ok());
}

#[test]
fn what_would_not_fit_is_told_with_the_reason() {
    let folder = Folder::new();
    expect![[r#"
        WHAT   VM      FROM  TO       WHY
        start  new1-1  -     host03   it has no host
        start  new1-2  -     host03   it has no host
        start  new1-3  -     host03   it has no host
        start  new1-4  -     host01   it has no host
        start  new1-5  -     host02   it has no host
        start  new1-6  -     host03   it has no host
        start  new1-7  -     host01   it has no host
        start  new1-8  -     host02   it has no host
        start  new1-9  -     nowhere  no host can take vm `new1-9`: memory: 3 of 3 hosts, such as: host `host01` may promise 0B more memory of 16GiB, 4GiB are asked for
        8 VMs started, 0 moves in 0 steps, 1 VM would not fit
        headroom: 0 more of 1 CPUs, 1GiB; then no host can take vm `1 CPUs, 1GiB-1`: memory: 3 of 3 hosts, such as: host `host01` may promise 0B more memory of 16GiB, 1GiB are asked for
    "#]].assert_eq(&folder.run("--add-vms 9:1:4GiB --headroom 1:1GiB").ok());
}

#[test]
fn a_host_that_fails_leaves_its_vms_to_the_others() {
    let folder = Folder::new();
    expect![[r#"
        WHAT   VM     FROM  TO             WHY
        start  web01  -     host03         it has no host
        start  web02  -     host02-more-1  it has no host
        2 VMs started, 0 moves in 0 steps, 0 VMs would not fit
    "#]]
    .assert_eq(&folder.run("--fail-host host01 --add-hosts 1:host02").ok());
}

#[test]
fn edits_come_from_a_file_and_the_answer_is_the_same_each_time() {
    let folder = Folder::new();
    let edits = "edits:
- set_rule:
    name: apart
    strength: must
    kind: {anti_affinity: {vms: {labels: {tier: web}}, scope: {label: rack}}}
";
    folder.file("edits.yaml", edits);
    expect![[r#"
        conflict: rule `apart` cannot hold: 4 VMs (`web01`, `web02`, `web03` and 1 more) must be apart, and there are only 3 places for them; change it, or the hosts
        violation: rule `apart`: `web01`, `web02`, `web03` and 1 more are not apart: rack `r1`, rack `r2`
        WHAT    VM     FROM    TO       WHY
        move 1  web02  host01  host03   rule `apart`: `web01`, `web02`, `web03` and 1 more are not apart: rack `r1`, rack `r2`; `web02` (0 MHz, 4GiB) goes to host `host03`
        rule    web04  -       nowhere  rule `apart`: `web03`, `web04` are not apart: rack `r2`, but no host can take it: VM rules: 3 of 3 hosts, such as: host `host01` rule `apart` keeps it apart from `web01`, on rack `r1`
        0 VMs started, 1 move in 1 step, 1 VM would not fit
    "#]].assert_eq(&folder.run("--edits edits.yaml").ok());
    let json = folder.run("--edits edits.yaml -o json").ok();
    assert_eq!(json, folder.run("--edits edits.yaml -o json").ok());
    let answer: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(answer["conflicts"][0]["rules"], json!(["apart"]));
}

#[test]
fn what_makes_no_sense_is_said() {
    let folder = Folder::new();
    folder.file("edits.yaml", "edits:\n- remove_host: [a]\n");
    folder.file("other.json", "{\"format\": 2, \"revision\": 1, \"exported_at\": \"2026-11-27T20:00:00Z\", \"snapshot\": {}}");
    let mut text = folder.run("--remove-host none").fails(1);
    text += &folder.run("--edits edits.yaml").fails(1);
    text += &folder.run("--reserve web01:memory").fails(2);
    let other = command(folder.0.path(), &["simulate", "--inventory", "other.json"]);
    let mut other = other;
    text += &Run::from(other.current_dir(folder.0.path()).output().unwrap()).fails(1);
    expect![[r#"
        error: this cannot be simulated: edit 1: there is no host `none`; use a name of the snapshot
        error: edits[0]: unknown variant `remove_host`, expected one of `remove_hosts`, `fail_hosts`, `add_hosts`, `add_vms`, `set_rule`, `remove_rule`, `reserve`, `baseline`
        error: invalid value 'web01:memory' for '--reserve <VM:WHAT=AMOUNT>': write VM:memory=SIZE or VM:cpu=MHZ

        For more information, try '--help'.
        error: other.json: an inventory of format 2, not of 1
        hint: use the version of hostler that wrote it, or export it again
    "#]].assert_eq(&text);
}
