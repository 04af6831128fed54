//! QEMUs that wait for a guest of another host, and who may send it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use hostler_pki::{Identity, IdentityError};
use hostler_types::{Epoch, HostId, VmId};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsStream;

use crate::peers::Stream;

/// One QEMU's end of the stream, for the one host that may fill it.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) from: HostId,
    pub(crate) epoch: Epoch,
    pub(crate) stream: UnixStream,
}

/// All that are free. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seats {
    free: Arc<Mutex<HashMap<VmId, Seat>>>,
    /// Held by a connection that only measures.
    measuring: Arc<tokio::sync::Mutex<()>>,
}

impl Seats {
    pub(crate) fn put(&self, vm: VmId, seat: Seat) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).insert(vm, seat);
    }

    pub(crate) fn remove(&self, vm: VmId) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).remove(&vm);
    }

    /// Serves a connection for a guest, whose peer the handshake has proved.
    pub(crate) async fn serve(
        &self,
        tls: TlsStream<TcpStream>,
        peer: &Result<Identity, IdentityError>,
    ) -> Result<(), String> {
        let Ok(Identity::Host(from)) = peer else {
            return Err("who sends a guest is not a host".to_owned());
        };
        let text = |error: std::io::Error| format!("a guest's stream: {error}");
        let (mut stream, guest) = Stream::accept(tls).await.map_err(text)?;
        let Some((vm, epoch)) = guest else {
            // One at once: more would measure each other, and keep this host busy.
            let Ok(_alone) = self.measuring.try_lock() else {
                return stream.answer("another host is just measuring").await.map_err(text);
            };
            stream.answer("ok").await.map_err(text)?;
            return stream.swallow().await.map_err(text);
        };
        let Some(qemu) = self.take(vm, *from, epoch) else {
            stream
                .answer("nothing is prepared here for this VM from this host")
                .await
                .map_err(text)?;
            return Err(format!("the host {from} sends the VM {vm}, which is not expected"));
        };
        stream.answer("ok").await.map_err(text)?;
        stream.carry(qemu).await.map_err(text)
    }

    fn take(&self, vm: VmId, from: HostId, epoch: Epoch) -> Option<UnixStream> {
        let mut seats = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let fits = seats.get(&vm).is_some_and(|seat| seat.from == from && seat.epoch == epoch);
        if fits { seats.remove(&vm).map(|seat| seat.stream) } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_seat_is_for_one_host_and_one_epoch_and_once() {
        let (seats, vm, from) = (Seats::default(), VmId::generate(), HostId::generate());
        let (stream, _theirs) = UnixStream::pair().unwrap();
        seats.put(vm, Seat { from, epoch: Epoch(2), stream });
        assert!(seats.take(vm, HostId::generate(), Epoch(2)).is_none());
        assert!(seats.take(vm, from, Epoch(1)).is_none());
        assert!(seats.take(VmId::generate(), from, Epoch(2)).is_none());
        assert!(seats.take(vm, from, Epoch(2)).is_some());
        assert!(seats.take(vm, from, Epoch(2)).is_none(), "it is taken");
    }
}
