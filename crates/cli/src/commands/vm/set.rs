//! `hostler vm set|rename`.

use clap::{Args, ValueEnum};
use hostler_api::vm;
use hostler_endpoint::{CallOptions, NoParams};
use hostler_types::{
    BootDevice, ByteSize, Cores, Firmware, Labels, LinkState, Millicpus, Name, QuietWindow, Ref,
    RestartPolicy, VmAutomation, VmNic, VmResourcesUpdate, VmUpdate,
};

use super::change::{Request, carry_out};
use super::create::{FirmwareArg, RestartArg};
use super::{VmName, finish, show};
use crate::error::{CliError, Exit};
use crate::input::{self, Label};
use crate::resources::ResourceArgs;
use crate::session::{Session, once};
use crate::snapshot_limits::{self as limits, AtLimitArg, LimitChanges, Setting};
use crate::wait::WaitOptions;

/// Change a VM: now, as far as its guest can take it, else at its next start
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler vm set web01 --cpus 4 --memory 8GiB
  hostler vm set web01 --cpus 8 --firmware uefi --plan
  hostler vm set web01 --cpu-limit 1.5 --balloon 2GiB
  hostler vm set web01 --pool prod --cpu-shares high --memory-reservation 1GiB
  hostler vm set web01 --drs manual
  hostler vm set web01 --label tier=db --unlabel canary --protect
  hostler vm set web01 --snapshot-max-age 7d --snapshot-at-limit merge
  hostler vm set web01 --iso debian-netinst --boot-order cdrom,disk")]
pub(crate) struct Set {
    #[command(flatten)]
    vm: VmName,

    /// Number of virtual CPUs
    #[arg(long, value_name = "COUNT", value_parser = input::cores)]
    cpus: Option<Cores>,

    /// Memory, such as 512MiB or 8GiB
    #[arg(long, value_name = "SIZE")]
    memory: Option<ByteSize>,

    /// How far memory may grow while it runs; `none`: as far as costs the guest nothing
    #[arg(long, value_name = "SIZE", value_parser = size_or_none)]
    max_memory: Option<ByteSize>,

    /// Memory that the guest's balloon leaves it; `none`: all of it
    #[arg(long, value_name = "SIZE", value_parser = size_or_none)]
    balloon: Option<ByteSize>,

    /// The most CPU time, in CPUs, such as 1.5; `none`: no limit
    #[arg(long, value_name = "CPUS", value_parser = limit_or_none)]
    cpu_limit: Option<CpuLimit>,

    #[command(flatten)]
    resources: ResourceArgs,

    /// What balancing may do with it
    #[arg(long, value_enum, value_name = "LEVEL")]
    drs: Option<DrsArg>,

    /// Firmware
    #[arg(long, value_enum, value_name = "FIRMWARE")]
    firmware: Option<FirmwareArg>,

    /// What to boot from, in this order: disk, cdrom, network
    #[arg(long, value_name = "DEVICES", value_delimiter = ',', value_parser = parse_boot)]
    boot_order: Vec<BootDevice>,

    /// Network of a NIC; repeat it for several. Replaces all NICs
    #[arg(long = "network", value_name = "NETWORK")]
    networks: Vec<Ref>,

    /// Take all NICs away
    #[arg(long, conflicts_with = "networks")]
    no_network: bool,

    /// ISO image for the CD-ROM drive
    #[arg(long, value_name = "IMAGE")]
    iso: Option<Ref>,

    /// Take the ISO out of the CD-ROM drive
    #[arg(long, conflicts_with = "iso")]
    no_iso: bool,

    /// What the host does by itself when QEMU dies
    #[arg(long, value_enum, value_name = "POLICY")]
    restart: Option<RestartArg>,

    #[command(flatten)]
    migration: super::migrate::Terms,

    /// Label to add or change; repeat it for several
    #[arg(long = "label", short = 'l', value_name = "KEY=VALUE")]
    labels: Vec<Label>,

    /// Label to take away; repeat it for several
    #[arg(long = "unlabel", value_name = "KEY")]
    unlabels: Vec<String>,

    /// What it is for, in words
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,

    /// Refuse to delete it
    #[arg(long, conflicts_with = "no_protect")]
    protect: bool,

    /// Allow to delete it
    #[arg(long)]
    no_protect: bool,

    /// How old its snapshots may become, such as 7d; `none`, or `default`: as policies say
    #[arg(long, value_name = "DURATION", value_parser = limits::age, help_heading = "Snapshots")]
    snapshot_max_age: Option<Setting<u64>>,

    /// How many snapshots may lie beneath its disks; `none`, or `default`
    #[arg(long, value_name = "COUNT", value_parser = limits::depth, help_heading = "Snapshots")]
    snapshot_max_depth: Option<Setting<u32>>,

    /// How much its snapshots may hold, such as 50GiB; `none`, or `default`
    #[arg(long, value_name = "SIZE", value_parser = limits::size, help_heading = "Snapshots")]
    snapshot_max_size: Option<Setting<ByteSize>>,

    /// What happens at a limit of its snapshots
    #[arg(long, value_enum, value_name = "WHAT", help_heading = "Snapshots")]
    snapshot_at_limit: Option<AtLimitArg>,

    /// When its snapshots may be merged, such as 01:00-05:00; `none`: at any time, or `default`
    #[arg(long, value_name = "FROM-TO", value_parser = limits::window, help_heading = "Snapshots")]
    snapshot_window: Option<Setting<QuietWindow>>,

    /// Tell what would happen, and when; change nothing
    #[arg(long, alias = "dry-run")]
    plan: bool,

    #[command(flatten)]
    wait: WaitOptions,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum DrsArg {
    /// As the cluster says
    Inherit,
    /// Never move it
    #[value(alias = "off")]
    Disabled,
    /// Recommend moves
    Manual,
    /// Recommend moves; it is placed without asking
    Partial,
    /// Move it without asking
    Full,
}

impl From<DrsArg> for VmAutomation {
    fn from(level: DrsArg) -> Self {
        match level {
            DrsArg::Inherit => Self::Inherit,
            DrsArg::Disabled => Self::Disabled,
            DrsArg::Manual => Self::Manual,
            DrsArg::Partial => Self::Partial,
            DrsArg::Full => Self::Full,
        }
    }
}

/// In thousandths; 0 is none.
#[derive(Debug, Clone, Copy)]
struct CpuLimit(u32);

fn limit_or_none(text: &str) -> Result<CpuLimit, String> {
    if text == "none" {
        return Ok(CpuLimit(0));
    }
    text.parse::<Millicpus>().map(|limit| CpuLimit(limit.count()))
}

/// 0 is none.
fn size_or_none(text: &str) -> Result<ByteSize, String> {
    if text == "none" {
        return Ok(ByteSize(0));
    }
    text.parse().map_err(|error: hostler_types::SizeError| error.to_string())
}

fn parse_boot(text: &str) -> Result<BootDevice, String> {
    match text {
        "disk" => Ok(BootDevice::Disk),
        "cdrom" => Ok(BootDevice::Cdrom),
        "network" => Ok(BootDevice::Network),
        _ => Err("a boot device is disk, cdrom or network".to_owned()),
    }
}

impl Set {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let path = self.vm.path();
        let mut options = once();
        let mut update = self.update();
        let (limits, relabels) =
            (self.limits(), !(self.labels.is_empty() && self.unlabels.is_empty()));
        if relabels || !limits.is_empty() {
            // Both are replaced as a whole: what was read must still be there.
            let vm = show(session, &path).await?;
            update.labels = relabels.then(|| self.labels(vm.metadata.labels));
            let changed = || limits.applied(vm.spec.snapshot_limits);
            update.snapshot_limits = (!limits.is_empty()).then(changed);
            options = CallOptions { if_match: Some(vm.metadata.revision.0), ..options };
        }
        if update == VmUpdate::default() {
            return Err(
                CliError::new(Exit::Usage, "nothing to change").hint("see `hostler vm set --help`")
            );
        }
        let (plan_only, wait) = (self.plan, &self.wait);
        carry_out(session, Request { path, update, options, plan_only, wait }).await
    }

    fn update(&self) -> VmUpdate {
        let nics = self.networks.iter().map(|network| VmNic {
            name: None,
            network: network.clone(),
            mac: None,
            address: None,
            link: LinkState::Up,
        });
        let replaces_nics = self.no_network || !self.networks.is_empty();
        let iso = self.iso.as_ref().map(ToString::to_string);
        VmUpdate {
            description: self.description.clone(),
            cpus: self.cpus,
            memory: self.memory,
            max_memory: self.max_memory,
            balloon: self.balloon,
            cpu_limit: self.cpu_limit.map(|limit| limit.0),
            resources: self.resources.over(VmResourcesUpdate::default()),
            automation: self.drs.map(VmAutomation::from),
            firmware: self.firmware.map(Firmware::from),
            boot_order: (!self.boot_order.is_empty()).then(|| self.boot_order.clone()),
            nics: replaces_nics.then(|| nics.collect()),
            iso: iso.or_else(|| self.no_iso.then(String::new)),
            restart: self.restart.map(RestartPolicy::from),
            migration: self.migration.terms(),
            protected: (self.protect || self.no_protect).then_some(self.protect),
            ..VmUpdate::default()
        }
    }

    const fn limits(&self) -> LimitChanges {
        LimitChanges {
            max_age: self.snapshot_max_age,
            max_depth: self.snapshot_max_depth,
            max_size: self.snapshot_max_size,
            at_limit: self.snapshot_at_limit,
            window: self.snapshot_window,
        }
    }

    fn labels(&self, mut labels: Labels) -> Labels {
        labels.retain(|key, _| !self.unlabels.contains(key));
        labels.extend(self.labels.iter().map(Label::pair));
        labels
    }
}

/// Give a VM another name
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  hostler vm rename web01 db01")]
pub(crate) struct Rename {
    #[command(flatten)]
    vm: VmName,

    /// The new name
    #[arg(value_name = "NAME")]
    name: Name,

    #[command(flatten)]
    wait: WaitOptions,
}

impl Rename {
    pub(super) async fn run(&self, session: &Session) -> Result<(), CliError> {
        let request = vm::RenameRequest { name: self.name.clone() };
        let path = self.vm.path();
        let task = session.call_with::<vm::Rename>(&path, &NoParams {}, request, once()).await?;
        let renamed = vm::VmPath { vm: self.name.clone().into() };
        let verb = format!("(was {}) renamed", self.vm.vm);
        finish(session, task, self.wait.waits(), &verb, &renamed).await
    }
}
