//! Instant clones, from the command line to the guests' own words.

use std::collections::BTreeSet;

use hostler_e2e::Instance;

#[test]
fn qemu_instant_clones_are_machines_of_their_own() {
    let hostler = Instance::start();
    hostler.import_tiny();
    let create = ["vm", "create", "web01", "--image", "tiny", "--memory", "256MiB"];
    hostler.ok(&[&create[..], &["--start", "--wait=guest"]].concat());
    let sh = |vm: &str, script: &str| {
        hostler.ok(&["vm", "exec", vm, "--", "sh", "-c", script]).trim().to_owned()
    };
    sh("web01", "echo kept >/tmp/mark");
    let boot = sh("web01", "cat /proc/sys/kernel/random/boot_id");

    let clone = ["vm", "clone", "web01", "--instant", "--count", "3", "--name", "ci-{01..}"];
    hostler.ok(&[&clone[..], &["--wait=customized", "--timeout", "2m"]].concat());

    let (mut addresses, mut macs) = (BTreeSet::new(), BTreeSet::new());
    for vm in ["web01", "ci-01", "ci-02", "ci-03"] {
        assert_eq!(sh(vm, "hostname; cat /tmp/mark"), format!("{vm}\nkept"));
        assert_eq!(sh(vm, "cat /proc/sys/kernel/random/boot_id"), boot, "nobody has booted");
        macs.insert(sh(vm, "cat /sys/class/net/eth*/address"));
        let address = "ip -4 -o addr show scope global | awk '{ print $4 }'";
        addresses.insert(sh(vm, &format!("for n in $(seq 50); do a=$({address}); [ -n \"$a\" ] && break; sleep .1; done; echo $a")));
    }
    assert_eq!((macs.len(), addresses.len()), (4, 4), "{macs:?} {addresses:?}");
    assert!(addresses.iter().all(|address| address.ends_with("/24")), "{addresses:?}");

    // They go on without each other, and the VM beneath them cannot go.
    sh("ci-01", "echo changed >/tmp/mark");
    assert_eq!(sh("web01", "cat /tmp/mark"), "kept");
    hostler.fails(4, &["vm", "delete", "web01", "--yes", "--force", "--now"]);
    hostler.ok(&["vm", "delete", "ci-01", "ci-02", "ci-03", "--yes", "--force", "--now"]);
    hostler.ok(&["vm", "delete", "web01", "--yes", "--force", "--now"]);
    assert_eq!(hostler.qemu_pids(), Vec::<u32>::new());
}
