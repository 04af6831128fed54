//! Archives of VMs, whose disks are what the guest has made of them.

use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use hostler_agent_api as api;
use hostler_agent_api::{VmDefinition, VmExportRequest, VmPath};
use hostler_endpoint::{NoParams, Problem};
use hostler_types::{DatastoreId, DiskSource, ExportManifest};

use crate::full::Small;
use crate::world::{World, command, long, problem};

async fn export(world: &World, definition: &VmDefinition) -> Result<ExportManifest, Problem> {
    let path = VmPath { vm: definition.vm.id() };
    let request = VmExportRequest { command: command(1), networks: Vec::new() };
    let call = world.client.call_with::<api::VmExport>(&path, &NoParams {}, request, long());
    call.await.map_err(problem)
}

/// Makes the first `count` clusters of a qcow2 one and the same.
fn map_to_one(disk: &Path, count: u64) {
    let file = std::fs::OpenOptions::new().read(true).write(true).open(disk).unwrap();
    let number = |at: u64| {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, at).unwrap();
        u64::from_be_bytes(bytes)
    };
    const OFFSET: u64 = 0x00ff_ffff_ffff_fe00;
    let table = number(number(40)) & OFFSET;
    let first = number(table).to_be_bytes();
    for entry in 1..count {
        file.write_all_at(&first, table + 8 * entry).unwrap();
    }
}

#[tokio::test]
async fn a_disk_that_makes_much_of_little_does_not_fill_its_datastore() {
    let mut world = World::start().await;
    let small = Small::mount(&world.path("small"), 400 << 20);
    let datastore = DatastoreId::generate();
    let place = small.path().to_str().unwrap().to_owned();
    let check = api::DatastoreCheck { path: place, create: true, shared: false };
    let path = api::DatastorePath { datastore };
    world.client.call::<api::DatastoreEnsure>(&path, &NoParams {}, check).await.unwrap();
    let mut definition = world.vm(DiskSource::Blank);
    definition.vm.status.datastore = datastore;
    let vm = definition.vm.id();
    world.create(&definition).await.unwrap();
    let folder = small.path().join(format!("vms/{vm}"));
    let disk = folder.join("disk0.qcow2");
    let write = ["-f", "qcow2", "-c", "write -q -P 7 0 64k"];
    let written = std::process::Command::new("qemu-io").args(write).arg(&disk).status();
    assert!(written.unwrap().success());

    let whole = export(&world, &definition).await.unwrap();
    assert!(whole.disks[0].file.bytes() < 1 << 20);
    let copy = std::fs::metadata(folder.join("export/disk0.qcow2")).unwrap();
    assert_eq!((copy.uid(), copy.gid(), copy.mode() & 0o777), (0, 0, 0o600));

    // 300 MiB, which would leave less than an export must.
    map_to_one(&disk, 300 << 4);
    let refused = export(&world, &definition).await.unwrap_err();
    assert_eq!(refused.code, api::code::NO_SPACE, "{refused:?}");
    assert!(!folder.join("export").exists(), "nothing is left of it");

    // The work is done with the rights of the VM's own user.
    std::os::unix::fs::chown(&disk, Some(0), Some(0)).unwrap();
    let refused = export(&world, &definition).await.unwrap_err();
    assert!(refused.detail.contains("Permission denied"), "{refused:?}");
    std::os::unix::fs::chown(&disk, Some(hostler_host::uid::VM_UID_BASE), None).unwrap();
    world.remove(vm, false, false).await.unwrap();
    world.end_agent().await;
}
