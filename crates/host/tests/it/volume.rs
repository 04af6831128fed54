//! Disks: what we write must be what `qemu-img` would have written, and be cheap.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use hostler_host::{Datastore, LayerGraph, QemuImg, VmDir, VmUid, VolumeError, layers, volume};
use hostler_types::{ByteSize, DatastoreId, DiskSpec, ImageId, ImageMedia, Layer, LayerFile, VmId};

use crate::datastore::{datastore, directory};

pub(crate) fn qemu_img(arguments: &[&str]) -> serde_json::Value {
    let output = Command::new("qemu-img").args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap_or_default()
}

fn disk(size: ByteSize) -> DiskSpec {
    let spec = serde_json::json!({"name": "disk0", "size": size, "source": "blank"});
    serde_json::from_value(spec).unwrap()
}

fn image(store: &Datastore, size: &str) -> PathBuf {
    let path = store.image(ImageId::generate(), ImageMedia::Disk);
    qemu_img(&["create", "-q", "-f", "qcow2", path.to_str().unwrap(), size]);
    path
}

fn vm(store: &Datastore) -> VmDir {
    let vm = store.vm(VmId::generate());
    vm.create().unwrap();
    vm
}

fn owner() -> VmUid {
    VmUid::from_slot(7).unwrap()
}

/// Everything that `qemu-img info` says of a qcow2 but its names and its size on disk.
fn facts(path: &Path) -> serde_json::Value {
    let mut info =
        qemu_img(&["info", "-U", "-f", "qcow2", "--output=json", path.to_str().unwrap()]);
    let map = info.as_object_mut().unwrap();
    for key in ["filename", "children", "actual-size", "full-backing-filename"] {
        map.remove(key);
    }
    info
}

#[test]
fn disks_are_what_qemu_img_makes() {
    let (_guard, store) = datastore();
    let image = image(&store, "1G");
    for size in
        [ByteSize::gib(1), ByteSize::gib(3), ByteSize::gib(64 << 10), ByteSize(1 << 30 | 512)]
    {
        let vm = vm(&store);
        volume::create_overlay(&vm, &disk(size), &image, ByteSize::gib(1), owner()).unwrap();
        let ours = vm.disk(&"disk0".parse().unwrap());
        let theirs = vm.path().join("theirs.qcow2");
        let backing = format!("../../images/{}", image.file_name().unwrap().to_str().unwrap());
        let text = size.bytes().to_string();
        let create = ["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", &backing];
        let arguments = [&create[..], &[theirs.to_str().unwrap(), &text]].concat();
        qemu_img(&arguments);
        assert_eq!(facts(&ours), facts(&theirs));
        let check = qemu_img(&["check", "-f", "qcow2", "--output=json", ours.to_str().unwrap()]);
        assert_eq!(check["check-errors"], 0, "{check}");
        assert!(check["leaks"].is_null() && check["corruptions"].is_null(), "{check}");
        assert_eq!(volume::virtual_size(&ours).unwrap(), size);
        let metadata = fs::metadata(&ours).unwrap();
        assert_eq!(metadata.mode() & 0o777, 0o600);
        assert_eq!((metadata.uid(), metadata.gid()), (owner().uid(), owner().gid()));
    }
}

#[test]
fn an_overlay_shows_its_image_and_takes_writes() {
    let (_guard, store) = datastore();
    let raw = store.root().join("raw");
    fs::write(&raw, vec![0x5a; 1 << 20]).unwrap();
    let image = store.image(ImageId::generate(), ImageMedia::Disk);
    let (raw, image_text) = (raw.to_str().unwrap(), image.to_str().unwrap());
    qemu_img(&["convert", "-f", "raw", "-O", "qcow2", raw, image_text]);
    let vm = vm(&store);
    let spec = disk(ByteSize::mib(2));
    volume::create_overlay(&vm, &spec, &image, ByteSize::mib(1), owner()).unwrap();
    let path = vm.disk(&spec.name);
    let io = |commands: &[&str]| {
        let mut command = Command::new("qemu-io");
        command.args(["-f", "qcow2"]);
        for text in commands {
            command.args(["-c", text]);
        }
        let output = command.arg(&path).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && !text.contains("failed"), "{text}");
    };
    io(&["read -P 0x5a 0 1M", "read -P 0 1M 1M", "write -P 0x11 64k 512k", "flush"]);
    io(&["read -P 0x5a 0 64k", "read -P 0x11 64k 512k", "read -P 0 1M 1M"]);
    let check = qemu_img(&["check", "-f", "qcow2", "--output=json", path.to_str().unwrap()]);
    assert_eq!(check["check-errors"], 0, "{check}");
    assert!(volume::allocated(&path).unwrap() >= ByteSize(512 << 10));
}

#[test]
fn creating_again_keeps_the_disk_and_another_is_not_overwritten() {
    let (_guard, store) = datastore();
    let image = image(&store, "1M");
    let vm = vm(&store);
    let (spec, other) = (disk(ByteSize::mib(1)), disk(ByteSize::mib(2)));
    volume::create_blank(&vm, &spec, owner()).unwrap();
    let inode = fs::metadata(vm.disk(&spec.name)).unwrap().ino();
    volume::create_blank(&vm, &spec, owner()).unwrap();
    assert_eq!(fs::metadata(vm.disk(&spec.name)).unwrap().ino(), inode);
    let error = volume::create_blank(&vm, &other, owner()).unwrap_err();
    assert!(matches!(error, VolumeError::OtherDisk(_)), "{error}");
    let error = volume::create_overlay(&vm, &spec, &image, ByteSize::mib(1), owner()).unwrap_err();
    assert!(matches!(error, VolumeError::OtherDisk(_)), "{error}");
    let error = volume::create_overlay(&vm, &spec, &image, ByteSize::mib(4), owner()).unwrap_err();
    assert!(matches!(error, VolumeError::SmallerThanImage { .. }), "{error}");
    let outside = Path::new("/etc/hostname");
    let error = volume::create_overlay(&vm, &spec, outside, ByteSize(0), owner()).unwrap_err();
    assert!(matches!(error, VolumeError::ForeignImage(_)), "{error}");
    volume::remove(&vm, &vm.disk(&spec.name)).unwrap();
    volume::remove(&vm, &vm.disk(&spec.name)).unwrap();
    assert_eq!(volume::allocated(&vm.disk(&spec.name)).unwrap(), ByteSize(0));
}

#[tokio::test]
async fn disks_grow_and_do_not_shrink() {
    let (_guard, store) = datastore();
    let vm = vm(&store);
    let spec = disk(ByteSize::mib(1));
    volume::create_blank(&vm, &spec, owner()).unwrap();
    let (path, qemu_img) = (vm.disk(&spec.name), QemuImg::new());
    for _ in 0..2 {
        volume::grow(&qemu_img, &path, ByteSize::gib(2)).await.unwrap();
        assert_eq!(volume::virtual_size(&path).unwrap(), ByteSize::gib(2));
    }
    let error = volume::grow(&qemu_img, &path, ByteSize::gib(1)).await.unwrap_err();
    assert!(matches!(error, VolumeError::Grow { .. }), "{error}");
    assert_eq!(fs::metadata(&path).unwrap().uid(), owner().uid());
}

/// What a deleted disk held is never seen by the next (Nova, CVE-2013-7130).
#[test]
fn a_new_disk_does_not_show_an_old_one() {
    let (_guard, store) = datastore();
    let vm = vm(&store);
    let spec = disk(ByteSize::mib(16));
    let path = vm.disk(&spec.name);
    let io = |command: &str| {
        let output =
            Command::new("qemu-io").args(["-f", "qcow2", "-c", command]).arg(&path).output();
        let text = String::from_utf8_lossy(&output.unwrap().stdout).into_owned();
        assert!(!text.contains("failed"), "{command}: {text}");
    };
    for _ in 0..3 {
        volume::create_blank(&vm, &spec, owner()).unwrap();
        io("read -P 0 0 16M");
        io("write -P 0x77 0 16M");
        volume::remove(&vm, &path).unwrap();
    }
}

/// Whoever can put a link into a VM's directory must not be given what it points to.
#[test]
fn links_are_not_given_away() {
    let (guard, store) = datastore();
    let victim = guard.path().join("victim");
    fs::write(&victim, "x").unwrap();
    let vm = vm(&store);
    let path = vm.disk(&"disk0".parse().unwrap());
    symlink(&victim, &path).unwrap();
    let error = volume::set_owner(&path, owner()).unwrap_err();
    assert!(matches!(error, VolumeError::NotAFile(_)), "{error}");
    let error = volume::create_blank(&vm, &disk(ByteSize::mib(1)), owner()).unwrap_err();
    assert!(matches!(error, VolumeError::NotAFile(_)), "{error}");
    fs::remove_file(&path).unwrap();
    fs::hard_link(&victim, &path).unwrap();
    let error = volume::set_owner(&path, owner()).unwrap_err();
    assert!(matches!(error, VolumeError::NotAFile(_)), "{error}");
    assert_eq!(fs::metadata(&victim).unwrap().uid(), 0);
}

/// A file system of its own, unmounted at the end.
pub(crate) struct SmallDisk(pub(crate) tempfile::TempDir);

impl SmallDisk {
    pub(crate) fn new(kib: u32) -> Self {
        let directory = directory();
        let options = format!("size={kib}k,mode=711");
        let mount = ["-t", "tmpfs", "-o", &options, "tmpfs"];
        let status = Command::new("mount").args(mount).arg(directory.path()).status().unwrap();
        assert!(status.success());
        Self(directory)
    }
}
impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_datastore_is_named_with_its_free_space() {
    let small = SmallDisk::new(64);
    let store = Datastore::create(small.0.path(), DatastoreId::generate()).unwrap();
    let vm = vm(&store);
    let error = volume::create_blank(&vm, &disk(ByteSize::gib(64 << 10)), owner()).unwrap_err();
    assert!(matches!(error, VolumeError::Full { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains(&store.id().to_string()) && text.contains("KiB free"), "{text}");
    assert_eq!(fs::read_dir(vm.path()).unwrap().count(), 0, "nothing half made is left");
}

/// The budget of the plan is 1.3 times `qemu-img create -b`; we start no process at all.
#[test]
fn an_overlay_costs_less_than_qemu_img() {
    let (_guard, store) = datastore();
    let image = image(&store, "1G");
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..9 {
        let vm = vm(&store);
        let start = Instant::now();
        let spec = disk(ByteSize::gib(1));
        volume::create_overlay(&vm, &spec, &image, ByteSize::gib(1), owner()).unwrap();
        ours.push(start.elapsed());
        let target = store.root().join(format!("{round}.qcow2"));
        let (image, target) = (image.to_str().unwrap(), target.to_str().unwrap());
        let start = Instant::now();
        qemu_img(&["create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", image, target]);
        theirs.push(start.elapsed());
    }
    let median = |times: &mut Vec<Duration>| {
        times.sort();
        times[times.len() / 2]
    };
    let (ours, theirs) = (median(&mut ours), median(&mut theirs));
    assert!(ours < theirs.mul_f64(1.3), "{ours:?} against {theirs:?}");
}

#[test]
fn the_graph_of_layers_is_read_from_the_files() {
    let (_guard, store) = datastore();
    let image_path = image(&store, "64M");
    let image =
        LayerFile::image(image_path.file_stem().unwrap().to_str().unwrap().parse().unwrap());
    let (first, second) = (vm(&store), vm(&store));
    let size = ByteSize::mib(64);
    volume::create_overlay(&first, &disk(size), &image_path, size, owner()).unwrap();
    let name = "disk0".parse().unwrap();
    let root = LayerFile::disk(first.id(), &name, 0);
    let active = LayerFile::disk(first.id(), &name, 1);
    let clone = LayerFile::disk(second.id(), &name, 0);
    volume::create_layer(&first, &active, size, &root, owner()).unwrap();
    volume::create_layer(&second, &clone, size, &root, owner()).unwrap();

    let graph = LayerGraph::read(&store).unwrap();
    assert_eq!(graph.files().count(), 4);
    let mut on_root = vec![&active, &clone];
    on_root.sort();
    assert_eq!(graph.dependents(&root).collect::<Vec<_>>(), on_root);
    assert_eq!(graph.backing(&root), Some(&image));
    assert_eq!(graph.missing().count(), 0);
    let chain = layers::chain(&store, &clone).unwrap();
    assert_eq!(chain, [clone.clone(), root.clone(), image.clone()]);
    let recorded: Vec<Layer> =
        chain.into_iter().map(|file| layers::measure(&store, file)).collect();
    layers::verify(&store, &recorded).unwrap();
    // The files say otherwise than the record: whoever wrote them, QEMU does not get them.
    assert!(layers::verify(&store, &recorded[..2]).is_err());
    fs::remove_file(store.root().join(root.as_str())).unwrap();
    assert!(layers::verify(&store, &recorded).is_err());
    assert_eq!(LayerGraph::read(&store).unwrap().missing().collect::<Vec<_>>(), [&root]);
    // qemu-img reads the same chain.
    let info = facts(&store.root().join(active.as_str()));
    assert_eq!(info["backing-filename"], "disk0.qcow2");
}
