//! The command line as a process, against a server with canned answers: real HTTP over a Unix
//! socket, and TLS where trust is the matter.

// `cfg(test)` is always true here; it tells clippy that `unwrap` is allowed.
#[cfg(test)]
mod apply;
#[cfg(test)]
mod archives;
#[cfg(test)]
mod console;
#[cfg(test)]
mod fake;
#[cfg(test)]
mod flows;
#[cfg(test)]
mod help;
#[cfg(test)]
mod import;
#[cfg(test)]
mod process;
#[cfg(test)]
mod simulate;
#[cfg(test)]
mod snapshots;
#[cfg(test)]
mod tls;
#[cfg(test)]
mod world;
