//! What every VM's actor needs of its host.

use std::path::PathBuf;
use std::sync::Arc;

use hostler_host::{Cgroups, QemuImg};
use hostler_types::{HostId, VmId};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::cancel::Cancels;
use crate::datastores::Datastores;
use crate::events::Hub;
use crate::facts::FactsSource;
use crate::networks::Networks;
use crate::peers::Peers;
use crate::seats::Seats;
use crate::vm::Records;

#[derive(Debug)]
pub(crate) struct HostContext {
    pub(crate) id: HostId,
    pub(crate) hub: Hub,
    pub(crate) datastores: Datastores,
    pub(crate) networks: Networks,
    pub(crate) cgroups: Cgroups,
    pub(crate) qemu_img: QemuImg,
    pub(crate) records: Records,
    pub(crate) facts: FactsSource,
    pub(crate) cancels: Cancels,
    /// Where guests go.
    pub(crate) peers: Peers,
    /// Where guests of other hosts are awaited.
    pub(crate) seats: Seats,
    /// As many instant clones take their identity at once as there are processors.
    pub(crate) identities: Arc<Semaphore>,
    /// Where the appliance's kernel and initramfs are.
    pub(crate) appliance: PathBuf,
    /// Below it, one directory per VM.
    pub(crate) runtime: PathBuf,
    /// The agent is ending; guests run on.
    pub(crate) stop: CancellationToken,
}

impl HostContext {
    /// Where QEMU's sockets and log of a VM are.
    pub(crate) fn vm_runtime(&self, vm: VmId) -> PathBuf {
        self.runtime.join(vm.to_string())
    }
}
