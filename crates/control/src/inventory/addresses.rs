//! Which addresses of the networks are taken, and by which VM: static ones, what DHCP has reserved
//! for a NIC, and what an unfinished task may have to put back.
//!
//! Beside the holders lie the runs of addresses that are taken without a gap, so that the first free
//! one after any address is found without walking over those that are not.

use std::net::Ipv4Addr;

use hostler_types::{AddressRange, Id, NetworkId, NicSpec, Task, Vm, VmId};
use uuid::Uuid;

#[derive(Debug, Clone, Default)]
pub(super) struct Addresses {
    holders: imbl::OrdSet<(NetworkId, u32, VmId, By)>,
    /// The first of each run to its last.
    runs: imbl::OrdMap<(NetworkId, u32), u32>,
}

/// On whose account a VM has an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum By {
    Itself,
    /// The spec that a task puts back if nothing comes of it.
    Task,
}

impl Addresses {
    /// The VMs that have an address. In a NAT network that exists on several hosts, several may.
    pub(super) fn holders(
        &self,
        network: NetworkId,
        address: Ipv4Addr,
    ) -> impl Iterator<Item = VmId> {
        let address = u32::from(address);
        let (least, greatest) = (Id::from_uuid(Uuid::nil()), Id::from_uuid(Uuid::max()));
        let range = (network, address, least, By::Itself)..=(network, address, greatest, By::Task);
        self.holders.range(range).map(|(_, _, vm, _)| *vm)
    }

    /// The first address of `range` that nobody has and `keep_out` does not hold.
    pub(super) fn first_free(
        &self,
        network: NetworkId,
        range: AddressRange,
        keep_out: impl Fn(Ipv4Addr) -> bool,
    ) -> Option<Ipv4Addr> {
        let last = u32::from(range.last);
        let mut next = u32::from(range.first);
        loop {
            if let Some(end) = self.run_with(network, next) {
                next = end.checked_add(1)?;
            }
            if next > last {
                return None;
            }
            let address = Ipv4Addr::from(next);
            if !keep_out(address) {
                return Some(address);
            }
            next = next.checked_add(1)?;
        }
    }

    /// After a VM has changed, come or gone.
    pub(super) fn vm(&mut self, old: Option<&Vm>, new: Option<&Vm>) {
        let of = |vm: Option<&Vm>| vm.map(addresses).unwrap_or_default();
        let Some(vm) = new.or(old).map(Vm::id) else { return };
        self.replace(vm, By::Itself, &of(old), &of(new));
    }

    /// After a task has begun or ended. Of the tasks that can put an older spec back, the input has
    /// it as `spec`, and the VM's id as `vm`.
    pub(super) fn task(&mut self, old: Option<&Task>, new: Option<&Task>) {
        let unfinished = |task: &&Task| !task.status.state.is_terminal();
        let of = |task: Option<&Task>| {
            let input = task.filter(unfinished).map(|task| &task.spec.input);
            let nics = input.and_then(|input| input.pointer("/spec/nics")).cloned();
            let nics: Vec<NicSpec> =
                nics.and_then(|nics| serde_json::from_value(nics).ok()).unwrap_or_default();
            fixed(&nics).collect::<Vec<_>>()
        };
        let (before, now) = (of(old), of(new));
        if before == now {
            return;
        }
        let vm = new.or(old).and_then(|task| task.spec.input.get("vm")).cloned();
        if let Some(vm) = vm.and_then(|vm| serde_json::from_value::<VmId>(vm).ok()) {
            self.replace(vm, By::Task, &before, &now);
        }
    }

    fn replace(&mut self, vm: VmId, by: By, before: &[(NetworkId, u32)], now: &[(NetworkId, u32)]) {
        if before == now {
            return;
        }
        before.iter().for_each(|(network, address)| self.give_back(*network, *address, vm, by));
        now.iter().for_each(|(network, address)| self.take(*network, *address, vm, by));
    }

    fn is_taken(&self, network: NetworkId, address: u32) -> bool {
        self.holders(network, address.into()).next().is_some()
    }

    fn take(&mut self, network: NetworkId, address: u32, vm: VmId, by: By) {
        if !self.is_taken(network, address) {
            self.add_to_runs(network, address);
        }
        self.holders.insert((network, address, vm, by));
    }

    fn give_back(&mut self, network: NetworkId, address: u32, vm: VmId, by: By) {
        let had = self.holders.remove(&(network, address, vm, by)).is_some();
        if had && !self.is_taken(network, address) {
            self.take_from_runs(network, address);
        }
    }

    /// The first and last of the run that an address is in.
    fn run_around(&self, network: NetworkId, address: u32) -> Option<(u32, u32)> {
        let ((of, first), last) = self.runs.range(..=(network, address)).next_back()?;
        (*of == network && *last >= address).then_some((*first, *last))
    }

    fn run_with(&self, network: NetworkId, address: u32) -> Option<u32> {
        self.run_around(network, address).map(|(_, last)| last)
    }

    fn add_to_runs(&mut self, network: NetworkId, address: u32) {
        let below = address.checked_sub(1).and_then(|below| self.run_around(network, below));
        let above = address.checked_add(1).and_then(|above| self.run_around(network, above));
        let first = below.map_or(address, |(first, _)| first);
        let last = above.map_or(address, |(_, last)| last);
        if let Some((first, _)) = above {
            self.runs.remove(&(network, first));
        }
        self.runs.insert((network, first), last);
    }

    fn take_from_runs(&mut self, network: NetworkId, address: u32) {
        let Some((first, last)) = self.run_around(network, address) else { return };
        self.runs.remove(&(network, first));
        if first < address {
            self.runs.insert((network, first), address - 1);
        }
        if last > address {
            self.runs.insert((network, address + 1), last);
        }
    }
}

/// What a VM's NICs have, each once.
fn addresses(vm: &Vm) -> Vec<(NetworkId, u32)> {
    let reserved = vm.status.nics.iter().filter_map(|status| {
        let nic = vm.spec.nics.iter().find(|nic| nic.name == status.name)?;
        match status.reserved? {
            std::net::IpAddr::V4(address) => Some((nic.network, u32::from(address))),
            std::net::IpAddr::V6(_) => None,
        }
    });
    let mut all: Vec<_> = fixed(&vm.spec.nics).chain(reserved).collect();
    all.sort_unstable();
    all.dedup();
    all
}

fn fixed(nics: &[NicSpec]) -> impl Iterator<Item = (NetworkId, u32)> {
    nics.iter().filter_map(|nic| Some((nic.network, u32::from(nic.address.as_ref()?.address))))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn network(number: u128) -> NetworkId {
        Id::from_uuid(Uuid::from_u128(number))
    }
    fn vm(number: u8) -> VmId {
        Id::from_uuid(Uuid::from_u128(number.into()))
    }

    fn by(number: u8) -> By {
        if number.is_multiple_of(2) { By::Itself } else { By::Task }
    }

    /// A model that is too plain to be wrong.
    #[derive(Debug, Default)]
    struct Model(BTreeSet<(u128, u32, u8)>);

    impl Model {
        fn first_free(&self, net: u128, first: u32, last: u32) -> Option<u32> {
            (first..=last).find(|at| !self.0.iter().any(|(n, a, _)| *n == net && a == at))
        }
    }

    proptest! {
        /// Whatever is taken and given back, in whatever order: the first free address is free, is
        /// the first, and is found for every range.
        #[test]
        fn the_first_free_address_is_what_a_search_finds(
            steps in prop::collection::vec((any::<bool>(), 0u128..2, 0u32..24, 0u8..4), 1..120)
        ) {
            // At the very end of what an address can be, where sums overflow.
            let base = u32::MAX - 23;
            let (mut addresses, mut model) = (Addresses::default(), Model::default());
            for (take, net, offset, holder) in steps {
                let address = base + offset;
                if take {
                    addresses.take(network(net), address, vm(holder / 2), by(holder));
                    model.0.insert((net, address, holder));
                } else {
                    addresses.give_back(network(net), address, vm(holder / 2), by(holder));
                    model.0.remove(&(net, address, holder));
                }
                for net in 0..2 {
                    for (first, last) in [(base, u32::MAX), (address, u32::MAX), (base + 5, base + 9)] {
                        let range = AddressRange { first: first.into(), last: last.into() };
                        let found = addresses.first_free(network(net), range, |_| false);
                        let expected = model.first_free(net, first, last).map(Ipv4Addr::from);
                        prop_assert_eq!(found, expected, "{:?}", addresses.runs);
                    }
                    let taken = model.0.iter().filter(|(n, a, _)| *n == net && *a == address).count();
                    let holders = addresses.holders(network(net), address.into()).count();
                    prop_assert_eq!(holders, taken);
                }
            }
        }
    }

    #[test]
    fn what_is_kept_out_is_skipped() {
        let range: AddressRange = "10.0.0.1-10.0.0.3".parse().unwrap();
        let mut addresses = Addresses::default();
        addresses.take(network(1), u32::from(range.first), vm(1), By::Itself);
        let second = Ipv4Addr::new(10, 0, 0, 2);
        let free = |out: &[Ipv4Addr]| {
            addresses.first_free(network(1), range, |address| out.contains(&address))
        };
        assert_eq!(free(&[]), Some(second));
        assert_eq!(free(&[second]), Some(range.last));
        assert_eq!(free(&[second, range.last]), None);
    }
}
