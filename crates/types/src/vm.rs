//! The virtual machine: what is asked for ([`VmSpec`]), what is ([`VmStatus`]), and how its power
//! state may change.
//!
//! ```text
//!              start                    running guest
//!  creating -> stopped -> starting -> running <-> paused
//!                 ^           |        |  |  \
//!                 |           v        |  |   suspending -> suspended -> starting
//!                 +--------- failed <--+  +-> stopping -> stopped
//! ```
//!
//! `unknown` may be entered from anywhere (the host does not answer) and is left for whatever the
//! host reports once it does.

use std::fmt;
use std::net::IpAddr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::address::NicAddress;
use crate::cluster::Automation;
use crate::cpu::CpuBaseline;
use crate::customization::{Customization, CustomizationStatus};
use crate::id::{DatastoreId, HostId, ImageId, NetworkId};
use crate::layer::{Layer, LayerFile};
use crate::lease::Lease;
use crate::lifecycle::Recycled;
use crate::limits::{IoLimits, Millicpus};
use crate::migration::{LastMove, MigrationTerms};
use crate::name::{Name, shorten};
use crate::network::MacAddress;
use crate::object::{Kind, KindName, Object};
use crate::operations::Epoch;
use crate::pool::VmResources;
use crate::seal::Seal;
use crate::size::ByteSize;
use crate::snapshot::SnapshotTree;
use crate::snapshot_policy::SnapshotLimits;
use crate::template::VersionOf;
use crate::vm_change::{Hardware, VmChange};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VmKind;
pub type Vm = Object<VmKind>;

impl Kind for VmKind {
    const NAME: KindName = KindName::Vm;
    const SCHEMA: &'static str = "Vm";
    type Spec = VmSpec;
    type Status = VmStatus;
}

/// A number of virtual CPUs, 1 to 1024.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "u32", into = "u32")]
#[schema(value_type = u32, minimum = 1, maximum = 1024)]
pub struct Cores(u32);

impl Cores {
    pub const ONE: Self = Self(1);
    pub const MAX: u32 = 1024;

    pub const fn count(self) -> u32 {
        self.0
    }
}
impl TryFrom<u32> for Cores {
    type Error = String;
    fn try_from(count: u32) -> Result<Self, String> {
        if (1..=Self::MAX).contains(&count) {
            return Ok(Self(count));
        }
        Err(format!("{count} is not a possible number of CPUs; a VM has 1 to {}", Self::MAX))
    }
}
impl From<Cores> for u32 {
    fn from(cores: Cores) -> Self {
        cores.0
    }
}
impl fmt::Display for Cores {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What people ask for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VmSpec {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub description: String,
    pub cpus: Cores,
    /// At least 64 MiB, a multiple of 1 MiB.
    pub memory: ByteSize,
    /// How far memory may grow while it runs; absent: as far as costs the guest nothing. A guest
    /// of less than 2.75 GiB pays 64 MiB for the possibility.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_memory: Option<ByteSize>,
    /// What the guest's balloon leaves it; absent: everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balloon: Option<ByteSize>,
    /// The most CPU time, in thousandths of a host CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_limit: Option<Millicpus>,
    /// Its place among those that want the same CPUs and memory.
    #[serde(default, skip_serializing_if = "VmResources::is_default")]
    pub resources: VmResources,
    /// What balancing may do with it; absent: as the cluster says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub automation: Option<Automation>,
    /// How long its guest may stand still when it is moved, and what is done if that cannot be kept.
    #[serde(default, skip_serializing_if = "MigrationTerms::is_default")]
    pub migration: MigrationTerms,
    #[serde(default)]
    pub firmware: Firmware,
    /// A QEMU CPU model; absent: all that the host and accelerator offer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_model: Option<String>,
    /// Tried in this order.
    #[serde(default = "BootDevice::default_order")]
    pub boot_order: Vec<BootDevice>,
    pub disks: Vec<DiskSpec>,
    /// Disks that are the VM's and not plugged in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub detached: Vec<DiskSpec>,
    #[serde(default)]
    pub cdroms: Vec<CdromSpec>,
    #[serde(default)]
    pub nics: Vec<NicSpec>,
    /// What the guest is told of itself at its first boot, through a NoCloud seed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub customization: Option<Box<Customization>>,
    /// What the host does by itself when QEMU dies, also while the server is away.
    #[serde(default)]
    pub restart: RestartPolicy,
    /// A protected VM is not deleted, by anyone, until the flag is taken away.
    #[serde(default)]
    pub protected: bool,
    /// It is in the recycle bin. Set by deleting it, taken away by undeleting it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recycled: Option<Recycled>,
    /// How long it may stay; absent: for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease: Option<Lease>,
    /// What it says of its snapshots itself, before any policy.
    #[serde(default, skip_serializing_if = "SnapshotLimits::is_empty")]
    pub snapshot_limits: SnapshotLimits,
    /// It is a version of a template. Set and taken away by making it one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<VersionOf>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Firmware {
    #[default]
    Bios,
    Uefi,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum BootDevice {
    Disk,
    Cdrom,
    Network,
}

impl Firmware {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Bios => "bios",
            Self::Uefi => "uefi",
        }
    }
}

impl BootDevice {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Cdrom => "cdrom",
            Self::Network => "network",
        }
    }

    /// Disks, then CD-ROMs, then the network.
    pub fn default_order() -> Vec<Self> {
        vec![Self::Disk, Self::Cdrom, Self::Network]
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Start the guest again when QEMU ended without having been told to, up to 5 times in 10 min.
    #[default]
    OnFailure,
    Never,
}

/// A disk of a VM. Its file is `<name>.qcow2` in the VM's directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DiskSpec {
    /// Unique within the VM; also the start of the serial number that the guest sees.
    pub name: Name,
    pub size: ByteSize,
    pub source: DiskSource,
    #[serde(default)]
    pub bus: DiskBus,
    #[serde(default, skip_serializing_if = "IoLimits::is_unlimited")]
    pub limits: IoLimits,
    #[serde(default, skip_serializing_if = "Provisioning::is_thin")]
    pub provisioning: Provisioning,
}

/// What of a disk's size is on the datastore from the beginning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Provisioning {
    /// Only what is written.
    #[default]
    Thin,
    /// All of it is reserved, and none of it written.
    Reserved,
    /// All of it is written with zeros.
    Zeroed,
}

impl Provisioning {
    pub fn is_thin(&self) -> bool {
        *self == Self::Thin
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Thin => "thin",
            Self::Reserved => "reserved",
            Self::Zeroed => "zeroed",
        }
    }
}

/// A disk's serial number, as the guest sees it: its name, or as much of it as fits.
pub fn disk_serial(name: &Name) -> String {
    /// virtio-blk's limit.
    const MOST: usize = 20;
    shorten(name.as_str(), MOST)
}

impl VmSpec {
    /// All disks that are the VM's, plugged in or not.
    pub fn own_disks(&self) -> impl Iterator<Item = &DiskSpec> {
        self.disks.iter().chain(&self.detached)
    }
}

/// What a disk was made from. Afterwards it is only of interest for people: what a disk is made of is
/// told by its layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum DiskSource {
    /// An overlay on an image: nothing is copied.
    Image(ImageId),
    Blank,
    /// An overlay on a file of another VM's disk, on the same datastore: a linked clone. Nothing
    /// writes to that file as long as anything lies on it.
    Linked(LayerFile),
    /// A copy of another VM's disk, its file and all beneath it: a full clone.
    Copy(CopySource),
}

impl DiskSource {
    /// The image that it lies on.
    pub const fn image(&self) -> Option<ImageId> {
        match self {
            Self::Image(image) => Some(*image),
            Self::Blank | Self::Linked(_) | Self::Copy(_) => None,
        }
    }
}

/// A disk to be copied: its active file, and where that lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CopySource {
    pub datastore: DatastoreId,
    pub file: LayerFile,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DiskBus {
    #[default]
    VirtioBlk,
    VirtioScsi,
}

impl DiskBus {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::VirtioBlk => "virtio-blk",
            Self::VirtioScsi => "virtio-scsi",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CdromSpec {
    pub name: Name,
    /// An ISO image; none: an empty drive.
    pub image: Option<ImageId>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NicSpec {
    /// Unique within the VM.
    pub name: Name,
    pub network: NetworkId,
    /// Chosen once at creation, then kept.
    pub mac: MacAddress,
    /// A static address, which is the NIC's as long as it exists; absent: by DHCP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<NicAddress>,
    #[serde(default, skip_serializing_if = "LinkState::is_up")]
    pub link: LinkState,
}

/// Whether a NIC's virtual cable is plugged in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum LinkState {
    #[default]
    Up,
    Down,
}

impl LinkState {
    pub fn is_up(&self) -> bool {
        *self == Self::Up
    }
}

impl VmSpec {
    /// The spec as it may be shown: secrets replaced.
    #[must_use]
    pub fn redacted(mut self) -> Self {
        self.customization = self.customization.map(|it| Box::new(it.redacted()));
        self
    }

    /// The spec as it lies where secrets have no business.
    #[must_use]
    pub fn without_secrets(mut self) -> Self {
        self.customization = self.customization.map(|it| Box::new(it.without_secrets()));
        self
    }
}

/// The power state, as last reported by the VM's host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PowerState {
    /// Its files are being made.
    Creating,
    Stopped,
    Starting,
    Running,
    /// Held by QEMU (I/O error, debugger, a snapshot's instant); memory is kept.
    Paused,
    Stopping,
    Suspending,
    /// Its memory is on the datastore; starting it resumes there.
    Suspended,
    /// QEMU died or did not come up; `status.message` says why.
    Failed,
    /// The host does not answer.
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a VM that is {from} cannot become {to}")]
pub struct IllegalTransition {
    pub from: PowerState,
    pub to: PowerState,
}

impl PowerState {
    /// States in which a QEMU process exists (or may).
    pub const LIVE: [Self; 6] = [
        Self::Starting,
        Self::Running,
        Self::Paused,
        Self::Stopping,
        Self::Suspending,
        Self::Unknown,
    ];

    pub const ALL: [Self; 10] = [
        Self::Creating,
        Self::Stopped,
        Self::Starting,
        Self::Running,
        Self::Paused,
        Self::Stopping,
        Self::Suspending,
        Self::Suspended,
        Self::Failed,
        Self::Unknown,
    ];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopping => "stopping",
            Self::Suspending => "suspending",
            Self::Suspended => "suspended",
            Self::Failed => "failed",
            Self::Unknown => "unknown",
        }
    }

    pub fn is_live(self) -> bool {
        Self::LIVE.contains(&self)
    }

    /// The state after a change, if it is legal.
    ///
    /// # Errors
    /// [`IllegalTransition`] names both states.
    pub fn transition(self, to: Self) -> Result<Self, IllegalTransition> {
        let legal = self == to
            || match self {
                Self::Unknown => true,
                Self::Creating => matches!(to, Self::Stopped | Self::Failed | Self::Unknown),
                Self::Stopped | Self::Suspended => {
                    matches!(to, Self::Starting | Self::Stopped | Self::Unknown)
                }
                Self::Failed => matches!(to, Self::Starting | Self::Stopped | Self::Unknown),
                Self::Starting => !matches!(to, Self::Creating | Self::Suspending),
                Self::Running | Self::Paused => !matches!(to, Self::Creating | Self::Starting),
                Self::Stopping => !matches!(to, Self::Creating | Self::Starting),
                Self::Suspending => !matches!(to, Self::Creating | Self::Starting),
            };
        if legal { Ok(to) } else { Err(IllegalTransition { from: self, to }) }
    }
}
impl fmt::Display for PowerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct VmStatus {
    pub power: PowerState,
    #[schema(value_type = String, format = DateTime)]
    pub power_since: Timestamp,
    /// Why it is in this state, when that is not plain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// The owner.
    pub host: HostId,
    pub epoch: Epoch,
    pub datastore: DatastoreId,
    #[serde(default)]
    pub disks: Vec<DiskStatus>,
    #[serde(default)]
    pub nics: Vec<NicStatus>,
    /// What the guest itself says, through its agent; absent: never heard of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest: Option<GuestReport>,
    /// What became of the customization; absent: there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub customization: Option<CustomizationStatus>,
    /// What it runs with; absent while it does not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hardware: Option<Hardware>,
    /// The CPU that its guest sees, if it runs with a baseline of the cluster's; it keeps that until its power is
    /// cycled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<CpuBaseline>,
    /// What was asked for and does not run yet: why, and when it will.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending: Vec<VmChange>,
    /// Its snapshots. The host's agent is their only writer.
    #[serde(default, skip_serializing_if = "SnapshotTree::is_empty")]
    pub snapshots: SnapshotTree,
    /// What its snapshot policy has to say of them, in sentences; empty: nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub snapshot_warnings: Vec<String>,
    /// What was taken out of the guest; absent: nothing, or it has run since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seal: Option<Seal>,
    /// Why this host and datastore: the decision's explanation.
    #[serde(default)]
    pub placement: Vec<String>,
    /// When it last went to another host; absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub moved_at: Option<Timestamp>,
    /// How that went, if its guest ran meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_move: Option<LastMove>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DiskStatus {
    pub name: Name,
    /// Bytes on the datastore, in the disk's own files: those that lie in the VM's directory.
    pub allocated: ByteSize,
    /// The files that make it up, the active one first. The host's agent is their only writer.
    #[serde(default)]
    pub layers: Vec<Layer>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NicStatus {
    pub name: Name,
    /// The tap on the host; only while the VM runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tap: Option<String>,
    /// The address that the network's DHCP reserves for this NIC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub reserved: Option<IpAddr>,
}

/// What the guest says of itself. Hostile until proven otherwise: cleaned and bounded on receipt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GuestReport {
    /// The agent answers now.
    pub agent: bool,
    /// Since when the agent answers (or stopped to).
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Such as `Debian GNU/Linux 12 (bookworm)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub os: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel: Option<String>,
    /// Without loopback and link-local addresses; at most 64.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    pub addresses: Vec<IpAddr>,
    /// The CPUs it has online.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<u32>,
    /// The memory its kernel has to give, which is a little less than what it runs with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<ByteSize>,
    /// The NICs it sees; at most 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nics: Vec<GuestNic>,
}

/// A network card as the guest sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GuestNic {
    /// The guest's name for it, such as `eth0`.
    pub name: String,
    pub mac: MacAddress,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stopped_vm_does_not_run_without_starting() {
        assert!(PowerState::Stopped.transition(PowerState::Running).is_err());
        assert!(PowerState::Stopped.transition(PowerState::Starting).is_ok());
        assert!(PowerState::Suspended.transition(PowerState::Starting).is_ok());
        assert!(PowerState::Running.transition(PowerState::Starting).is_err());
        for state in PowerState::ALL {
            assert!(state.transition(PowerState::Unknown).is_ok(), "{state}");
            assert!(PowerState::Unknown.transition(state).is_ok(), "{state}");
        }
    }

    #[test]
    fn unknown_fields_are_refused() {
        let with_typo = r#"{"cpus":1,"memory":"1GiB","disks":[],"memroy":1}"#;
        let error = serde_json::from_str::<VmSpec>(with_typo).unwrap_err().to_string();
        assert!(error.contains("memroy"), "{error}");
    }

    #[test]
    fn cpus_are_bounded() {
        assert!(serde_json::from_str::<Cores>("0").is_err());
        assert!(serde_json::from_str::<Cores>("1025").is_err());
        assert!(serde_json::from_str::<Cores>("-1").is_err());
        assert_eq!(serde_json::from_str::<Cores>("4").unwrap().count(), 4);
    }
}
