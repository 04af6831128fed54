//! Networks that NICs are plugged into, and their addresses.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::address::AddressPool;
use crate::object::{Kind, KindName, Object};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetworkKind;
pub type Network = Object<NetworkKind>;

impl Kind for NetworkKind {
    const NAME: KindName = KindName::Network;
    const SCHEMA: &'static str = "Network";
    type Spec = NetworkSpec;
    type Status = NetworkStatus;
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "mode", rename_all = "lowercase", deny_unknown_fields)]
pub enum NetworkSpec {
    /// A private network on each host, with DHCP, DNS and address translation to the outside.
    Nat {
        /// The first address is the host's. /16 to /29.
        subnet: Ipv4Net,
        /// Static addresses for NICs; DHCP gives none of them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pool: Option<AddressPool>,
    },
    /// An existing Linux bridge of the hosts.
    Bridge {
        bridge: String,
        /// VLAN tag, 1 to 4094.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        vlan: Option<u16>,
        /// Static addresses for NICs. What else is on the bridge must not use them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pool: Option<AddressPool>,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NetworkStatus {
    pub state: NetworkState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum NetworkState {
    Ready,
    /// A host could not set it up; the message says which and why.
    Failed,
}

impl NetworkSpec {
    /// The static addresses that the network gives to NICs.
    pub const fn pool(&self) -> Option<&AddressPool> {
        match self {
            Self::Nat { pool, .. } | Self::Bridge { pool, .. } => pool.as_ref(),
        }
    }

    /// # Errors
    /// A sentence that names the field and the rule.
    pub fn validate(&self) -> Result<(), String> {
        match self {
            Self::Nat { subnet, .. } if !(16..=29).contains(&subnet.prefix) => {
                return Err(format!("subnet {subnet}: a NAT network is between /16 and /29"));
            }
            Self::Nat { .. } => {}
            Self::Bridge { bridge, vlan, .. } => validate_bridge(bridge, *vlan)?,
        }
        self.pool().map_or(Ok(()), |pool| self.validate_pool(pool))
    }

    fn validate_pool(&self, pool: &AddressPool) -> Result<(), String> {
        let prefix = match self {
            Self::Nat { subnet, .. } => pool.prefix.unwrap_or(subnet.prefix),
            Self::Bridge { .. } => pool.prefix.ok_or("pool.prefix: a bridged network needs it")?,
        };
        if !(1..=30).contains(&prefix) {
            return Err(format!("pool.prefix: {prefix} is not possible; 1 to 30"));
        }
        let around = Ipv4Net::around(pool.range.first, prefix);
        let (range, last) = (pool.range, around.size() - 1);
        let edges = [
            around.network,
            around.address(u32::try_from(last).unwrap_or(u32::MAX)).unwrap_or(around.network),
        ];
        if !around.contains(range.last) || edges.iter().any(|edge| range.contains(*edge)) {
            return Err(format!("pool.range: {range} does not lie among the hosts of {around}"));
        }
        if range.size() > 1 << 16 {
            return Err(format!("pool.range: {range} has more than 65536 addresses"));
        }
        if let Self::Nat { subnet, .. } = self {
            if *subnet != around {
                return Err(format!("pool.range: {range} does not lie in the subnet {subnet}"));
            }
            if subnet.address(1).is_some_and(|host| range.contains(host)) {
                return Err(format!("pool.range: {range} holds the host's own address"));
            }
        }
        match pool.gateway {
            Some(gateway) if !around.contains(gateway) => {
                Err(format!("pool.gateway: {gateway} is not in {around}"))
            }
            Some(gateway) if range.contains(gateway) => {
                Err(format!("pool.gateway: {gateway} lies in the range {range}"))
            }
            _ => validate_search("pool.search", &pool.search),
        }
    }
}

fn validate_bridge(bridge: &str, vlan: Option<u16>) -> Result<(), String> {
    let ok = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if bridge.is_empty()
        || bridge.len() > 15
        || !bridge.chars().all(ok)
        || bridge.starts_with(['.', '-'])
    {
        return Err(format!("bridge `{}` is not the name of an interface", bridge.escape_debug()));
    }
    match vlan {
        Some(tag) if !(1..=4094).contains(&tag) => Err(format!("VLAN tag {tag}: 1 to 4094")),
        _ => Ok(()),
    }
}

/// At most 8 search domains, each a DNS name.
pub(crate) fn validate_search(field: &str, search: &[String]) -> Result<(), String> {
    match search.iter().find(|domain| !is_domain(domain)) {
        Some(bad) => Err(format!("{field}: `{}` is not a domain", bad.escape_debug())),
        None if search.len() > 8 => Err(format!("{field}: at most 8 domains")),
        None => Ok(()),
    }
}

/// A DNS name, in either case, without the dot of the root.
pub(crate) fn is_domain(text: &str) -> bool {
    text.len() <= 253
        && text.split('.').all(|label| {
            let ok = |c: char| c.is_ascii_alphanumeric() || c == '-';
            (1..=63).contains(&label.len())
                && label.chars().all(ok)
                && !label.starts_with('-')
                && !label.ends_with('-')
        })
}

/// An IPv4 network such as `10.77.0.0/24`; host bits are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Ipv4Net {
    pub network: Ipv4Addr,
    pub prefix: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an IPv4 network; write it like 10.77.0.0/24")]
pub struct Ipv4NetError(String);

impl Ipv4Net {
    /// The network of this prefix that `address` is in.
    pub fn around(address: Ipv4Addr, prefix: u8) -> Self {
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
        Self { network: Ipv4Addr::from(u32::from(address) & mask), prefix }
    }
    /// The `n`-th address of the network, if it is in it.
    pub fn address(self, n: u32) -> Option<Ipv4Addr> {
        let size = 1u64 << (32 - u32::from(self.prefix));
        (u64::from(n) < size).then(|| Ipv4Addr::from(u32::from(self.network) + n))
    }
    pub fn contains(self, address: Ipv4Addr) -> bool {
        u32::from(address) & self.mask() == u32::from(self.network)
    }
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.network) || other.contains(self.network)
    }
    pub fn netmask(self) -> Ipv4Addr {
        Ipv4Addr::from(self.mask())
    }
    /// Number of addresses, network and broadcast address included.
    pub fn size(self) -> u64 {
        1 << (32 - u32::from(self.prefix))
    }
    fn mask(self) -> u32 {
        u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0)
    }
}
impl FromStr for Ipv4Net {
    type Err = Ipv4NetError;
    fn from_str(text: &str) -> Result<Self, Ipv4NetError> {
        let error = || Ipv4NetError(text.escape_debug().to_string());
        let (address, prefix) = text.split_once('/').ok_or_else(error)?;
        let address: Ipv4Addr = address.parse().map_err(|_| error())?;
        let prefix: u8 = prefix.parse().ok().filter(|p| (1..=32).contains(p)).ok_or_else(error)?;
        let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
        Ok(Self { network: Ipv4Addr::from(u32::from(address) & mask), prefix })
    }
}
impl TryFrom<String> for Ipv4Net {
    type Error = Ipv4NetError;
    fn try_from(text: String) -> Result<Self, Ipv4NetError> {
        text.parse()
    }
}
impl From<Ipv4Net> for String {
    fn from(net: Ipv4Net) -> Self {
        net.to_string()
    }
}
impl fmt::Display for Ipv4Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

/// A unicast MAC address, `52:54:00:…` when chosen by Hostler.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(try_from = "String", into = "String")]
#[schema(value_type = String)]
pub struct MacAddress(pub [u8; 6]);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a unicast MAC address; write it like 52:54:00:12:34:56")]
pub struct MacError(String);

impl MacAddress {
    /// The locally administered address with QEMU's prefix that `suffix` selects.
    pub const fn from_suffix(suffix: [u8; 3]) -> Self {
        Self([0x52, 0x54, 0x00, suffix[0], suffix[1], suffix[2]])
    }
}
impl FromStr for MacAddress {
    type Err = MacError;
    fn from_str(text: &str) -> Result<Self, MacError> {
        let error = || MacError(text.escape_debug().to_string());
        let mut bytes = [0u8; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts.next().filter(|part| part.len() == 2).ok_or_else(error)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| error())?;
        }
        let multicast = bytes[0] & 1 == 1;
        if parts.next().is_some() || multicast || bytes == [0; 6] {
            return Err(error());
        }
        Ok(Self(bytes))
    }
}
impl TryFrom<String> for MacAddress {
    type Error = MacError;
    fn try_from(text: String) -> Result<Self, MacError> {
        text.parse()
    }
}
impl From<MacAddress> for String {
    fn from(mac: MacAddress) -> Self {
        mac.to_string()
    }
}
impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

// The trait that `Vec<T>` and `Option<T>` ask for; utoipa derives `PartialSchema` from it.
impl utoipa::__dev::ComposeSchema for Ipv4Net {
    fn compose(_: Vec<RefOr<Schema>>) -> RefOr<Schema> {
        String::schema()
    }
}
impl ToSchema for Ipv4Net {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_parsed_and_compared() {
        let net: Ipv4Net = "10.77.0.9/24".parse().unwrap();
        assert_eq!(net.to_string(), "10.77.0.0/24");
        assert_eq!(net.address(1), Some(Ipv4Addr::new(10, 77, 0, 1)));
        assert_eq!(net.address(256), None);
        assert!(net.overlaps("10.77.0.128/25".parse().unwrap()));
        assert!(!net.overlaps("10.78.0.0/16".parse().unwrap()));
        for bad in ["10.0.0.0", "10.0.0.0/33", "10.0.0/8", "x/8", "10.0.0.0/0"] {
            assert!(bad.parse::<Ipv4Net>().is_err(), "{bad}");
        }
    }

    #[test]
    fn mac_addresses_are_unicast() {
        assert!("52:54:00:12:34:56".parse::<MacAddress>().is_ok());
        for bad in
            ["01:00:5e:00:00:01", "00:00:00:00:00:00", "52:54:00:12:34", "5:54:00:12:34:56", ",,"]
        {
            assert!(bad.parse::<MacAddress>().is_err(), "{bad}");
        }
    }

    #[test]
    fn network_specs_read_as_documented() {
        let spec: NetworkSpec =
            serde_json::from_str(r#"{"mode":"nat","subnet":"10.77.0.0/24"}"#).unwrap();
        assert!(spec.validate().is_ok());
        let spec: NetworkSpec =
            serde_json::from_str(r#"{"mode":"bridge","bridge":"br0","vlan":5000}"#).unwrap();
        assert!(spec.validate().is_err());
    }

    #[test]
    fn pools_lie_among_the_hosts_of_their_network() {
        let check = |network: &str, pool: &str, complaint: Option<&str>| {
            let text = format!(r#"{{{network},"pool":{pool}}}"#);
            let spec: NetworkSpec = serde_json::from_str(&text).unwrap();
            match (spec.validate(), complaint) {
                (Ok(()), None) => {}
                (Err(error), Some(words)) => assert!(error.contains(words), "{text}: {error}"),
                (result, _) => panic!("{text}: {result:?}"),
            }
        };
        let nat = r#""mode":"nat","subnet":"10.7.0.0/24""#;
        let bridge = r#""mode":"bridge","bridge":"br0""#;
        check(nat, r#"{"range":"10.7.0.10-10.7.0.20"}"#, None);
        check(nat, r#"{"range":"10.7.0.1-10.7.0.20"}"#, Some("host's own"));
        check(nat, r#"{"range":"10.7.0.10-10.7.0.255"}"#, Some("among the hosts"));
        check(nat, r#"{"range":"10.7.1.10-10.7.1.20"}"#, Some("in the subnet"));
        check(nat, r#"{"range":"10.7.0.10-10.7.1.20"}"#, Some("among the hosts"));
        check(nat, r#"{"range":"10.7.0.10-10.7.0.20","gateway":"10.7.0.15"}"#, Some("gateway"));
        check(nat, r#"{"range":"10.7.0.10-10.7.0.20","gateway":"10.8.0.1"}"#, Some("gateway"));
        check(bridge, r#"{"range":"10.7.0.10-10.7.0.20"}"#, Some("prefix"));
        check(bridge, r#"{"range":"10.7.0.10-10.7.0.20","prefix":24}"#, None);
        check(bridge, r#"{"range":"10.0.0.1-10.2.0.0","prefix":8}"#, Some("65536"));
        check(bridge, r#"{"range":"10.7.0.1-10.7.0.2","prefix":0}"#, Some("prefix"));
        check(nat, r#"{"range":"10.7.0.10-10.7.0.20","search":["a b"]}"#, Some("domain"));
    }
}
