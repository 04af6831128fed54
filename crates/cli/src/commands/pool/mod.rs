//! `hostler pool`.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use hostler_api::pool::{self, PoolPath};
use hostler_endpoint::{NoParams, PageQuery};
use hostler_types::{
    ByteSize, Megahertz, Name, Pool, PoolCpu, PoolCpuUpdate, PoolCreate, PoolId, PoolMemory,
    PoolMemoryUpdate, PoolUpdate, Ref, Shares,
};

use crate::error::{CliError, Exit};
use crate::output::Listing;
use crate::session::{Session, once};
use crate::table::Cell;
use crate::terminal::confirm;

mod tree;

/// Resource pools: shares, reservations and limits of CPU and memory, in a tree
#[derive(Debug, Args)]
#[command(
    arg_required_else_help = true,
    after_help = "\
Examples:
  hostler pool create prod --cpu-shares high --memory-reservation 8GiB
  hostler pool create web --parent prod --cpu-limit 4GHz
  hostler vm set web01 --pool web --cpu-reservation 500MHz
  hostler pool tree
  hostler pool explain web01

Shares say how siblings divide what there is not enough of; a reservation is set aside, and a VM that
reserves starts only if it can be; a limit is never passed. The root of the tree is the cluster, which
has what its connected hosts have."
)]
pub(crate) struct PoolArgs {
    #[command(subcommand)]
    command: PoolCommand,
}

#[derive(Debug, Subcommand)]
enum PoolCommand {
    /// List resource pools
    #[command(visible_alias = "ls", after_help = "Examples:\n  hostler pool list")]
    List,

    /// Show what a resource pool was given
    #[command(visible_alias = "show", after_help = "Examples:\n  hostler pool get prod")]
    Get(Which),

    Create(Create),

    Set(Set),

    /// Put a resource pool, with all that is in it, into another one
    #[command(after_help = "\
Examples:
  hostler pool move web prod
  hostler pool move web default")]
    Move(Move),

    /// Delete a resource pool in which nothing is
    #[command(visible_alias = "rm", after_help = "Examples:\n  hostler pool delete web --yes")]
    Delete(Delete),

    /// Show what the cluster, its pools and the VMs that run are entitled to, use and miss
    #[command(after_help = "\
Examples:
  hostler pool tree
  hostler pool tree --memory -o json")]
    Tree(tree::Tree),

    /// Tell how a pool or a VM came by what it is entitled to
    #[command(after_help = "\
Examples:
  hostler pool explain prod
  hostler pool explain vm/web01")]
    Explain(tree::Explain),
}

#[derive(Debug, Args)]
struct Which {
    /// Name or id of the pool
    #[arg(value_name = "POOL")]
    pool: Ref,
}

impl Which {
    fn path(&self) -> PoolPath {
        PoolPath { pool: self.pool.clone() }
    }
}

/// Make a resource pool
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler pool create prod --cpu-shares high --cpu-reservation 4GHz --memory-reservation 8GiB
  hostler pool create web --parent prod --cpu-limit 4GHz --memory-expandable no")]
struct Create {
    /// Name for the pool
    #[arg(value_name = "NAME")]
    name: Name,

    /// Pool that it lies in [default: the cluster]
    #[arg(long, value_name = "POOL")]
    parent: Option<Ref>,

    /// What it is for, in words
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,

    #[command(flatten)]
    given: Given,
}

/// Change what a resource pool is given
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  hostler pool set prod --cpu-reservation 6GHz
  hostler pool set web --cpu-limit none --memory-shares 5000")]
struct Set {
    #[command(flatten)]
    which: Which,

    /// Another name
    #[arg(long, value_name = "NAME")]
    name: Option<Name>,

    /// What it is for, in words
    #[arg(long, value_name = "TEXT")]
    description: Option<String>,

    #[command(flatten)]
    given: Given,
}

#[derive(Debug, Args)]
struct Given {
    /// How much it counts for CPU beside its siblings: low, normal, high or a number
    #[arg(long, value_name = "SHARES")]
    cpu_shares: Option<Shares>,

    /// CPU set aside for it, such as 4GHz; 0: none
    #[arg(long, value_name = "SPEED")]
    cpu_reservation: Option<Megahertz>,

    /// Whether it may borrow CPU from its parent when its reservation is used up
    #[arg(long, value_name = "YES|NO", value_parser = yes_or_no)]
    cpu_expandable: Option<bool>,

    /// The most CPU it may get, such as 4GHz; `none`: no limit
    #[arg(long, value_name = "SPEED", value_parser = speed_or_none)]
    cpu_limit: Option<Megahertz>,

    /// How much it counts for memory beside its siblings: low, normal, high or a number
    #[arg(long, value_name = "SHARES")]
    memory_shares: Option<Shares>,

    /// Memory set aside for it, such as 8GiB; 0: none
    #[arg(long, value_name = "SIZE")]
    memory_reservation: Option<ByteSize>,

    /// Whether it may borrow memory from its parent when its reservation is used up
    #[arg(long, value_name = "YES|NO", value_parser = yes_or_no)]
    memory_expandable: Option<bool>,

    /// The most memory it is entitled to, such as 16GiB; `none`: no limit
    #[arg(long, value_name = "SIZE", value_parser = size_or_none)]
    memory_limit: Option<ByteSize>,
}

fn yes_or_no(text: &str) -> Result<bool, String> {
    match text {
        "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err("use yes or no".to_owned()),
    }
}

/// 0 is none.
fn speed_or_none(text: &str) -> Result<Megahertz, String> {
    if text == "none" { Ok(Megahertz(0)) } else { text.parse() }
}

/// 0 is none.
fn size_or_none(text: &str) -> Result<ByteSize, String> {
    if text == "none" {
        return Ok(ByteSize(0));
    }
    text.parse().map_err(|error: hostler_types::SizeError| error.to_string())
}

#[derive(Debug, Args)]
struct Move {
    #[command(flatten)]
    which: Which,

    /// The pool that it goes to; the cluster's name: directly below it
    #[arg(value_name = "PARENT")]
    parent: Ref,
}

#[derive(Debug, Args)]
struct Delete {
    #[command(flatten)]
    which: Which,

    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

impl PoolArgs {
    pub(crate) async fn run(self, session: &Session) -> Result<ExitCode, CliError> {
        let none = NoParams {};
        match self.command {
            PoolCommand::List => list(session).await?,
            PoolCommand::Get(which) => {
                let pool = session.call::<pool::Show>(&which.path(), &none, ()).await?;
                let parent = match pool.spec.parent {
                    Some(parent) => Some(named(session, parent).await?),
                    None => None,
                };
                let name = pool.metadata.name.to_string();
                session.output.object(&pool, &name, || fields(&pool, parent))?;
            }
            PoolCommand::Create(create) => create.run(session).await?,
            PoolCommand::Set(set) => set.run(session).await?,
            PoolCommand::Move(to) => {
                let update = PoolUpdate { parent: Some(to.parent), ..PoolUpdate::default() };
                change(session, &to.which, update, "moved").await?;
            }
            PoolCommand::Delete(delete) => {
                let name = delete.which.pool.to_string();
                confirm(delete.yes, &format!("Delete the resource pool {name}?"))?;
                session.call::<pool::Delete>(&delete.which.path(), &none, ()).await?;
                session.output.done("deleted", "pool", &name, &())?;
            }
            PoolCommand::Tree(tree) => tree.run(session).await?,
            PoolCommand::Explain(explain) => explain.run(session).await?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn named(session: &Session, pool: PoolId) -> Result<String, CliError> {
    let path = PoolPath { pool: Ref::by_id(pool) };
    let pool = session.call::<pool::Show>(&path, &NoParams {}, ()).await?;
    Ok(pool.metadata.name.to_string())
}

async fn change(
    session: &Session,
    which: &Which,
    update: PoolUpdate,
    verb: &str,
) -> Result<(), CliError> {
    let (path, none) = (which.path(), NoParams {});
    let pool = session.call_with::<pool::Update>(&path, &none, update, once()).await?;
    session.output.done(verb, "pool", pool.metadata.name.as_str(), &pool)
}

async fn list(session: &Session) -> Result<(), CliError> {
    let query = PageQuery::default();
    let page = session.call::<pool::List>(&NoParams {}, &query, ()).await?;
    let name_of = |id: Option<PoolId>| {
        let pool = page.items.iter().find(|pool| Some(pool.metadata.id) == id);
        pool.map(|pool| pool.metadata.name.to_string())
    };
    session.output.list(
        &page.items,
        &Listing {
            header: &["NAME", "PARENT", "CPU", "RESERVED", "LIMIT", "MEMORY", "RESERVED", "LIMIT"],
            empty: "no resource pools",
            name: &|pool| pool.metadata.name.to_string(),
            row: &|pool| {
                let (cpu, memory) = (&pool.spec.cpu, &pool.spec.memory);
                vec![
                    Cell::new(pool.metadata.name.as_str()),
                    Cell::maybe(name_of(pool.spec.parent)),
                    Cell::new(cpu.shares.to_string()),
                    Cell::new(cpu.reservation.to_string()),
                    Cell::maybe(cpu.limit),
                    Cell::new(memory.shares.to_string()),
                    Cell::new(memory.reservation.to_string()),
                    Cell::maybe(memory.limit),
                ]
            },
        },
    )
}

fn fields(pool: &Pool, parent: Option<String>) -> Vec<(&'static str, Vec<Cell>)> {
    let one = |text: String| vec![Cell::new(text)];
    let (cpu, memory) = (&pool.spec.cpu, &pool.spec.memory);
    let line = |shares: Shares, reservation: String, expandable: bool, limit: Option<String>| {
        let borrows = if expandable { ", expandable" } else { "" };
        let limit = limit.map_or_else(|| "no limit".to_owned(), |limit| format!("limit {limit}"));
        format!("{shares} shares, {reservation} reserved{borrows}, {limit}")
    };
    let cpu_limit = cpu.limit.map(|limit| limit.to_string());
    let memory_limit = memory.limit.map(|limit| limit.to_string());
    let (cpu_part, memory_part) = (cpu.reservation.to_string(), memory.reservation.to_string());
    vec![
        ("Name", one(pool.metadata.name.to_string())),
        ("Id", one(pool.metadata.id.to_string())),
        ("Description", one(pool.spec.description.clone())),
        ("Parent", one(parent.unwrap_or_else(|| "the cluster".to_owned()))),
        ("CPU", one(line(cpu.shares, cpu_part, cpu.expandable, cpu_limit))),
        ("Memory", one(line(memory.shares, memory_part, memory.expandable, memory_limit))),
    ]
}

impl Create {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        let (given, cpu, memory) = (self.given, PoolCpu::default(), PoolMemory::default());
        // 0 takes a limit away; a new pool has none.
        let request = PoolCreate {
            name: self.name,
            labels: hostler_types::Labels::new(),
            description: self.description.unwrap_or_default(),
            parent: self.parent,
            cpu: PoolCpu {
                shares: given.cpu_shares.unwrap_or(cpu.shares),
                reservation: given.cpu_reservation.unwrap_or(cpu.reservation),
                expandable: given.cpu_expandable.unwrap_or(cpu.expandable),
                limit: given.cpu_limit.filter(|limit| limit.0 > 0),
            },
            memory: PoolMemory {
                shares: given.memory_shares.unwrap_or(memory.shares),
                reservation: given.memory_reservation.unwrap_or(memory.reservation),
                expandable: given.memory_expandable.unwrap_or(memory.expandable),
                limit: given.memory_limit.filter(|limit| limit.0 > 0),
            },
        };
        let none = NoParams {};
        let pool = session.call_with::<pool::Create>(&none, &none, request, once()).await?;
        session.output.done("created", "pool", pool.metadata.name.as_str(), &pool)
    }
}

impl Set {
    async fn run(self, session: &Session) -> Result<(), CliError> {
        let given = self.given;
        let update = PoolUpdate {
            name: self.name,
            description: self.description,
            cpu: PoolCpuUpdate {
                shares: given.cpu_shares,
                reservation: given.cpu_reservation,
                expandable: given.cpu_expandable,
                limit: given.cpu_limit,
            },
            memory: PoolMemoryUpdate {
                shares: given.memory_shares,
                reservation: given.memory_reservation,
                expandable: given.memory_expandable,
                limit: given.memory_limit,
            },
            ..PoolUpdate::default()
        };
        if update == PoolUpdate::default() {
            return Err(CliError::new(Exit::Usage, "nothing to change")
                .hint("see `hostler pool set --help`"));
        }
        change(session, &self.which, update, "changed").await
    }
}
