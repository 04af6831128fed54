//! Datastores on real directories, and one on a file system that fills up.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use hostler_host::{Datastore, DatastoreError, DefinitionError, VmDir};
use hostler_types::{DatastoreId, ImageId, ImageMedia, Vm, VmId};

/// A temporary directory that guests' users could pass.
pub(crate) fn directory() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o711)).unwrap();
    directory
}

pub(crate) fn datastore() -> (tempfile::TempDir, Datastore) {
    let directory = directory();
    let store = Datastore::create(&directory.path().join("store"), DatastoreId::generate());
    (directory, store.unwrap())
}

pub(crate) fn vm() -> Vm {
    let spec = serde_json::json!({"cpus": 1, "memory": "1GiB", "disks": []});
    let status = serde_json::json!({
        "power": "stopped", "power_since": "2026-01-01T00:00:00Z",
        "host": VmId::generate().to_string(), "epoch": 1, "datastore": VmId::generate().to_string(),
    });
    Vm::new(
        "web01".parse().unwrap(),
        Default::default(),
        "2026-01-01T00:00:00Z".parse().unwrap(),
        serde_json::from_value(spec).unwrap(),
        serde_json::from_value(status).unwrap(),
    )
}

#[test]
fn creating_twice_opens_and_another_id_is_refused() {
    let directory = directory();
    let path = directory.path().join("a/b");
    let id = DatastoreId::generate();
    let store = Datastore::create(&path, id).unwrap();
    assert_eq!(fs::metadata(path.join("vms")).unwrap().mode() & 0o777, 0o711);
    assert!(store.space().unwrap().free.bytes() > 0);
    Datastore::create(&path, id).unwrap();
    let error = Datastore::create(&path, DatastoreId::generate()).unwrap_err();
    assert!(matches!(error, DatastoreError::OtherDatastore { .. }), "{error}");
}

#[test]
fn a_directory_with_other_things_is_refused() {
    let directory = directory();
    fs::write(directory.path().join("letter.txt"), "dear").unwrap();
    let error = Datastore::create(directory.path(), DatastoreId::generate()).unwrap_err();
    assert!(error.to_string().contains("letter.txt"), "{error}");
    assert!(!directory.path().join("vms").exists());
}

#[test]
fn a_directory_that_guests_cannot_reach_is_refused() {
    let directory = directory();
    let hidden = directory.path().join("hidden");
    fs::create_dir(&hidden).unwrap();
    fs::set_permissions(&hidden, fs::Permissions::from_mode(0o700)).unwrap();
    let error = Datastore::create(&hidden.join("store"), DatastoreId::generate()).unwrap_err();
    assert!(error.to_string().contains("chmod o+x"), "{error}");
}

#[test]
fn nothing_is_written_without_the_marker() {
    let (_guard, store) = datastore();
    let vm = vm();
    store.vm(vm.id()).create().unwrap();
    fs::remove_file(store.root().join(".hostler-datastore")).unwrap();
    let other = store.vm(VmId::generate());
    let results = [
        store.check(),
        store.space().map(drop),
        store.scan().map(drop),
        other.create(),
        store.vm(vm.id()).write_definition(&vm),
        store.vm(vm.id()).remove(),
        store.remove_image(ImageId::generate()),
        Datastore::open(store.root(), store.id()).map(drop),
    ];
    for result in results {
        assert!(matches!(result, Err(DatastoreError::NotMounted(_))), "{result:?}");
    }
    assert!(!other.path().exists() && store.vm(vm.id()).exists());
    let gone = Datastore::open(Path::new("/nonexistent/store"), store.id()).unwrap_err();
    assert!(matches!(gone, DatastoreError::NotMounted(_)), "{gone}");
}

#[test]
fn definitions_are_kept_unregistered_and_registered_again() {
    let (_guard, store) = datastore();
    let vm = vm();
    let dir = store.vm(vm.id());
    assert!(dir.read_definition().unwrap().is_none());
    dir.create().unwrap();
    assert!(store.scan().unwrap().is_empty());
    dir.write_definition(&vm).unwrap();
    let mode = fs::metadata(dir.definition_path()).unwrap().mode() & 0o777;
    assert_eq!(mode, 0o600);
    for (step, registered) in [
        (VmDir::register as fn(&VmDir) -> _, true),
        (VmDir::unregister, false),
        (VmDir::unregister, false),
        (VmDir::register, true),
    ] {
        step(&dir).unwrap();
        let found = store.scan().unwrap();
        assert_eq!((found.len(), found[0].registered), (1, registered));
        assert_eq!(found[0].definition.as_ref().unwrap(), &vm);
    }
    dir.unregister().unwrap();
    dir.write_definition(&vm).unwrap();
    assert!(!dir.path().join("vm.json.unregistered").exists());
    dir.unregister().unwrap();
    assert_eq!(dir.read_definition().unwrap().unwrap(), vm);
}
#[test]
fn a_foreign_definition_is_not_trusted() {
    let (_guard, store) = datastore();
    let dir = store.vm(VmId::generate());
    dir.create().unwrap();
    let path = dir.definition_path();
    let read = || {
        let error = dir.read_definition().unwrap_err();
        fs::remove_file(&path).unwrap();
        error
    };
    symlink("/etc/shadow", &path).unwrap();
    let error = read();
    assert!(matches!(error, DefinitionError::NotAFile(_)), "{error}");
    fs::write(&path, "{").unwrap();
    let error = read();
    assert!(matches!(error, DefinitionError::Malformed { .. }), "{error}");
    fs::File::create(&path).unwrap().set_len(1 << 40).unwrap();
    let error = read();
    assert!(matches!(error, DefinitionError::TooLarge { .. }), "{error}");
    fs::write(&path, serde_json::to_vec(&vm()).unwrap()).unwrap();
    let error = read();
    assert!(matches!(error, DefinitionError::OtherVm { .. }), "{error}");
}

#[test]
fn removal_is_repeatable_and_follows_no_link() {
    let (guard, store) = datastore();
    let outside = guard.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("precious"), "x").unwrap();
    let dir = store.vm(VmId::generate());
    dir.create().unwrap();
    symlink(&outside, dir.path().join("link")).unwrap();
    dir.remove().unwrap();
    dir.remove().unwrap();
    assert!(!dir.exists() && outside.join("precious").exists());

    let linked = store.vm(VmId::generate());
    symlink(&outside, linked.path()).unwrap();
    linked.remove().unwrap();
    assert!(outside.join("precious").exists());
    assert!(!linked.path().exists());
}

#[test]
fn opening_finishes_what_a_crash_interrupted() {
    let (_guard, store) = datastore();
    let vm = VmId::generate();
    let removed: PathBuf = store.root().join(format!("vms/.removed-{vm}"));
    fs::create_dir(&removed).unwrap();
    fs::write(removed.join("disk0.qcow2"), "x").unwrap();
    fs::write(store.root().join("images/.tmp-abc"), "x").unwrap();
    Datastore::open(store.root(), store.id()).unwrap();
    assert!(!removed.exists());
    assert_eq!(fs::read_dir(store.root().join("images")).unwrap().count(), 0);
}

#[test]
fn orphans_are_what_nobody_knows() {
    let (_guard, store) = datastore();
    let (known, unknown) = (VmId::generate(), VmId::generate());
    store.vm(known).create().unwrap();
    store.vm(unknown).create().unwrap();
    let image = ImageId::generate();
    fs::write(store.image(image, ImageMedia::Cdrom), "x").unwrap();
    assert_eq!(store.find_image(image).unwrap().1, ImageMedia::Cdrom);
    let stray = store.image_part(ImageId::generate());
    fs::write(&stray, "x").unwrap();
    let orphans = store.orphans(&HashSet::from([known]), &HashSet::from([image])).unwrap();
    assert_eq!(orphans, [stray, store.vm(unknown).path().to_owned()]);
    store.remove_image(image).unwrap();
    store.remove_image(image).unwrap();
    assert!(store.find_image(image).is_none());
}

#[test]
fn a_released_directory_becomes_a_datastore_again_with_what_it_holds() {
    let (_guard, store) = datastore();
    let vm = vm();
    store.vm(vm.id()).create().unwrap();
    store.vm(vm.id()).write_definition(&vm).unwrap();
    store.release().unwrap();
    assert!(matches!(store.check(), Err(DatastoreError::Released(_))));
    let again = Datastore::create(store.root(), DatastoreId::generate()).unwrap();
    assert_eq!(again.scan().unwrap().len(), 1);
    again.vm(vm.id()).remove().unwrap();
    again.release().unwrap();
    assert_eq!(fs::read_dir(again.root()).unwrap().count(), 0);
}

#[test]
fn a_shared_datastore_is_not_made_on_the_root_file_system() {
    let directory = tempfile::tempdir_in("/var/tmp").unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o711)).unwrap();
    let same = fs::metadata("/").unwrap().dev() == directory.path().metadata().unwrap().dev();
    let made = Datastore::create_shared(&directory.path().join("store"), DatastoreId::generate());
    match made {
        Err(DatastoreError::NotShared(_)) => assert!(same),
        made => assert!(!same && made.is_ok()),
    }
}
