//! Files that a machine has beside its disks for as long as it runs, and that may come to lie elsewhere.

use std::path::Path;

use hostler_qmp::Qmp;
use hostler_qmp::command::{
    BlockNode, BlockdevAdd, BlockdevDel, BlockdevReopen, QueryNamedBlockNodes,
};
use serde_json::json;

use crate::argument::path_text;
use crate::vm::MonitorError;

/// Which file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FixedFile {
    /// What the guest is configured by.
    Seed,
    /// The firmware's variables.
    Variables,
}

impl FixedFile {
    fn node(self) -> &'static str {
        match self {
            Self::Seed => "seed",
            Self::Variables => "uefi-vars",
        }
    }

    /// The nodes that the file itself may have: the one that it was started with, and another.
    fn file_nodes(self) -> [String; 2] {
        [format!("{}-file", self.node()), format!("{}-file-b", self.node())]
    }
}

/// Lets a machine use a file at `path`, which is a copy of the one that it uses. A machine that has no
/// such file, or uses this one, stays as it is.
///
/// # Errors
/// See [`MonitorError`]. It uses the file of before then, or the new one.
pub async fn point_to(qmp: &Qmp, file: FixedFile, path: &Path) -> Result<(), MonitorError> {
    let planned = |error: crate::plan::PlanError| MonitorError::Transfer(error.to_string());
    let path = path_text(path).map_err(planned)?;
    let nodes = file_nodes(qmp, file).await?;
    let Some(node) = nodes.iter().find(|node| node.node_name.as_deref() == Some(file.node()))
    else {
        return Ok(());
    };
    let read_only = file == FixedFile::Seed;
    if node.file != path {
        let used = |name: &str| nodes.iter().any(|node| node.node_name.as_deref() == Some(name));
        // One that is there and not used was opened by somebody who has died.
        for name in file.file_nodes().into_iter().filter(|name| used(name)) {
            let _in_use = qmp.execute(BlockdevDel { node_name: name }).await;
        }
        let left = file_nodes(qmp, file).await?;
        let is_free = |name: &String| left.iter().all(|node| node.node_name.as_ref() != Some(name));
        let Some(free) = file.file_nodes().into_iter().find(is_free) else {
            return Err(MonitorError::Transfer(format!("{} has two files", file.node())));
        };
        let options = json!({
            "driver": "file", "node-name": free, "filename": path, "read-only": read_only,
            "auto-read-only": false,
        });
        qmp.execute(BlockdevAdd(options)).await?;
        let options = json!({
            "driver": "raw", "node-name": file.node(), "file": free, "read-only": read_only,
        });
        qmp.execute(BlockdevReopen { options: vec![options] }).await?;
    }
    for node_name in file.file_nodes() {
        // The one that is used stays.
        let _in_use = qmp.execute(BlockdevDel { node_name }).await;
    }
    Ok(())
}

async fn file_nodes(qmp: &Qmp, file: FixedFile) -> Result<Vec<BlockNode>, MonitorError> {
    let mut nodes = qmp.execute(QueryNamedBlockNodes { flat: Some(true) }).await?;
    let of = |node: &BlockNode| {
        let name = node.node_name.as_deref();
        name == Some(file.node()) || file.file_nodes().iter().any(|own| name == Some(own))
    };
    nodes.retain(of);
    Ok(nodes)
}
