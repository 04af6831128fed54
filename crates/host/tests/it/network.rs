//! NAT networks with real guests' ends: DHCP, the way outside, and what is not allowed.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use hostler_host::network::Port;
use hostler_host::{NetworkError, Networks, TapName};
use hostler_types::{MacAddress, Name, NetworkId, NetworkSpec, VmId};

use crate::datastore::directory;
use crate::enter::enter;
use crate::netns::{Machine, sh};

const MAC: MacAddress = MacAddress([0x52, 0x54, 0, 0xaa, 0xbb, 1]);

struct World {
    scratch: tempfile::TempDir,
    networks: Networks,
}

impl World {
    fn new() -> Self {
        enter();
        let scratch = directory();
        let networks = Networks::new(scratch.path().join("networks"));
        Self { scratch, networks }
    }

    /// The agent as it is after a restart.
    fn restarted(&self) -> Networks {
        Networks::new(self.scratch.path().join("networks"))
    }

    fn pid(&self, id: NetworkId) -> Option<String> {
        let path = self.scratch.path().join(format!("networks/{id}/dnsmasq.pid"));
        fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
    }

    /// Whether the network's dnsmasq runs.
    fn serves(&self, id: NetworkId) -> bool {
        let command = |pid| fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        self.pid(id).is_some_and(|pid| command(pid).starts_with(b"dnsmasq"))
    }
}

/// A test that fails must not leave a dnsmasq behind.
impl Drop for World {
    fn drop(&mut self) {
        let networks = fs::read_dir(self.scratch.path().join("networks")).into_iter().flatten();
        for entry in networks.flatten() {
            let id = entry.file_name().to_string_lossy().parse().unwrap();
            if self.serves(id) {
                sh(&format!("kill -9 {}", self.pid(id).unwrap()));
            }
        }
    }
}

fn nat(subnet: &str) -> (NetworkId, NetworkSpec) {
    (NetworkId::generate(), NetworkSpec::Nat { subnet: subnet.parse().unwrap(), pool: None })
}

fn bridge_of(id: NetworkId) -> String {
    format!("hb{}", &id.uuid().simple().to_string()[24..])
}

/// A guest plugged into the network, which asked for its address.
async fn guest(world: &World, network: &(NetworkId, NetworkSpec), mac: MacAddress) -> Machine {
    let tap = TapName::of(VmId::generate(), 0);
    let name = "web01".parse().unwrap();
    let address = world
        .networks
        .plug(network.0, &network.1, &tap, port(mac, Some(&name)))
        .await
        .unwrap()
        .unwrap();
    let machine = Machine::new(tap.as_str());
    sh(&format!("ip link set {tap} master {}", bridge_of(network.0)));
    machine.sh(&format!("ip link set eth0 address {mac}"));
    let (got, router, dns) = machine.dhcp(world.scratch.path()).expect("a lease");
    assert_eq!(got, address.to_string());
    assert_eq!((router.as_str(), dns.as_str()), ("10.77.0.1", "10.77.0.1"));
    machine
}

#[tokio::test]
async fn a_guest_gets_its_address_and_reaches_the_outside() {
    let world = World::new();
    let network = nat("10.77.0.0/24");
    world.networks.ensure(network.0, &network.1).await.unwrap();
    let outside = Machine::new("up0");
    sh("ip addr add 203.0.113.1/24 dev up0");
    outside.sh("ip addr add 203.0.113.2/24 dev eth0");

    let guest = guest(&world, &network, MAC).await;
    assert!(guest.reaches("10.77.0.1"), "the host answers");
    // The outside has no way back to 10.77.0.0/24: it answers the host.
    assert!(guest.reaches("203.0.113.2"), "the outside answers");
    let names = guest.sh("busybox nslookup web01 10.77.0.1 | tail -n +3");
    assert!(names.contains("10.77.0."), "{names}");

    outside.sh("ip route add 10.77.0.0/24 via 203.0.113.1");
    let own = guest.sh("ip -o -4 addr show dev eth0").split_whitespace().nth(3).unwrap().to_owned();
    assert!(outside.is_cut_off_from(own.split('/').next().unwrap()), "the outside does not get in");
    assert!(guest.is_cut_off_from("203.0.113.1"), "other addresses of the host are closed");
    guest.sh("! busybox nc -w 1 10.77.0.1 22 </dev/null");
    world.networks.remove(network.0, &network.1).await.unwrap();
}

#[tokio::test]
async fn guests_do_not_spoof() {
    let world = World::new();
    let network = nat("10.77.0.0/24");
    world.networks.ensure(network.0, &network.1).await.unwrap();
    let guest = guest(&world, &network, MAC).await;
    assert!(guest.reaches("10.77.0.1"));
    guest.sh("ip link set eth0 address 52:54:00:00:00:99; ip route replace default via 10.77.0.1");
    assert!(guest.is_cut_off_from("10.77.0.1"), "another MAC is dropped");
    // Nor do its packets arrive: it knows the host's MAC, and no ARP is needed.
    sh(
        "nft 'add table inet probe; add chain inet probe input { type filter hook input priority -400; }; \
        add rule inet probe input icmp type echo-request counter'",
    );
    let neighbour = "ip neigh replace 10.77.0.1 lladdr 52:54:0a:4d:00:01 nud permanent dev eth0";
    guest.sh(neighbour);
    assert!(guest.is_cut_off_from("10.77.0.1"));
    let rules = sh("nft list table inet probe");
    assert!(rules.contains("counter packets 0"), "{rules}");
    guest.sh(&format!(
        "ip link set eth0 address {MAC}; ip route replace default via 10.77.0.1; {neighbour}"
    ));
    assert!(guest.reaches("10.77.0.1"), "its own works again");
    let rules = sh("nft list table inet probe");
    assert!(rules.contains("counter packets 1"), "{rules}");
    guest.sh("ip addr flush dev eth0; ip addr add 192.168.9.9/24 dev eth0; ip route add 10.77.0.1 dev eth0");
    assert!(guest.is_cut_off_from("10.77.0.1"), "a foreign address is dropped");
    world.networks.remove(network.0, &network.1).await.unwrap();
}

#[tokio::test]
async fn a_nic_without_reservation_gets_nothing() {
    let world = World::new();
    let (id, spec) = nat("10.77.0.0/24");
    world.networks.ensure(id, &spec).await.unwrap();
    let stranger = Machine::new("veth-x");
    sh(&format!("ip link set veth-x master {}", bridge_of(id)));
    assert_eq!(stranger.dhcp(world.scratch.path()), None);
    world.networks.remove(id, &spec).await.unwrap();
}

#[tokio::test]
async fn nat_networks_are_apart() {
    let world = World::new();
    let (one, two) = (nat("10.77.0.0/24"), nat("10.78.0.0/24"));
    for (id, spec) in [&one, &two] {
        world.networks.ensure(*id, spec).await.unwrap();
    }
    let first = guest(&world, &one, MAC).await;
    let tap = TapName::of(VmId::generate(), 0);
    let mac = MacAddress([0x52, 0x54, 0, 0, 0, 2]);
    let address = world.networks.plug(two.0, &two.1, &tap, port(mac, None)).await.unwrap().unwrap();
    let second = Machine::new(tap.as_str());
    sh(&format!("ip link set {tap} master {}", bridge_of(two.0)));
    second.sh(&format!("ip link set eth0 address {mac}"));
    second.dhcp(world.scratch.path()).unwrap();
    assert!(second.reaches("10.78.0.1"));
    assert!(first.is_cut_off_from(&address.to_string()), "no way to the guest");
    assert!(first.is_cut_off_from("10.78.0.1"), "no way to the host's other address");
    for (id, spec) in [&one, &two] {
        world.networks.remove(*id, spec).await.unwrap();
    }
}

#[tokio::test]
async fn a_network_is_found_again_repaired_and_removed() {
    let world = World::new();
    let (id, spec) = nat("10.77.0.0/24");
    let tap = TapName::of(VmId::generate(), 1);
    let address = world.networks.plug(id, &spec, &tap, port(MAC, None)).await.unwrap();
    world.networks.ensure(id, &spec).await.unwrap();
    let pid = world.pid(id).unwrap();
    assert!(world.serves(id));

    let again = world.restarted();
    again.ensure(id, &spec).await.unwrap();
    assert_eq!(world.pid(id).unwrap(), pid, "dnsmasq goes on");
    assert_eq!(again.reserved(id, &tap).unwrap(), address);
    let tables = sh("nft list ruleset");
    assert!(tables.contains(tap.as_str()) && tables.contains(&MAC.to_string()), "{tables}");

    sh(&format!("kill -9 {pid}; ip link del {}", bridge_of(id)));
    again.ensure(id, &spec).await.unwrap();
    assert_ne!(world.pid(id).unwrap(), pid);
    assert!(world.serves(id));

    again.unplug(id, &spec, &tap).await.unwrap();
    again.unplug(id, &spec, &tap).await.unwrap();
    assert_eq!(again.reserved(id, &tap).unwrap(), None);
    assert!(!sh("nft list ruleset").contains(tap.as_str()));

    for _ in 0..2 {
        again.remove(id, &spec).await.unwrap();
        assert_eq!(sh("nft list ruleset"), "");
        assert!(!world.serves(id) && !sh("ip -br link").contains("hb"));
        assert_eq!(fs::read_dir(world.scratch.path().join("networks")).unwrap().count(), 0);
    }
}

/// Reloading Debian's nftables service flushes all tables; somebody may remove a bridge.
#[tokio::test]
async fn what_others_took_away_comes_back() {
    let world = World::new();
    let (id, spec) = nat("10.77.0.0/24");
    let (tap, late) = (TapName::of(VmId::generate(), 0), TapName::of(VmId::generate(), 1));
    world.networks.plug(id, &spec, &tap, port(MAC, None)).await.unwrap();
    let _opened = world.networks.open_tap(id, &spec, &tap).await.unwrap();
    let before = sh("nft list ruleset");
    sh("nft flush ruleset");
    world.networks.ensure(id, &spec).await.unwrap();
    assert_eq!(sh("nft list ruleset"), before);

    sh(&format!("ip link del {}", bridge_of(id)));
    world.networks.ensure(id, &spec).await.unwrap();
    let link = sh(&format!("ip -o link show {tap}"));
    assert!(link.contains(&format!("master {}", bridge_of(id))), "{link}");

    let mac = MacAddress([0x52, 0x54, 0, 0, 0, 9]);
    world.networks.plug(id, &spec, &late, port(mac, None)).await.unwrap();
    assert!(sh("nft list ruleset").contains(late.as_str()));
    world.networks.remove(id, &spec).await.unwrap();
}

/// dnsmasq would refuse an address whose former holder's lease has not ended.
#[tokio::test]
async fn a_freed_address_is_given_to_the_next() {
    let world = World::new();
    // Room for three guests: the fourth must get a freed address.
    let network = nat("10.77.0.0/29");
    world.networks.ensure(network.0, &network.1).await.unwrap();
    let tap = TapName::of(VmId::generate(), 0);
    let machine = Machine::new(tap.as_str());
    sh(&format!("ip link set {tap} master {}", bridge_of(network.0)));
    for last in 1..=7 {
        let mac = MacAddress([0x52, 0x54, 0, 0, 0, last]);
        let address =
            world.networks.plug(network.0, &network.1, &tap, port(mac, None)).await.unwrap();
        machine.sh(&format!("ip link set eth0 address {mac}"));
        let (got, _, _) = machine.dhcp(world.scratch.path()).expect("a lease");
        assert_eq!(Some(got), address.map(|address| address.to_string()), "guest {last}");
        world.networks.unplug(network.0, &network.1, &tap).await.unwrap();
    }
    world.networks.remove(network.0, &network.1).await.unwrap();
}

#[tokio::test]
async fn a_tap_is_quick_and_lives_as_long_as_it_is_held() {
    let world = World::new();
    let (id, spec) = nat("10.77.0.0/24");
    let tap = TapName::of(VmId::generate(), 0);
    let error = world.networks.open_tap(id, &spec, &tap).await.unwrap_err();
    assert!(matches!(error, NetworkError::NotPlugged(_)), "{error}");
    world.networks.plug(id, &spec, &tap, port(MAC, None)).await.unwrap();
    drop(world.networks.open_tap(id, &spec, &tap).await.unwrap());
    assert!(world.serves(id), "the network is made when it is needed");
    let mut times = Vec::new();
    for _ in 0..5 {
        let start = Instant::now();
        let opened = world.networks.open_tap(id, &spec, &tap).await.unwrap();
        times.push(start.elapsed());
        let link = sh(&format!("ip -br link show {tap}; bridge link show dev {tap}"));
        assert!(link.contains(&bridge_of(id)) && link.contains("UP"), "{link}");
        let error = world.networks.open_tap(id, &spec, &tap).await.unwrap_err();
        assert!(matches!(error, NetworkError::TapInUse(_)), "{error}");
        drop(opened);
        assert!(!sh("ip -br link").contains(tap.as_str()), "it vanishes with its descriptor");
    }
    times.sort();
    assert!(times[2] < Duration::from_millis(15), "{times:?}");
    world.networks.remove(id, &spec).await.unwrap();
}

#[tokio::test]
async fn an_existing_bridge_is_used_and_left_alone() {
    let world = World::new();
    let id = NetworkId::generate();
    let spec = |vlan| NetworkSpec::Bridge { bridge: "br-lan".to_owned(), vlan, pool: None };
    let error = world.networks.ensure(id, &spec(None)).await.unwrap_err();
    assert!(error.to_string().contains("ip link add br-lan"), "{error}");
    sh("ip link add br-lan type bridge; ip link set br-lan mtu 1400 up");
    world.networks.ensure(id, &spec(None)).await.unwrap();
    let tap = TapName::of(VmId::generate(), 0);
    assert_eq!(world.networks.plug(id, &spec(None), &tap, port(MAC, None)).await.unwrap(), None);
    let opened = world.networks.open_tap(id, &spec(None), &tap).await.unwrap();
    let link = sh(&format!("ip -o link show {tap}"));
    assert!(link.contains("master br-lan") && link.contains("mtu 1400"), "{link}");
    // To another one, without knowing which it is on, and to the same again.
    sh("ip link add br-lab type bridge; ip link set br-lab up");
    let (lab, there) = (NetworkId::generate(), "br-lab".to_owned());
    let in_lab = NetworkSpec::Bridge { bridge: there, vlan: None, pool: None };
    for _ in 0..2 {
        world.networks.move_tap(lab, &in_lab, &tap).await.unwrap();
        let link = sh(&format!("ip -o link show {tap}"));
        assert!(link.contains("master br-lab") && !link.contains("br-lan"), "{link}");
    }
    sh("ip link del br-lab");
    world.networks.move_tap(id, &spec(None), &tap).await.unwrap();
    assert!(sh(&format!("ip -o link show {tap}")).contains("master br-lan"), "from no bridge");
    drop(opened);
    world.networks.unplug(id, &spec(None), &tap).await.unwrap();
    world.networks.remove(id, &spec(None)).await.unwrap();
    assert!(sh("ip -br link").contains("br-lan"));
    if fs::read_to_string("/sys/class/net/br-lan/bridge/vlan_filtering").is_err() {
        let error = world.networks.open_tap(id, &spec(Some(7)), &tap).await.unwrap_err();
        assert!(matches!(error, NetworkError::NoVlanFiltering { .. }), "{error}");
        assert!(!sh("ip -br link").contains(tap.as_str()));
    }
}

#[tokio::test]
async fn what_cannot_work_is_refused_with_the_way_out() {
    let world = World::new();
    sh("ip link add lan0 type dummy && ip addr add 10.77.0.5/16 dev lan0 && ip link set lan0 up \
        || { ip link add lan0 type bridge; ip addr add 10.77.0.5/16 dev lan0; ip link set lan0 up; }");
    let (id, spec) = nat("10.77.0.0/24");
    let error = world.networks.ensure(id, &spec).await.unwrap_err();
    assert!(error.to_string().contains("lan0"), "{error}");
    assert!(!sh("ip -br link").contains("hb"));

    let (id, spec) = nat("10.99.0.0/30");
    let error = world.networks.ensure(id, &spec).await.unwrap_err();
    assert!(matches!(error, NetworkError::Invalid(_)), "{error}");

    let hidden: PathBuf = world.scratch.path().join("hidden");
    fs::create_dir(&hidden).unwrap();
    fs::set_permissions(&hidden, fs::Permissions::from_mode(0o700)).unwrap();
    let (id, spec) = nat("10.98.0.0/24");
    let networks = Networks::new(hidden.join("networks"));
    let error = networks.ensure(id, &spec).await.unwrap_err();
    assert!(error.to_string().contains("chmod o+x"), "{error}");
    networks.remove(id, &spec).await.unwrap();
    assert!(!sh("ip -br link").contains("hb"));
}

fn port(mac: MacAddress, hostname: Option<&Name>) -> Port<'_> {
    Port { mac, address: None, hostname }
}
