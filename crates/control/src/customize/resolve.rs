//! From a spec and a request to what one VM is told, with its addresses.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hostler_customize::{Guest, render};
use hostler_pki::Vault;
use hostler_types::{
    AddressRange, ComputerName, Customization, CustomizationOrigin, CustomizationRules,
    CustomizationSpecKind, HostId, Name, NetworkId, NicAddressing, NicSpec, Ref, VmId,
};

use super::addresses::{address, kept};
use super::open;
use super::overlay::overlay;
use crate::error::ServiceError;
use crate::inventory::{Inventory, Snapshot};

/// Addresses and numbers of requests that are not in the inventory yet.
#[derive(Debug, Default)]
pub(crate) struct Reservations(Mutex<Reserved>);

#[derive(Debug, Default)]
struct Reserved {
    addresses: HashSet<(NetworkId, Ipv4Addr)>,
    numbers: HashMap<String, HashSet<u64>>,
}

/// Resolves the customizations of one request. What it has given nobody else is given while this
/// lives: until the VMs are in the inventory.
#[derive(Debug)]
pub(crate) struct Customizing<'a> {
    vault: &'a Vault,
    taken: Taken<'a>,
}

/// What one request has been given.
#[derive(Debug)]
pub(super) struct Taken<'a> {
    all: &'a Reservations,
    inventory: &'a Inventory,
    addresses: Vec<(NetworkId, Ipv4Addr)>,
    numbers: Vec<(String, u64)>,
}

/// What is wanted for one VM.
#[derive(Debug)]
pub(crate) struct GuestWish<'a> {
    pub(crate) vm: VmId,
    pub(crate) name: &'a Name,
    /// What the guest was called before: a number it has, it keeps.
    pub(crate) called: Option<&'a Name>,
    /// A customization spec …
    pub(crate) spec: Option<&'a Ref>,
    /// … and what is laid over it (secrets sealed).
    pub(crate) over: Option<&'a Customization>,
    /// For each NIC, what the request says; absent: as the spec says.
    pub(crate) addressing: &'a [Option<NicAddressing>],
}

impl<'a> Customizing<'a> {
    pub(crate) fn new(vault: &'a Vault, all: &'a Reservations, inventory: &'a Inventory) -> Self {
        let (addresses, numbers) = (Vec::new(), Vec::new());
        Self { vault, taken: Taken { all, inventory, addresses, numbers } }
    }

    /// Gives everything back, to begin anew.
    pub(crate) fn release(&mut self) {
        self.taken.release();
    }

    /// Lets a VM on `host` have the static addresses that its NICs have already.
    ///
    /// # Errors
    /// `address_taken`.
    pub(crate) fn keep(
        &mut self,
        vm: VmId,
        host: HostId,
        nics: &[NicSpec],
    ) -> Result<(), ServiceError> {
        let had = |nic: &NicSpec| Some((nic.network, nic.address.as_ref()?.address));
        nics.iter()
            .filter_map(had)
            .try_for_each(|(network, address)| kept(&mut self.taken, vm, host, network, address))
    }

    /// What the VM's guest is told, and the addresses of its NICs; `None` when nothing is asked.
    ///
    /// # Errors
    /// `not_found` (the spec), `invalid`, `address_taken`, `pool_exhausted`.
    pub(crate) fn resolve(
        &mut self,
        snapshot: &Snapshot,
        wish: &GuestWish<'_>,
        nics: &mut [NicSpec],
    ) -> Result<Option<Customization>, ServiceError> {
        let found =
            wish.spec.map(|spec| snapshot.find::<CustomizationSpecKind>(spec)).transpose()?;
        let rules = found.map(|found| &found.spec);
        let mut customization = match (rules, wish.over) {
            (None, None) => None,
            (rules, over) => {
                let base = rules.map(|rules| rules.guest.clone()).unwrap_or_default();
                Some(overlay(base, over.cloned().unwrap_or_default()))
            }
        };
        if let (Some(found), Some(customization)) = (found, &mut customization) {
            let origin = CustomizationOrigin {
                id: found.id(),
                name: found.name().clone(),
                generation: found.metadata.generation,
            };
            customization.origin = Some(origin);
            if customization.hostname.is_none() {
                customization.hostname = self.hostname(&found.spec.computer_name, wish.called)?;
            }
        }
        self.addresses(snapshot, wish, rules, nics)?;
        if let Some(customization) = &customization {
            self.check(wish, customization, nics)?;
        }
        Ok(customization)
    }

    fn hostname(
        &mut self,
        name: &ComputerName,
        called: Option<&Name>,
    ) -> Result<Option<Name>, ServiceError> {
        match name {
            ComputerName::VmName => Ok(None),
            ComputerName::Fixed(name) => Ok(Some(name.clone())),
            ComputerName::Numbered { prefix, .. } => {
                let number = |called: &&Name| {
                    let number = called.as_str().strip_prefix(prefix.as_str()).unwrap_or_default();
                    !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
                };
                if let Some(kept) = called.filter(number) {
                    return Ok(Some(kept.clone()));
                }
                let number = self.taken.next_number(prefix);
                let name = name.numbered(number);
                name.map(Some).map_err(|reason| ServiceError::invalid("computer_name", reason))
            }
        }
    }

    fn addresses(
        &mut self,
        snapshot: &Snapshot,
        wish: &GuestWish<'_>,
        rules: Option<&CustomizationRules>,
        nics: &mut [NicSpec],
    ) -> Result<(), ServiceError> {
        for (index, nic) in nics.iter_mut().enumerate() {
            let asked = wish.addressing.get(index).and_then(Option::as_ref);
            let by_rule = rules.and_then(|rules| rules.networks.get(index));
            let Some(way) = asked.or(by_rule) else { continue };
            let field = format!("nics[{index}].address");
            nic.address = address(snapshot, &mut self.taken, wish.vm, nic, way, &field)?;
        }
        Ok(())
    }

    /// What no guest could be told is refused now, not by the host later.
    fn check(
        &self,
        wish: &GuestWish<'_>,
        customization: &Customization,
        nics: &[NicSpec],
    ) -> Result<(), ServiceError> {
        let mut clear = customization.clone();
        open(self.vault, &mut clear).map_err(|error| {
            ServiceError::internal("a secret of the customization cannot be read", error)
        })?;
        let guest = Guest { vm: wish.vm, name: wish.name, customization: &clear, nics, hash: "" };
        let refused = |error: hostler_customize::RenderError| {
            ServiceError::invalid("customization", error.to_string())
        };
        render(&guest).map(drop).map_err(refused)
    }
}

/// A reservation ends when the inventory has what it was for. So whoever holds the lock, and looks at
/// the inventory only then, finds everything that was ever given in one of the two.
impl Taken<'_> {
    /// A free address of a range, from now on not free any more.
    pub(super) fn free_address(
        &mut self,
        network: NetworkId,
        range: AddressRange,
    ) -> Option<Ipv4Addr> {
        let mut all = self.all.lock();
        let snapshot = self.inventory.snapshot();
        let chosen = snapshot
            .free_address(network, range, |address| all.addresses.contains(&(network, address)))?;
        all.addresses.insert((network, chosen));
        self.addresses.push((network, chosen));
        Some(chosen)
    }

    /// The inventory in which to look for who has the address; `None`: somebody else is being given
    /// it.
    pub(super) fn reserve_address(
        &mut self,
        network: NetworkId,
        address: Ipv4Addr,
    ) -> Option<Arc<Snapshot>> {
        let mut all = self.all.lock();
        if !all.addresses.insert((network, address)) {
            return None;
        }
        self.addresses.push((network, address));
        Some(self.inventory.snapshot())
    }

    /// The number after the highest that is used or being given.
    fn next_number(&mut self, prefix: &str) -> u64 {
        let mut all = self.all.lock();
        let used = self.inventory.snapshot().highest_hostname(prefix);
        let given = all.numbers.entry(prefix.to_owned()).or_default();
        let highest = used.max(given.iter().max().copied());
        let number = highest.map_or(1, |highest| highest.saturating_add(1));
        given.insert(number);
        self.numbers.push((prefix.to_owned(), number));
        number
    }

    fn release(&mut self) {
        let mut all = self.all.lock();
        for address in self.addresses.drain(..) {
            all.addresses.remove(&address);
        }
        for (prefix, number) in self.numbers.drain(..) {
            if let Some(given) = all.numbers.get_mut(&prefix) {
                given.remove(&number);
                if given.is_empty() {
                    all.numbers.remove(&prefix);
                }
            }
        }
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.release();
    }
}

impl Reservations {
    fn lock(&self) -> MutexGuard<'_, Reserved> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
