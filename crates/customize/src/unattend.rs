//! Windows Setup's answer file, for images that were generalised by sysprep.
//!
//! It lies in the root of the seed under both names that Windows Setup looks for.

use hostler_types::{Customization, WindowsSettings};

use crate::network::{gateway, nameservers};
use crate::{Guest, RenderError, Seed};

/// What NetBIOS allows.
const LONGEST_NAME: usize = 15;

pub(crate) fn render(guest: &Guest<'_>) -> Result<Seed, RenderError> {
    if guest.customization.user_data.is_some() {
        return Err(RenderError::UserDataInUnattend);
    }
    let nothing = WindowsSettings::default();
    let windows = guest.customization.windows.as_ref().unwrap_or(&nothing);
    let text = match &windows.unattend {
        Some(own) => own.reveal().to_owned(),
        None if guest.hostname().as_str().len() > LONGEST_NAME => {
            return Err(RenderError::LongComputerName(guest.hostname().clone()));
        }
        None => answer_file(guest, windows),
    };
    Ok(Seed::new("HOSTLER", [("Autounattend.xml", text.clone()), ("unattend.xml", text)]))
}

fn answer_file(guest: &Guest<'_>, windows: &WindowsSettings) -> String {
    let customization = guest.customization;
    let specialize = [
        shell_setup(guest, windows),
        component("Microsoft-Windows-UnattendedJoin", &identification(customization, windows)),
        addresses(guest),
        resolvers(guest),
        commands(customization),
    ];
    let oobe = [international(customization), accounts(customization, windows)];
    format!(
        "<?xml version=\"1.0\" encoding=\"utf-8\"?>\n\
         <!-- hostler {} {} -->\n\
         <unattend xmlns=\"urn:schemas-microsoft-com:unattend\">\n\
         <settings pass=\"specialize\">\n{}</settings>\n\
         <settings pass=\"oobeSystem\">\n{}</settings>\n\
         </unattend>\n",
        guest.instance_id(),
        escape(guest.hash),
        specialize.concat(),
        oobe.concat(),
    )
}

fn component(name: &str, inner: &str) -> String {
    if inner.is_empty() {
        return String::new();
    }
    format!(
        "<component name=\"{name}\" processorArchitecture=\"amd64\" \
         publicKeyToken=\"31bf3856ad364e35\" language=\"neutral\" versionScope=\"nonSxS\" \
         xmlns:wcm=\"http://schemas.microsoft.com/WMIConfig/2002/State\">\n{inner}</component>\n"
    )
}

fn shell_setup(guest: &Guest<'_>, windows: &WindowsSettings) -> String {
    let mut inner = element("ComputerName", guest.hostname().as_str());
    let key = windows.product_key.as_ref().map(|key| key.reveal());
    let texts = [
        ("ProductKey", key),
        ("RegisteredOrganization", windows.organization.as_deref()),
        ("RegisteredOwner", windows.owner.as_deref()),
        ("TimeZone", guest.customization.time_zone.as_deref()),
    ];
    for (name, text) in texts {
        inner.extend(text.map(|text| element(name, text)));
    }
    component("Microsoft-Windows-Shell-Setup", &inner)
}

fn identification(customization: &Customization, windows: &WindowsSettings) -> String {
    let inner = match &customization.domain_join {
        Some(join) => {
            let credentials = [
                element("Domain", &join.domain),
                element("Password", join.password.reveal()),
                element("Username", &join.user),
            ];
            let ou = join.ou.as_ref().map(|ou| element("MachineObjectOU", ou)).unwrap_or_default();
            format!(
                "<Credentials>\n{}</Credentials>\n{}{ou}",
                credentials.concat(),
                element("JoinDomain", &join.domain)
            )
        }
        None => element("JoinWorkgroup", windows.workgroup.as_deref().unwrap_or("WORKGROUP")),
    };
    format!("<Identification>\n{inner}</Identification>\n")
}

fn addresses(guest: &Guest<'_>) -> String {
    let mut inner = String::new();
    for nic in guest.nics {
        let Some(address) = &nic.address else { continue };
        let route = gateway(guest, nic).map(|gateway| {
            format!(
                "<Routes><Route wcm:action=\"add\">\n<Identifier>0</Identifier>\n{}{}</Route></Routes>\n",
                element("NextHopAddress", &gateway.to_string()),
                element("Prefix", "0.0.0.0/0"),
            )
        });
        inner.push_str(&format!(
            "<Interface wcm:action=\"add\">\n\
             <Ipv4Settings><DhcpEnabled>false</DhcpEnabled></Ipv4Settings>\n\
             {}{}\
             <UnicastIpAddresses>\
             <IpAddress wcm:action=\"add\" wcm:keyValue=\"1\">{address}</IpAddress>\
             </UnicastIpAddresses>\n</Interface>\n",
            element("Identifier", &interface(nic)),
            route.unwrap_or_default(),
        ));
    }
    if inner.is_empty() {
        return inner;
    }
    component("Microsoft-Windows-TCPIP", &format!("<Interfaces>\n{inner}</Interfaces>\n"))
}

fn resolvers(guest: &Guest<'_>) -> String {
    let (servers, search) = nameservers(guest);
    let mut inner = String::new();
    if !search.is_empty() {
        let domains = search.iter().zip(1..).map(|(domain, key)| {
            format!(
                "<DomainName wcm:action=\"add\" wcm:keyValue=\"{key}\">{}</DomainName>",
                escape(domain)
            )
        });
        let domains: String = domains.collect();
        inner.push_str(&format!("<DNSSuffixSearchOrder>{domains}</DNSSuffixSearchOrder>\n"));
    }
    if !servers.is_empty() {
        let list: String = (servers.iter().zip(1..))
            .map(|(server, key)| {
                format!("<IpAddress wcm:action=\"add\" wcm:keyValue=\"{key}\">{server}</IpAddress>")
            })
            .collect();
        let interfaces: String = (guest.nics.iter())
            .map(|nic| {
                format!(
                    "<Interface wcm:action=\"add\">\n{}\
                     <DNSServerSearchOrder>{list}</DNSServerSearchOrder>\n</Interface>\n",
                    element("Identifier", &interface(nic))
                )
            })
            .collect();
        inner.push_str(&format!("<Interfaces>\n{interfaces}</Interfaces>\n"));
    }
    component("Microsoft-Windows-DNS-Client", &inner)
}

/// Windows knows a NIC by its MAC, with dashes.
fn interface(nic: &hostler_types::NicSpec) -> String {
    nic.mac.to_string().replace(':', "-").to_uppercase()
}

fn commands(customization: &Customization) -> String {
    let commands = customization.run_once.iter().zip(1..).map(|(command, order)| {
        format!(
            "<RunSynchronousCommand wcm:action=\"add\">\n<Order>{order}</Order>\n{}\
             </RunSynchronousCommand>\n",
            element("Path", &format!("cmd.exe /c {command}"))
        )
    });
    let commands: String = commands.collect();
    if commands.is_empty() {
        return commands;
    }
    component(
        "Microsoft-Windows-Deployment",
        &format!("<RunSynchronous>\n{commands}</RunSynchronous>\n"),
    )
}

fn international(customization: &Customization) -> String {
    let Some(locale) = &customization.locale else { return String::new() };
    let inner: String = ["InputLocale", "SystemLocale", "UILanguage", "UserLocale"]
        .iter()
        .map(|name| element(name, locale))
        .collect();
    component("Microsoft-Windows-International-Core", &inner)
}

fn accounts(customization: &Customization, windows: &WindowsSettings) -> String {
    let mut accounts = String::new();
    if let Some(administrator) = &windows.administrator_password {
        accounts.push_str(&secret("AdministratorPassword", administrator.reveal()));
    }
    let users: String = (customization.users.iter())
        .map(|user| {
            let group = if user.sudo { "Administrators" } else { "Users" };
            let password = user.password.as_ref();
            let password =
                password.map(|text| secret("Password", text.reveal())).unwrap_or_default();
            format!(
                "<LocalAccount wcm:action=\"add\">\n{password}{}{}</LocalAccount>\n",
                element("Group", group),
                element("Name", &user.name),
            )
        })
        .collect();
    if !users.is_empty() {
        accounts.push_str(&format!("<LocalAccounts>\n{users}</LocalAccounts>\n"));
    }
    let mut inner = "<OOBE>\n<HideEULAPage>true</HideEULAPage>\n\
                     <HideOnlineAccountScreens>true</HideOnlineAccountScreens>\n\
                     <ProtectYourPC>3</ProtectYourPC>\n</OOBE>\n"
        .to_owned();
    if !accounts.is_empty() {
        inner.push_str(&format!("<UserAccounts>\n{accounts}</UserAccounts>\n"));
    }
    component("Microsoft-Windows-Shell-Setup", &inner)
}

fn secret(name: &str, text: &str) -> String {
    format!("<{name}>\n{}<PlainText>true</PlainText>\n</{name}>\n", element("Value", text))
}

fn element(name: &str, text: &str) -> String {
    format!("<{name}>{}</{name}>\n", escape(text))
}

/// Text of an element. Characters that XML has no place for are left out.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '-' if escaped.ends_with('-') => escaped.push_str("&#45;"),
            '\t' | '\n' | '\r' => escaped.push(c),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => {}
            c => escaped.push(c),
        }
    }
    escaped
}
