//! The SHA-256 of a file, off the async threads.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hostler_types::{ByteSize, Sha256};
use sha2::Digest;
use tokio::sync::mpsc;

const BLOCK: usize = 1 << 20;
/// Bytes between two reports.
const REPORT: u64 = 64 << 20;

/// Reads the file from its start to its end.
///
/// # Cancel safety
/// Dropping the future stops the reading thread at its next block.
pub(super) async fn sha256(file: File, on_progress: impl Fn(ByteSize)) -> io::Result<Sha256> {
    let (sender, mut receiver) = mpsc::channel(4);
    let cancelled = Arc::new(AtomicBool::new(false));
    let _cancel = SetOnDrop(cancelled.clone());
    let reading = tokio::task::spawn_blocking(move || read(&file, &sender, &cancelled));
    while let Some(done) = receiver.recv().await {
        on_progress(done);
    }
    reading.await.map_err(io::Error::other)?
}

fn read(
    file: &File,
    progress: &mpsc::Sender<ByteSize>,
    cancelled: &AtomicBool,
) -> io::Result<Sha256> {
    let mut hasher = sha2::Sha256::new();
    let mut block = vec![0; BLOCK];
    let mut done = 0u64;
    while !cancelled.load(Ordering::Relaxed) {
        match file.read_at(&mut block, done) {
            Ok(0) => break,
            Ok(count) => {
                hasher.update(&block[..count]);
                let before = done / REPORT;
                done += count as u64;
                if done / REPORT != before {
                    // A report that nobody has room for is no loss.
                    let _ = progress.try_send(ByteSize(done));
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Sha256::from_bytes(hasher.finalize().into()))
}

struct SetOnDrop(Arc<AtomicBool>);

impl Drop for SetOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
