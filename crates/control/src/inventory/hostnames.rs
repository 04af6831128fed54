//! The host names of VMs that end in a number, so that the next of a series is found at once.

use hostler_types::{Id, Name, Vm, VmId};
use uuid::Uuid;

#[derive(Debug, Clone, Default)]
pub(super) struct Hostnames {
    numbered: imbl::OrdSet<(String, u64, VmId)>,
}

impl Hostnames {
    /// The highest number of a VM whose host name is `prefix` and a number.
    pub(super) fn highest(&self, prefix: &str) -> Option<u64> {
        let (least, greatest) = (Id::from_uuid(Uuid::nil()), Id::from_uuid(Uuid::max()));
        let range = (prefix.to_owned(), 0, least)..=(prefix.to_owned(), u64::MAX, greatest);
        self.numbered.range(range).next_back().map(|(_, number, _)| *number)
    }

    pub(super) fn vm(&mut self, old: Option<&Vm>, new: Option<&Vm>) {
        let of = |vm: &Vm| split(hostname(vm)).map(|(prefix, number)| (prefix, number, vm.id()));
        let (before, now) = (old.and_then(of), new.and_then(of));
        if before == now {
            return;
        }
        if let Some(key) = before {
            self.numbered.remove(&key);
        }
        if let Some(key) = now {
            self.numbered.insert(key);
        }
    }
}

/// What the guest is called.
fn hostname(vm: &Vm) -> &Name {
    let customization = vm.spec.customization.as_ref();
    customization.and_then(|customization| customization.hostname.as_ref()).unwrap_or(vm.name())
}

/// `web-07` is `web-` and 7.
fn split(name: &Name) -> Option<(String, u64)> {
    let prefix = name.as_str().trim_end_matches(|c: char| c.is_ascii_digit());
    let number = name.as_str()[prefix.len()..].parse().ok()?;
    Some((prefix.to_owned(), number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_split_at_its_number() {
        let check = |name: &str, expected: Option<(&str, u64)>| {
            let found = split(&name.parse().unwrap());
            assert_eq!(found, expected.map(|(prefix, number)| (prefix.to_owned(), number)));
        };
        check("web-07", Some(("web-", 7)));
        check("web", None);
        check("42", Some(("", 42)));
        check("a1b22", Some(("a1b", 22)));
        check("a99999999999999999999999999", None);
    }
}
