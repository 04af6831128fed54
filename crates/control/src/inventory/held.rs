//! Where each kind lies in a snapshot.

use hostler_types::{
    ApprovalRuleKind, ClusterKind, CustomizationSpecKind, DatastoreKind, GroupKind, HostKind,
    ImageKind, JoinTokenKind, NamingRuleKind, NetworkKind, PoolKind, RequestKind, RuleKind,
    SnapshotPolicyKind, TaskKind, TemplateKind, TokenKind, UserKind, VmKind,
};

use super::{Collection, Held, Snapshot};

impl Held for VmKind {
    fn of(snapshot: &Snapshot) -> &Collection<Self> {
        &snapshot.vms
    }
    fn of_mut(snapshot: &mut Snapshot) -> &mut Collection<Self> {
        &mut snapshot.vms
    }
}

impl Held for HostKind {
    fn of(snapshot: &Snapshot) -> &Collection<Self> {
        &snapshot.hosts
    }
    fn of_mut(snapshot: &mut Snapshot) -> &mut Collection<Self> {
        &mut snapshot.hosts
    }
}

impl Held for ImageKind {
    fn of(snapshot: &Snapshot) -> &Collection<Self> {
        &snapshot.images
    }
    fn of_mut(snapshot: &mut Snapshot) -> &mut Collection<Self> {
        &mut snapshot.images
    }
}

impl Held for DatastoreKind {
    fn of(snapshot: &Snapshot) -> &Collection<Self> {
        &snapshot.datastores
    }
    fn of_mut(snapshot: &mut Snapshot) -> &mut Collection<Self> {
        &mut snapshot.datastores
    }
}

impl Held for NetworkKind {
    fn of(snapshot: &Snapshot) -> &Collection<Self> {
        &snapshot.networks
    }
    fn of_mut(snapshot: &mut Snapshot) -> &mut Collection<Self> {
        &mut snapshot.networks
    }
}

impl Held for TaskKind {
    fn of(snapshot: &Snapshot) -> &Collection<Self> {
        &snapshot.tasks
    }
    fn of_mut(snapshot: &mut Snapshot) -> &mut Collection<Self> {
        &mut snapshot.tasks
    }
}

impl Held for UserKind {
    fn of(snapshot: &Snapshot) -> &Collection<Self> {
        &snapshot.users
    }
    fn of_mut(snapshot: &mut Snapshot) -> &mut Collection<Self> {
        &mut snapshot.users
    }
}

impl Held for TokenKind {
    fn of(snapshot: &Snapshot) -> &Collection<Self> {
        &snapshot.tokens
    }
    fn of_mut(snapshot: &mut Snapshot) -> &mut Collection<Self> {
        &mut snapshot.tokens
    }
}

impl Held for JoinTokenKind {
    fn of(snapshot: &Snapshot) -> &Collection<Self> {
        &snapshot.join_tokens
    }
    fn of_mut(snapshot: &mut Snapshot) -> &mut Collection<Self> {
        &mut snapshot.join_tokens
    }
}

impl Held for CustomizationSpecKind {
    fn of(snapshot: &Snapshot) -> &Collection<Self> {
        &snapshot.customization_specs
    }
    fn of_mut(snapshot: &mut Snapshot) -> &mut Collection<Self> {
        &mut snapshot.customization_specs
    }
}

impl Held for TemplateKind {
    fn of(snapshot: &Snapshot) -> &Collection<Self> {
        &snapshot.templates
    }
    fn of_mut(snapshot: &mut Snapshot) -> &mut Collection<Self> {
        &mut snapshot.templates
    }
}

impl Held for NamingRuleKind {
    fn of(snapshot: &Snapshot) -> &Collection<Self> {
        &snapshot.naming_rules
    }
    fn of_mut(snapshot: &mut Snapshot) -> &mut Collection<Self> {
        &mut snapshot.naming_rules
    }
}

impl Held for SnapshotPolicyKind {
    fn of(snapshot: &Snapshot) -> &Collection<Self> {
        &snapshot.snapshot_policies
    }
    fn of_mut(snapshot: &mut Snapshot) -> &mut Collection<Self> {
        &mut snapshot.snapshot_policies
    }
}

impl Held for RequestKind {
    fn of(snapshot: &Snapshot) -> &Collection<Self> {
        &snapshot.requests
    }
    fn of_mut(snapshot: &mut Snapshot) -> &mut Collection<Self> {
        &mut snapshot.requests
    }
}

impl Held for ApprovalRuleKind {
    fn of(snapshot: &Snapshot) -> &Collection<Self> {
        &snapshot.approval_rules
    }
    fn of_mut(snapshot: &mut Snapshot) -> &mut Collection<Self> {
        &mut snapshot.approval_rules
    }
}

impl Held for ClusterKind {
    fn of(snapshot: &Snapshot) -> &Collection<Self> {
        &snapshot.clusters
    }
    fn of_mut(snapshot: &mut Snapshot) -> &mut Collection<Self> {
        &mut snapshot.clusters
    }
}

impl Held for PoolKind {
    fn of(snapshot: &Snapshot) -> &Collection<Self> {
        &snapshot.pools
    }
    fn of_mut(snapshot: &mut Snapshot) -> &mut Collection<Self> {
        &mut snapshot.pools
    }
}

impl Held for RuleKind {
    fn of(snapshot: &Snapshot) -> &Collection<Self> {
        &snapshot.rules
    }
    fn of_mut(snapshot: &mut Snapshot) -> &mut Collection<Self> {
        &mut snapshot.rules
    }
}

impl Held for GroupKind {
    fn of(snapshot: &Snapshot) -> &Collection<Self> {
        &snapshot.groups
    }
    fn of_mut(snapshot: &mut Snapshot) -> &mut Collection<Self> {
        &mut snapshot.groups
    }
}
