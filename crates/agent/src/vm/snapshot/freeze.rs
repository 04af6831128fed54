//! A guest whose file systems are frozen, for a moment.
//!
//! Whoever thaws it is there before it is frozen, and waits for nobody longer than [`LONGEST`]: not
//! for the actor, and not for a guest agent that hangs, lies or answers rubbish. A guest that does not
//! say that it is thawed is asked again, and the VM says so as long as that lasts.

use std::time::Duration;

use hostler_qmp::guest::{FsfreezeFreeze, FsfreezeThaw, GuestAgent, GuestError};
use hostler_types::PowerState;
use tokio::sync::mpsc::WeakSender;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::fault::{Fault, chain};
use crate::vm::actor::{Actor, Message};

/// How long a guest may take to write back what it has cached, and freeze.
const FREEZE: Duration = Duration::from_secs(5);
/// From the request to freeze to the request to thaw, whatever happens between.
const LONGEST: Duration = Duration::from_secs(7);
const THAW: Duration = Duration::from_secs(5);
/// How often a guest is asked to thaw that does not say that it has.
const ATTEMPTS: u32 = 60;
const PAUSE: Duration = Duration::from_secs(1);

/// What becomes of a guest that was to be thawed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::vm) enum Thaw {
    /// It does not say that it is, and is asked again and again.
    Awaited,
    Done,
    /// It is asked no more.
    GivenUp,
}

const AWAITED: &str = "the guest's file systems may be frozen: its agent was asked to thaw them and does \
                       not answer; it is asked again";
const GIVEN_UP: &str = "the guest's file systems may be frozen: its agent does not answer; restart the \
                        agent in the guest, or reset the VM";

impl Actor {
    /// The VM says what a guest that may be frozen needs, until it is certain that it is not; and an
    /// agent that comes after this one thaws it.
    pub(in crate::vm) async fn thawing(&mut self, thaw: Thaw) {
        let frozen = thaw != Thaw::Done;
        if std::mem::replace(&mut self.record.layering.frozen, frozen) != frozen {
            self.save_or_log().await;
        }
        // Anything else that the VM has to say matters more.
        let ours = self.message.as_deref().is_none_or(|text| [AWAITED, GIVEN_UP].contains(&text));
        if self.power != PowerState::Running || !ours {
            return;
        }
        let message = match thaw {
            Thaw::Awaited => Some(AWAITED),
            Thaw::Done => None,
            Thaw::GivenUp => Some(GIVEN_UP),
        };
        self.set_power(self.power, message.map(str::to_owned));
    }
}

/// A guest that is frozen, or is about to be. Dropping it thaws the guest.
#[derive(Debug)]
pub(super) struct Frozen {
    /// Whether the guest may have been frozen at all.
    done: oneshot::Sender<bool>,
    /// Ends with whether it had to thaw by itself.
    thawing: JoinHandle<bool>,
}

/// Why a guest was not frozen, and whether it is certain that it is not.
#[derive(Debug)]
pub(super) struct NotFrozen {
    pub(super) fault: Fault,
    pub(super) thawed: bool,
}

impl Frozen {
    /// Freezes the guest; `actor` is told if it does not thaw.
    pub(super) async fn begin(
        agent: GuestAgent,
        actor: WeakSender<Message>,
    ) -> Result<Self, NotFrozen> {
        let (done, told) = oneshot::channel::<bool>();
        let thawing = tokio::spawn({
            let agent = agent.clone();
            async move {
                let told = tokio::time::timeout(LONGEST, told).await;
                let (late, asked) = (told.is_err(), !matches!(told, Ok(Ok(false))));
                thaw(&agent, asked.then_some(&actor)).await;
                late
            }
        });
        let frozen = Self { done, thawing };
        let (fault, asked) = match agent.execute_within(FsfreezeFreeze, FREEZE).await {
            Ok(count) if count >= 0 => return Ok(frozen),
            Ok(count) => (format!("the guest says that it froze {count} file systems"), true),
            Err(error) => {
                let text = format!("the guest's file systems cannot be frozen: {}", chain(&error));
                (text, !matches!(error, GuestError::Unresponsive { .. }))
            }
        };
        // It may freeze later than it was waited for; it is thawed in any case.
        let (_, thawed) = frozen.tell(asked).await;
        Err(NotFrozen { fault: Fault::GuestAgent(fault), thawed: thawed || !asked })
    }

    /// Thaws it. Whether it was frozen until now, as far as anybody outside can tell, and whether it is
    /// certain that it is not any more.
    pub(super) async fn end(self) -> (bool, bool) {
        self.tell(true).await
    }

    async fn tell(self, asked: bool) -> (bool, bool) {
        let Self { done, mut thawing } = self;
        let in_time = done.send(asked).is_ok();
        // The answer is not waited for any longer than a healthy guest needs; the task goes on.
        match tokio::time::timeout(THAW, &mut thawing).await {
            Ok(Ok(late)) => (in_time && !late, true),
            _ => (in_time, false),
        }
    }
}

/// Asks until the guest says that it is thawed, or there is no guest any more, or none that can be
/// frozen. `actor` is told of it, if it may be.
pub(super) async fn thaw(agent: &GuestAgent, actor: Option<&WeakSender<Message>>) {
    for attempt in 0..ATTEMPTS {
        match agent.execute_within(FsfreezeThaw, THAW).await {
            Err(error) if !error.is_closed() && !error.is_command_not_found() => {
                tracing::warn!(error = chain(&error), "a guest may still be frozen");
                if attempt == 0 {
                    tell(actor, Thaw::Awaited).await;
                }
                tokio::time::sleep(PAUSE).await;
            }
            _ => return tell(actor, Thaw::Done).await,
        }
    }
    tracing::error!("a guest does not say that it is thawed; it is asked no more");
    tell(actor, Thaw::GivenUp).await;
}

/// An actor that just waits for this very guest hears of it afterwards.
async fn tell(actor: Option<&WeakSender<Message>>, thaw: Thaw) {
    let Some(actor) = actor.and_then(WeakSender::upgrade) else { return };
    let told = tokio::time::timeout(THAW, actor.send(Message::Thawing(thaw))).await;
    if !matches!(told, Ok(Ok(()))) {
        tracing::debug!(?thaw, "nobody hears of a guest's thawing");
    }
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

    /// Nobody to tell.
    fn nobody() -> WeakSender<Message> {
        tokio::sync::mpsc::channel(1).0.downgrade()
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
            let NotFrozen { fault, thawed } = Frozen::begin(agent, nobody()).await.unwrap_err();
            assert!(matches!(fault, Fault::GuestAgent(_)), "{kind:?}: {fault}");
            assert!(thawed, "{kind:?}");
            assert!(begin.elapsed() < LONGEST + THAW, "{kind:?}: {:?}", begin.elapsed());
            // Who is gone cannot be asked.
            assert_eq!(thaws(&asked), usize::from(kind != Guest::Dies), "{kind:?}");
        };
        futures::future::join_all(kinds.map(check)).await;
    }

    #[tokio::test]
    async fn a_guest_is_thawed_in_time_whoever_forgets_it() {
        let (agent, asked) = guest(Guest::Freezes);
        let frozen = Frozen::begin(agent, nobody()).await.unwrap();
        assert_eq!(thaws(&asked), 0);
        tokio::time::sleep(LONGEST + Duration::from_millis(500)).await;
        assert_eq!(thaws(&asked), 1, "it was not waited for");
        let ended = frozen.end().await;
        assert_eq!(ended, (false, true), "it was not frozen to the end, and is not now");

        let (agent, asked) = guest(Guest::Freezes);
        drop(Frozen::begin(agent, nobody()).await.unwrap());
        let thawed = async {
            while thaws(&asked) == 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(5), thawed).await.unwrap();
    }
}
