//! The qcow2 header: written for new disks, read before QEMU opens an image from outside.
//!
//! An empty qcow2 is four clusters: header, refcount table, one refcount block and the (zero) L1
//! table. Writing it here rather than with `qemu-img create` takes a tenth of the time; a test
//! holds the two against each other. Reading stays at the header: everything that makes an image
//! dangerous (files it refers to, encryption, absurd sizes) is told there.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

const MAGIC: u32 = 0x5146_49fb;
const CLUSTER_BITS: u32 = 16;
const CLUSTER: u64 = 1 << CLUSTER_BITS;
/// Bytes of disk that one L1 entry stands for: a cluster full of 8-byte entries, a cluster each.
const PER_L1_ENTRY: u64 = CLUSTER / 8 * CLUSTER;
const V2_HEADER: usize = 72;
const V3_HEADER: usize = 104;
const BACKING_FORMAT: u32 = 0xe279_2aca;
const EXTERNAL_DATA_FILE: u32 = 0x4441_5441;
/// The longest name that QEMU takes.
const MAX_BACKING_NAME: u32 = 1023;

/// What the header of a qcow2 file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) version: u32,
    /// The name of the backing file, if there is one.
    pub(crate) backing: Option<String>,
    pub(crate) cluster_bits: u32,
    pub(crate) virtual_size: u64,
    pub(crate) encryption: u32,
    /// Entries.
    pub(crate) l1_size: u32,
    pub(crate) l1_offset: u64,
    pub(crate) refcount_table_offset: u64,
    pub(crate) refcount_table_clusters: u32,
    pub(crate) snapshots: u32,
    pub(crate) incompatible: u64,
    /// The name in a header extension, whether or not the feature bit is set.
    pub(crate) data_file: Option<String>,
}

/// A header that cannot be one.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HeaderError {
    #[error("it is not qcow2")]
    Magic,
    #[error("its header is cut short")]
    Truncated,
    #[error("it has the unknown qcow2 version {0}")]
    Version(u32),
    #[error("its header has impossible values: {0}")]
    Impossible(&'static str),
    #[error("it cannot be read")]
    Io(#[from] io::Error),
}

impl Header {
    pub(crate) const DIRTY: u64 = 1 << 0;
    pub(crate) const CORRUPT: u64 = 1 << 1;
    pub(crate) const DATA_FILE: u64 = 1 << 2;
    pub(crate) const COMPRESSION_TYPE: u64 = 1 << 3;
    pub(crate) const EXTENDED_L2: u64 = 1 << 4;

    /// Reads the header; at most the first cluster's first 64 KiB are looked at.
    pub(crate) fn read(file: &File) -> Result<Self, HeaderError> {
        let mut bytes = vec![0; usize::try_from(CLUSTER).map_err(|_| HeaderError::Truncated)?];
        let length = read_up_to(file, &mut bytes)?;
        bytes.truncate(length);
        Self::parse(&bytes)
    }

    fn parse(bytes: &[u8]) -> Result<Self, HeaderError> {
        let u32_at = |at: usize| be_u32(bytes, at).ok_or(HeaderError::Truncated);
        let u64_at = |at: usize| be_u64(bytes, at).ok_or(HeaderError::Truncated);
        if u32_at(0)? != MAGIC {
            return Err(HeaderError::Magic);
        }
        let version = u32_at(4)?;
        let (incompatible, header_length) = match version {
            2 => (0, V2_HEADER),
            3 => (u64_at(72)?, u32_at(100)? as usize),
            other => return Err(HeaderError::Version(other)),
        };
        if version == 3 && !(V3_HEADER..=4096).contains(&header_length) {
            return Err(HeaderError::Impossible("the length of the header"));
        }
        let cluster_bits = u32_at(20)?;
        if !(9..=21).contains(&cluster_bits) {
            return Err(HeaderError::Impossible("the cluster size"));
        }
        Ok(Self {
            version,
            backing: backing_name(bytes, u64_at(8)?, u32_at(16)?)?,
            cluster_bits,
            virtual_size: u64_at(24)?,
            encryption: u32_at(32)?,
            l1_size: u32_at(36)?,
            l1_offset: u64_at(40)?,
            refcount_table_offset: u64_at(48)?,
            refcount_table_clusters: u32_at(56)?,
            snapshots: u32_at(60)?,
            incompatible,
            data_file: data_file_extension(bytes, header_length)?,
        })
    }

    /// L1 entries that a disk of this size needs.
    pub(crate) fn l1_entries_needed(&self) -> u64 {
        // Extended L2 entries are twice as long.
        let entry_bits = if self.incompatible & Self::EXTENDED_L2 == 0 { 3 } else { 4 };
        let per_entry_bits = 2 * self.cluster_bits - entry_bits;
        self.virtual_size.div_ceil(1 << per_entry_bits)
    }
}

fn backing_name(bytes: &[u8], offset: u64, length: u32) -> Result<Option<String>, HeaderError> {
    if offset == 0 {
        return Ok(None);
    }
    // An offset alone makes QEMU look for a backing file, so an empty name counts too.
    let impossible = HeaderError::Impossible("the name of its backing file");
    if length > MAX_BACKING_NAME {
        return Err(impossible);
    }
    let name = usize::try_from(offset)
        .ok()
        .and_then(|start| bytes.get(start..start.checked_add(length as usize)?))
        .ok_or(impossible)?;
    Ok(Some(String::from_utf8_lossy(name).into_owned()))
}

fn data_file_extension(bytes: &[u8], mut at: usize) -> Result<Option<String>, HeaderError> {
    // Version 2 has no extensions of its own, but QEMU reads them there too.
    while let (Some(kind), Some(length)) = (be_u32(bytes, at), be_u32(bytes, at + 4)) {
        if kind == 0 {
            return Ok(None);
        }
        let start = at + 8;
        let data = start
            .checked_add(length as usize)
            .and_then(|end| bytes.get(start..end))
            .ok_or(HeaderError::Impossible("a header extension"))?;
        if kind == EXTERNAL_DATA_FILE {
            return Ok(Some(String::from_utf8_lossy(data).into_owned()));
        }
        at = start + (length as usize).next_multiple_of(8);
    }
    Ok(None)
}

/// The bytes of a new, empty qcow2 (version 3, clusters of 64 KiB), and the length its file has:
/// all beyond the bytes is zero.
///
/// `backing` is the name of another qcow2 whose content shows where nothing was written.
pub(crate) fn empty(virtual_size: u64, backing: Option<&str>) -> (Vec<u8>, u64) {
    let l1_entries = virtual_size.div_ceil(PER_L1_ENTRY);
    let l1_clusters = (l1_entries * 8).div_ceil(CLUSTER);
    let clusters = 3 + l1_clusters;

    let mut header = Vec::with_capacity(512);
    let put32 = |header: &mut Vec<u8>, value: u32| header.extend(value.to_be_bytes());
    let put64 = |header: &mut Vec<u8>, value: u64| header.extend(value.to_be_bytes());
    let extension_length = if backing.is_some() { 16 + 8 } else { 8 };
    let backing_offset = (V3_HEADER + extension_length) as u64;
    put32(&mut header, MAGIC);
    put32(&mut header, 3);
    put64(&mut header, if backing.is_some() { backing_offset } else { 0 });
    put32(&mut header, small(backing.map_or(0, str::len) as u64));
    put32(&mut header, CLUSTER_BITS);
    put64(&mut header, virtual_size);
    put32(&mut header, 0); // encryption
    put32(&mut header, small(l1_entries));
    put64(&mut header, 3 * CLUSTER);
    put64(&mut header, CLUSTER); // refcount table
    put32(&mut header, 1); // its clusters
    put32(&mut header, 0); // snapshots
    put64(&mut header, 0);
    put64(&mut header, 0); // incompatible features
    put64(&mut header, 0); // compatible features
    put64(&mut header, 0); // autoclear features
    put32(&mut header, 4); // refcounts of 16 bits
    put32(&mut header, small(V3_HEADER as u64));
    if let Some(name) = backing {
        put32(&mut header, BACKING_FORMAT);
        put32(&mut header, 5);
        header.extend(b"qcow2\0\0\0");
        put64(&mut header, 0); // end of extensions
        header.extend(name.as_bytes());
    } else {
        put64(&mut header, 0);
    }

    let offset = |cluster: u64| usize::try_from(cluster * CLUSTER).unwrap_or(usize::MAX);
    let mut bytes = header;
    bytes.resize(offset(1), 0);
    bytes.extend((2 * CLUSTER).to_be_bytes());
    bytes.resize(offset(2), 0);
    for _ in 0..clusters {
        bytes.extend(1u16.to_be_bytes());
    }
    (bytes, clusters * CLUSTER)
}

/// Values that are bounded by the 64 TiB a disk may have.
fn small(value: u64) -> u32 {
    u32::try_from(value).expect("disks are at most 64 TiB, so their tables' sizes fit")
}

fn be_u32(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_be_bytes)
}

fn be_u64(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..at.checked_add(8)?)?.try_into().ok().map(u64::from_be_bytes)
}

/// Fills `buffer` from the start of the file, as far as the file goes.
pub(crate) fn read_up_to(file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match file.read_at(&mut buffer[length..], length as u64) {
            Ok(0) => break,
            Ok(count) => length += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for (size, backing) in
            [(1 << 20, None), ((64 << 40) - 512, Some("../../images/x.qcow2")), (512, Some("b"))]
        {
            let (bytes, length) = empty(size, backing);
            assert!(bytes.len() as u64 <= length);
            let header = Header::parse(&bytes).unwrap();
            assert_eq!(header.virtual_size, size);
            assert_eq!(header.backing.as_deref(), backing);
            assert_eq!(u64::from(header.l1_size), header.l1_entries_needed());
            assert_eq!((header.data_file, header.encryption), (None, 0));
        }
    }

    #[test]
    fn damaged_headers_are_refused() {
        let (good, _) = empty(1 << 30, Some("base"));
        let check = |at: usize, value: &[u8]| {
            let mut bytes = good.clone();
            bytes[at..at + value.len()].copy_from_slice(value);
            assert!(Header::parse(&bytes).is_err(), "{at}");
        };
        check(0, b"QFI\xfa");
        check(4, &9u32.to_be_bytes());
        check(8, &u64::MAX.to_be_bytes());
        check(8, &(1u64 << 40).to_be_bytes());
        check(16, &1024u32.to_be_bytes());
        check(20, &40u32.to_be_bytes());
        check(100, &u32::MAX.to_be_bytes());
        check(108, &u32::MAX.to_be_bytes());
        for length in 0..V3_HEADER {
            assert!(Header::parse(&good[..length]).is_err(), "{length}");
        }
    }

    #[test]
    fn any_bytes_are_parsed_without_panic() {
        use proptest::prelude::*;
        proptest!(|(at in 0usize..200, junk in proptest::collection::vec(any::<u8>(), 0..64))| {
            let (mut bytes, _) = empty(1 << 30, Some("base"));
            bytes[at..at + junk.len()].copy_from_slice(&junk);
            let _ = Header::parse(&bytes).map(|header| header.l1_entries_needed());
        });
    }
}
