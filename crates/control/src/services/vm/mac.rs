//! MAC addresses of new NICs: unique in the inventory, also among requests at the same instant.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use hostler_types::{MacAddress, VmId};

use crate::error::ServiceError;
use crate::inventory::Snapshot;

/// Addresses of requests that are not in the inventory yet.
#[derive(Debug, Default)]
pub(crate) struct MacReservations(Mutex<HashSet<MacAddress>>);

/// Addresses that nobody else is given while this lives: until the request is in the inventory.
#[derive(Debug)]
pub(crate) struct ReservedMacs<'a> {
    all: &'a MacReservations,
    mine: Vec<MacAddress>,
}

impl MacReservations {
    pub(crate) fn begin(&self) -> ReservedMacs<'_> {
        ReservedMacs { all: self, mine: Vec::new() }
    }
}

impl ReservedMacs<'_> {
    /// Gives all back, to begin anew.
    pub(crate) fn release(&mut self) {
        let mut all = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        for mac in self.mine.drain(..) {
            all.remove(&mac);
        }
    }

    /// Reserves an address that a client wants for a NIC of `vm`.
    pub(crate) fn wanted(
        &mut self,
        snapshot: &Snapshot,
        vm: VmId,
        field: &str,
        mac: MacAddress,
    ) -> Result<MacAddress, ServiceError> {
        let owner = snapshot.vm_with_mac(mac).filter(|owner| *owner != vm);
        if let Some(owner) = owner.and_then(|owner| snapshot.get(owner)) {
            let reason = format!("{mac} belongs to vm `{}` already", owner.name());
            return Err(taken(field, &reason));
        }
        if !self.reserve(mac) {
            return Err(taken(field, &format!("{mac} is used twice, here or by another request")));
        }
        Ok(mac)
    }

    /// Reserves an address that nobody has.
    pub(crate) fn any(&mut self, snapshot: &Snapshot) -> MacAddress {
        loop {
            let mac = MacAddress::from_suffix(rand::random());
            if snapshot.vm_with_mac(mac).is_none() && self.reserve(mac) {
                return mac;
            }
        }
    }

    fn reserve(&mut self, mac: MacAddress) -> bool {
        let new = self.all.0.lock().unwrap_or_else(PoisonError::into_inner).insert(mac);
        if new {
            self.mine.push(mac);
        }
        new
    }
}

impl Drop for ReservedMacs<'_> {
    fn drop(&mut self) {
        self.release();
    }
}

fn taken(field: &str, reason: &str) -> ServiceError {
    let mut error = ServiceError::invalid(field, reason);
    error.class = crate::error::Class::Conflict;
    error.code = "mac_taken";
    error.hint("leave `mac` out, and a free one is chosen")
}
