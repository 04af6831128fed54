//! What a file is, by its content.
//!
//! A raw disk has no signature of its own, so it must show what disks have: a partition table, a
//! file system or a volume label. Whatever reads as two things at once is refused, because the
//! next program might take it for the other.

use std::fs::File;
use std::path::Path;

use hostler_types::ImageFormat;

use super::error::{ImportError, IoContext, Refusal};
use crate::qcow2::read_up_to;

/// Enough for the first descriptors of an ISO and the superblock of btrfs.
const LOOKED_AT: usize = 0x1_1000;

/// Kinds of files that are known and not taken.
const OTHERS: [(usize, &[u8], &str, &str); 13] = [
    (0, b"\x1f\x8b", "compressed with gzip", UNPACK),
    (0, b"\xfd7zXZ\0", "compressed with xz", UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd", UNPACK),
    (0, b"BZh", "compressed with bzip2", UNPACK),
    (0, b"PK\x03\x04", "a ZIP archive", UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", UNPACK),
    (257, b"ustar", "a tar archive, such as an OVA", "unpack it and import the disk in it"),
    (0, b"LUKS\xba\xbe", "an encrypted LUKS volume", "decrypt it and import the result"),
    (0, b"QED\0", "a QED image", CONVERT),
    (0, b"COWD", "an old VMDK", CONVERT),
    (0, b"conectix", "a VHD image", CONVERT),
    (64, b"\x7f\x10\xda\xbe", "a VDI image", CONVERT),
    (0, b"\x7fELF", "a program", "choose a disk image"),
];
const UNPACK: &str = "unpack it and import what is in it";
const CONVERT: &str = "convert it with `qemu-img convert -O qcow2`";

/// Offsets and signatures of what lies on raw disks. A boot sector also starts FAT and NTFS.
const DISK_SIGNATURES: [(usize, &[u8]); 8] = [
    (510, b"\x55\xaa"),
    (512, b"EFI PART"),
    (4096, b"EFI PART"),
    (1080, b"\x53\xef"),
    (0, b"XFSB"),
    (0x1_0040, b"_BHRfS_M"),
    (512, b"LABELONE"),
    (4086, b"SWAPSPACE2"),
];

/// Finds the format.
///
/// # Errors
/// [`Refusal`] for everything that is not a disk or an ISO.
pub(super) fn recognise(file: &File, path: &Path) -> Result<ImageFormat, ImportError> {
    let mut bytes = vec![0; LOOKED_AT];
    let length = read_up_to(file, &mut bytes).doing("read", path)?;
    Ok(by_content(&bytes[..length])?)
}

fn by_content(bytes: &[u8]) -> Result<ImageFormat, Refusal> {
    let has = |at: usize, signature: &[u8]| {
        bytes.get(at..at + signature.len()).is_some_and(|found| found == signature)
    };
    if bytes.is_empty() {
        return Err(Refusal::Empty);
    }
    let iso = has(0x8001, b"CD001");
    let container = if has(0, b"QFI\xfb") {
        Some((ImageFormat::Qcow2, "qcow2"))
    } else if has(0, b"KDMV") {
        Some((ImageFormat::Vmdk, "VMDK"))
    } else if has(0, b"vhdxfile") {
        Some((ImageFormat::Vhdx, "VHDX"))
    } else {
        None
    };
    let other = OTHERS.iter().find(|(at, signature, ..)| has(*at, signature));
    match (container, iso, other) {
        (Some((_, first)), true, _) => Err(Refusal::Ambiguous { first, second: "ISO 9660" }),
        (Some((_, first)), _, Some((_, _, second, _))) => Err(Refusal::Ambiguous { first, second }),
        (None, true, Some((_, _, second, _))) => {
            Err(Refusal::Ambiguous { first: "ISO 9660", second })
        }
        (Some((format, _)), false, None) => Ok(format),
        (None, true, None) => Ok(ImageFormat::Iso),
        (None, false, Some((_, _, what, way_out))) => Err(Refusal::OtherFormat { what, way_out }),
        (None, false, None) => without_signature(bytes, has),
    }
}

fn without_signature(
    bytes: &[u8],
    has: impl Fn(usize, &[u8]) -> bool,
) -> Result<ImageFormat, Refusal> {
    if is_vmdk_descriptor(bytes) {
        let what = "the descriptor of a VMDK, whose data is in other files";
        return Err(Refusal::OtherFormat { what, way_out: CONVERT });
    }
    if is_text(bytes) {
        return Err(Refusal::Text);
    }
    let is_disk = DISK_SIGNATURES.iter().any(|(at, signature)| has(*at, signature));
    if is_disk { Ok(ImageFormat::Raw) } else { Err(Refusal::Unknown) }
}

/// As QEMU does: comments and empty lines, then a version.
fn is_vmdk_descriptor(bytes: &[u8]) -> bool {
    let start = &bytes[..bytes.len().min(4096)];
    String::from_utf8_lossy(start)
        .lines()
        .map(str::trim_start)
        .find(|line| !line.is_empty() && !line.starts_with('#'))
        .is_some_and(|line| line.starts_with("version="))
}

fn is_text(bytes: &[u8]) -> bool {
    let start = &bytes[..bytes.len().min(512)];
    let printable =
        |byte: &u8| *byte >= 0x20 || matches!(byte, b'\n' | b'\r' | b'\t' | 0x1b | 0x0c);
    start.iter().all(printable)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(pieces: &[(usize, &[u8])]) -> Vec<u8> {
        let end = pieces.iter().map(|(at, piece)| at + piece.len()).max().unwrap_or(0);
        let mut bytes = vec![0; end];
        for (at, piece) in pieces {
            bytes[*at..at + piece.len()].copy_from_slice(piece);
        }
        bytes
    }

    #[test]
    fn content_tells_the_format() {
        let check = |pieces: &[(usize, &[u8])], expected| {
            assert_eq!(by_content(&at(pieces)), Ok(expected), "{pieces:?}");
        };
        check(&[(0, b"QFI\xfb\0\0\0\x03")], ImageFormat::Qcow2);
        check(&[(0, b"KDMV")], ImageFormat::Vmdk);
        check(&[(0, b"vhdxfile")], ImageFormat::Vhdx);
        check(&[(0x8001, b"CD001")], ImageFormat::Iso);
        check(&[(0x8001, b"CD001"), (510, b"\x55\xaa")], ImageFormat::Iso);
        check(&[(510, b"\x55\xaa")], ImageFormat::Raw);
        check(&[(1080, b"\x53\xef")], ImageFormat::Raw);
    }

    #[test]
    fn what_is_no_image_is_named() {
        let check = |pieces: &[(usize, &[u8])], expected: &str| {
            let text = by_content(&at(pieces)).unwrap_err().to_string();
            assert!(text.contains(expected), "{text}");
        };
        check(&[], "empty");
        check(&[(0, b"<!DOCTYPE html>\n<title>404</title>")], "error page");
        check(
            &[(0, b"# Disk DescriptorFile\nversion=1\nRW 1 FLAT \"/etc/shadow\" 0")],
            "descriptor",
        );
        check(&[(0, b"\n# x\n  version=2")], "descriptor");
        check(&[(0, b"\x1f\x8b\x08")], "gzip");
        check(&[(257, b"ustar"), (510, b"\x55\xaa")], "OVA");
        check(&[(0, b"LUKS\xba\xbe")], "LUKS");
        check(&[(64, b"\x7f\x10\xda\xbe")], "VDI");
        check(&[(0, b"\xff\xd8\xff\xe0JFIF"), (5000, b"x")], "no known kind");
        check(&[(0, &[0; 4096])], "no known kind");
    }

    #[test]
    fn polyglots_are_refused() {
        let check = |pieces: &[(usize, &[u8])]| {
            let refusal = by_content(&at(pieces)).unwrap_err();
            assert!(matches!(refusal, Refusal::Ambiguous { .. }), "{refusal}");
        };
        check(&[(0, b"QFI\xfb"), (0x8001, b"CD001")]);
        check(&[(0, b"KDMV"), (257, b"ustar")]);
        check(&[(257, b"ustar"), (0x8001, b"CD001")]);
    }

    #[test]
    fn any_bytes_get_an_answer() {
        use proptest::prelude::*;
        proptest!(|(bytes in proptest::collection::vec(any::<u8>(), 0..2000))| {
            let _ = by_content(&bytes);
        });
    }
}
