//! What clients send to make and change VMs, by name rather than by id.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::address::NicAddressing;
use crate::customization::Customization;
use crate::drs::VmAutomation;
use crate::limits::{IoLimits, Millicpus};
use crate::migration::MigrationTerms;
use crate::name::{Name, Ref};
use crate::network::MacAddress;
use crate::object::Labels;
use crate::pool::VmResourcesUpdate;
use crate::size::ByteSize;
use crate::snapshot_policy::SnapshotLimits;
use crate::template::TemplateRef;
use crate::vm::{
    BootDevice, Cores, DiskBus, DiskSource, Firmware, LinkState, Provisioning, RestartPolicy,
    VmSpec,
};

/// A request that cannot be fulfilled, whatever the inventory holds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct SpecError {
    /// Path of the field, such as `disks[0].size`.
    pub field: String,
    pub reason: String,
}

impl SpecError {
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { field: field.into(), reason: reason.into() }
    }
}

/// A VM to be made: from an image, or from a blank disk and an ISO.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VmCreate {
    pub name: Name,
    #[serde(default)]
    #[schema(inline)]
    pub labels: Labels,
    #[serde(default)]
    pub description: String,
    /// The version of a template that it is made from, such as `debian-12:3` or `debian-12`, its
    /// latest. What is not said here is as the template has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub template: Option<TemplateRef>,
    /// Copy the template's disks instead of laying overlays on them.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub full: bool,
    /// Absent: the template's, or 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpus: Option<Cores>,
    /// Absent: the template's, or 1 GiB.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<ByteSize>,
    /// How far memory may grow while it runs; absent: as far as costs the guest nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_memory: Option<ByteSize>,
    /// The most CPU time, in thousandths of a host CPU.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_limit: Option<Millicpus>,
    /// Its place among those that want the same CPUs and memory.
    #[serde(default, skip_serializing_if = "VmResourcesUpdate::is_empty")]
    pub resources: VmResourcesUpdate,
    /// Absent: the template's, or `bios`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware: Option<Firmware>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_model: Option<String>,
    /// Absent: the template's, or disks, then CD-ROMs, then the network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub boot_order: Option<Vec<BootDevice>>,
    /// The first disk's image; short for a first disk with this image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Ref>,
    /// The first disk's size when `image` or `template` is given: at least what it has there;
    /// absent: just that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disk_size: Option<ByteSize>,
    /// Further disks (all disks, when `image` and `template` are absent).
    #[serde(default)]
    pub disks: Vec<VmDisk>,
    /// An ISO image in a CD-ROM drive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iso: Option<Ref>,
    /// Absent: the template's, or one NIC on the network `default`. Empty: no NIC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub nics: Option<Vec<VmNic>>,
    /// A customization spec; what `customization` says is laid over it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub customization_spec: Option<Ref>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub customization: Option<Customization>,
    #[serde(default)]
    pub restart: RestartPolicy,
    /// What it does not say is the template's.
    #[serde(default, skip_serializing_if = "MigrationTerms::is_default")]
    pub migration: MigrationTerms,
    #[serde(default)]
    pub protected: bool,
    /// Absent: the server decides, and says why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<Ref>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub datastore: Option<Ref>,
    /// Start it when it is made.
    #[serde(default)]
    pub start: bool,
    /// How long it may stay; absent: for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_seconds: Option<u64>,
}

impl VmCreate {
    pub const fn default_cpus() -> Cores {
        Cores::ONE
    }
    pub const fn default_memory() -> ByteSize {
        ByteSize::gib(1)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VmDisk {
    /// Absent: `disk0`, `disk1`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// Absent: the image's size. Needed for a blank disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size: Option<ByteSize>,
    /// Absent: a blank disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Ref>,
    #[serde(default)]
    pub bus: DiskBus,
    #[serde(default, skip_serializing_if = "IoLimits::is_unlimited")]
    pub limits: IoLimits,
    /// How much of a blank disk is on the datastore from the beginning.
    #[serde(default, skip_serializing_if = "Provisioning::is_thin")]
    pub provisioning: Provisioning,
}

/// Changes to a disk. An absent field stays as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DiskUpdate {
    /// At least what it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<ByteSize>,
    /// All limits anew; an empty object: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limits: Option<IoLimits>,
    /// Also grow the last partition and its file system, through the guest's agent.
    pub grow_file_system: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VmNic {
    /// Absent: `nic0`, `nic1`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    pub network: Ref,
    /// Absent: one is chosen that no other VM has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacAddress>,
    /// Absent: as the customization spec says, else by DHCP. A NIC that is kept keeps its address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<NicAddressing>,
    #[serde(default, skip_serializing_if = "LinkState::is_up")]
    pub link: LinkState,
}

/// Changes to a VM. An absent field stays as it is. What a running guest cannot get is kept as
/// pending until it is powered off.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct VmUpdate {
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(inline)]
    pub labels: Option<Labels>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpus: Option<Cores>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<ByteSize>,
    /// How far memory may grow while it runs; 0: as far as costs the guest nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_memory: Option<ByteSize>,
    /// What the guest's balloon leaves it; 0: everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balloon: Option<ByteSize>,
    /// The most CPU time, in thousandths of a host CPU; 0: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_limit: Option<u32>,
    #[serde(skip_serializing_if = "VmResourcesUpdate::is_empty")]
    pub resources: VmResourcesUpdate,
    /// What balancing may do with it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub automation: Option<VmAutomation>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub firmware: Option<Firmware>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_order: Option<Vec<BootDevice>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nics: Option<Vec<VmNic>>,
    /// The ISO in the first CD-ROM drive; an empty text takes it out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub iso: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub customization: Option<Customization>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub restart: Option<RestartPolicy>,
    /// What it does not say stays.
    #[serde(skip_serializing_if = "MigrationTerms::is_default")]
    pub migration: MigrationTerms,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protected: Option<bool>,
    /// All limits of its snapshots anew; an empty object: as the policies say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub snapshot_limits: Option<SnapshotLimits>,
}

/// How a VM is brought down.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum StopMode {
    /// Ask the guest agent, then press the ACPI power button, and wait. The guest may refuse.
    #[default]
    Graceful,
    /// Graceful, and power off when the timeout is over.
    GracefulThenOff,
    /// Pull the plug.
    PowerOff,
}

/// A command to run in the guest through its agent; no shell is put between.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    /// Program and arguments; at least the program.
    #[schema(min_items = 1)]
    pub command: Vec<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stdin: String,
    /// Seconds, 1 to 3600.
    #[serde(default = "ExecRequest::default_timeout")]
    pub timeout_seconds: u32,
}

impl ExecRequest {
    pub const fn default_timeout() -> u32 {
        30
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExecAnswer {
    /// Absent when a signal ended it.
    pub exit_code: Option<i32>,
    pub signal: Option<i32>,
    /// Bytes that are not UTF-8 are replaced; at most 1 MiB.
    pub stdout: String,
    pub stderr: String,
    /// Output was longer than what is returned.
    pub truncated: bool,
}

/// The smallest and the largest memory of a VM.
const MEMORY: std::ops::RangeInclusive<u64> = (64 << 20)..=(24 << 40);
const DISK: std::ops::RangeInclusive<u64> = (1 << 20)..=(64 << 40);

impl VmSpec {
    /// Checks what can be checked without looking at the inventory.
    ///
    /// # Errors
    /// The first field that is out of range, with its range.
    pub fn validate(&self) -> Result<(), SpecError> {
        let memory = self.memory.bytes();
        if !MEMORY.contains(&memory) || !memory.is_multiple_of(1 << 20) {
            return Err(SpecError::new(
                "memory",
                format!("{} is not possible; 64MiB to 24TiB in whole MiB", self.memory),
            ));
        }
        self.validate_limits()?;
        if self.own_disks().count() > 64 || self.nics.len() > 16 || self.cdroms.len() > 4 {
            return Err(SpecError::new(
                "disks",
                "a VM has at most 64 disks, 16 NICs and 4 CD-ROM drives",
            ));
        }
        for (index, disk) in self.own_disks().enumerate() {
            if !disk.provisioning.is_thin() && disk.source != DiskSource::Blank {
                let reason = "only a blank disk can be provisioned in full";
                return Err(SpecError::new(format!("disks[{index}].provisioning"), reason));
            }
            if !DISK.contains(&disk.size.bytes()) || !disk.size.bytes().is_multiple_of(512) {
                let reason =
                    format!("{} is not possible; 1MiB to 64TiB in whole sectors", disk.size);
                return Err(SpecError::new(format!("disks[{index}].size"), reason));
            }
        }
        unique(
            "disks",
            self.own_disks().map(|d| &d.name).chain(self.cdroms.iter().map(|c| &c.name)),
        )?;
        unique("nics", self.nics.iter().map(|nic| &nic.name))?;
        if let Some(model) = &self.cpu_model
            && (model.is_empty()
                || !model.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)))
        {
            return Err(SpecError::new("cpu_model", "use letters, digits, `-`, `_` and `.`"));
        }
        self.customization.as_ref().map_or(Ok(()), |it| it.validate())
    }
}

impl VmSpec {
    fn validate_limits(&self) -> Result<(), SpecError> {
        let whole = |size: ByteSize| size.bytes().is_multiple_of(1 << 20);
        if let Some(max) = self.max_memory
            && (max < self.memory || max.bytes() > *MEMORY.end() || !whole(max))
        {
            let reason = format!(
                "{max} is not possible; whole MiB, at least the memory of {}, at most 24TiB",
                self.memory
            );
            return Err(SpecError::new("max_memory", reason));
        }
        if let Some(balloon) = self.balloon
            && (balloon > self.memory || balloon.bytes() < *MEMORY.start() || !whole(balloon))
        {
            let reason = format!(
                "{balloon} is not possible; whole MiB, 64MiB to the memory of {}",
                self.memory
            );
            return Err(SpecError::new("balloon", reason));
        }
        let reserved = self.resources.memory_reservation;
        let usable = self.balloon.unwrap_or(self.memory);
        if reserved > usable {
            let reason =
                format!("{reserved} is not possible; at most the {usable} that it can use");
            return Err(SpecError::new("resources.memory_reservation", reason));
        }
        for (index, disk) in self.disks.iter().enumerate() {
            disk.limits
                .validate()
                .map_err(|reason| SpecError::new(format!("disks[{index}].limits"), reason))?;
        }
        Ok(())
    }
}

fn unique<'a>(field: &str, names: impl Iterator<Item = &'a Name>) -> Result<(), SpecError> {
    let mut seen = std::collections::HashSet::new();
    for name in names {
        if !seen.insert(name) {
            return Err(SpecError::new(field, format!("the name `{name}` is used twice")));
        }
    }
    Ok(())
}
