//! A guest goes on in a machine on another host, and runs on until the last moment.
//!
//! ```text
//!  source    runs ── begin ── memory, again and again ── pre-switchover ── switch_over ── sent
//!                                                         (stands still)                   │
//!  target    receive ──────────────────────────────────────────────────── received        │
//!                                                                          take ── runs <──┘
//! ```
//!
//! The caller connects the two by a stream that it encrypts: QEMU gets one end of a pair of sockets and
//! neither keys nor addresses. The target stands still when it has everything and has not touched the
//! disks yet (`late-block-activate`); so until [`take`] the source can go on, by [`take_back`], whatever
//! has happened. Who of the two may run is for the caller to say.

use std::{
    os::{fd::OwnedFd, unix::net::UnixStream},
    time::{Duration, Instant},
};

use hostler_qmp::{
    Events, EventsError, Qmp,
    command::{
        AnnounceSelf, CalcDirtyRate, Cont, Getfd, Migrate, MigrateCancel, MigrateContinue,
        MigrateIncoming, MigrateSetParameters, MigrationAddress, MigrationInfo, MigrationStatus,
        QueryDirtyRate, QueryMigrate, SocketAddress,
    },
    event::Event,
};

use crate::vm::{MonitorError, go_on, set_transfer};

/// The descriptor, as both monitors call it.
const STREAM: &str = "migration";

/// What the source is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Bytes a second at most.
    pub max_bandwidth: u64,
    /// How long the guest may stand still at first, in milliseconds; see [`allow_downtime`].
    pub downtime: u64,
    /// Whether a guest that writes faster than its memory is sent is slowed down.
    pub throttle: bool,
}

/// How far it has come, or how it has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Milestone {
    /// The guest stands still, and only its devices and the last of its memory are missing.
    PreSwitchover,
    /// The target has told that it has everything.
    Sent,
    /// The guest's memory has been looked through for the so many-th time: at the second all of it was
    /// sent once.
    Pass(u64),
}

/// Makes the target listen to its end of the stream. It must have been started with
/// [`Start::Fork`](crate::Start::Fork).
///
/// # Errors
/// See [`MonitorError`]. The machine is then to be ended.
pub async fn receive(qmp: &Qmp, stream: UnixStream) -> Result<(), MonitorError> {
    set_transfer(qmp, &["events", "return-path", "late-block-activate"]).await?;
    qmp.execute_with_fds(Getfd { fdname: STREAM.to_owned() }, vec![stream.into()]).await?;
    qmp.execute(MigrateIncoming::from(address())).await?;
    Ok(())
}

/// Begins to send a running machine. The events tell how it goes; [`milestone`] reads them.
///
/// # Errors
/// See [`MonitorError`]. The guest runs on.
pub async fn begin(qmp: &Qmp, stream: UnixStream, settings: Settings) -> Result<(), MonitorError> {
    let throttle = settings.throttle.then_some("auto-converge");
    let on = ["events", "return-path", "pause-before-switchover"];
    let on: Vec<_> = on.into_iter().chain(throttle).collect();
    set_transfer(qmp, &on).await?;
    let parameters = MigrateSetParameters {
        max_bandwidth: Some(settings.max_bandwidth),
        downtime_limit: Some(settings.downtime),
        ..Default::default()
    };
    qmp.execute(parameters).await?;
    let stream: OwnedFd = stream.into();
    qmp.execute_with_fds(Getfd { fdname: STREAM.to_owned() }, vec![stream]).await?;
    qmp.execute(Migrate::to(address())).await?;
    Ok(())
}

fn address() -> MigrationAddress {
    MigrationAddress::Socket(SocketAddress::Fd { str: STREAM.to_owned() })
}

/// Lets the guest stand still for longer, in milliseconds, while it is being sent.
///
/// # Errors
/// See [`MonitorError`].
pub async fn allow_downtime(qmp: &Qmp, downtime: u64) -> Result<(), MonitorError> {
    let still = MigrateSetParameters { downtime_limit: Some(downtime), ..Default::default() };
    qmp.execute(still).await?;
    Ok(())
}

/// How it goes.
///
/// # Errors
/// See [`MonitorError`].
pub async fn progress(qmp: &Qmp) -> Result<MigrationInfo, MonitorError> {
    Ok(qmp.execute(QueryMigrate).await?)
}

/// How fast the guest writes memory, in bytes of different pages a second, measured over `time` (50 ms
/// to a minute). The guest does not notice.
///
/// # Errors
/// See [`MonitorError`]; also while another one measures.
pub async fn dirty_rate(qmp: &Qmp, time: Duration) -> Result<u64, MonitorError> {
    const AGAIN: Duration = Duration::from_millis(20);
    let milliseconds = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    qmp.execute(CalcDirtyRate::over(milliseconds)).await?;
    tokio::time::sleep(time).await;
    let begin = Instant::now();
    loop {
        let told = qmp.execute(QueryDirtyRate).await?;
        if let (Some(rate), "measured") = (told.dirty_rate, told.status.as_str()) {
            return Ok(rate << 20);
        }
        if begin.elapsed() > time + Duration::from_secs(5) {
            return Err(MonitorError::Transfer("QEMU does not end measuring".to_owned()));
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Waits for what comes next. `stopped` becomes the instant at which the guest was seen to stand
/// still. Not cancel safe: an event that it has taken is looked into afterwards.
///
/// # Errors
/// [`MonitorError::Transfer`] when it has failed or was cancelled.
pub async fn milestone(
    qmp: &Qmp,
    events: &mut Events,
    stopped: &mut Option<Instant>,
) -> Result<Milestone, MonitorError> {
    loop {
        match events.recv().await {
            Ok(event) => match event.event {
                Event::Stop => *stopped = Some(Instant::now()),
                Event::MigrationPass(pass) => return Ok(Milestone::Pass(pass.pass)),
                Event::Migration(migration) => match migration.status {
                    MigrationStatus::PreSwitchover => return Ok(Milestone::PreSwitchover),
                    MigrationStatus::Completed => return Ok(Milestone::Sent),
                    MigrationStatus::Failed | MigrationStatus::Cancelled => {
                        return Err(why(qmp).await);
                    }
                    _ => {}
                },
                _ => {}
            },
            Err(EventsError::Lagged { .. }) => match progress(qmp).await?.status {
                Some(MigrationStatus::PreSwitchover) => return Ok(Milestone::PreSwitchover),
                Some(MigrationStatus::Completed) => return Ok(Milestone::Sent),
                Some(MigrationStatus::Failed | MigrationStatus::Cancelled) => {
                    return Err(why(qmp).await);
                }
                _ => {}
            },
            Err(error) => return Err(error.into()),
        }
    }
}

async fn why(qmp: &Qmp) -> MonitorError {
    match progress(qmp).await {
        Ok(info) => MonitorError::Transfer(
            info.error_desc.unwrap_or_else(|| format!("it ended as {:?}", info.status)),
        ),
        Err(error) => error,
    }
}

/// Sends the rest, while the guest stands still.
///
/// # Errors
/// See [`MonitorError`].
pub async fn switch_over(qmp: &Qmp) -> Result<(), MonitorError> {
    qmp.execute(MigrateContinue { state: "pre-switchover" }).await?;
    Ok(())
}

/// Lets the source go on as if nothing had been asked. The target must not run, now or later.
///
/// # Errors
/// See [`MonitorError`]; the guest may stand still.
pub async fn take_back(qmp: &Qmp) -> Result<(), MonitorError> {
    const LONGEST: Duration = Duration::from_secs(10);
    const AGAIN: Duration = Duration::from_millis(5);
    let _ = qmp.execute(MigrateCancel).await;
    let begin = Instant::now();
    // While it is being cancelled QEMU itself may still let the guest go on.
    while begin.elapsed() < LONGEST {
        match progress(qmp).await?.status {
            Some(
                MigrationStatus::Cancelling
                | MigrationStatus::Device
                | MigrationStatus::Active
                | MigrationStatus::PreSwitchover,
            ) => tokio::time::sleep(AGAIN).await,
            _ => break,
        }
    }
    let went_on = go_on(qmp).await;
    set_transfer(qmp, &["events"]).await?;
    went_on
}

/// Lets the guest go on in the target, which must have everything, and tells the network.
///
/// # Errors
/// See [`MonitorError`].
pub async fn take(qmp: &Qmp) -> Result<(), MonitorError> {
    qmp.execute(Cont).await?;
    Ok(())
}

/// What nobody has to wait for once the guest runs in the target.
pub async fn settle(qmp: &Qmp) {
    if let Err(error) = qmp.execute(AnnounceSelf::default()).await {
        tracing::warn!(error = &error as &dyn std::error::Error, "the network is not told");
    }
    if let Err(error) = set_transfer(qmp, &["events"]).await {
        tracing::warn!(error = &error as &dyn std::error::Error, "a migration's settings stay");
    }
}
