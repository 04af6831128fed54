//! `--set KEY=VALUE`: what a guest is to be, said on the command line.

use std::str::FromStr;

use hostler_types::{Customization, NicAddressing, StaticAddress};

use crate::error::{CliError, Exit};

/// The keys, for help texts.
pub(crate) const KEYS: &str =
    "hostname, address, time-zone, locale, dns, search, package, run (repeat it for several)";

/// One `KEY=VALUE`, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Setting {
    Hostname(hostler_types::Name),
    /// Of the next NIC.
    Address(NicAddressing),
    TimeZone(String),
    Locale(String),
    Dns(Vec<std::net::IpAddr>),
    Search(Vec<String>),
    Package(String),
    Run(String),
}

impl FromStr for Setting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) =
            text.split_once('=').ok_or_else(|| format!("write KEY=VALUE; the keys are {KEYS}"))?;
        let words = || value.split(',').map(str::trim).filter(|word| !word.is_empty());
        Ok(match key {
            "hostname" => Self::Hostname(value.parse().map_err(|error| format!("{error}"))?),
            "address" => Self::Address(addressing(value)?),
            "time-zone" => Self::TimeZone(value.to_owned()),
            "locale" => Self::Locale(value.to_owned()),
            "dns" => {
                let servers = words().map(|word| {
                    word.parse().map_err(|_| format!("`{}` is no address", word.escape_debug()))
                });
                Self::Dns(servers.collect::<Result<_, _>>()?)
            }
            "search" => Self::Search(words().map(str::to_owned).collect()),
            "package" => Self::Package(value.to_owned()),
            "run" => Self::Run(value.to_owned()),
            _ => return Err(format!("`{}` is not one of {KEYS}", key.escape_debug())),
        })
    }
}

/// `dhcp`, `pool`, or an address such as `10.0.0.5`, `10.0.0.5/24` or `10.0.0.5/24,10.0.0.1`.
pub(crate) fn addressing(text: &str) -> Result<NicAddressing, String> {
    match text {
        "dhcp" => return Ok(NicAddressing::Dhcp),
        "pool" => return Ok(NicAddressing::Pool),
        _ => {}
    }
    let error = || {
        let shown = text.chars().take(64).collect::<String>();
        format!("`{}` is not dhcp, pool, ADDRESS[/PREFIX][,GATEWAY]", shown.escape_debug())
    };
    let (address, gateway) = match text.split_once(',') {
        Some((address, gateway)) => (address, Some(gateway.parse().map_err(|_| error())?)),
        None => (text, None),
    };
    let (address, prefix) = match address.split_once('/') {
        Some((address, prefix)) => (address, Some(prefix.parse().map_err(|_| error())?)),
        None => (address, None),
    };
    let address = address.parse().map_err(|_| error())?;
    Ok(NicAddressing::Static(StaticAddress { address, prefix, gateway }))
}

/// What settings say of the guest; the addresses they give, in their order, are returned.
pub(crate) fn apply(settings: &[Setting], guest: &mut Customization) -> Vec<NicAddressing> {
    let mut addresses = Vec::new();
    for setting in settings.iter().cloned() {
        match setting {
            Setting::Hostname(name) => guest.hostname = Some(name),
            Setting::Address(way) => addresses.push(way),
            Setting::TimeZone(zone) => guest.time_zone = Some(zone),
            Setting::Locale(locale) => guest.locale = Some(locale),
            Setting::Dns(servers) => guest.dns.servers = servers,
            Setting::Search(domains) => guest.dns.search = domains,
            Setting::Package(package) => guest.packages.push(package),
            Setting::Run(command) => guest.run_once.push(command),
        }
    }
    addresses
}

/// A password from the first line of a file.
pub(crate) fn password(path: &std::path::Path) -> Result<hostler_types::SecretText, CliError> {
    let text = crate::input::text(path)?;
    match text.lines().next().filter(|line| !line.is_empty()) {
        Some(line) => Ok(hostler_types::SecretText::new(line)),
        None => Err(CliError::new(Exit::Usage, format!("{} is empty", path.display()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_understood() {
        let settings: Vec<Setting> = [
            "hostname=db",
            "address=pool",
            "address=10.0.0.5/24,10.0.0.1",
            "dns=10.0.0.1, 10.0.0.2",
            "run=echo a=b",
            "package=nginx",
            "time-zone=Europe/Berlin",
        ]
        .iter()
        .map(|text| text.parse().unwrap())
        .collect();
        let mut guest = Customization::default();
        let addresses = apply(&settings, &mut guest);
        assert_eq!(guest.hostname.unwrap().as_str(), "db");
        assert_eq!(guest.dns.servers.len(), 2);
        assert_eq!(
            (guest.run_once, guest.packages),
            (vec!["echo a=b".into()], vec!["nginx".into()])
        );
        assert_eq!(addresses[0], NicAddressing::Pool);
        let NicAddressing::Static(fixed) = &addresses[1] else { panic!("{addresses:?}") };
        assert_eq!((fixed.prefix, fixed.gateway), (Some(24), Some([10, 0, 0, 1].into())));
        for bad in
            ["hostname", "hostname=A_b", "colour=red", "address=x", "address=1.2.3.4/x", "dns=x"]
        {
            assert!(bad.parse::<Setting>().is_err(), "{bad}");
        }
    }
}
