//! Placement: which host and datastore VMs get, one or several at once, and why.
//!
//! Hard filters first: what a host lacks makes it impossible, whatever else it has. Those left are
//! scored; see `score` for how and `choose` for which of them are looked at. There is one choice,
//! [`Cluster`](crate::cluster::Cluster)'s: [`place_all`] asks it for VMs that are new, one or several
//! that belong together or apart, [`elsewhere`] for one that may move, the balancer for those that leave
//! a host.

mod batch;
mod choose;
mod datastore;
mod explain;
mod obstacle;
mod score;
mod told;

pub(crate) use batch::place_listed;
pub use batch::{BatchRefusal, Placed, place_all};
pub use choose::{Choosing, WINDOW};
pub(crate) use datastore::takes_disks;
pub use datastore::{DatastoreCandidate, refuses, warns};
pub(crate) use explain::explain_item;
pub use explain::{Explained, FilterCount, Scored, WhyNot, explain, explain_new, score, why_not};
pub(crate) use obstacle::listed;
pub use obstacle::{Obstacle, is_feature};
pub use told::{elsewhere, in_the_way, possible, told};

#[cfg(test)]
mod tests;
