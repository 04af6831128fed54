//! The other end of a socket pair, which says what a test tells it to.

use std::{
    io::IoSliceMut,
    mem::MaybeUninit,
    os::fd::{AsFd, OwnedFd},
    time::Duration,
};

use hostler_qmp::{Events, Options, Qmp, QmpError};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, Interest},
    net::UnixStream,
    task::JoinHandle,
};

pub(crate) const GREETING: &str = r#"{"QMP":{"version":{"qemu":{"micro":2,"minor":0,"major":10},"package":"x"},"capabilities":["oob"]}}"#;

pub(crate) struct Peer {
    pub(crate) stream: UnixStream,
    /// Bytes that are no whole line yet.
    rest: Vec<u8>,
    /// What came with the last bytes read.
    pub(crate) fds: Vec<OwnedFd>,
}

impl Peer {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self { stream, rest: Vec::new(), fds: Vec::new() }
    }

    pub(crate) async fn say(&mut self, line: &str) {
        self.write(format!("{line}\r\n").as_bytes()).await;
    }

    /// Writes, unless the other side has closed already.
    pub(crate) async fn write(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes).await;
    }

    /// The next line as JSON, without the guest agent's sentinel.
    pub(crate) async fn hear(&mut self) -> Value {
        loop {
            if let Some(end) = self.rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                let start = line.iter().rposition(|byte| *byte == 0xff).map_or(0, |at| at + 1);
                return serde_json::from_slice(&line[start..]).unwrap();
            }
            let count = self.stream.read_buf(&mut self.rest).await.unwrap();
            assert!(count > 0, "the client closed the connection");
        }
    }

    /// As [`Peer::hear`], for one command, with its descriptors.
    pub(crate) async fn hear_with_fds(&mut self) -> Value {
        let mut bytes = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let stream = &self.stream;
        let received = stream
            .async_io(Interest::READABLE, || {
                let bytes = &mut [IoSliceMut::new(&mut bytes)];
                let flags = RecvFlags::CMSG_CLOEXEC;
                Ok(rustix::net::recvmsg(stream.as_fd(), bytes, &mut control, flags)?)
            })
            .await
            .unwrap();
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.fds = fds.collect();
            }
        }
        self.rest.extend(&bytes[..received.bytes]);
        self.hear().await
    }

    /// Hears a command of this name and returns its id.
    pub(crate) async fn hear_command(&mut self, name: &str) -> u64 {
        let command = self.hear().await;
        assert_eq!(command["execute"], name);
        command["id"].as_u64().unwrap()
    }

    /// Hears a command of this name and answers it.
    pub(crate) async fn answer(&mut self, name: &str, value: &str) {
        let id = self.hear_command(name).await;
        self.say(&format!(r#"{{"return":{value},"id":{id}}}"#)).await;
    }

    /// Waits for the client to close.
    pub(crate) async fn until_closed(mut self) {
        let mut bytes = [0; 4096];
        while !matches!(self.stream.read(&mut bytes).await, Ok(0) | Err(_)) {}
    }
}

/// Limits small enough for tests.
pub(crate) fn options() -> Options {
    Options {
        greeting_timeout: Duration::from_secs(2),
        command_timeout: Duration::from_secs(2),
        max_line: 64 << 10,
        max_event: 4 << 10,
        event_queue: 4,
    }
}

/// A connected client whose peer goes on as the test says.
pub(crate) async fn connected<F>(script: impl FnOnce(Peer) -> F) -> (Qmp, Events, JoinHandle<()>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let (result, task) = connecting(
        options(),
        async |peer| {
            peer.say(GREETING).await;
            peer.answer("qmp_capabilities", "{}").await;
        },
        script,
    )
    .await;
    let (qmp, events) = result.unwrap();
    (qmp, events, task)
}

/// A client that tries to connect to a peer with this handshake.
pub(crate) async fn connecting<F>(
    options: Options,
    handshake: impl AsyncFnOnce(&mut Peer),
    script: impl FnOnce(Peer) -> F,
) -> (Result<(Qmp, Events), QmpError>, JoinHandle<()>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut peer = Peer::new(theirs);
    let (result, ()) = tokio::join!(Qmp::connect(ours, options), handshake(&mut peer));
    (result, tokio::spawn(script(peer)))
}
