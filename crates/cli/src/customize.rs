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

/// One `KEY` or `KEY=VALUE` that a spec is to have no more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Unsetting {
    TimeZone,
    Locale,
    Dns,
    /// All of them, or this one.
    Search(Option<String>),
    Package(Option<String>),
    Run(Option<String>),
}

impl FromStr for Unsetting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (key, value) = match text.split_once('=') {
            Some((key, value)) => (key, Some(value.to_owned())),
            None => (text, None),
        };
        match (key, &value) {
            ("time-zone", None) => Ok(Self::TimeZone),
            ("locale", None) => Ok(Self::Locale),
            ("dns", None) => Ok(Self::Dns),
            ("search", _) => Ok(Self::Search(value)),
            ("package", _) => Ok(Self::Package(value)),
            ("run", _) => Ok(Self::Run(value)),
            _ => Err(format!(
                "`{}` is not time-zone, locale, dns, search[=DOMAIN], package[=NAME] or run[=COMMAND]",
                text.chars().take(64).collect::<String>().escape_debug()
            )),
        }
    }
}

/// Takes away what is not to be there any more.
///
/// # Errors
/// It is not there: somebody has mistyped it.
pub(crate) fn take_away(
    unsettings: &[Unsetting],
    guest: &mut Customization,
) -> Result<(), CliError> {
    for unsetting in unsettings {
        let (key, gone) = match unsetting {
            Unsetting::TimeZone => ("time-zone", guest.time_zone.take().is_some()),
            Unsetting::Locale => ("locale", guest.locale.take().is_some()),
            Unsetting::Dns => ("dns", !std::mem::take(&mut guest.dns.servers).is_empty()),
            Unsetting::Search(one) => ("search", remove(&mut guest.dns.search, one.as_deref())),
            Unsetting::Package(one) => ("package", remove(&mut guest.packages, one.as_deref())),
            Unsetting::Run(one) => ("run", remove(&mut guest.run_once, one.as_deref())),
        };
        if !gone {
            let message = format!("there is no such {key} to be taken away");
            return Err(CliError::new(Exit::Usage, message)
                .hint("see `hostler customization show` for what there is, word for word"));
        }
    }
    Ok(())
}

/// Whether one was there, or any.
fn remove(values: &mut Vec<String>, one: Option<&str>) -> bool {
    let before = values.len();
    values.retain(|value| one.is_some_and(|one| one != value));
    values.len() < before
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
    fn what_was_set_is_taken_away() {
        let set =
            ["run=a", "run=b=c", "package=x", "search=lab,example", "dns=10.0.0.1", "locale=C"];
        let settings: Vec<Setting> = set.iter().map(|text| text.parse().unwrap()).collect();
        let mut guest = Customization::default();
        apply(&settings, &mut guest);
        let unset = |guest: &mut Customization, texts: &[&str]| {
            let unsettings: Vec<_> = texts.iter().map(|text| text.parse().unwrap()).collect();
            take_away(&unsettings, guest)
        };
        unset(&mut guest, &["run=b=c", "search=lab", "dns"]).unwrap();
        assert_eq!(guest.run_once, ["a"]);
        assert_eq!(guest.dns.search, ["example"]);
        assert!(guest.dns.servers.is_empty());
        for missing in ["run=b=c", "dns", "time-zone", "package=y"] {
            let error = unset(&mut guest, &[missing]).unwrap_err();
            assert!(error.to_string().contains("no such"), "{missing}: {error}");
        }
        unset(&mut guest, &["run", "package", "search", "locale"]).unwrap();
        assert_eq!(guest, Customization::default());
        for bad in ["", "hostname", "dns=10.0.0.1", "colour"] {
            assert!(bad.parse::<Unsetting>().is_err(), "{bad}");
        }
    }

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
