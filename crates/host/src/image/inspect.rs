//! What a header says, before any other program sees the file; and what QEMU says afterwards.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use hostler_types::{ByteSize, ImageFormat};

use super::MAX_VIRTUAL_SIZE;
use super::error::{ImportError, IoContext, Refusal};
use crate::qcow2::{Header, HeaderError};
use crate::qemu_img::ImageInfo;

/// The largest tables that QEMU reads.
const MAX_L1_BYTES: u64 = 32 << 20;
const MAX_REFCOUNT_TABLE: u64 = 8 << 20;
/// A descriptor with one extent has a few hundred bytes.
const MAX_DESCRIPTOR: u64 = 64 << 10;
const SECTOR: u64 = 512;

/// Looks at the header of a recognised file. Returns the disk's size, where the header tells it.
///
/// # Errors
/// [`Refusal`] of whatever refers to other files, is encrypted, absurdly large or contradictory.
pub(super) fn inspect(
    file: &File,
    path: &Path,
    format: ImageFormat,
) -> Result<Option<ByteSize>, ImportError> {
    let length = file.metadata().doing("look at", path)?.len();
    let size = match format {
        ImageFormat::Qcow2 => Some(qcow2(file, path, length)?),
        ImageFormat::Vmdk => Some(vmdk(file, length)?),
        ImageFormat::Iso => {
            iso(file, length)?;
            None
        }
        // QEMU itself refuses a VHDX with a parent, and raw has no header.
        ImageFormat::Vhdx | ImageFormat::Raw => None,
    };
    if let Some(size) = size {
        check_size(size)?;
    }
    Ok(size)
}

/// Holds what QEMU found against what an image may be.
pub(super) fn check_info(info: &ImageInfo, image: &Path) -> Result<(), Refusal> {
    let backing = info.backing_filename.as_ref().or(info.full_backing_filename.as_ref());
    if let Some(name) = backing {
        return Err(Refusal::BackingFile(name.clone()));
    }
    let own = |name: &str| Path::new(name) == image;
    if let Some(child) = info.children.iter().find(|child| {
        child.name != "file" || child.info.format != "file" || !own(&child.info.filename)
    }) {
        return Err(Refusal::DataFile(child.info.filename.clone()));
    }
    if let Some(specific) = &info.format_specific {
        if let Some(name) = &specific.data.data_file {
            return Err(Refusal::DataFile(name.clone()));
        }
        if let Some(extent) = specific.data.extents.iter().find(|extent| !own(&extent.filename)) {
            return Err(Refusal::DataFile(extent.filename.clone()));
        }
        if specific.data.corrupt {
            return Err(Refusal::Damaged("it is marked as corrupt".to_owned()));
        }
    }
    if info.encrypted {
        return Err(Refusal::Encrypted);
    }
    check_size(ByteSize(info.virtual_size))
}

fn check_size(size: ByteSize) -> Result<(), Refusal> {
    match size {
        ByteSize(0) => Err(Refusal::NoSize),
        size if size > MAX_VIRTUAL_SIZE => Err(Refusal::TooLarge { size }),
        _ => Ok(()),
    }
}

fn qcow2(file: &File, path: &Path, length: u64) -> Result<ByteSize, ImportError> {
    let header = match Header::read(file) {
        Ok(header) => header,
        Err(HeaderError::Io(source)) => return Err(source).doing("read", path),
        Err(error) => return Err(Refusal::Damaged(error.to_string()).into()),
    };
    Ok(check_qcow2(header, length)?)
}

fn check_qcow2(header: Header, length: u64) -> Result<ByteSize, Refusal> {
    if let Some(name) = header.backing {
        return Err(Refusal::BackingFile(name));
    }
    if header.incompatible & Header::DATA_FILE != 0 || header.data_file.is_some() {
        return Err(Refusal::DataFile(header.data_file.unwrap_or_default()));
    }
    if header.encryption != 0 {
        return Err(Refusal::Encrypted);
    }
    if header.incompatible & (Header::DIRTY | Header::CORRUPT) != 0 {
        let reason = "it was not closed properly; repair it with `qemu-img check -r all`";
        return Err(Refusal::Damaged(reason.to_owned()));
    }
    let known = Header::COMPRESSION_TYPE | Header::EXTENDED_L2;
    if header.incompatible & !known != 0 {
        return Err(Refusal::UnknownFeatures(header.incompatible & !known));
    }
    check_size(ByteSize(header.virtual_size))?;
    let l1_bytes = u64::from(header.l1_size) * 8;
    if l1_bytes > MAX_L1_BYTES || u64::from(header.l1_size) < header.l1_entries_needed() {
        return Err(Refusal::Damaged("its L1 table has an impossible size".to_owned()));
    }
    let refcount_bytes = u64::from(header.refcount_table_clusters) << header.cluster_bits;
    if refcount_bytes > MAX_REFCOUNT_TABLE || refcount_bytes == 0 {
        return Err(Refusal::Damaged("its refcount table has an impossible size".to_owned()));
    }
    within(header.l1_offset, l1_bytes, length)?;
    within(header.refcount_table_offset, refcount_bytes, length)?;
    Ok(ByteSize(header.virtual_size))
}

/// A table must lie in the file.
fn within(offset: u64, bytes: u64, length: u64) -> Result<(), Refusal> {
    let end = offset.saturating_add(bytes);
    if end > length {
        return Err(Refusal::Truncated { expected: ByteSize(end), found: ByteSize(length) });
    }
    Ok(())
}

/// A sparse VMDK: one file that holds its own data. (One without capacity would be a descriptor
/// in disguise, which names other files.)
fn vmdk(file: &File, length: u64) -> Result<ByteSize, Refusal> {
    let mut header = [0u8; 512];
    let short = || Refusal::Truncated { expected: ByteSize(SECTOR), found: ByteSize(length) };
    file.read_exact_at(&mut header, 0).map_err(|_| short())?;
    let word = |at: usize| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&header[at..at + 8]);
        u64::from_le_bytes(bytes)
    };
    let (capacity, descriptor, sectors) = (word(12), word(28), word(36));
    if capacity == 0 {
        return Err(Refusal::DataFile("(named in its descriptor)".to_owned()));
    }
    let size =
        capacity.checked_mul(SECTOR).ok_or(Refusal::TooLarge { size: ByteSize(u64::MAX) })?;
    if descriptor != 0 {
        let offset = descriptor.saturating_mul(SECTOR);
        let bytes = sectors.checked_mul(SECTOR).filter(|bytes| *bytes <= MAX_DESCRIPTOR);
        let bytes =
            bytes.ok_or_else(|| Refusal::Damaged("its descriptor is too long".to_owned()))?;
        within(offset, bytes, length)?;
        let mut text = vec![0; usize::try_from(bytes).map_err(|_| short())?];
        file.read_exact_at(&mut text, offset).map_err(|_| short())?;
        vmdk_descriptor(&String::from_utf8_lossy(&text))?;
    }
    Ok(ByteSize(size))
}

fn vmdk_descriptor(text: &str) -> Result<(), Refusal> {
    let mut extents = 0;
    for line in text.trim_end_matches('\0').lines().map(str::trim) {
        if let Some((key, value)) = line.split_once('=') {
            let value = value.trim().trim_matches('"');
            match key.trim() {
                "createType" if !["monolithicSparse", "streamOptimized"].contains(&value) => {
                    return Err(Refusal::DataFile(format!("(a VMDK of type {value})")));
                }
                "parentCID" if !value.eq_ignore_ascii_case("ffffffff") => {
                    return Err(Refusal::BackingFile(format!("(with the content id {value})")));
                }
                "parentFileNameHint" => return Err(Refusal::BackingFile(value.to_owned())),
                _ => {}
            }
        }
        let mut words = line.split_whitespace();
        if !matches!(words.next(), Some("RW" | "RDONLY" | "NOACCESS")) {
            continue;
        }
        extents += 1;
        let kind = words.nth(1).unwrap_or_default();
        if kind != "SPARSE" || extents > 1 {
            let name = line.split('"').nth(1).unwrap_or_default();
            return Err(Refusal::DataFile(name.to_owned()));
        }
    }
    Ok(())
}

/// The primary volume descriptor says how long the file system is.
fn iso(file: &File, length: u64) -> Result<(), Refusal> {
    let mut descriptor = [0u8; 2048];
    if file.read_exact_at(&mut descriptor, 0x8000).is_err() {
        return Err(Refusal::Truncated { expected: ByteSize(0x8800), found: ByteSize(length) });
    }
    let blocks =
        u32::from_le_bytes([descriptor[80], descriptor[81], descriptor[82], descriptor[83]]);
    let block_size = u16::from_le_bytes([descriptor[128], descriptor[129]]);
    // Type 1 is the primary one; others may come first and tell nothing.
    if descriptor[0] == 1 {
        within(0, u64::from(blocks) * u64::from(block_size), length)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            version: 3,
            backing: None,
            cluster_bits: 16,
            virtual_size: 1 << 30,
            encryption: 0,
            l1_size: 2,
            l1_offset: 3 << 16,
            refcount_table_offset: 1 << 16,
            refcount_table_clusters: 1,
            snapshots: 0,
            incompatible: 0,
            data_file: None,
        }
    }

    fn check(change: impl FnOnce(&mut Header), expected: &str) {
        let mut header = header();
        change(&mut header);
        let refusal = check_qcow2(header, 4 << 16).unwrap_err().to_string();
        assert!(refusal.contains(expected), "{refusal}");
    }

    #[test]
    fn qcow2_headers_are_judged() {
        assert_eq!(check_qcow2(header(), 4 << 16), Ok(ByteSize::gib(1)));
        check(|h| h.backing = Some("/etc/shadow".into()), "/etc/shadow");
        check(|h| h.backing = Some("json:{\"driver\":\"nbd\"}".into()), "backing file `json:");
        check(|h| h.backing = Some("nbd:169.254.169.254:80".into()), "nbd:169");
        check(|h| h.backing = Some(String::new()), "backing file");
        check(|h| h.data_file = Some("/dev/sda".into()), "/dev/sda");
        check(|h| h.incompatible = Header::DATA_FILE, "another file");
        check(|h| h.incompatible = Header::CORRUPT, "check -r all");
        check(|h| h.incompatible = 1 << 40, "features");
        check(|h| h.encryption = 2, "encrypted");
        check(|h| h.virtual_size = 8 << 60, "more than the 64TiB");
        check(|h| h.virtual_size = 0, "no size");
        check(|h| h.l1_size = u32::MAX, "L1 table");
        check(|h| h.l1_size = 1, "L1 table");
        check(|h| h.l1_offset = u64::MAX - 4, "cut short");
        check(|h| h.refcount_table_clusters = u32::MAX, "refcount");
        check(|h| h.refcount_table_offset = 1 << 40, "cut short");
    }

    #[test]
    fn vmdk_descriptors_name_no_other_file() {
        let good = "# Disk DescriptorFile\nversion=1\nCID=6acc50f8\nparentCID=ffffffff\n\
                    createType=\"streamOptimized\"\nRW 20480 SPARSE \"disk.vmdk\"\n\0\0\0";
        assert_eq!(vmdk_descriptor(good), Ok(()));
        for (from, to, expected) in [
            ("ffffffff", "12a787f2", "12a787f2"),
            ("CID=6", "parentFileNameHint=\"/etc/shadow\"\nCID=6", "/etc/shadow"),
            ("streamOptimized", "monolithicFlat", "monolithicFlat"),
            ("SPARSE \"disk.vmdk\"", "FLAT \"/etc/shadow\" 0", "/etc/shadow"),
            ("RW 20480", "RW 1 SPARSE \"x\"\nRW 20480", "disk.vmdk"),
        ] {
            let text = vmdk_descriptor(&good.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(text.contains(expected), "{text}");
        }
    }

    #[test]
    fn any_descriptor_gets_an_answer() {
        use proptest::prelude::*;
        proptest!(|(text in "[A-Za-z0-9 \"=\n\0]{0,200}", junk in ".{0,80}")| {
            let _ = vmdk_descriptor(&text);
            let _ = vmdk_descriptor(&format!("RW 1 {junk}\nparentCID={junk}"));
        });
    }
}
