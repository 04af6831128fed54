//! `hostler vm nic list|add|remove|set`.

use clap::{Args, Subcommand, ValueEnum};
use hostler_endpoint::CallOptions;
use hostler_types::{
    LinkState, MacAddress, Name, NicAddressing, NicSpec, Ref, Vm, VmNic, VmUpdate,
};

use super::change::{Request, carry_out, free_name, kept};
use super::{VmName, show};
use crate::error::{CliError, Exit};
use crate::names::Names;
use crate::output::Listing;
use crate::session::{Session, once};
use crate::table::Cell;
use crate::wait::WaitOptions;

/// Network cards of a VM: add, remove, move to another network, pull the cable
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
Examples:
  hostler vm nic add web01 --network lab
  hostler vm nic set web01 nic1 --network default
  hostler vm nic set web01 nic1 --link down"
)]
pub(crate) struct NicArgs {
    #[command(subcommand)]
    command: NicCommand,
}

#[derive(Debug, Subcommand)]
enum NicCommand {
    List(ListNics),
    Add(AddNic),
    Remove(RemoveNic),
    Set(SetNic),
}

impl NicArgs {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        match self.command {
            NicCommand::List(command) => command.run(session).await,
            NicCommand::Add(command) => command.run(session).await,
            NicCommand::Remove(command) => command.run(session).await,
            NicCommand::Set(command) => command.run(session).await,
        }
    }
}

/// List a VM's NICs
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  hostler vm nic list web01")]
struct ListNics {
    #[command(flatten)]
    vm: VmName,
}

impl ListNics {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        let path = self.vm.path();
        let (vm, names) = futures::try_join!(show(session, &path), Names::around_vms(session))?;
        let row = |nic: &NicSpec| {
            let status = vm.status.nics.iter().find(|status| status.name == nic.name);
            let seen = vm.status.guest.iter().flat_map(|guest| &guest.nics);
            let seen = seen.filter(|seen| seen.mac == nic.mac).map(|seen| seen.name.clone()).next();
            vec![
                Cell::new(&nic.name),
                names.cell(nic.network),
                Cell::new(nic.mac.to_string()),
                Cell::new(if nic.link.is_up() { "up" } else { "down" }),
                Cell::maybe(status.and_then(|status| status.reserved)),
                Cell::maybe(seen),
            ]
        };
        let listing = Listing {
            header: &["NIC", "NETWORK", "MAC", "LINK", "RESERVED", "IN GUEST"],
            empty: "the vm has no NIC",
            name: &|nic: &NicSpec| nic.name.to_string(),
            row: &row,
        };
        session.output.list(&vm.spec.nics, &listing)
    }
}

/// What all changes of NICs have in common.
#[derive(Debug, Args)]
struct Common {
    #[command(flatten)]
    vm: VmName,

    /// Tell what would happen, and when; change nothing
    #[arg(long, alias = "dry-run")]
    plan: bool,

    #[command(flatten)]
    wait: WaitOptions,
}

impl Common {
    /// Replaces the VM's NICs by what `change` makes of them.
    async fn change(
        self,
        session: &Session,
        change: impl FnOnce(&Vm, &mut Vec<VmNic>) -> Result<(), CliError>,
    ) -> Result<(), CliError> {
        let path = self.vm.path();
        let vm = show(session, &path).await?;
        let mut nics = vm.spec.nics.iter().map(kept).collect();
        change(&vm, &mut nics)?;
        let request = Request {
            path,
            update: VmUpdate { nics: Some(nics), ..VmUpdate::default() },
            // They are replaced as a whole: what was read must still be there.
            options: CallOptions { if_match: Some(vm.metadata.revision.0), ..once() },
            plan_only: self.plan,
            wait: &self.wait,
        };
        carry_out(session, request).await
    }
}

/// Plug a NIC in
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler vm nic add web01 --network lab
  hostler vm nic add web01 --network lab --address pool
  hostler vm nic add web01 --network lab --name backup --link down")]
struct AddNic {
    #[command(flatten)]
    common: Common,

    /// Network to plug it into
    #[arg(long, value_name = "NETWORK")]
    network: Ref,

    /// Its name [default: nic0, nic1, …]
    #[arg(long, value_name = "NAME")]
    name: Option<Name>,

    /// How the guest gets its address: dhcp, pool or ADDRESS[/PREFIX][,GATEWAY] [default: dhcp]
    #[arg(long, value_name = "WAY", value_parser = crate::customize::addressing)]
    address: Option<NicAddressing>,

    /// MAC address [default: a free one]
    #[arg(long, value_name = "MAC")]
    mac: Option<MacAddress>,

    /// Whether its cable is plugged in
    #[arg(long, value_enum, default_value = "up", value_name = "LINK")]
    link: LinkArg,
}

impl AddNic {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        let Self { common, network, name, address, mac, link } = self;
        common
            .change(session, |vm, nics| {
                let name = name.or_else(|| free_name(&vm.spec.nics));
                nics.push(VmNic { name, network, mac, address, link: link.into() });
                Ok(())
            })
            .await
    }
}

/// Take a NIC out
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  hostler vm nic remove web01 nic1")]
struct RemoveNic {
    #[command(flatten)]
    common: Common,

    /// Name of the NIC
    #[arg(value_name = "NIC")]
    nic: Name,
}

impl RemoveNic {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        let Self { common, nic } = self;
        common
            .change(session, |vm, nics| {
                find(vm, nics, &nic)?;
                nics.retain(|known| known.name.as_ref() != Some(&nic));
                Ok(())
            })
            .await
    }
}

/// Move a NIC to another network, give it another address, or pull or plug its cable
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler vm nic set web01 nic0 --network lab
  hostler vm nic set web01 nic0 --link down")]
struct SetNic {
    #[command(flatten)]
    common: Common,

    /// Name of the NIC
    #[arg(value_name = "NIC")]
    nic: Name,

    /// Network to plug it into; the guest keeps the card
    #[arg(long, value_name = "NETWORK", required_unless_present_any = ["link", "address"])]
    network: Option<Ref>,

    /// How the guest gets its address: dhcp, pool or ADDRESS[/PREFIX][,GATEWAY] [default: as
    /// before; on another network of its pool if it had a pool's, else dhcp]
    #[arg(long, value_name = "WAY", value_parser = crate::customize::addressing)]
    address: Option<NicAddressing>,

    /// Whether its cable is plugged in
    #[arg(long, value_enum, value_name = "LINK")]
    link: Option<LinkArg>,
}

impl SetNic {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        let Self { common, nic, network, address, link } = self;
        common
            .change(session, |vm, nics| {
                let found = find(vm, nics, &nic)?;
                if let Some(network) = network {
                    found.network = network;
                }
                found.address = address;
                if let Some(link) = link {
                    found.link = link.into();
                }
                Ok(())
            })
            .await
    }
}

fn find<'a>(vm: &Vm, nics: &'a mut [VmNic], name: &Name) -> Result<&'a mut VmNic, CliError> {
    let known: Vec<_> = vm.spec.nics.iter().map(|nic| nic.name.to_string()).collect();
    let found = nics.iter_mut().find(|nic| nic.name.as_ref() == Some(name));
    found.ok_or_else(|| {
        let message = format!("vm {} has no NIC `{name}`", vm.metadata.name);
        let known = if known.is_empty() { "no NIC at all".to_owned() } else { known.join(", ") };
        CliError::new(Exit::NotFound, message).hint(format!("it has {known}"))
    })
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LinkArg {
    Up,
    Down,
}

impl From<LinkArg> for LinkState {
    fn from(link: LinkArg) -> Self {
        match link {
            LinkArg::Up => Self::Up,
            LinkArg::Down => Self::Down,
        }
    }
}
