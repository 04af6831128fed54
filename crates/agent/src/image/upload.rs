//! Appends what a client sends to an image's `.part` file.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use futures::StreamExt;
use hostler_endpoint::ByteStream;
use hostler_host::Datastore;
use hostler_types::{ByteSize, ImageId};
use tokio::io::AsyncWriteExt;

use super::RESERVE;
use crate::blocking::blocking;
use crate::fault::Fault;

/// How long the sender may be silent.
const SILENCE: Duration = Duration::from_secs(60);
/// How often the free space is looked at, in bytes written.
const LOOK_AT_SPACE: u64 = 32 << 20;

/// Bytes of a `.part` file; 0 when there is none. Blocks.
pub(super) fn length(part: &Path) -> Result<ByteSize, Fault> {
    match std::fs::symlink_metadata(part) {
        Ok(metadata) => Ok(ByteSize(metadata.len())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(ByteSize(0)),
        Err(error) => Err(Fault::internal("look at a part", &error)),
    }
}

/// Appends a stream at `offset`, which must be the file's length. What has arrived when the stream
/// breaks is kept: the sender goes on there.
pub(super) async fn append(
    datastore: &Datastore,
    image: ImageId,
    offset: u64,
    mut body: ByteStream,
) -> Result<ByteSize, Fault> {
    let part = datastore.image_part(image);
    let file = blocking(move || open(&part, offset)).await?;
    let mut writer = PartWriter::new(datastore.clone(), file, offset);
    let result = loop {
        match tokio::time::timeout(SILENCE, body.next()).await {
            Ok(Some(Ok(bytes))) => writer.write(&bytes).await?,
            Ok(None) => break Ok(()),
            Ok(Some(Err(_))) => break Err(Fault::Invalid("the upload broke off".to_owned())),
            Err(_) => break Err(Fault::Timeout { what: "the upload".to_owned(), after: SILENCE }),
        }
    };
    let length = writer.finish().await?;
    result.map(|()| length)
}

/// Opens a `.part` file for appending at its end, which must be `offset`. Blocks.
pub(super) fn open(part: &Path, offset: u64) -> Result<File, Fault> {
    let failed = |error: io::Error| write_failed(&error);
    let flags = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(flags)
        .open(part)
        .map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    if length != offset {
        return Err(Fault::WrongState(format!(
            "{length} bytes of the image have arrived; go on there, not at {offset}"
        )));
    }
    Ok(file)
}

/// Writes a `.part` file and leaves room on its datastore.
pub(super) struct PartWriter {
    datastore: Datastore,
    file: tokio::fs::File,
    length: u64,
    look_at: u64,
}

impl PartWriter {
    pub(super) fn new(datastore: Datastore, file: File, length: u64) -> Self {
        let mut file = tokio::fs::File::from_std(file);
        file.set_max_buf_size(256 << 10);
        Self { datastore, file, length, look_at: length }
    }

    pub(super) fn length(&self) -> u64 {
        self.length
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        if self.length >= self.look_at {
            leave_room(&self.datastore, 0).await?;
            self.look_at = self.length + LOOK_AT_SPACE;
        }
        self.file.write_all(bytes).await.map_err(|error| write_failed(&error))?;
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Puts what has been written on the disk; the file's length.
    pub(super) async fn finish(mut self) -> Result<ByteSize, Fault> {
        self.file.flush().await.map_err(|error| write_failed(&error))?;
        self.file.sync_all().await.map_err(|error| write_failed(&error))?;
        Ok(ByteSize(self.length))
    }
}

/// Refuses when `more` bytes would not leave the datastore its reserve.
pub(super) async fn leave_room(datastore: &Datastore, more: u64) -> Result<(), Fault> {
    let datastore = datastore.clone();
    blocking(move || {
        let space = datastore.space()?;
        // A small datastore keeps a part of itself instead.
        let reserve = RESERVE.bytes().min(space.capacity.bytes() / 50);
        if space.free.bytes() < more.saturating_add(reserve) {
            let free = space.free;
            return Err(Fault::NoSpace(format!(
                "datastore {} has {free} free, of which {} stay for running guests: too little for the image",
                datastore.id(),
                ByteSize(reserve)
            )));
        }
        Ok(())
    })
    .await
}

fn write_failed(error: &io::Error) -> Fault {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Fault::NoSpace("the datastore became full while the image arrived".to_owned())
        }
        _ => Fault::internal("write a part", error),
    }
}
