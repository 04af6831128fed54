//! A seed on the datastore, as a program that is not ours reads it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use hostler_customize::Guest;
use hostler_host::seed;
use hostler_host::{DatastoreError, SeedError, VmUid};
use hostler_types::Customization;

use crate::datastore::{datastore, vm};

#[test]
fn a_seed_is_found_by_its_label_and_read_by_its_vm_alone() {
    let (_guard, store) = datastore();
    let vm = vm();
    let dir = store.vm(vm.id());
    dir.create().unwrap();
    let customization = Customization::default();
    let input =
        Guest { vm: vm.id(), name: vm.name(), customization: &customization, nics: &[], hash: "" };
    let owner = VmUid::from_slot(5).unwrap();
    for _ in 0..2 {
        seed::write(&dir, &input, owner).unwrap();
        let metadata = fs::metadata(dir.seed()).unwrap();
        assert_eq!((metadata.uid(), metadata.mode() & 0o777), (owner.uid(), 0o600));
    }
    assert_eq!(fs::read(dir.seed()).unwrap(), seed::build(&input).unwrap());
    let output = Command::new("blkid").args(["-p", "-o", "export"]).arg(dir.seed()).output();
    let text = String::from_utf8(output.unwrap().stdout).unwrap();
    assert!(text.contains("LABEL=CIDATA") && text.contains("TYPE=vfat"), "{text}");
    seed::remove(&dir).unwrap();
    seed::remove(&dir).unwrap();
    assert!(!dir.seed().exists());

    fs::remove_file(store.root().join(".hostler-datastore")).unwrap();
    let error = seed::write(&dir, &input, owner).unwrap_err();
    assert!(matches!(error, SeedError::Datastore(DatastoreError::NotMounted(_))), "{error}");
}
