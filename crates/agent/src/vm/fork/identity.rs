//! The guest of a clone becomes a machine of its own, before it may talk.
//!
//! ```text
//!  guest: answers ─> actor: the parent's cards out ─> guest: name, machine id, host keys, clock
//!      ─> actor: its own cards in ─> guest: addresses ─> what the guest says now: the proof
//! ```
//!
//! Until the guest has its own name it has no card at all, or one without a cable. When it does not join in, it stays so,
//! and the customization has failed with its reason; from its next start from nothing on the seed
//! tells it the same. What the guest runs is told in full in `identity.sh` and `network.sh`.
//!
//! An agent that dies in the middle begins again.

use std::time::Duration;

use hostler_qemu::hotplug::{Removal, clear_nic, unplug_nic};
use hostler_qemu::nic_id;
use hostler_qmp::Qmp;
use hostler_qmp::guest::{ExecRequest, GetHostName, GuestAgent, GuestError, SetTime, sanitize};
use hostler_types::{CustomizationState, GuestOs, MacAddress, NicSpec};
use jiff::Timestamp;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::timeout;

use super::{OTHERS, Silent};
use crate::fault::chain;
use crate::vm::actor::{Actor, Message};
use crate::vm::guest::Port;
use crate::vm::proof::Verdict;

const SCRIPT: &str = include_str!("identity.sh");
const NETWORK: &str = include_str!("network.sh");
/// The guest's agent ran when the parent was frozen; it needs no time to come up.
const AGENT: Duration = Duration::from_secs(30);
/// How long a guest waits for others to become machines of their own before it begins.
const TURN: Duration = Duration::from_secs(10);
/// Host keys take a slow guest some time.
const RENEW: Duration = Duration::from_secs(120);
/// How long a guest may take to let a card go.
const LET_GO: Duration = Duration::from_secs(10);
const MAX_OUTPUT: usize = 16 << 10;
const MAX_REASON: usize = 400;

/// What the actor does for it.
#[derive(Debug)]
pub(crate) enum IdentityStep {
    /// Takes the parent's cards out.
    Unplug(oneshot::Sender<Result<(), String>>),
    /// Puts the clone's own in.
    Plug(oneshot::Sender<Result<(), String>>),
    /// It is over.
    Done(Verdict),
}

/// What a guest is to be.
struct Identity {
    name: String,
    machine: String,
    os: GuestOs,
    nics: Vec<NicSpec>,
    run: u32,
}

impl Actor {
    /// Gives the guest its own identity, in the background.
    pub(in crate::vm) fn begin_identity(
        &self,
        agent: GuestAgent,
        answers: (oneshot::Receiver<()>, Option<Silent>),
        port: watch::Receiver<Port>,
        actor: mpsc::Sender<Message>,
    ) {
        let vm = &self.record.definition.vm;
        let customization = vm.spec.customization.as_ref();
        let name = customization.and_then(|c| c.hostname.as_ref()).unwrap_or(vm.name());
        let identity = Identity {
            name: name.to_string(),
            machine: vm.id().uuid().simple().to_string(),
            os: customization.map(|c| c.os).unwrap_or_default(),
            nics: vm.spec.nics.clone(),
            run: customization.map_or(0, |c| c.run),
        };
        let span = tracing::info_span!("identity", vm = %vm.id());
        let turns = self.host.identities.clone();
        tokio::spawn(tracing::Instrument::instrument(
            async move {
                let taken = tokio::select! {
                    taken = take(&agent, answers, &actor, &identity, &turns) => taken,
                    () = gone(port) => return,
                };
                let (state, reason) = match taken {
                    Ok(()) => (CustomizationState::Applied, None),
                    Err(reason) => (CustomizationState::Failed, Some(reason)),
                };
                let verdict = Verdict { run: identity.run, state, reason };
                let _ = actor.send(Message::Identity(IdentityStep::Done(verdict))).await;
            },
            span,
        ));
    }

    pub(in crate::vm) async fn identity(&mut self, step: IdentityStep) {
        let Some(qmp) = self.machine.as_ref().map(|machine| machine.live.qmp.clone()) else {
            return;
        };
        match step {
            IdentityStep::Unplug(reply) => {
                let _ = reply.send(self.unplug_inherited(&qmp).await);
            }
            IdentityStep::Plug(reply) => {
                self.change_nics(&qmp).await;
                let refused = self.record.running.as_ref().map(|running| &running.refused);
                let refused = refused.and_then(|refused| {
                    refused.iter().find(|(subject, _)| subject.starts_with("nic "))
                });
                let plugged = refused.map_or(Ok(()), |(what, why)| Err(format!("{what}: {why}")));
                let _ = reply.send(plugged);
            }
            IdentityStep::Done(verdict) => {
                if let (Some(running), Some(reason)) = (&mut self.record.running, &verdict.reason) {
                    for nic in &self.record.definition.vm.spec.nics {
                        if running.spec.nics.iter().all(|known| known.name != nic.name) {
                            let why = format!("the guest did not become one of its own: {reason}");
                            running.refused.insert(format!("nic {}", nic.name), why);
                        }
                    }
                }
                self.record.identity_due = false;
                if let Some(machine) = &self.machine {
                    machine.becomes(false);
                }
                self.customized(verdict).await;
            }
        }
        self.save_or_log().await;
        self.publish();
    }

    async fn unplug_inherited(&mut self, qmp: &Qmp) -> Result<(), String> {
        let Some(running) = self.record.running.clone() else { return Ok(()) };
        let asked = &self.record.definition.vm.spec.nics;
        let own =
            |nic: &NicSpec| asked.iter().any(|own| own.name == nic.name && own.mac == nic.mac);
        for nic in running.spec.nics.iter().filter(|nic| !own(nic)) {
            let why = match unplug_nic(qmp, &nic.name, LET_GO).await {
                Ok(Removal::Gone) => {
                    if let Some(running) = &mut self.record.running {
                        running.spec.nics.retain(|known| known.name != nic.name);
                        running.ports.devices.remove(&nic_id(&nic.name));
                    }
                    continue;
                }
                Ok(Removal::Refused) => "the guest refuses to let it go".to_owned(),
                Ok(Removal::Waiting) => {
                    format!("the guest did not let it go within {} s", LET_GO.as_secs())
                }
                Err(error) => chain(&error),
            };
            // A card without a back end, whose cable nobody can put in.
            let _ = clear_nic(qmp, &nic.name).await;
            return Err(format!("nic {}, which is the other machine's: {why}", nic.name));
        }
        Ok(())
    }
}

/// Until the machine's owner lets go of it.
async fn gone(mut port: watch::Receiver<Port>) {
    while port.changed().await.is_ok() {}
}

/// The error is for people: why the guest is not a machine of its own.
async fn take(
    agent: &GuestAgent,
    (answers, silent): (oneshot::Receiver<()>, Option<Silent>),
    actor: &mpsc::Sender<Message>,
    identity: &Identity,
    turns: &Semaphore,
) -> Result<(), String> {
    // Who watches the guest asks whether it answers; asked twice, its first answer would take longer.
    let answers = timeout(AGENT, answers).await;
    if let Some(silent) = silent {
        silent.heard(OTHERS).await;
    }
    // Of many clones those that answer first are done first; all at once, none would be for long.
    // A guest that is stuck keeps nobody waiting.
    let _turn = timeout(TURN, turns.acquire()).await;
    ask(actor, IdentityStep::Unplug).await?;
    if identity.os != GuestOs::Linux {
        let text = "a Windows guest cannot take another name while it runs; restart it";
        return Err(text.to_owned());
    }
    if !matches!(answers, Ok(Ok(()))) {
        return Err(format!("no guest agent answered within {} s", AGENT.as_secs()));
    }
    // It stood still for a while. A guest without a hardware clock says so after it has done it.
    let now = i64::try_from(Timestamp::now().as_nanosecond()).ok();
    if let Err(error) = agent.execute(SetTime { time: now }).await {
        tracing::debug!(error = chain(&error), "setting the guest's clock");
    }
    run(agent, SCRIPT, &[identity.name.clone(), identity.machine.clone()]).await?;
    let name = agent.execute(GetHostName).await.map_err(|error| chain(&error))?;
    let name = name.host_name.as_host_name().unwrap_or_default().to_owned();
    if name != identity.name {
        return Err(format!("its host name is `{name}`, not `{}`", identity.name));
    }
    ask(actor, IdentityStep::Plug).await?;
    let cards = identity.nics.iter().filter(|nic| nic.link.is_up()).flat_map(card);
    let cards: Vec<String> = cards.collect();
    if !cards.is_empty() {
        run(agent, NETWORK, &cards).await?;
    }
    Ok(())
}

/// A card as `network.sh` wants to be told of it.
fn card(nic: &NicSpec) -> [String; 3] {
    let mac: MacAddress = nic.mac;
    let address = nic.address.as_ref();
    let gateway = address.and_then(|address| address.gateway);
    [
        mac.to_string(),
        address.map_or("dhcp".to_owned(), |a| format!("{}/{}", a.address, a.prefix)),
        gateway.map_or("-".to_owned(), |gateway| gateway.to_string()),
    ]
}

async fn ask(
    actor: &mpsc::Sender<Message>,
    step: impl FnOnce(oneshot::Sender<Result<(), String>>) -> IdentityStep,
) -> Result<(), String> {
    let gone = || "the agent has ended".to_owned();
    let (reply, answer) = oneshot::channel();
    actor.send(Message::Identity(step(reply))).await.map_err(|_| gone())?;
    answer.await.map_err(|_| gone())?
}

async fn run(agent: &GuestAgent, script: &str, args: &[String]) -> Result<(), String> {
    let request = ExecRequest::new("/bin/sh")
        .args(["-s", "--"])
        .args(args)
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .input(script.as_bytes().to_vec())
        .within(RENEW)
        .max_output(MAX_OUTPUT);
    let output = agent.exec(request).await.map_err(|error| match error {
        GuestError::Refused { .. } => format!("its agent runs no programs: {}", chain(&error)),
        error => chain(&error),
    })?;
    if output.exit_code == Some(0) {
        return Ok(());
    }
    let words = sanitize(&String::from_utf8_lossy(&output.stderr), MAX_REASON);
    match words.trim() {
        "" => Err(format!("a program in it ended with {:?}", output.exit_code)),
        words => Err(words.to_owned()),
    }
}
