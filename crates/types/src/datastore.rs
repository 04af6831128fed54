//! Datastores: directories that hold images and VMs.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::id::HostId;
use crate::object::{Kind, KindName, Object};
use crate::size::ByteSize;
use crate::vm_requests::SpecError;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DatastoreKind;
pub type Datastore = Object<DatastoreKind>;

impl Kind for DatastoreKind {
    const NAME: KindName = KindName::Datastore;
    const SCHEMA: &'static str = "Datastore";
    type Spec = DatastoreSpec;
    type Status = DatastoreStatus;
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct DatastoreSpec {
    #[serde(default)]
    pub kind: StorageKind,
    /// The host that has the directory; of a shared one, the host that made it and works on its
    /// images.
    pub host: HostId,
    /// Further hosts that have the same directory mounted at the same path; of a shared one only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub hosts: Vec<HostId>,
    /// Absolute path on the hosts.
    pub path: String,
    #[serde(default)]
    pub limits: DatastoreLimits,
    /// No new disks and images; those there are go on.
    #[serde(default)]
    pub maintenance: bool,
}

/// Who can have a datastore's directory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum StorageKind {
    /// A directory of one host.
    #[default]
    Local,
    /// A directory on a shared file system, such as NFS, that several hosts have mounted.
    Shared,
}

impl StorageKind {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Shared => "shared",
        }
    }
}

/// From when on a datastore warns, and refuses new disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DatastoreLimits {
    /// Warns from this part of the capacity on, in percent, 1 to 100.
    #[schema(minimum = 1, maximum = 100)]
    pub warn_percent: u8,
    /// Takes no new disks from this part of the capacity on, in percent, 1 to 100.
    #[schema(minimum = 1, maximum = 100)]
    pub refuse_percent: u8,
    /// The sizes of all disks together may be this part of the capacity, in percent, 10 to 100000;
    /// absent: any. Disks take space only as the guests write.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 10, maximum = 100_000)]
    pub overcommit_percent: Option<u32>,
}

impl Default for DatastoreLimits {
    fn default() -> Self {
        Self { warn_percent: 85, refuse_percent: 97, overcommit_percent: None }
    }
}

impl DatastoreLimits {
    /// # Errors
    /// The first that is out of range, with its range.
    pub fn validate(&self) -> Result<(), SpecError> {
        let percent = 1..=100;
        if !percent.contains(&self.warn_percent) {
            return Err(SpecError::new("warn_percent", "1 to 100 are possible"));
        }
        if !percent.contains(&self.refuse_percent) || self.refuse_percent < self.warn_percent {
            let reason = format!("from the warning, {}, to 100 are possible", self.warn_percent);
            return Err(SpecError::new("refuse_percent", reason));
        }
        if self.overcommit_percent.is_some_and(|percent| !(10..=100_000).contains(&percent)) {
            return Err(SpecError::new("overcommit_percent", "10 to 100000 are possible"));
        }
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DatastoreStatus {
    pub state: DatastoreState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// As a host last reported; 0 until one has.
    pub capacity: ByteSize,
    pub free: ByteSize,
    /// How each host finds it; of a shared one only.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<DatastoreOnHost>,
    /// What its disks could grow to, and how many VMs and images lie there. Counted whenever it is
    /// shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<DatastoreUsage>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DatastoreUsage {
    /// The sizes of all disks together, as the guests see them.
    pub provisioned: ByteSize,
    /// VMs, with those in the recycle bin.
    pub vms: u64,
    pub images: u64,
    /// What to worry about: it fills up, takes no new disks, or has promised more than it holds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warnings: Vec<String>,
}

/// How one host finds a shared datastore.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DatastoreOnHost {
    #[schema(value_type = String)]
    pub host: HostId,
    pub state: DatastoreState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DatastoreState {
    Ready,
    /// Its marker file is not where it should be (not mounted?): nothing is written there.
    Missing,
}

impl DatastoreSpec {
    /// A directory of one host, with the usual limits.
    pub fn local(host: HostId, path: impl Into<String>) -> Self {
        Self {
            kind: StorageKind::Local,
            host,
            hosts: Vec::new(),
            path: path.into(),
            limits: DatastoreLimits::default(),
            maintenance: false,
        }
    }

    /// All hosts that have it.
    pub fn all_hosts(&self) -> impl Iterator<Item = HostId> {
        std::iter::once(self.host).chain(self.hosts.iter().copied())
    }

    pub fn is_on(&self, host: HostId) -> bool {
        self.all_hosts().any(|known| known == host)
    }

    /// # Errors
    /// A sentence that names the rule.
    pub fn validate(&self) -> Result<(), String> {
        let plain = |part: &str| part != ".." && part != ".";
        if !self.path.starts_with('/')
            || self.path.len() > 512
            || self.path.chars().any(char::is_control)
            || !self.path.split('/').all(plain)
            || self.path.trim_end_matches('/').is_empty()
        {
            return Err(format!(
                "path `{}` must be absolute, below `/`, without `.` and `..` parts, and at most 512 bytes",
                self.path.escape_debug()
            ));
        }
        if self.kind == StorageKind::Local && !self.hosts.is_empty() {
            return Err("a local datastore has one host; make a shared one for several".to_owned());
        }
        if self.hosts.len() > 256 {
            return Err("a datastore is shared by at most 257 hosts".to_owned());
        }
        self.limits.validate().map_err(|error| error.to_string())
    }
}

impl DatastoreStatus {
    /// Before any host has looked at it.
    pub fn unseen(message: impl Into<String>) -> Self {
        Self {
            state: DatastoreState::Missing,
            message: Some(message.into()),
            capacity: ByteSize(0),
            free: ByteSize(0),
            hosts: Vec::new(),
            usage: None,
        }
    }

    /// Whether it has ever been there: from then on, its marker must be.
    pub fn was_seen(&self) -> bool {
        self.capacity.0 > 0
    }

    /// Whether a host has it now.
    pub fn is_ready_on(&self, spec: &DatastoreSpec, host: HostId) -> bool {
        match spec.kind {
            StorageKind::Local => self.state == DatastoreState::Ready,
            StorageKind::Shared => {
                let told = self.hosts.iter().find(|told| told.host == host);
                told.is_some_and(|told| told.state == DatastoreState::Ready)
            }
        }
    }

    /// The part of the capacity that is in use, in percent.
    pub fn used_percent(&self) -> u64 {
        percent(self.capacity.0.saturating_sub(self.free.0), self.capacity.0)
    }

    /// What a host says of it. A shared one is ready as long as any host has it.
    #[must_use]
    pub fn told(
        mut self,
        spec: &DatastoreSpec,
        by: DatastoreOnHost,
        capacity: ByteSize,
        free: ByteSize,
    ) -> Self {
        let ready = by.state == DatastoreState::Ready;
        if spec.kind == StorageKind::Local {
            (self.state, self.message) = (by.state, by.message);
            // A directory that is not there now keeps its size.
            (self.capacity, self.free) =
                if ready { (capacity, free) } else { (self.capacity, ByteSize(0)) };
            return self;
        }
        if ready {
            (self.capacity, self.free) = (capacity, free);
        }
        self.hosts.retain(|told| told.host != by.host && spec.is_on(told.host));
        self.hosts.push(by);
        self.hosts.sort_by_key(|told| told.host);
        let missing = self.hosts.iter().filter(|told| told.state == DatastoreState::Missing);
        let (lost, first) = (missing.clone().count(), missing.clone().next());
        self.message = first.map(|first| {
            let why = first.message.as_deref().unwrap_or("it does not say why");
            format!("missing on {lost} of {} hosts: {why}", spec.all_hosts().count())
        });
        let all = lost == self.hosts.len();
        self.state = if all { DatastoreState::Missing } else { DatastoreState::Ready };
        self
    }
}

/// `part` of `whole` in percent, rounded down.
fn percent(part: u64, whole: u64) -> u64 {
    let percent = u128::from(part) * 100 / u128::from(whole.max(1));
    u64::try_from(percent).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shared_datastore_is_ready_as_long_as_one_host_has_it() {
        let (one, two) = (HostId::generate(), HostId::generate());
        let mut spec = DatastoreSpec::local(one, "/mnt/shared");
        (spec.kind, spec.hosts) = (StorageKind::Shared, vec![two]);
        let told = |host, state| {
            let message = (state == DatastoreState::Missing).then(|| "not mounted".to_owned());
            DatastoreOnHost { host, state, message }
        };
        let (size, zero) = (ByteSize::gib(10), ByteSize(0));
        let status = DatastoreStatus::unseen("nobody has looked");
        let status = status.told(&spec, told(one, DatastoreState::Ready), size, size);
        assert_eq!((status.state, &status.message), (DatastoreState::Ready, &None));
        assert!(status.is_ready_on(&spec, one) && !status.is_ready_on(&spec, two));
        let status = status.told(&spec, told(two, DatastoreState::Missing), zero, zero);
        assert_eq!((status.state, status.capacity), (DatastoreState::Ready, size));
        assert_eq!(status.message.as_deref(), Some("missing on 1 of 2 hosts: not mounted"));
        let status = status.told(&spec, told(one, DatastoreState::Missing), zero, zero);
        assert_eq!((status.state, status.was_seen()), (DatastoreState::Missing, true));
    }
}
