//! Decisions about where VMs go, as they are kept.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::id::{DatastoreId, DecisionId, HostId, TaskId, VmId};
use crate::name::Name;
use crate::operations::Revision;

/// A decision that was carried out: what was decided and why, without all that went in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Decision {
    #[schema(value_type = String, format = "uuid")]
    pub id: DecisionId,
    #[schema(value_type = String, format = DateTime)]
    pub at: Timestamp,
    /// What it was made for, such as `vm.create`.
    pub action: String,
    pub actor: String,
    /// The task that carries it out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "uuid")]
    pub task: Option<TaskId>,
    /// Of the inventory that it was made from.
    pub revision: Revision,
    pub vms: Vec<DecidedVm>,
    /// Why, in sentences with the numbers.
    pub sentences: Vec<String>,
    /// The size of its record, in bytes.
    pub bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DecidedVm {
    #[schema(value_type = String, format = "uuid")]
    pub id: VmId,
    /// As it was called then.
    pub name: Name,
    #[schema(value_type = String, format = "uuid")]
    pub host: HostId,
    /// As it was called then.
    pub host_name: Name,
    #[schema(value_type = String, format = "uuid")]
    pub datastore: DatastoreId,
}
