//! `hostler pool tree|explain`.

use clap::Args;
use hostler_api::pool::{self, ExplainQuery};
use hostler_endpoint::NoParams;
use hostler_types::{ByteSize, Megahertz, PoolNode, PoolNodeKind, Ref, ResourceStand};

use crate::error::CliError;
use crate::output::{Listing, print};
use crate::session::Session;
use crate::table::{Cell, Tone};

#[derive(Debug, Args)]
pub(super) struct Tree {
    /// CPU only
    #[arg(long, conflicts_with = "memory")]
    cpu: bool,

    /// Memory only
    #[arg(long)]
    memory: bool,
}

#[derive(Debug, Args)]
pub(super) struct Explain {
    /// Name or id of a pool, of the cluster or of a VM; `pool/NAME` and `vm/NAME` say which
    #[arg(value_name = "NAME")]
    name: String,
}

impl Tree {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let none = NoParams {};
        let tree = session.call::<pool::Tree>(&none, &none, ()).await?;
        if session.output.is_data() {
            return session.output.data(&tree);
        }
        if !self.memory {
            let show = |amount| Megahertz(amount).to_string();
            list(session, "CPU", &tree.nodes, |node| &node.cpu, &show)?;
        }
        if !self.cpu && !self.memory && session.output.is_table() {
            print("\n")?;
        }
        if !self.cpu && (self.memory || session.output.is_table()) {
            let show = |amount| ByteSize(amount).to_string();
            list(session, "MEMORY", &tree.nodes, |node| &node.memory, &show)?;
        }
        for alarm in &tree.alarms {
            session.output.remark(&format!("warning: {alarm}"));
        }
        Ok(())
    }
}

fn list(
    session: &Session,
    what: &str,
    nodes: &[PoolNode],
    of: impl Fn(&PoolNode) -> &ResourceStand,
    show: &dyn Fn(u64) -> String,
) -> Result<(), CliError> {
    session.output.list(
        nodes,
        &Listing {
            header: &[
                what, "SHARES", "RESERVED", "LIMIT", "WANTS", "ENTITLED", "USED", "STARVED", "FREE",
            ],
            empty: "nothing",
            name: &|node| node.name.clone(),
            row: &|node| {
                let stand = of(node);
                let is_vm = node.kind == PoolNodeKind::Vm;
                let indent = "  ".repeat(usize::try_from(node.depth).unwrap_or(0));
                let kind = if is_vm { "vm/" } else { "" };
                let starved = Cell::maybe((stand.starved > 0).then(|| show(stand.starved)));
                vec![
                    Cell::new(format!("{indent}{kind}{}", node.name)),
                    Cell::maybe((node.depth > 0).then_some(stand.shares)),
                    Cell::new(show(stand.reservation)),
                    Cell::maybe(stand.limit.map(show)),
                    Cell::new(show(stand.demand)),
                    Cell::new(show(stand.entitled)),
                    Cell::maybe(stand.used.map(show)),
                    if stand.starved > 0 { starved.tone(Tone::Bad) } else { starved },
                    Cell::maybe((!is_vm).then(|| show(stand.available))),
                ]
            },
        },
    )
}

impl Explain {
    pub(super) async fn run(self, session: &Session) -> Result<(), CliError> {
        let parsed = |text: &str| {
            text.parse::<Ref>()
                .map_err(|error| CliError::new(crate::error::Exit::Usage, error.to_string()))
        };
        let query = match self.name.split_once('/') {
            Some(("pool", name)) => {
                ExplainQuery { pool: Some(parsed(name)?), ..ExplainQuery::default() }
            }
            Some(("vm", name)) => {
                ExplainQuery { vm: Some(parsed(name)?), ..ExplainQuery::default() }
            }
            _ => ExplainQuery { name: Some(parsed(&self.name)?), ..ExplainQuery::default() },
        };
        let explained = session.call::<pool::Explain>(&NoParams {}, &query, ()).await?;
        if !session.output.is_table() {
            return session.output.object(&explained, &explained.name, Vec::new);
        }
        for sentence in &explained.sentences {
            print(&format!("{sentence}\n"))?;
        }
        Ok(())
    }
}
