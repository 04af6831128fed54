//! What a change of a VM's spec means for its running guest: a pure plan, made by the server before
//! it acts and by the agent as it acts.
//!
//! ```text
//!  what runs ──┐
//!  what is asked ─┼─> plan ─> per change: live now · live once the guest joins in · power off
//!  room QEMU has ─┘
//! ```
//!
//! What remains of the plan after the agent has acted is what is *pending*.

use std::collections::BTreeSet;
use std::fmt::{self, Display};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::count::counted;
use crate::name::Name;
use crate::size::ByteSize;
use crate::vm::{BootDevice, CdromSpec, DiskBus, DiskSpec, LinkState, NicSpec, VmSpec};

/// When a change reaches the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ChangeWhen {
    /// While it runs; the guest need not help.
    Now,
    /// While it runs, and the guest has to join in: bring it online, or let it go.
    WithGuest,
    /// At the next start after a power-off.
    PowerOff,
}

/// One change of a VM's spec.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct VmChange {
    /// Such as `cpus` or `nic nic1`.
    pub subject: String,
    pub from: String,
    pub to: String,
    pub when: ChangeWhen,
    /// Why not now, or what it takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What a running VM has, and what it has room for until it is powered off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Hardware {
    /// CPUs that are plugged in.
    pub cpus: u32,
    pub max_cpus: u32,
    /// What it was started with and has been given since.
    pub memory: ByteSize,
    /// What it was started with, which cannot be taken away.
    pub boot_memory: ByteSize,
    pub max_memory: ByteSize,
    /// Places for further disks and NICs.
    pub free_ports: u32,
}

/// How a VM that runs with `running` becomes what is `asked` for. Without `room` it does not run,
/// and everything changes at once.
pub fn plan_changes(running: &VmSpec, asked: &VmSpec, room: Option<&Hardware>) -> Vec<VmChange> {
    let mut plan =
        Plan { room, free_ports: room.map_or(u32::MAX, |r| r.free_ports), changes: Vec::new() };
    plan.cpus(running, asked);
    plan.memory(running, asked);
    plan.cold(running, asked);
    plan.cdroms(&running.cdroms, &asked.cdroms);
    plan.nics(&running.nics, &asked.nics);
    plan.disks(&running.disks, &asked.disks);
    plan.changes
}

struct Plan<'a> {
    room: Option<&'a Hardware>,
    free_ports: u32,
    changes: Vec<VmChange>,
}

impl Plan<'_> {
    fn add(
        &mut self,
        subject: impl Into<String>,
        (from, to): (impl Display, impl Display),
        when: ChangeWhen,
        reason: Option<String>,
    ) {
        let (from, to) = (from.to_string(), to.to_string());
        let (when, reason) = match self.room {
            Some(_) => (when, reason),
            None => (ChangeWhen::Now, None),
        };
        self.changes.push(VmChange { subject: subject.into(), from, to, when, reason });
    }

    fn power_off(
        &mut self,
        subject: impl Into<String>,
        values: (impl Display, impl Display),
        reason: impl Into<String>,
    ) {
        self.add(subject, values, ChangeWhen::PowerOff, Some(reason.into()));
    }

    fn cpus(&mut self, running: &VmSpec, asked: &VmSpec) {
        let values = (running.cpus, asked.cpus);
        if values.0 != values.1 {
            let most = self.room.map_or(u32::MAX, |room| room.max_cpus);
            if asked.cpus.count() > most {
                let reason =
                    format!("it has room for {} until it is powered off", counted(most, "CPU"));
                self.power_off("cpus", values, reason);
            } else {
                let grows = asked.cpus > running.cpus;
                let what =
                    if grows { "the guest brings them online" } else { "the guest lets them go" };
                self.add("cpus", values, ChangeWhen::WithGuest, Some(what.to_owned()));
            }
        }
        if running.cpu_limit != asked.cpu_limit {
            let values = (optional(running.cpu_limit), optional(asked.cpu_limit));
            self.add("cpu-limit", values, ChangeWhen::Now, None);
        }
    }

    fn memory(&mut self, running: &VmSpec, asked: &VmSpec) {
        let values = (running.memory, asked.memory);
        if values.0 != values.1 {
            let (least, most) = self.room.map_or((ByteSize(0), ByteSize(u64::MAX)), |room| {
                (room.boot_memory, room.max_memory)
            });
            if asked.memory > most {
                let reason = format!(
                    "it was started with room for {most}; give it room with `--max-memory` before its next start"
                );
                self.power_off("memory", values, reason);
            } else if asked.memory < least {
                let reason = format!(
                    "it was started with {least}, and only what was added since can be taken away"
                );
                self.power_off("memory", values, reason);
            } else if !(asked.memory.bytes() - least.bytes().min(asked.memory.bytes()))
                .is_multiple_of(MEMORY_STEP)
                && self.room.is_some()
            {
                let reason =
                    format!("while it runs, memory changes in steps of {}", ByteSize(MEMORY_STEP));
                self.power_off("memory", values, reason);
            } else {
                let grows = asked.memory > running.memory;
                let what =
                    if grows { "the guest brings it online" } else { "the guest lets it go" };
                self.add("memory", values, ChangeWhen::WithGuest, Some(what.to_owned()));
            }
        }
        if running.max_memory != asked.max_memory {
            let values = (optional(running.max_memory), optional(asked.max_memory));
            self.power_off("max-memory", values, "the board is made with room for it");
        }
        if running.balloon != asked.balloon {
            let values = (optional(running.balloon), optional(asked.balloon));
            let what = "the guest's balloon driver does it".to_owned();
            self.add("balloon", values, ChangeWhen::WithGuest, Some(what));
        }
    }

    /// What a guest never sees change while it runs.
    fn cold(&mut self, running: &VmSpec, asked: &VmSpec) {
        if running.firmware != asked.firmware {
            let values = (running.firmware.as_str(), asked.firmware.as_str());
            self.power_off("firmware", values, "the board is made with it");
        }
        if running.cpu_model != asked.cpu_model {
            let name =
                |model: &Option<String>| model.clone().unwrap_or_else(|| "host's".to_owned());
            let values = (name(&running.cpu_model), name(&asked.cpu_model));
            self.power_off("cpu-model", values, "a guest learns its CPUs' abilities as it boots");
        }
        if running.boot_order != asked.boot_order {
            let order = |devices: &[BootDevice]| {
                devices.iter().map(|device| device.as_str()).collect::<Vec<_>>().join(",")
            };
            let values = (order(&running.boot_order), order(&asked.boot_order));
            self.power_off("boot-order", values, "the firmware gets it at power-on");
        }
        // What runs is remembered without secrets, and a guest that has been told needs them no more.
        let told = |spec: &VmSpec| spec.clone().without_secrets().customization;
        if told(running) != told(asked) {
            let reason = "the guest reads it as it boots";
            self.power_off("customization", ("as it was", "changed"), reason);
        }
    }

    fn cdroms(&mut self, running: &[CdromSpec], asked: &[CdromSpec]) {
        const BOARD: &str = "CD drives sit on the board";
        let medium =
            |drive: &CdromSpec| drive.image.map_or("empty".to_owned(), |id| format!("image {id}"));
        for name in names(running, asked, |drive| &drive.name) {
            let subject = format!("cdrom {name}");
            let find = |drives: &[CdromSpec]| drives.iter().find(|d| d.name == name).cloned();
            match (find(running), find(asked)) {
                (Some(old), Some(new)) if old.image != new.image => {
                    self.add(subject, (medium(&old), medium(&new)), ChangeWhen::Now, None);
                }
                (None, Some(new)) => self.power_off(subject, ("no drive", medium(&new)), BOARD),
                (Some(old), None) => self.power_off(subject, (medium(&old), "no drive"), BOARD),
                _ => {}
            }
        }
    }

    fn nics(&mut self, running: &[NicSpec], asked: &[NicSpec]) {
        for name in names(running, asked, |nic| &nic.name) {
            let subject = format!("nic {name}");
            let find = |nics: &[NicSpec]| nics.iter().find(|nic| nic.name == name).cloned();
            match (find(running), find(asked)) {
                (Some(old), Some(new)) => self.nic(&subject, &old, &new),
                (None, Some(new)) => self.plug(subject, format!("on network {}", new.network)),
                (Some(old), None) => self.unplug(subject, format!("on network {}", old.network)),
                (None, None) => {}
            }
        }
    }

    fn nic(&mut self, subject: &str, old: &NicSpec, new: &NicSpec) {
        if old.mac != new.mac {
            let reason = "a card keeps its address while it is plugged in";
            self.power_off(format!("{subject} mac"), (old.mac, new.mac), reason);
        }
        if old.address != new.address {
            let reason = "the guest reads it as it boots";
            self.power_off(format!("{subject} address"), ("as it was", "changed"), reason);
        }
        if old.network != new.network {
            let subject = format!("{subject} network");
            let on = |nic: &NicSpec| format!("network {}", nic.network);
            self.add(subject, (on(old), on(new)), ChangeWhen::Now, None);
        }
        if old.link != new.link {
            let values = (link(old.link), link(new.link));
            self.add(format!("{subject} link"), values, ChangeWhen::Now, None);
        }
    }

    fn disks(&mut self, running: &[DiskSpec], asked: &[DiskSpec]) {
        for name in names(running, asked, |disk| &disk.name) {
            let subject = format!("disk {name}");
            let find = |disks: &[DiskSpec]| disks.iter().find(|disk| disk.name == name).cloned();
            match (find(running), find(asked)) {
                (Some(old), Some(new)) => self.disk(&subject, &old, &new),
                (None, Some(new)) => self.plug_disk(subject, &new, running),
                (Some(old), None) => self.unplug(subject, old.size),
                (None, None) => {}
            }
        }
    }

    fn disk(&mut self, subject: &str, old: &DiskSpec, new: &DiskSpec) {
        if old.bus != new.bus {
            let values = (old.bus.as_str(), new.bus.as_str());
            self.power_off(format!("{subject} bus"), values, "the guest would lose the disk");
        }
        if old.size != new.size {
            let subject = format!("{subject} size");
            self.add(subject, (old.size, new.size), ChangeWhen::Now, None);
        }
        if old.limits != new.limits {
            self.add(format!("{subject} limits"), (old.limits, new.limits), ChangeWhen::Now, None);
        }
    }

    fn plug_disk(&mut self, subject: String, disk: &DiskSpec, running: &[DiskSpec]) {
        match disk.bus {
            DiskBus::VirtioBlk => self.plug(subject, disk.size),
            DiskBus::VirtioScsi if running.iter().any(|d| d.bus == DiskBus::VirtioScsi) => {
                self.add(subject, ("none", disk.size), ChangeWhen::WithGuest, None);
            }
            // The controller takes a place of its own.
            DiskBus::VirtioScsi => self.plug(subject, disk.size),
        }
    }

    fn plug(&mut self, subject: String, what: impl Display) {
        if self.free_ports == 0 {
            self.power_off(subject, ("none", what), "all its places for devices are taken");
            return;
        }
        self.free_ports -= 1;
        self.add(subject, ("none", what), ChangeWhen::WithGuest, None);
    }

    fn unplug(&mut self, subject: String, what: impl Display) {
        let reason = Some("the guest lets it go".to_owned());
        self.add(subject, (what, "none"), ChangeWhen::WithGuest, reason);
    }
}

/// Memory is plugged in blocks of this many bytes.
pub const MEMORY_STEP: u64 = 2 << 20;

/// All names, those that run first, in their order.
fn names<T>(running: &[T], asked: &[T], name: impl Fn(&T) -> &Name) -> Vec<Name> {
    let mut seen = BTreeSet::new();
    let all = running.iter().chain(asked).map(|one| name(one).clone());
    all.filter(|name| seen.insert(name.clone())).collect()
}

fn optional(value: Option<impl Display>) -> String {
    value.map_or_else(|| "none".to_owned(), |value| value.to_string())
}

fn link(link: LinkState) -> &'static str {
    match link {
        LinkState::Up => "up",
        LinkState::Down => "down",
    }
}

impl ChangeWhen {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Now => "live now",
            Self::WithGuest => "live, with the guest's help",
            Self::PowerOff => "needs power off",
        }
    }
}

impl fmt::Display for VmChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} -> {}: {}", self.subject, self.from, self.to, self.when.as_str())?;
        match &self.reason {
            Some(reason) => write!(f, " ({reason})"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// 2 CPUs and 1 GiB, two NICs, a disk and a CD drive.
    fn spec(change: impl FnOnce(&mut Value)) -> VmSpec {
        let network = "0190a5d0-0000-7000-8000-000000000001";
        let nic = |name: &str, mac: &str| json!({ "name": name, "network": network, "mac": mac });
        let mut spec = json!({
            "cpus": 2, "memory": "1GiB",
            "disks": [{ "name": "root", "size": "2GiB", "source": "blank" }],
            "cdroms": [{ "name": "cdrom0", "image": null }],
            "nics": [nic("nic0", "52:54:00:00:00:01"), nic("nic1", "52:54:00:00:00:02")],
        });
        change(&mut spec);
        serde_json::from_value(spec).unwrap()
    }

    fn room(free_ports: u32) -> Hardware {
        Hardware {
            cpus: 2,
            max_cpus: 4,
            memory: ByteSize::gib(1),
            boot_memory: ByteSize::gib(1),
            max_memory: ByteSize::gib(4),
            free_ports,
        }
    }

    fn check(change: impl FnOnce(&mut Value), expected: &[&str]) {
        check_with(1, change, expected);
    }

    fn check_with(free_ports: u32, change: impl FnOnce(&mut Value), expected: &[&str]) {
        let plan = plan_changes(&spec(|_| {}), &spec(change), Some(&room(free_ports)));
        let lines: Vec<_> = plan
            .iter()
            .map(|change| {
                format!("{} {} -> {} {:?}", change.subject, change.from, change.to, change.when)
            })
            .collect();
        assert_eq!(lines, expected);
    }

    #[test]
    fn each_change_has_its_time() {
        check(|_| {}, &[]);
        check(|s| s["description"] = json!("x"), &[]);
        check(|s| s["cpus"] = json!(4), &["cpus 2 -> 4 WithGuest"]);
        check(|s| s["cpus"] = json!(1), &["cpus 2 -> 1 WithGuest"]);
        check(|s| s["cpus"] = json!(5), &["cpus 2 -> 5 PowerOff"]);
        check(|s| s["memory"] = json!("2GiB"), &["memory 1GiB -> 2GiB WithGuest"]);
        check(|s| s["memory"] = json!("8GiB"), &["memory 1GiB -> 8GiB PowerOff"]);
        check(|s| s["memory"] = json!("512MiB"), &["memory 1GiB -> 512MiB PowerOff"]);
        check(|s| s["memory"] = json!("1025MiB"), &["memory 1GiB -> 1.0GiB PowerOff"]);
        check(|s| s["max_memory"] = json!("8GiB"), &["max-memory none -> 8GiB PowerOff"]);
        check(|s| s["balloon"] = json!("512MiB"), &["balloon none -> 512MiB WithGuest"]);
        check(|s| s["cpu_limit"] = json!(1500), &["cpu-limit none -> 1.5 Now"]);
        check(|s| s["firmware"] = json!("uefi"), &["firmware bios -> uefi PowerOff"]);
        check(
            |s| s["boot_order"] = json!(["cdrom"]),
            &["boot-order disk,cdrom,network -> cdrom PowerOff"],
        );
        let image = "0190a5d0-0000-7000-8000-000000000009";
        check(
            |s| s["cdroms"][0]["image"] = json!(image),
            &[&format!("cdrom cdrom0 empty -> image {image} Now")],
        );
        check(|s| s["cdroms"] = json!([]), &["cdrom cdrom0 empty -> no drive PowerOff"]);
        check(|s| s["nics"][0]["link"] = json!("down"), &["nic nic0 link up -> down Now"]);
        check(|s| s["disks"][0]["size"] = json!("3GiB"), &["disk root size 2GiB -> 3GiB Now"]);
        check(
            |s| s["disks"][0]["limits"] = json!({ "iops": 100 }),
            &["disk root limits none -> 100 IOPS Now"],
        );
        check(
            |s| s["disks"][0]["bus"] = json!("virtio-scsi"),
            &["disk root bus virtio-blk -> virtio-scsi PowerOff"],
        );
    }

    #[test]
    fn devices_come_and_go_by_name_while_there_are_places() {
        let network = "0190a5d0-0000-7000-8000-000000000001";
        let third = json!({ "name": "nic2", "network": network, "mac": "52:54:00:00:00:03" });
        let data = json!({ "name": "data", "size": "1GiB", "source": "blank" });
        let both = |s: &mut Value| {
            s["nics"].as_array_mut().unwrap().push(third);
            s["disks"].as_array_mut().unwrap().push(data);
        };
        check_with(
            1,
            both,
            &[
                &format!("nic nic2 none -> on network {network} WithGuest"),
                "disk data none -> 1GiB PowerOff",
            ],
        );
        check(
            |s| drop(s["nics"].as_array_mut().unwrap().remove(0)),
            &[&format!("nic nic0 on network {network} -> none WithGuest")],
        );
    }

    #[test]
    fn a_vm_that_is_off_changes_at_once() {
        let plan = plan_changes(
            &spec(|_| {}),
            &spec(|s| {
                s["cpus"] = json!(64);
                s["firmware"] = json!("uefi");
            }),
            None,
        );
        assert_eq!(plan.len(), 2);
        assert!(
            plan.iter().all(|change| change.when == ChangeWhen::Now && change.reason.is_none())
        );
    }
}
