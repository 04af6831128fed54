//! The one way to call what blocks: file systems, cgroups, process tables.

use crate::fault::Fault;

/// Runs `work` on a thread that may block, and waits for it.
///
/// # Errors
/// It panicked: a bug, which must not take the agent along.
///
/// # Cancel safety
/// Work that has begun runs to its end even when the caller goes away.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Fault> + Send + 'static,
) -> Result<T, Fault> {
    let span = tracing::Span::current();
    match tokio::task::spawn_blocking(move || span.in_scope(work)).await {
        Ok(result) => result,
        Err(error) => Err(Fault::internal("a blocking call", &error)),
    }
}
