//! What a running task tells about itself, between two writes to the store.

use hostler_types::{Progress, TaskMessage};
use jiff::Timestamp;
use tokio::sync::watch;

/// Messages kept per task; the oldest give way.
const MESSAGES: usize = 100;

/// Progress and messages as of now; the stored ones may be half a second older.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Live {
    pub progress: Progress,
    pub messages: Vec<TaskMessage>,
    /// Grows with each change: tells the runner whether there is something to store.
    pub(crate) sequence: u64,
}

/// Where steps report to.
#[derive(Debug, Clone)]
pub(crate) struct Reporter(watch::Sender<Live>);

impl Reporter {
    pub(crate) fn new(progress: Progress, messages: Vec<TaskMessage>) -> Self {
        Self(watch::Sender::new(Live { progress, messages, sequence: 0 }))
    }

    pub(crate) fn watch(&self) -> watch::Receiver<Live> {
        self.0.subscribe()
    }

    pub(crate) fn progress(&self, percent: Option<u8>, activity: Option<String>) {
        self.0.send_modify(|live| {
            live.progress = Progress { percent: percent.map(|percent| percent.min(100)), activity };
            live.sequence += 1;
        });
    }

    pub(crate) fn activity(&self, activity: Option<String>) {
        self.0.send_modify(|live| {
            live.progress.activity = activity;
            live.sequence += 1;
        });
    }

    pub(crate) fn message(&self, text: String) {
        self.0.send_modify(|live| {
            if live.messages.len() >= MESSAGES {
                live.messages.remove(0);
            }
            live.messages.push(TaskMessage { at: Timestamp::now(), text });
            live.sequence += 1;
        });
    }

    pub(crate) fn current(&self) -> Live {
        self.0.borrow().clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_messages_give_way() {
        let reporter = Reporter::new(Progress::default(), Vec::new());
        for number in 0..=MESSAGES {
            reporter.message(number.to_string());
        }
        let live = reporter.current();
        assert_eq!(live.messages.len(), MESSAGES);
        assert_eq!(live.messages[0].text, "1");
    }
}
