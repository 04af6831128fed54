//! The agent of the server's own machine: a process of its own that the server starts and, when it
//! dies, starts again.
//!
//! It ends with the server, also when that is killed: its standard input is a pipe that the server
//! holds open. Guests belong to neither and run on.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use hostler_cli::ServerOptions;
use tokio::process::{Child, Command};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// An agent that lived this long is not in a crash loop.
const HEALTHY: Duration = Duration::from_secs(30);

/// How long an agent may take to end when its server does.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Keeps an agent running until `stop`.
pub(crate) fn supervise(options: ServerOptions, stop: CancellationToken) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut pause = FIRST_PAUSE;
        while !stop.is_cancelled() {
            let begin = std::time::Instant::now();
            match spawn(&options) {
                Ok(child) => watch(child, &stop).await,
                Err(error) => tracing::error!("{error:#}"),
            }
            let healthy = begin.elapsed() > HEALTHY;
            pause = if healthy { FIRST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => {}
            }
        }
    })
}

/// Returns when the agent has ended, by itself or because of `stop`.
async fn watch(mut child: Child, stop: &CancellationToken) {
    // Taken out of the child, because waiting for it would close the pipe.
    let held_open = child.stdin.take();
    tokio::select! {
        status = child.wait() => tracing::error!(?status, "the agent has ended; starting it again"),
        () = stop.cancelled() => {
            drop(held_open);
            let _ = tokio::time::timeout(LAST_WORDS, child.wait()).await;
        }
    }
}

fn spawn(options: &ServerOptions) -> Result<Child> {
    let program = std::env::current_exe().context("the server does not know its own binary")?;
    Command::new(&program)
        .args(["agent", "run", "--exit-with-parent"])
        .arg("--state-dir")
        .arg(&options.state_dir)
        .arg("--runtime-dir")
        .arg(&options.runtime_dir)
        .arg("--listen")
        .arg(options.agent_listen.to_string())
        .arg("--appliance")
        .arg(&options.appliance)
        .arg("--log")
        .arg(&options.log.filter)
        .stdin(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot start the agent: {}", program.display()))
}
