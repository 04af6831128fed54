//! A guest's addresses: cloud-init's network configuration version 2, and what its parts have in
//! common with the other forms.

use std::net::IpAddr;

use hostler_types::{Name, NicSpec};
use serde_json::{Map, Value, json};

use crate::Guest;

/// `network-config`: static addresses and DHCP, each NIC found by its MAC; or what was given.
pub(crate) fn version_2(guest: &Guest<'_>) -> String {
    if let Some(config) = &guest.customization.network_config {
        return config.clone();
    }
    let dns = &guest.customization.dns;
    let ethernets: Map<String, Value> = (guest.nics.iter())
        .map(|nic| {
            let mut settings = json!({ "match": { "macaddress": nic.mac } });
            match &nic.address {
                None => settings["dhcp4"] = json!(true),
                Some(address) => {
                    settings["dhcp4"] = json!(false);
                    settings["addresses"] = json!([address.to_string()]);
                    if let Some(gateway) = gateway(guest, nic) {
                        settings["routes"] = json!([{ "to": "0.0.0.0/0", "via": gateway }]);
                    }
                }
            }
            let (servers, search) = match &nic.address {
                Some(address) if dns.is_empty() => (&address.dns, &address.search),
                _ => (&dns.servers, &dns.search),
            };
            if !servers.is_empty() || !search.is_empty() {
                settings["nameservers"] = json!({ "addresses": servers, "search": search });
            }
            (nic.name.to_string(), settings)
        })
        .collect();
    format!("{:#}\n", json!({ "version": 2, "ethernets": ethernets }))
}

/// Two default routes would be one too many: the first NIC that has a gateway gets it.
pub(crate) fn gateway(guest: &Guest<'_>, nic: &NicSpec) -> Option<std::net::Ipv4Addr> {
    let with_gateway =
        |nic: &&NicSpec| nic.address.as_ref().is_some_and(|address| address.gateway.is_some());
    let first: &Name = &guest.nics.iter().find(with_gateway)?.name;
    if *first == nic.name { nic.address.as_ref()?.gateway } else { None }
}

/// All that names are looked up with: the customization's, else the static addresses'.
pub(crate) fn nameservers(guest: &Guest<'_>) -> (Vec<IpAddr>, Vec<String>) {
    let dns = &guest.customization.dns;
    let (mut servers, mut search) = (dns.servers.clone(), dns.search.clone());
    if dns.is_empty() {
        for address in guest.nics.iter().filter_map(|nic| nic.address.as_ref()) {
            servers.extend(&address.dns);
            search.extend(address.search.iter().cloned());
        }
    }
    let mut seen = std::collections::HashSet::new();
    servers.retain(|server| seen.insert(*server));
    let mut seen = std::collections::HashSet::new();
    search.retain(|domain| seen.insert(domain.clone()));
    (servers, search)
}
