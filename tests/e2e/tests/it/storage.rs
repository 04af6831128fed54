//! Datastores that are full or gone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use hostler_e2e::{Instance, Settings};

/// A small file system of its own.
struct SmallDisk(PathBuf, #[expect(dead_code, reason = "removed on drop")] tempfile::TempDir);

impl SmallDisk {
    fn new(size: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        fs::set_permissions(folder.path(), open).unwrap();
        let path = folder.path().join("small");
        fs::create_dir(&path).unwrap();
        let option = format!("size={size}");
        let status =
            Command::new("mount").args(["-t", "tmpfs", "-o", &option, "tmpfs"]).arg(&path).status();
        assert!(status.unwrap().success());
        Self(path, folder)
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

#[test]
fn a_full_datastore_is_told_and_nothing_is_left_half_made() {
    let disk = SmallDisk::new("100m");
    let settings = Settings { datastore: Some(disk.path().join("ds")), ..Settings::default() };
    let hostler = Instance::start_with(settings);
    hostler.import_tiny();
    // Fill it up to the last page.
    let filler = disk.path().join("filler");
    let _ = fs::write(&filler, vec![1u8; 120 << 20]);
    let output =
        hostler.hostler(&["vm", "create", "web01", "--image", "tiny", "--memory", "128MiB"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "it was created on a full datastore");
    assert!(
        error.contains("local") && error.contains("free"),
        "names datastore and way out:\n{error}"
    );
    hostler.fails(3, &["vm", "show", "web01"]);
    hostler.assert_clean();
    fs::remove_file(&filler).unwrap();
    hostler.ok(&["vm", "create", "web01", "--image", "tiny", "--memory", "128MiB"]);
}

#[test]
fn a_datastore_without_its_marker_is_never_written_to() {
    let hostler = Instance::start();
    hostler.import_tiny();
    let marker = hostler.datastore().join(".hostler-datastore");
    let kept = fs::read(&marker).unwrap();
    fs::remove_file(&marker).unwrap();
    let output = hostler.hostler(&["vm", "create", "web01", "--image", "tiny"]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains("mounted"), "{error}");
    assert!(hostler.leftovers().files.is_empty());
    fs::write(&marker, kept).unwrap();
    hostler.ok(&["vm", "create", "web01", "--image", "tiny"]);
}

#[test]
fn a_datastore_is_shared_kept_from_new_disks_and_made_anew() {
    let disk = SmallDisk::new("100m");
    let hostler = Instance::start();
    let own = hostler.path().join("not-mounted");
    let create = |name: &str, path: &Path| {
        let path = path.to_string_lossy().into_owned();
        hostler.hostler(&["datastore", "create", name, "--shared", "--path", &path])
    };
    let refused = create("nfs", &own);
    let error = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && error.contains("root file system"), "{error}");
    let path = disk.path().join("ds");
    assert!(create("nfs", &path).status.success());
    let blank = ["vm", "create", "blank", "--disk", "16MiB", "--datastore", "nfs", "--no-network"];
    hostler.ok(&["datastore", "set", "nfs", "--maintenance"]);
    assert!(hostler.fails(8, &blank).contains("maintenance"));
    hostler.ok(&["datastore", "set", "nfs", "--no-maintenance", "--overcommit", "10"]);
    assert!(hostler.fails(8, &blank).contains("10 %"));
    hostler.ok(&["datastore", "set", "nfs", "--no-overcommit-limit", "--refuse", "90"]);
    hostler.ok(&blank);
    let shown = hostler.json(&["datastore", "show", "nfs"]);
    assert_eq!(shown["status"]["usage"]["vms"], 1);
    assert!(hostler.ok(&["datastore", "list"]).contains("shared"));
    hostler.fails(4, &["datastore", "delete", "nfs", "--yes"]);

    // What is left behind is there again when the directory is made a datastore again.
    let id = hostler.json(&["vm", "show", "blank"])["metadata"]["id"].as_str().unwrap().to_owned();
    hostler.ok(&["vm", "unregister", "blank"]);
    hostler.ok(&["datastore", "delete", "nfs", "--yes"]);
    assert!(create("again", &path).status.success());
    hostler.ok(&["vm", "register", "again", &id]);
    hostler.ok(&["vm", "delete", "blank", "--yes", "--now"]);
    hostler.ok(&["datastore", "delete", "again", "--yes"]);
    assert_eq!(fs::read_dir(&path).unwrap().count(), 0, "nothing is left in the directory");
}
