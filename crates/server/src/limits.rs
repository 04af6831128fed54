//! Bounds on what strangers may use: connections, and attempts to guess a password or join token.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Connections in all, and of one address.
const CONNECTIONS: usize = 4096;
const CONNECTIONS_OF_ONE: u32 = 512;

/// Wrong attempts of one address, or on one user, within [`WINDOW`].
const ATTEMPTS: u32 = 10;
const WINDOW: Duration = Duration::from_secs(60);
/// Beyond this many addresses and users the ones that began longest ago are forgotten.
const REMEMBERED: usize = 10_000;

/// Counts open connections.
#[derive(Debug, Clone, Default)]
pub(crate) struct Connections(Arc<Mutex<Open>>);

#[derive(Debug, Default)]
struct Open {
    all: usize,
    by_address: HashMap<IpAddr, u32>,
}

/// One open connection.
#[derive(Debug)]
pub(crate) struct Permit {
    connections: Connections,
    address: Option<IpAddr>,
}

impl Connections {
    /// Leave for one more connection; `None` means that there are too many, and it must be closed.
    /// Without an address (the Unix socket) there is always room: an operator must get in.
    pub(crate) fn admit(&self, address: Option<IpAddr>) -> Option<Permit> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(address) = address {
            if open.all >= CONNECTIONS {
                return None;
            }
            let count = open.by_address.entry(network(address)).or_default();
            if *count >= CONNECTIONS_OF_ONE {
                return None;
            }
            *count += 1;
            open.all += 1;
        }
        Some(Permit { connections: self.clone(), address })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(address) = self.address.map(network) else { return };
        let mut open = self.connections.0.lock().unwrap_or_else(PoisonError::into_inner);
        open.all -= 1;
        if let Some(count) = open.by_address.get_mut(&address) {
            *count -= 1;
            if *count == 0 {
                open.by_address.remove(&address);
            }
        }
    }
}

/// Who is guessing, or who is being guessed at.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Guess {
    From(IpAddr),
    User(String),
}

impl Guess {
    pub(crate) fn from(address: IpAddr) -> Self {
        Self::From(network(address))
    }
}

/// Slows guessing down: after [`ATTEMPTS`] wrong ones the rest of the window is refused.
#[derive(Debug, Default)]
pub(crate) struct Guesses(Mutex<HashMap<Guess, Failures>>);

#[derive(Debug)]
struct Failures {
    since: Instant,
    count: u32,
}

impl Guesses {
    /// Counts an attempt as wrong before it is made, so that many at once do not slip through.
    /// What turns out not to be a guess is taken back with [`Guesses::forgive`].
    ///
    /// # Errors
    /// How long to wait before the next attempt; nothing was counted.
    pub(crate) fn begin(&self, guesses: &[Guess], now: Instant) -> Result<(), Duration> {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = |guess: &Guess| {
            let known = failures.get(guess)?;
            let passed = now.saturating_duration_since(known.since);
            (known.count >= ATTEMPTS && passed < WINDOW).then(|| WINDOW - passed)
        };
        if let Some(wait) = guesses.iter().filter_map(wait).max() {
            return Err(wait);
        }
        for guess in guesses {
            make_room(&mut failures, now);
            let known = failures.entry(guess.clone()).or_insert(Failures { since: now, count: 0 });
            if now.saturating_duration_since(known.since) >= WINDOW {
                *known = Failures { since: now, count: 0 };
            }
            known.count += 1;
        }
        Ok(())
    }

    /// The attempt was right, or failed for another reason.
    pub(crate) fn forgive(&self, guesses: &[Guess]) {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for guess in guesses {
            if let Some(known) = failures.get_mut(guess) {
                known.count = known.count.saturating_sub(1);
            }
        }
    }
}

/// Forgets what no longer counts, and if that is not enough, what began longest ago.
fn make_room(failures: &mut HashMap<Guess, Failures>, now: Instant) {
    if failures.len() < REMEMBERED {
        return;
    }
    failures.retain(|_, known| now.saturating_duration_since(known.since) < WINDOW);
    if failures.len() < REMEMBERED {
        return;
    }
    let oldest = failures.iter().min_by_key(|(_, known)| known.since);
    if let Some(oldest) = oldest.map(|(guess, _)| guess.clone()) {
        failures.remove(&oldest);
    }
}

/// An IPv6 user has a whole /64 to choose addresses from; it counts as one.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => address,
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => IpAddr::V4(v4),
            None => IpAddr::V6((u128::from(v6) & (u128::MAX << 64)).into()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn one_address_cannot_take_all_connections() {
        let connections = Connections::default();
        let of_one: Vec<_> = (0..CONNECTIONS_OF_ONE)
            .map(|_| connections.admit(Some(address("::1"))).unwrap())
            .collect();
        assert!(connections.admit(Some(address("::2"))).is_none(), "the same /64");
        assert!(connections.admit(Some(address("10.0.0.1"))).is_some());
        assert!(connections.admit(None).is_some(), "root gets in");
        drop(of_one);
        assert!(connections.admit(Some(address("::2"))).is_some());
        let open = connections.0.lock().unwrap();
        assert_eq!((open.all, open.by_address.len()), (0, 0), "nothing is left behind");
    }

    #[test]
    fn guessing_is_slowed_down_and_forgiven() {
        let guesses = Guesses::default();
        let from = [Guess::from(address("10.0.0.1"))];
        let begin = Instant::now();
        for _ in 0..100 {
            assert_eq!(guesses.begin(&from, begin), Ok(()));
            guesses.forgive(&from);
        }
        for _ in 0..ATTEMPTS {
            assert_eq!(guesses.begin(&from, begin), Ok(()));
        }
        assert_eq!(guesses.begin(&from, begin + WINDOW / 2), Err(WINDOW / 2));
        let user = Guess::User("ann".to_owned());
        let both = [from[0].clone(), user.clone()];
        assert!(guesses.begin(&both, begin).is_err());
        assert!(!guesses.0.lock().unwrap().contains_key(&user), "nothing was counted");
        assert_eq!(guesses.begin(&from, begin + WINDOW), Ok(()));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let guesses = Guesses::default();
        let now = Instant::now();
        for number in 0..REMEMBERED + 10 {
            guesses.begin(&[Guess::User(number.to_string())], now).unwrap();
        }
        assert_eq!(guesses.0.lock().unwrap().len(), REMEMBERED);
    }
}
