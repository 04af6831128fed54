//! Options of the two daemons, and the trait through which the binary runs them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

/// What only the binary can do, because only it knows server and agent.
pub trait Daemons {
    /// Runs the server until it is told to end.
    ///
    /// # Errors
    /// What kept it from starting, or what ended it.
    fn server(&self, options: ServerOptions) -> anyhow::Result<()>;

    /// Runs the agent until it is told to end.
    ///
    /// # Errors
    /// What kept it from starting, or what ended it.
    fn agent(&self, options: AgentOptions) -> anyhow::Result<()>;

    /// Makes this machine a host of a server: gets a certificate and stores it.
    ///
    /// # Errors
    /// Why the server did not let it join.
    fn agent_join(&self, options: AgentJoinOptions) -> anyhow::Result<()>;
}

#[derive(Debug, Clone, Args)]
pub struct ServerOptions {
    /// Also run an agent on this machine, joined to this server
    #[arg(long)]
    pub with_agent: bool,

    /// Where the server keeps its database, CA and keys
    #[arg(long, value_name = "DIR", default_value = "/var/lib/hostler")]
    pub state_dir: PathBuf,

    /// Where sockets and whatever ends with the machine's uptime lie
    #[arg(long, value_name = "DIR", default_value = "/run/hostler")]
    pub runtime_dir: PathBuf,

    /// Address and port for the API, over TLS
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:8443")]
    pub listen: SocketAddr,

    /// Directory of the first datastore (with --with-agent) [default: STATE_DIR/datastores/local]
    #[arg(long, value_name = "DIR")]
    pub datastore: Option<PathBuf>,

    /// Certificate chain for the API, PEM [default: one from Hostler's own CA]
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,

    /// Private key of --tls-cert, PEM
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,

    /// Further DNS name or IP address that clients use for this server (repeatable)
    #[arg(long = "tls-name", value_name = "NAME")]
    pub tls_names: Vec<String>,

    /// Address and port for the agent that --with-agent starts
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8444")]
    pub agent_listen: SocketAddr,

    /// Directory of the machine that seals disks, for the agent that --with-agent starts
    #[arg(long, value_name = "DIR", default_value = "/usr/lib/hostler/appliance")]
    pub appliance: PathBuf,

    /// How long deleted VMs stay in the recycle bin, such as 12h or 7d
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "24h",
        value_parser = crate::duration::parse
    )]
    pub recycle_retention: Duration,

    /// How long after the end of its lease a VM goes to the recycle bin, such as 12h or 7d
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "7d",
        value_parser = crate::duration::parse
    )]
    pub lease_grace: Duration,

    /// How many people have to agree to a request that no approval rule is about, 0 to 10
    #[arg(long, value_name = "COUNT", default_value = "1", value_parser = clap::value_parser!(u32).range(0..=10))]
    pub approvals: u32,

    /// How long a request waits for approvals, such as 12h or 7d
    #[arg(
        long,
        value_name = "DURATION",
        default_value = "7d",
        value_parser = crate::duration::parse
    )]
    pub approval_wait: Duration,

    /// Network that webhooks and probes of requests may reach though it is this machine's own, such
    /// as 127.0.0.0/8 (repeatable)
    #[arg(long = "webhook-network", value_name = "SUBNET")]
    pub webhook_networks: Vec<hostler_types::Ipv4Net>,

    /// Let webhooks of requests use plain HTTP, which anyone on the way can read and change
    #[arg(long)]
    pub webhook_http: bool,

    #[command(flatten)]
    pub log: LogOptions,
}

#[derive(Debug, Clone, Args)]
pub struct AgentOptions {
    /// Where the agent keeps its certificate, journal and definitions (below `agent/`)
    #[arg(long, value_name = "DIR", default_value = "/var/lib/hostler")]
    pub state_dir: PathBuf,

    /// Where QEMU's sockets lie (below `agent/`)
    #[arg(long, value_name = "DIR", default_value = "/run/hostler")]
    pub runtime_dir: PathBuf,

    /// Address and port to listen on for the server, over mutual TLS
    #[arg(long, value_name = "ADDR", default_value = "0.0.0.0:8444")]
    pub listen: SocketAddr,

    /// Directory of the machine that seals disks: its `vmlinuz` and `initrd`
    #[arg(long, value_name = "DIR", default_value = "/usr/lib/hostler/appliance")]
    pub appliance: PathBuf,

    /// End when the standard input ends: set by a server that runs its own agent
    #[arg(long, hide = true)]
    pub exit_with_parent: bool,

    #[command(flatten)]
    pub log: LogOptions,
}

#[derive(Debug, Clone, Args)]
pub struct AgentJoinOptions {
    /// The token that `hostler host join-token` printed on the server
    pub token: String,

    /// The server's address, when not the one in the token: the global --server
    #[arg(skip)]
    pub server: Option<String>,

    /// Name of this host in the inventory [default: the machine's host name]
    #[arg(long, value_name = "NAME")]
    pub name: Option<hostler_types::Name>,

    /// Address and port at which the server reaches this host's agent, such as 10.0.0.5:8444
    #[arg(long, value_name = "HOST:PORT")]
    pub address: String,

    /// Where the agent keeps its certificate (below `agent/`)
    #[arg(long, value_name = "DIR", default_value = "/var/lib/hostler")]
    pub state_dir: PathBuf,
}

#[derive(Debug, Clone, Args)]
pub struct LogOptions {
    /// What to log: off, error, warn, info, debug, trace, or a filter such as hostler_tasks=debug
    #[arg(
        long = "log",
        value_name = "FILTER",
        env = "HOSTLER_LOG",
        hide_env_values = true,
        default_value = "info"
    )]
    pub filter: String,

    /// How log lines look
    #[arg(long = "log-format", value_name = "FORMAT", value_enum, default_value = "text")]
    pub format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people
    Text,
    /// One JSON object a line
    Json,
}
