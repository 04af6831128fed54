//! What is to be started: a plain description, complete and without choices left.

use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use hostler_types::{
    Accelerator, BootDevice, ByteSize, Cores, CpuBaseline, DiskBus, MEMORY_STEP, MacAddress, Name,
    VmId,
};
use serde::{Deserialize, Serialize};
use thiserror::Error;
use uuid::Uuid;

use crate::{
    names::{disk_id, nic_id},
    spawn::ChildFd,
};

/// Everything QEMU must know to start a VM.
#[derive(Debug, Clone)]
pub struct LaunchPlan {
    /// The VM; its UUID is the machine's.
    pub vm: VmId,
    /// Its name.
    pub name: Name,
    /// As the probe found it.
    pub accelerator: Accelerator,
    /// A QEMU CPU model that the VM asks for.
    pub cpu_model: Option<String>,
    /// What a guest without a model of its own sees; without it all that host and accelerator offer. QEMU
    /// refuses to start if it cannot give all of it.
    pub cpu_baseline: Option<CpuBaseline>,
    /// At most 255.
    pub cpus: Cores,
    /// A multiple of 1 MiB.
    pub memory: ByteSize,
    /// The file that it lies in, of this size.
    pub memory_file: MemoryPlan,
    /// The size that memory can be hot-added up to; see [`LaunchPlan::free_max_memory`].
    pub max_memory: Option<ByteSize>,
    /// What may be added while it runs, and what has been.
    pub room: Room,
    /// BIOS or UEFI.
    pub firmware: FirmwarePlan,
    /// What the firmware tries, in this order; what is not in it is not tried.
    pub boot_order: Vec<BootDevice>,
    /// The disks, in the order the guest shall see them.
    pub disks: Vec<DiskPlan>,
    /// At most 6.
    pub cdroms: Vec<CdromPlan>,
    /// At most 16.
    pub nics: Vec<NicPlan>,
    /// The NoCloud seed, a raw image.
    pub seed: Option<PathBuf>,
    /// The monitor's listening Unix socket.
    pub qmp: ChildFd,
    /// The guest agent channel's listening Unix socket.
    pub guest_agent: ChildFd,
    /// The serial console's listening Unix socket.
    pub serial: ChildFd,
    /// Where QEMU makes the screen's Unix socket; its user must be able to write there.
    pub vnc: PathBuf,
    /// From scratch, or from a saved state.
    pub start: Start,
    /// Changes whenever the guest goes back in time, so that it reseeds its randomness.
    pub generation_id: Uuid,
}

impl LaunchPlan {
    /// How far memory can grow without costing a small guest anything.
    ///
    /// The region for hot-added memory lies above 4 GiB, and a Linux guest that may get memory
    /// there sets 64 MiB aside for bounce buffers (a 256 MiB guest keeps 151 of 217 MiB). A guest
    /// of more than 2.75 GiB has memory above 4 GiB anyway. So a small one gets no such region
    /// unless asked for, and a large one may grow to four times its size, at most 512 GiB.
    #[must_use]
    pub fn free_max_memory(memory: ByteSize) -> Option<ByteSize> {
        const BELOW_4_GIB: ByteSize = ByteSize::mib(2816);
        const MOST: u64 = ByteSize::gib(512).bytes();
        let max = memory.bytes().saturating_mul(4).min(MOST);
        (memory > BELOW_4_GIB && max > memory.bytes()).then_some(ByteSize(max))
    }
}

/// What a machine can be given while it runs. A fresh one has [`Room::for_cpus`]; one that resumes
/// must be made as it was when its state was saved.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Room {
    /// CPUs, those it starts with included; at most 255.
    pub max_cpus: u32,
    /// Queues of each disk: as many as there were CPUs at the start. They are part of what the
    /// guest sees, so they stay when CPUs come and go.
    pub queues: u32,
    /// What has been added to `memory`.
    pub plugged_memory: ByteSize,
    /// The ports as they were; `None`: one for each NIC and disk, in their order.
    pub ports: Option<PortPlan>,
}

/// The root ports and what sits in them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortPlan {
    /// Ports made for NICs.
    pub nics: usize,
    /// Ports made for virtio-blk disks.
    pub disks: usize,
    /// Device ids and the ports that they are in.
    pub devices: BTreeMap<String, String>,
    /// What all of the ports are.
    #[serde(default)]
    pub kind: PortKind,
}

/// QEMU's device for a port. A guest sees the difference, so a machine keeps its kind for as long as
/// there is something of it to go on from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PortKind {
    /// `pcie-root-port`, with MSI-X: what older agents gave to machines.
    #[default]
    MsiX,
    /// `ioh3420`, with MSI. It has no memory of its own to be mapped, and so loads in a third of the
    /// time; all ports there are together are the larger part of an instant clone's load.
    Msi,
}

impl PortKind {
    /// The device's name.
    pub(crate) const fn driver(self) -> &'static str {
        match self {
            Self::MsiX => "pcie-root-port",
            Self::Msi => "ioh3420",
        }
    }

    /// Whether something in QEMU's tree of objects is a port.
    pub(crate) fn is_port(object: &str) -> bool {
        let driver = object.strip_prefix("child<").and_then(|rest| rest.strip_suffix('>'));
        [Self::MsiX, Self::Msi].iter().any(|kind| driver == Some(kind.driver()))
    }
}

impl PortPlan {
    /// One port for each of these NICs and virtio-blk disks, in their order.
    #[must_use]
    pub fn fresh<'a>(
        nics: impl IntoIterator<Item = &'a Name>,
        disks: impl IntoIterator<Item = &'a Name>,
    ) -> Self {
        let nics: Vec<_> = nics.into_iter().map(nic_id).collect();
        let disks: Vec<_> = disks.into_iter().map(disk_id).collect();
        let counts = (nics.len(), disks.len());
        let nics = nics.into_iter().enumerate().map(|(nth, id)| (id, Self::nic(nth)));
        let disks = disks.into_iter().enumerate().map(|(nth, id)| (id, Self::disk(nth)));
        Self {
            nics: counts.0,
            disks: counts.1,
            devices: nics.chain(disks).collect(),
            kind: PortKind::Msi,
        }
    }

    pub(crate) fn nic(nth: usize) -> String {
        format!("port-nic{nth}")
    }

    pub(crate) fn disk(nth: usize) -> String {
        format!("port-disk{nth}")
    }
}

impl Room {
    /// For as many CPUs again, as far as the board allows. Every possible one costs the guest some
    /// 200 KiB.
    #[must_use]
    pub fn for_cpus(cpus: Cores) -> Self {
        let cpus = cpus.count();
        let max_cpus = (cpus * 2).clamp(4, MAX_CPUS.max(cpus));
        Self { max_cpus, queues: cpus, ..Self::default() }
    }

    /// How many CPUs can still be added, `ever` being the most there have been in this process.
    ///
    /// QEMU's emulator does not get the place of a CPU back that was taken out: with another in
    /// it, saving the machine's state hangs, and the process aborts when it runs out of places. So
    /// an emulated machine gets no more CPUs once it has lost one.
    #[must_use]
    pub fn cpus_left(&self, accelerator: Accelerator, now: u32, ever: u32) -> u32 {
        match accelerator {
            Accelerator::Tcg if ever > now => 0,
            Accelerator::Tcg | Accelerator::Kvm => self.max_cpus.saturating_sub(now),
        }
    }
}

/// More would need an interrupt remapping unit.
pub(crate) const MAX_CPUS: u32 = 255;

/// How much memory can be added at most: what is between `memory` and `max_memory`, in whole
/// blocks.
pub(crate) fn pluggable(memory: ByteSize, max_memory: Option<ByteSize>) -> Option<ByteSize> {
    let size = max_memory?.bytes().checked_sub(memory.bytes())?;
    let size = size - size % MEMORY_STEP;
    (size > 0).then_some(ByteSize(size))
}

/// The firmware and its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FirmwarePlan {
    /// `SeaBIOS`, which comes with QEMU.
    Bios,
    /// OVMF.
    Uefi {
        /// The code, shared and read-only.
        code: PathBuf,
        /// The variables, the VM's own.
        vars: PathBuf,
    },
}

/// A disk: always qcow2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskPlan {
    /// Unique within the VM.
    pub name: Name,
    /// Its files, the active one first; at least that. What the files' own headers say is never
    /// followed: beneath the last of these there is nothing.
    pub layers: Vec<LayerPlan>,
    /// How the guest sees it.
    pub bus: DiskBus,
    /// The place of a virtio-scsi disk; `None`: the next one.
    pub lun: Option<u32>,
    /// Whether writes are refused.
    pub read_only: bool,
    /// How the host caches it.
    pub cache: DiskCache,
}

/// One qcow2 file of a disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerPlan {
    /// Its block node; see [`layer_node`](crate::layer_node).
    pub node: String,
    /// Its file.
    pub path: PathBuf,
    /// Whether other VMs may read it too: then it goes through the page cache, which pays, and is
    /// never written to.
    pub shared: bool,
}

/// The kernel's interface for asynchronous I/O; a node keeps it for as long as it is open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DiskAio {
    /// `io_submit`. Whenever QEMU opens a file with it, it holds all of the guest's I/O for 30 to 60 ms:
    /// it sets up and tears down a context to see what the kernel can do, and the latter waits for an
    /// RCU grace period (`laio_has_fdsync`).
    #[default]
    Native,
    /// `io_uring`: as fast, and opens at once.
    Ring,
}

/// How the host caches a disk. Flushes reach the disk with either.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskCache {
    /// Bypasses the page cache, with asynchronous I/O by the kernel.
    Direct(DiskAio),
    /// Through the page cache, with threads.
    PageCache,
}

impl DiskCache {
    /// The direct one where the file system can do it; tmpfs and some FUSE ones cannot.
    #[must_use]
    pub fn for_file(path: &Path, aio: DiskAio) -> Self {
        let mut options = OpenOptions::new();
        let direct = options.read(true).custom_flags(libc::O_DIRECT).open(path).is_ok();
        if direct { Self::Direct(aio) } else { Self::PageCache }
    }
}

/// A CD drive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CdromPlan {
    /// Unique within the VM.
    pub name: Name,
    /// The ISO image in it, raw.
    pub image: Option<PathBuf>,
}

/// A network card on a tap device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NicPlan {
    /// Unique within the VM.
    pub name: Name,
    /// Its address.
    pub mac: MacAddress,
    /// The open tap device.
    pub tap: ChildFd,
}

/// Where the guest's memory lies. Always in a file, so that a clone can go on from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryPlan {
    /// In this file, made by [`memory_file`](crate::fork::memory_file): what the guest writes is in
    /// it, and can be frozen later.
    Shared(ChildFd),
    /// It begins with what is in this file, which is never written to: what the guest writes is its
    /// own.
    Frozen(ChildFd),
}

impl MemoryPlan {
    /// The file.
    #[must_use]
    pub const fn file(self) -> ChildFd {
        let (Self::Shared(file) | Self::Frozen(file)) = self;
        file
    }
}

/// How the guest begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// At power-on.
    Boot,
    /// Nothing runs until [`resume_from`](crate::resume_from) has loaded a state.
    Resume,
    /// As [`Self::Resume`]; and it stands still also after [`fork::load`](crate::fork::load).
    Fork,
}

/// Why no command line can be made of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PlanError {
    /// A disk without files.
    #[error("the disk {0} has no file")]
    NoLayer(Name),
    /// A CPU model with characters that no model has.
    #[error("{0:?} is not the name of a CPU model")]
    CpuModel(String),
    /// More CPUs than the machine type takes.
    #[error("a VM of this machine type has at most 255 CPUs, not {0}")]
    TooManyCpus(u32),
    /// More of something than the machine has places for.
    #[error("a VM has at most {most} {what}, not {count}")]
    TooMany {
        /// What.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// How many there may be.
        most: usize,
    },
    /// A device that no port is planned for.
    #[error("the device {0} has no port")]
    NoPort(String),
    /// A path that cannot be written into a command line.
    #[error("the path {} is not UTF-8", .0.display())]
    Path(PathBuf),
    /// A Unix socket's path is too long for the kernel.
    #[error("the socket path {} has more than 107 bytes", .0.display())]
    SocketPath(PathBuf),
}
