//! What lies on a datastore, who needs it, and what may go.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use hostler_agent_api as api;
use hostler_agent_api::{
    DatastorePath, FileOwner, FoundFiles, FoundKind, ImageImportSource, ImagePath,
    ImageRemoveRequest, RemoveFilesRequest, RemovedFile, code,
};
use hostler_endpoint::{NoParams, Problem};
use hostler_types::{DiskSource, ImageId, LayerFile, OperationId, VmId};

use crate::world::{World, problem};

fn qemu_img(arguments: &[&str]) {
    let status = std::process::Command::new("qemu-img").args(arguments).status().unwrap();
    assert!(status.success(), "{arguments:?}");
}

/// An image that is in no inventory.
fn plant_image(world: &World, backing: Option<&str>) -> ImageId {
    let image = ImageId::generate();
    let path = world.path("store").join(LayerFile::image(image).as_str());
    let path = path.to_str().unwrap();
    match backing {
        None => qemu_img(&["create", "-q", "-f", "qcow2", path, "1M"]),
        Some(file) => {
            qemu_img(&["create", "-q", "-f", "qcow2", "-u", "-F", "raw", "-b", file, path, "1M"]);
        }
    }
    image
}

async fn files(world: &World) -> FoundFiles {
    let path = DatastorePath { datastore: world.datastore };
    world.client.call::<api::DatastoreFiles>(&path, &NoParams {}, ()).await.unwrap()
}

async fn clear(world: &World, paths: &[&str]) -> Vec<RemovedFile> {
    let path = DatastorePath { datastore: world.datastore };
    let paths = paths.iter().map(|path| (*path).to_owned()).collect();
    let request = RemoveFilesRequest { op: OperationId::generate(), paths };
    world.client.call::<api::DatastoreRemoveFiles>(&path, &NoParams {}, request).await.unwrap()
}

async fn remove_image(world: &World, image: ImageId) -> Result<(), Problem> {
    let request = ImageRemoveRequest { op: OperationId::generate(), datastore: world.datastore };
    let path = ImagePath { image };
    let removed = world.client.call::<api::ImageRemove>(&path, &NoParams {}, request);
    removed.await.map_err(problem)
}

fn disk(vm: VmId) -> LayerFile {
    LayerFile::disk(vm, &"disk0".parse().unwrap(), 0)
}

#[tokio::test]
async fn what_something_lies_on_is_never_deleted() {
    let mut world = World::start().await;
    let parent = world.vm(DiskSource::Blank);
    let id = parent.vm.id();
    world.create(&parent).await.unwrap();
    world.freeze(id, None).await.unwrap();
    let mut child = world.vm(DiskSource::Linked(disk(id)));
    child.vm.metadata.name = "child01".parse().unwrap();
    world.create(&child).await.unwrap();

    let users = async |owner| {
        let path = DatastorePath { datastore: world.datastore };
        world.client.call::<api::DatastoreUsers>(&path, &NoParams {}, owner).await.unwrap()
    };
    let told = users(FileOwner::Vm(id)).await;
    assert_eq!(told.len(), 1, "{told:?}");
    let text = format!("disk0.qcow2 of the VM `child01` lies on {}", disk(id));
    assert_eq!((told[0].vm, told[0].text.as_str()), (Some(child.vm.id()), text.as_str()));
    assert_eq!(users(FileOwner::File(disk(id))).await, told);
    assert_eq!(users(FileOwner::Vm(child.vm.id())).await, []);
    assert_eq!(users(FileOwner::File(disk(child.vm.id()))).await, []);

    let refused = world.remove(id, false, true).await.unwrap_err();
    assert_eq!((refused.code.as_str(), refused.detail.as_str()), (code::IN_USE, text.as_str()));
    // In no inventory any more, it needs its parent as much as before.
    world.remove(child.vm.id(), true, false).await.unwrap();
    let refused = world.remove(id, false, true).await.unwrap_err();
    assert!(refused.detail.contains("`child01`"), "{refused}");
    // A file that says nothing of what it needs is spoken for by its VM's definition.
    let path = world.path("store").join(disk(child.vm.id()).as_str());
    let whole = fs::read(&path).unwrap();
    fs::write(&path, [0; 4096]).unwrap();
    let refused = world.remove(id, false, true).await.unwrap_err();
    assert!(refused.detail.contains("lay on it, and is damaged"), "{refused}");
    fs::write(&path, whole).unwrap();
    assert!(world.report(id).await.is_some(), "nothing has changed");

    world.remove(child.vm.id(), false, false).await.unwrap();
    world.remove(id, false, false).await.unwrap();
    world.assert_nothing_left();
    world.end_agent().await;
}

#[tokio::test]
async fn a_damaged_file_of_another_is_no_obstacle() {
    let mut world = World::start().await;
    let (one, other) = (world.vm(DiskSource::Blank), world.vm(DiskSource::Blank));
    world.create(&one).await.unwrap();
    world.create(&other).await.unwrap();
    fs::write(world.path("store").join(disk(other.vm.id()).as_str()), "nonsense").unwrap();
    world.remove(one.vm.id(), false, false).await.unwrap();
    world.remove(other.vm.id(), false, false).await.unwrap();
    world.assert_nothing_left();
    world.end_agent().await;
}

#[tokio::test]
async fn an_image_goes_only_when_no_file_lies_on_it() {
    let mut world = World::start().await;
    let image = plant_image(&world, None);
    // Of somebody whose definition says nothing of it.
    let stranger = world.path("store/vms").join(VmId::generate().to_string());
    fs::create_dir(&stranger).unwrap();
    let backing = format!("../../images/{image}.qcow2");
    let overlay = stranger.join("disk0.qcow2");
    let overlay = overlay.to_str().unwrap();
    qemu_img(&["create", "-q", "-f", "qcow2", "-u", "-F", "qcow2", "-b", &backing, overlay, "1M"]);
    let refused = remove_image(&world, image).await.unwrap_err();
    assert_eq!(refused.code, code::IN_USE, "{refused}");
    let path = format!("images/{image}.qcow2");
    let answer = clear(&world, &[&path]).await;
    assert!(answer[0].refused.as_ref().unwrap().contains("lies on"), "{answer:?}");
    assert!(world.path("store").join(&path).exists());
    fs::remove_dir_all(stranger).unwrap();
    remove_image(&world, image).await.unwrap();
    world.end_agent().await;
}

#[tokio::test]
async fn every_file_is_told_whatever_it_is_called() {
    let mut world = World::start().await;
    let definition = world.vm(DiskSource::Blank);
    let vm = definition.vm.id();
    world.create(&definition).await.unwrap();
    let store = world.path("store");
    let hostile: [&[u8]; 4] = [b"\x1b]0;pwned\x07", b"a\nvm web01 removed", b"\xff\xfe", b"\\x41"];
    for name in hostile {
        fs::write(store.join("images").join(OsStr::from_bytes(name)), "x").unwrap();
    }
    std::os::unix::fs::symlink("/etc", store.join("vms/link")).unwrap();
    std::os::unix::fs::symlink("/etc", store.join("vms").join(VmId::generate().to_string()))
        .unwrap();
    fs::create_dir(store.join("vms/notes")).unwrap();
    fs::write(store.join("vms/notes/x"), [1; 8192]).unwrap();
    fs::write(store.join("stray"), "x").unwrap();
    fs::write(store.join(format!("vms/{vm}/disk0.7.qcow2")), "x").unwrap();
    // A console's log that has become too long.
    fs::write(store.join(format!("vms/{vm}/console.log.1")), "x").unwrap();

    let found = files(&world).await;
    assert!(!found.truncated);
    let printable = |path: &str| path.is_ascii() && !path.chars().any(char::is_control);
    assert!(found.files.iter().all(|file| printable(&file.path)), "{found:#?}");
    let of = |path: &str| found.files.iter().find(|file| file.path == path).map(|file| &file.kind);
    assert_eq!(of("images/\\x1b]0;pwned\\x07"), Some(&FoundKind::File));
    assert_eq!(of("images/\\xff\\xfe"), Some(&FoundKind::File));
    assert_eq!(of("images/\\\\x41"), Some(&FoundKind::File));
    assert_eq!(of("vms/link"), Some(&FoundKind::Other));
    assert_eq!(of("vms/notes"), Some(&FoundKind::Directory));
    assert_eq!(of("stray"), Some(&FoundKind::File));
    assert_eq!(of(disk(vm).as_str()), Some(&FoundKind::Base));
    assert!(matches!(of(&format!("vms/{vm}/disk0.7.qcow2")), Some(FoundKind::Unusable(_))));
    assert!(found.files.iter().all(|file| !file.path.contains("passwd")), "no link is followed");
    assert_eq!(found.definitions.len(), 1);
    assert_eq!(found.definitions[0].name.as_ref().unwrap().as_str(), "web01");

    removal_is_held_against_what_is_there(&world, vm, &found).await;
    world.end_agent().await;
}

async fn removal_is_held_against_what_is_there(world: &World, vm: VmId, found: &FoundFiles) {
    let own = [
        format!("vms/{vm}"),
        format!("vms/{vm}/vm.json"),
        format!("vms/{vm}/disk0.qcow2"),
        format!("vms/{vm}/seed.img"),
        format!("vms/{vm}/console.log.1"),
    ];
    let own: Vec<&str> = own.iter().map(String::as_str).collect();
    let answer = clear(world, &own).await;
    assert!(answer.iter().all(|file| file.refused.is_some()), "{answer:?}");
    let places =
        [".hostler-datastore", "images", "vms", "images/..", "../x", "/etc", "vms/../x", ""];
    clear(world, &places).await;
    let strays: Vec<&str> = found.files.iter().map(|file| file.path.as_str()).collect();
    let strays: Vec<&str> =
        strays.into_iter().filter(|path| !path.contains(&vm.to_string())).collect();
    let answer = clear(world, &strays).await;
    assert!(answer.iter().all(|file| file.refused.is_none()), "{answer:?}");
    let leftover = format!("vms/{vm}/disk0.7.qcow2");
    let answer = clear(world, &[&leftover, &leftover]).await;
    assert!(answer.iter().all(|file| file.refused.is_none()), "{answer:?}");
    assert!(Path::new("/etc/passwd").exists());
    let left = files(world).await.files;
    assert!(left.iter().all(|file| file.path.contains(&vm.to_string())), "{left:?}");
    world.remove(vm, false, false).await.unwrap();
}

#[tokio::test]
async fn an_image_that_was_found_is_inspected_like_any_other() {
    let mut world = World::start().await;
    let good = plant_image(&world, None);
    let imported = world.import(good, ImageImportSource::Found).await.unwrap();
    assert_eq!(imported.virtual_size, hostler_types::ByteSize::mib(1));
    let store = world.path("store");
    assert!(store.join(format!("images/{good}.json")).exists());
    let metadata = fs::metadata(store.join(LayerFile::image(good).as_str())).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::mode(&metadata) & 0o777, 0o640);

    let bad = plant_image(&world, Some("/etc/shadow"));
    let refused = world.import(bad, ImageImportSource::Found).await.unwrap_err();
    assert_eq!(refused.code, code::IMAGE_REFUSED, "{refused}");
    assert!(store.join(LayerFile::image(bad).as_str()).exists(), "it is not ours to delete");
    let none = world.import(ImageId::generate(), ImageImportSource::Found).await.unwrap_err();
    assert_eq!(none.code, code::WRONG_STATE, "{none}");
    world.end_agent().await;
}
