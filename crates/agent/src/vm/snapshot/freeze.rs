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

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Instant;

    use hostler_qmp::guest::GuestOptions;
    use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
    use tokio::net::UnixStream;

    use super::*;

    /// What a guest agent does when it is asked to freeze.
    #[derive(Debug, Clone, Copy, PartialEq)]
    enum Guest {
        Freezes,
        Lies,
        Hangs,
        NeverEnds,
        Dies,
    }

    /// An agent of a guest, and what it was asked.
    fn guest(kind: Guest) -> (GuestAgent, Arc<Mutex<Vec<String>>>) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        tokio::spawn(answer(theirs, kind, asked.clone()));
        (GuestAgent::new(ours, GuestOptions::default()), asked)
    }

    async fn answer(stream: UnixStream, kind: Guest, asked: Arc<Mutex<Vec<String>>>) {
        let (read, mut write) = stream.into_split();
        let mut read = BufReader::new(read);
        loop {
            let mut line = Vec::new();
            if read.read_until(b'\n', &mut line).await.unwrap_or(0) == 0 {
                return;
            }
            let text = String::from_utf8_lossy(&line);
            let Some(json) = text.find('{').map(|at| &text[at..]) else { continue };
            let request: serde_json::Value = serde_json::from_str(json).unwrap();
            let command = request["execute"].as_str().unwrap().to_owned();
            if command == "guest-sync-delimited" {
                let text = format!("{{\"return\": {}}}\n", request["arguments"]["id"]);
                let _ = write.write_all(&[&[0xff], text.as_bytes()].concat()).await;
                continue;
            }
            asked.lock().unwrap().push(command.clone());
            let text: &[u8] = match (command.as_str(), kind) {
                ("guest-fsfreeze-thaw", _) | (_, Guest::Freezes) => b"{\"return\": 1}\n",
                (_, Guest::Lies) => b"{\"return\": -3}\n",
                (_, Guest::Hangs) => continue,
                (_, Guest::Dies) => return,
                (_, Guest::NeverEnds) => {
                    for _ in 0..48 {
                        let _ = write.write_all(&[b'x'; 64 << 10]).await;
                    }
                    b"\n"
                }
            };
            let _ = write.write_all(text).await;
        }
    }

    fn thaws(asked: &Mutex<Vec<String>>) -> usize {
        asked.lock().unwrap().iter().filter(|command| *command == "guest-fsfreeze-thaw").count()
    }

    #[tokio::test]
    async fn a_guest_that_does_not_freeze_as_it_should_is_thawed_and_told_of() {
        let kinds = [Guest::Lies, Guest::Hangs, Guest::NeverEnds, Guest::Dies];
        let check = async |kind| {
            let (agent, asked) = guest(kind);
            let begin = Instant::now();
            let fault = Frozen::begin(agent).await.unwrap_err();
            assert!(matches!(fault, Fault::GuestAgent(_)), "{kind:?}: {fault}");
            assert!(begin.elapsed() < LONGEST + THAW, "{kind:?}: {:?}", begin.elapsed());
            // Who is gone cannot be asked.
            assert_eq!(thaws(&asked), usize::from(kind != Guest::Dies), "{kind:?}");
        };
        futures::future::join_all(kinds.map(check)).await;
    }

    #[tokio::test]
    async fn a_guest_is_thawed_in_time_whoever_forgets_it() {
        let (agent, asked) = guest(Guest::Freezes);
        let frozen = Frozen::begin(agent).await.unwrap();
        assert_eq!(thaws(&asked), 0);
        tokio::time::sleep(LONGEST + Duration::from_millis(500)).await;
        assert_eq!(thaws(&asked), 1, "it was not waited for");
        assert!(!frozen.end().await, "it was not frozen to the end");

        let (agent, asked) = guest(Guest::Freezes);
        drop(Frozen::begin(agent).await.unwrap());
        let thawed = async {
            while thaws(&asked) == 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), thawed).await.unwrap();
    }
}
