//! What can go wrong with a call to an agent.

use hostler_endpoint::Problem;
use tokio::sync::watch;

/// Befalls one call.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The agent refuses; nothing is done.
    Refuse(Problem),
    /// The connection breaks before the agent has heard of it.
    Unheard,
    /// It is done, and the connection breaks before the answer.
    AnswerLost,
    /// The agent does nothing until it is asked to cancel the operation; then it says so.
    Hang,
    /// It takes until the gate is gone, or it is asked to cancel the operation: then it says so.
    Held(watch::Receiver<()>),
}

/// Calls wait for as long as it lives.
#[derive(Debug)]
pub struct Gate(#[expect(dead_code, reason = "held")] pub(crate) watch::Sender<()>);

impl Fault {
    /// A refusal with this code.
    pub fn refuse(status: u16, code: &str, detail: &str) -> Self {
        Self::Refuse(Problem::new(status, code, detail))
    }
}
