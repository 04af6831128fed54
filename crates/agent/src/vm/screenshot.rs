//! A picture of a guest's screen.

use futures::StreamExt;
use hostler_endpoint::{ByteStream, Bytes};
use hostler_types::VmId;

use super::registry::Vms;
use crate::fault::{Fault, chain};

impl Vms {
    /// A PNG; made in memory, so that nothing of it is left anywhere.
    pub(crate) async fn screenshot(&self, vm: VmId) -> Result<ByteStream, Fault> {
        let live = self.live(vm, "a picture of its screen")?;
        let picture = hostler_qemu::screenshot(&live.qmp).await;
        let picture = picture.map_err(|error| Fault::Qemu(chain(&error)))?;
        Ok(futures::stream::once(async { Ok(Bytes::from(picture)) }).boxed())
    }
}
