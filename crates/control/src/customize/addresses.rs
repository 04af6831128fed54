//! Which address a NIC gets.

use std::net::{IpAddr, Ipv4Addr};

use hostler_types::{
    HostId, Ipv4Net, Network, NetworkId, NetworkKind, NetworkSpec, NicAddress, NicAddressing,
    NicSpec, Ref, StaticAddress, VmId,
};

use super::resolve::Taken;
use crate::error::{Class, ServiceError};
use crate::inventory::Snapshot;

/// The address of a NIC as its network and `way` say; `None`: by DHCP. What it has from the pool
/// already, it keeps. `field` is the NIC's, for errors.
pub(super) fn address(
    snapshot: &Snapshot,
    taken: &mut Taken<'_>,
    vm: VmId,
    nic: &NicSpec,
    way: &NicAddressing,
    field: &str,
) -> Result<Option<NicAddress>, ServiceError> {
    if *way == NicAddressing::Dhcp {
        return Ok(None);
    }
    let network = snapshot.find::<NetworkKind>(&Ref::by_id(nic.network))?;
    match way {
        NicAddressing::Dhcp => Ok(None),
        NicAddressing::Pool => from_pool(taken, network, nic, field).map(Some),
        NicAddressing::Static(wanted) => fixed(taken, vm, network, wanted, field).map(Some),
    }
}

fn from_pool(
    taken: &mut Taken<'_>,
    network: &Network,
    nic: &NicSpec,
    field: &str,
) -> Result<NicAddress, ServiceError> {
    let name = network.name();
    let Some(pool) = network.spec.pool() else {
        let reason = format!("network `{name}` has no address pool");
        return Err(ServiceError::invalid(field, reason).hint(format!(
            "give it one with `hostler network set {name} --pool FIRST-LAST`, or use DHCP"
        )));
    };
    let kept = nic.address.as_ref().filter(|had| pool.range.contains(had.address));
    let chosen = match kept {
        Some(kept) => Some(kept.address),
        None => taken.free_address(network.id(), pool.range),
    };
    let exhausted = || {
        let message =
            format!("the address pool {} of network `{name}` has no free address left", pool.range);
        ServiceError::new(Class::NoCapacity, "pool_exhausted", message).hint(format!(
            "make it larger with `hostler network set {name} --pool FIRST-LAST`, or delete VMs that have its addresses"
        ))
    };
    let chosen = chosen.ok_or_else(exhausted)?;
    let prefix = prefix(&network.spec).unwrap_or(32);
    Ok(completed(&network.spec, chosen, prefix, None))
}

fn fixed(
    taken: &mut Taken<'_>,
    vm: VmId,
    network: &Network,
    wanted: &StaticAddress,
    field: &str,
) -> Result<NicAddress, ServiceError> {
    let (name, address) = (network.name(), wanted.address);
    let invalid = |reason: String| Err(ServiceError::invalid(field, reason));
    let Some(prefix) = wanted.prefix.or(prefix(&network.spec)) else {
        let reason = format!("network `{name}` does not say the prefix of {address}");
        return invalid(format!("{reason}; write it like {address}/24"));
    };
    if !(1..=32).contains(&prefix) {
        return invalid(format!("the prefix {prefix} is not possible; 1 to 32"));
    }
    let around = Ipv4Net::around(address, prefix);
    if let NetworkSpec::Nat { subnet, .. } = &network.spec {
        if !subnet.contains(address) || around != *subnet {
            return invalid(format!("{address}/{prefix} is not in {subnet} of network `{name}`"));
        }
        if subnet.address(1) == Some(address) {
            return invalid(format!("{address} is the host's own address in network `{name}`"));
        }
    }
    let broadcast = around.size().checked_sub(1).and_then(|last| u32::try_from(last).ok());
    let edge =
        address == around.network || broadcast.and_then(|n| around.address(n)) == Some(address);
    if prefix < 31 && edge
        || address.is_multicast()
        || address.is_loopback()
        || address.is_unspecified()
    {
        return invalid(format!("{address}/{prefix} is no address for a host"));
    }
    if let Some(gateway) = wanted.gateway.filter(|gateway| !around.contains(*gateway)) {
        return invalid(format!("the gateway {gateway} is not in {around}"));
    }
    let Some(snapshot) = taken.reserve_address(network.id(), address) else {
        let reason = format!("{address} is asked for twice, here or by another request");
        return Err(in_use(field, &reason));
    };
    let holder = snapshot.vms_with_address(network.id(), address).find(|holder| holder.id() != vm);
    if let Some(holder) = holder {
        let reason = format!("{address} of network `{name}` belongs to vm `{}`", holder.called());
        return Err(in_use(field, &reason));
    }
    Ok(completed(&network.spec, address, prefix, wanted.gateway))
}

/// A VM on `host` has an address already, and is to keep it. NAT networks of other hosts have the same
/// addresses for others.
pub(super) fn kept(
    taken: &mut Taken<'_>,
    vm: VmId,
    host: HostId,
    network: NetworkId,
    address: Ipv4Addr,
) -> Result<(), ServiceError> {
    let Some(snapshot) = taken.reserve_address(network, address) else {
        let reason = format!("its address {address} is just being given to another VM");
        return Err(taken_by_another(reason));
    };
    let Some(network) = snapshot.get::<NetworkKind>(network) else { return Ok(()) };
    let apart = matches!(network.spec, NetworkSpec::Nat { .. });
    let holder = snapshot
        .vms_with_address(network.id(), address)
        .find(|holder| holder.id() != vm && (!apart || holder.status.host == host));
    let Some(holder) = holder else { return Ok(()) };
    let (name, holder) = (network.name(), holder.called());
    let reason = format!("its address {address} of network `{name}` belongs to vm `{holder}`");
    Err(taken_by_another(reason))
}

fn taken_by_another(reason: String) -> ServiceError {
    ServiceError::conflict("address_taken", reason)
        .hint("move the other VM's NIC to another address first")
}

fn in_use(field: &str, reason: &str) -> ServiceError {
    let mut error = ServiceError::invalid(field, reason);
    error.class = Class::Conflict;
    error.code = "address_taken";
    error.hint("choose another address, or `pool` for a free one of the network's pool")
}

/// The length of the network's prefix, as far as the server knows it.
fn prefix(network: &NetworkSpec) -> Option<u8> {
    let pool = network.pool().and_then(|pool| pool.prefix);
    match network {
        NetworkSpec::Nat { subnet, .. } => Some(subnet.prefix),
        NetworkSpec::Bridge { .. } => pool,
    }
}

/// With what the network says of gateway and names.
fn completed(
    network: &NetworkSpec,
    address: Ipv4Addr,
    prefix: u8,
    gateway: Option<Ipv4Addr>,
) -> NicAddress {
    let pool = network.pool();
    let host = match network {
        NetworkSpec::Nat { subnet, .. } => subnet.address(1),
        NetworkSpec::Bridge { .. } => None,
    };
    let gateway = gateway.or(pool.and_then(|pool| pool.gateway)).or(host);
    let gateway = gateway.filter(|gateway| Ipv4Net::around(address, prefix).contains(*gateway));
    let mut dns = pool.map(|pool| pool.dns.clone()).unwrap_or_default();
    if dns.is_empty() {
        dns.extend(host.map(IpAddr::V4));
    }
    let search = pool.map(|pool| pool.search.clone()).unwrap_or_default();
    NicAddress { address, prefix, gateway, dns, search }
}
