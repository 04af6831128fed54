//! Merging and copying within a chain of layers, while its guest runs.
//!
//! ```text
//!  commit/stream ─> copied() ──────────────> finish()   the chain is changed
//!                     │  all is copied;  └─> give_up()  it is not
//!                     └─ the chain is as before
//! ```
//!
//! A job copies and then waits, so that its caller can record what follows before it follows. While
//! the merge of the *active* layer waits so, the guest's writes wait too: be quick then. The guest goes
//! on as before if a job fails or is given up. A job stays listed until it is dismissed, by
//! [`BlockJob::forget`] or by who finds it: so after a crash [`jobs`] tells how far it came.

use std::time::Duration;

use hostler_qmp::{
    Events, EventsError, Qmp,
    command::{
        BlockCommit, BlockJobChange, BlockJobSetSpeed, BlockStream, BlockdevMirror, JobCancel,
        JobComplete, JobDismiss, JobFinalize, JobInfo, JobStatus, QueryJobs,
    },
    event::Event,
};
use tokio::time::MissedTickBehavior;

use crate::pace::{LOOK, Pace};
use crate::vm::MonitorError;

/// How often a job's progress is asked for; there is no event for it.
const PROGRESS: Duration = Duration::from_millis(500);
/// How often it is looked whether a mirror has copied all.
const MIRROR_LOOK: Duration = Duration::from_millis(50);
/// Changing a chain, or giving a job up: milliseconds, and a flush.
const CHANGE: Duration = Duration::from_secs(60);

/// Layers of a running machine that are merged into the one beneath them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// The disk's active layer's node.
    pub active: String,
    /// The highest node that is merged; `None`: the active one.
    pub top: Option<String>,
    /// The node that takes them in.
    pub into: String,
    /// How the header of the layer on top of them names that one's file; unless it is the active
    /// one that is merged.
    pub backing_file: Option<String>,
}

/// A layer of a running machine that takes in what lies beneath it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    /// The layer's node.
    pub node: String,
    /// What stays beneath it: the node, and how the layer's header names its file.
    pub base: Option<(String, String)>,
}

/// A disk's active layer that goes to another file while its guest runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// The disk's active layer's node.
    pub node: String,
    /// The node that takes its place; what lies beneath it is there, and reads as what lies beneath
    /// `node` if only the layer itself is copied.
    pub target: String,
    /// Whether what lies beneath is copied into the target, too.
    pub whole: bool,
}

/// How the copying ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Copied {
    /// All of it; the chain is not changed yet.
    All,
    /// It was to end before.
    Cancelled,
}

/// A job that was started and not forgotten yet.
#[derive(Debug)]
pub struct BlockJob {
    qmp: Qmp,
    events: Events,
    id: String,
    /// Of one that we have started.
    pace: Option<Pace>,
}

/// All jobs of a machine, those that are done included.
///
/// # Errors
/// See [`MonitorError`].
pub async fn jobs(qmp: &Qmp) -> Result<Vec<JobInfo>, MonitorError> {
    Ok(qmp.execute(QueryJobs).await?)
}

/// A job that runs goes on with another rate, in bytes a second; `None`: as fast as it can.
///
/// # Errors
/// See [`MonitorError`], also when there is no such job any more.
pub async fn set_rate(qmp: &Qmp, id: &str, rate: Option<u64>) -> Result<(), MonitorError> {
    let speed = rate.unwrap_or(0);
    qmp.execute(BlockJobSetSpeed { device: id.to_owned(), speed }).await?;
    Ok(())
}

impl BlockJob {
    /// Begins to merge layers. The files of `into` and of the layer on top of the merged ones must
    /// be open for writing; see [`open_for_writing`](crate::open_for_writing). `rate` is in bytes a
    /// second; it is less while the guest uses its disks.
    ///
    /// # Errors
    /// See [`MonitorError`]; nothing has begun then.
    pub async fn commit(
        qmp: &Qmp,
        id: &str,
        commit: Commit,
        rate: Option<u64>,
    ) -> Result<Self, MonitorError> {
        let job = Self::new(qmp, id, Some(Pace::new(rate)));
        let start = BlockCommit {
            job_id: id.to_owned(),
            device: commit.active,
            top_node: commit.top,
            base_node: commit.into,
            backing_file: commit.backing_file,
            speed: job.pace.as_ref().map_or(0, Pace::speed),
            auto_finalize: false,
            auto_dismiss: false,
        };
        qmp.execute(start).await?;
        Ok(job)
    }

    /// Begins to copy into a layer what lies beneath it. `rate` is in bytes a second.
    ///
    /// # Errors
    /// See [`MonitorError`]; nothing has begun then.
    pub async fn stream(
        qmp: &Qmp,
        id: &str,
        stream: Stream,
        rate: Option<u64>,
    ) -> Result<Self, MonitorError> {
        let job = Self::new(qmp, id, Some(Pace::new(rate)));
        let (base_node, backing_file) = stream.base.unzip();
        let start = BlockStream {
            job_id: id.to_owned(),
            device: stream.node,
            base_node,
            backing_file,
            speed: job.pace.as_ref().map_or(0, Pace::speed),
            auto_finalize: false,
            auto_dismiss: false,
        };
        qmp.execute(start).await?;
        Ok(job)
    }

    /// A job that another agent has started.
    #[must_use]
    pub fn found(qmp: &Qmp, id: &str) -> Self {
        Self::new(qmp, id, None)
    }

    fn new(qmp: &Qmp, id: &str, pace: Option<Pace>) -> Self {
        Self { qmp: qmp.clone(), events: qmp.subscribe(), id: id.to_owned(), pace }
    }

    /// Waits until all is copied, or `cancel` ends. `progress` hears of bytes done and in total, which
    /// grows when the guest writes.
    ///
    /// # Errors
    /// See [`MonitorError`]; the chain is as it was, and the job forgotten unless QEMU is gone.
    pub async fn copied(
        &mut self,
        cancel: impl Future<Output = ()>,
        mut progress: impl FnMut(u64, u64),
    ) -> Result<Copied, MonitorError> {
        tokio::pin!(cancel);
        let mut tick = tokio::time::interval(PROGRESS);
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut completing = false;
        let mut seen = None;
        loop {
            let status = match seen.take() {
                Some(status) => status,
                None => tokio::select! {
                    () = &mut cancel => return Ok(Copied::Cancelled),
                    status = self.next_status() => status?,
                    _ = tick.tick() => {
                        let job = self.info().await?;
                        progress(job.current_progress, job.total_progress);
                        job.status
                    }
                    _ = look.tick(), if self.pace.is_some() && !completing => {
                        self.keep_pace().await;
                        continue;
                    }
                },
            };
            match status {
                JobStatus::Ready if !completing => {
                    completing = true;
                    self.qmp.execute(JobComplete { id: self.id.clone() }).await?;
                }
                JobStatus::Pending => return Ok(Copied::All),
                JobStatus::Concluded => return Err(self.failed().await?),
                // Missed events: how far is it?
                JobStatus::Other(_) => seen = Some(self.info().await?.status),
                _ => {}
            }
        }
    }

    /// Begins to copy a layer into another file. `rate` is in bytes a second; it is less while the guest
    /// uses its disks.
    ///
    /// # Errors
    /// See [`MonitorError`]; nothing has begun then.
    pub async fn mirror(
        qmp: &Qmp,
        id: &str,
        mirror: Mirror,
        rate: Option<u64>,
    ) -> Result<Self, MonitorError> {
        let job = Self::new(qmp, id, Some(Pace::new(rate)));
        let start = BlockdevMirror {
            job_id: id.to_owned(),
            device: mirror.node,
            target: mirror.target,
            sync: if mirror.whole { "full" } else { "top" },
            speed: job.pace.as_ref().map_or(0, Pace::speed),
            auto_finalize: false,
            auto_dismiss: false,
        };
        qmp.execute(start).await?;
        Ok(job)
    }

    /// Waits until a mirror has copied all, and only follows what the guest writes. From then on the
    /// guest's writes wait for both files, so that it cannot fall behind.
    ///
    /// # Errors
    /// See [`MonitorError`]; the guest's disk is as before.
    pub async fn mirrored(&mut self, progress: impl Fn(u64, u64)) -> Result<(), MonitorError> {
        let mut tick = tokio::time::interval(MIRROR_LOOK);
        let mut look = tokio::time::interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                _ = look.tick(), if self.pace.is_some() => {
                    self.keep_pace().await;
                    continue;
                }
            }
            let job = self.info().await?;
            progress(job.current_progress, job.total_progress);
            match job.status {
                JobStatus::Ready => break,
                JobStatus::Concluded => return Err(self.failed().await?),
                _ => {}
            }
        }
        let change =
            BlockJobChange { id: self.id.clone(), kind: "mirror", copy_mode: "write-blocking" };
        // One that cannot do this copies what is left while the guest stands still.
        if let Err(error) = self.qmp.execute(change).await {
            tracing::debug!(job = self.id, %error, "the guest's writes do not wait for the mirror");
        }
        self.pace = None;
        set_rate(&self.qmp, &self.id, None).await
    }

    /// Brings a mirror to where only [`BlockJob::finish`] is left: both files are the same, and flushed,
    /// and the guest's requests wait. The guest should stand still, so that there is an end to it.
    ///
    /// # Errors
    /// See [`MonitorError`]; the guest's disk is as before.
    pub async fn complete(&mut self) -> Result<(), MonitorError> {
        const AGAIN: Duration = Duration::from_millis(1);
        self.qmp.execute(JobComplete { id: self.id.clone() }).await?;
        let begun = std::time::Instant::now();
        loop {
            match self.info().await?.status {
                JobStatus::Pending => return Ok(()),
                JobStatus::Concluded => return Err(self.failed().await?),
                _ if begun.elapsed() > CHANGE => {
                    return Err(EventsError::Timeout { after: CHANGE }.into());
                }
                _ => tokio::time::sleep(AGAIN).await,
            }
        }
    }

    /// Changes the chain, after all has been copied. What was merged is flushed when this returns.
    ///
    /// # Errors
    /// See [`MonitorError`].
    pub async fn finish(&mut self) -> Result<(), MonitorError> {
        self.qmp.execute(JobFinalize { id: self.id.clone() }).await?;
        self.conclude().await?;
        match self.info().await?.error {
            None => Ok(()),
            Some(_) => Err(self.failed().await?),
        }
    }

    /// Ends the job; the chain stays as it is. Forgets it.
    ///
    /// # Errors
    /// See [`MonitorError`].
    pub async fn give_up(&mut self) -> Result<(), MonitorError> {
        if self.info().await?.status != JobStatus::Concluded {
            self.qmp.execute(JobCancel { id: self.id.clone() }).await?;
            self.conclude().await?;
        }
        self.forget().await
    }

    /// Takes a job off the list that has ended.
    ///
    /// # Errors
    /// See [`MonitorError`].
    pub async fn forget(&self) -> Result<(), MonitorError> {
        self.qmp.execute(JobDismiss { id: self.id.clone() }).await?;
        Ok(())
    }

    /// A job that has just ended has no speed.
    async fn keep_pace(&mut self) {
        let Some(pace) = &mut self.pace else { return };
        if let Err(error) = pace.keep(&self.qmp, &self.id).await {
            tracing::debug!(job = self.id, %error, "its speed stays");
        }
    }

    async fn conclude(&mut self) -> Result<(), MonitorError> {
        let concluded = async {
            // It may have been quicker than we.
            while self.info().await?.status != JobStatus::Concluded {
                while self.next_status().await? != JobStatus::Concluded {}
            }
            Ok(())
        };
        let late = EventsError::Timeout { after: CHANGE };
        tokio::time::timeout(CHANGE, concluded).await.unwrap_or(Err(late.into()))
    }

    /// The job's next state by QEMU's events; `Other` when some were missed. Cancel safe.
    async fn next_status(&mut self) -> Result<JobStatus, MonitorError> {
        loop {
            match self.events.recv().await {
                Ok(timed) => match timed.event {
                    Event::JobStatusChange(change) if change.id == self.id => {
                        return Ok(change.status);
                    }
                    _ => {}
                },
                Err(EventsError::Lagged { .. }) => return Ok(JobStatus::Other(String::new())),
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn info(&self) -> Result<JobInfo, MonitorError> {
        let jobs = jobs(&self.qmp).await?;
        let found = jobs.into_iter().find(|job| job.id == self.id);
        found.ok_or_else(|| MonitorError::Job("it is not there any more".to_owned()))
    }

    /// Why a job that is concluded did not do its work. Forgets it.
    async fn failed(&self) -> Result<MonitorError, MonitorError> {
        let error = self.info().await?.error;
        self.forget().await?;
        Ok(MonitorError::Job(error.unwrap_or_else(|| "it ended too early".to_owned())))
    }
}
