//! Networks of guests: NAT networks that the agent makes, and bridges that are there.
//!
//! A NAT network is a bridge `hb<8 hex digits>` with the subnet's first address, packet filter
//! tables (`filter.rs` says what guests may), and one dnsmasq for DHCP and DNS. What must outlive
//! the agent is in files: one per reservation, dnsmasq's own, and nothing else. A guest's NIC is a
//! tap, which exists as long as QEMU holds it, so that none is ever left behind.
//!
//! - `ensure` makes a network, or repairs it; it is cheap when all is there.
//! - `plug` is done when a VM gets a NIC: an address is reserved and its MAC is bound to its tap.
//! - `open_tap` is done at each start, and is a matter of a few system calls.

mod bridge;
mod dhcp;
mod error;
mod filter;
mod interface;
mod link;
mod reservations;
mod tap;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use hostler_types::{Ipv4Net, MacAddress, Name, NetworkId, NetworkSpec};

use dhcp::Dhcp;
pub use error::NetworkError;
use error::{IoContext, Kernel};
use reservations::Reservations;
pub use tap::{Tap, TapName};

/// The name of the bridge of a NAT network, and the stem of all that belongs to it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct BridgeName(String);

impl BridgeName {
    fn of(network: NetworkId) -> Self {
        // The last digits of a UUIDv7 are random; the first are the time.
        let hex = network.uuid().simple().to_string();
        Self(format!("hb{}", &hex[24..]))
    }
    fn as_str(&self) -> &str {
        &self.0
    }
}
impl fmt::Display for BridgeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A NAT network, with what follows from its id and subnet.
#[derive(Debug, Clone)]
pub(crate) struct NatNetwork {
    pub(crate) bridge: BridgeName,
    pub(crate) subnet: Ipv4Net,
    /// The host's address.
    pub(crate) gateway: Ipv4Addr,
}

/// A NIC that is plugged into a network.
#[derive(Debug, Clone, Copy)]
pub struct Port<'a> {
    pub mac: MacAddress,
    /// Its static address; absent: DHCP chooses one.
    pub address: Option<Ipv4Addr>,
    pub hostname: Option<&'a Name>,
}

/// The networks of this host.
#[derive(Debug)]
pub struct Networks {
    directory: PathBuf,
    /// Reservations by network, read from their files when first needed.
    reservations: Mutex<HashMap<NetworkId, Reservations>>,
    /// Networks whose packet filter this process has put in place.
    filtered: Mutex<HashSet<NetworkId>>,
    /// Held while a network is made or removed: guards the world, not data.
    gate: tokio::sync::Mutex<()>,
}

impl Networks {
    /// Networks whose files are in `directory`, which must not be a temporary one: reservations
    /// are to outlive a reboot. dnsmasq reads there without privileges, so every directory on the
    /// way must have the execute permission for others.
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self {
            directory: directory.into(),
            reservations: Mutex::default(),
            filtered: Mutex::default(),
            gate: tokio::sync::Mutex::default(),
        }
    }

    /// Makes a NAT network, or makes sure that the bridge of another exists. Can be repeated, and
    /// repairs what is missing.
    ///
    /// # Errors
    /// A tool is missing, the subnet is in use on this host, or the bridge cannot carry the VLAN.
    pub async fn ensure(&self, id: NetworkId, spec: &NetworkSpec) -> Result<(), NetworkError> {
        let Some(nat) = NatNetwork::of(id, spec)? else {
            return bridge::check_existing(spec);
        };
        let _gate = self.gate.lock().await;
        let ports = self.with_reservations(id, |ports| Ok(ports.taps()))?;
        bridge::ensure(&nat, &ports)?;
        // Tables of an earlier process may be of an earlier version.
        if !self.is_filtered(id) || !filter::is_present(&nat).await? {
            filter::apply(&nat, &ports).await?;
            self.set_filtered(id, true);
        }
        let dhcp = Dhcp::new(self.network_directory(id), &nat);
        dhcp.ensure().await
    }

    /// Removes all that [`Self::ensure`] and [`Self::plug`] made for a NAT network. That nothing
    /// is there is as good. The caller knows that no VM is plugged in.
    ///
    /// # Errors
    /// A tool is missing or the kernel refuses.
    pub async fn remove(&self, id: NetworkId, spec: &NetworkSpec) -> Result<(), NetworkError> {
        let Some(nat) = NatNetwork::of(id, spec)? else { return Ok(()) };
        let _gate = self.gate.lock().await;
        let directory = self.network_directory(id);
        Dhcp::new(directory.clone(), &nat).stop().await?;
        self.set_filtered(id, false);
        filter::remove(&nat).await?;
        bridge::remove(&nat)?;
        self.forget(id);
        match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            result => result.doing("remove", &directory),
        }
    }

    /// Reserves an address for a NIC (the one it has, if it is static) and lets its tap send as this
    /// MAC alone. Returns the address;
    /// `None` on a network that has its own DHCP. Can be repeated.
    ///
    /// # Errors
    /// The subnet is full, or the MAC or the address is another NIC's.
    pub async fn plug(
        &self,
        id: NetworkId,
        spec: &NetworkSpec,
        tap: &TapName,
        port: Port<'_>,
    ) -> Result<Option<Ipv4Addr>, NetworkError> {
        let Some(nat) = NatNetwork::of(id, spec)? else { return Ok(None) };
        let mac = port.mac;
        let pool = spec.pool().map(|pool| pool.range);
        let address =
            self.with_reservations(id, |ports| ports.reserve(nat.subnet, pool, tap, port))?;
        let dhcp = Dhcp::new(self.network_directory(id), &nat);
        if dhcp.is_leased_to_another(address, mac)? {
            let _gate = self.gate.lock().await;
            dhcp.forget_lease(address).await?;
        }
        if self.is_filtered(id) {
            filter::add_port(&nat, tap, mac).await?;
        }
        Ok(Some(address))
    }

    /// The inverse of [`Self::plug`].
    ///
    /// # Errors
    /// The files cannot be written.
    pub async fn unplug(
        &self,
        id: NetworkId,
        spec: &NetworkSpec,
        tap: &TapName,
    ) -> Result<(), NetworkError> {
        let Some(nat) = NatNetwork::of(id, spec)? else { return Ok(()) };
        let Some(mac) = self.with_reservations(id, |ports| ports.release(tap))? else {
            return Ok(());
        };
        Dhcp::new(self.network_directory(id), &nat).reload()?;
        if self.is_filtered(id) {
            filter::remove_port(&nat, tap, mac).await?;
        }
        Ok(())
    }

    /// The address that a NIC has reserved.
    ///
    /// # Errors
    /// The files cannot be read.
    pub fn reserved(&self, id: NetworkId, tap: &TapName) -> Result<Option<Ipv4Addr>, NetworkError> {
        self.with_reservations(id, |ports| Ok(ports.address(tap)))
    }

    /// Makes a tap on the network's bridge. It lives as long as its file descriptor is open,
    /// here or in QEMU. The NIC must have been plugged in.
    ///
    /// # Errors
    /// The bridge is not there, the NIC was not plugged in, or the VM's QEMU still holds the tap.
    pub async fn open_tap(
        &self,
        id: NetworkId,
        spec: &NetworkSpec,
        tap: &TapName,
    ) -> Result<Tap, NetworkError> {
        match spec {
            NetworkSpec::Nat { .. } => {
                // An unknown tap would not be filtered.
                if self.reserved(id, tap)?.is_none() {
                    return Err(NetworkError::NotPlugged(tap.to_string()));
                }
                if !self.is_filtered(id) {
                    self.ensure(id, spec).await?;
                }
                tap::open(tap, BridgeName::of(id).as_str())
            }
            NetworkSpec::Bridge { bridge, vlan, .. } => {
                bridge::check_existing(spec)?;
                let opened = tap::open(tap, bridge)?;
                if let Some(vlan) = vlan {
                    bridge::set_vlan(tap, *vlan).await?;
                }
                Ok(opened)
            }
        }
    }

    /// Puts a running VM's tap on this network's bridge, wherever it was before. The NIC must have
    /// been plugged in here. When this fails, the tap is on no bridge.
    ///
    /// # Errors
    /// As for [`Self::open_tap`].
    pub async fn move_tap(
        &self,
        id: NetworkId,
        spec: &NetworkSpec,
        tap: &TapName,
    ) -> Result<(), NetworkError> {
        tap::detach(tap)?;
        match spec {
            NetworkSpec::Nat { .. } => {
                if self.reserved(id, tap)?.is_none() {
                    return Err(NetworkError::NotPlugged(tap.to_string()));
                }
                if !self.is_filtered(id) {
                    self.ensure(id, spec).await?;
                }
                tap::attach(tap, BridgeName::of(id).as_str())
            }
            NetworkSpec::Bridge { bridge, vlan, .. } => {
                bridge::check_existing(spec)?;
                tap::attach(tap, bridge)?;
                match vlan {
                    Some(vlan) => bridge::set_vlan(tap, *vlan).await,
                    None => Ok(()),
                }
            }
        }
    }

    fn network_directory(&self, id: NetworkId) -> PathBuf {
        self.directory.join(id.to_string())
    }

    fn with_reservations<T>(
        &self,
        id: NetworkId,
        act: impl FnOnce(&mut Reservations) -> Result<T, NetworkError>,
    ) -> Result<T, NetworkError> {
        let mut all = self.reservations.lock().expect("no panic happens under the lock");
        if let Some(reservations) = all.get_mut(&id) {
            return act(reservations);
        }
        let loaded = Reservations::load(&dhcp::hosts_directory(&self.network_directory(id)))?;
        act(all.entry(id).or_insert(loaded))
    }

    fn forget(&self, id: NetworkId) {
        self.reservations.lock().expect("no panic happens under the lock").remove(&id);
    }

    fn is_filtered(&self, id: NetworkId) -> bool {
        self.filtered.lock().expect("no panic happens under the lock").contains(&id)
    }

    fn set_filtered(&self, id: NetworkId, filtered: bool) {
        let mut all = self.filtered.lock().expect("no panic happens under the lock");
        if filtered {
            all.insert(id)
        } else {
            all.remove(&id)
        };
    }
}

impl NatNetwork {
    /// `None` for a network that is not NAT.
    fn of(id: NetworkId, spec: &NetworkSpec) -> Result<Option<Self>, NetworkError> {
        spec.validate().map_err(NetworkError::Invalid)?;
        let NetworkSpec::Nat { subnet, .. } = spec else { return Ok(None) };
        let gateway = subnet.address(1).ok_or_else(|| {
            NetworkError::Invalid(format!("subnet {subnet} has no room for the host"))
        })?;
        Ok(Some(Self { bridge: BridgeName::of(id), subnet: *subnet, gateway }))
    }
}

/// Writes a kernel setting; one that already has the value is not touched.
fn set_kernel(path: &str, value: &str) -> Result<(), NetworkError> {
    let path = Path::new(path);
    if fs::read_to_string(path).kernel("read the setting", path.display())?.trim() == value {
        return Ok(());
    }
    fs::write(path, value).kernel("write the setting", path.display())
}
