//! Snapshots as they are shown, and what commands on them ask for.

use expect_test::expect;
use hostler_types::{
    ByteSize, Consistency, DiskStatus, Layer, LayerFile, Snapshot, SnapshotDisk, SnapshotId,
    SnapshotTree, Vm,
};
use jiff::{SignedDuration, Timestamp};
use rustix::process::{Pid, Signal, kill_process};
use uuid::Uuid;

use crate::fake::{Fake, TaskEnd};
use crate::process::Run;
use crate::world;

fn id(number: u128) -> SnapshotId {
    SnapshotId::from_uuid(Uuid::from_u128(number))
}

/// `before`, on it `after` and `other`; the VM goes on from `after`.
fn vm() -> Vm {
    let mut vm = world::vm("web01", 0x11);
    let (owner, disk) = (vm.id(), vm.spec.disks[0].name.clone());
    let file = |number| LayerFile::disk(owner, &disk, number);
    let now = Timestamp::now();
    let snapshot = |number: u128, name: &str, parent: Option<u128>, hours: i64, layers: &[u32]| {
        let layers = layers.iter().map(|number| file(*number)).collect();
        Snapshot {
            id: id(number),
            name: name.parse().unwrap(),
            description: String::new(),
            parent: parent.map(id),
            at: now - SignedDuration::from_hours(hours),
            by: "root".to_owned(),
            consistency: Consistency::Crash,
            memory: None,
            paused_ms: Some(4),
            disks: vec![SnapshotDisk { name: disk.clone(), size: ByteSize::gib(2), layers }],
            // 100 MiB a day, and a little.
            written: ByteSize(104_910_029 * u64::try_from(hours).unwrap() / 24),
        }
    };
    let mut before = snapshot(1, "before", None, 72, &[0]);
    before.written = ByteSize::mib(100);
    let mut after = snapshot(2, "after", Some(1), 24, &[1, 0]);
    (after.consistency, after.memory) = (Consistency::Application, Some(ByteSize::gib(1)));
    after.description = "it \u{1b}[2Jworks".to_owned();
    let other = snapshot(3, "other", Some(1), 48, &[3, 0]);
    vm.status.snapshots =
        SnapshotTree { current: Some(id(2)), snapshots: vec![before, after, other] };
    vm.status.snapshot_warnings = vec!["snapshot `before` is older than 48 h".to_owned()];
    let layers = [2, 1, 0].map(|number| Layer { file: file(number), allocated: ByteSize::mib(50) });
    let layers = layers.to_vec();
    vm.status.disks =
        vec![DiskStatus { name: disk.clone(), allocated: ByteSize::mib(150), layers }];
    vm
}

#[test]
fn the_tree_shows_where_the_vm_is() {
    let fake = Fake::start().with_vm(vm());
    let shown = fake.run(&["vm", "snapshot", "tree", "web01"]);
    expect![[r#"
        SNAPSHOT            AGE      SIZE        GROWTH  KIND
        before               3d    100MiB    100MiB/day  crash
        ├─ after            24h    1.0GiB  100.0MiB/day  application, memory
        │  └─ you are here
        └─ other             2d  200.1MiB  100.0MiB/day  crash
    "#]]
    .assert_eq(&shown.stdout);
    expect![[r#"
        policy (default): snapshot `before` is older than 48 h
    "#]]
    .assert_eq(&shown.stderr);
    expect![[r#"
        NAME    AGE      SIZE        GROWTH  KIND                          DESCRIPTION
        before   3d    100MiB    100MiB/day  crash                         -
        after   24h    1.0GiB  100.0MiB/day  application, memory  current  it works
        other    2d  200.1MiB  100.0MiB/day  crash                         -
    "#]]
    .assert_eq(&fake.run(&["vm", "snapshot", "list", "web01"]).ok());
    expect![[r#"
        limits (default): no older than 3d, at most 3 beneath its disks; beyond: warn
        policy (default): snapshot `before` is older than 48 h
    "#]]
    .assert_eq(&fake.run(&["vm", "snapshot", "list", "web01"]).stderr);
    let names = fake.run(&["vm", "snapshot", "list", "web01", "-o", "name"]).ok();
    assert_eq!(names, "before\nafter\nother\n");
    let json = fake.run(&["vm", "snapshot", "tree", "web01", "-o", "json"]).ok();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["current"], id(2).to_string());
    assert_eq!(json["rules"]["max_age_seconds"], 72 * 3600);
}

#[test]
fn a_vm_is_shown_with_its_snapshots() {
    let fake = Fake::start().with_vm(vm()).with_vm(world::vm("web02", 0x12));
    let shown = fake.run(&["vm", "show", "web01"]).ok();
    let lines: Vec<_> = shown
        .lines()
        .skip_while(|line| !line.starts_with("Snapshots:"))
        .take_while(|line| !line.starts_with("Guest:"))
        .collect();
    expect![[r#"
        Snapshots:        before: crash, 3d old, 100MiB, 100MiB/day
                          after: application, memory, 24h old, 1.0GiB, 100.0MiB/day, current
                          other: crash, 2d old, 200.1MiB, 100.0MiB/day
        Snapshot policy:  snapshot `before` is older than 48 h"#]]
    .assert_eq(&lines.join("\n"));
    expect![[r#"
        NAME   STATE    CPUS  MEMORY  HOST    ADDRESS     GUEST  SNAPSHOTS
        web01  stopped     2    1GiB  host01  10.77.0.10  -      3, beyond policy
        web02  stopped     2    1GiB  host01  10.77.0.10  -      -
    "#]]
    .assert_eq(&fake.run(&["vm", "list"]).ok());
    let shown = fake.run(&["vm", "snapshot", "show", "web01", "after"]).ok();
    let lines = shown.lines().filter(|line| !line.starts_with("Taken"));
    expect![[r#"
        Name:           after
        Id:             00000000-0000-0000-0000-000000000002
        Description:    it works
        By:             root
        Kind:           application, memory
        Parent:         before
        Guest paused:   4 ms
        Written since:  100.0MiB
        Growth:         100.0MiB/day
        Memory:         1GiB
        Disks:          disk0: 2GiB, disk0.1.qcow2 on disk0.qcow2"#]]
    .assert_eq(&lines.collect::<Vec<_>>().join("\n"));
}

#[test]
fn a_deletion_is_planned_and_confirmed() {
    let fake = Fake::start().with_vm(vm());
    let plan = ["vm", "snapshot", "delete", "web01", "before", "after", "--plan"];
    expect![[r#"
        vm web01, without before, after:
          merge   disk0.2.qcow2 into disk0.1.qcow2 (50MiB)
          keep    vms/01890a5d-ac96-774b-bcce-b302099a8011/disk0.qcow2: several files lie on it
          50MiB to merge, about 1s at 100MiB a second (assumed)
    "#]]
    .assert_eq(&fake.run(&plan).ok());
    assert_eq!(fake.asked(), [] as [String; 0], "nothing is done");
    let unsure = fake.run(&["vm", "snapshot", "delete", "web01", "before"]);
    assert_ne!(unsure.code, Some(0), "nobody is there to say yes");
    assert_eq!(fake.asked(), [] as [String; 0]);
    let line = "vm snapshot delete web01 before --children --max-rate 50MiB --yes";
    let deleted = fake.run(&line.split(' ').collect::<Vec<_>>());
    expect![[r#"
        snapshot before deleted
    "#]]
    .assert_eq(&deleted.ok());
    expect![[r#"
        snapshot_delete_several {"snapshot":["before"],"children":true,"all":false,"max_rate":52428800}
        task_watch "01890a5d-ac96-774b-bcce-b302099a8040""#]].assert_eq(&fake.asked().join("\n"));
}

#[test]
fn a_merge_that_ctrl_c_has_stopped_ends_with_130() {
    let fake = Fake::start().with_vm(vm()).ends(TaskEnd::Settles);
    let delete = fake.spawn(&["vm", "snapshot", "delete", "web01", "other", "--yes"]);
    fake.wait_asked("task_watch");
    let pid = Pid::from_raw(i32::try_from(delete.id()).unwrap()).unwrap();
    kill_process(pid, Signal::INT).unwrap();
    let ended = Run::from(delete.wait_with_output().unwrap());
    assert_eq!(ended.stdout, "snapshot other deleted\n");
    assert!(ended.fails(130).ends_with("error: interrupted before all was merged\n"));
}

#[test]
fn a_snapshot_is_asked_for_as_the_flags_say() {
    let fake = Fake::start().with_vm(vm());
    let line = "vm snapshot create web01 after --memory --quiesce --description new";
    let taken = fake.run(&line.split(' ').collect::<Vec<_>>());
    expect![[r#"
        snapshot after taken
    "#]]
    .assert_eq(&taken.ok());
    fake.run(&["vm", "snapshot", "revert", "web01", "after", "--off", "--yes"]).ok();
    expect![[r#"
        snapshot_create {"name":"after","description":"new","memory":true,"quiesce":true}
        task_watch "01890a5d-ac96-774b-bcce-b302099a8040"
        snapshot_revert {"start":false,"force":false}
        task_watch "01890a5d-ac96-774b-bcce-b302099a8041""#]]
    .assert_eq(&fake.asked().join("\n"));
    let refused = fake.run(&["vm", "snapshot", "rename", "web01", "after"]);
    assert_eq!(refused.code, Some(2), "to what?");
}
