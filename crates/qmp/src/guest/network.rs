//! The guest's network interfaces and addresses.

use std::net::IpAddr;

use serde::{Deserialize, Deserializer, Serialize};

use super::{
    GuestCommand, GuestText,
    text::{ShortList, short_list},
};

/// The network interfaces.
#[derive(Debug, Serialize)]
pub struct NetworkGetInterfaces;
impl GuestCommand for NetworkGetInterfaces {
    const NAME: &'static str = "guest-network-get-interfaces";
    type Return = ShortList<NetworkInterface>;
}

/// Part of [`NetworkGetInterfaces`]' answer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct NetworkInterface {
    /// The guest's name for it.
    pub name: GuestText,
    /// Its MAC address, if it has one in the usual form.
    #[serde(default, deserialize_with = "mac_address")]
    pub hardware_address: Option<[u8; 6]>,
    /// Its addresses; what is none is left out.
    #[serde(default, deserialize_with = "addresses")]
    pub ip_addresses: Vec<InterfaceAddress>,
}

/// An address and its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InterfaceAddress {
    /// The address.
    pub address: IpAddr,
    /// The prefix's length in bits.
    pub prefix: u8,
}

fn addresses<'de, D: Deserializer<'de>>(d: D) -> Result<Vec<InterfaceAddress>, D::Error> {
    #[derive(Deserialize)]
    #[serde(rename_all = "kebab-case")]
    struct Claimed {
        ip_address: String,
        prefix: i64,
    }
    let claimed: Vec<Claimed> = short_list(d)?;
    Ok(claimed.iter().filter_map(|c| interface_address(&c.ip_address, c.prefix)).collect())
}

fn interface_address(text: &str, prefix: i64) -> Option<InterfaceAddress> {
    // Windows adds the zone to a link-local address.
    let address = text.split('%').next()?.parse::<IpAddr>().ok()?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let prefix = u8::try_from(prefix).ok().filter(|prefix| *prefix <= longest)?;
    Some(InterfaceAddress { address, prefix })
}

fn mac_address<'de, D: Deserializer<'de>>(d: D) -> Result<Option<[u8; 6]>, D::Error> {
    Ok(Option::<GuestText>::deserialize(d)?.and_then(|text| parse_mac(&text)))
}

fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|part| part.len() == 2 && !part.starts_with('+'))?;
        *byte = u8::from_str_radix(part, 16).ok()?;
    }
    parts.next().is_none().then_some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_address_is_left_out() {
        let check = |text: &str, prefix: i64, expected: Option<&str>| {
            let found =
                interface_address(text, prefix).map(|a| format!("{}/{}", a.address, a.prefix));
            assert_eq!(found.as_deref(), expected, "{text}/{prefix}");
        };
        check("192.0.2.7", 24, Some("192.0.2.7/24"));
        check("fe80::1%4", 64, Some("fe80::1/64"));
        check("192.0.2.7", 33, None);
        check("192.0.2.7", -1, None);
        check("::1", 300, None);
        check("\x1b[31m192.0.2.7", 24, None);
        check("<script>", 24, None);
        check("", 0, None);
    }

    #[test]
    fn interfaces_are_read_leniently() {
        let answer = r#"[{"name":"lo","ip-addresses":[{"ip-address":"127.0.0.1","ip-address-type":"ipv4","prefix":8}]},
            {"name":"e\u001b[2Jth0","hardware-address":"52:54:00:AB:cd:01","statistics":{"rx-bytes":1},
             "ip-addresses":[{"ip-address":"nonsense","prefix":8}]},
            {"name":"x","hardware-address":"52:54:00:+b:cd:01"}]"#;
        let interfaces: ShortList<NetworkInterface> = serde_json::from_str(answer).unwrap();
        assert_eq!(interfaces[0].ip_addresses.len(), 1);
        assert_eq!(&*interfaces[1].name, "eth0");
        assert_eq!(interfaces[1].hardware_address, Some([0x52, 0x54, 0, 0xab, 0xcd, 1]));
        assert_eq!(interfaces[1].ip_addresses, []);
        assert_eq!(interfaces[2].hardware_address, None);
    }
}
