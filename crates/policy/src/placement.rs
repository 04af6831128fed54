//! Which host and datastore a new VM gets.
//!
//! Hard filters first: what a host lacks makes it impossible, whatever else it has. Among those
//! left, the one with the most memory not promised to VMs wins, measured after this VM has been
//! promised its own; then the one with the fewest promised CPUs; then the older. On it, the
//! datastore with the most free space.

use std::cmp::Reverse;
use std::fmt;

use hostler_types::{ByteSize, DatastoreId, DatastoreLimits, HostId, ImageId, counted};
use serde::{Deserialize, Serialize};

/// What a datastore must still have free: definitions, logs and the guests' first writes.
const HEADROOM: ByteSize = ByteSize::mib(64);

/// Everything the decision depends on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PlacementInput {
    pub wish: Wish,
    pub hosts: Vec<HostCandidate>,
}

/// What the new VM needs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Wish {
    pub cpus: u32,
    pub memory: ByteSize,
    /// Of each disk, as the guest sees it.
    pub disks: Vec<ByteSize>,
    /// Only this host.
    pub host: Option<HostId>,
    /// Only this datastore.
    pub datastore: Option<DatastoreId>,
    /// The template that its disks are made from, and where it lies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<(String, DatastoreId)>,
    /// Images that must be readable, with their names and where they lie.
    pub images: Vec<(ImageId, String, DatastoreId)>,
    /// Linux bridges that must exist.
    pub bridges: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HostCandidate {
    pub id: HostId,
    pub name: String,
    pub connected: bool,
    /// Logical CPUs.
    pub cpus: u32,
    pub memory: ByteSize,
    /// Memory of all the VMs it owns, running or not.
    pub promised_memory: ByteSize,
    /// CPUs of all the VMs it owns.
    pub promised_cpus: u64,
    pub bridges: Vec<String>,
    pub datastores: Vec<DatastoreCandidate>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatastoreCandidate {
    pub id: DatastoreId,
    pub name: String,
    pub ready: bool,
    pub capacity: ByteSize,
    pub free: ByteSize,
    /// It takes no new disks.
    pub maintenance: bool,
    /// The sizes of all its disks together.
    pub provisioned: ByteSize,
    pub limits: DatastoreLimits,
}

/// A decision, or why there is none; and in either case why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placement {
    pub decision: Result<Decision, Refusal>,
    pub explanation: Explanation,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    pub host: HostId,
    pub datastore: DatastoreId,
}

/// What kind of obstacle it is, as far as it matters to who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// There is no host, or none that answers: try again later.
    NoHost,
    /// Some host answers, and none has room.
    NoRoom,
}

/// Sentences for people, with the numbers that were compared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Explanation(pub Vec<String>);

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

/// Decides where a VM goes.
pub fn place(input: &PlacementInput) -> Placement {
    let mut sentences = Vec::new();
    let mut possible = Vec::new();
    let wished = |host: &&HostCandidate| input.wish.host.is_none_or(|wish| wish == host.id);
    for host in input.hosts.iter().filter(wished) {
        match datastore_on(host, &input.wish) {
            Ok(datastore) => possible.push((host, datastore)),
            Err(reason) => sentences.push(format!("host `{}` {reason}", host.name)),
        }
    }
    let best = possible.iter().max_by_key(|(host, _)| {
        (free_after(host, &input.wish), Reverse(host.promised_cpus), Reverse(host.id))
    });
    let Some((host, datastore)) = best else {
        let answering = input.hosts.iter().filter(wished).any(|host| host.connected);
        let refusal = if answering { Refusal::NoRoom } else { Refusal::NoHost };
        if input.hosts.is_empty() {
            sentences.push("no host has joined yet".to_owned());
        }
        return Placement { decision: Err(refusal), explanation: Explanation(sentences) };
    };
    sentences.insert(0, chosen(host, datastore, &input.wish, possible.len()));
    let warning = warns(datastore, &input.wish.disks);
    sentences.extend(warning.map(|what| format!("warning: datastore `{}` {what}", datastore.name)));
    let decision = Decision { host: host.id, datastore: datastore.id };
    Placement { decision: Ok(decision), explanation: Explanation(sentences) }
}

/// The best datastore on a host that can take the VM, or why it cannot.
fn datastore_on<'a>(
    host: &'a HostCandidate,
    wish: &Wish,
) -> Result<&'a DatastoreCandidate, String> {
    if !host.connected {
        return Err("does not answer".to_owned());
    }
    if wish.cpus > host.cpus {
        return Err(format!("has {}, {} are asked for", counted(host.cpus, "CPU"), wish.cpus));
    }
    if wish.memory > host.memory {
        return Err(format!("has {} of memory, {} are asked for", host.memory, wish.memory));
    }
    if let Some(bridge) = wish.bridges.iter().find(|bridge| !host.bridges.contains(bridge)) {
        return Err(format!("has no bridge `{bridge}`"));
    }
    let elsewhere = |at: DatastoreId| host.datastores.iter().all(|datastore| datastore.id != at);
    if let Some((_, image, _)) = wish.images.iter().find(|(_, _, at)| elsewhere(*at)) {
        return Err(format!("has no datastore with the image `{image}`"));
    }
    if let Some((template, _)) = wish.template.as_ref().filter(|(_, at)| elsewhere(*at)) {
        return Err(format!("does not reach the datastore of template `{template}`"));
    }
    let mut reasons = Vec::new();
    let mut possible = Vec::new();
    let wished = |store: &&DatastoreCandidate| wish.datastore.is_none_or(|id| id == store.id);
    for datastore in host.datastores.iter().filter(wished) {
        match refuses(datastore, &wish.disks) {
            None => possible.push(datastore),
            Some(reason) => reasons.push(format!("its datastore `{}` {reason}", datastore.name)),
        }
    }
    let best = possible.into_iter().max_by_key(|store| (store.free, Reverse(store.id)));
    best.ok_or_else(|| match reasons.is_empty() {
        true if wish.datastore.is_some() => "does not have that datastore".to_owned(),
        true => "has no datastore".to_owned(),
        false => format!("has no room: {}", reasons.join(", ")),
    })
}

/// Why a datastore does not take new disks, if it does not. Disks grow as the guest writes, so their
/// sum may be beyond the free space; a single one beyond the whole datastore can never be filled.
pub fn refuses(datastore: &DatastoreCandidate, disks: &[ByteSize]) -> Option<String> {
    let DatastoreCandidate { capacity, free, limits, .. } = datastore;
    if !datastore.ready {
        return Some("is missing (not mounted?)".to_owned());
    }
    if datastore.maintenance {
        return Some("is in maintenance: it takes no new disks".to_owned());
    }
    if let Some(disk) = disks.iter().find(|disk| *disk > capacity) {
        return Some(format!("holds {capacity}, {disk} more are asked for"));
    }
    // A datastore smaller than twice the headroom may be filled to the half.
    if *free < HEADROOM.min(ByteSize(capacity.0 / 2)) {
        return Some(format!("has {free} free, too little to begin with"));
    }
    let (used, most) = (used_percent(datastore), u128::from(limits.refuse_percent));
    if used >= most {
        return Some(format!(
            "is {used} % full ({free} free), and takes no new disks from {most} % on"
        ));
    }
    if let Some(overcommit) = limits.overcommit_percent {
        let promised = promised(datastore, disks);
        let allowed = u128::from(capacity.0) * u128::from(overcommit) / 100;
        if u128::from(promised.0) > allowed {
            return Some(format!(
                "would have {promised} of disks on {capacity}: more than the {overcommit} % that may be promised"
            ));
        }
    }
    None
}

/// What is worth a warning about a datastore that takes the disks.
pub fn warns(datastore: &DatastoreCandidate, disks: &[ByteSize]) -> Option<String> {
    let (used, free) = (used_percent(datastore), datastore.free);
    if used >= u128::from(datastore.limits.warn_percent) {
        return Some(format!("is {used} % full: {free} are free"));
    }
    let promised = promised(datastore, disks);
    // A limit of their own says that people know.
    let unlimited = datastore.limits.overcommit_percent.is_none();
    if unlimited && promised > datastore.capacity {
        let capacity = datastore.capacity;
        return Some(format!("has {promised} of disks on {capacity}: they cannot all be filled"));
    }
    None
}

fn used_percent(datastore: &DatastoreCandidate) -> u128 {
    let capacity = datastore.capacity.0;
    u128::from(capacity.saturating_sub(datastore.free.0)) * 100 / u128::from(capacity.max(1))
}

fn promised(datastore: &DatastoreCandidate, disks: &[ByteSize]) -> ByteSize {
    let sizes = disks.iter().map(|disk| disk.0);
    ByteSize(sizes.fold(datastore.provisioned.0, u64::saturating_add))
}

/// May be negative: memory can be promised more than once.
fn free_after(host: &HostCandidate, wish: &Wish) -> i128 {
    i128::from(host.memory.bytes())
        - i128::from(host.promised_memory.bytes())
        - i128::from(wish.memory.bytes())
}

fn chosen(
    host: &HostCandidate,
    datastore: &DatastoreCandidate,
    wish: &Wish,
    possible: usize,
) -> String {
    let why = match possible {
        1 if wish.host.is_some() => "as asked for".to_owned(),
        1 => "the only host that can take it".to_owned(),
        count => format!("the most unpromised memory of {count} possible hosts"),
    };
    let memory = match u64::try_from(free_after(host, wish)) {
        Ok(left) => format!("{} of {} memory stay unpromised", ByteSize(left), host.memory),
        Err(_) => format!(
            "{} of memory are promised to VMs, more than the {} it has",
            ByteSize(host.promised_memory.bytes().saturating_add(wish.memory.bytes())),
            host.memory
        ),
    };
    format!(
        "host `{}`: {why}; {memory}; datastore `{}` has {} of {} free",
        host.name, datastore.name, datastore.free, datastore.capacity
    )
}

#[cfg(test)]
mod tests;
