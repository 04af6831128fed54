//! The serial console of one running VM.
//!
//! QEMU's serial socket has one client at a time, so the agent is that client for as long as QEMU
//! runs: it keeps a bounded log and passes the bytes on to any number of viewers. A viewer that
//! does not keep up is cut off; nothing a viewer or a guest does makes the agent hold more than a
//! few chunks.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::{Stream, StreamExt};
use hostler_endpoint::{ByteStream, Bytes};
use hostler_host::{Access, write_atomic};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::{broadcast, mpsc};

/// A log of this size becomes `.1`, and a new one begins.
const LOG_LIMIT: u64 = 1 << 20;
/// What a new viewer is shown of the past.
const BACKLOG: usize = 4 << 10;
const CHUNK: usize = 4 << 10;
/// Chunks kept for a viewer that is behind.
const KEPT: usize = 64;
/// Chunks typed by viewers that QEMU has not taken yet.
const TYPED: usize = 64;
/// How long QEMU may refuse to take input before it is thrown away: no guest reads it.
const INPUT: Duration = Duration::from_secs(5);

/// The console of a running VM. Clones are the same console; it ends with QEMU.
#[derive(Debug, Clone)]
pub(crate) struct Console {
    shared: Arc<Mutex<Shared>>,
}

#[derive(Debug)]
struct Shared {
    backlog: Vec<u8>,
    /// `None` once QEMU is gone.
    viewers: Option<broadcast::Sender<Bytes>>,
    /// To the QEMU that has the guest.
    typed: mpsc::Sender<Bytes>,
    /// How often another QEMU has taken the place of the one before.
    successions: u32,
    log: Log,
}

impl Console {
    /// Takes QEMU's serial socket. `log` is the path of the log, in a directory that only root can
    /// write to.
    pub(crate) fn open(socket: UnixStream, log: PathBuf) -> Self {
        let (output, input) = socket.into_split();
        let (viewers, _) = broadcast::channel(KEPT);
        let (typed, queue) = mpsc::channel(TYPED);
        let shared = Shared {
            backlog: Vec::new(),
            viewers: Some(viewers),
            typed,
            successions: 0,
            log: Log::open(log),
        };
        let shared = Arc::new(Mutex::new(shared));
        // Both end by themselves: with the socket, or with the last handle.
        tokio::spawn(read(output, shared.clone(), 0));
        tokio::spawn(write(input, queue));
        Self { shared }
    }

    /// Goes on with the serial socket of a QEMU that has taken the first one's place; nobody who
    /// looks at the console or types into it sees more than that.
    pub(crate) fn go_on(&self, socket: UnixStream) {
        let (output, input) = socket.into_split();
        let (typed, queue) = mpsc::channel(TYPED);
        let successions = {
            let mut shared = lock(&self.shared);
            shared.typed = typed;
            shared.successions += 1;
            shared.successions
        };
        tokio::spawn(read(output, self.shared.clone(), successions));
        tokio::spawn(write(input, queue));
    }

    /// What the console shows: the last lines first, then what comes, until QEMU ends.
    pub(crate) fn view(&self) -> ByteStream {
        let (backlog, follow) = {
            let shared = lock(&self.shared);
            (Bytes::from(shared.backlog.clone()), shared.follow())
        };
        let first = futures::stream::iter((!backlog.is_empty()).then_some(Ok(backlog)));
        first.chain(follow).boxed()
    }

    /// Goes on logging into another file, which begins with what there is. Blocks for a copy of at most
    /// 2 MiB.
    pub(crate) fn move_log(&self, to: PathBuf) {
        let mut shared = lock(&self.shared);
        let from = std::mem::replace(&mut shared.log, Log { path: to, file: None, length: 0 }).path;
        let to = shared.log.path.clone();
        for (from, to) in [(older(&from), older(&to)), (from, to)] {
            // A log is a convenience: what cannot be copied is lost.
            if let Ok(bytes) = read_part(&from)
                && !bytes.is_empty()
                && let Err(error) = write_atomic(&to, &bytes, Access::ROOT_ONLY)
            {
                tracing::warn!(path = %to.display(), %error, "a console's log is not complete");
            }
        }
        shared.log.reopen();
    }

    /// Only what comes from now, and the log's bytes so far: no byte is in both or in neither.
    pub(crate) fn log_and_follow(&self) -> (io::Result<Vec<u8>>, ByteStream) {
        let shared = lock(&self.shared);
        (read_log(&shared.log.path), shared.follow().boxed())
    }

    /// Types what a viewer sends, until it ends or QEMU does.
    pub(crate) async fn type_all(&self, mut input: ByteStream) {
        while let Some(Ok(bytes)) = input.next().await {
            let typed = lock(&self.shared).typed.clone();
            if let Err(unsent) = typed.send(bytes).await {
                // Another QEMU may just have taken the place.
                let typed = lock(&self.shared).typed.clone();
                if typed.send(unsent.0).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// The log: the older part, then the newer. Blocks for a read of at most 2 MiB.
pub(crate) fn read_log(path: &Path) -> io::Result<Vec<u8>> {
    let mut all = read_part(&older(path))?;
    all.extend(read_part(path)?);
    Ok(all)
}

/// One of its two files; nothing if it is not there.
fn read_part(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    match open_no_follow(OpenOptions::new().read(true), path) {
        Ok(file) => {
            let mut file = io::Read::take(file, LOG_LIMIT + CHUNK as u64);
            io::Read::read_to_end(&mut file, &mut bytes)?;
            Ok(bytes)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(bytes),
        Err(error) => Err(error),
    }
}

impl Shared {
    fn follow(&self) -> impl Stream<Item = Result<Bytes, io::Error>> + Send + 'static {
        let receiver = self.viewers.as_ref().map(broadcast::Sender::subscribe);
        futures::stream::unfold(receiver, |receiver| async move {
            let mut receiver = receiver?;
            match receiver.recv().await {
                Ok(bytes) => Some((Ok(bytes), Some(receiver))),
                Err(broadcast::error::RecvError::Lagged(_)) => {
                    Some((Err(io::Error::other("the viewer is too slow")), None))
                }
                Err(broadcast::error::RecvError::Closed) => None,
            }
        })
    }

    fn show(&mut self, bytes: &[u8]) {
        self.log.append(bytes);
        self.backlog.extend_from_slice(bytes);
        let surplus = self.backlog.len().saturating_sub(BACKLOG);
        self.backlog.drain(..surplus);
        if let Some(viewers) = &self.viewers
            && viewers.receiver_count() > 0
        {
            let _ = viewers.send(Bytes::copy_from_slice(bytes));
        }
    }
}

async fn read(mut output: OwnedReadHalf, shared: Arc<Mutex<Shared>>, succession: u32) {
    let mut chunk = vec![0; CHUNK];
    // Writing to the log blocks for the time of a copy into the page cache.
    while let Ok(length @ 1..) = output.read(&mut chunk).await {
        lock(&shared).show(&chunk[..length]);
    }
    let mut shared = lock(&shared);
    if shared.successions == succession {
        shared.viewers = None;
    }
}

async fn write(mut input: OwnedWriteHalf, mut queue: mpsc::Receiver<Bytes>) {
    while let Some(bytes) = queue.recv().await {
        match tokio::time::timeout(INPUT, input.write_all(&bytes)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return,
            Err(_) => tracing::debug!("the guest does not read its console; input is dropped"),
        }
    }
}

/// The log on disk. What cannot be written is lost: a full disk must not stop a guest's console.
#[derive(Debug)]
struct Log {
    path: PathBuf,
    file: Option<File>,
    length: u64,
}

impl Log {
    fn open(path: PathBuf) -> Self {
        let mut log = Self { path, file: None, length: 0 };
        log.reopen();
        log
    }

    fn append(&mut self, bytes: &[u8]) {
        if self.length >= LOG_LIMIT {
            self.file = None;
            let _ = std::fs::rename(&self.path, older(&self.path));
            self.reopen();
        }
        if let Some(file) = &mut self.file
            && file.write_all(bytes).is_ok()
        {
            self.length += bytes.len() as u64;
        }
    }

    fn reopen(&mut self) {
        let mut options = OpenOptions::new();
        self.file = open_no_follow(options.append(true).create(true).mode(0o600), &self.path).ok();
        self.length =
            self.file.as_ref().and_then(|file| file.metadata().ok()).map_or(0, |m| m.len());
    }
}

fn open_no_follow(options: &mut OpenOptions, path: &Path) -> io::Result<File> {
    options.custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed()).open(path)
}

fn older(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    PathBuf::from(name)
}

fn lock(shared: &Mutex<Shared>) -> std::sync::MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn next(view: &mut ByteStream) -> Option<Bytes> {
        tokio::time::timeout(Duration::from_secs(5), view.next()).await.unwrap().map(Result::unwrap)
    }

    #[tokio::test]
    async fn viewers_see_the_past_and_what_comes_and_may_type() {
        let dir = tempfile::tempdir().unwrap();
        let log = dir.path().join("console.log");
        let (mut guest, socket) = UnixStream::pair().unwrap();
        let console = Console::open(socket, log.clone());
        let mut early = console.view();
        guest.write_all(b"login: ").await.unwrap();
        assert_eq!(next(&mut early).await.unwrap(), "login: ");
        let mut late = console.view();
        assert_eq!(next(&mut late).await.unwrap(), "login: ");
        let typed: ByteStream = futures::stream::iter([Ok(Bytes::from("root\n"))]).boxed();
        console.type_all(typed).await;
        let mut buffer = [0; 5];
        guest.read_exact(&mut buffer).await.unwrap();
        assert_eq!(&buffer, b"root\n");
        drop(guest);
        assert_eq!(next(&mut early).await, None);
        assert_eq!(next(&mut late).await, None);
        assert_eq!(read_log(&log).unwrap(), b"login: ");
    }

    #[tokio::test]
    async fn a_slow_viewer_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        let (_guest, socket) = UnixStream::pair().unwrap();
        let console = Console::open(socket, dir.path().join("console.log"));
        let mut view = console.view();
        for _ in 0..=KEPT {
            lock(&console.shared).show(b"x");
        }
        let first = view.next().await.unwrap();
        assert!(first.is_err(), "{first:?}");
        assert!(view.next().await.is_none());
    }

    #[test]
    fn the_log_is_bounded_and_never_follows_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("console.log");
        let mut log = Log::open(path.clone());
        let chunk = vec![b'x'; 64 << 10];
        for _ in 0..50 {
            log.append(&chunk);
        }
        let length = read_log(&path).unwrap().len() as u64;
        assert!((LOG_LIMIT..=2 * LOG_LIMIT).contains(&length), "{length}");

        let (target, link) = (dir.path().join("target"), dir.path().join("link"));
        std::fs::write(&target, "").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        Log::open(link.clone()).append(b"x");
        assert_eq!(std::fs::read(&target).unwrap(), b"");
        assert!(read_log(&link).is_err());
    }
}
