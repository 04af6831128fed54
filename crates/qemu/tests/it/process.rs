//! Processes that outlive their starter.

use std::{
    ffi::OsString,
    fs::File,
    io::{Read, Seek},
    os::fd::AsRawFd,
    time::{Duration, Instant},
};

use hostler_qemu::{
    Credentials, Exit, InheritedFds, Lifetime, Process, Spawn, SpawnError, start_time,
};

fn shell(script: &str, log: &File) -> Spawn {
    Spawn {
        program: "/bin/bash".into(),
        args: ["-c", script].map(OsString::from).to_vec(),
        credentials: Credentials::Inherit,
        lifetime: Lifetime::Detached,
        huge_pages: true,
        fds: InheritedFds::default(),
        cgroup_files: Vec::new(),
        log: log.try_clone().unwrap(),
    }
}

fn text(mut log: &File) -> String {
    let mut text = String::new();
    log.rewind().unwrap();
    log.read_to_string(&mut text).unwrap();
    text
}

fn nobody() -> Credentials {
    Credentials::User { uid: 1_900_000_007, gid: 1_900_000_007, groups: vec![1_900_000_008] }
}

#[tokio::test]
async fn a_process_has_what_it_is_given_and_nothing_else() {
    let log = tempfile::tempfile().unwrap();
    let given = tempfile::tempfile().unwrap();
    // Not close-on-exec, as a careless library would leave it.
    let careless = rustix::io::dup(&log).unwrap();
    let mut spawn = shell("", &log);
    let number = spawn.fds.add(given.try_clone().unwrap()).unwrap().number();
    spawn.args[1] = format!(
        "echo given >&{number}; ls -l /proc/self/fd | grep -c -e ' [0-9]* ->'; \
         ls /proc/self/fd | tr '\\n' ' '; echo; \
         grep -E '^(Groups|Uid|Gid|NoNewPrivs|CapEff|NSsid)' /proc/self/status; ulimit -c; \
         pwd; env | sort; echo $$"
    )
    .into();
    if rustix::process::geteuid().is_root() {
        spawn.credentials = nobody();
    }
    let process = spawn.start().unwrap();
    assert_eq!(process.exited().await, Exit::Code(0), "{}", text(&log));
    let said = text(&log);
    let lines: Vec<&str> = said.lines().collect();
    let fds: Vec<&str> = lines[1].split_ascii_whitespace().collect();
    assert!(fds.contains(&number.to_string().as_str()), "{said}");
    assert!(!fds.contains(&careless.as_raw_fd().to_string().as_str()), "{said}");
    // 0 to 2, the given one, and the one with which `ls` reads the directory.
    assert_eq!(fds.len(), 5, "{said}");
    assert!(said.contains("NoNewPrivs:\t1"), "{said}");
    assert!(said.contains(&format!("NSsid:\t{}", process.pid())), "{said}");
    assert!(said.contains("\n0\n/\n"), "no core limit or directory: {said}");
    assert!(!said.contains("HOME=") && said.contains("LC_ALL=C"), "{said}");
    if rustix::process::geteuid().is_root() {
        let ids = "1900000007\t1900000007\t1900000007\t1900000007";
        assert!(said.contains(&format!("Uid:\t{ids}\nGid:\t{ids}\nGroups:\t1900000008")), "{said}");
        assert!(said.contains("CapEff:\t0000000000000000"), "{said}");
    }
    assert_eq!(text(&given), "given\n");
}

#[tokio::test]
async fn it_joins_its_groups_before_it_runs() {
    // Any file shows what is written and how; a cgroup's takes the same.
    let procs = tempfile::tempfile().unwrap();
    let log = tempfile::tempfile().unwrap();
    let mut spawn = shell("true", &log);
    spawn.cgroup_files.push(procs.try_clone().unwrap().into());
    assert_eq!(spawn.start().unwrap().exited().await, Exit::Code(0));
    assert_eq!(text(&procs), "0");

    // One that cannot be joined stops the start.
    let mut spawn = shell("echo ran", &log);
    spawn.cgroup_files.push(File::open("/dev/null").unwrap().into());
    assert!(matches!(spawn.start(), Err(SpawnError::Start { .. })));
    assert_eq!(text(&log), "");
}

#[tokio::test]
async fn a_program_that_cannot_run_is_an_error() {
    let log = tempfile::tempfile().unwrap();
    let mut spawn = shell("", &log);
    spawn.program = "/nonexistent/qemu".into();
    let error = spawn.start().unwrap_err();
    assert_eq!(error.to_string(), "cannot start /nonexistent/qemu");
}

#[tokio::test]
async fn it_is_found_again_only_while_it_is_the_same() {
    let log = tempfile::tempfile().unwrap();
    let process = shell("exec sleep 100", &log).start().unwrap();
    let (pid, started) = (process.pid(), process.start_time());
    assert_eq!(start_time(pid).unwrap(), Some(started));
    assert_eq!(process.try_exited(), None);
    let again = Process::attach(pid, started).unwrap().unwrap();
    assert!(Process::attach(pid, started + 1).unwrap().is_none());

    let waiting = tokio::spawn({
        let again = again.clone();
        async move { again.exited().await }
    });
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert!(!waiting.is_finished());
    let killed = Instant::now();
    again.kill().unwrap();
    let exit = waiting.await.unwrap();
    assert!(killed.elapsed() < Duration::from_millis(500));
    assert_eq!(exit, Exit::Signal(9));
    // Only the one that reaps its child knows how it ended.
    assert_eq!(process.exited().await, Exit::Unknown);
    assert_eq!(process.try_exited(), Some(Exit::Unknown));
    assert!(Process::attach(pid, started).unwrap().is_none());
    process.kill().unwrap();
}

#[tokio::test]
async fn a_zombie_has_ended() {
    let log = tempfile::tempfile().unwrap();
    let process = shell("true", &log).start().unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    // It stays a zombie until it is waited for.
    while start_time(process.pid()).unwrap().is_some() {
        assert!(Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(Process::attach(process.pid(), process.start_time()).unwrap().is_none());
    assert_eq!(process.exited().await, Exit::Code(0));
}

#[tokio::test]
async fn everybody_who_waits_learns_the_code() {
    let log = tempfile::tempfile().unwrap();
    let process = shell("exit 7", &log).start().unwrap();
    let other = process.clone();
    assert_eq!(tokio::join!(process.exited(), other.exited()), (Exit::Code(7), Exit::Code(7)));
    assert_eq!(process.exited().await, Exit::Code(7));
    assert_eq!(process.try_exited(), Some(Exit::Code(7)));
}

/// The thread stands for an agent that is killed while it probes.
#[tokio::test]
async fn a_probe_ends_with_its_starter_and_a_guest_does_not() {
    let log = tempfile::tempfile().unwrap();
    let start = |lifetime, credentials| {
        let spawn = Spawn { lifetime, credentials, ..shell("exec sleep 100", &log) };
        let runtime = tokio::runtime::Handle::current();
        let thread = std::thread::spawn(move || {
            let _entered = runtime.enter();
            spawn.start().unwrap()
        });
        thread.join().unwrap()
    };
    let guest = start(Lifetime::Detached, Credentials::Inherit);
    for credentials in [Credentials::Inherit, nobody()] {
        let probe = start(Lifetime::WithParent, credentials);
        let exit = tokio::time::timeout(Duration::from_secs(5), probe.exited()).await.unwrap();
        assert!(matches!(exit, Exit::Signal(9)), "{exit:?}");
    }
    assert!(guest.try_exited().is_none());
    guest.kill().unwrap();
    guest.exited().await;
}

const STARTER: &str = "HOSTLER_TEST_STARTER";

/// Not a test: what starts a process in the next one, and is killed.
#[test]
fn a_starter() {
    if std::env::var_os(STARTER).is_none() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut spawn = shell("true", &tempfile::tempfile().unwrap());
    spawn.cgroup_files = vec![rustix::io::dup(std::io::stdin()).unwrap()];
    runtime.block_on(async { spawn.start().unwrap() });
}

/// Who starts anew looks for guests in their groups: none may come into them afterwards.
#[test]
fn a_process_that_is_in_no_group_yet_ends_with_its_starter() {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    rustix::io::ioctl_fionbio(&write, true).unwrap();
    while rustix::io::write(&write, &[b'x'; 4096]).is_ok() {}
    rustix::io::ioctl_fionbio(&write, false).unwrap();
    // It waits for the pipe where others wait for nothing.
    let mut starter = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "process::a_starter", "--nocapture"])
        .env(STARTER, "1")
        .stdin(write)
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let begin = Instant::now();
    while !has_child(starter.id()) {
        assert!(begin.elapsed() < Duration::from_secs(10), "nothing is started");
        std::thread::sleep(Duration::from_millis(1));
    }
    starter.kill().unwrap();
    starter.wait().unwrap();
    let mut all = Vec::new();
    File::from(read).read_to_end(&mut all).unwrap();
    assert!(all.iter().all(|byte| *byte == b'x'), "it has joined its group");
}

fn has_child(pid: u32) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten();
    let children = tasks.map(|task| std::fs::read_to_string(task.path().join("children")));
    children.flatten().any(|children| !children.is_empty())
}
