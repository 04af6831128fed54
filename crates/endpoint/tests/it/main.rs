//! A toy API served on a socket and called by the client: answers, every shape of error, events and
//! streams in both directions.

// `cfg(test)` is always true here; it tells clippy that `unwrap` is allowed.
#[cfg(test)]
mod calls;
#[cfg(test)]
mod errors;
#[cfg(test)]
mod events;
#[cfg(test)]
mod streams;
#[cfg(test)]
mod toy;
