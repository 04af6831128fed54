//! `hostler datastore check`.

use std::process::ExitCode;

use clap::Args;
use hostler_api::datastore::{
    Adopt, AdoptRequest, Check as CheckFiles, RemoveOrphans, RemoveOrphansRequest,
};
use hostler_endpoint::NoParams;
use hostler_types::{DatastoreFindings, Name, Orphan, OrphanKind, Task, counted};

use super::Which;
use crate::error::{CliError, Exit};
use crate::output::{Several, print};
use crate::sanitise::line;
use crate::session::{Session, once};
use crate::table::{Cell, Tone, render};
use crate::terminal::{confirm, require_answers};
use crate::wait;

/// Look whether every file on a datastore is accounted for
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler datastore check local
  hostler datastore check local -o json
  hostler datastore check local --adopt images/01890a5d-ac96-774b-bcce-b302099a8057.qcow2 --name debian
  hostler datastore check local --adopt all
  hostler datastore check local --remove vms/01890a5d-ac96-774b-bcce-b302099a8057 --yes

Without --adopt and --remove nothing is changed. It ends with 0 when every file is accounted for,
and with 1 when something is not.")]
pub(super) struct Check {
    #[command(flatten)]
    which: Which,

    /// Take what nobody owns into the inventory: a VM's directory or an image, as its path is
    /// listed; all: whatever can be, but no VM whose definition says that an inventory has it;
    /// repeat it for several
    #[arg(long, value_name = "PATH", conflicts_with = "remove")]
    adopt: Vec<String>,

    /// What the one that is adopted is to be called
    #[arg(long, value_name = "NAME", requires = "adopt")]
    name: Option<Name>,

    /// Delete what nobody owns and nothing lies on, for good, as its path is listed; all: whatever
    /// can be, but no VM whose definition says that an inventory has it; repeat it for several
    #[arg(long, value_name = "PATH")]
    remove: Vec<String>,

    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

impl Check {
    pub(super) async fn run(self, session: &Session) -> Result<ExitCode, CliError> {
        if !self.remove.is_empty() {
            require_answers(self.yes)?;
        }
        let path = self.which.path();
        let findings = session.call::<CheckFiles>(&path, &NoParams {}, ()).await?;
        if !self.adopt.is_empty() {
            return self.adopt(session, &findings).await;
        }
        if !self.remove.is_empty() {
            return self.remove(session, &findings).await;
        }
        tell(session, &findings)?;
        let clean = findings.orphans.is_empty() && findings.damaged.is_empty();
        Ok(if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    async fn adopt(
        &self,
        session: &Session,
        findings: &DatastoreFindings,
    ) -> Result<ExitCode, CliError> {
        let chosen = chosen(findings, &self.adopt, |orphan| orphan.adoptable && !orphan.registered);
        if self.name.is_some() && chosen.len() != 1 {
            return Err(CliError::new(Exit::Usage, "--name is for adopting one"));
        }
        if chosen.is_empty() {
            session.output.remark("there is nothing to adopt");
        }
        tell_left_out(session, findings, &self.adopt, &chosen, |_| {
            "it cannot become an object of the inventory".to_owned()
        });
        let datastore = self.which.path();
        let alone = self.adopt.len() == 1 && self.adopt != ["all"];
        let mut done = Several::new(&session.output, alone);
        let adopted = async {
            for path in chosen {
                let request = AdoptRequest { path: path.clone(), name: self.name.clone() };
                let order = session.call_with::<Adopt>(&datastore, &NoParams {}, request, once());
                let task = wait::task(session, order.await?).await?;
                done.add(task, |task| {
                    let name = task.spec.target.split_once('/').map_or("", |(_, name)| name);
                    let what = format!("{} as {name}", line(&path));
                    session.output.done("adopted", "file", &what, task)
                })?;
            }
            Ok(())
        };
        let adopted = adopted.await;
        done.finish(adopted)?;
        Ok(ExitCode::SUCCESS)
    }

    async fn remove(
        &self,
        session: &Session,
        findings: &DatastoreFindings,
    ) -> Result<ExitCode, CliError> {
        let chosen = chosen(findings, &self.remove, |orphan| {
            orphan.used_by.is_empty() && orphan.host.is_none() && !orphan.registered
        });
        tell_left_out(session, findings, &self.remove, &chosen, |orphan| {
            format!("{} lies on it", orphan.used_by.first().map_or("something", String::as_str))
        });
        if chosen.is_empty() {
            session.output.remark("there is nothing to remove");
            if session.output.is_data() {
                // No task: what a script reads is a document all the same.
                session.output.data(&None::<Task>)?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        for path in &chosen {
            let orphan = findings.orphans.iter().find(|orphan| orphan.path == *path);
            let size = orphan.map(|orphan| format!(": {}", orphan.allocated)).unwrap_or_default();
            session.output.remark(&format!("{} goes for good{size}", line(path)));
        }
        confirm(self.yes, "Delete this for good?")?;
        let request = RemoveOrphansRequest { paths: chosen };
        let datastore = self.which.path();
        let order = session.call_with::<RemoveOrphans>(&datastore, &NoParams {}, request, once());
        let task = wait::task(session, order.await?).await?;
        for message in &task.status.messages {
            session.output.remark(&message.text);
        }
        session.output.done("cleaned", "datastore", &self.which.datastore.to_string(), &task)?;
        Ok(if kept(&task) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }
}

/// Whether the host has kept something after all.
fn kept(task: &Task) -> bool {
    task.status.messages.iter().any(|message| message.text.starts_with("kept "))
}

fn chosen(
    findings: &DatastoreFindings,
    wanted: &[String],
    possible: impl Fn(&Orphan) -> bool,
) -> Vec<String> {
    if wanted != ["all"] {
        return wanted.to_vec();
    }
    let all = findings.orphans.iter().filter(|orphan| possible(orphan));
    all.map(|orphan| orphan.path.clone()).collect()
}

/// Says what `all` has left out, and why: `else_why` when it is neither a host's nor an inventory's.
fn tell_left_out(
    session: &Session,
    findings: &DatastoreFindings,
    wanted: &[String],
    chosen: &[String],
    else_why: impl Fn(&Orphan) -> String,
) {
    if wanted != ["all"] {
        return;
    }
    for orphan in findings.orphans.iter().filter(|orphan| !chosen.contains(&orphan.path)) {
        let why = match &orphan.host {
            Some(host) => format!("host {host} says that it has it"),
            None if orphan.registered => {
                let path = &orphan.path;
                format!(
                    "its definition says that an inventory has it; `{path}` instead of `all` does it"
                )
            }
            None => else_why(orphan),
        };
        session.output.remark(&format!("{} is left out: {why}", orphan.path));
    }
}

fn tell(session: &Session, findings: &DatastoreFindings) -> Result<(), CliError> {
    if !session.output.is_table() {
        return session.output.data(findings);
    }
    let color = session.output.is_colored();
    if !findings.orphans.is_empty() {
        let rows: Vec<_> = findings.orphans.iter().map(orphan_row).collect();
        print("Files that nobody owns:\n")?;
        print(&render(&["KIND", "PATH", "NAME", "FILES", "SIZE", "ADOPT", "NOTE"], &rows, color))?;
    }
    if !findings.damaged.is_empty() {
        let rows = findings.damaged.iter().map(|damage| {
            vec![
                Cell::new(&damage.object),
                Cell::new(damage.kind.as_str()).tone(Tone::Bad),
                Cell::new(&damage.path),
                Cell::new(&damage.text),
            ]
        });
        print("Objects whose files are not as they should be:\n")?;
        print(&render(&["OBJECT", "IS", "PATH", "WHY"], &rows.collect::<Vec<_>>(), color))?;
    }
    for object in &findings.busy {
        session.output.remark(&format!("{object} is being worked on and was not judged"));
    }
    if findings.more > 0 {
        session.output.remark(&format!("and {} more", findings.more));
    }
    if findings.truncated {
        session.output.remark("there are more files than are looked at; none is called missing");
    }
    let (orphans, damaged) = (findings.orphans.len(), findings.damaged.len());
    session.output.remark(&format!(
        "{} with {}: {orphans} that nobody owns, {damaged} missing or not as they should be",
        counted(findings.files, "file"),
        findings.allocated
    ));
    Ok(())
}

fn orphan_row(orphan: &Orphan) -> Vec<Cell> {
    let mut notes: Vec<String> = orphan.note.clone().into_iter().collect();
    if let Some(user) = orphan.used_by.first() {
        notes.push(format!("{user} lies on it"));
    }
    let adopt = match (orphan.adoptable, orphan.kind) {
        (true, OrphanKind::Vm) => "as vm",
        (true, _) => "as image",
        (false, _) => "no",
    };
    vec![
        Cell::new(orphan.kind.as_str()),
        Cell::new(&orphan.path),
        Cell::maybe(orphan.name.as_ref()),
        Cell::number(orphan.files),
        Cell::number(orphan.allocated),
        Cell::new(adopt),
        Cell::new(notes.join("; ")),
    ]
}
