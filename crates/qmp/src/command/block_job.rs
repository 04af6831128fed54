//! Chains of block nodes: put on top of each other, merged, opened in another way.

use serde::Serialize;
use serde_json::Value;

use super::{Command, Empty};

/// Does several things at one instant, or none of them.
#[derive(Debug, Serialize)]
pub struct Transaction {
    /// What.
    pub actions: Vec<TransactionAction>,
}
impl Command for Transaction {
    const NAME: &'static str = "transaction";
    type Return = Empty;
}

/// Part of [`Transaction`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "type", content = "data", rename_all = "kebab-case")]
pub enum TransactionAction {
    /// Puts a node on top of another: whoever uses `node` uses `overlay` from then on.
    BlockdevSnapshot {
        /// The node that is not written to any more.
        node: String,
        /// The new one, added before without a backing node.
        overlay: String,
    },
}

/// Copies what the nodes from `top` down to the one above `base` hold into `base`, and takes them
/// out of the chain.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BlockCommit {
    /// The job's id.
    pub job_id: String,
    /// The chain's root.
    pub device: String,
    /// The highest node to be merged; `None`: the root, which needs [`JobComplete`](super::JobComplete).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_node: Option<String>,
    /// The node that takes it in.
    pub base_node: String,
    /// What the header of the file above the merged ones says of `base`; not for the root.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_file: Option<String>,
    /// Bytes a second; 0 is no limit.
    pub speed: u64,
    /// Whether it changes the chain by itself once all is copied.
    pub auto_finalize: bool,
    /// Whether it goes by itself once it is concluded.
    pub auto_dismiss: bool,
}
impl Command for BlockCommit {
    const NAME: &'static str = "block-commit";
    type Return = Empty;
}

/// Copies what lies beneath a node, down to the one above `base_node`, into it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BlockStream {
    /// The job's id.
    pub job_id: String,
    /// The node that takes it in.
    pub device: String,
    /// What stays beneath; `None`: nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub base_node: Option<String>,
    /// What the node's header says of `base_node`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub backing_file: Option<String>,
    /// Bytes a second; 0 is no limit.
    pub speed: u64,
    /// Whether it changes the chain by itself once all is copied.
    pub auto_finalize: bool,
    /// Whether it goes by itself once it is concluded.
    pub auto_dismiss: bool,
}
impl Command for BlockStream {
    const NAME: &'static str = "block-stream";
    type Return = Empty;
}

/// Copies a node's content into another node, and goes on copying what is written until it is completed;
/// whoever uses `device` uses `target` from then on.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BlockdevMirror {
    /// The job's id.
    pub job_id: String,
    /// The node that is copied.
    pub device: String,
    /// The node that becomes its copy; it keeps what lies beneath it.
    pub target: String,
    /// `full`: all that the node shows; `top`: only what it holds itself.
    pub sync: &'static str,
    /// Bytes a second; 0 is no limit.
    pub speed: u64,
    /// Whether it changes to the target by itself once it is completed.
    pub auto_finalize: bool,
    /// Whether it goes by itself once it is concluded.
    pub auto_dismiss: bool,
}
impl Command for BlockdevMirror {
    const NAME: &'static str = "blockdev-mirror";
    type Return = Empty;
}

/// Changes a mirror that runs (since QEMU 8.2).
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct BlockJobChange {
    /// The job's id.
    pub id: String,
    /// `mirror`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// `write-blocking`: what is written is in the target too before the guest hears that it is written.
    pub copy_mode: &'static str,
}
impl Command for BlockJobChange {
    const NAME: &'static str = "block-job-change";
    type Return = Empty;
}

/// Changes the options of nodes. Each is given whole, as to `blockdev-add`.
#[derive(Debug, Serialize)]
pub struct BlockdevReopen {
    /// The nodes.
    pub options: Vec<Value>,
}
impl Command for BlockdevReopen {
    const NAME: &'static str = "blockdev-reopen";
    type Return = Empty;
}
