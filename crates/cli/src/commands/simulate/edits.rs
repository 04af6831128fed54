//! Edits as flags say them.

use std::str::FromStr;

use hostler_policy::cluster::{ClusterSnapshot, ClusterVm};
use hostler_policy::whatif::Edit;
use hostler_types::{ByteSize, VmId};
use uuid::Uuid;

/// `COUNT:HOST`.
#[derive(Debug, Clone)]
pub(super) struct HostCount {
    count: usize,
    like: String,
}

/// `CPUS:MEMORY[:DISK]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct VmSize {
    cpus: u32,
    memory: ByteSize,
    disk: Option<ByteSize>,
}

/// `COUNT:CPUS:MEMORY[:DISK]`.
#[derive(Debug, Clone, Copy)]
pub(super) struct VmCount {
    count: usize,
    size: VmSize,
}

/// `VM:cpu=MHZ` or `VM:memory=SIZE`.
#[derive(Debug, Clone)]
pub(super) struct Reservation {
    vm: String,
    cpu: Option<u64>,
    memory: Option<ByteSize>,
}

/// More are no question that anybody has.
const MOST: usize = 1_000_000;

fn count(text: &str) -> Result<usize, String> {
    let count = text.parse().ok().filter(|count| (1..=MOST).contains(count));
    count.ok_or_else(|| format!("`{}` is not a number from 1 to {MOST}", text.escape_debug()))
}

fn cpus(text: &str) -> Result<u32, String> {
    let cpus = text.parse().ok().filter(|cpus| (1..=1_024).contains(cpus));
    cpus.ok_or_else(|| format!("`{}` is not a number of CPUs", text.escape_debug()))
}

fn size(text: &str) -> Result<ByteSize, String> {
    text.parse().map_err(|error| format!("`{}`: {error}", text.escape_debug()))
}

impl FromStr for HostCount {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (number, like) = text.split_once(':').ok_or("write COUNT:HOST, such as 2:host01")?;
        Ok(Self { count: count(number)?, like: like.to_owned() })
    }
}

impl FromStr for VmSize {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<_> = text.split(':').collect();
        match *parts.as_slice() {
            [number, memory] => Ok(Self { cpus: cpus(number)?, memory: size(memory)?, disk: None }),
            [number, memory, disk] => {
                Ok(Self { cpus: cpus(number)?, memory: size(memory)?, disk: Some(size(disk)?) })
            }
            _ => Err("write CPUS:MEMORY, such as 2:4GiB".to_owned()),
        }
    }
}

impl FromStr for VmCount {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let (number, rest) =
            text.split_once(':').ok_or("write COUNT:CPUS:MEMORY, such as 20:2:4GiB")?;
        Ok(Self { count: count(number)?, size: rest.parse()? })
    }
}

impl FromStr for Reservation {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || "write VM:memory=SIZE or VM:cpu=MHZ".to_owned();
        let (vm, rest) = text.split_once(':').ok_or_else(wrong)?;
        let (what, amount) = rest.split_once('=').ok_or_else(wrong)?;
        let vm = vm.to_owned();
        match what {
            "memory" => Ok(Self { vm, cpu: None, memory: Some(size(amount)?) }),
            "cpu" => {
                let cpu = amount
                    .parse()
                    .map_err(|_| format!("`{}` is not a number of MHz", amount.escape_debug()))?;
                Ok(Self { vm, cpu: Some(cpu), memory: None })
            }
            _ => Err(wrong()),
        }
    }
}

impl HostCount {
    pub(super) fn edit(self) -> Edit {
        Edit::AddHosts { like: self.like, count: self.count }
    }
}

impl Reservation {
    pub(super) fn edit(self) -> Edit {
        Edit::Reserve { vms: vec![self.vm], cpu: self.cpu, memory: self.memory }
    }
}

impl VmSize {
    /// A VM of this size; who it is, is not looked at.
    pub(super) fn vm(&self) -> ClusterVm {
        let name = match self.disk {
            None => format!("{} CPUs, {}", self.cpus, self.memory),
            Some(disk) => format!("{} CPUs, {}, disk {disk}", self.cpus, self.memory),
        };
        ClusterVm {
            disks: vec![self.disk.unwrap_or(ByteSize(0))],
            ..ClusterVm::new(VmId::from_uuid(Uuid::nil()), name, self.cpus, self.memory)
        }
    }
}

impl VmCount {
    /// `number` tells the VMs of several such flags apart.
    pub(super) fn edit(self, snapshot: &ClusterSnapshot, number: usize) -> Edit {
        let is_taken = |name: &str| {
            let start = format!("{name}-");
            snapshot.vms.iter().any(|vm| vm.name.starts_with(&start))
        };
        let mut name = format!("new{number}");
        while is_taken(&name) {
            name.push('x');
        }
        let vm = ClusterVm { name, ..self.size.vm() };
        Edit::AddVms { vm: Box::new(vm), count: self.count }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_nonsense_is_refused() {
        let size: VmSize = "2:4GiB:50GiB".parse().expect("it is a size");
        assert_eq!((size.cpus, size.memory), (2, ByteSize::gib(4)));
        assert_eq!(size.disk, Some(ByteSize::gib(50)));
        let vms: VmCount = "20:2:4GiB".parse().expect("they are VMs");
        assert_eq!((vms.count, vms.size.disk), (20, None));
        for wrong in ["", "2", "0:2:4GiB", "x:2:4GiB", "2:0:4GiB", "2:2:many", "1:2:3GiB:4:5"] {
            assert!(wrong.parse::<VmCount>().is_err(), "{wrong}");
        }
        for wrong in ["web01", "web01:memory", "web01:memory=much", "web01:cpu=2GHz", "a:b=1"] {
            assert!(wrong.parse::<Reservation>().is_err(), "{wrong}");
        }
    }
}
