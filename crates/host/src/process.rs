//! Short-lived helper programs: bounded in time and output, and ended with the future that waits.
//!
//! Programs that look at bytes from outside get a [`Sandbox`]: a user of their own, no network, and
//! limits on memory, CPU time and what they may write.

use std::ffi::{OsStr, OsString};
use std::future::Future;
use std::io;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Gid, Resource, Rlimit, Uid, setrlimit};
use rustix::thread::UnshareFlags;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};

/// More output than this is an error: nothing we ask for is that long.
const MAX_STDOUT: u64 = 4 << 20;
/// What an error shows of a program's complaints.
const MAX_STDERR: u64 = 2048;

/// A helper program that did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum ProcessError {
    #[error("cannot start `{program}`: is it installed?")]
    Spawn { program: String, source: io::Error },
    #[error("`{program}` was not done after {} s and was ended", .timeout.as_secs())]
    Timeout { program: String, timeout: Duration },
    #[error("`{program}` failed ({status}): {stderr}")]
    Failed { program: String, status: ExitStatus, stderr: String },
    #[error("`{program}` wrote more than {MAX_STDOUT} bytes")]
    TooMuchOutput { program: String },
    #[error("lost contact to `{program}`")]
    Io { program: String, source: io::Error },
}

/// The confinement of a program that reads untrusted bytes. It ends with this process, also when that
/// is killed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sandbox {
    /// User and group.
    pub(crate) uid: u32,
    /// Another group that it is in.
    pub(crate) group: Option<u32>,
    /// Address space, bytes.
    pub(crate) memory: u64,
    /// CPU time, seconds.
    pub(crate) cpu_seconds: u64,
    /// Size of any file it writes, bytes.
    pub(crate) file_size: u64,
}

#[derive(Debug)]
pub(crate) struct Run<'a> {
    pub(crate) program: &'a OsStr,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) stdin: Option<String>,
    pub(crate) timeout: Duration,
    pub(crate) sandbox: Option<Sandbox>,
    /// Exit codes that are no failure.
    pub(crate) success: &'static [i32],
}

impl<'a> Run<'a> {
    pub(crate) fn new<A: Into<OsString>>(
        program: &'a (impl AsRef<OsStr> + ?Sized),
        arguments: impl IntoIterator<Item = A>,
        timeout: Duration,
    ) -> Self {
        Self {
            program: program.as_ref(),
            arguments: arguments.into_iter().map(Into::into).collect(),
            stdin: None,
            timeout,
            sandbox: None,
            success: &[0],
        }
    }

    /// Runs it to its end and returns what it wrote to standard output.
    ///
    /// # Cancel safety
    /// Dropping the future kills the program.
    pub(crate) async fn output(self) -> Result<Vec<u8>, ProcessError> {
        let program = self.program.to_string_lossy().into_owned();
        let timeout = self.timeout;
        match tokio::time::timeout(timeout, self.run()).await {
            Ok(result) => result,
            Err(_) => Err(ProcessError::Timeout { program, timeout }),
        }
    }

    /// Runs it until it ends, or until `cancel` does; whether it came to its own end. It is gone when
    /// this returns.
    pub(crate) async fn unless(
        self,
        cancel: impl Future<Output = ()>,
    ) -> Result<bool, ProcessError> {
        let program = self.program.to_string_lossy().into_owned();
        let lost = |source| ProcessError::Io { program: program.clone(), source };
        let mut child = self
            .spawn()
            .map_err(|source| ProcessError::Spawn { program: program.clone(), source })?;
        let complaints = read(child.stderr.take(), MAX_STDERR);
        let ended = async { tokio::try_join!(complaints, child.wait()) };
        let ended = tokio::select! {
            ended = tokio::time::timeout(self.timeout, ended) => Some(ended),
            () = cancel => None,
        };
        let Some(Ok(ended)) = ended else {
            child.kill().await.map_err(lost)?;
            let timeout = self.timeout;
            return match ended {
                Some(_) => Err(ProcessError::Timeout { program, timeout }),
                None => Ok(false),
            };
        };
        let (stderr, status) = ended.map_err(lost)?;
        if status.success() {
            return Ok(true);
        }
        Err(ProcessError::Failed { program, status, stderr: printable(&stderr) })
    }

    async fn run(self) -> Result<Vec<u8>, ProcessError> {
        let program = self.program.to_string_lossy().into_owned();
        let lost = |source| ProcessError::Io { program: program.clone(), source };
        let mut child = self
            .spawn()
            .map_err(|source| ProcessError::Spawn { program: program.clone(), source })?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let stdin = child.stdin.take();
        let write = async {
            if let (Some(mut pipe), Some(text)) = (stdin, self.stdin) {
                // A program that does not read to the end says why when it exits.
                let _ = pipe.write_all(text.as_bytes()).await;
            }
            Ok(())
        };
        let ((), stdout, stderr) =
            tokio::try_join!(write, read(stdout, MAX_STDOUT), read(stderr, MAX_STDERR))
                .map_err(lost)?;
        let status = child.wait().await.map_err(lost)?;
        if !status.code().is_some_and(|code| self.success.contains(&code)) {
            let stderr = printable(&stderr);
            return Err(ProcessError::Failed { program, status, stderr });
        }
        if stdout.len() as u64 >= MAX_STDOUT {
            return Err(ProcessError::TooMuchOutput { program });
        }
        Ok(stdout)
    }

    fn spawn(&self) -> io::Result<Child> {
        let mut command = Command::new(self.program);
        command
            .args(&self.arguments)
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LC_ALL", "C.UTF-8")
            .current_dir("/")
            .stdin(if self.stdin.is_some() { Stdio::piped() } else { Stdio::null() })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        if let Some(sandbox) = self.sandbox {
            confine(&mut command, sandbox);
        }
        command.spawn()
    }
}

#[expect(unsafe_code, reason = "the child must give up its rights between fork and exec")]
fn confine(command: &mut Command, sandbox: Sandbox) {
    // SAFETY: between fork and exec only async-signal-safe calls are allowed. `enter` makes plain
    // system calls and neither allocates nor locks.
    unsafe {
        command.pre_exec(move || enter(sandbox));
    }
}

/// Runs in the child. Rights go last, because the namespaces need them.
#[expect(unsafe_code, reason = "unsharing is unsafe where other threads share the file table")]
fn enter(sandbox: Sandbox) -> io::Result<()> {
    // SAFETY: these flags do not touch the file table, and the child has one thread.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET | UnshareFlags::NEWIPC)? };
    let limits = [
        (Resource::As, sandbox.memory),
        (Resource::Cpu, sandbox.cpu_seconds),
        (Resource::Fsize, sandbox.file_size),
        (Resource::Core, 0),
        (Resource::Nofile, 256),
    ];
    for (resource, limit) in limits {
        setrlimit(resource, Rlimit { current: Some(limit), maximum: Some(limit) })?;
    }
    let (uid, gid) = (Uid::from_raw(sandbox.uid), Gid::from_raw(sandbox.uid));
    match sandbox.group {
        Some(group) => rustix::thread::set_thread_groups(&[Gid::from_raw(group)])?,
        None => rustix::thread::set_thread_groups(&[])?,
    }
    rustix::thread::set_thread_res_gid(gid, gid, gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid)?;
    // A killed agent must not leave anyone at work on files that its successor takes up. Comes after
    // the change of user, which would take it away again.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    rustix::thread::set_no_new_privs(true)?;
    // Changing the user takes this away, so it comes after it. The thread that spawns lives as long
    // as the process: it is one of the runtime's own.
    rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
    Ok(())
}

/// Reads to the end and keeps the first `limit` bytes, so that the writer never blocks.
async fn read(pipe: Option<impl AsyncRead + Unpin>, limit: u64) -> io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    if let Some(mut pipe) = pipe {
        (&mut pipe).take(limit).read_to_end(&mut kept).await?;
        tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await?;
    }
    Ok(kept)
}

/// One line without control characters: parts of it may come from an image.
fn printable(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    lines.join("; ").chars().flat_map(visible).collect()
}

fn visible(c: char) -> impl Iterator<Item = char> {
    let escaped = c.is_control();
    escaped.then(|| c.escape_default()).into_iter().flatten().chain((!escaped).then_some(c))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(program: &'static str, arguments: &[&str]) -> Run<'static> {
        Run::new(program, arguments, Duration::from_secs(10))
    }

    #[tokio::test]
    async fn output_and_complaints_are_returned() {
        let mut cat = run("cat", &[]);
        cat.stdin = Some("hello".to_owned());
        assert_eq!(cat.output().await.unwrap(), b"hello");
        let error = run("cat", &["/nonexistent/\u{1b}[2J"]).output().await.unwrap_err();
        let text = error.to_string();
        assert!(text.contains("No such file") && !text.contains('\u{1b}'), "{text:?}");
        let error = run("hostler-no-such-program", &[]).output().await.unwrap_err();
        assert!(matches!(error, ProcessError::Spawn { .. }), "{error}");
    }

    #[tokio::test]
    async fn time_and_output_are_bounded() {
        let mut sleep = run("sleep", &["60"]);
        sleep.timeout = Duration::from_millis(50);
        let error = sleep.output().await.unwrap_err();
        assert!(matches!(error, ProcessError::Timeout { .. }), "{error}");
        let flood = run("head", &["-c", "6000000", "/dev/zero"]).output().await.unwrap_err();
        assert!(matches!(flood, ProcessError::TooMuchOutput { .. }), "{flood}");
    }

    #[tokio::test]
    async fn a_sandboxed_program_has_no_rights() {
        let sandbox = Sandbox {
            uid: crate::uid::IMPORT_UID,
            group: None,
            memory: 1 << 30,
            cpu_seconds: 5,
            file_size: 1 << 20,
        };
        let run =
            |program, arguments: &[&str]| Run { sandbox: Some(sandbox), ..run(program, arguments) };
        let status = run("cat", &["/proc/self/status"]).output().await.unwrap();
        let status = String::from_utf8(status).unwrap();
        let uid = crate::uid::IMPORT_UID;
        assert!(status.contains(&format!("Uid:\t{uid}\t{uid}\t{uid}\t{uid}")), "{status}");
        assert!(status.contains("CapEff:\t0000000000000000"), "{status}");
        assert!(status.contains("NoNewPrivs:\t1"), "{status}");
        let interfaces = run("cat", &["/proc/self/net/dev"]).output().await.unwrap();
        assert!(!String::from_utf8(interfaces).unwrap().contains("eth0"));
        let error = run("cat", &["/etc/shadow"]).output().await.unwrap_err();
        assert!(error.to_string().contains("Permission denied"), "{error}");
    }
}
