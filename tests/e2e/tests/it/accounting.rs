//! Every file is somebody's; what is needed stays; what is taken away comes back.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use hostler_e2e::{Instance, Settings};
use serde_json::Value;

fn id(hostler: &Instance, kind: &str, name: &str) -> String {
    hostler.json(&[kind, "show", name])["metadata"]["id"].as_str().unwrap().to_owned()
}

/// What `datastore check` finds, and how it ends.
fn check(hostler: &Instance) -> (Value, i32) {
    let output = hostler.hostler(&["datastore", "check", "local", "-o", "json"]);
    (serde_json::from_slice(&output.stdout).unwrap(), output.status.code().unwrap())
}

fn column(findings: &Value, list: &str, field: &str) -> Vec<String> {
    let all = findings[list].as_array().unwrap().iter();
    all.map(|found| found[field].as_str().unwrap().to_owned()).collect()
}

fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_parent_deleted_by_hand_is_named_and_nothing_else_is_harmed() {
    let hostler = Instance::start();
    hostler.import_tiny();
    hostler.ok(&["vm", "create", "web01", "--image", "tiny", "--memory", "128MiB"]);
    hostler.ok(&["vm", "create", "blank", "--disk", "16MiB", "--no-network"]);
    let (clean, code) = check(&hostler);
    assert_eq!(code, 0, "{clean:#}");
    let store = hostler.datastore();
    let image = store.join(format!("images/{}.qcow2", id(&hostler, "image", "tiny")));
    let aside = store.with_extension("aside");
    fs::rename(&image, &aside).unwrap();

    let error = hostler.fails(3, &["vm", "start", "web01"]);
    assert!(error.contains("tiny") && error.contains("is not on the datastore"), "{error}");
    let (found, code) = check(&hostler);
    assert_eq!((code, column(&found, "orphans", "path")), (1, vec![]));
    assert_eq!(column(&found, "damaged", "object"), ["image/tiny", "vm/web01"], "{found:#}");
    hostler.ok(&["vm", "delete", "blank", "--now", "--yes"]);
    fs::rename(&aside, &image).unwrap();
    assert_eq!(check(&hostler).1, 0);

    // Left behind by others: a VM, an image, and a file that is neither.
    let vm = id(&hostler, "vm", "web01");
    hostler.ok(&["vm", "unregister", "web01"]);
    let lost = store.join("images/01890a5d-ac96-774b-bcce-b302099a8057.qcow2");
    fs::copy(&image, &lost).unwrap();
    fs::write(store.join("images/core\u{1b}[31m"), "x").unwrap();
    let (found, code) = check(&hostler);
    let mut orphans = vec![
        "images/01890a5d-ac96-774b-bcce-b302099a8057.qcow2".to_owned(),
        "images/core\\x1b[31m".to_owned(),
        format!("vms/{vm}"),
    ];
    orphans.sort();
    assert_eq!((code, column(&found, "orphans", "path")), (1, orphans.clone()), "{found:#}");
    let told = hostler.hostler(&["datastore", "check", "local"]);
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    assert!(told.contains("core\\x1b[31m") && told.contains("web01"), "{told}");

    let check = ["datastore", "check", "local"];
    hostler.ok(&[&check[..], &["--adopt", &orphans[0], "--name", "found"]].concat());
    hostler.ok(&["vm", "create", "web02", "--image", "found", "--memory", "128MiB"]);
    // The image that the unregistered VM lies on stays, whatever the inventory says.
    let error = hostler.fails(4, &["image", "delete", "tiny", "--yes"]);
    assert!(error.contains("`web01`"), "{error}");
    hostler.ok(&[&check[..], &["--adopt", &format!("vms/{vm}")]].concat());
    assert_eq!(id(&hostler, "vm", "web01"), vm);
    hostler.ok(&[&check[..], &["--remove", "all", "--yes"]].concat());
    assert_eq!(self::check(&hostler).1, 0);
}

#[test]
fn an_exported_vm_comes_back_as_it_was() {
    let hostler = Instance::start();
    hostler.import_tiny();
    let file = hostler.path().join("web01.tar");
    let create = ["vm", "create", "web01", "--image", "tiny", "--memory", "128MiB"];
    hostler.ok(&[&create[..], &["--label", "tier=web"]].concat());
    hostler.ok(&["vm", "disk", "add", "web01", "--name", "data", "--size", "32MiB"]);
    let directory = |name: &str| hostler.datastore().join("vms").join(id(&hostler, "vm", name));
    let before = directory("web01");
    for (disk, pattern) in [("data", "0x5a"), ("disk0", "0xa5")] {
        let write = format!("write -P {pattern} 1M 3M");
        let disk = before.join(format!("{disk}.qcow2"));
        run("qemu-io", &["-f", "qcow2", "-c", &write, text(&disk)]);
    }
    hostler.ok(&["vm", "export", "web01", text(&file)]);
    assert!(!before.join("export").exists(), "the copies are gone");
    hostler.fails(4, &["vm", "export", "web01", text(&file)]);
    let kept = hostler.path().join("kept");
    fs::create_dir(&kept).unwrap();
    run("tar", &["-xf", text(&file), "-C", text(&kept)]);
    fs::remove_file(&file).unwrap();

    // Deleted only once it is saved.
    let nowhere = hostler.path().join("no/such/place.tar");
    hostler.fails(1, &["vm", "delete", "web01", "--now", "--yes", "--export", text(&nowhere)]);
    hostler.ok(&["vm", "delete", "web01", "--now", "--yes", "--export", text(&file)]);
    hostler.fails(3, &["vm", "show", "web01"]);

    hostler.ok(&["vm", "import", text(&file), "--name", "back"]);
    let shown = hostler.json(&["vm", "show", "back"]);
    assert_eq!(shown["metadata"]["labels"]["tier"], "web");
    assert_eq!(shown["spec"]["memory"], 128 << 20);
    for disk in ["disk0", "data"] {
        let now = directory("back").join(format!("{disk}.qcow2"));
        let then = kept.join(format!("disks/{disk}.qcow2"));
        run("qemu-img", &["compare", text(&then), text(&now)]);
    }
    assert_eq!(check(&hostler).1, 0);

    // What was tampered with is refused before anything is made of it.
    let mut bytes = fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&file, bytes).unwrap();
    let error = hostler.hostler(&["vm", "import", text(&file), "--name", "bad"]);
    let error = String::from_utf8_lossy(&error.stderr).into_owned();
    assert!(error.contains("SHA-256"), "{error}");
    hostler.fails(3, &["vm", "show", "bad"]);
}

/// A file system that can be unmounted and mounted again with all that is on it.
struct Mount {
    folder: tempfile::TempDir,
}

impl Mount {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        fs::set_permissions(folder.path(), open).unwrap();
        let mount = Self { folder };
        fs::create_dir(mount.real()).unwrap();
        fs::create_dir(mount.point()).unwrap();
        run("mount", &["-t", "tmpfs", "-o", "size=100m,mode=711", "tmpfs", text(&mount.real())]);
        mount.bind();
        mount
    }

    fn real(&self) -> PathBuf {
        self.folder.path().join("real")
    }

    fn point(&self) -> PathBuf {
        self.folder.path().join("point")
    }

    fn bind(&self) {
        run("mount", &["--bind", text(&self.real()), text(&self.point())]);
    }

    /// For the server, which has mounts of its own, and for the test.
    fn unmount(&self, hostler: &Instance) {
        run("umount", &["--lazy", text(&self.point())]);
        self.at_server(hostler, &["umount", "--lazy", text(&self.point())]);
    }

    fn mount_again(&self, hostler: &Instance) {
        let (real, point) = (self.real(), self.point());
        let bind = ["mount", "--bind", text(&real), text(&point)];
        self.at_server(hostler, &bind);
    }

    fn at_server(&self, hostler: &Instance, command: &[&str]) {
        // The agent, whose parent the server is, shares its mounts.
        let pid = hostler.daemon_pids()[0].to_string();
        run("nsenter", &[&["-m", "-t", &pid], command].concat());
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        for path in [self.point(), self.real()] {
            let _ = Command::new("umount").arg("--lazy").arg(path).status();
        }
    }
}

#[test]
fn nothing_is_written_to_a_datastore_that_is_not_mounted() {
    let mount = Mount::new();
    let hostler = Instance::start_with(Settings::default());
    hostler.import_tiny();
    let point = mount.point();
    let make = ["datastore", "create", "nfs", "--shared", "--path", text(&point)];
    hostler.ok(&make);
    let on = ["--datastore", "nfs", "--no-network"];
    hostler.ok(&[&["vm", "create", "old", "--disk", "16MiB"][..], &on].concat());
    let tar = hostler.path().join("old.tar");
    let error = hostler.hostler(&["vm", "export", "old", text(&tar)]);
    let error = String::from_utf8_lossy(&error.stderr).into_owned();
    assert!(error.contains("free on the datastore"), "too small for copies: {error}");

    mount.unmount(&hostler);
    let image = hostler_e2e::tiny_image();
    let operations: [&[&str]; 9] = [
        &["vm", "create", "new", "--disk", "16MiB", "--datastore", "nfs", "--no-network"],
        &["image", "import", "other", text(image), "--datastore", "nfs"],
        &["vm", "start", "old"],
        &["vm", "disk", "add", "old", "--size", "16MiB"],
        &["vm", "export", "old", text(&tar)],
        &["vm", "unregister", "old"],
        &["vm", "delete", "old", "--yes"],
        &["vm", "delete", "old", "--now", "--yes"],
        &["datastore", "check", "nfs"],
    ];
    for operation in operations {
        let output = hostler.hostler(operation);
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success(), "{operation:?} did something");
        assert!(error.contains("mounted"), "{operation:?}: {error}");
        assert_eq!(fs::read_dir(&point).unwrap().count(), 0, "{operation:?} wrote there");
    }
    assert!(!tar.exists());
    let stuck = hostler.json(&["task", "list"]);
    let stuck = stuck["items"].as_array().or(stuck.as_array()).unwrap().clone();
    assert!(stuck.iter().all(|task| task["status"]["state"] != "stuck"), "{stuck:#?}");

    mount.mount_again(&hostler);
    hostler.ok(&["vm", "disk", "add", "old", "--size", "16MiB"]);
    let findings = hostler.json(&["datastore", "check", "nfs"]);
    assert_eq!(
        (&findings["orphans"], &findings["damaged"]),
        (&Value::Array(vec![]), &Value::Array(vec![]))
    );
    hostler.ok(&["vm", "delete", "old", "--now", "--yes"]);
    // The upload would go on where it stopped.
    hostler.ok(&["image", "delete", "other", "--yes"]);
    hostler.ok(&["datastore", "delete", "nfs", "--yes"]);
    assert_eq!(fs::read_dir(mount.real()).unwrap().count(), 0);
}
