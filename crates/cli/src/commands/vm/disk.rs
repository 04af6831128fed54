//! `hostler vm disk list|add|resize|set|detach|attach|remove`.

use clap::{Args, Subcommand, ValueEnum};
use hostler_api::disk::{
    Add, Attach, Detach, DiskAttachQuery, DiskDetachQuery, DiskPath, DiskRemoveQuery, Remove,
    Update,
};
use hostler_endpoint::NoParams;
use hostler_types::{
    ByteSize, DiskBus, DiskSpec, DiskUpdate, IoLimits, Name, Provisioning, Ref, Task, VmDisk,
};

use super::{VmName, show};
use crate::error::{CliError, Exit};
use crate::names::Names;
use crate::output::Listing;
use crate::session::{Session, once};
use crate::table::{Cell, Tone};
use crate::wait::{self, WaitOptions};

/// Disks of a VM: add, grow, limit, detach, attach, remove; also while it runs
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
Examples:
  hostler vm disk add web01 --name data --size 20GiB
  hostler vm disk resize web01 data 40GiB --grow-fs
  hostler vm disk remove web01 data --delete-data"
)]
pub(crate) struct DiskArgs {
    #[command(subcommand)]
    command: DiskCommand,
}

#[derive(Debug, Subcommand)]
enum DiskCommand {
    List(ListDisks),
    Add(Box<AddDisk>),
    Resize(ResizeDisk),
    Set(SetDisk),
    Detach(DetachDisk),
    Attach(AttachDisk),
    Remove(RemoveDisk),
}

impl DiskArgs {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        match self.command {
            DiskCommand::List(command) => command.run(session).await,
            DiskCommand::Add(command) => command.run(session).await,
            DiskCommand::Resize(command) => command.run(session).await,
            DiskCommand::Set(command) => command.run(session).await,
            DiskCommand::Detach(command) => command.run(session).await,
            DiskCommand::Attach(command) => command.run(session).await,
            DiskCommand::Remove(command) => command.run(session).await,
        }
    }
}

/// List a VM's disks, the detached ones last
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  hostler vm disk list web01")]
struct ListDisks {
    #[command(flatten)]
    vm: VmName,
}

impl ListDisks {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        let path = self.vm.path();
        let (vm, names) = futures::try_join!(show(session, &path), Names::around_vms(session))?;
        let names = names.with_parents(session, &vm).await?;
        let row = |disk: &DiskSpec| {
            let status = vm.status.disks.iter().find(|status| status.name == disk.name);
            let attached = vm.spec.disks.iter().any(|attached| attached.name == disk.name);
            let source = match &disk.source {
                hostler_types::DiskSource::Blank => Cell::blank("blank"),
                made => Cell::new(names.source(made)),
            };
            vec![
                Cell::new(&disk.name),
                Cell::number(disk.size),
                Cell::maybe(status.map(|status| status.allocated)),
                Cell::new(disk.bus.as_str()),
                source,
                Cell::maybe(names.beneath(&vm, &disk.name)),
                Cell::new(disk.limits.to_string()),
                match attached {
                    true => Cell::new("attached").tone(Tone::Good),
                    false => Cell::new("detached").tone(Tone::Dim),
                },
            ]
        };
        let listing = Listing {
            header: &["DISK", "SIZE", "WRITTEN", "BUS", "SOURCE", "LIES ON", "LIMITS", "STATE"],
            empty: "the vm has no disk",
            name: &|disk: &DiskSpec| disk.name.to_string(),
            row: &row,
        };
        let disks: Vec<_> = vm.spec.own_disks().cloned().collect();
        session.output.list(&disks, &listing)
    }
}

/// Which disk of which VM.
#[derive(Debug, Args)]
struct DiskName {
    #[command(flatten)]
    vm: VmName,

    /// Name of the disk
    #[arg(value_name = "DISK")]
    disk: Name,
}

impl DiskName {
    fn path(&self) -> DiskPath {
        DiskPath { vm: self.vm.vm.clone(), disk: self.disk.clone() }
    }
}

/// Give a VM another disk
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler vm disk add web01 --size 20GiB
  hostler vm disk add web01 --name db --size 100GiB --bus virtio-scsi --provisioning reserved
  hostler vm disk add web01 --image debian-12 --iops 500 --iops-burst 2000")]
struct AddDisk {
    #[command(flatten)]
    vm: VmName,

    /// Its name, also the serial number that the guest sees [default: disk0, disk1, …]
    #[arg(long, value_name = "NAME")]
    name: Option<Name>,

    /// Its size, such as 20GiB
    #[arg(long, value_name = "SIZE", required_unless_present = "image")]
    size: Option<ByteSize>,

    /// Image to put it on; nothing is copied
    #[arg(long, value_name = "IMAGE")]
    image: Option<Ref>,

    /// How the guest sees it
    #[arg(long, value_enum, default_value = "virtio-blk", value_name = "BUS")]
    bus: BusArg,

    /// How much of it is on the datastore from the beginning
    #[arg(long, value_enum, default_value = "thin", value_name = "HOW")]
    provisioning: ProvisioningArg,

    #[command(flatten)]
    limits: LimitArgs,

    #[command(flatten)]
    wait: WaitOptions,
}

impl AddDisk {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        let disk = VmDisk {
            name: self.name,
            size: self.size,
            image: self.image,
            bus: self.bus.into(),
            limits: self.limits.limits(),
            provisioning: self.provisioning.into(),
        };
        let path = self.vm.path();
        let task = session.call_with::<Add>(&path, &NoParams {}, disk, once()).await?;
        finish(session, &self.vm, task, &self.wait, "has another disk").await
    }
}

/// Grow a disk; its guest sees it at once
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  hostler vm disk resize web01 root 40GiB --grow-fs")]
struct ResizeDisk {
    #[command(flatten)]
    disk: DiskName,

    /// Its new size; a disk does not shrink
    #[arg(value_name = "SIZE")]
    size: ByteSize,

    /// Also grow the last partition and its file system, through the guest agent
    #[arg(long)]
    grow_fs: bool,

    #[command(flatten)]
    wait: WaitOptions,
}

impl ResizeDisk {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        let update = DiskUpdate {
            size: Some(self.size),
            grow_file_system: self.grow_fs,
            ..DiskUpdate::default()
        };
        change(session, &self.disk, update, &self.wait).await
    }
}

/// Set a disk's limits anew; without any limit it has none
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler vm disk set web01 data --iops 500 --bandwidth 50MiB
  hostler vm disk set web01 data --no-limits")]
struct SetDisk {
    #[command(flatten)]
    disk: DiskName,

    #[command(flatten)]
    limits: LimitArgs,

    /// Take all limits away
    #[arg(long, conflicts_with_all = ["iops", "iops_burst", "bandwidth", "bandwidth_burst"])]
    no_limits: bool,

    #[command(flatten)]
    wait: WaitOptions,
}

impl SetDisk {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        let limits = self.limits.limits();
        if limits.is_unlimited() && !self.no_limits {
            return Err(CliError::new(Exit::Usage, "nothing to change")
                .hint("see `hostler vm disk set --help`"));
        }
        let update = DiskUpdate { limits: Some(limits), ..DiskUpdate::default() };
        change(session, &self.disk, update, &self.wait).await
    }
}

/// Unplug a disk and keep it
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  hostler vm disk detach web01 data")]
struct DetachDisk {
    #[command(flatten)]
    disk: DiskName,

    /// Also when the guest uses it, such as a mounted one; what it has not written yet is lost
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    wait: WaitOptions,
}

impl DetachDisk {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        let path = self.disk.path();
        let query = DiskDetachQuery { force: self.force };
        let task = session.call_with::<Detach>(&path, &query, (), once()).await?;
        finish(session, &self.disk.vm, task, &self.wait, "keeps a disk detached").await
    }
}

/// Plug a detached disk in, the VM's own or another VM's
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler vm disk attach web01 data
  hostler vm disk attach web02 data --from web01
  hostler vm disk attach web02 data --from web01 --name old-data")]
struct AttachDisk {
    #[command(flatten)]
    disk: DiskName,

    /// The VM that has the disk, detached; it becomes this VM's
    #[arg(long, value_name = "VM")]
    from: Option<Ref>,

    /// What it is to be called here, also the serial number that the guest sees [default: as there]
    #[arg(long, value_name = "NAME", requires = "from")]
    name: Option<Name>,

    #[command(flatten)]
    wait: WaitOptions,
}

impl AttachDisk {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        let path = self.disk.path();
        let verb = match &self.from {
            Some(_) => "has taken over a disk",
            None => "has its disk again",
        };
        let query = DiskAttachQuery { from: self.from, name: self.name };
        let task = session.call_with::<Attach>(&path, &query, (), once()).await?;
        finish(session, &self.disk.vm, task, &self.wait, verb).await
    }
}

/// Unplug a disk and delete what is on it
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  hostler vm disk remove web01 data --delete-data")]
struct RemoveDisk {
    #[command(flatten)]
    disk: DiskName,

    /// Yes, delete what is on it, for good
    #[arg(long)]
    delete_data: bool,

    /// Also when the guest uses it, such as a mounted one
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    wait: WaitOptions,
}

impl RemoveDisk {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        let query = DiskRemoveQuery { delete_data: self.delete_data, force: self.force };
        let path = self.disk.path();
        let task = session.call_with::<Remove>(&path, &query, (), once()).await?;
        finish(session, &self.disk.vm, task, &self.wait, "has a disk less").await
    }
}

async fn change(
    session: &Session,
    disk: &DiskName,
    update: DiskUpdate,
    wait: &WaitOptions,
) -> Result<(), CliError> {
    let task = session.call_with::<Update>(&disk.path(), &NoParams {}, update, once()).await?;
    finish(session, &disk.vm, task, wait, "changed").await
}

/// Sees the task through and passes on what it found worth telling.
async fn finish(
    session: &Session,
    vm: &VmName,
    ordered: Task,
    wait: &WaitOptions,
    verb: &str,
) -> Result<(), CliError> {
    if !wait.waits() {
        return crate::commands::task::print_ordered(session, &ordered);
    }
    let ended = wait::task(session, ordered).await?;
    let vm = show(session, &vm.path()).await?;
    session.output.done(verb, "vm", vm.metadata.name.as_str(), &vm)?;
    for message in &ended.status.messages {
        session.output.remark(&message.text);
    }
    Ok(())
}

/// What a disk may do per second.
#[derive(Debug, Args)]
struct LimitArgs {
    /// Most operations per second
    #[arg(long, value_name = "COUNT", help_heading = "Limits")]
    iops: Option<u64>,

    /// Most operations per second for a second at a time
    #[arg(long, value_name = "COUNT", requires = "iops", help_heading = "Limits")]
    iops_burst: Option<u64>,

    /// Most bytes per second, such as 50MiB
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    bandwidth: Option<ByteSize>,

    /// Most bytes per second for a second at a time
    #[arg(long, value_name = "SIZE", requires = "bandwidth", help_heading = "Limits")]
    bandwidth_burst: Option<ByteSize>,
}

impl LimitArgs {
    fn limits(&self) -> IoLimits {
        IoLimits {
            iops: self.iops,
            iops_burst: self.iops_burst,
            bytes_per_second: self.bandwidth,
            bytes_per_second_burst: self.bandwidth_burst,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum BusArg {
    /// Fast and simple
    VirtioBlk,
    /// One controller for many disks
    VirtioScsi,
}

impl From<BusArg> for DiskBus {
    fn from(bus: BusArg) -> Self {
        match bus {
            BusArg::VirtioBlk => Self::VirtioBlk,
            BusArg::VirtioScsi => Self::VirtioScsi,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum ProvisioningArg {
    /// Only what is written
    Thin,
    /// All of it reserved, none of it written
    Reserved,
    /// All of it written with zeros
    Zeroed,
}

impl From<ProvisioningArg> for Provisioning {
    fn from(provisioning: ProvisioningArg) -> Self {
        match provisioning {
            ProvisioningArg::Thin => Self::Thin,
            ProvisioningArg::Reserved => Self::Reserved,
            ProvisioningArg::Zeroed => Self::Zeroed,
        }
    }
}
