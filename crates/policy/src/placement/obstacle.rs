//! Why a host cannot take a VM: each filter that it does not pass, with the numbers, and what
//! would have to change.

use std::fmt;

use hostler_types::{ByteSize, counted};
use serde::{Deserialize, Serialize};

use super::datastore::refuses_now;
use crate::cluster::{CPU, Cluster, Filter, HostCondition, Item, MEMORY, ReachOf, StoreNeed};

/// One failed filter. Shown after the host's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Obstacle {
    NotAskedFor,
    Disconnected,
    Maintenance,
    /// `most` is what a VM may have there: see `Room::widest`.
    TooFewCpus {
        has: i64,
        most: i64,
        asked: i64,
    },
    TooLittleMemory {
        has: ByteSize,
        asked: ByteSize,
    },
    CpuFeatures {
        missing: Vec<String>,
    },
    /// A running guest can go on only with these.
    Machine {
        missing: Vec<String>,
    },
    Network {
        missing: String,
    },
    Reach {
        what: ReachOf,
    },
    NoDatastore,
    NotThatDatastore,
    DatastoresFull {
        reasons: Vec<String>,
    },
    Memory {
        free: i64,
        most: ByteSize,
        asked: ByteSize,
    },
    Vcpus {
        free: i64,
        most: i64,
        asked: i64,
    },
    MemoryReservation {
        free: i64,
        most: ByteSize,
        asked: ByteSize,
    },
    CpuReservation {
        free: i64,
        most: i64,
        asked: i64,
    },
    HostRule {
        rule: String,
        run_on: bool,
    },
    Apart {
        rule: String,
        place: String,
        with: Vec<String>,
    },
    Together {
        rule: String,
        with: Vec<String>,
        places: Vec<String>,
    },
    NoLabel {
        label: String,
    },
}

impl Obstacle {
    /// The filter's name, for counts.
    pub fn filter(&self) -> &'static str {
        match self {
            Self::NotAskedFor => "asked for",
            Self::Disconnected | Self::Maintenance => "state",
            Self::TooFewCpus { .. } | Self::TooLittleMemory { .. } => "size",
            Self::CpuFeatures { .. } => "CPU baseline",
            Self::Machine { .. } => "machine",
            Self::Network { .. } => "networks",
            Self::Reach { .. } => "reach",
            Self::NoDatastore | Self::NotThatDatastore => "datastores",
            Self::DatastoresFull { .. } => "datastore space",
            Self::Memory { .. } => "memory",
            Self::Vcpus { .. } => "vCPUs",
            Self::MemoryReservation { .. } => "memory reservation",
            Self::CpuReservation { .. } => "CPU reservation",
            Self::HostRule { .. } => "host rules",
            Self::Apart { .. } | Self::Together { .. } => "VM rules",
            Self::NoLabel { .. } => "labels",
        }
    }

    /// The smallest change that would take it away, as an order to a person.
    pub fn way_out(&self) -> String {
        match self {
            Self::NotAskedFor => "do not ask for another host".to_owned(),
            Self::Disconnected => "start its agent, or repair its network".to_owned(),
            Self::Maintenance => "end its maintenance".to_owned(),
            Self::TooFewCpus { most, asked, .. } => {
                format!("give the VM {} less ({most} at most)", counted(asked - most, "CPU"))
            }
            Self::TooLittleMemory { has, asked } => {
                let less = ByteSize(asked.0.saturating_sub(has.0));
                format!("give the VM {less} of memory less ({has} at most)")
            }
            Self::CpuFeatures { missing } => {
                format!("use a CPU model, or a CPU baseline, without {}", missing.join(", "))
            }
            Self::Machine { .. } => "stop the VM first".to_owned(),
            Self::Network { missing } => format!("make the bridge `{missing}` there"),
            Self::Reach { what: ReachOf::Image(name) } => {
                format!("mount the datastore of image `{name}` there")
            }
            Self::Reach { what: ReachOf::Template(name) } => {
                format!("mount the datastore of template `{name}` there")
            }
            Self::NoDatastore => "give it a datastore".to_owned(),
            Self::NotThatDatastore => "mount that datastore there".to_owned(),
            Self::DatastoresFull { .. } => "make room on a datastore, or ask for less".to_owned(),
            Self::Memory { free, asked, .. } => {
                format!("free {} of promised memory there", lacking(*asked, *free))
            }
            Self::Vcpus { free, asked, .. } => {
                format!("free {} promised vCPUs there", asked - (*free).max(0))
            }
            Self::MemoryReservation { free, asked, .. } => {
                format!("reserve {} of memory less", lacking(*asked, *free))
            }
            Self::CpuReservation { free, asked, .. } => {
                format!("reserve {} MHz less", asked - (*free).max(0))
            }
            Self::HostRule { rule, .. } => {
                format!("add the host to rule `{rule}`, or drop the rule")
            }
            Self::Apart { with, rule, .. } if !with.is_empty() => {
                format!("move {} away, or drop rule `{rule}`", listed(with))
            }
            Self::Apart { rule, .. } => format!("drop rule `{rule}`"),
            Self::Together { rule, places, .. } => {
                format!("place it on {}, or drop rule `{rule}`", listed(places))
            }
            Self::NoLabel { label } => format!("give it the label `{label}`"),
        }
    }

    /// Whether it is a rule that stands in the way.
    pub fn is_rule(&self) -> bool {
        matches!(
            self,
            Self::HostRule { .. }
                | Self::Apart { .. }
                | Self::Together { .. }
                | Self::NoLabel { .. }
        )
    }

    /// Whether moving other VMs away could take it away.
    pub(crate) fn is_room(&self) -> bool {
        matches!(
            self,
            Self::Memory { .. }
                | Self::Vcpus { .. }
                | Self::MemoryReservation { .. }
                | Self::CpuReservation { .. }
        )
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAskedFor => f.write_str("is not the host that is asked for"),
            Self::Disconnected => f.write_str("does not answer"),
            Self::Maintenance => f.write_str("is in maintenance"),
            Self::TooFewCpus { has, most, asked } if most > has => write!(
                f,
                "has {}, enough for VMs of up to {most}; {asked} are asked for",
                counted(*has, "CPU")
            ),
            Self::TooFewCpus { has, asked, .. } => {
                write!(f, "has {}, {asked} are asked for", counted(*has, "CPU"))
            }
            Self::TooLittleMemory { has, asked } => {
                write!(f, "has {has} of memory, {asked} are asked for")
            }
            Self::CpuFeatures { missing } => {
                write!(f, "lacks the CPU features {}", missing.join(", "))
            }
            Self::Machine { missing } => {
                write!(f, "lacks what the running guest needs: {}", missing.join(", "))
            }
            Self::Network { missing } => write!(f, "has no bridge `{missing}`"),
            Self::Reach { what: ReachOf::Image(name) } => {
                write!(f, "has no datastore with the image `{name}`")
            }
            Self::Reach { what: ReachOf::Template(name) } => {
                write!(f, "does not reach the datastore of template `{name}`")
            }
            Self::NoDatastore => f.write_str("has no datastore"),
            Self::NotThatDatastore => f.write_str("does not have that datastore"),
            Self::DatastoresFull { reasons } => write!(f, "has no room: {}", reasons.join(", ")),
            Self::Memory { free, most, asked } => write!(
                f,
                "may promise {} more memory of {most}, {asked} are asked for",
                left(*free)
            ),
            Self::Vcpus { free, most, asked } => write!(
                f,
                "may promise {} more vCPUs of {most}, {asked} are asked for",
                (*free).max(0)
            ),
            Self::MemoryReservation { free, most, asked } => write!(
                f,
                "has {} of memory not reserved of {most}, {asked} are to be reserved",
                left(*free)
            ),
            Self::CpuReservation { free, most, asked } => write!(
                f,
                "has {} MHz not reserved of {most} MHz, {asked} MHz are to be reserved",
                (*free).max(0)
            ),
            Self::HostRule { rule, run_on: true } => {
                write!(f, "is none of the hosts that rule `{rule}` allows")
            }
            Self::HostRule { rule, run_on: false } => write!(f, "is forbidden by rule `{rule}`"),
            Self::Apart { rule, place, with } if with.is_empty() => {
                write!(f, "would hold two VMs on {place} that rule `{rule}` keeps apart")
            }
            Self::Apart { rule, place, with } => {
                write!(f, "rule `{rule}` keeps it apart from {}, on {place}", listed(with))
            }
            Self::Together { rule, with, places } => write!(
                f,
                "rule `{rule}` keeps it together with {}, on {}",
                listed(with),
                listed(places)
            ),
            Self::NoLabel { label } => {
                write!(f, "has no label `{label}`, which a rule needs")
            }
        }
    }
}

/// At most three names.
pub(crate) fn listed(names: &[String]) -> String {
    let told: Vec<_> = names.iter().take(3).map(|name| format!("`{name}`")).collect();
    match names.len().saturating_sub(3) {
        0 => told.join(", "),
        more => format!("{} and {more} more", told.join(", ")),
    }
}

fn left(free: i64) -> ByteSize {
    ByteSize(u64::try_from(free).unwrap_or(0))
}

fn lacking(asked: ByteSize, free: i64) -> ByteSize {
    ByteSize(asked.0.saturating_sub(left(free).0))
}

fn bytes(size: i64) -> ByteSize {
    left(size)
}

impl Cluster {
    /// All filters that a host does not pass, in the order in which people would look. Empty if and
    /// only if the host can take the item: a property test holds it against the choice.
    pub(crate) fn obstacles(&self, item: &Item, host: usize) -> Vec<Obstacle> {
        let mut obstacles = self.static_obstacles(item, host);
        let room = &self.room[host];
        let (has, asked) = (room.cpus, item.cpus);
        if asked > room.widest {
            obstacles.push(Obstacle::TooFewCpus { has, most: room.widest, asked });
        }
        if item.memory > room.memory {
            let (has, asked) = (bytes(room.memory), bytes(item.memory));
            obstacles.push(Obstacle::TooLittleMemory { has, asked });
        }
        // As people look: what the host is, then its disks, then its room, then rules.
        obstacles.sort_by_key(rank);
        obstacles.extend(self.store_obstacle(item, host));
        for (of, (free, asked)) in room.free.into_iter().zip(item.size).enumerate() {
            if asked <= free.max(0) {
                continue;
            }
            let most = room.most[of];
            obstacles.push(match of {
                MEMORY => Obstacle::Memory { free, most: bytes(most), asked: bytes(asked) },
                CPU => Obstacle::Vcpus { free, most, asked },
                2 => Obstacle::MemoryReservation { free, most: bytes(most), asked: bytes(asked) },
                _ => Obstacle::CpuReservation { free, most, asked },
            });
        }
        obstacles.extend(self.rule_obstacles(item, host));
        obstacles
    }

    fn static_obstacles(&self, item: &Item, host: usize) -> Vec<Obstacle> {
        let facts = &self.hosts[host];
        let mut obstacles = Vec::new();
        for class in &item.classes {
            let key = &self.classes[*class as usize].key;
            self.static_filters(key, host, &mut |filter| {
                obstacles.push(match filter {
                    Filter::Host => Obstacle::NotAskedFor,
                    Filter::Condition if facts.condition == HostCondition::Maintenance => {
                        Obstacle::Maintenance
                    }
                    Filter::Condition => Obstacle::Disconnected,
                    Filter::Features => {
                        let needed = &self.features[key.features as usize].needed;
                        let missing = needed.difference(&facts.features).cloned();
                        let (features, machine): (Vec<_>, Vec<_>) =
                            missing.partition(|need| is_feature(need));
                        match machine.is_empty() {
                            true => Obstacle::CpuFeatures { missing: features },
                            false => {
                                let missing = machine.into_iter().chain(features).collect();
                                Obstacle::Machine { missing }
                            }
                        }
                    }
                    Filter::Networks => {
                        let needed = &self.networks[key.networks as usize].needed;
                        let missing = needed.difference(&facts.networks).next().cloned();
                        Obstacle::Network { missing: missing.unwrap_or_default() }
                    }
                    Filter::Reach(at) => Obstacle::Reach { what: key.reach[at].1.clone() },
                    // Told with the reasons of each datastore below, where there is one.
                    Filter::Store => return true,
                    Filter::Rule(rule) => {
                        let rule = &self.rules.with_hosts[rule as usize];
                        Obstacle::HostRule { rule: rule.name.clone(), run_on: rule.run_on }
                    }
                    Filter::Scope(scope) => {
                        let label = self.rules.scopes[scope as usize].label.clone();
                        Obstacle::NoLabel { label: label.unwrap_or_default() }
                    }
                });
                true
            });
        }
        obstacles
    }

    fn store_obstacle(&self, item: &Item, host: usize) -> Option<Obstacle> {
        if item.store == StoreNeed::Nothing {
            return None;
        }
        let (mut reasons, mut own) = (Vec::new(), 0);
        for (store, ready) in &self.hosts[host].stores {
            if !item.store.wants(*store) {
                continue;
            }
            own += 1;
            let candidate = &self.stores[*store as usize];
            match refuses_now(candidate, *ready, item.new_disks) {
                None => return None,
                Some(reason) => {
                    reasons.push(format!("its datastore `{}` {reason}", candidate.name));
                }
            }
        }
        Some(match (own, item.store) {
            (0, StoreNeed::One(_)) => Obstacle::NotThatDatastore,
            (0, _) => Obstacle::NoDatastore,
            _ => Obstacle::DatastoresFull { reasons },
        })
    }

    fn rule_obstacles(&self, item: &Item, host: usize) -> Vec<Obstacle> {
        let mut obstacles = Vec::new();
        if let Some(rule) = item.clash {
            let rule = self.rules.between[rule as usize].name.clone();
            let place = format!("host {}", self.hosts[host].name);
            obstacles.push(Obstacle::Apart { rule, place, with: Vec::new() });
        }
        for position in &item.rules {
            let rule = &self.rules.between[*position as usize];
            let scope = &self.rules.scopes[rule.scope];
            let place = scope.place(host);
            if !rule.must || place == crate::rules::NOWHERE || rule.takes(place) {
                continue;
            }
            let told = |place: u32| match scope.told(place) {
                Some(told) => told,
                None if scope.label.is_some() => "a host without the label".to_owned(),
                None => format!("host {}", self.name_of(place)),
            };
            let name = rule.name.clone();
            obstacles.push(if rule.together {
                let places: Vec<_> = rule.places().collect();
                let with = places.iter().flat_map(|place| self.members_in(*position, *place));
                let with = with.collect();
                let places = places.iter().map(|place| told(*place)).collect();
                Obstacle::Together { rule: name, with, places }
            } else {
                let with = self.members_in(*position, place);
                Obstacle::Apart { rule: name, place: told(place), with }
            });
        }
        obstacles
    }

    /// The names of a rule's VMs in a place.
    fn members_in(&self, rule: u32, place: u32) -> Vec<String> {
        let scope = &self.rules.scopes[self.rules.between[rule as usize].scope];
        let vms = scope.hosts_in(place).flat_map(|host| &self.vms_on[host]);
        let members = vms.map(|vm| &self.vms[*vm as usize]);
        let members = members.filter(|vm| vm.item.rules.binary_search(&rule).is_ok());
        let mut names: Vec<_> = members.map(|vm| vm.name.clone()).collect();
        names.sort_unstable();
        names
    }
}

/// Whether what a VM needs of a host's machine is a CPU feature, and not something else, in words.
pub fn is_feature(need: &str) -> bool {
    !need.contains(' ')
}

/// The order in which what a host lacks is told.
fn rank(obstacle: &Obstacle) -> u8 {
    match obstacle {
        Obstacle::NotAskedFor => 0,
        Obstacle::Disconnected | Obstacle::Maintenance => 1,
        Obstacle::TooFewCpus { .. } => 2,
        Obstacle::TooLittleMemory { .. } => 3,
        Obstacle::CpuFeatures { .. } | Obstacle::Machine { .. } => 4,
        Obstacle::Network { .. } => 5,
        Obstacle::Reach { what: ReachOf::Image(_) } => 6,
        Obstacle::Reach { what: ReachOf::Template(_) } => 7,
        _ => 8,
    }
}
