//! Bridges: ours for NAT networks, and those that an administrator made.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::Duration;

use hostler_types::{Ipv4Net, MacAddress, NetworkSpec};

use super::error::{IoContext, Kernel, NetworkError};
use super::interface::Interfaces;
use super::tap::{TapName, disable_ipv6};
use super::{NatNetwork, set_kernel};
use crate::process::Run;

/// Makes the bridge of a NAT network, gives it the host's address, and lets the host route. Taps
/// of running guests that lost their bridge are put on the new one.
pub(super) fn ensure(
    nat: &NatNetwork,
    ports: &[(TapName, MacAddress)],
) -> Result<(), NetworkError> {
    let name = nat.bridge.as_str();
    let interfaces = Interfaces::open().kernel("open a socket for", name)?;
    if !interfaces.exists(name).kernel("look for", name)? {
        check_subnet_is_free(nat)?;
        interfaces.add_bridge(name).kernel("make the bridge", name)?;
        disable_ipv6(name);
        for (tap, _) in ports {
            if interfaces.exists(tap.as_str()).kernel("look for", tap)? {
                interfaces.add_port(name, tap.as_str()).kernel("put on its bridge", tap)?;
            }
        }
    }
    let wanted = Some((nat.gateway, nat.subnet.netmask()));
    if interfaces.address(name).kernel("read the address of", name)? != wanted {
        // A fixed MAC, else the bridge takes the lowest of its taps' and guests lose their gateway.
        interfaces.set_mac(name, bridge_mac(nat.gateway)).kernel("set the MAC of", name)?;
        interfaces
            .set_address(name, nat.gateway, nat.subnet.netmask())
            .kernel("set the address of", name)?;
    }
    interfaces.set_up(name, true).kernel("switch on", name)?;
    // Answers come in through whichever interface leads outside, and are forwarded only if that
    // one forwards too. So the switch is the host's, and it stays on: others may rely on it by then.
    // What guests may send, and what may be sent to them, is the packet filter's business.
    set_kernel("/proc/sys/net/ipv4/ip_forward", "1")?;
    set_kernel(&format!("/proc/sys/net/ipv4/conf/{name}/forwarding"), "1")
}

/// Removes the bridge of a NAT network, if it is there.
pub(super) fn remove(nat: &NatNetwork) -> Result<(), NetworkError> {
    let name = nat.bridge.as_str();
    let interfaces = Interfaces::open().kernel("open a socket for", name)?;
    if !interfaces.exists(name).kernel("look for", name)? {
        return Ok(());
    }
    interfaces.set_up(name, false).kernel("switch off", name)?;
    interfaces.remove_bridge(name).kernel("remove the bridge", name)
}

/// Makes sure that an administrator's bridge exists and can carry the VLAN.
pub(super) fn check_existing(spec: &NetworkSpec) -> Result<(), NetworkError> {
    let NetworkSpec::Bridge { bridge, vlan, .. } = spec else { return Ok(()) };
    let directory = Path::new("/sys/class/net").join(bridge).join("bridge");
    if !directory.is_dir() {
        return Err(NetworkError::NoBridge(bridge.clone()));
    }
    let Some(vlan) = vlan else { return Ok(()) };
    let filtering = fs::read_to_string(directory.join("vlan_filtering"));
    if filtering.is_ok_and(|text| text.trim() == "1") {
        return Ok(());
    }
    Err(NetworkError::NoVlanFiltering { bridge: bridge.clone(), vlan: *vlan })
}

/// Puts a tap on one VLAN, untagged, and off the bridge's default one.
pub(super) async fn set_vlan(tap: &TapName, vlan: u16) -> Result<(), NetworkError> {
    let vlan = vlan.to_string();
    let add = ["vlan", "add", "dev", tap.as_str(), "vid", &vlan, "pvid", "untagged"];
    let remove = ["vlan", "del", "dev", tap.as_str(), "vid", "1"];
    let commands: &[&[&str]] = if vlan == "1" { &[&add] } else { &[&remove, &add] };
    for arguments in commands {
        let run = Run::new("bridge", arguments.iter().copied(), Duration::from_secs(5));
        run.output().await.map_err(|source| NetworkError::Vlan { tap: tap.to_string(), source })?;
    }
    Ok(())
}

/// Locally administered, and different on each network of a host.
fn bridge_mac(gateway: Ipv4Addr) -> MacAddress {
    let [a, b, c, d] = gateway.octets();
    MacAddress([0x52, 0x54, a, b, c, d])
}

fn check_subnet_is_free(nat: &NatNetwork) -> Result<(), NetworkError> {
    // The thread's own view, which in tests is not the process's.
    let path = Path::new("/proc/thread-self/net/route");
    let routes = fs::read_to_string(path).doing("read", path)?;
    match routes_of(&routes).find(|(_, other)| nat.subnet.overlaps(*other)) {
        Some((interface, other)) => {
            Err(NetworkError::SubnetInUse { subnet: nat.subnet, other, interface })
        }
        None => Ok(()),
    }
}

/// Interfaces and the subnets behind them, but not default routes.
fn routes_of(table: &str) -> impl Iterator<Item = (String, Ipv4Net)> {
    table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let word = |index: usize| u32::from_str_radix(fields.get(index)?, 16).ok();
        let network = Ipv4Addr::from(word(1)?.to_ne_bytes());
        let mask = Ipv4Addr::from(word(7)?.to_ne_bytes());
        let prefix = u8::try_from(u32::from(mask).count_ones()).ok()?;
        // /1 and shorter are default routes too, as VPNs write them.
        let is_subnet = prefix > 1;
        is_subnet.then(|| (fields[0].to_owned(), Ipv4Net { network, prefix }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_read() {
        let table = "\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
";
        let routes: Vec<_> = routes_of(table).collect();
        assert_eq!(routes, [("eth0".to_owned(), "192.0.2.0/24".parse().unwrap())]);
    }
}
