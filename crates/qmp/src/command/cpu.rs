//! Virtual CPUs.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::Command;

/// The CPUs and their host threads.
#[derive(Debug, Serialize)]
pub struct QueryCpusFast;
impl Command for QueryCpusFast {
    const NAME: &'static str = "query-cpus-fast";
    type Return = Vec<CpuInfo>;
}

/// Part of [`QueryCpusFast`]' answer.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CpuInfo {
    /// Counted from 0.
    pub cpu_index: u32,
    /// Its path in QOM.
    pub qom_path: String,
    /// The host's thread id.
    pub thread_id: i32,
    /// Where it sits: `socket-id`, `core-id`, `thread-id` and so on.
    #[serde(default)]
    pub props: Map<String, Value>,
}

/// The CPU models that QEMU knows, and what of each it cannot give with its accelerator.
#[derive(Debug, Serialize)]
pub struct QueryCpuDefinitions;
impl Command for QueryCpuDefinitions {
    const NAME: &'static str = "query-cpu-definitions";
    type Return = Vec<CpuDefinition>;
}

/// Part of [`QueryCpuDefinitions`]' answer.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct CpuDefinition {
    /// Its name.
    pub name: String,
    /// Absent if QEMU cannot tell.
    pub unavailable_features: Option<Vec<String>>,
}

/// All properties of a CPU model, as guests would get it.
#[derive(Debug, Serialize)]
pub struct QueryCpuModelExpansion {
    /// `full` for all of them.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The model.
    pub model: CpuModelInfo,
}
impl Command for QueryCpuModelExpansion {
    const NAME: &'static str = "query-cpu-model-expansion";
    type Return = CpuModelExpansion;
}

/// A CPU model and what it is made of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CpuModelInfo {
    /// Its name.
    pub name: String,
    /// Its properties by name: of features, whether it has them.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub props: Map<String, Value>,
}

/// [`QueryCpuModelExpansion`]'s answer.
#[derive(Debug, Clone, Deserialize)]
pub struct CpuModelExpansion {
    /// The model with all its properties.
    pub model: CpuModelInfo,
}

/// The CPUs there are and those that could be added.
#[derive(Debug, Serialize)]
pub struct QueryHotpluggableCpus;
impl Command for QueryHotpluggableCpus {
    const NAME: &'static str = "query-hotpluggable-cpus";
    type Return = Vec<HotpluggableCpu>;
}

/// Part of [`QueryHotpluggableCpus`]' answer. The highest core comes first.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct HotpluggableCpu {
    /// The driver for `device_add`.
    #[serde(rename = "type")]
    pub driver: String,
    /// How many CPUs it adds.
    pub vcpus_count: u32,
    /// The properties for `device_add`.
    pub props: Map<String, Value>,
    /// Set if it is there already.
    pub qom_path: Option<String>,
}
