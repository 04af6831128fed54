//! VMs as archives: exported, imported, and neither when something is in the way.

use std::path::PathBuf;

use hostler_types::{ByteSize, ExportManifest, ExportedDisk, ExportedNetwork, PowerState, Sha256};
use rustix::process::{Pid, Signal, kill_process};
use sha2::Digest as _;

use crate::fake::Fake;
use crate::process::Run;
use crate::world;

/// The archive of a VM with one disk, which holds `content`.
fn archive(content: &[u8]) -> Vec<u8> {
    let vm = world::vm("web01", 0x10);
    let disk = ExportedDisk {
        name: "disk0".parse().unwrap(),
        size: ByteSize::gib(2),
        file: ByteSize(content.len() as u64),
        sha256: Sha256::from_bytes(sha2::Sha256::digest(content).into()),
    };
    let network = world::network();
    let manifest = ExportManifest {
        format: ExportManifest::FORMAT.to_owned(),
        at: world::at(0),
        networks: vec![ExportedNetwork { id: network.id(), name: network.metadata.name.clone() }],
        disks: vec![disk],
        vm,
    };
    let manifest = serde_json::to_vec(&manifest).unwrap();
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in
        [(ExportManifest::FILE, manifest.as_slice()), ("disks/disk0.qcow2", content)]
    {
        let mut header = tar::Header::new_gnu();
        header.set_path(name).unwrap();
        header.set_size(bytes.len() as u64);
        header.set_cksum();
        builder.append(&header, bytes).unwrap();
    }
    builder.into_inner().unwrap()
}

fn exporting() -> (Fake, PathBuf) {
    let fake = Fake::start().with_vm(world::vm("web01", 0x10));
    *fake.state.archive.lock().unwrap() = archive(&[7; 5000]);
    let file = fake.path().join("web01.tar");
    (fake, file)
}

fn importing() -> (Fake, PathBuf) {
    let fake = Fake::start();
    let file = fake.file("web01.tar", archive(&[7; 5000]));
    (fake, file)
}

fn count(fake: &Fake, operation: &str) -> usize {
    fake.asked().iter().filter(|asked| asked.split(' ').next() == Some(operation)).count()
}

#[test]
fn a_vm_is_exported_and_checked() {
    let (fake, file) = exporting();
    let run = fake.run(&["vm", "export", "web01", file.to_str().unwrap()]);
    assert!(run.stderr.contains("of disks, checked"), "{run:?}");
    run.ok();
    assert_eq!(std::fs::read(&file).unwrap(), archive(&[7; 5000]));
    assert_eq!(count(&fake, "vm_export_remove"), 1);
}

#[test]
fn ctrl_c_ends_an_export_after_its_task_too() {
    let (fake, file) = exporting();
    let export = fake.spawn(&["vm", "export", "web01", file.to_str().unwrap()]);
    let pid = Pid::from_raw(i32::try_from(export.id()).unwrap()).unwrap();
    // All is fetched; what is left is to read it again.
    fake.wait_asked("vm_export_remove");
    kill_process(pid, Signal::INT).unwrap();
    let ended = Run::from(export.wait_with_output().unwrap());
    assert!(ended.fails(130).contains("interrupted; nothing was written"));
    let left: Vec<_> = std::fs::read_dir(fake.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "only the socket: {left:?}");
}

#[test]
fn where_no_archive_can_be_written_nothing_is_exported() {
    let (fake, file) = exporting();
    std::fs::write(&file, "precious").unwrap();
    let there = file.to_str().unwrap();
    let error = fake.run(&["vm", "delete", "web01", "--yes", "--export", there]).fails(4);
    assert!(error.contains("web01.tar is there already"), "{error}");
    assert!(error.contains("hint: give another name"), "{error}");
    assert!(!error.contains("--force"), "this command's flag is another one: {error}");
    let error = fake.run(&["vm", "export", "web01", "/nowhere/web01.tar"]).fails(1);
    assert!(error.contains("cannot write /nowhere/web01.tar: /nowhere is no directory"), "{error}");
    let error = fake.run(&["vm", "export", "web01", "/proc/web01.tar"]).fails(1);
    assert!(error.starts_with("error: cannot write /proc/web01.tar: "), "{error}");
    assert!(!error.contains(".hostler-export"), "nobody knows that name: {error}");
    assert_eq!(fake.asked(), [] as [String; 0]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
}

#[test]
fn an_import_that_is_refused_sends_nothing() {
    let (fake, file) = importing();
    let import =
        |flags: &[&str]| fake.run(&[&["vm", "import", file.to_str().unwrap()], flags].concat());
    assert!(import(&["--name", "refused"]).fails(4).contains("`refused` is refused"));
    assert!(import(&["--network", "new"]).fails(3).contains("there is no network `new`"));
    assert!(fake.asked().iter().all(|asked| asked.starts_with("vm_create ")), "{:?}", fake.asked());
}

#[test]
fn an_import_can_be_repeated() {
    let (fake, file) = importing();
    let file = file.to_str().unwrap();
    assert_eq!(fake.run(&["vm", "import", file]).ok(), "vm web01 imported\n");
    assert_eq!(*fake.state.uploaded.lock().unwrap(), [7; 5000]);
    fake.run(&["vm", "delete", "web01", "--yes", "--now"]).ok();
    let again = fake.run(&["vm", "import", file]);
    assert!(
        again.stderr.contains("image web01-disk0 is there, with the same content"),
        "{again:?}"
    );
    assert_eq!(again.ok(), "vm web01 imported\n");
    assert_eq!(count(&fake, "image_upload"), 1);
    assert_eq!(fake.state.vms.lock().unwrap()["web01"].status.power, PowerState::Stopped);
    let created = fake.asked().into_iter().rfind(|asked| asked.starts_with("vm_create")).unwrap();
    let datastore = world::datastore().id().to_string();
    assert!(created.contains(&datastore), "where the image is: {created}");
    fake.run(&["vm", "delete", "web01", "--yes", "--now"]).ok();
    let other = fake.file("other.tar", archive(&[8; 5000]));
    let error = fake.run(&["vm", "import", other.to_str().unwrap()]).fails(4);
    assert!(error.contains("image web01-disk0 is there, with other content"), "{error}");
}

#[test]
fn a_failed_import_leaves_no_image() {
    let (fake, file) = importing();
    let failed = fake.run(&["vm", "import", file.to_str().unwrap(), "--name", "late"]);
    assert!(failed.stderr.contains("image late-disk0 removed again"), "{failed:?}");
    assert!(failed.fails(4).contains("`late` is refused"));
    assert!(!fake.state.images.lock().unwrap().contains_key("late-disk0"));
    // What was there before stays.
    fake.run(&["image", "list"]).ok();
    assert!(fake.state.images.lock().unwrap().contains_key("tiny"));
}
