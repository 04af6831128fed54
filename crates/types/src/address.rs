//! Static addresses of NICs, and the pools of networks that they come from.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

/// How a NIC is to get its address.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum NicAddressing {
    #[default]
    Dhcp,
    /// A static address that nobody has, of the network's pool.
    Pool,
    Static(StaticAddress),
}

/// A static address of one's choice; refused when another VM has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct StaticAddress {
    #[schema(value_type = String)]
    pub address: Ipv4Addr,
    /// Absent: the network's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 32)]
    pub prefix: Option<u8>,
    /// Absent: the network's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub gateway: Option<Ipv4Addr>,
}

/// The static address that a NIC has, for as long as the NIC exists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NicAddress {
    #[schema(value_type = String)]
    pub address: Ipv4Addr,
    pub prefix: u8,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub gateway: Option<Ipv4Addr>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub dns: Vec<IpAddr>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
}

/// The addresses of a network that are given to NICs, each to one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddressPool {
    pub range: AddressRange,
    /// Absent: that of the NAT network's subnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 30)]
    pub prefix: Option<u8>,
    /// Absent: the host's address in a NAT network, none in a bridged one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub gateway: Option<Ipv4Addr>,
    /// Empty: the gateway of a NAT network.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub dns: Vec<IpAddr>,
    /// Search domains.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub search: Vec<String>,
}

/// Addresses from the first to the last, written `10.0.0.50-10.0.0.99`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AddressRange {
    pub first: Ipv4Addr,
    pub last: Ipv4Addr,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a range of addresses; write it like 10.0.0.50-10.0.0.99")]
pub struct AddressRangeError(String);

impl AddressRange {
    pub fn contains(self, address: Ipv4Addr) -> bool {
        (self.first..=self.last).contains(&address)
    }
    /// Number of addresses.
    pub fn size(self) -> u64 {
        u64::from(u32::from(self.last)) - u64::from(u32::from(self.first)) + 1
    }
}
impl FromStr for AddressRange {
    type Err = AddressRangeError;
    fn from_str(text: &str) -> Result<Self, AddressRangeError> {
        let error = || {
            AddressRangeError(text.chars().take(64).collect::<String>().escape_debug().to_string())
        };
        let (first, last) = text.split_once('-').ok_or_else(error)?;
        let first: Ipv4Addr = first.trim().parse().map_err(|_| error())?;
        let last: Ipv4Addr = last.trim().parse().map_err(|_| error())?;
        if first > last {
            return Err(error());
        }
        Ok(Self { first, last })
    }
}
impl TryFrom<String> for AddressRange {
    type Error = AddressRangeError;
    fn try_from(text: String) -> Result<Self, AddressRangeError> {
        text.parse()
    }
}
impl From<AddressRange> for String {
    fn from(range: AddressRange) -> Self {
        range.to_string()
    }
}
impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.first, self.last)
    }
}
// The trait that `Vec<T>` and `Option<T>` ask for; utoipa derives `PartialSchema` from it.
impl utoipa::__dev::ComposeSchema for AddressRange {
    fn compose(_: Vec<RefOr<Schema>>) -> RefOr<Schema> {
        String::schema()
    }
}
impl ToSchema for AddressRange {}

impl fmt::Display for NicAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_parsed() {
        let range: AddressRange = "10.0.0.50-10.0.0.99".parse().unwrap();
        assert_eq!((range.size(), range.to_string().as_str()), (50, "10.0.0.50-10.0.0.99"));
        assert!(range.contains(range.first) && range.contains(range.last));
        assert!(!range.contains("10.0.0.49".parse().unwrap()));
        let all: AddressRange = "0.0.0.0-255.255.255.255".parse().unwrap();
        assert_eq!(all.size(), 1 << 32);
        for bad in ["", "10.0.0.1", "10.0.0.2-10.0.0.1", "a-b", "10.0.0.0/24", "1.2.3.4-1.2.3.4-1"]
        {
            assert!(bad.parse::<AddressRange>().is_err(), "{bad}");
        }
    }

    #[test]
    fn ways_to_an_address_read_as_documented() {
        let check = |text: &str, expected: &NicAddressing| {
            assert_eq!(&serde_json::from_str::<NicAddressing>(text).unwrap(), expected, "{text}");
        };
        check(r#""dhcp""#, &NicAddressing::Dhcp);
        check(r#""pool""#, &NicAddressing::Pool);
        let address = Ipv4Addr::new(10, 0, 0, 5);
        let fixed = StaticAddress { address, prefix: None, gateway: None };
        check(r#"{"static":{"address":"10.0.0.5"}}"#, &NicAddressing::Static(fixed));
        assert!(serde_json::from_str::<NicAddressing>(r#"{"static":{"adress":"x"}}"#).is_err());
    }
}
