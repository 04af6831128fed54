//! Why a reservation is refused, with the numbers, and the smallest change that would grant it.

use std::fmt;

use super::Resource;

/// A reservation that cannot be promised: what is short, of each resource that is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused<P> {
    /// At least one.
    pub shortages: Vec<Shortage<P>>,
}

/// What is in the way of a reservation of one resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shortage<P> {
    pub resource: Resource,
    /// From the pool that was asked up to the root; the first is where it stopped. Made from the
    /// last to the first, their changes grant the reservation; none can be left out or be smaller.
    pub obstacles: Vec<Obstacle<P>>,
    /// What would be granted instead: the largest reservation. None if less is not what helps.
    pub most: Option<u64>,
}

/// One pool on the way to the root that does not give what it is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle<P> {
    pub pool: P,
    pub name: String,
    pub kind: ObstacleKind,
    /// What it is asked for: what its child could not give from its own reservation.
    pub wanted: u64,
    /// What it can give.
    pub free: u64,
    pub change: Change,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ObstacleKind {
    /// Its reservation is used up, and it may not borrow.
    Fixed,
    /// Its children would have reserved more than it may ever get.
    Limit,
    /// It is the root: the cluster has no more.
    Capacity,
}

/// The smallest change to a pool that removes an obstacle.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Or make it expandable, which asks the same of its parent.
    RaiseReservation {
        by: u64,
        to: u64,
    },
    RaiseLimit {
        by: u64,
        to: u64,
    },
    /// By more or larger hosts, or by giving back what others reserve.
    AddCapacity {
        by: u64,
    },
}

impl<P> Obstacle<P> {
    fn describe(&self, resource: Resource, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, show) = (&self.name, |amount| resource.show(amount));
        let (wanted, free) = (show(self.wanted), show(self.free));
        let of = match self.kind {
            ObstacleKind::Fixed => "unreserved and is not expandable",
            ObstacleKind::Limit => "left below its limit",
            ObstacleKind::Capacity => "unreserved and is the root",
        };
        write!(
            f,
            "resource pool `{name}` has {free} of {resource} {of}, {wanted} are asked for: "
        )?;
        match self.change {
            Change::RaiseReservation { by, to } => {
                let (by, to) = (show(by), show(to));
                write!(f, "raise its reservation by {by} to {to}, or make it expandable")
            }
            Change::RaiseLimit { by, to } => {
                write!(f, "raise its limit by {} to {}", show(by), show(to))
            }
            Change::AddCapacity { by } => {
                write!(f, "free {} of what is reserved in it, or add hosts", show(by))
            }
        }
    }
}

impl<P> fmt::Display for Shortage<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, obstacle) in self.obstacles.iter().enumerate() {
            if nth > 0 {
                f.write_str("; and ")?;
            }
            obstacle.describe(self.resource, f)?;
        }
        match self.most {
            Some(most) => write!(f, "; or reserve at most {}", self.resource.show(most)),
            None => Ok(()),
        }
    }
}

impl<P> fmt::Display for Refused<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (nth, shortage) in self.shortages.iter().enumerate() {
            if nth > 0 {
                f.write_str("; ")?;
            }
            shortage.fmt(f)?;
        }
        Ok(())
    }
}
