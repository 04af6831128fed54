//! Files instead of flags.

use expect_test::expect;

use crate::fake::Fake;
use crate::world;

const WEB: &str = "\
kind: network
name: lab
spec:
  mode: nat
  subnet: 10.88.0.0/24
---
kind: vm
name: web01
image: tiny
cpus: 2
memory: 1GiB
nics:
- network: default
labels:
  tier: web
";

#[test]
fn what_is_not_there_is_created_and_then_left() {
    let fake = Fake::start();
    let file = fake.file("web.yaml", WEB);
    let file = file.to_str().unwrap();
    expect![[r#"
        network lab would be created
        vm web01 would be created
    "#]]
    .assert_eq(&fake.run(&["apply", "-f", file, "--dry-run"]).ok());
    expect![[r#"
        network lab created
        vm web01 created
    "#]]
    .assert_eq(&fake.run(&["apply", "-f", file]).ok());
    let vm = WEB.split_once("---\n").unwrap().1;
    let file = fake.file("vm.yaml", vm);
    let again = fake.run(&["apply", "-f", file.to_str().unwrap()]).ok();
    assert_eq!(again, "vm web01 unchanged\n");
    assert!(!fake.asked().iter().any(|asked| asked.starts_with("vm_update")));
}

#[test]
fn only_what_differs_is_changed() {
    let fake = Fake::start().with_vm(world::vm("web01", 0x10));
    let file = fake.file(
        "web.json",
        r#"{"kind": "vm", "name": "web01", "cpus": 4, "memory": "1GiB", "image": "tiny"}"#,
    );
    let run = fake.run(&["apply", "-f", file.to_str().unwrap(), "-o", "json"]).ok();
    let json: serde_json::Value = serde_json::from_str(&run).unwrap();
    assert_eq!(json[0]["action"], "updated");
    assert_eq!(fake.asked()[0], r#"vm_update {"cpus":4}"#);
}

#[test]
fn what_cannot_be_changed_is_an_error() {
    let fake = Fake::start().with_vm(world::vm("web01", 0x10));
    let file = fake.file("a.yaml", "kind: network\nname: default\nmode: bridge\nbridge: br0\n");
    let error = fake.run(&["apply", "-f", file.to_str().unwrap()]).fails(4);
    expect![[r#"
        error: network default exists with another specification
        hint: that cannot be changed: delete the network first, or correct the file
    "#]]
    .assert_eq(&error);
    let file = fake.file("b.yaml", "kind: vm\nname: web01\nimage: tiny\ndisk_size: 9GiB\n");
    let error = fake.run(&["apply", "-f", file.to_str().unwrap()]).fails(4);
    assert!(error.contains("a first disk of 2GiB"), "{error}");
}

#[test]
fn nothing_is_done_when_one_document_is_wrong() {
    let fake = Fake::start();
    let file = fake.file("web.yaml", format!("{WEB}---\nkind: vm\nname: web02\nmemroy: 1GiB\n"));
    let error = fake.run(&["apply", "-f", file.to_str().unwrap()]).fails(1);
    assert!(error.contains("memroy") && error.contains("document 3 (vm web02)"), "{error}");
    assert!(fake.asked().is_empty());
}

#[test]
fn a_dry_run_knows_what_it_would_have_created_before() {
    let fake = Fake::start();
    let vm = "kind: vm\nname: web01\nimage: tiny\nnics: [{network: new}]\n";
    let alone = fake.file("vm.yaml", vm);
    fake.run(&["apply", "-f", alone.to_str().unwrap(), "--dry-run"]).fails(3);
    let network = "kind: network\nname: new\nmode: nat\nsubnet: 10.88.0.0/24\n---\n";
    let both = fake.file("both.yaml", format!("{network}{vm}"));
    let run = fake.run(&["apply", "-f", both.to_str().unwrap(), "--dry-run"]);
    assert_eq!(run.stderr, "vm web01 is not checked: there is no network `new` yet\n");
    assert_eq!(run.ok(), "network new would be created\nvm web01 would be created\n");
}
