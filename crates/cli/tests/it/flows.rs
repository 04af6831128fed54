//! What commands ask for, print and exit with.

use std::time::Duration;

use expect_test::expect;
use hostler_types::PowerState;
use rustix::process::{Pid, Signal, kill_process};

use crate::fake::{Fake, TaskEnd};
use crate::process::{Run, command};
use crate::world;

fn running(name: &str, n: u8) -> hostler_types::Vm {
    let mut vm = world::vm(name, n);
    vm.status.power = PowerState::Running;
    vm.status.guest = Some(world::report());
    vm
}

#[test]
fn lists_are_tables_for_people() {
    let fake = Fake::start().with_vm(world::vm("db01", 0x10)).with_vm(running("web01", 0x11));
    expect![[r#"
        NAME   STATE    CPUS  MEMORY  HOST    ADDRESS     GUEST
        db01   stopped     2    1GiB  host01  10.77.0.10  -
        web01  running     2    1GiB  host01  10.77.0.10  Debian GNU/Linux 12 (bookworm)
    "#]]
    .assert_eq(&fake.run(&["vm", "list"]).ok());
    assert_eq!(fake.run(&["vm", "list", "-o", "name"]).ok(), "db01\nweb01\n");
    let json: serde_json::Value =
        serde_json::from_str(&fake.run(&["vm", "list", "-o", "json"]).ok()).unwrap();
    assert_eq!(json[1]["metadata"]["name"], "web01");
    let yaml = fake.run(&["vm", "show", "web01", "-o", "yaml"]).ok();
    let yaml: serde_json::Value = serde_saphyr::from_str(&yaml).unwrap();
    assert_eq!(yaml["spec"]["memory"], 1 << 30);
}

#[test]
fn other_lists_are_tables_too() {
    let fake = Fake::start();
    let lists: Vec<_> = ["host", "datastore", "network", "image"]
        .iter()
        .map(|kind| fake.run(&[kind, "list"]).ok())
        .collect();
    expect![[r#"
        NAME    STATE      CPUS  MEMORY  ACCELERATOR  QEMU    ADDRESS
        host01  connected    16   64GiB  tcg          10.0.2  10.0.0.5:8444

        NAME   KIND   STATE  HOST    USED    FREE  CAPACITY  PROVISIONED  PATH
        local  local  ready  host01   12%  900GiB      1TiB  -            /var/lib/hostler/local

        NAME     STATE  MODE  DETAIL        MESSAGE
        default  ready  nat   10.77.0.0/24  -

        NAME  STATE  MEDIA  SIZE  STORED  DATASTORE  MESSAGE
        tiny  ready  disk   2GiB   17MiB  local      -
    "#]]
    .assert_eq(&lists.join("\n"));
}

#[test]
fn an_empty_list_says_so_on_stderr() {
    let fake = Fake::start();
    let list = fake.run(&["vm", "list"]);
    assert_eq!((list.stdout.as_str(), list.stderr.as_str()), ("", "no VMs\n"));
    assert_eq!(fake.run(&["vm", "list", "-q"]).stderr, "");
    assert_eq!(fake.run(&["vm", "list", "-o", "json"]).ok(), "[]\n");
}

#[test]
fn a_vm_is_shown_with_what_its_guest_says() {
    let fake = Fake::start().with_vm(running("web01", 0x11));
    let shown = fake.run(&["vm", "show", "web01"]).ok();
    // Ages depend on the day.
    let lines = shown.lines().filter(|line| !line.contains(" ago") && !line.contains(" since "));
    expect![[r#"
        Name:         web01
        Id:           01890a5d-ac96-774b-bcce-b302099a8011
        State:        running
        Host:         host01
        Datastore:    local
        CPUs:         2
        Memory:       1GiB
        Firmware:     bios
        Restart:      on-failure
        Protected:    no
        Disks:        disk0: 2GiB, on image tiny
        NICs:         nic0: default, 52:54:00:12:34:56, reserved 10.77.0.10
        Guest:        the agent answers, for 0s
          Host name:  web01
          System:     Debian GNU/Linux 12 (bookworm)
          Kernel:     6.1.0
          Addresses:  10.77.0.10"#]]
    .assert_eq(&lines.collect::<Vec<_>>().join("\n"));
}

#[test]
fn what_is_not_there_exits_with_3() {
    let fake = Fake::start();
    expect![[r#"
        error: there is no vm `web01`
        hint: `hostler vm list` shows those there are
    "#]]
    .assert_eq(&fake.run(&["vm", "show", "web01"]).fails(3));
}

#[test]
fn create_asks_for_what_the_flags_say() {
    let fake = Fake::start();
    let key = fake.file("id.pub", "ssh-ed25519 AAAA me\n");
    let data = fake.file("user-data", "#cloud-config\n");
    let line = format!(
        "vm create web01 --image tiny --disk 20GiB --disk 5GiB --cpus 4 --memory 8GiB --network a \
         --network b --firmware uefi --hostname www --user ana --ssh-key {} --user-data {} -l tier=web \
         --protect --restart never --host host01 --datastore local",
        key.display(),
        data.display()
    );
    let created = fake.run(&line.split_whitespace().collect::<Vec<_>>());
    expect![[r#"
        vm web01 created
    "#]]
    .assert_eq(&created.ok());
    let asked = fake.asked()[0].clone();
    let body: serde_json::Value =
        serde_json::from_str(asked.strip_prefix("vm_create ").unwrap()).unwrap();
    expect![[r##"
        {
          "cpus": 4,
          "customization": {
            "hostname": "www",
            "ssh_keys": [],
            "user_data": "#cloud-config\n",
            "users": [
              {
                "name": "ana",
                "ssh_keys": [
                  "ssh-ed25519 AAAA me"
                ],
                "sudo": true
              }
            ]
          },
          "datastore": "local",
          "description": "",
          "disk_size": 21474836480,
          "disks": [
            {
              "bus": "virtio-blk",
              "size": 5368709120
            }
          ],
          "firmware": "uefi",
          "host": "host01",
          "image": "tiny",
          "labels": {
            "tier": "web"
          },
          "memory": 8589934592,
          "name": "web01",
          "nics": [
            {
              "network": "a"
            },
            {
              "network": "b"
            }
          ],
          "protected": true,
          "restart": "never",
          "start": false
        }"##]]
    .assert_eq(&serde_json::to_string_pretty(&body).unwrap());
}

#[test]
fn create_can_be_tried_and_left_alone() {
    let fake = Fake::start();
    let dry = fake.run(&["vm", "create", "web01", "--image", "tiny", "--dry-run"]);
    assert!(dry.stderr.contains("nothing was made"), "{dry:?}");
    assert!(dry.ok().starts_with("host01 has 62GiB"));
    let ordered =
        fake.run(&["vm", "create", "web01", "--image", "tiny", "--no-wait", "-o", "name"]).ok();
    assert_eq!(ordered, "01890a5d-ac96-774b-bcce-b302099a8040\n");
    assert!(!fake.asked().iter().any(|asked| asked.starts_with("task_watch")));
    let taken = fake.run(&["vm", "create", "web01", "--image", "tiny"]).fails(4);
    assert_eq!(taken, "error: there is a vm `web01` already\n");
}

#[test]
fn mistakes_of_usage_exit_with_2() {
    let fake = Fake::start();
    let check = |arguments: &[&str], words: &[&str]| {
        let error = fake.run(arguments).fails(2);
        for word in words {
            assert!(error.contains(word), "{arguments:?}: no `{word}` in:\n{error}");
        }
    };
    check(&["vm", "create", "Web_01", "--image", "tiny"], &["Web_01", "a-z"]);
    check(&["vm", "create", "web01", "--image", "tiny", "--memory", "lots"], &["lots", "8GiB"]);
    check(&["vm", "create", "web01", "--image", "tiny", "--cpus", "0"], &["0", "1024"]);
    check(&["vm", "create", "web01", "--image", "tiny", "--cpus", "-1"], &["-1"]);
    check(&["vm", "create", "web01"], &["image", "--disk"]);
    check(&["vm", "create", "web01", "--image", "tiny", "--wait=guest"], &["--start"]);
    check(&["vm", "set", "web01"], &["nothing to change"]);
    check(&["vm", "delete", "web01"], &["--yes"]);
    check(&["vm", "stop", "web01", "--power-off", "--timeout", "5s"], &["--power-off"]);
    check(&["network", "create", "lab"], &["--nat", "--bridge"]);
    assert!(fake.asked().is_empty(), "{:?}", fake.asked());
}

#[test]
fn a_failed_task_says_why_and_exits_by_its_code() {
    let fake = Fake::start().ends(TaskEnd::Fails("no_space", "datastore local is full"));
    expect![[r#"
        vm.create vm/web01: making disks
        error: datastore local is full
        hint: `hostler task show 01890a5d-ac96-774b-bcce-b302099a8040` has its steps
    "#]]
    .assert_eq(&fake.run(&["vm", "create", "web01", "--image", "tiny"]).fails(8));
}

#[test]
fn start_waits_for_the_guest_agent_through_the_change_stream() {
    let fake = Fake::start().with_vm(world::vm("web01", 0x10));
    let started = fake.spawn(&["vm", "start", "web01", "--wait=guest", "--timeout", "20s"]);
    fake.wait_asked("watch ");
    fake.state.change("web01", |vm| vm.status.guest = Some(world::report()));
    let started = Run::from(started.wait_with_output().unwrap());
    assert_eq!(started.ok(), "vm web01 started\n");
    // It has followed the stream instead of asking again and again.
    let watches = fake.asked().iter().filter(|asked| asked.starts_with("watch ")).count();
    assert_eq!(watches, 1);
}

#[test]
fn waiting_for_a_guest_ends_with_the_guest_or_the_time() {
    let fake = Fake::start().with_vm(world::vm("web01", 0x10));
    let started = fake.spawn(&["vm", "start", "web01", "--wait=guest"]);
    fake.wait_asked("watch ");
    fake.state.change("web01", |vm| {
        vm.status.power = PowerState::Failed;
        vm.status.message = Some("QEMU ended with signal 9".to_owned());
    });
    let error = Run::from(started.wait_with_output().unwrap()).fails(1);
    assert!(error.contains("QEMU ended with signal 9"), "{error}");
    let late = fake.run(&["vm", "start", "web01", "--wait=guest", "--timeout", "1s"]).fails(7);
    assert!(late.contains("not done within 1 s"), "{late}");
}

#[test]
fn ctrl_c_cancels_the_task_and_waits_for_its_end() {
    let fake = Fake::start().ends(TaskEnd::Never);
    let create = fake.spawn(&["vm", "create", "web01", "--image", "tiny"]);
    fake.wait_asked("task_watch");
    std::thread::sleep(Duration::from_millis(200));
    let pid = Pid::from_raw(i32::try_from(create.id()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let create = Run::from(create.wait_with_output().unwrap());
    let error = create.fails(130);
    assert!(error.contains("was cancelled"), "{error}");
    assert!(fake.asked().iter().any(|asked| asked.starts_with("task_cancel")));
}

#[test]
fn a_second_ctrl_c_leaves_the_task_to_the_server() {
    let fake = Fake::start().ends(TaskEnd::Stubborn);
    let create = fake.spawn(&["vm", "create", "web01", "--image", "tiny"]);
    let pid = Pid::from_raw(i32::try_from(create.id()).unwrap()).unwrap();
    fake.wait_asked("task_watch");
    std::thread::sleep(Duration::from_millis(200));
    kill_process(pid, Signal::INT).unwrap();
    fake.wait_asked("task_cancel");
    std::thread::sleep(Duration::from_millis(200));
    kill_process(pid, Signal::INT).unwrap();
    expect![[r#"
        vm.create vm/web01: making disks
        it is past the point of no return; Ctrl-C again leaves it to the server
        error: vm.create vm/web01 goes on
        hint: follow it with `hostler task watch 01890a5d-ac96-774b-bcce-b302099a8040`
    "#]]
    .assert_eq(&Run::from(create.wait_with_output().unwrap()).fails(130));
}

#[test]
fn ctrl_c_ends_the_waiting_for_a_guest() {
    let fake = Fake::start().with_vm(world::vm("web01", 0x10));
    let start = fake.spawn(&["vm", "start", "web01", "--wait=guest"]);
    let pid = Pid::from_raw(i32::try_from(start.id()).unwrap()).unwrap();
    fake.wait_asked("watch ");
    kill_process(pid, Signal::INT).unwrap();
    expect![[r#"
        vm.start vm/web01: making disks
        vm web01: waiting for the guest agent
        error: interrupted while waiting for the guest agent of vm web01
        hint: what was ordered goes on: see `hostler vm show web01`
    "#]]
    .assert_eq(&Run::from(start.wait_with_output().unwrap()).fails(130));
}

#[test]
fn of_several_vms_none_goes_if_one_cannot() {
    let mut kept = world::vm("b", 0x11);
    kept.spec.protected = true;
    let fake =
        Fake::start().with_vm(world::vm("a", 0x10)).with_vm(kept).with_vm(running("c", 0x12));
    expect![[r#"
        vm a (stopped) goes to the recycle bin:
        vm b (stopped) goes to the recycle bin:
          will be refused: vm `b` is protected
        vm c (running) goes to the recycle bin:
        error: nothing was deleted, for not all of it can be
          - vm `b` is protected
          - vm c is running: add --stop or --force
        hint: leave these out, or remove what holds them
    "#]]
    .assert_eq(&fake.run(&["vm", "delete", "a", "b", "c", "--yes"]).fails(4));
    assert_eq!(fake.asked(), [] as [String; 0]);
}

#[test]
fn what_is_done_to_several_is_one_document() {
    let fake = Fake::start().with_vm(world::vm("a", 0x10)).with_vm(world::vm("b", 0x11));
    let fake = fake.with_vm(world::vm("c", 0x12));
    let targets = |run: Run| {
        let tasks: serde_json::Value = serde_json::from_str(&run.ok()).unwrap();
        match tasks {
            serde_json::Value::Array(tasks) => tasks
                .iter()
                .map(|task| task["spec"]["target"].as_str().unwrap().to_owned())
                .collect(),
            one => vec![format!("only {}", one["spec"]["target"].as_str().unwrap())],
        }
    };
    let deleted = fake.run(&["vm", "delete", "a", "b", "--yes", "-o", "json"]);
    assert_eq!(targets(deleted), ["vm/a", "vm/b"]);
    assert_eq!(targets(fake.run(&["vm", "delete", "c", "-y", "-o", "json"])), ["only vm/c"]);
    let adopted = fake.run(&["datastore", "check", "local", "--adopt", "all", "-o", "json"]);
    assert_eq!(targets(adopted), ["image/found", "image/found"]);
    let removed = ["datastore", "check", "local", "--remove", "all", "--yes", "-o", "json"];
    let removed = fake.run(&removed);
    expect![[r#"
        images/1.qcow2 is left out: vms/a/disk0.qcow2 lies on it
        images/2.qcow2 is left out: vms/a/disk0.qcow2 lies on it
        vms/b is left out: its definition says that an inventory has it; `vms/b` instead of `all` does it
        there is nothing to remove
    "#]]
    .assert_eq(&removed.stderr);
    assert_eq!(removed.ok(), "null\n");
}

#[test]
fn a_nic_is_given_an_address() {
    let fake = Fake::start().with_vm(world::vm("web01", 0x10));
    let asked = |line: &str| {
        fake.run(&line.split(' ').collect::<Vec<_>>()).ok();
        let asked = fake.asked().into_iter().rfind(|asked| asked.starts_with("vm_update"));
        let body: serde_json::Value =
            serde_json::from_str(asked.unwrap().strip_prefix("vm_update ").unwrap()).unwrap();
        body["nics"].clone()
    };
    let nics = asked("vm nic add web01 --network default --address pool");
    assert_eq!(
        (&nics[0]["address"], &nics[1]["address"]),
        (&serde_json::Value::Null, &"pool".into())
    );
    let nics = asked("vm nic set web01 nic0 --address 10.77.0.9/24");
    let fixed = serde_json::json!({"static": {"address": "10.77.0.9", "prefix": 24}});
    assert_eq!((nics.as_array().unwrap().len(), &nics[0]["address"]), (1, &fixed));
}

#[test]
fn a_templates_version_is_called_as_people_call_it() {
    let mut golden = world::vm("golden-v1", 0x10);
    golden.spec.template = Some(hostler_types::VersionOf {
        template: "01890a5d-ac96-774b-bcce-b302099a8099".parse().unwrap(),
        version: 3,
        description: "with the July updates".to_owned(),
        name: "web00".parse().unwrap(),
        at: world::at(0),
        by: "root".to_owned(),
    });
    let mut vm = world::vm("web01", 0x11);
    let disk = hostler_types::LayerFile::disk(golden.id(), &"disk0".parse().unwrap(), 0);
    vm.spec.disks[0].source = hostler_types::DiskSource::Linked(disk);
    let fake = Fake::start().with_vm(golden).with_vm(vm);
    let shown = fake.run(&["vm", "show", "web01"]).ok();
    assert!(shown.contains("disk0: 2GiB, linked to template golden:3"), "{shown}");
    let list = fake.run(&["template", "list"]).ok();
    assert!(list.contains("with the July updates"), "{list}");
}

#[test]
fn exec_passes_streams_and_the_exit_code_through() {
    let fake = Fake::start().with_vm(running("web01", 0x10));
    let run = fake.run(&["vm", "exec", "web01", "--", "sh", "-c", "exit 3", "--flag"]);
    assert_eq!((run.stdout.as_str(), run.stderr.as_str(), run.code), ("out\n", "err\n", Some(3)));
    assert!(fake.asked()[0].contains(r#"["sh","-c","exit 3","--flag"]"#), "{:?}", fake.asked());
}

#[test]
fn a_running_vm_is_not_deleted_unless_forced() {
    let fake = Fake::start().with_vm(running("web01", 0x10));
    let error = fake.run(&["vm", "delete", "web01", "--yes"]).fails(4);
    expect![[r#"
        vm web01 (running) goes to the recycle bin:
        error: vm web01 is running
        hint: stop it first
    "#]]
    .assert_eq(&error);
    assert_eq!(fake.run(&["vm", "delete", "web01", "-y", "--force"]).ok(), "vm web01 deleted\n");
    fake.run(&["vm", "show", "web01"]).fails(3);
}

#[test]
fn labels_are_added_to_those_there_are() {
    let mut vm = world::vm("web01", 0x10);
    vm.metadata.labels = [("a", "1"), ("b", "2")].map(|(k, v)| (k.into(), v.into())).into();
    let fake = Fake::start().with_vm(vm);
    fake.run(&["vm", "set", "web01", "--label", "c=3", "--unlabel", "a", "--protect"]).ok();
    assert_eq!(fake.asked()[0], r#"vm_update {"labels":{"b":"2","c":"3"},"protected":true}"#);
}

#[test]
fn a_screenshot_is_a_file_or_goes_to_stdout() {
    let fake = Fake::start().with_vm(running("web01", 0x10));
    let file = fake.path().join("web01.png");
    fake.run(&["vm", "screenshot", "web01", file.to_str().unwrap()]).ok();
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "\u{89}PNG");
    assert_eq!(fake.run(&["vm", "screenshot", "web01", "-"]).ok(), "\u{89}PNG");
}

#[test]
fn a_token_is_printed_alone() {
    let fake = Fake::start();
    let created = fake.run(&["token", "create", "ci"]);
    assert_eq!(created.stdout, "hostler_secret\n");
    let json = fake.run(&["token", "create", "ci", "-o", "json"]).ok();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["token"], "hostler_secret");
}

#[test]
fn no_server_exits_with_6() {
    let home = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| Run::from(command(home.path(), arguments).output().unwrap());
    let socket = home.path().join("none.sock");
    let error = run(&["--socket", socket.to_str().unwrap(), "vm", "list"]).fails(6);
    assert!(error.contains("cannot reach the server on this machine"), "{error}");
    let error = run(&["vm", "list", "--server", "https://127.0.0.1:1"]).fails(6);
    assert!(error.contains("https://127.0.0.1:1"), "{error}");
    assert!(!error.contains("/v1/"), "{error}");
}

#[test]
fn a_reader_that_has_gone_is_no_error() {
    let fake = Fake::start().with_vm(world::vm("web01", 0x10));
    let mut list = fake.spawn(&["vm", "list"]);
    drop(list.stdout.take());
    let list = Run::from(list.wait_with_output().unwrap());
    assert_eq!(list.fails(141), "");
}
