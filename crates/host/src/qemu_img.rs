//! `qemu-img`, for what is too much to do here: converting, checking and growing.
//!
//! Formats are always told, never guessed, and file names are absolute, so that QEMU takes them for
//! files and not for one of its protocols (`nbd:`, `json:`). Images from outside are opened in a
//! sandbox, as a user that owns nothing else.

use std::ffi::OsString;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hostler_types::{ByteSize, ImageFormat};
use serde::Deserialize;

use crate::process::{ProcessError, Run, Sandbox};
use crate::uid::{IMAGE_GID, IMPORT_UID, VmUid};

/// How long `qemu-img` may look at, or change, a header.
const QUICK: Duration = Duration::from_secs(30);
/// Enough for the tables of the largest disk; a disk's data is not held in memory.
const MEMORY: u64 = 2 << 30;

/// The `qemu-img` program.
#[derive(Debug, Clone)]
pub struct QemuImg {
    program: PathBuf,
}

/// `qemu-img` could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum QemuImgError {
    #[error("{} is not an absolute path", .0.display())]
    RelativePath(PathBuf),
    #[error(transparent)]
    Process(#[from] ProcessError),
    #[error("the merged disk could not be flushed")]
    Flush(#[source] std::io::Error),
    #[error("qemu-img answered something that is not understood")]
    Answer(#[from] serde_json::Error),
}

/// The part of `qemu-img info` that matters here.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct ImageInfo {
    pub virtual_size: u64,
    /// Bytes on the file system.
    #[serde(default)]
    pub actual_size: u64,
    #[serde(default)]
    pub backing_filename: Option<String>,
    #[serde(default)]
    pub full_backing_filename: Option<String>,
    #[serde(default)]
    pub encrypted: bool,
    #[serde(default)]
    pub children: Vec<ImageChild>,
    #[serde(default)]
    pub format_specific: Option<FormatSpecific>,
}

/// A node below the format, usually only the file itself.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ImageChild {
    pub name: String,
    pub info: ChildInfo,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct ChildInfo {
    pub filename: String,
    pub format: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct FormatSpecific {
    #[serde(default)]
    pub data: FormatData,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct FormatData {
    #[serde(default)]
    pub data_file: Option<String>,
    #[serde(default)]
    pub corrupt: bool,
    #[serde(default)]
    pub extents: Vec<Extent>,
}

/// A part of a vmdk.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Extent {
    pub filename: String,
}

/// What a check found. Leaks waste room and are harmless.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CheckReport {
    #[serde(default)]
    pub corruptions: u64,
    #[serde(default)]
    pub check_errors: u64,
    #[serde(default)]
    pub leaks: u64,
}

impl Default for QemuImg {
    fn default() -> Self {
        Self::new()
    }
}

impl QemuImg {
    /// The program on the path.
    pub fn new() -> Self {
        Self { program: PathBuf::from("qemu-img") }
    }

    pub fn at(program: impl Into<PathBuf>) -> Self {
        Self { program: program.into() }
    }

    /// Makes a qcow2 whose whole size is on the file system: reserved, or written with zeros. A
    /// file that is there is replaced.
    ///
    /// # Errors
    /// There is no room, or it cannot be written.
    pub async fn create_whole(
        &self,
        disk: &Path,
        size: ByteSize,
        zeroed: bool,
    ) -> Result<(), QemuImgError> {
        /// At the slowest storage we accept, 20 MB/s.
        const SLOWEST: u64 = 20_000_000;
        let mode = if zeroed { "preallocation=full" } else { "preallocation=falloc" };
        let arguments = ["create", "-q", "-f", "qcow2", "-o", mode, "--"].map(OsString::from);
        let tail = [absolute(disk)?, size.bytes().to_string().into()];
        let limit = QUICK + Duration::from_secs(size.bytes() / SLOWEST);
        let run = Run::new(&self.program, arguments.into_iter().chain(tail), limit);
        run.output().await?;
        Ok(())
    }

    /// Grows a disk of ours. Shrinking is refused by QEMU.
    ///
    /// # Errors
    /// The file is no qcow2, is in use, or cannot be written.
    pub async fn resize(&self, disk: &Path, size: ByteSize) -> Result<(), QemuImgError> {
        let arguments = ["resize", "-q", "-f", "qcow2", "--"].map(OsString::from);
        let tail = [absolute(disk)?, size.bytes().to_string().into()];
        let run = Run::new(&self.program, arguments.into_iter().chain(tail), QUICK);
        run.output().await?;
        Ok(())
    }

    /// What QEMU finds in an image of the given format. The file must be readable by
    /// [`IMPORT_UID`].
    ///
    /// # Errors
    /// It is not of that format, is damaged, or takes too long.
    pub async fn info(&self, image: &Path, format: ImageFormat) -> Result<ImageInfo, QemuImgError> {
        let arguments = ["info", "--output=json", "-U", "-f", format.driver(), "--"];
        let output = self.confined(&arguments, &[image], sandbox(20, 0), QUICK)?.output().await?;
        Ok(serde_json::from_slice(&output)?)
    }

    /// Walks the tables of a qcow2 or vmdk. The file must be readable by [`IMPORT_UID`].
    ///
    /// # Errors
    /// It cannot be walked. What the walk found is the answer.
    pub async fn check(
        &self,
        image: &Path,
        format: ImageFormat,
    ) -> Result<CheckReport, QemuImgError> {
        let arguments = ["check", "--output=json", "-U", "-f", format.driver(), "--"];
        let limit = Duration::from_secs(600);
        let mut run = self.confined(&arguments, &[image], sandbox(300, 0), limit)?;
        // 2: corruptions, 3: leaks. Both are told in the report as well.
        run.success = &[0, 2, 3];
        Ok(serde_json::from_slice(&run.output().await?)?)
    }

    /// Copies a disk into the (empty, writable by [`IMPORT_UID`]) file `target` as a qcow2 that
    /// holds only what is not zero. `source_size` is the length of the source's file, and
    /// `max_size` what the target's may become.
    ///
    /// # Errors
    /// The source is damaged, or the target would become larger than `max_size`.
    pub async fn convert(
        &self,
        source: &Path,
        format: ImageFormat,
        source_size: ByteSize,
        target: &Path,
        max_size: ByteSize,
    ) -> Result<(), QemuImgError> {
        // At least 4 MiB/s of the clock and 20 MiB/s of a CPU, and some for a disk full of zeros.
        let mib = source_size.bytes() >> 20;
        let sandbox = sandbox(600 + mib / 20, max_size.bytes());
        let timeout = Duration::from_secs(1200 + mib / 4);
        let arguments = ["convert", "-q", "-f", format.driver(), "-O", "qcow2", "--"];
        self.confined(&arguments, &[source, target], sandbox, timeout)?.output().await?;
        Ok(())
    }

    /// Copies a VM's disk, `source` and all beneath it, into the (empty) file `target` as a qcow2
    /// that holds only what is not zero. `size` is the disk's as its guest sees it, `max_size` what
    /// the target's file may become, `rate` in bytes a second. Works as `owner`, whose `target` is, and may read what all VMs
    /// may read.
    ///
    /// # Errors
    /// The source cannot be read or is being written to, or the target would become larger than
    /// `max_size`.
    pub async fn copy(
        &self,
        source: &Path,
        target: &Path,
        size: ByteSize,
        (max_size, rate): (ByteSize, Option<u64>),
        owner: VmUid,
    ) -> Result<(), QemuImgError> {
        // Out of order: the target's clusters lie as they are written.
        let mut arguments = vec!["convert", "-q", "-W", "-m", "8", "-f", "qcow2", "-O", "qcow2"];
        let limit = rate.map(|rate| rate.to_string());
        arguments.extend(limit.iter().flat_map(|limit| ["-r", limit.as_str()]));
        arguments.push("--");
        let (sandbox, timeout) = at_work(size, max_size, owner);
        // A limit of speed is allowed for twice.
        let held_back = rate.map_or(0, |rate| size.bytes() / (rate / 2).max(1));
        let timeout = timeout + Duration::from_secs(held_back);
        self.confined(&arguments, &[source, target], sandbox, timeout)?.output().await?;
        Ok(())
    }

    /// Copies into a VM's disk file what it shows of the files beneath, and takes its reference to
    /// them away at the end. Content and meaning are the same at every instant, so an interrupted one
    /// is done again. Works as `owner`.
    ///
    /// # Errors
    /// The disk is in use, cannot be read, or its file would become larger than `max_size`.
    pub async fn make_alone(
        &self,
        disk: &Path,
        size: ByteSize,
        max_size: ByteSize,
        owner: VmUid,
    ) -> Result<(), QemuImgError> {
        // Else the header says that nothing lies beneath before the tables say where the copies are, and
        // a power failure, or a signal, in between leaves nothing but zeros. Costs a flush every 2 MiB.
        let safely = ["-t", "writethrough"];
        let rebase = ["rebase", "-q", "-f", "qcow2", "-b", ""];
        let arguments = [rebase.as_slice(), &safely, &["--"]].concat();
        let (sandbox, timeout) = at_work(size, max_size, owner);
        self.confined(&arguments, &[disk], sandbox, timeout)?.output().await?;
        Ok(())
    }

    /// Merges a disk file, and those between, into `into`, which lies beneath it: what `top` reads as,
    /// `into` does then, and its data is on the file system. Nobody may have the files open. `bytes` is
    /// about what there is to copy, `rate` in bytes a second. Whether it came to its end: ended before,
    /// all files read as they did.
    ///
    /// # Errors
    /// A file is damaged or in use, or there is no room; all files read as they did.
    pub async fn commit(
        &self,
        top: &Path,
        into: &Path,
        owner: VmUid,
        (bytes, rate): (ByteSize, Option<u64>),
        cancel: impl Future<Output = ()>,
    ) -> Result<bool, QemuImgError> {
        let mut arguments: Vec<OsString> =
            ["commit", "-q", "-f", "qcow2", "-d"].map(Into::into).into();
        if let Some(rate) = rate {
            arguments.extend(["-r".into(), rate.to_string().into()]);
        }
        arguments.extend(["-b".into(), absolute(into)?, "--".into(), absolute(top)?]);
        // As in `convert`; a limit of speed is allowed for twice.
        let slowest = rate.map_or(4 << 20, |rate| rate.clamp(1, 8 << 20) / 2).max(1);
        let timeout = Duration::from_secs(1200 + bytes.bytes() / slowest);
        let run = Run::new(&self.program, arguments, timeout);
        let sandbox = of_vm(owner, 600 + (bytes.bytes() >> 20) / 20);
        if !(Run { sandbox: Some(sandbox), ..run }).unless(cancel).await? {
            return Ok(false);
        }
        let into = into.to_owned();
        let flushed = tokio::task::spawn_blocking(move || std::fs::File::open(into)?.sync_all());
        flushed.await.map_err(std::io::Error::other).flatten().map_err(QemuImgError::Flush)?;
        Ok(true)
    }

    /// Writes into a disk file's header which one lies beneath it. Nobody may have it open.
    ///
    /// # Errors
    /// The file is damaged or in use.
    pub async fn set_backing(
        &self,
        disk: &Path,
        backing: &str,
        owner: VmUid,
    ) -> Result<(), QemuImgError> {
        let arguments = ["rebase", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", backing, "--"];
        let arguments = arguments.map(OsString::from).into_iter().chain([absolute(disk)?]);
        let run = Run::new(&self.program, arguments, QUICK);
        (Run { sandbox: Some(of_vm(owner, 20)), ..run }).output().await?;
        Ok(())
    }

    fn confined(
        &self,
        arguments: &[&str],
        files: &[&Path],
        sandbox: Sandbox,
        timeout: Duration,
    ) -> Result<Run<'_>, QemuImgError> {
        let mut all: Vec<OsString> = arguments.iter().map(Into::into).collect();
        for file in files {
            all.push(absolute(file)?);
        }
        let run = Run::new(&self.program, all, timeout);
        Ok(Run { sandbox: Some(sandbox), ..run })
    }
}

/// For work on a VM's own disks: with no more rights than its QEMU has.
fn of_vm(owner: VmUid, cpu_seconds: u64) -> Sandbox {
    let (uid, group) = (owner.uid(), Some(IMAGE_GID));
    Sandbox { uid, group, memory: MEMORY, cpu_seconds, file_size: u64::MAX }
}

fn sandbox(cpu_seconds: u64, file_size: u64) -> Sandbox {
    Sandbox { uid: IMPORT_UID, group: None, memory: MEMORY, cpu_seconds, file_size }
}

/// Of a program that goes through a whole disk, as the VM's own user: what it may use, and how long
/// it may take. At least 4 MiB/s of the clock and 20 MiB/s of a CPU.
fn at_work(size: ByteSize, max_size: ByteSize, owner: VmUid) -> (Sandbox, Duration) {
    let mib = size.bytes() >> 20;
    let (uid, group) = (owner.uid(), Some(IMAGE_GID));
    let (cpu_seconds, file_size) = (600 + mib / 20, max_size.bytes());
    let sandbox = Sandbox { uid, group, memory: MEMORY, cpu_seconds, file_size };
    (sandbox, Duration::from_secs(1200 + mib / 4))
}

/// A name that starts with `/` is never a protocol's.
fn absolute(path: &Path) -> Result<OsString, QemuImgError> {
    if path.is_absolute() {
        return Ok(path.into());
    }
    Err(QemuImgError::RelativePath(path.to_owned()))
}
