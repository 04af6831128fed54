//! What can go wrong with a network, and the way out.

use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use hostler_types::{Ipv4Net, MacAddress};

use crate::process::ProcessError;

#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("{0}")]
    Invalid(String),
    #[error(
        "there is no bridge `{0}` on this host; make it (such as `ip link add {0} type bridge`) or choose another"
    )]
    NoBridge(String),
    #[error(
        "bridge `{bridge}` does not filter VLANs, so VLAN {vlan} cannot be used on it; switch it on with `ip link set {bridge} type bridge vlan_filtering 1` (if that fails, this kernel lacks it), or use a bridge that is on the VLAN"
    )]
    NoVlanFiltering { bridge: String, vlan: u16 },
    #[error(
        "subnet {subnet} overlaps {other}, which this host reaches through `{interface}`; choose another subnet"
    )]
    SubnetInUse { subnet: Ipv4Net, other: Ipv4Net, interface: String },
    #[error("subnet {subnet} has no free address left; all {used} are reserved")]
    SubnetFull { subnet: Ipv4Net, used: usize },
    #[error(
        "MAC address {mac} is already in use on this network, by the NIC `{tap}` with {address}"
    )]
    MacInUse { mac: MacAddress, tap: String, address: Ipv4Addr },
    #[error("address {address} is in use on this network, by the NIC `{tap}`; choose another")]
    AddressInUse { address: Ipv4Addr, tap: String },
    #[error("tap `{0}` is in use: another QEMU process of this VM still runs")]
    TapInUse(String),
    #[error("tap `{0}` has no address reserved on this network; plug the NIC in first")]
    NotPlugged(String),
    #[error("this kernel has no tap devices: /dev/net/tun is missing; try `modprobe tun`")]
    NoTun,
    #[error(
        "dnsmasq, which runs without privileges, could not reach {}: {} has no execute permission for others; `chmod o+x` it",
        .path.display(), .directory.display()
    )]
    NotTraversable { path: PathBuf, directory: PathBuf },
    #[error("{} cannot be written into a dnsmasq configuration; use letters, digits and `/._+-@`", .0.display())]
    UnusablePath(PathBuf),
    #[error("cannot start the DHCP server of bridge `{bridge}`")]
    Dhcp { bridge: String, source: ProcessError },
    #[error("cannot set the packet filter of bridge `{bridge}`")]
    Filter { bridge: String, source: ProcessError },
    #[error("nft answered something that is not understood")]
    FilterAnswer(#[source] serde_json::Error),
    #[error("cannot set the VLAN of `{tap}`")]
    Vlan { tap: String, source: ProcessError },
    #[error("cannot {action} {}", .path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot {action} `{subject}`")]
    Kernel { action: &'static str, subject: String, source: io::Error },
}

/// Says what was attempted on which file.
pub(super) trait IoContext<T> {
    fn doing(self, action: &'static str, path: &Path) -> Result<T, NetworkError>;
}
impl<T> IoContext<T> for io::Result<T> {
    fn doing(self, action: &'static str, path: &Path) -> Result<T, NetworkError> {
        self.map_err(|source| NetworkError::Io { action, path: path.to_owned(), source })
    }
}

/// Says what was asked of the kernel, for which interface or setting.
pub(super) trait Kernel<T> {
    fn kernel(self, action: &'static str, subject: impl fmt::Display) -> Result<T, NetworkError>;
}
impl<T, E: Into<io::Error>> Kernel<T> for Result<T, E> {
    fn kernel(self, action: &'static str, subject: impl fmt::Display) -> Result<T, NetworkError> {
        self.map_err(|source| NetworkError::Kernel {
            action,
            subject: subject.to_string(),
            source: source.into(),
        })
    }
}
