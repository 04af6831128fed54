//! The shape of a guest agent's command.

use serde::{Serialize, de::DeserializeOwned};

/// Something the guest agent can be told to do. A trait of its own beside
/// [`Command`](crate::command::Command), so that no command can go to the wrong peer.
///
/// The value itself is serialised as the arguments; a unit struct has none.
pub trait GuestCommand: Serialize {
    /// Its name on the wire.
    const NAME: &'static str;
    /// What its answer holds. Strings in it are [`GuestText`](super::GuestText).
    type Return: DeserializeOwned;
}
