//! Changes to a running VM, from the command line.

use hostler_e2e::Instance;

/// The size of the disk `data` in sectors.
const SECTORS: &str = "for d in /sys/block/*; do \
    [ \"$(cat $d/serial 2>/dev/null)\" = data ] && cat $d/size; done; true";

#[test]
fn qemu_a_running_vm_changes_as_it_was_said() {
    let hostler = Instance::start();
    hostler.import_tiny();
    let iso = hostler.path().join("tools.iso");
    let mut bytes = vec![0; 1 << 20];
    bytes[32_768..32_775].copy_from_slice(b"\x01CD001\x01");
    std::fs::write(&iso, bytes).unwrap();
    hostler.ok(&["image", "import", "tools", &iso.to_string_lossy()]);
    let create =
        ["vm", "create", "web01", "--image", "tiny", "--iso", "tools", "--memory", "256MiB"];
    hostler.ok(&[&create[..], &["--max-memory", "1GiB", "--start", "--wait=guest"]].concat());

    let change = ["vm", "set", "web01", "--cpus", "2", "--memory", "768MiB", "--firmware", "uefi"];
    let plan = hostler.ok(&[&change[..], &["--plan"]].concat());
    for line in ["cpus", "memory", "firmware", "needs power off", "with the guest's help"] {
        assert!(plan.contains(line), "{plan}");
    }
    assert_eq!(hostler.ok(&["vm", "exec", "web01", "--", "nproc"]).trim(), "1");
    let said = hostler.ok(&change);
    assert!(said.contains("cpus: 2, done") && said.contains("2 CPUs online"), "{said}");
    assert!(said.contains("firmware: uefi at the next start"), "{said}");
    assert_eq!(hostler.ok(&["vm", "exec", "web01", "--", "nproc"]).trim(), "2");
    let vm = hostler.json(&["vm", "show", "web01"]);
    assert_eq!(vm["status"]["pending"][0]["subject"], "firmware");
    assert_eq!(vm["status"]["hardware"]["memory"], 768 << 20);
    // Asked for the old one again, nothing is pending.
    hostler.ok(&["vm", "set", "web01", "--firmware", "bios"]);
    assert!(hostler.json(&["vm", "show", "web01"])["status"].get("pending").is_none());

    hostler.ok(&["vm", "nic", "add", "web01", "--network", "default"]);
    let nics = hostler.ok(&["vm", "nic", "list", "web01"]);
    assert!(nics.contains("nic1") && nics.contains("eth1"), "{nics}");
    hostler.ok(&["vm", "nic", "set", "web01", "nic1", "--link", "down"]);
    let carrier = ["vm", "exec", "web01", "--", "cat", "/sys/class/net/eth1/carrier"];
    assert_eq!(hostler.ok(&carrier).trim(), "0");
    hostler.ok(&["vm", "nic", "remove", "web01", "nic1"]);
    assert_eq!(
        hostler.json(&["vm", "show", "web01"])["status"]["nics"].as_array().unwrap().len(),
        1
    );
    hostler.ok(&["vm", "set", "web01", "--cpu-limit", "0.5", "--balloon", "700MiB"]);
    let refused = hostler.fails(3, &["vm", "nic", "remove", "web01", "nic7"]);
    assert!(refused.contains("nic0"), "{refused}");

    // A medium comes and goes; the guest sees a drive all the time.
    for iso in [["--no-iso"].as_slice(), &["--iso", "tools"]] {
        let said = hostler.ok(&[&["vm", "set", "web01"], iso].concat());
        assert!(said.contains("cdrom cdrom0"), "{said}");
    }

    // A disk comes, grows with its file system, goes aside, comes back and goes for good.
    let add = ["vm", "disk", "add", "web01", "--name", "data", "--size", "64MiB"];
    let said = String::from_utf8_lossy(&hostler.hostler(&add).stderr).into_owned();
    assert!(said.contains("the guest has disk data as /dev/vdc, with 64MiB"), "{said}");
    let size = ["vm", "exec", "web01", "--", "sh", "-c", SECTORS];
    assert_eq!(hostler.ok(&size).trim(), (64 << 11).to_string());
    let grown = hostler.hostler(&["vm", "disk", "resize", "web01", "data", "96MiB", "--grow-fs"]);
    assert!(grown.status.success());
    let said = String::from_utf8_lossy(&grown.stderr).into_owned();
    assert!(said.contains("not the file system"), "it has none: {said}");
    assert!(said.contains("the guest has disk data as /dev/vdc, with 96MiB"), "{said}");
    assert_eq!(hostler.ok(&size).trim(), (96 << 11).to_string());
    with_file_system(&hostler);
    hostler.fails(2, &["vm", "disk", "resize", "web01", "data", "32MiB"]);
    hostler.ok(&["vm", "disk", "set", "web01", "data", "--iops", "200", "--iops-burst", "400"]);
    hostler.ok(&["vm", "disk", "detach", "web01", "data"]);
    assert!(hostler.ok(&["vm", "disk", "list", "web01"]).contains("detached"));
    assert_eq!(hostler.ok(&size).trim(), "");
    hostler.ok(&["vm", "disk", "attach", "web01", "data"]);
    let unsure = hostler.fails(4, &["vm", "disk", "remove", "web01", "data"]);
    assert!(unsure.contains("for good"), "{unsure}");
    hostler.ok(&["vm", "disk", "remove", "web01", "data", "--delete-data"]);
    assert!(!hostler.ok(&["vm", "disk", "list", "web01"]).contains("data"));

    // What runs now is what it starts with.
    hostler.ok(&["vm", "set", "web01", "--cpu-limit", "none", "--balloon", "none"]);
    hostler.ok(&["vm", "stop", "web01"]);
    hostler.ok(&["vm", "start", "web01", "--wait=guest"]);
    assert_eq!(hostler.ok(&["vm", "exec", "web01", "--", "nproc"]).trim(), "2");
    hostler.ok(&["vm", "stop", "web01", "--power-off"]);
    hostler.ok(&["vm", "delete", "web01", "--yes", "--now"]);
    hostler.assert_clean();
}

/// A disk that the guest has mounted grows with what is on it, and is not taken from it.
fn with_file_system(hostler: &Instance) {
    let raw = hostler.path().join("ext4.raw");
    std::fs::File::create(&raw).unwrap().set_len(32 << 20).unwrap();
    let made = std::process::Command::new("mke2fs").args(["-q", "-t", "ext4"]).arg(&raw).status();
    assert!(made.unwrap().success(), "mke2fs");
    hostler.ok(&["image", "import", "ext4", &raw.to_string_lossy()]);
    hostler.ok(&["vm", "disk", "add", "web01", "--name", "fs", "--image", "ext4"]);
    let shell = |script: &str| hostler.ok(&["vm", "exec", "web01", "--", "sh", "-c", script]);
    shell(
        "mkdir -p /mnt/fs; mount -t ext4 /dev/$(grep -l fs /sys/block/*/serial | cut -d/ -f4) /mnt/fs",
    );
    let grow = ["vm", "disk", "resize", "web01", "fs", "128MiB", "--grow-fs"];
    let said = String::from_utf8_lossy(&hostler.hostler(&grow).stderr).into_owned();
    assert!(said.contains("the file system on disk fs has grown"), "{said}");
    let df: u64 = shell("df -k /mnt/fs | tail -n 1 | awk '{ print $2 }'").trim().parse().unwrap();
    assert!(df > 100 << 10, "{df} KiB");
    for change in [&["detach", "web01", "fs"][..], &["remove", "web01", "fs", "--delete-data"]] {
        let busy = hostler.fails(1, &[&["vm", "disk"][..], change].concat());
        assert!(busy.contains("mounted on /mnt/fs"), "{busy}");
    }
    assert_eq!(shell("echo kept >/mnt/fs/x && sync && cat /mnt/fs/x").trim(), "kept");
    hostler.ok(&["vm", "disk", "remove", "web01", "fs", "--delete-data", "--force"]);
}
