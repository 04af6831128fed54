//! Datastores: directories that hold images and VMs.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::id::HostId;
use crate::object::{Kind, KindName, Object};
use crate::size::ByteSize;

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
    /// The host that has the directory.
    pub host: HostId,
    /// Absolute path on the host.
    pub path: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DatastoreStatus {
    pub state: DatastoreState,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// As the host last reported.
    pub capacity: ByteSize,
    pub free: ByteSize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum DatastoreState {
    Ready,
    /// Its marker file is not where it should be (not mounted?): nothing is written there.
    Missing,
}

impl DatastoreSpec {
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
        Ok(())
    }
}
