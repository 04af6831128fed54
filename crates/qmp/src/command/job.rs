//! Jobs: long work within QEMU.

use serde::{Deserialize, Serialize};

use super::{Command, Empty};

/// All jobs, those concluded but not dismissed included.
#[derive(Debug, Serialize)]
pub struct QueryJobs;
impl Command for QueryJobs {
    const NAME: &'static str = "query-jobs";
    type Return = Vec<JobInfo>;
}

/// Part of [`QueryJobs`]' answer.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct JobInfo {
    /// Its id.
    pub id: String,
    /// `mirror`, `commit`, `snapshot-save` and so on.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its state.
    pub status: JobStatus,
    /// Work done, in units of its own.
    pub current_progress: u64,
    /// Work in total; it may grow.
    pub total_progress: u64,
    /// Why it failed, for people. A concluded job without it has succeeded.
    pub error: Option<String>,
}

/// A job's state.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum JobStatus {
    /// About to be created.
    Undefined,
    /// Created, not started.
    Created,
    /// At work.
    Running,
    /// Paused.
    Paused,
    /// Caught up, and keeps up until completed.
    Ready,
    /// Caught up and paused.
    Standby,
    /// Done, and waits for others of its transaction.
    Waiting,
    /// Waits for `job-finalize`.
    Pending,
    /// Failing.
    Aborting,
    /// Done or failed; waits for `job-dismiss`.
    Concluded,
    /// Gone.
    Null,
    /// A state this version does not know.
    #[serde(untagged)]
    Other(String),
}

/// Makes a job that is ready finish.
#[derive(Debug, Serialize)]
pub struct JobComplete {
    /// Its id.
    pub id: String,
}
impl Command for JobComplete {
    const NAME: &'static str = "job-complete";
    type Return = Empty;
}

/// Gives a job up.
#[derive(Debug, Serialize)]
pub struct JobCancel {
    /// Its id.
    pub id: String,
}
impl Command for JobCancel {
    const NAME: &'static str = "job-cancel";
    type Return = Empty;
}

/// Forgets a concluded job.
#[derive(Debug, Serialize)]
pub struct JobDismiss {
    /// Its id.
    pub id: String,
}
impl Command for JobDismiss {
    const NAME: &'static str = "job-dismiss";
    type Return = Empty;
}

/// Lets a pending job make its changes.
#[derive(Debug, Serialize)]
pub struct JobFinalize {
    /// Its id.
    pub id: String,
}
impl Command for JobFinalize {
    const NAME: &'static str = "job-finalize";
    type Return = Empty;
}

/// Limits a block job's speed while it runs.
#[derive(Debug, Serialize)]
pub struct BlockJobSetSpeed {
    /// Its id.
    pub device: String,
    /// Bytes a second; 0 is no limit.
    pub speed: u64,
}
impl Command for BlockJobSetSpeed {
    const NAME: &'static str = "block-job-set-speed";
    type Return = Empty;
}
