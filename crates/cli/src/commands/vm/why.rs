//! `hostler vm why|why-not`, and the explanation of a VM that is to be made.

use clap::Args;
use hostler_api::placement::{self, WhyNotPath};
use hostler_api::vm;
use hostler_endpoint::NoParams;
use hostler_types::{PlacementExplanation, PlacementScore, Ref};

use super::VmName;
use crate::error::CliError;
use crate::output;
use crate::session::Session;
use crate::time;

/// Explain why a VM is where it is: the decision that put it there
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler vm why web01
  hostler vm why web01 -o json

The numbers are those of the time of the decision. Decisions are kept for a while (see `hostler
decision --help`); the first lines stay as long as the VM.")]
pub(crate) struct Why {
    #[command(flatten)]
    vm: VmName,
}

impl Why {
    pub(super) async fn run(&self, session: &Session) -> Result<(), CliError> {
        let why = session.call::<vm::Why>(&self.vm.path(), &NoParams {}, ()).await?;
        if session.output.is_data() {
            return session.output.data(&why);
        }
        let mut lines = why.lines;
        if let Some(decision) = &why.decision {
            lines.push(format!(
                "decided for {} by {}, {} (decision {}, revision {})",
                decision.action,
                decision.actor,
                time::show(decision.at),
                decision.id,
                decision.revision.0
            ));
        }
        print(&lines)?;
        match &why.then {
            Some(then) => print(&then.sentences),
            None => {
                session.output.remark("filters and scores of that time are not kept any more");
                Ok(())
            }
        }
    }
}

/// Explain why a VM is not on a host: filters, numbers, and the smallest change that would make it fit
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler vm why-not web01 host02
  hostler vm why-not web01 host02 -o json")]
pub(crate) struct WhyNot {
    #[command(flatten)]
    vm: VmName,

    /// Name or id of the host
    #[arg(value_name = "HOST")]
    host: Ref,
}

impl WhyNot {
    pub(super) async fn run(&self, session: &Session) -> Result<(), CliError> {
        let path = WhyNotPath { vm: self.vm.path().vm, host: self.host.clone() };
        let told = session.call::<placement::WhyNot>(&path, &NoParams {}, ()).await?;
        if session.output.is_data() {
            return session.output.data(&told);
        }
        let (vm, host) = (&told.vm, &told.host);
        let mut lines = vec![match (told.fits, told.current == *host) {
            (true, true) => format!("vm `{vm}` is on host `{host}`, and passes all filters there"),
            (true, false) => {
                format!("host `{host}` can take vm `{vm}`, which is on `{}`", told.current)
            }
            (false, true) => format!("vm `{vm}` is on host `{host}`, which would not take it now"),
            (false, false) => format!("host `{host}` cannot take vm `{vm}`"),
        }];
        let obstacles = told.obstacles.iter();
        lines.extend(
            obstacles.map(|obstacle| format!("{}: {}", obstacle.filter, obstacle.sentence)),
        );
        lines.extend(told.scores.iter().map(score));
        if !told.fits {
            lines.push(format!("smallest change: {}", told.smallest_change));
        }
        print(&lines)
    }
}

fn score(scored: &PlacementScore) -> String {
    format!(
        "host `{}` costs {:.3} (room {:.3}, broken wishes {}, unmet entitlement {:.1} %)",
        scored.host,
        scored.cost,
        scored.room,
        scored.broken_wishes,
        scored.deficit * 100.0
    )
}

/// All filters and scores of VMs that would be made. Of many that see the same, one is told.
pub(super) fn explain(explained: &[PlacementExplanation]) -> Result<(), CliError> {
    let mut last: Option<&PlacementExplanation> = None;
    for one in explained {
        let seen = |of: &PlacementExplanation| (of.filters.clone(), of.candidates.clone());
        if last.is_none_or(|last| seen(last) != seen(one)) {
            print(&one.sentences)?;
        }
        last = Some(one);
    }
    Ok(())
}

fn print(lines: &[String]) -> Result<(), CliError> {
    let lines = lines.iter().map(|line| crate::sanitise::line(line) + "\n");
    output::print(&lines.collect::<String>())
}
