//! Consoles: a one-time ticket for who cannot send a token (browsers' WebSockets), and the bytes.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

pub use hostler_agent_api::ConsoleKind;
use hostler_endpoint::ByteStream;
use hostler_types::{PowerState, Ref, Role, VmId};
use jiff::{SignedDuration, Timestamp};

use crate::actor::{Actor, authorize};
use crate::error::{Class, ServiceError};
use crate::world::World;
use crate::{auth, secret};

const LIFE: SignedDuration = SignedDuration::from_secs(30);
/// Beyond this many unused tickets the oldest go.
const MOST: usize = 4096;

/// Opens one console of one VM, once, within 30 s.
#[derive(Clone)]
pub struct Ticket {
    pub secret: String,
    pub expires_at: Timestamp,
}

/// Tickets not used yet, by the hash of their secret. In memory: none survives a restart.
#[derive(Debug, Default)]
pub(crate) struct Tickets(Mutex<HashMap<String, Entry>>);

#[derive(Debug, Clone)]
struct Entry {
    vm: VmId,
    kind: ConsoleKind,
    actor: Actor,
    expires_at: Timestamp,
}

/// A ticket for a VM's console.
///
/// # Errors
/// `forbidden`, `not_found`.
pub fn ticket(
    world: &World,
    actor: &Actor,
    vm: &Ref,
    kind: ConsoleKind,
) -> Result<Ticket, ServiceError> {
    authorize(actor, Role::Operator, "open consoles")?;
    let vm = world.snapshot().find(vm).cloned()?;
    let secret = secret::generate();
    let expires_at = Timestamp::now() + LIFE;
    let entry = Entry { vm: vm.id(), kind, actor: actor.clone(), expires_at };
    world.tickets.add(secret::hash(&secret), entry);
    Ok(Ticket { secret, expires_at })
}

/// Uses a ticket up. Who it was made for opens the console with [`attach`].
///
/// # Errors
/// `ticket_invalid`: used, expired, of another VM or console, or its owner may no longer.
pub fn redeem(
    world: &World,
    secret: &str,
    vm: &Ref,
    kind: ConsoleKind,
) -> Result<Actor, ServiceError> {
    let refused = || {
        ServiceError::new(
            Class::Unauthenticated,
            "ticket_invalid",
            "the console ticket is not valid",
        )
        .hint("a ticket opens one console, once, within 30 s; ask for a new one")
    };
    let entry = world.tickets.take(&secret::hash(secret)).ok_or_else(refused)?;
    let snapshot = world.snapshot();
    let vm = snapshot.find::<hostler_types::VmKind>(vm).map_err(|_| refused())?;
    if entry.vm != vm.id() || entry.kind != kind || entry.expires_at <= Timestamp::now() {
        return Err(refused());
    }
    auth::revalidate(&snapshot, &entry.actor).map_err(|_| refused())
}

/// Joins a console: bytes from the client go in, the console's come out, until either side ends.
///
/// # Errors
/// `forbidden`, `not_found`, `wrong_state` when the VM has no QEMU, or the host's problem.
pub async fn attach(
    world: &World,
    actor: &Actor,
    vm: &Ref,
    kind: ConsoleKind,
    input: ByteStream,
) -> Result<ByteStream, ServiceError> {
    authorize(actor, Role::Operator, "open consoles")?;
    let vm = world.snapshot().find::<hostler_types::VmKind>(vm).cloned()?;
    if !vm.status.power.is_live() {
        return Err(not_running(vm.name().as_str(), vm.status.power));
    }
    let link = world.link(vm.status.host)?;
    world.limited(link.vm_console(vm.id(), kind, input)).await
}

fn not_running(vm: &str, power: PowerState) -> ServiceError {
    ServiceError::conflict("wrong_state", format!("vm `{vm}` is {power}: it has no console now"))
        .hint(format!("start it with `hostler vm start {vm}`"))
}

impl Tickets {
    fn add(&self, hash: String, entry: Entry) {
        let mut tickets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Timestamp::now();
        tickets.retain(|_, ticket| ticket.expires_at > now);
        if tickets.len() >= MOST {
            let oldest = tickets.iter().min_by_key(|(_, ticket)| ticket.expires_at);
            if let Some(hash) = oldest.map(|(hash, _)| hash.clone()) {
                tickets.remove(&hash);
            }
        }
        tickets.insert(hash, entry);
    }

    fn take(&self, hash: &str) -> Option<Entry> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(hash)
    }
}

impl std::fmt::Debug for Ticket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ticket").field("expires_at", &self.expires_at).finish_non_exhaustive()
    }
}
