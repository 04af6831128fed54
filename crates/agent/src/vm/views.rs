//! What looks into a running VM or talks to its guest. None of it waits for the VM's actor, so a
//! hanging guest or a slow viewer holds nothing up.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use hostler_agent_api::ConsoleKind;
use hostler_endpoint::{ByteStream, Bytes};
use hostler_qmp::guest::{ExecOutput, ExecRequest as GuestExec, GuestError};
use hostler_types::{ExecAnswer, ExecRequest, PowerState, VmId};
use tokio::io::{AsyncWriteExt, copy};
use tokio_util::io::{ReaderStream, StreamReader};

use super::console::read_log;
use super::machine::Live;
use super::registry::Vms;
use crate::blocking::blocking;
use crate::context::HostContext;
use crate::fault::{Fault, chain};

/// What a program in the guest may print, both outputs together, in bytes.
const OUTPUT: usize = 2 << 20;
/// What is returned of each output.
const SHOWN: usize = 1 << 20;
const MAX_TIMEOUT: u32 = 3600;

impl Vms {
    pub(crate) async fn exec(&self, vm: VmId, request: ExecRequest) -> Result<ExecAnswer, Fault> {
        let live = self.live(vm, "running a command in it")?;
        let mut command = request.command.into_iter();
        let program = command
            .next()
            .filter(|program| !program.is_empty())
            .ok_or_else(|| Fault::Invalid("command: at least a program is needed".to_owned()))?;
        if !(1..=MAX_TIMEOUT).contains(&request.timeout_seconds) {
            let text = format!("timeout_seconds: 1 to {MAX_TIMEOUT}");
            return Err(Fault::Invalid(text));
        }
        let within = Duration::from_secs(request.timeout_seconds.into());
        let mut exec = GuestExec::new(program).args(command).within(within).max_output(OUTPUT);
        if !request.stdin.is_empty() {
            exec = exec.input(request.stdin.into_bytes());
        }
        let output = live.agent.exec(exec).await.map_err(|error| guest_fault(&error, within))?;
        Ok(exec_answer(&output))
    }

    pub(crate) async fn console(
        &self,
        vm: VmId,
        kind: ConsoleKind,
        input: ByteStream,
    ) -> Result<ByteStream, Fault> {
        let live = self.live(vm, "its console")?;
        match kind {
            ConsoleKind::Serial => {
                let console = live.console.clone();
                let typing = console.clone();
                let typing = tokio::spawn(async move { typing.type_all(input).await });
                Ok(with_guard(console.view(), AbortOnDrop(typing)))
            }
            ConsoleKind::Vnc => vnc(&live, input).await,
        }
    }

    pub(crate) async fn log(
        &self,
        host: &HostContext,
        vm: VmId,
        follow: bool,
    ) -> Result<ByteStream, Fault> {
        let handle = self.handle(vm)?;
        let live = handle.live.borrow().clone();
        if follow && let Some(live) = live {
            let (log, rest) = blocking(move || Ok(live.console.log_and_follow())).await?;
            let log = log.map_err(|error| Fault::internal("read a console's log", &error))?;
            return Ok(once(log).chain(rest).boxed());
        }
        let datastores = host.datastores.clone();
        let datastore = handle.datastore();
        let log = blocking(move || {
            let path = datastores.get(datastore)?.vm(vm).console_log();
            read_log(&path).map_err(|error| Fault::internal("read a console's log", &error))
        });
        Ok(once(log.await?).boxed())
    }

    /// The handles of a VM that runs.
    pub(super) fn live(&self, vm: VmId, action: &'static str) -> Result<Arc<Live>, Fault> {
        let handle = self.handle(vm)?;
        let live = handle.live.borrow().clone();
        let power = handle.report.borrow().power;
        live.ok_or_else(|| match power {
            PowerState::Unknown => Fault::WrongState(format!(
                "what the VM does is not known yet; {action} needs it to be running"
            )),
            power => Fault::Power { action, power, needed: "running" },
        })
    }
}

fn once(bytes: Vec<u8>) -> impl futures::Stream<Item = io::Result<Bytes>> + Send + 'static {
    futures::stream::iter((!bytes.is_empty()).then(|| Ok(Bytes::from(bytes))))
}

/// Bytes both ways between a viewer and QEMU's VNC server, until one of them has enough.
async fn vnc(live: &Live, input: ByteStream) -> Result<ByteStream, Fault> {
    let socket = live.connect_vnc().await?;
    let (output, mut sink) = socket.into_split();
    let typing = tokio::spawn(async move {
        let mut input = StreamReader::new(input);
        let _ = copy(&mut input, &mut sink).await;
        let _ = sink.shutdown().await;
    });
    Ok(with_guard(ReaderStream::new(output).boxed(), AbortOnDrop(typing)))
}

/// The stream, with a task that ends when the stream is dropped.
fn with_guard(stream: ByteStream, guard: AbortOnDrop) -> ByteStream {
    stream
        .map(move |item| {
            let _ = &guard;
            item
        })
        .boxed()
}

#[derive(Debug)]
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn guest_fault(error: &GuestError, within: Duration) -> Fault {
    match error {
        GuestError::StillRunning { .. } => {
            Fault::Timeout { what: "the program in the guest".to_owned(), after: within }
        }
        GuestError::Refused { .. } => Fault::WrongState(chain(error)),
        error => Fault::GuestAgent(chain(error)),
    }
}

fn exec_answer(output: &ExecOutput) -> ExecAnswer {
    let too_long = output.stdout.len() > SHOWN || output.stderr.len() > SHOWN;
    let number = |number: i64| i32::try_from(number).ok();
    ExecAnswer {
        exit_code: output.exit_code.and_then(number),
        signal: output.signal.and_then(number),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
        truncated: output.truncated || too_long,
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(&bytes[..bytes.len().min(SHOWN)]).into_owned()
}
