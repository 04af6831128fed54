//! Sending an image's bytes to the server.
//!
//! An upload is bytes appended to what the server has. Whatever interrupts it, the same command
//! goes on where it stopped: the server says how much it has.

use std::io::SeekFrom;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt as _;
use hostler_api::image::{self, ImagePath, Upload, UploadProgress, UploadQuery};
use hostler_endpoint::{ByteStream, ClientError, NoParams};
use hostler_types::{ImageCreate, ImageState, Task};
use tokio::io::AsyncSeekExt as _;

use crate::error::{CliError, Exit};
use crate::progress::Progress;
use crate::session::{Session, once};
use crate::wait;

/// How often a broken upload is taken up again by itself.
const TRIES: u32 = 5;

/// An image to be made of a part of a file.
#[derive(Debug)]
pub(super) struct Sending {
    pub(super) request: ImageCreate,
    pub(super) file: PathBuf,
    /// Where the image begins in the file.
    pub(super) start: u64,
    /// Bytes of the image.
    pub(super) size: u64,
}

impl Sending {
    /// Sends all of it and orders the import.
    pub(super) async fn run(&self, session: &Session) -> Result<Task, CliError> {
        self.prepare(session).await?;
        let title = format!("uploading {}", self.request.name);
        let mut progress = Progress::new(&session.output, session.draws, &title);
        let mut interrupts = wait::interrupts()?;
        tokio::select! {
            sent = self.send_all(session, &mut progress) => sent?,
            _ = interrupts.recv() => {
                return Err(CliError::new(Exit::Interrupted, "interrupted; the server keeps what it has")
                    .hint("give the same command again to go on, or `hostler image delete` the image"));
            }
        }
        drop(progress);
        session.call_with::<image::Import>(&self.path(), &NoParams {}, (), once()).await
    }

    fn path(&self) -> ImagePath {
        ImagePath { image: self.request.name.clone().into() }
    }

    /// Announces the image, or finds the one that an interrupted upload has left.
    async fn prepare(&self, session: &Session) -> Result<(), CliError> {
        let client = &session.connection.client;
        let request = self.request.clone();
        let call =
            client.call_with::<image::Create>(&NoParams {}, &NoParams {}, request, once()).await;
        let taken = match call {
            Ok(_) => return Ok(()),
            Err(error) if error.problem().is_some_and(|problem| problem.status == 409) => error,
            Err(error) => return Err(error.into()),
        };
        let image = session.call::<image::Show>(&self.path(), &NoParams {}, ()).await?;
        let same =
            image.spec.source == self.request.source && image.spec.sha256 == self.request.sha256;
        match image.status.state {
            ImageState::Uploading if same => Ok(()),
            ImageState::Uploading => {
                let name = &self.request.name;
                Err(CliError::new(
                    Exit::Conflict,
                    format!("another file is being uploaded as image {name}"),
                )
                .hint(format!("upload that one again, or `hostler image delete {name}` first")))
            }
            ImageState::Importing | ImageState::Ready | ImageState::Failed => Err(taken.into()),
        }
    }

    /// Sends what the server has not got, again and again until it has all.
    async fn send_all(&self, session: &Session, progress: &mut Progress) -> Result<(), CliError> {
        let (path, file, size) = (self.path(), &self.file, self.size);
        let mut tries = 0;
        let mut before = None;
        loop {
            let client = &session.connection.client;
            let status = match client.call::<UploadProgress>(&path, &NoParams {}, ()).await {
                Err(error) if wait::is_passing(&error) && (1..TRIES).contains(&tries) => {
                    tries += 1;
                    pause(tries).await;
                    continue;
                }
                status => status?,
            };
            let received = status.received.bytes();
            if received >= size {
                return Ok(());
            }
            if tries == 0 && before == Some(received) {
                let message = format!("{} became shorter during the upload", file.display());
                return Err(CliError::new(Exit::Failed, message));
            }
            if before.is_none() && received > 0 {
                progress
                    .say(&format!("going on after the {} that the server has", status.received));
            }
            before = Some(received);
            match self.send(session, received, progress).await {
                Ok(()) => tries = 0,
                Err(error) if wait::is_passing(&error) && tries < TRIES => {
                    tries += 1;
                    progress.say(&format!("{error}; trying again"));
                    pause(tries).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn send(
        &self,
        session: &Session,
        offset: u64,
        progress: &mut Progress,
    ) -> Result<(), ClientError> {
        let (file, size) = (&self.file, self.size);
        let sent = Arc::new(AtomicU64::new(offset));
        let unreadable =
            |error| ClientError::Request(format!("cannot read {}: {error}", file.display()));
        let stream =
            read(file, self.start, offset, size, Arc::clone(&sent)).await.map_err(unreadable)?;
        let (path, query) = (self.path(), UploadQuery { offset });
        let call = session.connection.client.call::<Upload>(&path, &query, stream);
        tokio::pin!(call);
        let mut tick = tokio::time::interval(Duration::from_millis(200));
        loop {
            tokio::select! {
                done = &mut call => {
                    progress.bytes(sent.load(Ordering::Relaxed), size);
                    return done.map(drop);
                }
                _ = tick.tick() => progress.bytes(sent.load(Ordering::Relaxed), size),
            }
        }
    }
}

/// Longer each time: 2 s to 16 s.
async fn pause(tries: u32) {
    tokio::time::sleep(Duration::from_secs(1 << tries.min(4))).await;
}

/// The bytes from `offset` to `size`, counted from `start` in the file, and as they are taken.
async fn read(
    file: &Path,
    start: u64,
    offset: u64,
    size: u64,
    sent: Arc<AtomicU64>,
) -> std::io::Result<ByteStream> {
    let mut file = tokio::fs::File::open(file).await?;
    file.seek(SeekFrom::Start(start + offset)).await?;
    // No more than was announced, should the file grow.
    let file = tokio::io::AsyncReadExt::take(file, size - offset);
    let chunks = tokio_util::io::ReaderStream::with_capacity(file, 256 << 10);
    Ok(Box::pin(chunks.inspect(move |chunk| {
        if let Ok(chunk) = chunk {
            sent.fetch_add(u64::try_from(chunk.len()).unwrap_or(0), Ordering::Relaxed);
        }
    })))
}

#[cfg(test)]
mod tests {
    use futures::TryStreamExt as _;

    use super::*;

    #[tokio::test]
    async fn a_file_is_read_from_where_it_stopped() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("disk.raw");
        std::fs::write(&path, b"tar:0123456789grown").unwrap();
        let sent = Arc::new(AtomicU64::new(4));
        let stream = read(&path, 4, 4, 10, Arc::clone(&sent)).await.unwrap();
        let bytes: Vec<bytes::Bytes> = stream.try_collect().await.unwrap();
        assert_eq!(bytes.concat(), b"456789");
        assert_eq!(sent.load(Ordering::Relaxed), 10);
    }
}
