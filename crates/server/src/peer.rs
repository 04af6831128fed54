//! Who is at the other end of a connection, before anyone has proved to be someone.

use std::net::SocketAddr;

use crate::limits::Guess;

/// The other end; among the extensions of each request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    /// Anyone, over TLS.
    Network(SocketAddr),
    /// Root on this machine: the Unix socket's kernel-told uid is 0.
    Root,
}

/// Whose guesses an attempt counts among; root does not guess.
pub(crate) fn guesser(extensions: &http::Extensions) -> Option<Guess> {
    match extensions.get::<Peer>() {
        Some(Peer::Network(address)) => Some(Guess::from(address.ip())),
        Some(Peer::Root) | None => None,
    }
}
