//! `hostler vm unregister|register`.

use clap::Args;
use hostler_api::datastore::{
    DatastorePath, Register as RegisterVm, RegisterRequest, Unregistered, UnregisteredPath,
};
use hostler_api::host::{self, HostPath, HostVmPath};
use hostler_api::vm::{self, VmPath};
use hostler_endpoint::NoParams;
use hostler_types::{Name, Ref, VmId};

use super::{VmName, finish};
use crate::error::{CliError, Exit};
use crate::names::Names;
use crate::output::Listing;
use crate::session::{Session, once};
use crate::table::Cell;
use crate::wait::{self, WaitOptions};

/// Take a VM out of the inventory and keep its files
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler vm unregister web01
  hostler vm register local 01890a5d-ac96-774b-bcce-b302099a8057")]
pub(crate) struct Unregister {
    #[command(flatten)]
    vm: VmName,
    #[command(flatten)]
    wait: WaitOptions,
}

impl Unregister {
    pub(super) async fn run(&self, session: &Session) -> Result<(), CliError> {
        let path = self.vm.path();
        // Its id is what takes it back: to be told before it is gone.
        let vm = super::show(session, &path).await?;
        let task = session.call_with::<vm::Unregister>(&path, &NoParams {}, (), once()).await?;
        if !self.wait.waits() {
            return crate::commands::task::print_ordered(session, &task);
        }
        wait::task(session, task).await?;
        session.output.done("unregistered", "vm", vm.metadata.name.as_str(), &vm)?;
        if session.output.is_table() {
            let datastore = Names::datastores(session).await?.of(vm.status.datastore);
            let back = format!("hostler vm register {datastore} {}", vm.metadata.id);
            session.output.remark(&format!("its files stay; back with `{back}`"));
        }
        Ok(())
    }
}

/// Take a VM into the inventory, from its files or from a host that has it; without an id: list those
/// there are
///
/// A host may have VMs that the inventory lacks: its store was restored from an older backup, or lost.
/// With `--from-host` they are taken back as they are; guests run on.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler vm register local
  hostler vm register local 01890a5d-ac96-774b-bcce-b302099a8057 --name web02
  hostler vm register --from-host host01
  hostler vm register --from-host host01 01890a5d-ac96-774b-bcce-b302099a8057")]
pub(crate) struct Register {
    /// Datastore that has the files
    #[arg(value_name = "DATASTORE", required_unless_present = "from_host")]
    datastore: Option<Ref>,

    /// Id of the VM; of files: the name of their directory
    #[arg(value_name = "ID")]
    id: Option<VmId>,

    /// Host that has the VM, which may run
    #[arg(long, value_name = "HOST")]
    from_host: Option<Ref>,

    /// Another name than the one in its definition
    #[arg(long, value_name = "NAME")]
    name: Option<Name>,

    #[command(flatten)]
    wait: WaitOptions,
}

/// Where a VM is that is to be registered.
enum Place {
    Datastore(Ref),
    Host(Ref),
}

impl Register {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let (place, id) = self.place()?;
        let (none, request) = (NoParams {}, RegisterRequest { name: self.name });
        let task = match (place, id) {
            (Place::Datastore(datastore), None) => return list_files(session, datastore).await,
            (Place::Host(host), None) => return list_host(session, host).await,
            (Place::Datastore(datastore), Some(vm)) => {
                let path = UnregisteredPath { datastore, vm };
                session.call_with::<RegisterVm>(&path, &none, request, once()).await?
            }
            (Place::Host(host), Some(vm)) => {
                let path = HostVmPath { host, vm };
                session.call_with::<host::Register>(&path, &none, request, once()).await?
            }
        };
        let path = VmPath { vm: Ref::by_id(id.expect("without one it is listed")) };
        finish(session, task, self.wait.waits(), "registered", &path).await
    }

    /// With `--from-host` the first argument is the id: there is no datastore to name.
    fn place(&self) -> Result<(Place, Option<VmId>), CliError> {
        let usage =
            |text: &str| CliError::new(Exit::Usage, text).hint("see `hostler vm register --help`");
        let (place, id) = match (&self.from_host, &self.datastore, self.id) {
            (None, Some(datastore), id) => (Place::Datastore(datastore.clone()), id),
            (None, None, _) => return Err(usage("name a datastore, or a host with --from-host")),
            (Some(host), None, id) => (Place::Host(host.clone()), id),
            (Some(host), Some(Ref::Id(id)), None) => {
                (Place::Host(host.clone()), Some(VmId::from_uuid(*id)))
            }
            (Some(_), Some(Ref::Name(_)), None) => {
                return Err(usage("with --from-host a VM is named by its id"));
            }
            (Some(_), Some(_), Some(_)) => {
                return Err(usage("name either a datastore or a host, not both"));
            }
        };
        if self.name.is_some() && id.is_none() {
            return Err(usage("--name is for one VM: give its id"));
        }
        Ok((place, id))
    }
}

async fn list_files(session: &Session, datastore: Ref) -> Result<(), CliError> {
    let path = DatastorePath { datastore };
    let found = session.call::<Unregistered>(&path, &NoParams {}, ()).await?.items;
    session.output.list(
        &found,
        &Listing {
            header: &["ID", "NAME", "PROBLEM"],
            empty: "no files of unregistered VMs",
            name: &|vm| vm.id.to_string(),
            row: &|vm| {
                vec![
                    Cell::new(vm.id.to_string()),
                    Cell::maybe(vm.name.as_ref()),
                    Cell::maybe(vm.problem.as_ref()),
                ]
            },
        },
    )
}

async fn list_host(session: &Session, host: Ref) -> Result<(), CliError> {
    let path = HostPath { host };
    let found = session.call::<host::Unregistered>(&path, &NoParams {}, ()).await?.items;
    session.output.list(
        &found,
        &Listing {
            header: &["ID", "NAME", "POWER", "CPUS", "MEMORY", "PROBLEM"],
            empty: "the host has no VM that the inventory lacks",
            name: &|vm| vm.id.to_string(),
            row: &|vm| {
                vec![
                    Cell::new(vm.id.to_string()),
                    Cell::maybe(vm.name.as_ref()),
                    Cell::new(vm.power.as_str()),
                    vm.cpus.map_or(Cell::new(""), Cell::number),
                    vm.memory.map_or(Cell::new(""), Cell::number),
                    Cell::maybe(vm.problem.as_ref()),
                ]
            },
        },
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        register: Register,
    }

    const ID: &str = "01a21fbd-20ba-7221-bfe8-d97726c90ab2";

    /// What is registered, or why not.
    fn place(arguments: &[&str]) -> String {
        let arguments = [&["register"], arguments].concat();
        let register = match Cli::try_parse_from(arguments) {
            Ok(cli) => cli.register,
            Err(error) => return error.kind().to_string(),
        };
        match register.place() {
            Ok((Place::Datastore(from), id)) => format!("files on {from}: {}", id.is_some()),
            Ok((Place::Host(from), id)) => format!("at host {from}: {}", id.is_some()),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn a_vm_is_named_by_where_it_is_and_its_id() {
        assert_eq!(place(&["local"]), "files on local: false");
        assert_eq!(place(&["local", ID, "--name", "web01"]), "files on local: true");
        assert_eq!(place(&["--from-host", "h1"]), "at host h1: false");
        for order in [["--from-host", "h1", ID], [ID, "--from-host", "h1"]] {
            assert_eq!(place(&order), "at host h1: true");
        }
        assert!(place(&[]).contains("required"), "{}", place(&[]));
        let named = "with --from-host a VM is named by its id";
        assert_eq!(place(&["--from-host", "h1", "web01"]), named);
        let both = "name either a datastore or a host, not both";
        assert_eq!(place(&["local", ID, "--from-host", "h1"]), both);
        let which = "--name is for one VM: give its id";
        assert_eq!(place(&["--from-host", "h1", "--name", "web01"]), which);
    }
}
