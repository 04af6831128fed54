//! Which NIC of a NAT network has which address, for as long as the NIC exists.
//!
//! A file per NIC, named after its tap, in the directory that dnsmasq watches:
//! `52:54:00:12:34:56,10.77.0.23,web01`. dnsmasq needs no restart for a new one.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use hostler_types::{AddressRange, Ipv4Net, MacAddress, Name};

use super::error::{IoContext, NetworkError};
use super::tap::TapName;
use crate::file::{Access, remove_if_there, write_atomic};

/// dnsmasq reads them as another user.
const ACCESS: Access = Access { mode: 0o644, uid: 0, gid: 0 };

#[derive(Debug)]
pub(super) struct Reservations {
    directory: PathBuf,
    ports: BTreeMap<TapName, Port>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Port {
    mac: MacAddress,
    address: Ipv4Addr,
    hostname: Option<Name>,
}

impl Reservations {
    /// Reads the files; a file that is not one of ours is left alone.
    pub(super) fn load(directory: &Path) -> Result<Self, NetworkError> {
        let mut ports = BTreeMap::new();
        let entries = match fs::read_dir(directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            entries => Some(entries.doing("list", directory)?),
        };
        for entry in entries.into_iter().flatten() {
            let entry = entry.doing("list", directory)?;
            let Some(tap) = entry.file_name().to_str().and_then(TapName::parse) else { continue };
            let text = fs::read_to_string(entry.path()).doing("read", &entry.path())?;
            if let Some(port) = Port::parse(&text) {
                ports.insert(tap, port);
            }
        }
        Ok(Self { directory: directory.to_owned(), ports })
    }

    pub(super) fn taps(&self) -> Vec<(TapName, MacAddress)> {
        self.ports.iter().map(|(tap, port)| (tap.clone(), port.mac)).collect()
    }

    pub(super) fn address(&self, tap: &TapName) -> Option<Ipv4Addr> {
        self.ports.get(tap).map(|port| port.address)
    }

    /// The address of a NIC, chosen by its MAC when it has none yet.
    pub(super) fn reserve(
        &mut self,
        subnet: Ipv4Net,
        pool: Option<AddressRange>,
        tap: &TapName,
        wanted: super::Port<'_>,
    ) -> Result<Ipv4Addr, NetworkError> {
        let (mac, hostname) = (wanted.mac, wanted.hostname);
        if let Some((other, port)) =
            self.ports.iter().find(|(other, port)| port.mac == mac && *other != tap)
        {
            let (tap, address) = (other.to_string(), port.address);
            return Err(NetworkError::MacInUse { mac, tap, address });
        }
        let known = self.ports.get(tap);
        let kept = known.filter(|port| port.mac == mac && subnet.contains(port.address));
        let address = match (wanted.address, kept) {
            (Some(address), _) => self.fixed(subnet, tap, address)?,
            (None, Some(port)) => port.address,
            (None, None) => self.choose(subnet, pool, tap, mac)?,
        };
        let port = Port { mac, address, hostname: hostname.cloned() };
        if self.ports.get(tap) != Some(&port) {
            self.write(tap, &port)?;
            self.ports.insert(tap.clone(), port);
        }
        Ok(address)
    }

    /// Returns the MAC that the NIC had, if it had a reservation.
    pub(super) fn release(&mut self, tap: &TapName) -> Result<Option<MacAddress>, NetworkError> {
        let path = self.directory.join(tap.as_str());
        remove_if_there(&path).doing("remove", &path)?;
        Ok(self.ports.remove(tap).map(|port| port.mac))
    }

    /// A static address, if no other NIC has it.
    fn fixed(
        &self,
        subnet: Ipv4Net,
        tap: &TapName,
        address: Ipv4Addr,
    ) -> Result<Ipv4Addr, NetworkError> {
        if !subnet.contains(address) {
            return Err(NetworkError::Invalid(format!("{address} is not in the subnet {subnet}")));
        }
        let holder =
            self.ports.iter().find(|(other, port)| *other != tap && port.address == address);
        match holder {
            Some((holder, _)) => {
                Err(NetworkError::AddressInUse { address, tap: holder.to_string() })
            }
            None => Ok(address),
        }
    }

    /// Starts where the MAC points and takes the first free address, so that a VM that is made
    /// again with the same MAC most likely gets the same address.
    fn choose(
        &self,
        subnet: Ipv4Net,
        pool: Option<AddressRange>,
        tap: &TapName,
        mac: MacAddress,
    ) -> Result<Ipv4Addr, NetworkError> {
        let used: HashSet<Ipv4Addr> = (self.ports.iter())
            .filter(|(other, _)| *other != tap)
            .map(|(_, port)| port.address)
            .collect();
        // Without the network's, the host's and the broadcast address.
        let usable = subnet.size().saturating_sub(3);
        let start =
            mac.0.iter().fold(0u64, |sum, byte| (sum * 251 + u64::from(*byte)) % 0xffff_fffb);
        (0..usable)
            .filter_map(|offset| u32::try_from(2 + (start + offset) % usable).ok())
            .filter_map(|number| subnet.address(number))
            .filter(|address| !pool.is_some_and(|pool| pool.contains(*address)))
            .find(|address| !used.contains(address))
            .ok_or(NetworkError::SubnetFull { subnet, used: used.len() })
    }

    fn write(&self, tap: &TapName, port: &Port) -> Result<(), NetworkError> {
        make_directory(&self.directory)?;
        let path = self.directory.join(tap.as_str());
        write_atomic(&path, port.to_line().as_bytes(), ACCESS).doing("write", &path)
    }
}

impl Port {
    fn to_line(&self) -> String {
        let name = self.hostname.as_ref().map(|name| format!(",{name}")).unwrap_or_default();
        format!("{},{}{name}\n", self.mac, self.address)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut fields = text.trim().split(',');
        let (mac, address) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        Some(Self { mac, address, hostname: fields.next().and_then(|name| name.parse().ok()) })
    }
}

/// Readable by dnsmasq's user, whatever the process's umask.
pub(super) fn make_directory(path: &Path) -> Result<(), NetworkError> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(path).doing("make", path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).doing("open up", path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hostler_types::VmId;

    fn mac(last: u8) -> MacAddress {
        MacAddress([0x52, 0x54, 0, 0, 0, last])
    }
    fn wanted(last: u8, hostname: Option<&Name>) -> super::super::Port<'_> {
        super::super::Port { mac: mac(last), address: None, hostname }
    }
    fn tap() -> TapName {
        TapName::of(VmId::generate(), 0)
    }

    #[test]
    fn addresses_are_stable_distinct_and_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let subnet: Ipv4Net = "10.77.0.0/29".parse().unwrap();
        let mut reservations = Reservations::load(&directory.path().join("hosts")).unwrap();
        let mut seen = HashSet::new();
        let taps: Vec<TapName> = (0..5).map(|_| tap()).collect();
        let name: Name = "web01".parse().unwrap();
        for (number, tap) in (0u8..).zip(&taps) {
            let address =
                reservations.reserve(subnet, None, tap, wanted(number, Some(&name))).unwrap();
            assert_eq!(
                reservations.reserve(subnet, None, tap, wanted(number, None)).unwrap(),
                address
            );
            assert!((2..=6).contains(&address.octets()[3]) && seen.insert(address), "{address}");
        }
        let error = reservations.reserve(subnet, None, &tap(), wanted(9, None)).unwrap_err();
        assert!(matches!(error, NetworkError::SubnetFull { used: 5, .. }), "{error}");
        let error = reservations.reserve(subnet, None, &tap(), wanted(3, None)).unwrap_err();
        assert!(matches!(error, NetworkError::MacInUse { .. }), "{error}");

        let mut again = Reservations::load(&directory.path().join("hosts")).unwrap();
        assert_eq!(again.ports, reservations.ports);
        assert_eq!(again.release(&taps[2]).unwrap(), Some(mac(2)));
        assert_eq!(again.release(&taps[2]).unwrap(), None);
        assert!(again.reserve(subnet, None, &tap(), wanted(9, None)).is_ok());
    }

    #[test]
    fn a_vm_made_again_gets_its_address_again() {
        let directory = tempfile::tempdir().unwrap();
        let subnet: Ipv4Net = "10.77.0.0/24".parse().unwrap();
        let mut reservations = Reservations::load(directory.path()).unwrap();
        let (first, second) = (tap(), tap());
        let address = reservations.reserve(subnet, None, &first, wanted(7, None)).unwrap();
        reservations.release(&first).unwrap();
        assert_eq!(reservations.reserve(subnet, None, &second, wanted(7, None)).unwrap(), address);
        let moved = reservations.reserve(subnet, None, &second, wanted(8, None)).unwrap();
        assert_ne!(moved, address);
    }

    #[test]
    fn static_addresses_are_the_nics_own() {
        let directory = tempfile::tempdir().unwrap();
        let subnet: Ipv4Net = "10.77.0.0/29".parse().unwrap();
        let pool: AddressRange = "10.77.0.4-10.77.0.6".parse().unwrap();
        let mut reservations = Reservations::load(directory.path()).unwrap();
        let (one, two) = (tap(), tap());
        let fixed = |last: u8, address: u8| super::super::Port {
            address: Some([10, 77, 0, address].into()),
            ..wanted(last, None)
        };
        let address = reservations.reserve(subnet, Some(pool), &one, fixed(1, 5)).unwrap();
        assert_eq!(address.octets()[3], 5);
        let error = reservations.reserve(subnet, Some(pool), &two, fixed(2, 5)).unwrap_err();
        assert!(error.to_string().contains(one.as_str()), "{error}");
        assert!(reservations.reserve(subnet, Some(pool), &one, fixed(1, 5)).is_ok());
        assert!(reservations.reserve(subnet, Some(pool), &two, fixed(2, 100)).is_err());
        // DHCP gives nothing of the pool: here that leaves two addresses.
        for number in 10..12 {
            let free = reservations.reserve(subnet, Some(pool), &tap(), wanted(number, None));
            assert!(!pool.contains(free.unwrap()));
        }
        assert!(reservations.reserve(subnet, Some(pool), &tap(), wanted(12, None)).is_err());
    }
}
