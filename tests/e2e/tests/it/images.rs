//! Images come from outside and are hostile until proven otherwise.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use hostler_e2e::{Instance, eventually, tiny_image};
use sha2::{Digest, Sha256};

fn qemu_img(arguments: &[&str]) {
    let status = Command::new("qemu-img").args(arguments).stdout(Stdio::null()).status();
    assert!(status.expect("qemu-img runs").success(), "{arguments:?}");
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

#[test]
fn formats_are_recognised_by_content_and_never_by_name() {
    let hostler = Instance::start();
    let raw = hostler.path().join("disk.qcow2");
    // A raw disk is recognised by its partition table.
    let mut content = vec![7u8; 3 << 20];
    content[446..510].fill(0);
    content[446..462].copy_from_slice(&[0x80, 0, 2, 0, 0x83, 0, 0, 0, 1, 0, 0, 0, 0, 8, 0, 0]);
    content[510..512].copy_from_slice(&[0x55, 0xaa]);
    fs::write(&raw, content).unwrap();
    for (format, options) in
        [("raw", ""), ("vmdk", "subformat=streamOptimized"), ("vhdx", ""), ("qcow2", "")]
    {
        let file = text(&hostler.path().join(format!("misleading-{format}.iso")));
        let mut arguments = vec!["convert", "-f", "raw", "-O", format];
        if !options.is_empty() {
            arguments.extend(["-o", options]);
        }
        let source = text(&raw);
        arguments.extend([source.as_str(), file.as_str()]);
        qemu_img(&arguments);
        hostler.ok(&["image", "import", format, &file]);
        let image = hostler.json(&["image", "show", format]);
        assert_eq!(image["status"]["format"], format);
        assert_eq!(image["status"]["state"], "ready");
        assert!(image["status"]["virtual_size"].as_u64().unwrap() >= 3 << 20);
    }
}

#[test]
fn images_that_refer_to_other_files_are_refused() {
    let hostler = Instance::start();
    let secret = hostler.path().join("secret");
    fs::write(&secret, vec![1u8; 1 << 20]).unwrap();
    let refused = |name: &str, file: &Path, word: &str| {
        let error = hostler.hostler(&["image", "import", name, &text(file)]);
        let error = String::from_utf8_lossy(&error.stderr).into_owned();
        assert!(error.contains(word), "{name}: no `{word}` in:\n{error}");
    };
    let backing = hostler.path().join("backing.qcow2");
    qemu_img(&["create", "-q", "-f", "qcow2", "-b", &text(&secret), "-F", "raw", &text(&backing)]);
    refused("backing", &backing, "backing file");
    let data = hostler.path().join("data.qcow2");
    let option = format!("data_file={}", text(&hostler.path().join("data.raw")));
    qemu_img(&["create", "-q", "-f", "qcow2", "-o", &option, &text(&data), "1M"]);
    refused("data", &data, "another file");
    let flat = hostler.path().join("flat.vmdk");
    qemu_img(&["create", "-q", "-f", "vmdk", "-o", "subformat=monolithicFlat", &text(&flat), "1M"]);
    refused("flat", &flat, "flat");
    let truncated = hostler.path().join("truncated.qcow2");
    let whole = fs::read(tiny_image()).unwrap();
    fs::write(&truncated, &whole[..whole.len() / 2]).unwrap();
    refused("truncated", &truncated, "truncated");
    let huge = hostler.path().join("huge.qcow2");
    qemu_img(&["create", "-q", "-f", "qcow2", "-o", "cluster_size=2M", &text(&huge), "500T"]);
    refused("huge", &huge, "64TiB");
    let left = fs::read_dir(hostler.datastore().join("images")).unwrap().count();
    assert_eq!(left, 0, "a refused image leaves no file");
}

#[test]
fn a_wrong_checksum_is_refused_and_the_right_one_accepted() {
    let hostler = Instance::start();
    let digest = Sha256::digest(fs::read(tiny_image()).unwrap());
    let digest: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let wrong = "0".repeat(64);
    let path = text(tiny_image());
    let output = hostler.hostler(&["image", "import", "tiny", &path, "--sha256", &wrong]);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && error.contains(&digest), "both sums are told:\n{error}");
    let _ = hostler.hostler(&["image", "delete", "tiny", "--yes"]);
    hostler.ok(&["image", "import", "tiny", &path, "--sha256", &digest]);
}

/// A web server in the instance's network, with files of a folder.
struct Web(Child);

impl Web {
    fn serve(hostler: &Instance, folder: &Path) -> Self {
        let child = hostler
            .namespace()
            .network_command("python3")
            .args(["-m", "http.server", "8000", "--bind", "127.0.0.1", "--directory"])
            .arg(folder)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("python3 runs");
        let up = || {
            let check = "import socket; socket.create_connection(('127.0.0.1', 8000), 1)";
            let mut command = hostler.namespace().network_command("python3");
            command.args(["-c", check]).stderr(Stdio::null()).status().unwrap().success()
        };
        eventually("the web server", Duration::from_secs(10), up);
        Self(child)
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn an_image_is_downloaded_from_an_address() {
    let hostler = Instance::start();
    let folder = hostler.path().join("web");
    fs::create_dir(&folder).unwrap();
    fs::copy(tiny_image(), folder.join("tiny")).unwrap();
    let _web = Web::serve(&hostler, &folder);
    hostler.ok(&["image", "import", "tiny", "http://127.0.0.1:8000/tiny"]);
    let image = hostler.json(&["image", "show", "tiny"]);
    assert_eq!(image["status"]["state"], "ready");
    let output = hostler.hostler(&["image", "import", "gone", "http://127.0.0.1:8000/gone"]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("404"));
    let output = hostler.hostler(&["image", "import", "file", "file:///etc/passwd"]);
    assert!(!output.status.success());
}
