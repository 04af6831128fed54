//! A VM goes to another host, or comes from one, while its guest runs.
//!
//! ```text
//!  source's actor                              target's actor
//!   offer ── record ──────── (server) ────────> prepare: record `incoming`, QEMU that waits
//!   migrate: driver ═══ memory (agent to agent, TLS) ═══> QEMU
//!   record `given` ── take ───────────────────> the guest runs, record `running`
//!   end of the old QEMU
//!   forget: the record goes                     (abandon: all of it goes)
//! ```
//!
//! Which of the two hosts owns the VM is said by the source's record alone. Until `given` is on its
//! disk the source takes the guest back whatever happens; afterwards it never does, and tells the target
//! again and again until that has answered. The target's QEMU does not touch the disks before it is told
//! that they are its own, and their files stay the source's user's until then.

mod drive;
mod measure;
mod source;
mod target;

pub(crate) use drive::{MigrateOrder, Sent};
pub(super) use source::Migrating;
pub(crate) use target::PrepareOrder;
pub(super) use target::reclaim;

use hostler_agent_api::{
    VmCommand, VmMigrateRequest, VmMigrationPrepareRequest, VmMoved, VmOffer, VmReport,
};
use hostler_endpoint::Problem;
use hostler_types::{Epoch, HostId, VmId};
use tokio::sync::oneshot;

use super::actor::{Action, Message};
use super::record::{RecordedState, VmRecord};
use super::registry::{Vms, send};
use crate::blocking::blocking;
use crate::context::HostContext;
use crate::fault::Fault;

/// What another agent, or the server, asks of the target.
#[derive(Debug)]
pub(crate) struct Claim {
    /// `None`: the server.
    pub(crate) from: Option<HostId>,
    pub(crate) epoch: Epoch,
    /// Whether the VM is to be taken over, and not only whether it could be.
    pub(crate) take: bool,
    pub(crate) reply: oneshot::Sender<Result<VmReport, Fault>>,
}

impl Vms {
    /// What the VM's next host must know.
    pub(crate) async fn offer(
        &self,
        host: &HostContext,
        vm: VmId,
        command: VmCommand,
    ) -> Result<VmOffer, Problem> {
        if let Some(given) = given(host, vm).await? {
            return Ok(VmOffer { luggage: serde_json::Value::Null, moved: Some(given) });
        }
        if let Err(refused) = self.command(vm, command, Action::Offer).await {
            // It may have been given away between the two looks.
            let given = given(host, vm).await?.ok_or(refused)?;
            return Ok(VmOffer { luggage: serde_json::Value::Null, moved: Some(given) });
        }
        let record = record(host, vm).await?.ok_or(Fault::NoVm(vm))?;
        let luggage = serde_json::to_value(record);
        let luggage = luggage.map_err(|error| Fault::internal("pack a VM", &error))?;
        Ok(VmOffer { luggage, moved: None })
    }

    /// Makes ready for a VM of another host.
    pub(crate) async fn prepare(
        &self,
        vm: VmId,
        request: VmMigrationPrepareRequest,
    ) -> Result<(), Problem> {
        if request.definition.vm.id() != vm {
            return Err(Fault::Invalid("the definition is of another VM".to_owned()).into());
        }
        request.definition.vm.spec.validate().map_err(|e| Fault::Invalid(e.to_string()))?;
        let command = request.command;
        loop {
            let order = PrepareOrder::of(&request)?;
            let handle = self.handle_or(vm, |uid| order.record(uid))?;
            let action = Action::Prepare(Box::new(order));
            // No answer: the actor was just ending. The next round makes a new one.
            if let Some(answer) = send(&handle, command, action).await {
                return answer.map(drop);
            }
            tokio::task::yield_now().await;
        }
    }

    /// Sends a running VM away.
    pub(crate) async fn migrate(
        &self,
        host: &HostContext,
        vm: VmId,
        request: VmMigrateRequest,
    ) -> Result<VmMoved, Problem> {
        let (command, order) = (request.command, MigrateOrder::of(&request));
        self.command(vm, command, Action::Migrate(Box::new(order))).await?;
        let given = given(host, vm).await?;
        let text = || Fault::WrongState("it has come back since".to_owned());
        Ok(given.ok_or_else(text)?)
    }

    /// Whether a VM can be taken over, or takes it over.
    pub(crate) async fn claim(
        &self,
        vm: VmId,
        from: Option<HostId>,
        epoch: Epoch,
        take: bool,
    ) -> Result<VmReport, Problem> {
        let unknown = || match from {
            Some(host) => not_prepared(vm, host),
            None => Fault::NoVm(vm),
        };
        let handle = self.handle(vm).map_err(|_| unknown())?;
        let (reply, answer) = oneshot::channel();
        let claim = Message::Claim(Claim { from, epoch, take, reply });
        handle.tell(claim).await.map_err(|()| unknown())?;
        Ok(answer.await.map_err(|_| unknown())??)
    }

    /// Ends what was prepared for a VM.
    pub(crate) async fn abandon(&self, vm: VmId, command: VmCommand) -> Result<(), Problem> {
        self.end(vm, command, Action::Abandon).await
    }

    /// Forgets a VM that is another host's.
    pub(crate) async fn disown(&self, vm: VmId, command: VmCommand) -> Result<(), Problem> {
        self.end(vm, command, Action::Disown).await
    }

    async fn end(&self, vm: VmId, command: VmCommand, action: Action) -> Result<(), Problem> {
        let Ok(handle) = self.handle(vm) else { return Ok(()) };
        match send(&handle, command, action).await {
            Some(answer) => answer.map(drop),
            // It has just ended.
            None => Ok(()),
        }
    }
}

/// The refusal that tells nothing of what is here.
fn not_prepared(vm: VmId, host: HostId) -> Fault {
    Fault::Forbidden(format!("nothing is prepared here for the VM {vm} from the host {host}"))
}

async fn record(host: &HostContext, vm: VmId) -> Result<Option<VmRecord>, Fault> {
    let records = host.records.clone();
    blocking(move || records.get(vm)).await
}

async fn given(host: &HostContext, vm: VmId) -> Result<Option<VmMoved>, Fault> {
    Ok(match record(host, vm).await?.map(|record| record.state) {
        Some(RecordedState::Given(given)) => Some(given.moved),
        _ => None,
    })
}
