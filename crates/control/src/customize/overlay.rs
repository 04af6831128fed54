//! One customization laid over another: what a request says wins over what a spec says.

use hostler_types::{Customization, GuestOs};

/// Lists are joined (users by their names), everything else is replaced where `over` says something.
pub(crate) fn overlay(base: Customization, over: Customization) -> Customization {
    let mut users = base.users;
    users.retain(|user| over.users.iter().all(|other| other.name != user.name));
    users.extend(over.users);
    let joined = |mut base: Vec<String>, over: Vec<String>| {
        for item in over {
            if !base.contains(&item) {
                base.push(item);
            }
        }
        base
    };
    // A command may well be meant twice.
    let run_once = [base.run_once, over.run_once].concat();
    Customization {
        os: if over.os == GuestOs::Linux { base.os } else { over.os },
        hostname: over.hostname.or(base.hostname),
        users,
        ssh_keys: joined(base.ssh_keys, over.ssh_keys),
        dns: if over.dns.is_empty() { base.dns } else { over.dns },
        time_zone: over.time_zone.or(base.time_zone),
        locale: over.locale.or(base.locale),
        packages: joined(base.packages, over.packages),
        run_once,
        domain_join: over.domain_join.or(base.domain_join),
        windows: over.windows.or(base.windows),
        user_data: over.user_data.or(base.user_data),
        network_config: over.network_config.or(base.network_config),
        origin: base.origin,
        run: base.run,
    }
}

#[cfg(test)]
mod tests {
    use hostler_types::GuestUser;

    use super::*;

    #[test]
    fn lists_are_joined_and_the_rest_is_replaced() {
        let user =
            |name: &str, sudo| GuestUser { name: name.to_owned(), sudo, ..GuestUser::default() };
        let base = Customization {
            users: vec![user("ada", false), user("bob", false)],
            packages: vec!["jq".to_owned(), "nginx".to_owned()],
            run_once: vec!["true".to_owned()],
            time_zone: Some("UTC".to_owned()),
            locale: Some("C.UTF-8".to_owned()),
            ..Customization::default()
        };
        let over = Customization {
            users: vec![user("ada", true)],
            packages: vec!["jq".to_owned(), "git".to_owned()],
            run_once: vec!["true".to_owned()],
            time_zone: Some("Europe/Berlin".to_owned()),
            ..Customization::default()
        };
        let both = overlay(base.clone(), over);
        assert_eq!(both.users, [user("bob", false), user("ada", true)]);
        assert_eq!(both.packages, ["jq", "nginx", "git"]);
        assert_eq!(both.run_once.len(), 2);
        assert_eq!(both.time_zone.as_deref(), Some("Europe/Berlin"));
        assert_eq!(both.locale, base.locale);
        assert_eq!(overlay(base.clone(), Customization::default()), base);
    }
}
