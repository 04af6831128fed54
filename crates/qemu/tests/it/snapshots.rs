//! Layers come and are merged while a guest writes; its memory is saved with them.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use hostler_qemu::{
    BlockJob, Commit, Copied, DiskAio, DiskCache, LayerPlan, NewLayer, SavedState, Start,
    active_nodes, add_layers, add_layers_and_save, close_nodes, open_for_writing, power_off,
    rehearse_saving, resume_from,
};
use hostler_qmp::guest::Ping;
use hostler_types::Name;

use crate::guest::{BOOT, Machine, layer};

fn root() -> Name {
    "root".parse().unwrap()
}

/// An empty file on top of another, and what is said of it.
fn layer_on(dir: &Path, name: &str, on: &str) -> LayerPlan {
    let made = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b"])
        .args([format!("{on}.qcow2"), format!("{name}.qcow2")])
        .current_dir(dir)
        .status();
    assert!(made.unwrap().success());
    let path = dir.join(format!("{name}.qcow2"));
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    layer(name, path, false)
}

fn backing(dir: &Path, name: &str) -> String {
    let info = Command::new("qemu-img")
        .args(["info", "-U", "--output=json"])
        .arg(dir.join(format!("{name}.qcow2")))
        .output();
    let info: serde_json::Value = serde_json::from_slice(&info.unwrap().stdout).unwrap();
    info["backing-filename"].as_str().unwrap_or_default().to_owned()
}

/// Writes where no file system is, and reads what was written before.
async fn write(machine: &Machine, text: &str, at: u32) {
    let script =
        format!("printf {text} | busybox dd of=/dev/vda seek={at} bs=4096 conv=sync,notrunc,fsync");
    machine.run("/bin/busybox", &["sh", "-c", &script]).await;
}

async fn read(machine: &Machine, at: u32) -> String {
    let script = format!(
        "echo 3 > /proc/sys/vm/drop_caches; busybox dd if=/dev/vda skip={at} bs=4096 count=1 \
         2>/dev/null | busybox tr -d '\\0'"
    );
    machine.run("/bin/busybox", &["sh", "-c", &script]).await
}

/// How much of the guest's memory no page is there for.
fn holes(machine: &Machine) -> u64 {
    let files = fs::read_dir(format!("/proc/{}/fd", machine.process.pid())).unwrap().flatten();
    let is_memory = |path: &std::path::PathBuf| {
        fs::read_link(path).is_ok_and(|link| link.starts_with("/memfd:hostler-guest (deleted)"))
    };
    let memory = files.map(|file| file.path()).find(is_memory).unwrap();
    let memory = fs::metadata(memory).unwrap();
    memory.len() - memory.blocks() * 512
}

#[tokio::test]
async fn qemu_layers_come_and_are_merged_while_the_guest_runs() {
    let mut machine = Machine::boot().await;
    machine.agent_opens().await;
    let qmp = machine.qmp.clone();
    let dir = machine.dir.path().to_owned();
    let cache = DiskCache::for_file(&dir.join("root.qcow2"), DiskAio::Native);
    let at = 100;
    write(&machine, "first", at).await;
    let one = layer_on(&dir, "one", "root");
    let new = NewLayer { on: "l-root".to_owned(), layer: one.clone(), cache };
    add_layers(&qmp, &[new]).await.unwrap();
    write(&machine, "second", at + 1).await;

    // With memory, into a file that QEMU's user could not open.
    let state = dir.join("memory");
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&state).unwrap();
    machine.run("/bin/busybox", &["sh", "-c", "echo kept > /tmp/kept"]).await;
    let two = layer_on(&dir, "two", "one");
    // What the guest has never used is there before it stands still.
    assert!(holes(&machine) > 64 << 20, "{}", holes(&machine));
    if let Some(paused) = rehearse_saving(&qmp, BOOT).await.unwrap() {
        assert!(paused > Duration::ZERO && holes(&machine) < 32 << 20, "{}", holes(&machine));
    }
    let new = NewLayer { on: one.node.clone(), layer: two.clone(), cache };
    let saved = add_layers_and_save(&qmp, &[new], file.into(), BOOT).await.unwrap();
    assert!(saved.paused > Duration::ZERO && saved.paused < BOOT, "{saved:?}");
    machine.run("/bin/busybox", &["sh", "-c", "echo later > /tmp/kept"]).await;
    assert_eq!(active_nodes(&qmp, [&root()]).await.unwrap(), [(root(), two.node.clone())]);
    write(&machine, "third", at + 2).await;

    // One that is given up leaves all as it is.
    let plan = |name: &str| layer(name, dir.join(format!("{name}.qcow2")), false);
    let commit = Commit {
        active: two.node.clone(),
        top: Some(one.node.clone()),
        into: "l-root".to_owned(),
        backing_file: Some("root.qcow2".to_owned()),
    };
    open_for_writing(&qmp, &plan("root"), cache, true).await.unwrap();
    let mut job = BlockJob::commit(&qmp, "merge", commit.clone(), Some(1)).await.unwrap();
    let cancelled = job.copied(std::future::ready(()), |_, _| {}).await.unwrap();
    assert_eq!(cancelled, Copied::Cancelled);
    job.give_up().await.unwrap();
    assert_eq!(backing(&dir, "two"), "one.qcow2");

    let mut job = BlockJob::commit(&qmp, "merge", commit, None).await.unwrap();
    let all = job.copied(std::future::pending(), |_, _| {}).await.unwrap();
    assert_eq!((all, backing(&dir, "two").as_str()), (Copied::All, "one.qcow2"));
    job.finish().await.unwrap();
    job.forget().await.unwrap();
    assert_eq!(backing(&dir, "two"), "root.qcow2");
    close_nodes(&qmp, ["l-one"].into_iter()).await.unwrap();

    // The active one.
    let commit =
        Commit { active: two.node, top: None, into: "l-root".to_owned(), backing_file: None };
    let mut job = BlockJob::commit(&qmp, "merge", commit, None).await.unwrap();
    assert_eq!(job.copied(std::future::pending(), |_, _| {}).await.unwrap(), Copied::All);
    job.finish().await.unwrap();
    job.forget().await.unwrap();
    close_nodes(&qmp, ["l-two"].into_iter()).await.unwrap();
    assert_eq!(active_nodes(&qmp, [&root()]).await.unwrap()[0].1, "l-root");
    for (nth, text) in (0..).zip(["first", "second", "third"]) {
        assert_eq!(read(&machine, at + nth).await, text);
    }
    power_off(&qmp, &machine.process).await.unwrap();

    let (dir, probe) =
        (std::mem::replace(&mut machine.dir, tempfile::tempdir().unwrap()), machine.probe.clone());
    let machine = Machine::launch(dir, probe, |plan, _| plan.start = Start::Resume).await;
    let file = File::open(&state).unwrap().into();
    resume_from(&machine.qmp, file, SavedState::Stream, BOOT).await.unwrap();
    machine.guest.execute_within(Ping, BOOT).await.unwrap();
    assert_eq!(machine.run("/bin/busybox", &["cat", "/tmp/kept"]).await, "kept\n");
}
