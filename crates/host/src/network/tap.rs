//! Taps: the host's end of a guest's NIC.

use std::fmt;
use std::os::fd::OwnedFd;

use hostler_types::VmId;
use rustix::io::Errno;

use super::error::{Kernel, NetworkError};
use super::interface::{Interfaces, open_tap};
use super::link::leave_bridge;

/// The name of a tap: `ht`, 11 digits of the VM's id, and the NIC's number. The same at each start.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TapName(String);

/// An open tap.
#[derive(Debug)]
pub struct Tap {
    pub name: TapName,
    /// For QEMU, with `vnet_hdr=on`. The tap is gone when this and all its copies are closed.
    pub fd: OwnedFd,
}

impl TapName {
    /// The tap of a VM's `nic`-th NIC, counted from 0; a VM has at most 16.
    pub fn of(vm: VmId, nic: usize) -> Self {
        let hex = vm.uuid().simple().to_string();
        Self(format!("ht{}{:x}", &hex[21..], nic % 16))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Reads a name back, such as from a file's name.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let digits = text.strip_prefix("ht")?;
        let is_name = digits.len() == 12 && digits.bytes().all(|b| b.is_ascii_hexdigit());
        is_name.then(|| Self(text.to_owned()))
    }
}
impl fmt::Display for TapName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Makes the tap, puts it on the bridge and switches it on.
pub(super) fn open(name: &TapName, bridge: &str) -> Result<Tap, NetworkError> {
    let interfaces = Interfaces::open().kernel("open a socket for", name)?;
    let mtu = match interfaces.mtu(bridge) {
        Err(Errno::NODEV) => return Err(NetworkError::NoBridge(bridge.to_owned())),
        result => result.kernel("read the MTU of", bridge)?,
    };
    let fd = open_tap(name.as_str()).map_err(|error| match error {
        Errno::BUSY => NetworkError::TapInUse(name.to_string()),
        Errno::NOENT | Errno::NODEV | Errno::NXIO => NetworkError::NoTun,
        other => NetworkError::Kernel {
            action: "make the tap",
            subject: name.to_string(),
            source: other.into(),
        },
    })?;
    disable_ipv6(name.as_str());
    interfaces.set_mtu(name.as_str(), mtu).kernel("set the MTU of", name)?;
    interfaces.add_port(bridge, name.as_str()).kernel("put on its bridge the tap", name)?;
    interfaces.set_up(name.as_str(), true).kernel("switch on", name)?;
    Ok(Tap { name: name.clone(), fd })
}

/// Takes a tap off its bridge, if there is such a tap and it is on one. The guest's card stays, with its
/// cable in a dead socket.
pub(super) fn detach(name: &TapName) -> Result<(), NetworkError> {
    let interfaces = Interfaces::open().kernel("open a socket for", name)?;
    let index = match interfaces.index(name.as_str()) {
        Err(Errno::NODEV) => return Ok(()),
        result => result.kernel("look for", name)?,
    };
    leave_bridge(index).kernel("take off its bridge the tap", name)
}

/// Puts an open tap on a bridge.
pub(super) fn attach(name: &TapName, bridge: &str) -> Result<(), NetworkError> {
    let interfaces = Interfaces::open().kernel("open a socket for", name)?;
    let mtu = match interfaces.mtu(bridge) {
        Err(Errno::NODEV) => return Err(NetworkError::NoBridge(bridge.to_owned())),
        result => result.kernel("read the MTU of", bridge)?,
    };
    interfaces.set_mtu(name.as_str(), mtu).kernel("set the MTU of", name)?;
    interfaces.add_port(bridge, name.as_str()).kernel("put on its bridge the tap", name)
}

/// The host itself has no business on the guests' wire: no link-local address, no router
/// solicitations. A kernel without IPv6 needs nothing.
pub(super) fn disable_ipv6(interface: &str) {
    let path = format!("/proc/sys/net/ipv6/conf/{interface}/disable_ipv6");
    if let Err(error) = std::fs::write(&path, "1")
        && error.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!(interface, %error, "IPv6 stays on");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_are_read_back() {
        let vm: VmId = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
        assert_eq!(TapName::of(vm, 0).as_str(), "ht302099a80570");
        assert_eq!(TapName::of(vm, 15).as_str(), "ht302099a8057f");
        for nic in 0..16 {
            let name = TapName::of(vm, nic);
            assert!(name.as_str().len() <= 15);
            assert_eq!(TapName::parse(name.as_str()), Some(name));
        }
        for bad in ["", "ht", "eth0", "ht302099a8057", "ht302099a805g0", "ht302099a80570,x"] {
            assert_eq!(TapName::parse(bad), None, "{bad}");
        }
    }
}
