//! What is said of a decision right away, without looking at all hosts again: it stays with the VM.

use hostler_types::{ByteSize, HostId};

use super::{Choosing, Obstacle, Placed, warns};
use crate::cluster::{Bits, Cluster, ClusterVm, HostIndex, SnapshotError, VmIndex};

/// How many hosts can take a VM that is not listed.
///
/// # Errors
/// What makes it one that cannot be placed at all.
pub fn possible(cluster: &mut Cluster, vm: &ClusterVm) -> Result<usize, SnapshotError> {
    let item = cluster.item(vm)?;
    let hosts = cluster.hosts_of_all(&item.classes);
    Ok(hosts.ones().filter(|host| cluster.fits(&item, *host)).count())
}

/// Why a VM got its place, in sentences; `cluster` is as it is with the VM there, `possible` how many
/// hosts could have taken it before.
pub fn told(cluster: &Cluster, vm: &ClusterVm, placed: &Placed, possible: usize) -> Vec<String> {
    let Some(HostIndex(host)) = cluster.host(placed.host) else { return Vec::new() };
    let why = match possible {
        _ if vm.wanted.is_some() => "as asked for".to_owned(),
        1 => "the only host that can take it".to_owned(),
        count => format!("the best of {count} possible hosts"),
    };
    let room = &cluster.room[host as usize];
    let memory = match u64::try_from(room.memory - room.promised_memory) {
        Ok(left) => {
            let all = ByteSize(u64::try_from(room.memory).unwrap_or(0));
            format!("{} of {all} memory stay unpromised", ByteSize(left))
        }
        Err(_) => format!(
            "{} of memory are promised to VMs, more than the {} it has",
            ByteSize(u64::try_from(room.promised_memory).unwrap_or(0)),
            ByteSize(u64::try_from(room.memory).unwrap_or(0)),
        ),
    };
    let mut sentence = format!("host `{}`: {why}; {memory}", cluster.name_of(host));
    let store = placed.datastore.and_then(|id| cluster.stores.iter().find(|own| own.id == id));
    let Some(store) = store else { return vec![sentence] };
    sentence +=
        &format!("; datastore `{}` has {} of {} free", store.name, store.free, store.capacity);
    // Its own disks are counted there already.
    let warning = warns(store, &[]);
    let warning = warning.map(|what| format!("warning: datastore `{}` {what}", store.name));
    std::iter::once(sentence).chain(warning).collect()
}

/// What keeps a VM that is listed from being on a host, as if it were nowhere yet.
pub fn in_the_way(cluster: &mut Cluster, vm: VmIndex, host: HostIndex) -> Vec<Obstacle> {
    let current = cluster.lift(vm.0);
    let item = cluster.vms[vm.0 as usize].item.clone();
    let obstacles = cluster.obstacles(&item, host.0 as usize);
    if let Some(current) = current {
        cluster.put(vm.0, current);
    }
    obstacles
}

/// The best of these hosts for a VM that is listed and may move there: rules and room are looked at as
/// if it were nowhere.
pub fn elsewhere(cluster: &mut Cluster, vm: VmIndex, among: &[HostId]) -> Option<HostId> {
    let current = cluster.lift(vm.0);
    let item = cluster.vms[vm.0 as usize].item.clone();
    let mut hosts = cluster.hosts_of_all(&item.classes);
    let among = among.iter().filter_map(|id| Some(cluster.host(*id)?.0));
    hosts.and(&Bits::of(cluster.hosts(), among));
    let spot = cluster.choose_among(&item, &hosts, Choosing::thorough());
    if let Some(current) = current {
        cluster.put(vm.0, current);
    }
    spot.and_then(|spot| cluster.host_at(HostIndex(spot.host)))
}
