//! The tar archive of an export, put together while it is sent.

use std::io::Read;
use std::path::{Path, PathBuf};

use futures::{StreamExt, TryStreamExt};
use hostler_endpoint::{ByteStream, Bytes};
use hostler_types::ExportManifest;
use tokio::io::AsyncReadExt;
use tokio_util::io::ReaderStream;

use crate::fault::Fault;

/// Of which an archive is a multiple.
const BLOCK: u64 = 512;
const CHUNK: usize = 256 << 10;

enum Part {
    Bytes(Vec<u8>),
    /// A file's first bytes.
    File(PathBuf, u64),
}

/// The archive of the export in a directory. Blocks for the manifest only.
pub(super) fn stream(export: &Path) -> Result<ByteStream, Fault> {
    let missing = |_| Fault::WrongState("there is no finished export of this VM".to_owned());
    let file = std::fs::File::open(export.join(ExportManifest::FILE)).map_err(missing)?;
    let mut bytes = Vec::new();
    file.take(ExportManifest::MAX_BYTES).read_to_end(&mut bytes).map_err(missing)?;
    let manifest: ExportManifest = serde_json::from_slice(&bytes)
        .map_err(|error| Fault::internal("the manifest of an export", &error))?;
    let seconds = u64::try_from(manifest.at.as_second()).unwrap_or(0);
    let mut parts = Vec::new();
    let length = bytes.len() as u64;
    parts.push(Part::Bytes(header(ExportManifest::FILE, length, seconds)?));
    parts.push(Part::Bytes(bytes));
    parts.push(padding(length));
    for disk in &manifest.disks {
        let length = disk.file.bytes();
        parts.push(Part::Bytes(header(&ExportManifest::disk_file(&disk.name), length, seconds)?));
        parts.push(Part::File(export.join(format!("{}.qcow2", disk.name)), length));
        parts.push(padding(length));
    }
    // The end of an archive.
    parts.push(Part::Bytes(vec![0; 1024]));
    Ok(futures::stream::iter(parts).flat_map(content).boxed())
}

fn header(name: &str, length: u64, seconds: u64) -> Result<Vec<u8>, Fault> {
    let mut header = tar::Header::new_gnu();
    header.set_path(name).map_err(|error| Fault::internal("an archive", &error))?;
    header.set_entry_type(tar::EntryType::Regular);
    header.set_size(length);
    header.set_mode(0o600);
    header.set_mtime(seconds);
    header.set_cksum();
    Ok(header.as_bytes().to_vec())
}

fn padding(length: u64) -> Part {
    let rest = (BLOCK - length % BLOCK) % BLOCK;
    Part::Bytes(vec![0; usize::try_from(rest).unwrap_or(0)])
}

fn content(part: Part) -> ByteStream {
    match part {
        Part::Bytes(bytes) => {
            let piece = (!bytes.is_empty()).then(|| Ok(Bytes::from(bytes)));
            futures::stream::iter(piece).boxed()
        }
        Part::File(path, length) => {
            let open = async move {
                let file = tokio::fs::File::open(path).await?;
                std::io::Result::Ok(ReaderStream::with_capacity(file.take(length), CHUNK))
            };
            futures::stream::once(open).try_flatten().boxed()
        }
    }
}
