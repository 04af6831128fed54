//! The API as a program uses it: one connection kept, and the event stream.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures::StreamExt;
use hostler_api::event::{Change, Watch, WatchQuery};
use hostler_endpoint::Client;
use hostler_endpoint::{EventStream, NoParams};

/// A client on the Unix socket.
pub(crate) fn client(socket: &Path) -> Result<Client> {
    let http = reqwest::Client::builder().unix_socket(socket).build()?;
    Ok(Client::new(http, "http://localhost"))
}

/// All changes from now on.
pub(crate) async fn watch(client: &Client) -> Result<EventStream<Change>> {
    Ok(client.call::<Watch>(&NoParams {}, &WatchQuery::default(), ()).await?)
}

/// Reads the stream until a change fulfils the condition.
pub(crate) async fn until(
    stream: &mut EventStream<Change>,
    what: &str,
    mut condition: impl FnMut(&Change) -> bool,
) -> Result<()> {
    let found = async {
        while let Some(item) = stream.next().await {
            if condition(&item?.data) {
                return Ok(());
            }
        }
        bail!("the event stream ended before: {what}")
    };
    tokio::time::timeout(Duration::from_secs(60), found)
        .await
        .with_context(|| format!("waited in vain for: {what}"))?
}

/// Whether a change makes a task of this action end.
pub(crate) fn ends_task(change: &Change, action: &str) -> bool {
    change.kind == hostler_types::KindName::Task
        && change.new.as_ref().is_some_and(|task| {
            task["spec"]["action"] == action && task["status"]["state"] == "done"
        })
}

/// Whether a change tells that a VM runs.
pub(crate) fn runs(change: &Change, vm: &str) -> bool {
    change.kind == hostler_types::KindName::Vm
        && change.name.as_str() == vm
        && change.new.as_ref().is_some_and(|vm| vm["status"]["power"] == "running")
}

pub(crate) fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}
