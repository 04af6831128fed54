//! What the host is: name, kernel, CPUs, memory, bridges. Read once, when the agent starts.

use std::fs;
use std::io;
use std::path::Path;

use hostler_types::{ByteSize, HostFacts};

/// The Linux part of a host's facts; the agent adds what it knows of QEMU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub hostname: String,
    pub kernel: String,
    pub cpu_model: String,
    /// Who made it, such as `GenuineIntel`; empty if nobody tells.
    pub cpu_vendor: String,
    /// Logical CPUs that are online.
    pub cpus: u32,
    /// Of each CPU, in MHz: its base speed, as far as the kernel tells it.
    pub mhz_per_cpu: u32,
    pub memory: ByteSize,
    /// Linux bridges, sorted; those that Hostler made for NAT networks are left out.
    pub bridges: Vec<String>,
    /// As the kernel calls them, sorted.
    pub cpu_features: Vec<String>,
}

/// Reads the facts.
///
/// # Errors
/// `/proc` cannot be read.
pub fn read() -> io::Result<Facts> {
    let uname = rustix::system::uname();
    let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
    let cpus = std::thread::available_parallelism()?.get();
    Ok(Facts {
        hostname: uname.nodename().to_string_lossy().into_owned(),
        kernel: uname.release().to_string_lossy().into_owned(),
        cpu_model: cpu_model(&cpuinfo),
        cpu_vendor: value(&cpuinfo, "vendor_id").unwrap_or_default(),
        mhz_per_cpu: mhz(Path::new("/sys/devices/system/cpu/cpu0/cpufreq"), &cpuinfo),
        cpus: u32::try_from(cpus).unwrap_or(u32::MAX),
        memory: memory(&fs::read_to_string("/proc/meminfo")?),
        bridges: bridges(Path::new("/sys/class/net")),
        cpu_features: cpu_features(&fs::read_to_string("/proc/cpuinfo")?),
    })
}

fn cpu_model(cpuinfo: &str) -> String {
    // Arm has no `model name`.
    let named = value(cpuinfo, "model name").or_else(|| value(cpuinfo, "CPU part"));
    named.unwrap_or_else(|| "unknown".to_owned())
}

/// Of the first CPU that has it.
fn value(cpuinfo: &str, key: &str) -> Option<String> {
    cpuinfo.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        (name.trim() == key).then(|| value.trim().to_owned())
    })
}

/// The base speed, else the highest, else the present one. What nobody tells is guessed.
fn mhz(cpufreq: &Path, cpuinfo: &str) -> u32 {
    let khz = ["base_frequency", "cpuinfo_max_freq"]
        .iter()
        .find_map(|file| fs::read_to_string(cpufreq.join(file)).ok()?.trim().parse::<u32>().ok());
    let present = cpuinfo.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let whole = value.trim().split('.').next()?;
        (name.trim() == "cpu MHz").then(|| whole.parse::<u32>().ok()).flatten()
    });
    let told = khz.map(|khz| khz / 1000).or(present).filter(|mhz| *mhz > 0);
    told.unwrap_or(HostFacts::default_mhz())
}

/// Of the first CPU: hosts whose CPUs differ are not made.
fn cpu_features(cpuinfo: &str) -> Vec<String> {
    let flags = cpuinfo.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        // Arm calls them `Features`.
        ["flags", "Features"].contains(&name.trim()).then_some(value)
    });
    let words = flags.unwrap_or_default().split_whitespace().map(str::to_owned);
    let mut features: Vec<_> = words.collect();
    features.sort_unstable();
    features.dedup();
    features
}

fn memory(meminfo: &str) -> ByteSize {
    let kib = meminfo.lines().find_map(|line| {
        line.strip_prefix("MemTotal:")?.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()
    });
    ByteSize(kib.unwrap_or(0) << 10)
}

fn bridges(net: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(net) else { return Vec::new() };
    let mut bridges: Vec<String> = entries
        .flatten()
        .filter(|entry| entry.path().join("bridge").is_dir())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !is_nat_bridge(name))
        .collect();
    bridges.sort();
    bridges
}

fn is_nat_bridge(name: &str) -> bool {
    name.strip_prefix("hb")
        .is_some_and(|rest| rest.len() == 8 && rest.bytes().all(|b| b.is_ascii_hexdigit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_has_facts() {
        let facts = read().unwrap();
        assert!(facts.cpus >= 1 && facts.memory > ByteSize::mib(64), "{facts:?}");
        assert!(!facts.hostname.is_empty() && !facts.kernel.is_empty(), "{facts:?}");
    }

    #[test]
    fn proc_files_are_read() {
        let cpuinfo = "processor\t: 0\nmodel name\t: AMD EPYC 7763\nflags\t: fpu\n";
        assert_eq!(cpu_model(cpuinfo), "AMD EPYC 7763");
        assert_eq!(cpu_model(""), "unknown");
        let none = Path::new("/nowhere");
        assert_eq!(mhz(none, "processor\t: 0\ncpu MHz\t\t: 2599.998\n"), 2599);
        assert_eq!(mhz(none, ""), HostFacts::default_mhz());
        assert_eq!(memory("MemFree: 1 kB\nMemTotal:  2048 kB\n"), ByteSize::mib(2));
    }

    #[test]
    fn bridges_are_found_by_what_they_are() {
        let net = tempfile::tempdir().unwrap();
        for name in ["br0/bridge", "br-lan/bridge", "eth0", "hb0a1b2c3d/bridge", "hbox/bridge"] {
            fs::create_dir_all(net.path().join(name)).unwrap();
        }
        assert_eq!(bridges(net.path()), ["br-lan", "br0", "hbox"]);
    }
}
