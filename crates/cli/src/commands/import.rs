//! `hostler image import`: from an address, or by uploading a file.
//!
//! An upload is bytes appended to what the server has. Whatever interrupts it, the same command
//! goes on where it stopped: the server says how much it has.

use std::io::SeekFrom;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Args;
use futures::StreamExt as _;
use hostler_api::image::{self, ImagePath, Upload, UploadProgress, UploadQuery};
use hostler_endpoint::{ByteStream, ClientError, NoParams};
use hostler_types::{
    ByteSize, Image, ImageCreate, ImageSource, ImageState, Name, Ref, Sha256, Task,
};
use tokio::io::AsyncSeekExt as _;

use crate::error::{CliError, Exit};
use crate::input::Label;
use crate::progress::Progress;
use crate::session::{Session, once};
use crate::wait::{self, WaitOptions};

/// How often a broken upload is taken up again by itself.
const TRIES: u32 = 5;

/// Import a disk or ISO from a file or an http(s) address
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler image import debian-12 ./debian-12-genericcloud-amd64.qcow2
  hostler image import debian-12 https://cloud.debian.org/images/cloud/bookworm/latest/debian-12-genericcloud-amd64.qcow2 \\
      --sha256 0000000000000000000000000000000000000000000000000000000000000000

qcow2, raw, vmdk, vhdx and ISO are recognised by content. An interrupted import goes on where it
stopped: give the same command again.")]
pub(crate) struct Import {
    /// Name for the image
    #[arg(value_name = "NAME")]
    name: Name,

    /// A file here, or an http(s) address that the host downloads from
    #[arg(value_name = "FILE|URL")]
    source: String,

    /// What it must hash to; checked before the image is used
    #[arg(long, value_name = "HEX")]
    sha256: Option<Sha256>,

    /// Datastore to put it on [default: the one with the most free space]
    #[arg(long, value_name = "DATASTORE")]
    datastore: Option<Ref>,

    /// Label; repeat it for several
    #[arg(long = "label", short = 'l', value_name = "KEY=VALUE")]
    labels: Vec<Label>,

    #[command(flatten)]
    wait: WaitOptions,
}

impl Import {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let task = if self.source.contains("://") {
            self.download(session).await?
        } else {
            self.upload(session).await?
        };
        if !self.wait.waits() {
            return super::task::print_ordered(session, &task);
        }
        wait::task(session, task).await?;
        let image = self.show(session).await?;
        session.output.done("imported", "image", self.name.as_str(), &image)
    }

    fn path(&self) -> ImagePath {
        ImagePath { image: self.name.clone().into() }
    }

    async fn show(&self, session: &Session) -> Result<Image, CliError> {
        session.call::<image::Show>(&self.path(), &NoParams {}, ()).await
    }

    fn request(&self, source: ImageSource) -> ImageCreate {
        ImageCreate {
            name: self.name.clone(),
            labels: self.labels.iter().map(Label::pair).collect(),
            datastore: self.datastore.clone(),
            source,
            sha256: self.sha256.clone(),
        }
    }

    async fn download(&self, session: &Session) -> Result<Task, CliError> {
        let request = self.request(ImageSource::Url(self.source.clone()));
        let call = session.call_with::<image::Create>(&NoParams {}, &NoParams {}, request, once());
        call.await?.task.ok_or_else(|| {
            CliError::new(Exit::Failed, "the server has accepted the image without importing it")
        })
    }

    async fn upload(&self, session: &Session) -> Result<Task, CliError> {
        let file = PathBuf::from(&self.source);
        let size = length(&file)?;
        self.prepare(session, size).await?;
        let mut progress =
            Progress::new(&session.output, session.draws, &format!("uploading {}", self.name));
        let mut interrupts = wait::interrupts()?;
        tokio::select! {
            sent = self.send_all(session, &file, size, &mut progress) => sent?,
            _ = interrupts.recv() => {
                return Err(CliError::new(Exit::Interrupted, "interrupted; the server keeps what it has")
                    .hint("give the same command again to go on, or `hostler image delete` the image"));
            }
        }
        drop(progress);
        session.call_with::<image::Import>(&self.path(), &NoParams {}, (), once()).await
    }

    /// Announces the image, or finds the one that an interrupted upload has left.
    async fn prepare(&self, session: &Session, size: u64) -> Result<(), CliError> {
        let request = self.request(ImageSource::Upload(ByteSize(size)));
        let client = &session.connection.client;
        let call =
            client.call_with::<image::Create>(&NoParams {}, &NoParams {}, request, once()).await;
        let taken = match call {
            Ok(_) => return Ok(()),
            Err(error) if error.problem().is_some_and(|problem| problem.status == 409) => error,
            Err(error) => return Err(error.into()),
        };
        let image = self.show(session).await?;
        let same = image.spec.source == ImageSource::Upload(ByteSize(size))
            && image.spec.sha256 == self.sha256;
        match image.status.state {
            ImageState::Uploading if same => Ok(()),
            ImageState::Uploading => {
                let name = &self.name;
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
    async fn send_all(
        &self,
        session: &Session,
        file: &Path,
        size: u64,
        progress: &mut Progress,
    ) -> Result<(), CliError> {
        let path = self.path();
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
            match self.send(session, file, received, size, progress).await {
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
        file: &Path,
        offset: u64,
        size: u64,
        progress: &mut Progress,
    ) -> Result<(), ClientError> {
        let sent = Arc::new(AtomicU64::new(offset));
        let unreadable =
            |error| ClientError::Request(format!("cannot read {}: {error}", file.display()));
        let stream = read(file, offset, size, Arc::clone(&sent)).await.map_err(unreadable)?;
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

fn length(file: &Path) -> Result<u64, CliError> {
    let failed = |reason: String| {
        CliError::new(Exit::Failed, format!("cannot read {}: {reason}", file.display()))
    };
    let metadata = std::fs::metadata(file).map_err(|error| {
        failed(error.to_string()).hint("an image is a file here, or an http(s) address")
    })?;
    match (metadata.is_file(), metadata.len()) {
        (false, _) => Err(failed("it is not a file".to_owned())),
        (true, 0) => Err(failed("it is empty".to_owned())),
        (true, length) => Ok(length),
    }
}

/// The file's bytes from `offset` to `size`, counted as they are taken.
async fn read(
    file: &Path,
    offset: u64,
    size: u64,
    sent: Arc<AtomicU64>,
) -> std::io::Result<ByteStream> {
    let mut file = tokio::fs::File::open(file).await?;
    file.seek(SeekFrom::Start(offset)).await?;
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
        std::fs::write(&path, b"0123456789grown").unwrap();
        let sent = Arc::new(AtomicU64::new(4));
        let stream = read(&path, 4, 10, Arc::clone(&sent)).await.unwrap();
        let bytes: Vec<bytes::Bytes> = stream.try_collect().await.unwrap();
        assert_eq!(bytes.concat(), b"456789");
        assert_eq!(sent.load(Ordering::Relaxed), 10);
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        assert!(length(directory.path()).is_err());
        let empty = directory.path().join("empty");
        std::fs::write(&empty, b"").unwrap();
        assert!(length(&empty).unwrap_err().to_string().contains("empty"));
        assert!(length(&directory.path().join("gone")).is_err());
    }
}
