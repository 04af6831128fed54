//! `hostler vm create`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use hostler_api::vm::{self, VmCreateQuery, VmCreated, VmPath};
use hostler_endpoint::NoParams;
use hostler_types::{
    ByteSize, Cores, Customization, DiskBus, Firmware, GuestUser, IoLimits, LinkState, Millicpus,
    Name, NamePattern, PlacementExplanation, Provisioning, Ref, RestartPolicy, SecretText,
    TemplateRef, VmCreate, VmDisk, VmNic,
};

use super::clone;
use crate::customize::{self, Setting};
use crate::error::{CliError, Exit};
use crate::input::{self, Label};
use crate::names::Names;
use crate::output;
use crate::resources::ResourceArgs;
use crate::session::{Session, once};
use crate::wait::{self, StartWaitOptions};

/// Create a VM from an image, from a template, from blank disks and an ISO, or from a file
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler vm create web01 --image debian-12 --cpus 2 --memory 4GiB --disk 20GiB \\
      --ssh-key ~/.ssh/id_ed25519.pub --start --wait=guest
  hostler vm create web02 --template debian-12:3 --start
  hostler vm create --template debian-12 --name 'web-{01..}' --count 20 --start
  hostler vm create installer --disk 20GiB --iso debian-netinst --firmware uefi
  hostler vm create web02 --image debian-12 --spec web --set address=pool --start --wait=customized
  hostler vm create web02 -f web.yaml --explain

Of many, either all are made or none, in one task.")]
pub(crate) struct Create {
    /// Name: a DNS label (a-z, 0-9 and -)
    #[arg(required_unless_present_any = ["file", "pattern"])]
    name: Option<Name>,

    /// Names of many from a template: web-{01..} with --count, or web-{01..20}
    #[arg(
        long = "name",
        value_name = "PATTERN",
        conflicts_with_all = ["name", "file"],
        requires = "template"
    )]
    pattern: Option<NamePattern>,

    /// How many
    #[arg(long, value_name = "NUMBER", requires = "pattern")]
    count: Option<u32>,

    /// Take what is not given here from this YAML or JSON file (`-`: standard input)
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,

    #[command(flatten)]
    wish: Wish,

    /// Decide, tell filters, scores and numbers of the hosts, and make nothing
    #[arg(long, help_heading = "Placement", conflicts_with = "dry_run")]
    explain: bool,

    /// Decide and check, tell what it would be, and make nothing
    #[arg(long, help_heading = "Placement")]
    dry_run: bool,

    /// Start it when it is made
    #[arg(long)]
    start: bool,

    #[command(flatten)]
    wait: StartWaitOptions,
}

/// What a VM is to be; laid over what a file says.
#[derive(Debug, Args)]
pub(crate) struct Wish {
    /// Image for the first disk; nothing is copied
    #[arg(long, value_name = "IMAGE")]
    image: Option<Ref>,

    /// Template, or a version of it such as debian-12:3, that it is made from; what is not said
    /// here is as the template has it, and its disks lie on the template's
    #[arg(long, value_name = "TEMPLATE[:VERSION]", conflicts_with = "image")]
    template: Option<TemplateRef>,

    /// Copy the template's disks instead
    #[arg(long, requires = "template")]
    full: bool,

    /// ISO image in a CD-ROM drive
    #[arg(long, value_name = "IMAGE")]
    iso: Option<Ref>,

    /// Size of a disk, such as 20GiB; the first one is the image's or template's, if there is one
    #[arg(long = "disk", value_name = "SIZE")]
    disks: Vec<ByteSize>,

    /// Number of virtual CPUs [default: the template's, or 1]
    #[arg(long, value_name = "COUNT", value_parser = input::cores)]
    cpus: Option<Cores>,

    /// Memory, such as 512MiB or 8GiB [default: the template's, or 1GiB]
    #[arg(long, value_name = "SIZE")]
    memory: Option<ByteSize>,

    /// How far memory may grow while it runs [default: as far as costs the guest nothing]
    #[arg(long, value_name = "SIZE")]
    max_memory: Option<ByteSize>,

    /// The most CPU time, in CPUs, such as 1.5 [default: no limit]
    #[arg(long, value_name = "CPUS")]
    cpu_limit: Option<Millicpus>,

    #[command(flatten)]
    resources: ResourceArgs,

    /// Network for a NIC; repeat it for several [default: the template's, or default]
    #[arg(long = "network", value_name = "NETWORK")]
    networks: Vec<Ref>,

    /// No NIC at all
    #[arg(long, conflicts_with = "networks")]
    no_network: bool,

    /// Firmware [default: the template's, or bios]
    #[arg(long, value_enum, value_name = "FIRMWARE")]
    firmware: Option<FirmwareArg>,

    /// Customization spec; what is given here is laid over it
    #[arg(long, value_name = "SPEC", help_heading = "Guest")]
    spec: Option<Ref>,

    /// hostname, address, time-zone, locale, dns, search, package or run; repeat it for several
    #[arg(long = "set", value_name = "KEY=VALUE", help_heading = "Guest")]
    settings: Vec<Setting>,

    /// Host name in the guest [default: the VM's name]
    #[arg(long, value_name = "NAME", help_heading = "Guest")]
    hostname: Option<Name>,

    /// User to make in the guest, who may become root; --ssh-key is then for this user
    #[arg(long, value_name = "NAME", help_heading = "Guest")]
    user: Option<String>,

    /// SSH public key, or a file with some; repeat it for several
    #[arg(long = "ssh-key", value_name = "FILE|KEY", help_heading = "Guest")]
    ssh_keys: Vec<String>,

    /// Your own cloud-init user data, merged after what Hostler writes
    #[arg(long, value_name = "FILE", help_heading = "Guest")]
    user_data: Option<PathBuf>,

    /// cloud-init network configuration, version 2 [default: DHCP on each NIC]
    #[arg(long, value_name = "FILE", help_heading = "Guest")]
    network_config: Option<PathBuf>,

    /// Label; repeat it for several
    #[arg(long = "label", short = 'l', value_name = "KEY=VALUE")]
    labels: Vec<Label>,

    /// What it is for, in words
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,

    /// How long it may stay, such as 12h or 30d: then it is stopped, and recycled some time after
    /// (see `hostler vm renew --help`) [default: for ever]
    #[arg(long, value_name = "DURATION", value_parser = crate::duration::parse)]
    lease: Option<std::time::Duration>,

    /// Refuse to delete it until this is taken away (`hostler vm set --no-protect`)
    #[arg(long)]
    protect: bool,

    /// What the host does by itself when QEMU dies [default: on-failure]
    #[arg(long, value_enum, value_name = "POLICY")]
    restart: Option<RestartArg>,

    #[command(flatten)]
    migration: super::migrate::Terms,

    /// Host to put it on [default: the server decides]
    #[arg(long, value_name = "HOST", help_heading = "Placement")]
    host: Option<Ref>,

    /// Datastore for its disks [default: the server decides]
    #[arg(long, value_name = "DATASTORE", help_heading = "Placement")]
    datastore: Option<Ref>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum FirmwareArg {
    Bios,
    Uefi,
}

impl From<FirmwareArg> for Firmware {
    fn from(firmware: FirmwareArg) -> Self {
        match firmware {
            FirmwareArg::Bios => Self::Bios,
            FirmwareArg::Uefi => Self::Uefi,
        }
    }
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(super) enum RestartArg {
    /// Start it again, up to 5 times in 10 minutes
    OnFailure,
    /// Leave it
    Never,
}

impl From<RestartArg> for RestartPolicy {
    fn from(restart: RestartArg) -> Self {
        match restart {
            RestartArg::OnFailure => Self::OnFailure,
            RestartArg::Never => Self::Never,
        }
    }
}

impl Create {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let request = self.request()?;
        if self.wait.for_more() && !request.start {
            return Err(CliError::new(
                Exit::Usage,
                "waiting for the guest needs a VM that is started",
            )
            .hint("add --start"));
        }
        if let Some(pattern) = &self.pattern {
            let order = clone::Many::from_template(request, pattern.clone(), self.count)?;
            let show = clone::Show { dry_run: self.dry_run, explain: self.explain };
            return order.run(session, show, &self.wait).await;
        }
        let query = VmCreateQuery { dry_run: self.dry_run || self.explain };
        let call = session.call_with::<vm::Create>(&NoParams {}, &query, request, once());
        let created = call.await?;
        if self.explain {
            return why(session, &created.placement, &created.explained);
        }
        if self.dry_run {
            explain(session, &created.placement)?;
        }
        match created.task.clone() {
            None => self.preview(session, &created).await,
            Some(task) if !self.wait.waits() => {
                crate::commands::task::print_ordered(session, &task)
            }
            Some(task) => {
                let path = VmPath { vm: Ref::by_id(created.vm.id()) };
                let made = async {
                    wait::task(session, task).await?;
                    self.wait.guest(session, &path).await
                };
                let vm = self.wait.limit(session, &path, made).await?;
                let verb = match (self.wait.for_customized(), self.start) {
                    (true, _) => "created, started and customized",
                    (false, true) => "created and started",
                    (false, false) => "created",
                };
                session.output.done(verb, "vm", vm.metadata.name.as_str(), &vm)
            }
        }
    }

    /// What the VM would be.
    async fn preview(&self, session: &Session, created: &VmCreated) -> Result<(), CliError> {
        let names = Names::around_vms(session).await?;
        super::list::print(session, &created.vm, &names)?;
        session.output.remark("nothing was made: --dry-run");
        Ok(())
    }

    /// The file's request with the flags laid over it.
    fn request(&self) -> Result<VmCreate, CliError> {
        let mut request = match (&self.file, &self.name) {
            (Some(file), name) => {
                let document = input::one_document(file)?;
                let place = file.display().to_string();
                from_document(document, name.as_ref(), &place)?
            }
            (None, Some(name)) => {
                from_document(serde_json::Map::new(), Some(name), "the command line")?
            }
            // Each gets its own of the pattern.
            (None, None) if self.pattern.is_some() => {
                let first = "many".parse().expect("letters are a name");
                from_document(serde_json::Map::new(), Some(&first), "the command line")?
            }
            (None, None) => return Err(CliError::new(Exit::Usage, "a VM needs a name")),
        };
        request.start |= self.start;
        self.wish.lay_over(&mut request)?;
        let has_disk = request.image.is_some() || request.template.is_some();
        if !has_disk && request.disks.is_empty() {
            return Err(CliError::new(Exit::Usage, "a VM needs an image, a template or a disk")
                .hint(
                    "add --image IMAGE, --template TEMPLATE, or --disk SIZE with --iso IMAGE; see \
                 `hostler image list` and `hostler template list`",
                ));
        }
        Ok(request)
    }
}

impl Wish {
    pub(crate) fn lay_over(&self, request: &mut VmCreate) -> Result<(), CliError> {
        self.plain(request);
        self.disks(request);
        self.customize(request)
    }

    fn plain(&self, request: &mut VmCreate) {
        let networks = self.networks.iter().map(|network| VmNic {
            name: None,
            network: network.clone(),
            mac: None,
            address: None,
            link: LinkState::Up,
        });
        if self.no_network || !self.networks.is_empty() {
            request.nics = Some(networks.collect());
        }
        request.cpus = self.cpus.or(request.cpus);
        request.memory = self.memory.or(request.memory);
        request.max_memory = self.max_memory.or(request.max_memory);
        request.cpu_limit = self.cpu_limit.or(request.cpu_limit);
        request.resources = self.resources.over(std::mem::take(&mut request.resources));
        request.firmware = self.firmware.map(Firmware::from).or(request.firmware);
        request.migration = self.migration.terms().or(request.migration);
        request.restart = self.restart.map_or(request.restart, RestartPolicy::from);
        request.labels.extend(self.labels.iter().map(Label::pair));
        request.protected |= self.protect;
        request.lease_seconds = self.lease.map(|l| l.as_secs()).or(request.lease_seconds);
        request.full |= self.full;
        if self.template.is_some() {
            request.template.clone_from(&self.template);
        }
        if let Some(description) = &self.description {
            request.description.clone_from(description);
        }
        let over = |to: &mut Option<Ref>, from: &Option<Ref>| {
            if from.is_some() {
                to.clone_from(from);
            }
        };
        over(&mut request.image, &self.image);
        over(&mut request.iso, &self.iso);
        over(&mut request.host, &self.host);
        over(&mut request.datastore, &self.datastore);
    }

    fn disks(&self, request: &mut VmCreate) {
        let mut sizes = self.disks.iter().copied();
        if request.image.is_some() || request.template.is_some() {
            request.disk_size = sizes.next().or(request.disk_size);
        }
        request.disks.extend(sizes.map(|size| VmDisk {
            name: None,
            size: Some(size),
            image: None,
            bus: DiskBus::default(),
            limits: IoLimits::default(),
            provisioning: Provisioning::Thin,
        }));
    }

    fn customize(&self, request: &mut VmCreate) -> Result<(), CliError> {
        let mut keys = Vec::new();
        for key in &self.ssh_keys {
            keys.extend(input::ssh_keys(key)?);
        }
        let user_data = self.user_data.as_deref().map(input::text).transpose()?;
        let network_config = self.network_config.as_deref().map(input::text).transpose()?;
        if self.spec.is_some() {
            request.customization_spec.clone_from(&self.spec);
        }
        self.settings(request)?;
        let asked = self.hostname.is_some()
            || self.user.is_some()
            || !keys.is_empty()
            || user_data.is_some()
            || network_config.is_some();
        if !asked {
            return Ok(());
        }
        let guest = request.customization.get_or_insert_with(Customization::default);
        guest.hostname = self.hostname.clone().or(guest.hostname.take());
        match &self.user {
            Some(name) => {
                guest.users.push(GuestUser {
                    name: name.clone(),
                    ssh_keys: keys,
                    sudo: true,
                    password: None,
                });
            }
            None => guest.ssh_keys.extend(keys),
        }
        guest.user_data = user_data.map(SecretText::new).or(guest.user_data.take());
        guest.network_config = network_config.or(guest.network_config.take());
        Ok(())
    }
}

impl Wish {
    /// `--set`. Addresses are those of the NICs, in their order.
    fn settings(&self, request: &mut VmCreate) -> Result<(), CliError> {
        if self.settings.is_empty() {
            return Ok(());
        }
        let mut guest = request.customization.take().unwrap_or_default();
        let addresses = customize::apply(&self.settings, &mut guest);
        if guest != Customization::default() {
            request.customization = Some(guest);
        }
        if addresses.is_empty() {
            return Ok(());
        }
        if request.nics.is_none() && request.template.is_some() {
            let message = "addresses are given to NICs that are named, not to the template's";
            return Err(CliError::new(Exit::Usage, message).hint("add --network for each NIC"));
        }
        let nics = request.nics.get_or_insert_with(|| {
            let network = "default".parse().map(Ref::Name).expect("`default` is a name");
            vec![VmNic { name: None, network, mac: None, address: None, link: LinkState::Up }]
        });
        if addresses.len() > nics.len() {
            let message = format!("{} addresses for {} NICs", addresses.len(), nics.len());
            return Err(CliError::new(Exit::Usage, message).hint("add --network for each NIC"));
        }
        for (nic, address) in nics.iter_mut().zip(addresses) {
            nic.address = Some(address);
        }
        Ok(())
    }
}

/// A VM as a document describes it, `kind` taken away; `name` wins over the document's.
pub(crate) fn from_document(
    mut document: serde_json::Map<String, serde_json::Value>,
    name: Option<&Name>,
    place: &str,
) -> Result<VmCreate, CliError> {
    document.remove("kind");
    if let Some(name) = name {
        document.insert("name".to_owned(), name.as_str().into());
    }
    serde_json::from_value(document.into())
        .map_err(|error| CliError::new(Exit::Failed, format!("{place}: {error}")))
}

/// `--explain`: the decision and all that was seen for it; nothing was made.
pub(super) fn why(
    session: &Session,
    placement: &[String],
    explained: &[PlacementExplanation],
) -> Result<(), CliError> {
    if session.output.is_data() {
        return session.output.data(&explained);
    }
    explain(session, placement)?;
    super::why::explain(explained)?;
    session.output.remark("nothing was made: --explain");
    Ok(())
}

pub(super) fn explain(session: &Session, lines: &[String]) -> Result<(), CliError> {
    for line in lines {
        let line = crate::sanitise::line(line);
        if session.output.is_table() {
            output::print(&format!("{line}\n"))?;
        } else {
            session.output.remark(&line);
        }
    }
    Ok(())
}
