//! Which host has which VM, as the hosts themselves say. The inventory may not know: its store may
//! have been restored from a backup that is older than the VM.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::StreamExt as _;
use hostler_agent_api::{AgentEvent, VmReport};
use hostler_types::{Datastore, HostId, HostKind, Name, Ref, VmId, is_vm_file};

use crate::error::{Class, ServiceError};
use crate::world::Core;

/// For each host to say what it has.
const PATIENCE: Duration = Duration::from_secs(10);

/// The VMs that hosts have.
#[derive(Debug, Default)]
pub(crate) struct Owners(BTreeMap<VmId, (HostId, Name, VmReport)>);

impl Owners {
    /// As the hosts have last told. For looking, not for acting.
    pub(crate) fn last_told(core: &Core) -> Self {
        let snapshot = core.snapshot();
        let told = core.reports.all().into_iter().filter_map(|(host, report)| {
            let name = snapshot.get::<HostKind>(host)?.name().clone();
            Some((report.vm, (host, name, report)))
        });
        Self(told.collect())
    }

    /// As all hosts that have the datastore say now.
    ///
    /// # Errors
    /// `host_disconnected`, naming the host that does not say: nobody knows what it has.
    pub(crate) async fn asked(core: &Core, datastore: &Datastore) -> Result<Self, ServiceError> {
        let mut owners = Self::last_told(core);
        for host in datastore.spec.all_hosts() {
            let (name, reports) = asked(core, datastore, host).await?;
            owners.0.retain(|_, (before, ..)| *before != host);
            let reports = reports.into_iter();
            owners.0.extend(reports.map(|report| (report.vm, (host, name.clone(), report))));
        }
        Ok(owners)
    }

    /// The host that has a VM.
    pub(crate) fn host_of(&self, vm: VmId) -> Option<&Name> {
        self.0.get(&vm).map(|(_, name, _)| name)
    }

    /// Whether another host than this one has a VM.
    pub(crate) fn has_elsewhere(&self, vm: VmId, host: HostId) -> bool {
        self.0.get(&vm).is_some_and(|(owner, ..)| *owner != host)
    }

    /// Whether a file in a VM's directory is one of those that its host says it has.
    pub(super) fn has_file(&self, vm: VmId, path: &str) -> bool {
        let Some((_, _, report)) = self.0.get(&vm) else { return false };
        let name = path.rsplit('/').next().unwrap_or_default();
        let now = report.disks.iter().flat_map(|disk| &disk.layers).map(|layer| &layer.file);
        let snapshots = report.snapshots.snapshots.iter().flat_map(|snapshot| &snapshot.disks);
        is_vm_file(name, &report.snapshots)
            || now.chain(snapshots.flat_map(|disk| &disk.layers)).any(|file| file.as_str() == path)
    }
}

/// The other hosts that have a VM, of those that have its datastore, and of those that have said so.
///
/// # Errors
/// `host_disconnected`, naming the host that does not say.
pub(crate) async fn others_with(
    core: &Core,
    datastore: &Datastore,
    host: HostId,
    vm: VmId,
) -> Result<Vec<(Name, VmReport)>, ServiceError> {
    let mut others = Vec::new();
    for other in datastore.spec.all_hosts().filter(|other| *other != host) {
        let (name, reports) = asked(core, datastore, other).await?;
        others.extend(reports.into_iter().find(|report| report.vm == vm).map(|told| (name, told)));
    }
    let snapshot = core.snapshot();
    let told = core.reports.all().into_iter().filter(|(other, report)| {
        report.vm == vm && *other != host && !datastore.spec.is_on(*other)
    });
    let named = |(other, report)| Some((snapshot.get::<HostKind>(other)?.name().clone(), report));
    others.extend(told.filter_map(named));
    Ok(others)
}

/// What a host of a datastore has.
async fn asked(
    core: &Core,
    datastore: &Datastore,
    host: HostId,
) -> Result<(Name, Vec<VmReport>), ServiceError> {
    let name = core.snapshot().find::<HostKind>(&Ref::by_id(host))?.name().clone();
    let reports = inventory_of(core, host).await.map_err(|reason| {
        let message = format!(
            "host `{name}` has datastore `{}` too, and does not say which VMs it has there: {reason}",
            datastore.name()
        );
        ServiceError::new(Class::Unavailable, "host_disconnected", message).hint(
            "start its agent; if it is gone for good, take it off the datastore with \
             `hostler datastore set --remove-host`",
        )
    })?;
    Ok((name, reports))
}

/// All VMs that a host has, or why it does not say so.
pub(crate) async fn inventory_of(core: &Core, host: HostId) -> Result<Vec<VmReport>, String> {
    let link = core.link(host).map_err(|error| error.message)?;
    let first = async {
        let mut events = link.events().await.map_err(|error| error.to_string())?;
        let item = events.next().await.ok_or("its event stream ended")?;
        match item.map_err(|problem| problem.to_string())?.data {
            AgentEvent::Inventory(inventory) => Ok(inventory.vms),
            _ => Err("its events do not begin with its inventory".to_owned()),
        }
    };
    let late = |_| Err(format!("no answer within {} s", PATIENCE.as_secs()));
    tokio::time::timeout(PATIENCE, first).await.unwrap_or_else(late)
}
