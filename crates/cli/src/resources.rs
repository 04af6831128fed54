//! What VMs are given within their resource pool, as `vm create` and `vm set` take it.

use clap::Args;
use hostler_types::{ByteSize, Megahertz, Ref, Shares, VmResourcesUpdate};

#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Resources")]
pub(crate) struct ResourceArgs {
    /// Resource pool; the cluster's name: directly below it
    #[arg(long, value_name = "POOL")]
    pool: Option<Ref>,

    /// How much it counts for CPU beside its siblings: low, normal, high or a number
    #[arg(long, value_name = "SHARES")]
    cpu_shares: Option<Shares>,

    /// CPU set aside while it runs, such as 2GHz; 0: none
    #[arg(long, value_name = "SPEED")]
    cpu_reservation: Option<Megahertz>,

    /// How much it counts for memory beside its siblings: low, normal, high or a number
    #[arg(long, value_name = "SHARES")]
    memory_shares: Option<Shares>,

    /// Memory set aside while it runs, such as 1GiB; 0: none
    #[arg(long, value_name = "SIZE")]
    memory_reservation: Option<ByteSize>,
}

impl ResourceArgs {
    /// What was given, else what `before` says.
    pub(crate) fn over(&self, before: VmResourcesUpdate) -> VmResourcesUpdate {
        VmResourcesUpdate {
            pool: self.pool.clone().or(before.pool),
            cpu_shares: self.cpu_shares.or(before.cpu_shares),
            cpu_reservation: self.cpu_reservation.or(before.cpu_reservation),
            memory_shares: self.memory_shares.or(before.memory_shares),
            memory_reservation: self.memory_reservation.or(before.memory_reservation),
        }
    }
}
