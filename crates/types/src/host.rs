//! Hosts, what they can do, and how they join.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::cpu::GuestCpu;
use crate::id::{HostId, VmId};
use crate::name::Name;
use crate::object::{Kind, KindName, Object};
use crate::shares::Megahertz;
use crate::size::ByteSize;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HostKind;
pub type Host = Object<HostKind>;

impl Kind for HostKind {
    const NAME: KindName = KindName::Host;
    const SCHEMA: &'static str = "Host";
    type Spec = HostSpec;
    type Status = HostStatus;
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HostSpec {
    /// Where the agent listens, `address:port`.
    pub address: String,
    /// It takes no VMs, and those that run on it leave.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub maintenance: bool,
}

impl HostSpec {
    /// A host that takes VMs.
    pub const fn new(address: String) -> Self {
        Self { address, maintenance: false }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostStatus {
    pub state: HostState,
    #[schema(value_type = String, format = DateTime)]
    pub since: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub facts: Option<HostFacts>,
    /// VMs that have left it for its maintenance: what comes back when that is over and it is asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub evacuated: Vec<VmId>,
}

impl HostStatus {
    /// Of a host that has joined and was never seen.
    pub fn joined(since: Timestamp) -> Self {
        let (state, evacuated) = (HostState::Joined, Vec::new());
        Self { state, since, message: None, facts: None, evacuated }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum HostState {
    /// Joined, never seen since.
    Joined,
    Connected,
    /// Does not answer; its VMs are `unknown`.
    Disconnected,
}

/// What a host has, as its agent found at its start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct HostFacts {
    /// The kernel's host name.
    pub hostname: String,
    pub agent_version: String,
    pub kernel: String,
    pub cpu_model: String,
    /// Logical CPUs.
    pub cpus: u32,
    /// Of each logical CPU, in MHz: its base speed, as far as the kernel tells it.
    #[serde(default = "HostFacts::default_mhz")]
    pub mhz_per_cpu: u32,
    pub memory: ByteSize,
    pub qemu_version: String,
    pub accelerator: Accelerator,
    /// What an operator should know, such as why KVM is not used.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// 1 or 2.
    pub cgroup_version: u8,
    /// Linux bridges, for `bridge` networks.
    #[serde(default)]
    pub bridges: Vec<String>,
    /// What its CPUs can do, as the kernel calls it (`/proc/cpuinfo`), sorted.
    #[serde(default)]
    pub cpu_features: Vec<String>,
    /// What guests can be given of them. Absent: an agent of before has not told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guest_cpu: Option<GuestCpu>,
}

impl HostFacts {
    /// What a CPU is taken for whose speed nobody tells.
    pub const fn default_mhz() -> u32 {
        2_000
    }

    /// What all its CPUs have together.
    pub fn cpu_capacity(&self) -> Megahertz {
        Megahertz(u64::from(self.cpus) * u64::from(self.mhz_per_cpu))
    }
}

/// How guests' instructions are run. Proved by a probe that runs some, never by a file's presence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Accelerator {
    Kvm,
    /// Emulation: works everywhere, about 10 times slower.
    Tcg,
}

impl Accelerator {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct JoinTokenKind;
/// Lets one host join, once, before it expires. Its secret is kept only as a hash.
pub type JoinToken = Object<JoinTokenKind>;

impl Kind for JoinTokenKind {
    const NAME: KindName = KindName::JoinToken;
    const SCHEMA: &'static str = "JoinToken";
    type Spec = JoinTokenSpec;
    type Status = JoinTokenStatus;
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct JoinTokenSpec {
    #[schema(value_type = String, format = DateTime)]
    pub expires_at: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JoinTokenStatus {
    /// SHA-256 of the secret, in hexadecimal. Never shown by the API.
    pub secret_hash: String,
    /// The host that used it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_by: Option<HostId>,
}

/// What a new host sends to the server, which it trusts by the CA fingerprint in its join token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Join {
    /// The join token's secret part.
    pub secret: String,
    pub name: Name,
    /// Where the agent will listen, `address:port`.
    pub address: String,
    /// A PKCS#10 certificate request, PEM.
    pub csr: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JoinAnswer {
    pub host: HostId,
    /// The host's certificate, PEM.
    pub certificate: String,
    /// The CA's certificate, PEM.
    pub ca: String,
}
