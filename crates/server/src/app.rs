//! What handlers work with, and the few steps that all of them share.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use hostler_control::services::{self, Changed, Options, PageRequest};
use hostler_control::{Actor, World};
use hostler_endpoint::{ByteStream, EventStream, Item, Page, Problem};
use hostler_types::Task;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::limits::Guesses;
use crate::problem::problem;

/// How long an upload may pause.
const STALLED: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
pub(crate) struct App {
    pub(crate) world: Arc<World>,
    pub(crate) guesses: Arc<Guesses>,
    /// Cancelled when the server is to end: event streams and consoles end with it.
    pub(crate) closing: CancellationToken,
    /// Consoles, which outlive their HTTP connection.
    pub(crate) consoles: TaskTracker,
}

/// Who is calling, as the gate found out.
///
/// # Errors
/// An endpoint without `ACCESS` asks for it: our bug.
pub(crate) fn actor(extensions: &http::Extensions) -> Result<&Actor, Problem> {
    extensions.get::<Actor>().ok_or_else(|| {
        tracing::error!("a public endpoint asked who is calling");
        Problem::internal()
    })
}

/// A changing request with the client's idempotency key.
pub(crate) fn keyed(idempotency_key: Option<String>) -> Options {
    Options { dry_run: false, idempotency_key }
}

/// Which part of a list is wanted: `label` is `key=value` or `key`, `name` a prefix.
pub(crate) fn paged(
    limit: Option<u32>,
    after: Option<String>,
    label: Vec<String>,
    name: Option<String>,
) -> PageRequest {
    let split = |text: String| match text.split_once('=') {
        Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
        None => (text, None),
    };
    PageRequest { limit, after, labels: label.into_iter().map(split).collect(), name }
}

/// The object itself; copied only when others hold it.
pub(crate) fn shown<T: Clone>(object: Arc<T>) -> T {
    Arc::unwrap_or_clone(object)
}

pub(crate) fn page<T: Clone>(page: services::Page<T>) -> Page<T> {
    Page {
        items: page.items.into_iter().map(shown).collect(),
        next: page.next,
        revision: page.revision.0,
    }
}

/// The task of a change that always has one.
pub(crate) fn task_of<T>(changed: Changed<T>) -> Result<Task, Problem> {
    changed.task.map(shown).ok_or_else(|| {
        tracing::error!("a change was made without a task");
        Problem::internal()
    })
}

impl App {
    /// Updates as events, until the receiver goes or the server ends.
    pub(crate) fn events<T, V>(
        &self,
        updates: services::Updates<T>,
        view: impl Fn(T) -> Item<V> + Send + 'static,
    ) -> EventStream<V>
    where
        T: 'static,
        V: 'static,
    {
        let items = updates.map(move |update| update.map(&view).map_err(problem));
        Box::pin(items.take_until(self.closing.clone().cancelled_owned()))
    }

    /// Bytes that may never end by themselves, until the server does.
    pub(crate) fn until_closing(&self, bytes: ByteStream) -> ByteStream {
        Box::pin(bytes.take_until(self.closing.clone().cancelled_owned()))
    }

    /// An upload, ended with an error when its client sends nothing for too long.
    pub(crate) fn steady(&self, bytes: ByteStream) -> ByteStream {
        let parts = futures::stream::unfold(Some(bytes), |bytes| async move {
            let mut bytes = bytes?;
            match tokio::time::timeout(STALLED, bytes.next()).await {
                Ok(part) => part.map(|part| (part, Some(bytes))),
                Err(_) => Some((Err(std::io::ErrorKind::TimedOut.into()), None)),
            }
        });
        self.until_closing(Box::pin(parts))
    }
}
