//! `hostler vm customize`.

use clap::Args;
use hostler_api::customization_spec::{Customize as CustomizeVm, CustomizeRequest};
use hostler_endpoint::NoParams;
use hostler_types::{Customization, Ref};

use super::VmName;
use crate::customize::{self, Setting};
use crate::error::{CliError, Exit};
use crate::session::{Session, once};
use crate::wait::{self, StartWaitOptions};

/// Tell a VM's guest anew who it is: now with --reboot, else at its next start
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler vm customize web01 --reboot --wait=customized
  hostler vm customize web01 --spec web --set hostname=web-07 --reboot")]
pub(crate) struct Customize {
    #[command(flatten)]
    vm: VmName,

    /// Customization spec [default: what the VM was told before]
    #[arg(long, value_name = "SPEC")]
    spec: Option<Ref>,

    /// hostname, address, time-zone, locale, dns, search, package or run; repeat it for several
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<Setting>,

    /// Stop a running guest and start it again, so that it is told now
    #[arg(long)]
    reboot: bool,

    #[command(flatten)]
    wait: StartWaitOptions,
}

impl Customize {
    pub(super) async fn run(&self, session: &Session) -> Result<(), CliError> {
        if self.wait.for_more() && !self.reboot {
            return Err(CliError::new(Exit::Usage, "waiting for the guest needs --reboot"));
        }
        let path = self.vm.path();
        let mut over = Customization::default();
        let addresses = customize::apply(&self.settings, &mut over);
        let request = CustomizeRequest {
            customization_spec: self.spec.clone(),
            customization: (over != Customization::default()).then_some(over),
            addresses: addresses.into_iter().map(Some).collect(),
            reboot: self.reboot,
        };
        let call = session.call_with::<CustomizeVm>(&path, &NoParams {}, request, once());
        let task = call.await?;
        if !self.wait.waits() {
            return crate::commands::task::print_ordered(session, &task);
        }
        let told = async {
            wait::task(session, task).await?;
            self.wait.guest(session, &path).await
        };
        let vm = self.wait.limit(session, &path, told).await?;
        let verb = if self.wait.for_customized() { "customized" } else { "told anew" };
        session.output.done(verb, "vm", vm.metadata.name.as_str(), &vm)
    }
}
