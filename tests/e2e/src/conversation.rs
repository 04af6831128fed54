//! An open TCP connection to a guest, on which words go there and back again and again: what somebody
//! outside sees of a guest that moves.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::{Lab, eventually};

/// Between two words.
const PAUSE: Duration = Duration::from_millis(5);

/// From the server's network to a guest of a lab. Ends with the value.
#[derive(Debug)]
pub struct Conversation {
    client: Child,
    answered: Arc<AtomicU64>,
    /// The longest time without an answer, in microseconds.
    gap: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Conversation {
    /// Lets the guest answer, and begins.
    ///
    /// # Errors
    /// The guest has no address of the lab's pool, or runs no programs.
    pub fn begin(lab: &Lab, vm: &str) -> Result<Self> {
        let answer = "nc -ll -p 7777 -e /bin/cat >/dev/null 2>&1 </dev/null & sleep 1";
        lab.ok(&["vm", "exec", vm, "--", "/bin/sh", "-c", answer])?;
        let script = format!("exec 3<>/dev/tcp/{}/7777; cat <&3 & exec cat >&3", address(lab, vm)?);
        let mut command = lab.command_in("net", "bash");
        command.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut client = command.spawn().context("start a client")?;
        let (input, output) = (client.stdin.take(), client.stdout.take());
        let (input, output) = (input.context("its input")?, output.context("its output")?);
        let (answered, gap) = (Arc::default(), Arc::default());
        let stop = Arc::new(AtomicBool::new(false));
        let this = Self { client, answered, gap, stop };
        this.speak(input);
        this.listen(output);
        this.goes_on();
        Ok(this)
    }

    fn speak(&self, mut input: impl Write + Send + 'static) {
        let stop = self.stop.clone();
        std::thread::spawn(move || {
            let mut number = 0_u64;
            while !stop.load(Ordering::Relaxed) && writeln!(input, "{number}").is_ok() {
                number += 1;
                std::thread::sleep(PAUSE);
            }
        });
    }

    fn listen(&self, output: impl std::io::Read + Send + 'static) {
        let (answered, gap) = (self.answered.clone(), self.gap.clone());
        std::thread::spawn(move || {
            let (mut expected, mut last) = (0_u64, None::<Instant>);
            for line in BufReader::new(output).lines().map_while(std::io::Result::ok) {
                // Nothing is lost and nothing comes twice; else nothing is counted any more.
                if line != expected.to_string() {
                    return;
                }
                expected += 1;
                let now = Instant::now();
                if let Some(last) = last.replace(now) {
                    let passed = u64::try_from(now.duration_since(last).as_micros());
                    gap.fetch_max(passed.unwrap_or(u64::MAX), Ordering::Relaxed);
                }
                answered.store(expected, Ordering::Relaxed);
            }
        });
    }

    /// Waits for more answers.
    ///
    /// # Panics
    /// When none come within 30 s, or not the right ones.
    pub fn goes_on(&self) {
        let now = self.answered.load(Ordering::Relaxed);
        eventually("the guest answers on the same connection", Duration::from_secs(30), || {
            self.answered.load(Ordering::Relaxed) > now + 20
        });
    }

    /// The longest time without an answer since this was asked last.
    pub fn longest_gap(&self) -> Duration {
        Duration::from_micros(self.gap.swap(0, Ordering::Relaxed))
    }
}

impl Drop for Conversation {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.client.kill();
        let _ = self.client.wait();
    }
}

/// The address that the lab's pool has given the VM.
fn address(lab: &Lab, vm: &str) -> Result<String> {
    let shown = lab.json(&["vm", "show", vm])?.to_string();
    let at = shown.find("10.99.0.1").context("the VM has no address of the lab's pool")?;
    let part = |c: &char| c.is_ascii_digit() || *c == '.';
    Ok(shown.get(at..).unwrap_or_default().chars().take_while(part).collect())
}
