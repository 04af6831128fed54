//! `hostler customization`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use hostler_api::customization_spec::{
    self, CustomizationSpecCreate, CustomizationSpecListQuery, CustomizationSpecPath,
    CustomizationSpecUpdate, RenderQuery,
};
use hostler_endpoint::{CallOptions, NoParams};
use hostler_types::{
    ComputerName, Customization, CustomizationRules, CustomizationSpec, GuestUser, Labels, Name,
    NicAddressing, Ref, counted,
};
use serde_json::{Map, Value};

use crate::customize::{self, Setting, Unsetting};
use crate::error::{CliError, Exit};
use crate::input::{self, Label};
use crate::output::{self, Listing};
use crate::session::{Session, once};
use crate::table::Cell;
use crate::terminal::confirm;
use crate::time;

/// Customization specs: named rules of what guests are made to be
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
Examples:
  hostler customization create web --computer-name 'web-##' --address pool \\
      --user ada --ssh-key ~/.ssh/id_ed25519.pub --set time-zone=Europe/Berlin
  hostler customization render web
  hostler vm create web01 --image debian-12 --spec web --start --wait=customized"
)]
pub(crate) struct CustomizationArgs {
    #[command(subcommand)]
    command: CustomizationCommand,
}

#[derive(Debug, Subcommand)]
enum CustomizationCommand {
    Create(Create),

    /// List customization specs
    #[command(visible_alias = "ls", after_help = "Examples:\n  hostler customization list")]
    List,

    /// Show a customization spec; its secrets are not shown
    #[command(after_help = "Examples:\n  hostler customization show web -o yaml")]
    Show(Which),

    Set(Set),

    /// Delete a customization spec; VMs keep what they were made with
    #[command(
        visible_alias = "rm",
        after_help = "Examples:\n  hostler customization delete web --yes"
    )]
    Delete(Delete),

    Render(Render),
}

#[derive(Debug, Args)]
struct Which {
    /// Name or id of the customization spec
    #[arg(value_name = "SPEC")]
    spec: Ref,
}

impl Which {
    fn path(&self) -> CustomizationSpecPath {
        CustomizationSpecPath { spec: self.spec.clone() }
    }
}

/// What guests are to be.
#[derive(Debug, Args)]
struct Rules {
    /// Take the spec from this YAML or JSON file (`-`: standard input); flags are laid over it
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,

    /// What guests are called: `vm-name`, a name, or a prefix with `#` for each digit of a number
    #[arg(long, value_name = "NAME", value_parser = computer_name)]
    computer_name: Option<ComputerName>,

    /// How a NIC gets its address, `dhcp` or `pool`; repeat it for several NICs
    #[arg(long = "address", value_name = "WAY", value_parser = customize::addressing)]
    addresses: Vec<NicAddressing>,

    /// User to make, who may become root; --ssh-key and --password-file are then for this user
    #[arg(long, value_name = "NAME")]
    user: Option<String>,

    /// SSH public key, or a file with some; repeat it for several
    #[arg(long = "ssh-key", value_name = "FILE|KEY")]
    ssh_keys: Vec<String>,

    /// File whose first line is the user's password, in clear or as crypt(3) makes it
    #[arg(long, value_name = "FILE", requires = "user")]
    password_file: Option<PathBuf>,

    /// time-zone, locale, dns, search, package or run; repeat it for several
    #[arg(long = "set", value_name = "KEY=VALUE")]
    settings: Vec<Setting>,

    /// What it is for, in words
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,

    /// Label; repeat it for several
    #[arg(long = "label", short = 'l', value_name = "KEY=VALUE")]
    labels: Vec<Label>,
}

/// Make a customization spec
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler customization create web --computer-name 'web-##' --address pool --user ada \\
      --ssh-key ~/.ssh/id_ed25519.pub --set package=nginx --set run='systemctl enable nginx'
  hostler customization create windows -f windows.yaml

A file has the fields of the API, such as:
  computer_name: {numbered: {prefix: web-, digits: 2}}
  networks: [pool]
  guest:
    users: [{name: ada, sudo: true, password: secret}]
    time_zone: Europe/Berlin
    packages: [nginx]
    run_once: [systemctl enable nginx]")]
struct Create {
    /// Name for the customization spec
    #[arg(value_name = "NAME")]
    name: Name,

    #[command(flatten)]
    rules: Rules,
}

/// Change a customization spec; VMs keep what they were made with
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler customization set web --set time-zone=UTC
  hostler customization set web --unset run='systemctl enable nginx' --unset package
  hostler customization show web -o yaml >web.yaml; $EDITOR web.yaml
  hostler customization set web -f web.yaml

A secret that reads [redacted] in the file stays what it was.")]
struct Set {
    #[command(flatten)]
    which: Which,

    /// Take away time-zone, locale or dns; search, package or run: all of them, or with =VALUE that
    /// one; repeat it for several. What --set gives is given after that
    #[arg(long = "unset", value_name = "KEY[=VALUE]")]
    unsettings: Vec<Unsetting>,

    #[command(flatten)]
    rules: Rules,
}

#[derive(Debug, Args)]
struct Delete {
    #[command(flatten)]
    which: Which,

    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

/// Show what a guest would be told, without the secrets
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler customization render web
  hostler customization render web --vm web01")]
struct Render {
    #[command(flatten)]
    which: Which,

    /// For this VM [default: an example]
    #[arg(long, value_name = "VM")]
    vm: Option<Ref>,
}

impl CustomizationArgs {
    pub(crate) async fn run(self, session: &Session) -> Result<ExitCode, CliError> {
        match self.command {
            CustomizationCommand::Create(create) => create.run(session).await?,
            CustomizationCommand::List => list(session).await?,
            CustomizationCommand::Show(which) => {
                let path = which.path();
                let spec = session.call::<customization_spec::Show>(&path, &NoParams {}, ());
                print(session, &spec.await?)?;
            }
            CustomizationCommand::Set(set) => set.run(session).await?,
            CustomizationCommand::Delete(delete) => {
                let name = delete.which.spec.to_string();
                confirm(delete.yes, &format!("Delete the customization spec {name}?"))?;
                let path = delete.which.path();
                session.call::<customization_spec::Delete>(&path, &NoParams {}, ()).await?;
                session.output.done("deleted", "customization-spec", &name, &())?;
            }
            CustomizationCommand::Render(render) => render.run(session).await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Create {
    async fn run(&self, session: &Session) -> Result<(), CliError> {
        let (mut spec, mut labels) = match &self.rules.file {
            Some(_) => self.rules.document()?,
            None => (CustomizationRules::default(), Labels::new()),
        };
        self.rules.lay_over(&mut spec)?;
        labels.extend(self.rules.labels.iter().map(Label::pair));
        let request = CustomizationSpecCreate { name: self.name.clone(), labels, spec };
        let none = NoParams {};
        let call = session.call_with::<customization_spec::Create>(&none, &none, request, once());
        let made = call.await?;
        session.output.done("created", "customization-spec", made.metadata.name.as_str(), &made)
    }
}

impl Set {
    async fn run(&self, session: &Session) -> Result<(), CliError> {
        let path = self.which.path();
        let before = session.call::<customization_spec::Show>(&path, &NoParams {}, ()).await?;
        let (mut spec, mut labels) = match &self.rules.file {
            Some(_) => self.rules.document()?,
            None => (before.spec.clone(), Labels::new()),
        };
        customize::take_away(&self.unsettings, &mut spec.guest)?;
        self.rules.lay_over(&mut spec)?;
        labels.extend(self.rules.labels.iter().map(Label::pair));
        let labels = (!labels.is_empty()).then(|| {
            let mut all = before.metadata.labels.clone();
            all.extend(labels);
            all
        });
        let spec = (spec != before.spec).then_some(spec);
        if labels.is_none() && spec.is_none() {
            return Err(CliError::new(Exit::Usage, "nothing to change")
                .hint("see `hostler customization set --help`"));
        }
        // What was read must still be there.
        let options = CallOptions { if_match: Some(before.metadata.revision.0), ..once() };
        let request = CustomizationSpecUpdate { labels, spec };
        let call =
            session.call_with::<customization_spec::Update>(&path, &NoParams {}, request, options);
        let changed = call.await?;
        let name = changed.metadata.name.as_str();
        session.output.done("changed", "customization-spec", name, &changed)
    }
}

impl Rules {
    /// The file's spec and labels. It may be what `show -o yaml` has printed.
    fn document(&self) -> Result<(CustomizationRules, Labels), CliError> {
        let Some(file) = &self.file else { return Ok(Default::default()) };
        let place = file.display().to_string();
        let failed =
            |error: serde_json::Error| CliError::new(Exit::Failed, format!("{place}: {error}"));
        let mut document: Map<String, Value> = input::one_document(file)?;
        let mut labels = document.remove("labels").unwrap_or_else(|| Map::new().into());
        if let Some(Value::Object(mut metadata)) = document.remove("metadata") {
            labels = metadata.remove("labels").unwrap_or(labels);
        }
        for key in ["kind", "name", "status"] {
            document.remove(key);
        }
        let labels = serde_json::from_value(labels).map_err(failed)?;
        let spec = serde_json::from_value(document.into()).map_err(failed)?;
        Ok((spec, labels))
    }

    fn lay_over(&self, spec: &mut CustomizationRules) -> Result<(), CliError> {
        if let Some(name) = &self.computer_name {
            spec.computer_name = name.clone();
        }
        if !self.addresses.is_empty() {
            spec.networks.clone_from(&self.addresses);
        }
        if let Some(description) = &self.description {
            spec.description.clone_from(description);
        }
        let addresses = customize::apply(&self.settings, &mut spec.guest);
        if !addresses.is_empty() || spec.guest.hostname.is_some() {
            return Err(CliError::new(
                Exit::Usage,
                "a spec is for many guests: hostname and address belong to one",
            )
            .hint("use --computer-name and --address"));
        }
        self.user(&mut spec.guest)
    }

    fn user(&self, guest: &mut Customization) -> Result<(), CliError> {
        let mut keys = Vec::new();
        for key in &self.ssh_keys {
            keys.extend(input::ssh_keys(key)?);
        }
        let Some(name) = &self.user else {
            guest.ssh_keys.extend(keys);
            return Ok(());
        };
        let password = self.password_file.as_deref().map(customize::password).transpose()?;
        guest.users.retain(|user| user.name != *name);
        guest.users.push(GuestUser { name: name.clone(), ssh_keys: keys, sudo: true, password });
        Ok(())
    }
}

impl Render {
    async fn run(&self, session: &Session) -> Result<(), CliError> {
        let query = RenderQuery { vm: self.vm.clone() };
        let path = self.which.path();
        let rendered = session.call::<customization_spec::Render>(&path, &query, ()).await?;
        if !session.output.is_table() {
            return session.output.data(&rendered);
        }
        output::print(&format!("# label of the file system: {}\n", rendered.label))?;
        for file in &rendered.files {
            let text: Vec<_> = file.text.lines().map(crate::sanitise::line).collect();
            output::print(&format!("\n# === {}\n{}\n", file.path, text.join("\n")))?;
        }
        Ok(())
    }
}

/// `vm-name`, a name, or a prefix with `#` for each digit.
fn computer_name(text: &str) -> Result<ComputerName, String> {
    if text == "vm-name" {
        return Ok(ComputerName::VmName);
    }
    let prefix = text.trim_end_matches('#');
    match u8::try_from(text.len() - prefix.len()) {
        Ok(0) => text.parse().map(ComputerName::Fixed).map_err(|error| format!("{error}")),
        Ok(digits) => Ok(ComputerName::Numbered { prefix: prefix.to_owned(), digits }),
        Err(_) => Err("at most 9 digits".to_owned()),
    }
}

async fn list(session: &Session) -> Result<(), CliError> {
    let query = CustomizationSpecListQuery::default();
    let call = session.call::<customization_spec::List>(&NoParams {}, &query, ());
    session.output.list(
        &call.await?.items,
        &Listing {
            header: &["NAME", "GENERATION", "OS", "COMPUTER NAME", "NETWORKS", "DESCRIPTION"],
            empty: "no customization specs",
            name: &|spec: &CustomizationSpec| spec.metadata.name.to_string(),
            row: &|spec| {
                vec![
                    Cell::new(spec.metadata.name.as_str()),
                    Cell::new(spec.metadata.generation.to_string()),
                    Cell::new(word(&spec.spec.guest.os)),
                    Cell::new(called(&spec.spec.computer_name)),
                    Cell::new(ways(&spec.spec)),
                    Cell::new(spec.spec.description.as_str()),
                ]
            },
        },
    )
}

fn called(name: &ComputerName) -> String {
    match name {
        ComputerName::VmName => "vm-name".to_owned(),
        ComputerName::Fixed(name) => name.to_string(),
        ComputerName::Numbered { prefix, digits } => {
            format!("{prefix}{}", "#".repeat(usize::from(*digits)))
        }
    }
}

fn ways(rules: &CustomizationRules) -> String {
    match rules.networks.is_empty() {
        true => "dhcp".to_owned(),
        false => rules.networks.iter().map(word).collect::<Vec<_>>().join(", "),
    }
}

fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(Value::String(word)) => word,
        Ok(other) => other.to_string(),
        Err(_) => String::new(),
    }
}

fn print(session: &Session, spec: &CustomizationSpec) -> Result<(), CliError> {
    let fields = || {
        let one = |text: String| vec![Cell::new(text)];
        let many = |texts: &[String]| texts.iter().map(Cell::new).collect::<Vec<_>>();
        let (metadata, guest) = (&spec.metadata, &spec.spec.guest);
        let labels = metadata.labels.iter().map(|(key, value)| Cell::new(format!("{key}={value}")));
        let users = guest.users.iter().map(|user| {
            let password = if user.password.is_some() { ", with a password" } else { "" };
            let root = if user.sudo { ", may become root" } else { "" };
            Cell::new(format!(
                "{}: {}{root}{password}",
                user.name,
                counted(user.ssh_keys.len(), "SSH key")
            ))
        });
        let join = guest.domain_join.iter().map(|join| Cell::new(&join.domain));
        let mut fields = vec![
            ("Name", one(metadata.name.to_string())),
            ("Id", one(metadata.id.to_string())),
            ("Labels", labels.collect()),
            ("Description", many(std::slice::from_ref(&spec.spec.description))),
            ("Generation", one(metadata.generation.to_string())),
            ("OS", one(word(&guest.os))),
            ("Computer name", one(called(&spec.spec.computer_name))),
            ("Networks", one(ways(&spec.spec))),
            ("Users", users.collect()),
            ("SSH keys", many(&guest.ssh_keys)),
            ("DNS", guest.dns.servers.iter().map(|s| Cell::new(s.to_string())).collect()),
            ("Search", many(&guest.dns.search)),
            ("Time zone", guest.time_zone.iter().map(Cell::new).collect()),
            ("Locale", guest.locale.iter().map(Cell::new).collect()),
            ("Packages", many(&guest.packages)),
            ("Run once", many(&guest.run_once)),
            ("Domain", join.collect()),
            ("User data", guest.user_data.iter().map(|_| Cell::new("given, not shown")).collect()),
            ("Created", one(time::show(metadata.created_at))),
            ("Changed", one(time::show(metadata.updated_at))),
        ];
        fields.retain(|(_, values)| values.iter().any(|value| *value != Cell::new("")));
        fields
    };
    session.output.object(spec, spec.metadata.name.as_str(), fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn computer_names_are_written_as_they_are_shown() {
        for text in ["vm-name", "db", "web-##"] {
            assert_eq!(called(&computer_name(text).unwrap()), text);
        }
        assert!(computer_name("A_b").is_err());
    }
}
