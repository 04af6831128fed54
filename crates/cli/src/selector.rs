//! Which VMs or hosts a rule or a group is about, from flags, and for people.

use clap::Args;
use hostler_types::{Ref, Selector};

use crate::input::Label;
use crate::names::Names;

/// Which VMs.
#[derive(Debug, Clone, Args)]
#[group(multiple = true)]
pub(crate) struct VmSelector {
    /// VM, by name or id; repeat it for several
    #[arg(long = "vm", value_name = "VM", conflicts_with_all = ["vm_group", "vm_labels"])]
    vms: Vec<Ref>,

    /// Group of VMs
    #[arg(long, value_name = "GROUP", conflicts_with = "vm_labels")]
    vm_group: Option<Ref>,

    /// VMs with this label, also those to come; repeat it: all of them
    #[arg(long = "vm-label", value_name = "KEY=VALUE")]
    vm_labels: Vec<Label>,
}

/// Which hosts.
#[derive(Debug, Clone, Args)]
#[group(multiple = true)]
pub(crate) struct HostSelector {
    /// Host, by name or id; repeat it for several
    #[arg(long = "host", value_name = "HOST", conflicts_with_all = ["host_group", "host_labels"])]
    hosts: Vec<Ref>,

    /// Group of hosts
    #[arg(long, value_name = "GROUP", conflicts_with = "host_labels")]
    host_group: Option<Ref>,

    /// Hosts with this label; repeat it: all of them
    #[arg(long = "host-label", value_name = "KEY=VALUE")]
    host_labels: Vec<Label>,
}

impl VmSelector {
    pub(crate) fn selector(&self) -> Option<Selector> {
        selector(&self.vms, self.vm_group.as_ref(), &self.vm_labels)
    }
}

impl HostSelector {
    pub(crate) fn selector(&self) -> Option<Selector> {
        selector(&self.hosts, self.host_group.as_ref(), &self.host_labels)
    }
}

/// What was said, if anything was.
pub(crate) fn selector(names: &[Ref], group: Option<&Ref>, labels: &[Label]) -> Option<Selector> {
    match (names, group, labels) {
        ([], None, []) => None,
        (_, Some(group), _) => Some(Selector::Group(group.clone())),
        ([], _, labels) => Some(Selector::Labels(labels.iter().map(Label::pair).collect())),
        (names, ..) => Some(Selector::Names(names.to_vec())),
    }
}

/// For people; at most eight names.
pub(crate) fn told(selector: &Selector, names: &Names) -> String {
    match selector {
        Selector::Group(group) => format!("group {}", names.reference(group)),
        Selector::Labels(labels) => {
            let labels: Vec<_> =
                labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
            labels.join(",")
        }
        Selector::Names(all) if all.is_empty() => "none".to_owned(),
        Selector::Names(all) => {
            let told: Vec<_> = all.iter().take(8).map(|one| names.reference(one)).collect();
            match all.len().saturating_sub(8) {
                0 => told.join(","),
                more => format!("{} and {more} more", told.join(",")),
            }
        }
    }
}
