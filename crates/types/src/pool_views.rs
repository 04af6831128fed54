//! How the cluster, its pools and its VMs stand: what `hostler pool tree` and `pool explain` show.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::id::ObjectId;
use crate::shares::Shares;

/// The cluster, its pools and the VMs that run, parents before children.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PoolTree {
    pub nodes: Vec<PoolNode>,
    /// Where more is reserved than there is, because hosts were lost, in sentences.
    pub alarms: Vec<String>,
}

/// One line of the tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PoolNode {
    pub kind: PoolNodeKind,
    #[schema(value_type = String, format = "uuid")]
    pub id: ObjectId,
    pub name: String,
    /// How many lie above it: 0 for the cluster.
    pub depth: u32,
    /// In MHz.
    pub cpu: ResourceStand,
    /// In bytes.
    pub memory: ResourceStand,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PoolNodeKind {
    Cluster,
    Pool,
    Vm,
}

/// How one resource of the cluster, of a pool or of a VM stands, in MHz or bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ResourceStand {
    pub shares: Shares,
    /// Set aside for it; of the cluster, what its connected hosts have.
    pub reservation: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// Of a pool: what its VMs and pools have reserved.
    pub reserved: u64,
    /// Of a pool: the largest reservation that it could give now.
    pub available: u64,
    /// The most it can use: its size or its limit.
    pub usable: u64,
    /// What it wants now: measured, or its size if nobody has measured yet.
    pub demand: u64,
    /// What it gets when all want what they want now.
    pub entitled: u64,
    /// What it used when it was last measured; absent: not measured yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used: Option<u64>,
    /// What it wants and is not entitled to.
    pub starved: u64,
}

/// How the entitlements of one pool or VM came about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct PoolExplanation {
    pub name: String,
    /// From the cluster down to it, first of CPU, then of memory.
    pub sentences: Vec<String>,
}
