//! `hostler vm clone` and `hostler vm flatten`, and `hostler vm create` of many from a template.

use clap::Args;
use hostler_api::template::{self, TemplateCloneQuery, TemplatePath};
use hostler_api::vm::{self, FlattenRequest, VmCloned, VmCreateQuery, VmPath};
use hostler_endpoint::NoParams;
use hostler_types::{
    ByteSize, CloneMode, Cores, Customization, LinkState, Name, NamePattern, Ref, RestartPolicy,
    TemplateRef, Vm, VmClone, VmCreate, VmNic,
};

use super::VmName;
use crate::customize::{self, Setting};
use crate::error::{CliError, Exit};
use crate::input::{self, Label};
use crate::names::Names;
use crate::session::{Session, once};
use crate::wait::{self, StartWaitOptions, WaitOptions};

/// Make VMs from another VM: copies, linked clones, or instant clones
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler vm clone web01 web02
  hostler vm clone web01 web02 --linked --start --wait=guest
  hostler vm clone web01 --name 'web-{01..}' --count 20 --linked
  hostler vm clone web01 --name 'ci-{01..}' --count 10 --instant --wait=customized
  hostler vm clone web01 test --linked --snapshot before-upgrade --cpus 4 --memory 8GiB

A full clone is an independent copy. A linked one is made in an instant, because its disks lie on
the parent's: the parent stays as long as they do (see `hostler vm flatten --help`). An instant one
also goes on from where the running parent is, in its memory, and boots only when it is started the
next time; with --wait=customized it has taken its own identity when this returns. Each clone has
MAC addresses and an identity of its own. Of many, either all are made or none.")]
pub(crate) struct Clone {
    #[command(flatten)]
    parent: VmName,

    /// Name of the clone
    #[arg(value_name = "NEW", required_unless_present = "pattern")]
    new: Option<Name>,

    /// Names of many: web-{01..} with --count, or web-{01..20}
    #[arg(long = "name", value_name = "PATTERN", conflicts_with = "new")]
    pattern: Option<NamePattern>,

    /// How many
    #[arg(long, value_name = "NUMBER", requires = "pattern")]
    count: Option<u32>,

    /// Lie on the parent's disks; nothing is copied
    #[arg(long, conflicts_with = "full")]
    linked: bool,

    /// Go on from where the running parent is; nothing is copied, nothing boots
    #[arg(
        long,
        conflicts_with_all = [
            "linked", "full", "snapshot", "cpus", "memory", "networks", "spec", "settings",
            "datastore",
        ]
    )]
    instant: bool,

    /// Copy the parent's disks (the default)
    #[arg(long)]
    full: bool,

    /// As the parent was at this snapshot [default: as it is now]
    #[arg(long, value_name = "SNAPSHOT")]
    snapshot: Option<Ref>,

    /// Number of virtual CPUs [default: the parent's]
    #[arg(long, value_name = "COUNT", value_parser = input::cores)]
    cpus: Option<Cores>,

    /// Memory, such as 8GiB [default: the parent's]
    #[arg(long, value_name = "SIZE")]
    memory: Option<ByteSize>,

    /// Network for a NIC; repeat it for several [default: the parent's]
    #[arg(long = "network", value_name = "NETWORK")]
    networks: Vec<Ref>,

    /// Customization spec; what is given here is laid over it
    #[arg(long, value_name = "SPEC", help_heading = "Guest")]
    spec: Option<Ref>,

    /// hostname, address, time-zone, locale, dns, search, package or run; repeat it for several
    #[arg(long = "set", value_name = "KEY=VALUE", help_heading = "Guest")]
    settings: Vec<Setting>,

    /// Label; repeat it for several
    #[arg(long = "label", short = 'l', value_name = "KEY=VALUE")]
    labels: Vec<Label>,

    /// What it is for, in words [default: the parent's]
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,

    /// How long it may stay, such as 12h or 30d [default: for ever]
    #[arg(long, value_name = "DURATION", value_parser = crate::duration::parse)]
    lease: Option<std::time::Duration>,

    /// Refuse to delete it until this is taken away (`hostler vm set --no-protect`)
    #[arg(long)]
    protect: bool,

    /// Datastore for the copies [default: the parent's]
    #[arg(long, value_name = "DATASTORE", help_heading = "Placement", conflicts_with = "linked")]
    datastore: Option<Ref>,

    /// Decide and check, but make nothing
    #[arg(long, help_heading = "Placement")]
    dry_run: bool,

    /// Start them when all are made
    #[arg(long)]
    start: bool,

    #[command(flatten)]
    wait: StartWaitOptions,
}

impl Clone {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        if self.wait.for_more() && !self.runs() {
            let message = "waiting for the guest needs a VM that is started";
            return Err(CliError::new(Exit::Usage, message).hint("add --start"));
        }
        let request = self.request()?;
        let (path, query) = (self.parent.path(), VmCreateQuery { dry_run: self.dry_run });
        let cloned: VmCloned =
            session.call_with::<vm::Clone>(&path, &query, request, once()).await?;
        let many = self.pattern.is_some();
        if cloned.task.is_none() {
            return preview(session, &cloned, many).await;
        }
        follow(session, cloned, &self.wait, many, self.verb()).await
    }

    /// Whether the clones run in the end.
    fn runs(&self) -> bool {
        self.start || self.instant
    }

    fn mode(&self) -> CloneMode {
        match (self.linked, self.instant) {
            (true, _) => CloneMode::Linked,
            (_, true) => CloneMode::Instant,
            _ => CloneMode::Full,
        }
    }

    fn verb(&self) -> &'static str {
        match (self.wait.for_customized(), self.runs()) {
            (true, _) if self.instant => "cloned and customized",
            (false, _) if self.instant => "cloned",
            (true, _) => "cloned, started and customized",
            (false, true) => "cloned and started",
            (false, false) => "cloned",
        }
    }

    fn request(&self) -> Result<VmClone, CliError> {
        let name = match (&self.pattern, &self.new) {
            (Some(pattern), _) => pattern.clone(),
            (None, Some(name)) => name.clone().into(),
            (None, None) => return Err(CliError::new(Exit::Usage, "a clone needs a name")),
        };
        let mut guest = Customization::default();
        let addresses = customize::apply(&self.settings, &mut guest);
        let nic = |network: &Ref| VmNic {
            name: None,
            network: network.clone(),
            mac: None,
            address: None,
            link: LinkState::Up,
        };
        let mut nics: Vec<VmNic> = self.networks.iter().map(nic).collect();
        if addresses.len() > nics.len() {
            let message = format!("{} addresses for {} NICs", addresses.len(), nics.len());
            return Err(CliError::new(Exit::Usage, message).hint("add --network for each NIC"));
        }
        for (nic, address) in nics.iter_mut().zip(addresses) {
            nic.address = Some(address);
        }
        Ok(VmClone {
            mode: self.mode(),
            name,
            count: self.count,
            snapshot: self.snapshot.clone(),
            labels: self.labels.iter().map(Label::pair).collect(),
            description: self.description.clone(),
            cpus: self.cpus,
            memory: self.memory,
            nics: (!nics.is_empty()).then_some(nics),
            customization_spec: self.spec.clone(),
            customization: (guest != Customization::default()).then_some(guest),
            datastore: self.datastore.clone(),
            protected: self.protect,
            start: self.start,
            lease_seconds: self.lease.map(|lease| lease.as_secs()),
        })
    }
}

/// Follows the task that makes the VMs, and their guests, as far as is asked for.
async fn follow(
    session: &Session,
    cloned: VmCloned,
    wait: &StartWaitOptions,
    many: bool,
    verb: &str,
) -> Result<(), CliError> {
    let Some(task) = cloned.task else { return Ok(()) };
    if !wait.waits() {
        return crate::commands::task::print_ordered(session, &task);
    }
    wait::task(session, task).await?;
    let mut made: Vec<Vm> = Vec::new();
    for vm in &cloned.vms {
        let path = VmPath { vm: Ref::by_id(vm.id()) };
        made.push(wait.limit(session, &path, wait.guest(session, &path)).await?);
    }
    if many && session.output.is_data() {
        return session.output.data(&made);
    }
    made.iter().try_for_each(|vm| session.output.done(verb, "vm", vm.metadata.name.as_str(), vm))
}

/// What they would be.
async fn preview(session: &Session, cloned: &VmCloned, many: bool) -> Result<(), CliError> {
    if many && session.output.is_data() {
        return session.output.data(&cloned.vms);
    }
    for vm in &cloned.vms {
        let names = Names::around_vms(session).await?.with_parents(session, vm).await?;
        super::list::print(session, vm, &names)?;
    }
    session.output.remark("nothing was made: --dry-run");
    Ok(())
}

/// What is told of many, beside what they are.
#[derive(Debug, Clone, Copy)]
pub(super) struct Show {
    pub(super) dry_run: bool,
    pub(super) explain: bool,
}

/// Many VMs from a template, in one request: `hostler vm create --name PATTERN`.
pub(super) struct Many {
    template: TemplateRef,
    request: VmClone,
}

impl Many {
    /// `one` is what each is to be.
    ///
    /// # Errors
    /// It asks for something that only a single VM is given.
    pub(super) fn from_template(
        one: VmCreate,
        name: NamePattern,
        count: Option<u32>,
    ) -> Result<Self, CliError> {
        let template = one.template.clone().ok_or_else(|| {
            CliError::new(Exit::Usage, "many VMs are made from a template").hint("add --template")
        })?;
        let single = [
            ("--disk", one.disk_size.is_some() || !one.disks.is_empty()),
            ("--iso", one.iso.is_some()),
            ("--max-memory", one.max_memory.is_some()),
            ("--cpu-limit", one.cpu_limit.is_some()),
            ("--firmware", one.firmware.is_some()),
            ("--restart", one.restart != RestartPolicy::default()),
            ("--downtime-budget", !one.migration.is_default()),
            ("--host", one.host.is_some()),
        ];
        if let Some((flag, _)) = single.into_iter().find(|(_, given)| *given) {
            let message = format!("{flag} is for a single VM, not for many with --name");
            return Err(CliError::new(Exit::Usage, message)
                .hint("leave it out; `hostler vm set` changes VMs that are made"));
        }
        let mode = if one.full { CloneMode::Full } else { CloneMode::Linked };
        let request = VmClone {
            mode,
            name,
            count,
            snapshot: None,
            labels: one.labels,
            description: Some(one.description).filter(|text| !text.is_empty()),
            cpus: one.cpus,
            memory: one.memory,
            nics: one.nics,
            customization_spec: one.customization_spec,
            customization: one.customization,
            datastore: one.datastore,
            protected: one.protected,
            start: one.start,
            lease_seconds: one.lease_seconds,
        };
        Ok(Self { template, request })
    }

    pub(super) async fn run(
        self,
        session: &Session,
        show: Show,
        wait: &StartWaitOptions,
    ) -> Result<(), CliError> {
        let path = TemplatePath { template: self.template };
        let query = TemplateCloneQuery { dry_run: show.dry_run || show.explain };
        let started = self.request.start;
        let call = session.call_with::<template::Clone>(&path, &query, self.request, once());
        let cloned: VmCloned = call.await?;
        if show.explain {
            return super::create::why(session, &cloned.placement, &cloned.explained);
        }
        if show.dry_run {
            super::create::explain(session, &cloned.placement)?;
        }
        if cloned.task.is_none() {
            return preview(session, &cloned, true).await;
        }
        let verb = match (wait.for_customized(), started) {
            (true, _) => "created, started and customized",
            (false, true) => "created and started",
            (false, false) => "created",
        };
        follow(session, cloned, wait, true, verb).await
    }
}

/// Make a VM's disks independent of images and of other VMs' disks
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler vm flatten web02
  hostler vm flatten web02 --disk data --rate 50MiB

What the disks need of others is copied into them, while the guest runs or not. What was copied before
it is cancelled is kept, and the next time goes on from there.")]
pub(crate) struct Flatten {
    #[command(flatten)]
    vm: VmName,

    /// Only this disk; repeat it for several [default: all]
    #[arg(long = "disk", value_name = "DISK")]
    disks: Vec<Name>,

    /// At most so many bytes a second, such as 50MiB; for a VM that runs [default: no limit]
    #[arg(long, value_name = "SIZE")]
    rate: Option<ByteSize>,

    #[command(flatten)]
    wait: WaitOptions,
}

impl Flatten {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let path = self.vm.path();
        let max_rate = self.rate.map(ByteSize::bytes);
        let request = FlattenRequest { disks: self.disks, max_rate };
        let call = session.call_with::<vm::Flatten>(&path, &NoParams {}, request, once());
        super::finish(session, call.await?, self.wait.waits(), "flattened", &path).await
    }
}
