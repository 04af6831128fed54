//! A whole server over a real store, on sockets of its own, with a simulated host (`hostler-sim`)
//! behind it.

// `cfg(test)` is always true here; it tells clippy that `unwrap` is allowed.
#[cfg(test)]
mod access;
#[cfg(test)]
mod console;
#[cfg(test)]
mod login;
#[cfg(test)]
mod parallel;
#[cfg(test)]
mod requests;
#[cfg(test)]
mod rig;
#[cfg(test)]
mod sockets;
#[cfg(test)]
mod watch;
