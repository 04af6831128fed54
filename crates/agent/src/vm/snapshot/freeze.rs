//! A guest whose file systems are frozen, for a moment.
//!
//! Whoever thaws it is there before it is frozen, and waits for nobody longer than [`LONGEST`]: not
//! for the actor, and not for a guest agent that hangs, lies or answers rubbish.

use std::time::Duration;

use hostler_qmp::guest::{FsfreezeFreeze, FsfreezeThaw, GuestAgent, GuestError};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::fault::{Fault, chain};

/// How long a guest may take to write back what it has cached, and freeze.
const FREEZE: Duration = Duration::from_secs(5);
/// From the request to freeze to the request to thaw, whatever happens between.
const LONGEST: Duration = Duration::from_secs(7);
const THAW: Duration = Duration::from_secs(5);
/// How often a guest is asked to thaw that does not say that it has.
const ATTEMPTS: u32 = 60;
const PAUSE: Duration = Duration::from_secs(1);

/// A guest that is frozen, or is about to be. Dropping it thaws the guest.
#[derive(Debug)]
pub(super) struct Frozen {
    done: oneshot::Sender<()>,
    /// Ends with whether it had to thaw by itself.
    thawing: JoinHandle<bool>,
}

impl Frozen {
    /// Freezes the guest.
    pub(super) async fn begin(agent: GuestAgent) -> Result<Self, Fault> {
        let (done, told) = oneshot::channel::<()>();
        let thawing = tokio::spawn({
            let agent = agent.clone();
            async move {
                let late = tokio::time::timeout(LONGEST, told).await.is_err();
                thaw(&agent).await;
                late
            }
        });
        let frozen = Self { done, thawing };
        match agent.execute_within(FsfreezeFreeze, FREEZE).await {
            Ok(count) if count >= 0 => Ok(frozen),
            Ok(count) => {
                frozen.end().await;
                Err(Fault::GuestAgent(format!("the guest says that it froze {count} file systems")))
            }
            Err(error) => {
                // It may freeze later than it was waited for; it is thawed in any case.
                frozen.end().await;
                let text = format!("the guest's file systems cannot be frozen: {}", chain(&error));
                Err(Fault::GuestAgent(text))
            }
        }
    }

    /// Thaws it. Whether it was frozen until now, as far as anybody outside can tell.
    pub(super) async fn end(self) -> bool {
        let Self { done, mut thawing } = self;
        let in_time = done.send(()).is_ok();
        // The answer is not waited for any longer than a healthy guest needs; the task goes on.
        match tokio::time::timeout(THAW, &mut thawing).await {
            Ok(Ok(late)) => in_time && !late,
            _ => in_time,
        }
    }
}

/// Asks until the guest says that it is thawed, or there is no guest any more.
pub(super) async fn thaw(agent: &GuestAgent) {
    for _ in 0..ATTEMPTS {
        match agent.execute_within(FsfreezeThaw, THAW).await {
            Ok(_) | Err(GuestError::Closed | GuestError::Io(_)) => return,
            Err(error) => {
                tracing::warn!(error = chain(&error), "a guest may still be frozen");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    tracing::error!("a guest does not say that it is thawed; it is asked no more");
}
