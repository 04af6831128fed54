//! What was told last, and whether something has become different enough to be told again.

use std::collections::BTreeMap;

use hostler_agent_api::VmUse;
use hostler_types::{DiskUse, HostUse, ResourceUse, VmId};

/// CPU time, in thousandths of a CPU.
const CPU: u64 = 20;
/// In bytes.
const MEMORY: u64 = 16 << 20;
/// Parts of time, in thousandths.
const PART: u64 = 20;
/// Operations per second.
const OPERATIONS: u64 = 20;
/// In bytes per second.
const THROUGHPUT: u64 = 1 << 20;
/// In microseconds.
const LATENCY: u64 = 1000;

#[derive(Debug, Default)]
pub(super) struct Told {
    vms: BTreeMap<VmId, ResourceUse>,
    host: Option<HostUse>,
}

impl Told {
    pub(super) fn all(&self) -> (Vec<VmUse>, Option<HostUse>) {
        let vms = self.vms.iter().map(|(vm, used)| VmUse { vm: *vm, used: *used });
        (vms.collect(), self.host)
    }

    /// What is to be told of what was measured, and counts as told from now on. VMs that were not
    /// measured do not run: they are forgotten without a word, the VM's own report tells it.
    pub(super) fn news(
        &mut self,
        measured: Vec<VmUse>,
        host: Option<HostUse>,
        whole: bool,
    ) -> (Vec<VmUse>, Option<HostUse>) {
        let mut before = std::mem::take(&mut self.vms);
        let mut news = Vec::new();
        for now in measured {
            let told = before.remove(&now.vm).filter(|told| !whole && !is_other(told, &now.used));
            self.vms.insert(now.vm, told.unwrap_or(now.used));
            if told.is_none() {
                news.push(now);
            }
        }
        let same = |told: HostUse, now: &HostUse| !whole && !is_other_host(&told, now);
        let host = host.filter(|now| self.host.is_none_or(|told| !same(told, now)));
        self.host = host.or(self.host);
        (news, host)
    }
}

/// By more than `least` and than an eighth.
fn differs(told: impl Into<u64>, now: impl Into<u64>, least: u64) -> bool {
    let (told, now) = (told.into(), now.into());
    // To and from nothing is always worth a word, once it is noticeable.
    told.abs_diff(now) > least.max(told.max(now) / 8)
}

fn is_other(told: &ResourceUse, now: &ResourceUse) -> bool {
    differs(told.cpu_millicpus, now.cpu_millicpus, CPU)
        || differs(told.cpu_ready_millicpus, now.cpu_ready_millicpus, CPU)
        || differs(told.cpu_limited_millicpus, now.cpu_limited_millicpus, CPU)
        || differs(told.memory, now.memory, MEMORY)
        || differs(told.memory_active, now.memory_active, MEMORY)
        || differs(told.memory_swapped, now.memory_swapped, MEMORY)
        || differs(told.memory_ballooned, now.memory_ballooned, MEMORY)
        || differs(told.memory_stall_permille, now.memory_stall_permille, PART)
        || is_other_disk(&told.reads, &now.reads)
        || is_other_disk(&told.writes, &now.writes)
}

fn is_other_disk(told: &DiskUse, now: &DiskUse) -> bool {
    // How long an operation now and then takes says nothing.
    let busy = now.per_second >= 2 && differs(told.latency_us, now.latency_us, LATENCY);
    differs(told.per_second, now.per_second, OPERATIONS)
        || differs(told.bytes_per_second, now.bytes_per_second, THROUGHPUT)
        || busy
}

fn is_other_host(told: &HostUse, now: &HostUse) -> bool {
    differs(told.cpu_millicpus, now.cpu_millicpus, 5 * CPU)
        || differs(told.cpu_pressure_permille, now.cpu_pressure_permille, 2 * PART)
        || differs(told.memory, now.memory, 8 * MEMORY)
        || differs(told.memory_pressure_permille, now.memory_pressure_permille, PART)
        || differs(told.memory_stall_permille, now.memory_stall_permille, PART)
        || differs(told.swapped, now.swapped, MEMORY)
        || differs(told.swapped_in_per_second, now.swapped_in_per_second, THROUGHPUT)
        || differs(told.io_pressure_permille, now.io_pressure_permille, 2 * PART)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(vm: VmId, cpu_millicpus: u64) -> VmUse {
        VmUse { vm, used: ResourceUse { cpu_millicpus, ..ResourceUse::default() } }
    }

    #[test]
    fn only_what_has_become_something_else_is_told() {
        let (a, b) = (VmId::generate(), VmId::generate());
        let mut told = Told::default();
        let mut news = |vms, whole| told.news(vms, None, whole).0;
        assert_eq!(news(vec![used(a, 500), used(b, 3)], false).len(), 2, "the first time");
        assert!(news(vec![used(a, 540), used(b, 9)], false).is_empty(), "nothing to speak of");
        // Small steps add up: what counts is what was told.
        assert_eq!(news(vec![used(a, 580), used(b, 15)], false), [used(a, 580)]);
        assert_eq!(news(vec![used(a, 580), used(b, 15)], true).len(), 2, "all of it");
        assert!(news(vec![used(a, 580)], false).is_empty());
        assert_eq!(news(vec![used(a, 580), used(b, 15)], false), [used(b, 15)], "it runs again");
    }

    #[test]
    fn who_listens_anew_hears_what_was_told_last() {
        let vm = VmId::generate();
        let mut told = Told::default();
        let host = |cpu_millicpus| Some(HostUse { cpu_millicpus, ..HostUse::default() });
        assert_eq!(told.news(vec![used(vm, 500)], host(900), false).1, host(900));
        assert_eq!(told.news(vec![used(vm, 510)], host(950), false), (Vec::new(), None));
        assert_eq!(told.all(), (vec![used(vm, 500)], host(900)));
        assert_eq!(told.news(Vec::new(), None, false), (Vec::new(), None));
        assert_eq!(told.all(), (Vec::new(), host(900)));
    }

    #[test]
    fn each_kind_of_shortness_is_told() {
        let none = ResourceUse::default();
        let cases = [
            ResourceUse { cpu_ready_millicpus: 50, ..none },
            ResourceUse { memory_swapped: 64 << 20, ..none },
            ResourceUse { memory_ballooned: 64 << 20, ..none },
            ResourceUse { memory_stall_permille: 50, ..none },
            ResourceUse {
                reads: DiskUse { per_second: 2, bytes_per_second: 0, latency_us: 9000 },
                ..none
            },
        ];
        assert!(
            cases.iter().all(
                |now| is_other(&none, now) && is_other(now, &none) | (now.reads.per_second > 0)
            )
        );
        assert!(is_other_host(
            &HostUse::default(),
            &HostUse { memory_stall_permille: 50, ..HostUse::default() }
        ));
    }
}
