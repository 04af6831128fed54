//! All parts together under a real guest: image, overlay, seed, tap, DHCP.

use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use hostler_customize::Guest;
use hostler_host::image::import;
use hostler_host::network::Port;
use hostler_host::seed;
use hostler_host::{Networks, QemuImg, TapName, VmUid, volume};
use hostler_types::{
    ByteSize, Customization, DiskSpec, GuestUser, ImageId, LinkState, MacAddress, Name, NetworkId,
    NetworkSpec, NicSpec, SecretText,
};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::datastore::{datastore, vm};
use crate::enter::enter;
use crate::netns::sh;

/// What `scripts/build-image tiny` made.
fn tiny_image() -> PathBuf {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache =
        cache.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache"));
    let image = cache.join("hostler/images/tiny.qcow2");
    assert!(image.exists(), "no {}: run scripts/build-image tiny", image.display());
    image
}

/// Waits until the guest's console shows a line with this text.
async fn console_shows(guest: &mut Child, text: &str) {
    let mut lines = BufReader::new(guest.stdout.as_mut().unwrap()).lines();
    let mut seen = String::new();
    let wait = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains(text) {
                return true;
            }
            seen.push_str(&line);
            seen.push('\n');
        }
        false
    };
    let shown = tokio::time::timeout(Duration::from_secs(120), wait).await.unwrap_or(false);
    assert!(shown, "no `{text}` on the console:\n{seen}");
}

#[tokio::test]
async fn qemu_a_guest_finds_its_seed_and_its_network() {
    enter();
    let (guard, store) = datastore();
    let image = ImageId::generate();
    fs::copy(tiny_image(), store.image_part(image)).unwrap();
    let imported = import(&store, image, None, &QemuImg::new(), |_| {}).await.unwrap();
    let (place, _) = store.find_image(image).unwrap();

    let vm = vm();
    let (dir, owner) = (store.vm(vm.id()), VmUid::from_slot(1).unwrap());
    dir.create().unwrap();
    let disk = serde_json::json!({"name": "disk0", "size": ByteSize::gib(1), "source": "blank"});
    let disk: DiskSpec = serde_json::from_value(disk).unwrap();
    volume::create_overlay(&dir, &disk, &place, imported.virtual_size, owner).unwrap();

    let networks = Networks::new(guard.path().join("networks"));
    let (network, tap) = (NetworkId::generate(), TapName::of(vm.id(), 0));
    let spec = NetworkSpec::Nat { subnet: "10.77.0.0/24".parse().unwrap(), pool: None };
    let mac = MacAddress([0x52, 0x54, 0, 1, 2, 3]);
    networks.ensure(network, &spec).await.unwrap();
    let address =
        networks.plug(network, &spec, &tap, port(mac, Some(vm.name()))).await.unwrap().unwrap();

    // Users and own user data together make a message of two parts.
    let own =
        "#cloud-config\nruncmd:\n- 'echo \"marker $(hostname) $(id -un ada)\" >/dev/console'\n";
    let customization = Customization {
        users: vec![GuestUser { name: "ada".into(), ssh_keys: vec![], sudo: true, password: None }],
        user_data: Some(SecretText::new(own)),
        ..Customization::default()
    };
    let nics = [NicSpec {
        name: "nic0".parse().unwrap(),
        network,
        mac,
        address: None,
        link: LinkState::Up,
    }];
    let (id, name) = (vm.id(), vm.name());
    let input = Guest { vm: id, name, customization: &customization, nics: &nics, hash: "" };
    seed::write(&dir, &input, owner).unwrap();

    let opened = networks.open_tap(network, &spec, &tap).await.unwrap();
    rustix::io::fcntl_setfd(&opened.fd, rustix::io::FdFlags::empty()).unwrap();
    let drive =
        |path: PathBuf, format: &str| format!("if=virtio,format={format},file={}", path.display());
    let mut guest = Command::new("qemu-system-x86_64")
        .args(["-machine", "q35", "-accel", "tcg", "-cpu", "max", "-m", "256M", "-nodefaults"])
        .args(["-display", "none", "-serial", "stdio", "-device", "virtio-rng-pci"])
        .args(["-drive", &drive(dir.disk(&disk.name), "qcow2")])
        .args(["-drive", &drive(dir.seed(), "raw")])
        .args(["-netdev", &format!("tap,id=n0,fd={}", opened.fd.as_raw_fd())])
        .args(["-device", &format!("virtio-net-pci,netdev=n0,romfile=,mac={mac}")])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    drop(opened);
    console_shows(&mut guest, "marker web01 ada").await;
    assert!(answers(address), "the guest answers at the address reserved for it");

    guest.kill().await.unwrap();
    assert!(!sh("ip -br link").contains(tap.as_str()), "the tap ends with QEMU");
    networks.unplug(network, &spec, &tap).await.unwrap();
    networks.remove(network, &spec).await.unwrap();
}

fn answers(address: Ipv4Addr) -> bool {
    let ping = format!("busybox ping -c 1 -W 10 {address} >/dev/null");
    std::process::Command::new("sh").args(["-c", &ping]).status().unwrap().success()
}

fn port(mac: MacAddress, hostname: Option<&Name>) -> Port<'_> {
    Port { mac, address: None, hostname }
}
