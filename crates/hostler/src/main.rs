//! The one binary: hands the command line its daemons.
//!
//! Only this crate knows server and agent at once; the command line itself is a client of the API.

mod agent;
mod heap;
mod local_agent;
mod logging;
mod server;
mod text;

use std::process::ExitCode;

use anyhow::Result;
use hostler_cli::{AgentJoinOptions, AgentOptions, Daemons, LogFormat, LogOptions, ServerOptions};

fn main() -> ExitCode {
    hostler_cli::main(&Binary)
}

struct Binary;

impl Daemons for Binary {
    fn server(&self, options: ServerOptions) -> Result<()> {
        logging::start(&options.log)?;
        heap::share();
        text::give_back_later();
        runtime()?.block_on(server::run(options))
    }

    fn agent(&self, options: AgentOptions) -> Result<()> {
        logging::start(&options.log)?;
        install_provider();
        text::give_back_later();
        agent::run(options)
    }

    fn agent_join(&self, options: AgentJoinOptions) -> Result<()> {
        logging::start(&LogOptions { filter: "info".to_owned(), format: LogFormat::Text })?;
        runtime()?.block_on(agent::join(options))
    }
}

/// Everything here brings its own provider; this is for libraries that ask for a default.
fn install_provider() {
    // Fails only when there is one already.
    let _ = hostler_pki::tls::provider().as_ref().clone().install_default();
}

/// The server waits far more than it computes: two threads keep its memory small.
fn runtime() -> Result<tokio::runtime::Runtime> {
    install_provider();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(16)
        .thread_stack_size(1 << 20)
        .enable_all()
        .build()?;
    Ok(runtime)
}
