//! Whether moves that were planned before may begin now.

use super::Wanted;
use crate::cluster::{Cluster, HostIndex, VmIndex};
use crate::placement::Obstacle;

/// What keeps VMs, all on one host, from going to another together, while other VMs are on their way
/// (`moving`, to where they go): those may be at either end when it is done, so it must be allowed
/// whichever they are. Empty: nothing. The cluster is left as it was.
pub fn may_begin(
    cluster: &mut Cluster,
    vms: &[VmIndex],
    to: HostIndex,
    moving: &[Wanted],
) -> Vec<Obstacle> {
    let mut found = obstacles(cluster, vms, to);
    // What leaves the host takes its room until it has left; everything else has arrived.
    let mut back = Vec::new();
    for Wanted { vm, host } in moving {
        let from = cluster.vms[vm.0 as usize].host;
        if vms.contains(vm) || from == Some(to.0) {
            continue;
        }
        let Some(from) = cluster.lift(vm.0) else { continue };
        cluster.put(vm.0, host.0);
        back.push((vm.0, from));
    }
    if !back.is_empty() && found.is_empty() {
        found = obstacles(cluster, vms, to);
    }
    for (vm, from) in back {
        cluster.lift(vm);
        cluster.put(vm, from);
    }
    found
}

/// As if they were nowhere yet.
fn obstacles(cluster: &mut Cluster, vms: &[VmIndex], to: HostIndex) -> Vec<Obstacle> {
    let mut lifted = Vec::new();
    for vm in vms {
        if let Some(from) = cluster.lift(vm.0) {
            lifted.push((vm.0, from));
        }
    }
    let items = vms.iter().map(|vm| cluster.vms[vm.0 as usize].item.clone());
    let all = items.reduce(|mut all, item| {
        all.merge(&item, &cluster.rules);
        all
    });
    let found = all.map(|item| cluster.obstacles(&item, to.0 as usize)).unwrap_or_default();
    for (vm, from) in lifted {
        cluster.put(vm, from);
    }
    found
}
