//! `hostler vm unregister|register`.

use clap::Args;
use hostler_api::datastore::{
    DatastorePath, Register as RegisterVm, RegisterRequest, Unregistered, UnregisteredPath,
};
use hostler_api::vm::{self, VmPath};
use hostler_endpoint::NoParams;
use hostler_types::{Name, Ref, VmId};

use super::{VmName, finish};
use crate::error::CliError;
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

/// Take a VM into the inventory from its files; without an id: list those there are
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler vm register local
  hostler vm register local 01890a5d-ac96-774b-bcce-b302099a8057 --name web02")]
pub(crate) struct Register {
    /// Datastore that has the files
    #[arg(value_name = "DATASTORE")]
    datastore: Ref,

    /// Id of the VM: the name of its directory
    #[arg(value_name = "ID")]
    id: Option<VmId>,

    /// Another name than the one in its definition
    #[arg(long, value_name = "NAME", requires = "id")]
    name: Option<Name>,

    #[command(flatten)]
    wait: WaitOptions,
}

impl Register {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let Some(id) = self.id else { return self.list(session).await };
        let path = UnregisteredPath { datastore: self.datastore, vm: id };
        let request = RegisterRequest { name: self.name };
        let task = session.call_with::<RegisterVm>(&path, &NoParams {}, request, once()).await?;
        let path = VmPath { vm: Ref::by_id(id) };
        finish(session, task, self.wait.waits(), "registered", &path).await
    }

    async fn list(self, session: &Session) -> Result<(), CliError> {
        let path = DatastorePath { datastore: self.datastore };
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
}
