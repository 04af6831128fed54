//! Networks that NICs are plugged into, and their addresses.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

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
    },
    /// An existing Linux bridge of the hosts.
    Bridge {
        bridge: String,
        /// VLAN tag, 1 to 4094.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        vlan: Option<u16>,
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
    /// # Errors
    /// A sentence that names the field and the rule.
    pub fn validate(&self) -> Result<(), String> {
        match self {
            Self::Nat { subnet } if !(16..=29).contains(&subnet.prefix) => {
                Err(format!("subnet {subnet}: a NAT network is between /16 and /29"))
            }
            Self::Nat { .. } => Ok(()),
            Self::Bridge { bridge, vlan } => {
                let ok = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
                if bridge.is_empty()
                    || bridge.len() > 15
                    || !bridge.chars().all(ok)
                    || bridge.starts_with(['.', '-'])
                {
                    return Err(format!(
                        "bridge `{}` is not the name of an interface",
                        bridge.escape_debug()
                    ));
                }
                match vlan {
                    Some(tag) if !(1..=4094).contains(tag) => {
                        Err(format!("VLAN tag {tag}: 1 to 4094"))
                    }
                    _ => Ok(()),
                }
            }
        }
    }
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
}
