//! Steps that go wrong on purpose.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures::FutureExt;

use crate::definition::{Definition, StepError, StepFunction};

/// The code of an injected failure.
pub(super) const CODE: &str = "injected";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The step fails and has done nothing.
    FailBefore { once: bool },
    /// The step does all and fails nevertheless.
    FailAfter { once: bool },
    /// The step is run again after it was done.
    Twice,
    /// The undo is run again after it was done.
    UndoTwice,
}

/// Puts `fault` into the step `index`. A step past the point of no return fails `once`: it is tried
/// again and must succeed.
pub(super) fn put<C: Send + Sync + 'static>(
    definition: &mut Definition<C>,
    index: usize,
    fault: Fault,
) {
    let step = &mut definition.steps[index];
    match fault {
        Fault::FailBefore { once } => step.run = failing(Arc::clone(&step.run), false, once),
        Fault::FailAfter { once } => step.run = failing(Arc::clone(&step.run), true, once),
        Fault::Twice => step.run = twice(Arc::clone(&step.run)),
        Fault::UndoTwice => step.undo = step.undo.take().map(twice),
    }
}

fn failing<C: Send + Sync + 'static>(
    run: StepFunction<C>,
    after: bool,
    once: bool,
) -> StepFunction<C> {
    let failed = Arc::new(AtomicBool::new(false));
    Arc::new(move |context| {
        let (run, failed) = (Arc::clone(&run), Arc::clone(&failed));
        async move {
            let again = failed.swap(true, Ordering::Relaxed);
            if again && once {
                return run(context).await;
            }
            if after {
                run(context).await?;
            }
            Err(StepError::failed(CODE, "a fault on purpose"))
        }
        .boxed()
    })
}

fn twice<C: Send + Sync + 'static>(function: StepFunction<C>) -> StepFunction<C> {
    Arc::new(move |context| {
        let function = Arc::clone(&function);
        async move {
            // What the first run returned was never stored: the process died.
            function(context.clone()).await?;
            function(context).await
        }
        .boxed()
    })
}
