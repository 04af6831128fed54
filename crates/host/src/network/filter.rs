//! The packet filter of a NAT network: two nft tables, `inet` and `bridge`, named after its bridge.
//!
//! A table per network, rather than one for all, so that a network comes and goes in one
//! transaction that touches no other, and two agents on one host do not undo each other's work.
//! Rules about other networks name them by pattern (`hb*`).
//!
//! Guests may: reach each other on their network; reach the outside, as the host (masquerade); ask
//! the host's address on the bridge for DHCP, DNS and ping. Guests may not: reach any other
//! address or port of the host, other NAT networks, or the link-local range 169.254.0.0/16 (where
//! clouds hand out the host's credentials). From the outside, only answers come in. On the wire,
//! a tap sends as its own MAC, IPv4 and ARP only, with an address of the subnet that is not the
//! host's, and does not answer DHCP.

use std::fmt::Write;
use std::time::Duration;

use hostler_types::MacAddress;
use serde::Deserialize;

use super::NatNetwork;
use super::error::NetworkError;
use super::tap::TapName;
use crate::process::Run;

const TIMEOUT: Duration = Duration::from_secs(10);
const FAMILIES: [&str; 2] = ["inet", "bridge"];

/// Puts the tables in place, replacing older ones, in one transaction.
pub(super) async fn apply(
    nat: &NatNetwork,
    ports: &[(TapName, MacAddress)],
) -> Result<(), NetworkError> {
    nft(nat, format!("{}{}", absent(nat), present(nat, ports))).await
}

/// Whether both tables are there. Others may have taken them away: reloading Debian's nftables
/// service flushes every table of the host.
pub(super) async fn is_present(nat: &NatNetwork) -> Result<bool, NetworkError> {
    let filter = |source| NetworkError::Filter { bridge: nat.bridge.to_string(), source };
    let run = Run::new("nft", ["-j", "list", "tables"], TIMEOUT);
    let answer = run.output().await.map_err(filter)?;
    let list: Tables = serde_json::from_slice(&answer).map_err(NetworkError::FilterAnswer)?;
    let own = table(nat);
    let count = list.nftables.iter().filter_map(|item| item.table.as_ref());
    let count = count.filter(|item| item.name == own).count();
    Ok(count == FAMILIES.len())
}

#[derive(Deserialize)]
struct Tables {
    nftables: Vec<Item>,
}

/// One of several kinds of things, of which a table is one.
#[derive(Deserialize)]
struct Item {
    table: Option<Table>,
}

#[derive(Deserialize)]
struct Table {
    name: String,
}

/// Removes the tables, if they are there.
pub(super) async fn remove(nat: &NatNetwork) -> Result<(), NetworkError> {
    nft(nat, absent(nat)).await
}

/// Lets a tap send as this MAC.
pub(super) async fn add_port(
    nat: &NatNetwork,
    tap: &TapName,
    mac: MacAddress,
) -> Result<(), NetworkError> {
    nft(nat, port_elements("add", nat, tap, mac)).await
}

/// The inverse of [`add_port`].
pub(super) async fn remove_port(
    nat: &NatNetwork,
    tap: &TapName,
    mac: MacAddress,
) -> Result<(), NetworkError> {
    // Adding first makes the removal succeed whether or not it is there.
    let add = port_elements("add", nat, tap, mac);
    nft(nat, format!("{add}{}", port_elements("delete", nat, tap, mac))).await
}

fn port_elements(verb: &str, nat: &NatNetwork, tap: &TapName, mac: MacAddress) -> String {
    let table = table(nat);
    format!(
        "{verb} element bridge {table} taps {{ \"{tap}\" }}\n\
         {verb} element bridge {table} ports {{ {} }}\n",
        port(tap, mac)
    )
}

async fn nft(nat: &NatNetwork, ruleset: String) -> Result<(), NetworkError> {
    let mut run = Run::new("nft", ["-f", "-"], TIMEOUT);
    run.stdin = Some(ruleset);
    let filter = |source| NetworkError::Filter { bridge: nat.bridge.to_string(), source };
    run.output().await.map(drop).map_err(filter)
}

fn table(nat: &NatNetwork) -> String {
    format!("hostler_{}", nat.bridge)
}

fn port(tap: &TapName, mac: MacAddress) -> String {
    format!("\"{tap}\" . {mac}")
}

/// Deleting what is not there is an error, so it is added first.
fn absent(nat: &NatNetwork) -> String {
    let table = table(nat);
    FAMILIES.iter().fold(String::new(), |mut text, family| {
        let _ = writeln!(text, "add table {family} {table}\ndelete table {family} {table}");
        text
    })
}

fn present(nat: &NatNetwork, ports: &[(TapName, MacAddress)]) -> String {
    let NatNetwork { bridge, subnet, gateway } = nat;
    let table = table(nat);
    let taps = elements(ports.iter().map(|(tap, _)| format!("\"{tap}\"")));
    let ports = elements(ports.iter().map(|(tap, mac)| port(tap, *mac)));
    format!(
        r#"table inet {table} {{
    chain forward {{
        type filter hook forward priority filter; policy accept;
        iifname "{bridge}" oifname "{bridge}" accept
        iifname "{bridge}" oifname "hb*" drop
        iifname "{bridge}" ip daddr 169.254.0.0/16 drop
        iifname "{bridge}" ip saddr {subnet} accept
        iifname "{bridge}" drop
        oifname "{bridge}" ct state established,related accept
        oifname "{bridge}" drop
    }}
    chain input {{
        type filter hook input priority filter; policy accept;
        iifname != "{bridge}" accept
        ct state established,related accept
        udp sport 68 udp dport 67 accept
        ip daddr {gateway} udp dport 53 accept
        ip daddr {gateway} tcp dport 53 accept
        ip daddr {gateway} icmp type echo-request accept
        drop
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr {subnet} ip daddr != {subnet} oifname != "{bridge}" masquerade
    }}
}}
table bridge {table} {{
    set taps {{
        type ifname
        {taps}
    }}
    set ports {{
        type ifname . ether_addr
        {ports}
    }}
    chain prerouting {{
        type filter hook prerouting priority -300; policy accept;
        iifname @taps jump guest
    }}
    chain guest {{
        iifname . ether saddr != @ports drop
        ether type arp iifname . arp saddr ether != @ports drop
        ether type arp arp saddr ip {gateway} drop
        ether type arp arp saddr ip {{ 0.0.0.0, {subnet} }} accept
        ether type ip udp sport 67 drop
        ether type ip ip saddr 0.0.0.0 udp sport 68 udp dport 67 accept
        ether type ip ip saddr {gateway} drop
        ether type ip ip saddr {subnet} accept
        drop
    }}
}}
"#
    )
}

/// An empty list is a syntax error.
fn elements(list: impl Iterator<Item = String>) -> String {
    let list: Vec<String> = list.collect();
    if list.is_empty() { String::new() } else { format!("elements = {{ {} }}", list.join(", ")) }
}
