//! Imports of good images, and of a corpus of bad ones.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use hostler_host::image::import;
use hostler_host::uid::IMAGE_GID;
use hostler_host::{
    Datastore, ImportError, ImportProgress, ImportStage, ImportedImage, QemuImg, Refusal,
};
use hostler_types::{ByteSize, DatastoreId, ImageFormat, ImageId, ImageMedia, Sha256};

use crate::datastore::datastore;
use crate::volume::{SmallDisk, qemu_img};

/// A raw disk that is told as one by its boot signature, with some data far in that does not
/// compress.
fn raw(directory: &Path) -> PathBuf {
    let path = directory.join("raw");
    let file = File::create(&path).unwrap();
    file.set_len(8 << 20).unwrap();
    file.write_all_at(b"\x55\xaa", 510).unwrap();
    let mut state = 1u64;
    let noise: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_be_bytes()[0]
    })
    .take(300 << 10)
    .collect();
    file.write_all_at(&noise, 3 << 20).unwrap();
    path
}

fn made(directory: &Path, format: &str, options: &str) -> PathBuf {
    let (source, target) = (raw(directory), directory.join(format!("made.{format}")));
    let (source, text) = (source.to_str().unwrap(), target.to_str().unwrap());
    let mut arguments = vec!["convert", "-q", "-f", "raw", "-O", format];
    if !options.is_empty() {
        arguments.extend(["-o", options]);
    }
    arguments.extend([source, text]);
    qemu_img(&arguments);
    target
}

async fn import_file(
    store: &Datastore,
    source: &Path,
) -> (ImageId, Result<ImportedImage, ImportError>) {
    let id = ImageId::generate();
    fs::copy(source, store.image_part(id)).unwrap();
    (id, import(store, id, None, &QemuImg::new(), |_| {}).await)
}

/// Imports bytes that must be refused, and checks that only they are left.
async fn refused(store: &Datastore, source: &Path) -> Refusal {
    let (id, result) = import_file(store, source).await;
    let names: Vec<String> = fs::read_dir(store.root().join("images"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names, [format!("{id}.part")], "only what was received is left");
    store.remove_image(id).unwrap();
    match result {
        Err(ImportError::Refused(refusal)) => refusal,
        other => panic!("{source:?}: {other:?}"),
    }
}

fn sha256(path: &Path) -> Sha256 {
    let output = Command::new("sha256sum").arg(path).output().unwrap();
    String::from_utf8(output.stdout).unwrap()[..64].parse().unwrap()
}

#[tokio::test]
async fn every_format_becomes_a_disk_with_the_same_content() {
    let (guard, store) = datastore();
    let raw = raw(guard.path());
    for (source, format) in [
        (raw.clone(), ImageFormat::Raw),
        (made(guard.path(), "qcow2", ""), ImageFormat::Qcow2),
        (made(guard.path(), "qcow2", "compat=0.10"), ImageFormat::Qcow2),
        (made(guard.path(), "qcow2", "extended_l2=on,cluster_size=128k"), ImageFormat::Qcow2),
        (made(guard.path(), "vmdk", "subformat=monolithicSparse"), ImageFormat::Vmdk),
        (made(guard.path(), "vmdk", "subformat=streamOptimized"), ImageFormat::Vmdk),
        (made(guard.path(), "vhdx", ""), ImageFormat::Vhdx),
    ] {
        let (id, result) = import_file(&store, &source).await;
        let image = result.unwrap();
        assert_eq!((image.format, image.media), (format, ImageMedia::Disk));
        assert_eq!((image.virtual_size, &image.sha256), (ByteSize::mib(8), &sha256(&source)));
        let place = store.image(id, ImageMedia::Disk);
        let text = place.to_str().unwrap();
        qemu_img(&["compare", "-q", "-f", "raw", "-F", "qcow2", raw.to_str().unwrap(), text]);
        let metadata = fs::metadata(&place).unwrap();
        assert_eq!(
            (metadata.uid(), metadata.gid(), metadata.mode() & 0o777),
            (0, IMAGE_GID, 0o640)
        );
        assert_eq!(image.allocated, ByteSize(metadata.blocks() * 512));
        assert!(format == ImageFormat::Vhdx || image.allocated < ByteSize::mib(2), "{image:?}");
        assert!(!store.image_part(id).exists());
        // The command is repeated after a crash: the answer is the same.
        let again = import(&store, id, None, &QemuImg::new(), |_| {}).await.unwrap();
        assert_eq!(again, image);
        store.remove_image(id).unwrap();
        assert_eq!(fs::read_dir(store.root().join("images")).unwrap().count(), 0);
    }
}

#[tokio::test]
async fn an_iso_stays_as_it_is() {
    let (guard, store) = datastore();
    let iso = guard.path().join("minimal.iso");
    let file = File::create(&iso).unwrap();
    file.set_len(0x9000).unwrap();
    file.write_all_at(b"\x01CD001\x01", 0x8000).unwrap();
    file.write_all_at(&18u32.to_le_bytes(), 0x8050).unwrap();
    file.write_all_at(&2048u16.to_le_bytes(), 0x8080).unwrap();
    let (id, result) = import_file(&store, &iso).await;
    let image = result.unwrap();
    assert_eq!((image.format, image.media), (ImageFormat::Iso, ImageMedia::Cdrom));
    assert_eq!(image.virtual_size, ByteSize(0x9000));
    let place = store.image(id, ImageMedia::Cdrom);
    assert_eq!(fs::read(&place).unwrap(), fs::read(&iso).unwrap());
    store.remove_image(id).unwrap();
    file.write_all_at(&19u32.to_le_bytes(), 0x8050).unwrap();
    let refusal = refused(&store, &iso).await;
    assert!(matches!(refusal, Refusal::Truncated { .. }), "{refusal}");
}

/// CVE-2015-1851, CVE-2024-32498, CVE-2022-47951 and their kin.
#[tokio::test]
async fn references_to_other_files_are_refused() {
    let (guard, store) = datastore();
    let directory = guard.path();
    let path = |name: &str| directory.join(name);
    let create = |name: &str, arguments: &[&str]| {
        let target = path(name);
        let create = [&["create", "-q"], arguments, &[target.to_str().unwrap(), "8M"]].concat();
        qemu_img(&create);
        target
    };
    let base = made(directory, "qcow2", "");
    let base = base.to_str().unwrap();
    let vmdk = made(directory, "vmdk", "subformat=monolithicSparse");
    let vmdk = vmdk.to_str().unwrap();
    let data = format!("data_file={}", path("data.raw").display());
    let data_raw = format!("{data},data_file_raw=on");
    let key = path("key");
    fs::write(&key, "secret").unwrap();
    let secret = format!("secret,id=k,file={}", key.display());
    let luks = [
        "-f",
        "qcow2",
        "--object",
        &secret,
        "-o",
        "encrypt.format=luks,encrypt.key-secret=k,encrypt.iter-time=10",
    ];

    for (file, expected) in [
        (create("b.qcow2", &["-f", "qcow2", "-b", base, "-F", "qcow2"]), base),
        (
            create("s.qcow2", &["-f", "qcow2", "-u", "-b", "/etc/shadow", "-F", "raw"]),
            "/etc/shadow",
        ),
        (
            create(
                "j.qcow2",
                &["-f", "qcow2", "-u", "-b", "json:{\"driver\":\"nbd\"}", "-F", "raw"],
            ),
            "json:{",
        ),
        (
            create("n.qcow2", &["-f", "qcow2", "-u", "-b", "nbd:127.0.0.1:1", "-F", "raw"]),
            "nbd:127",
        ),
        (create("d.qcow2", &["-f", "qcow2", "-o", &data]), "data.raw"),
        (create("r.qcow2", &["-f", "qcow2", "-o", &data_raw]), "data.raw"),
        (create("e.qcow2", &luks), "encrypted"),
        (create("f.vmdk", &["-f", "vmdk", "-o", "subformat=monolithicFlat"]), "descriptor"),
        (create("t.vmdk", &["-f", "vmdk", "-o", "subformat=twoGbMaxExtentSparse"]), "descriptor"),
        (create("v.vmdk", &["-f", "vmdk", "-b", vmdk, "-F", "vmdk"]), "backing file"),
    ] {
        let text = refused(&store, &file).await.to_string();
        assert!(text.contains(expected), "{file:?}: {text}");
    }

    // A sparse header without capacity makes QEMU read the descriptor, and open what it names.
    let disguised = path("disguised.vmdk");
    fs::copy(vmdk, &disguised).unwrap();
    let file = OpenOptions::new().write(true).open(&disguised).unwrap();
    file.write_all_at(&[0; 8], 12).unwrap();
    let refusal = refused(&store, &disguised).await;
    assert!(matches!(refusal, Refusal::DataFile(_)), "{refusal}");
}

#[tokio::test]
async fn bombs_and_polyglots_are_refused_quickly() {
    let (guard, store) = datastore();
    let start = Instant::now();
    let qcow2 = made(guard.path(), "qcow2", "");
    let patched = |name: &str, patches: &[(u64, &[u8])]| {
        let target = guard.path().join(name);
        fs::copy(&qcow2, &target).unwrap();
        let file = OpenOptions::new().write(true).open(&target).unwrap();
        for (at, bytes) in patches {
            file.write_all_at(bytes, *at).unwrap();
        }
        target
    };
    let eight_eib = (8u64 << 60).to_be_bytes();
    for (file, expected) in [
        (patched("virtual", &[(24, &eight_eib)]), "more than the 64TiB"),
        (patched("virtual-l1", &[(24, &eight_eib), (36, &u32::MAX.to_be_bytes())]), "64TiB"),
        (patched("l1", &[(36, &(1u32 << 22 | 1).to_be_bytes())]), "L1 table"),
        (patched("l1-far", &[(36, &(1u32 << 22).to_be_bytes())]), "cut short"),
        (patched("l1-away", &[(40, &(1u64 << 60).to_be_bytes())]), "cut short"),
        (patched("refcounts", &[(56, &u32::MAX.to_be_bytes())]), "refcount"),
        (patched("features", &[(72, &(1u64 << 33).to_be_bytes())]), "features"),
        (patched("corrupt", &[(72, &2u64.to_be_bytes())]), "check -r all"),
        (patched("iso", &[(0x8001, b"CD001")]), "both"),
        (patched("no-l1", &[(196_608, &[0xff; 8])]), "damaged"),
    ] {
        let text = refused(&store, &file).await.to_string();
        assert!(text.contains(expected), "{file:?}: {text}");
    }
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[tokio::test]
async fn what_is_cut_short_is_refused() {
    let (guard, store) = datastore();
    let cut = |source: PathBuf, numerator: u64| {
        let length = fs::metadata(&source).unwrap().len();
        let file = OpenOptions::new().write(true).open(&source).unwrap();
        file.set_len(length * numerator / 8).unwrap();
        source
    };
    for eighths in [1, 4, 6] {
        for (format, options) in [
            ("qcow2", ""),
            ("vmdk", "subformat=monolithicSparse"),
            ("vmdk", "subformat=streamOptimized"),
            ("vhdx", "subformat=dynamic"),
        ] {
            let file = cut(made(guard.path(), format, options), eighths);
            let text = refused(&store, &file).await.to_string();
            assert!(text.contains("damaged") || text.contains("cut short"), "{format}: {text}");
        }
    }
    fs::write(guard.path().join("empty"), "").unwrap();
    assert_eq!(refused(&store, &guard.path().join("empty")).await, Refusal::Empty);
    fs::write(guard.path().join("text"), "<html>Not found</html>").unwrap();
    assert_eq!(refused(&store, &guard.path().join("text")).await, Refusal::Text);
}

#[tokio::test]
async fn a_wrong_checksum_is_told_and_the_file_kept() {
    let (guard, store) = datastore();
    let source = raw(guard.path());
    let id = ImageId::generate();
    let missing = import(&store, id, None, &QemuImg::new(), |_| {}).await.unwrap_err();
    assert!(matches!(missing, ImportError::NotReceived(_)), "{missing}");
    fs::copy(&source, store.image_part(id)).unwrap();
    let wrong = Sha256::from_bytes([0; 32]);
    let error = import(&store, id, Some(&wrong), &QemuImg::new(), |_| {}).await.unwrap_err();
    assert!(matches!(error, ImportError::Checksum { .. }), "{error}");
    assert!(store.image_part(id).exists() && store.find_image(id).is_none());
    let right = sha256(&source);
    import(&store, id, Some(&right), &QemuImg::new(), |_| {}).await.unwrap();
}

#[tokio::test]
async fn a_link_instead_of_the_received_file_is_refused() {
    let (_guard, store) = datastore();
    let id = ImageId::generate();
    symlink("/etc/shadow", store.image_part(id)).unwrap();
    let error = import(&store, id, None, &QemuImg::new(), |_| {}).await.unwrap_err();
    assert!(matches!(error, ImportError::Io { .. }), "{error}");
    assert_ne!(fs::metadata("/etc/shadow").unwrap().gid(), IMAGE_GID);
}

/// A small compressed image that unfolds into more than the datastore holds.
#[tokio::test]
async fn what_does_not_fit_is_told_with_the_free_space() {
    let small = SmallDisk::new(24 << 10);
    let store = Datastore::create(small.0.path(), DatastoreId::generate()).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let source = directory.path().join("big.raw");
    let file = File::create(&source).unwrap();
    file.write_all_at(&vec![0x11; 64 << 20], 0).unwrap();
    file.write_all_at(b"\x55\xaa", 510).unwrap();
    let bomb = directory.path().join("bomb.vmdk");
    let (source, target) = (source.to_str().unwrap(), bomb.to_str().unwrap());
    let convert = ["convert", "-f", "raw", "-O", "vmdk", "-o", "subformat=streamOptimized"];
    qemu_img(&[&convert[..], &[source, target]].concat());
    assert!(fs::metadata(&bomb).unwrap().len() < 2 << 20);
    let (id, result) = import_file(&store, &bomb).await;
    let error = result.unwrap_err();
    assert!(matches!(error, ImportError::Full { .. }), "{error:?}");
    assert!(error.to_string().contains("MiB free"), "{error}");
    assert!(store.image_part(id).exists() && store.space().unwrap().free > ByteSize::mib(20));
}

#[tokio::test]
async fn a_dropped_import_leaves_only_what_was_received() {
    let (guard, store) = datastore();
    let source = guard.path().join("big.raw");
    let file = File::create(&source).unwrap();
    let block: Vec<u8> = (1..=251).cycle().take(1 << 20).collect();
    for megabyte in 0..192 {
        file.write_all_at(&block, megabyte << 20).unwrap();
    }
    file.write_all_at(b"\x55\xaa", 510).unwrap();
    let id = ImageId::generate();
    fs::copy(&source, store.image_part(id)).unwrap();
    let stages: Mutex<Vec<ImportStage>> = Mutex::default();
    let report = |progress: ImportProgress| stages.lock().unwrap().push(progress.stage);
    let converting = store.root().join(format!("images/{id}.converting"));
    let qemu_img = QemuImg::new();
    let work = import(&store, id, None, &qemu_img, report);
    let begun = async {
        while !converting.exists() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        result = work => panic!("done before it could be dropped: {result:?}"),
        () = begun => {}
    }
    assert!(!converting.exists() && store.image_part(id).exists());
    assert!(stages.lock().unwrap().contains(&ImportStage::Hashing));
    let image = import(&store, id, None, &qemu_img, |_| {}).await.unwrap();
    assert_eq!(image.virtual_size, ByteSize::mib(192));
}
