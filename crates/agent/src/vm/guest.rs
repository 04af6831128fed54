//! Asks a running guest's agent what the guest is, and tells the VM's actor when that changes.
//!
//! QEMU says when the guest's agent opens or closes its port, and when a NIC's filter changes; the
//! agent has no event for a new address, so it is also asked from time to time: every few seconds
//! while the guest boots, then rarely. A hanging agent blocks nobody: this task is its only victim.

use std::net::IpAddr;
use std::time::Duration;

use hostler_qmp::guest::{
    ExecRequest, GetHostName, GetOsinfo, GetVcpus, GuestAgent, GuestError, NetworkGetInterfaces,
    NetworkInterface,
};
use hostler_types::{ByteSize, GuestNic, GuestReport, MacAddress};
use jiff::Timestamp;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::actor::Message;

/// At first a guest is asked this often …
const SOON: Duration = Duration::from_secs(3);
/// … for this long after its agent came …
const FRESH: Duration = Duration::from_secs(120);
/// … then this often.
const SELDOM: Duration = Duration::from_secs(30);
/// An answer to a ping.
const ANSWER: Duration = Duration::from_secs(5);
const MAX_ADDRESSES: usize = 64;
/// What of `/proc/meminfo` is read, in bytes.
const MEMINFO: usize = 16 << 10;

/// What QEMU says of the agent's port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Port {
    /// Whether a program in the guest has it open; `None`: not known (found again after a restart).
    pub(crate) open: Option<bool>,
    /// Grows when something suggests that addresses have changed.
    pub(crate) hints: u64,
    /// The guest is an instant clone that is not yet a machine of its own: all it would say of
    /// itself is the other one's, and it has better things to do.
    pub(crate) becoming: bool,
}

/// Watches one guest until its port's owner (the actor) goes away. A guest that goes on in another
/// process (`report` says that it answers, and its port is open) is not asked at once what it said
/// just now. `first` hears of the first answer.
pub(crate) async fn watch_guest(
    agent: GuestAgent,
    mut port: watch::Receiver<Port>,
    actor: mpsc::Sender<Message>,
    mut report: Option<GuestReport>,
    first: oneshot::Sender<()>,
) {
    let mut first = Some(first);
    let mut came = Instant::now();
    let mut answered = false;
    if port.borrow_and_update().open == Some(true) && report.as_ref().is_some_and(|r| r.agent) {
        answered = true;
        tokio::select! {
            changed = port.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(SOON) => {}
        }
    }
    loop {
        let Port { open, becoming, .. } = *port.borrow_and_update();
        let asked = Instant::now();
        if open == Some(false) {
            answered = false;
            report = tell(&actor, asked, report, None).await;
            if port.changed().await.is_err() {
                return;
            }
            came = Instant::now();
            continue;
        }
        let read = if becoming { ping(&agent).await } else { read(&agent).await };
        if read.is_some() && !answered {
            came = Instant::now();
        }
        answered = read.is_some();
        report = tell(&actor, asked, report, read).await;
        if answered {
            first.take().map(|first| first.send(()));
        }
        let pause = if came.elapsed() < FRESH { SOON } else { SELDOM };
        tokio::select! {
            changed = port.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// What one round of questions brought.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Answers {
    hostname: Option<String>,
    os: Option<String>,
    kernel: Option<String>,
    /// `None`: the guest did not say.
    addresses: Option<Vec<IpAddr>>,
    nics: Option<Vec<GuestNic>>,
    cpus: Option<u32>,
    memory: Option<ByteSize>,
}

/// What the guest says now, in place of what it said before; for those who cannot wait for the
/// watcher's next round.
pub(super) async fn ask(agent: &GuestAgent, before: Option<GuestReport>) -> Option<GuestReport> {
    let answers = read(agent).await;
    merge(before.as_ref(), answers, Timestamp::now())
}

/// Whether there is somebody to ask.
async fn ping(agent: &GuestAgent) -> Option<Answers> {
    agent.answers(ANSWER).await.ok()?;
    Some(Answers::default())
}

async fn read(agent: &GuestAgent) -> Option<Answers> {
    ping(agent).await?;
    let hostname = agent.execute(GetHostName).await;
    let os = agent.execute(GetOsinfo).await;
    let interfaces = agent.execute(NetworkGetInterfaces).await;
    for error in [hostname.as_ref().err(), os.as_ref().err(), interfaces.as_ref().err()] {
        if let Some(error @ (GuestError::Closed | GuestError::Io(_))) = error {
            tracing::debug!(%error, "the guest agent's channel is gone");
            return None;
        }
    }
    let os = os.ok();
    let nics = interfaces.as_ref().ok().map(|interfaces| {
        let nic = |interface: &NetworkInterface| {
            // The guest may claim one that is none.
            let mac = MacAddress(interface.hardware_address?).to_string().parse().ok()?;
            Some(GuestNic { name: interface.name.to_string(), mac })
        };
        let real = interfaces.iter().filter(|interface| &*interface.name != "lo");
        real.filter_map(nic).take(MAX_ADDRESSES).collect()
    });
    let addresses = interfaces.ok().map(|interfaces| {
        let addresses = interfaces.iter().flat_map(|interface| &interface.ip_addresses);
        addresses.map(|address| address.address).filter(is_shown).take(MAX_ADDRESSES).collect()
    });
    Some(Answers {
        hostname: hostname.ok().and_then(|name| name.host_name.as_host_name().map(str::to_owned)),
        os: os.as_ref().and_then(|os| {
            let name = os.pretty_name.as_ref().or(os.name.as_ref());
            name.map(|name| name.to_string())
        }),
        kernel: os.and_then(|os| os.kernel_release).map(|kernel| kernel.into_string()),
        addresses,
        nics,
        cpus: cpus(agent).await,
        memory: memory(agent).await,
    })
}

async fn cpus(agent: &GuestAgent) -> Option<u32> {
    let vcpus = agent.execute(GetVcpus).await.ok()?;
    u32::try_from(vcpus.iter().filter(|vcpu| vcpu.online).count()).ok()
}

/// What a Linux has to give; no agent has a question for it.
async fn memory(agent: &GuestAgent) -> Option<ByteSize> {
    let request = ExecRequest::new("/bin/cat").arg("/proc/meminfo").within(ANSWER);
    let output = agent.exec(request.max_output(MEMINFO)).await.ok()?;
    total_memory(&String::from_utf8_lossy(&output.stdout))
}

/// The first line of `/proc/meminfo`: `MemTotal:  221320 kB`.
fn total_memory(meminfo: &str) -> Option<ByteSize> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1 << 10).map(ByteSize)
}

/// Tells the actor if there is news; what it knows now.
async fn tell(
    actor: &mpsc::Sender<Message>,
    asked: Instant,
    before: Option<GuestReport>,
    answers: Option<Answers>,
) -> Option<GuestReport> {
    let now = merge(before.as_ref(), answers, Timestamp::now());
    if now != before
        && let Some(now) = &now
    {
        let _ = actor.send(Message::Guest { asked, report: now.clone() }).await;
    }
    now
}

/// The report after a round. What the guest once said stays until it says otherwise; the time
/// changes only when the agent begins or ceases to answer.
fn merge(
    before: Option<&GuestReport>,
    answers: Option<Answers>,
    now: Timestamp,
) -> Option<GuestReport> {
    let Some(answers) = answers else {
        let before = before?;
        let since = if before.agent { now } else { before.since };
        return Some(GuestReport { agent: false, since, ..before.clone() });
    };
    let since = before.filter(|before| before.agent).map_or(now, |before| before.since);
    let old = before.cloned();
    let mut addresses =
        answers.addresses.or(old.as_ref().map(|old| old.addresses.clone())).unwrap_or_default();
    addresses.sort();
    addresses.dedup();
    Some(GuestReport {
        agent: true,
        since,
        hostname: answers.hostname.or(old.as_ref().and_then(|old| old.hostname.clone())),
        os: answers.os.or(old.as_ref().and_then(|old| old.os.clone())),
        kernel: answers.kernel.or(old.as_ref().and_then(|old| old.kernel.clone())),
        addresses,
        cpus: answers.cpus.or(old.as_ref().and_then(|old| old.cpus)),
        memory: answers.memory.or(old.as_ref().and_then(|old| old.memory)),
        nics: answers.nics.or(old.map(|old| old.nics)).unwrap_or_default(),
    })
}

fn is_shown(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            !v4.is_loopback() && !v4.is_link_local() && !v4.is_unspecified() && !v4.is_multicast()
        }
        IpAddr::V6(v6) => {
            !v6.is_loopback()
                && !v6.is_unicast_link_local()
                && !v6.is_unspecified()
                && !v6.is_multicast()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(hostname: &str, addresses: &[&str]) -> Answers {
        Answers {
            cpus: None,
            memory: None,
            nics: None,
            hostname: Some(hostname.to_owned()),
            os: None,
            kernel: None,
            addresses: Some(addresses.iter().map(|a| a.parse().unwrap()).collect()),
        }
    }

    #[test]
    fn since_changes_only_with_the_agent() {
        let second = |n| Timestamp::from_second(n).unwrap();
        let first = merge(None, Some(answers("a", &["10.0.0.2"])), second(1)).unwrap();
        assert!(first.agent && first.since == second(1));
        let renamed = merge(Some(&first), Some(answers("b", &[])), second(2)).unwrap();
        assert_eq!((renamed.since, renamed.hostname.as_deref()), (second(1), Some("b")));
        let gone = merge(Some(&renamed), None, second(3)).unwrap();
        assert!(!gone.agent && gone.since == second(3));
        assert_eq!(gone.hostname.as_deref(), Some("b"), "what was known stays");
        assert_eq!(merge(Some(&gone), None, second(4)), Some(gone));
        assert_eq!(merge(None, None, second(1)), None);
    }

    /// A guest agent that answers the synchronisation as it must, and then whatever `answer` says.
    async fn fake_guest(stream: tokio::net::UnixStream, answer: impl Fn(&str) -> Vec<u8>) {
        use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
        let (output, mut input) = stream.into_split();
        let mut lines = BufReader::new(output).split(b'\n');
        while let Ok(Some(line)) = lines.next_segment().await {
            let line: Vec<u8> = line.into_iter().filter(|byte| *byte != 0xff).collect();
            let Ok(request) = serde_json::from_slice::<serde_json::Value>(&line) else { continue };
            let command = request["execute"].as_str().unwrap_or_default();
            let bytes = match command {
                "guest-sync-delimited" => {
                    let id = &request["arguments"]["id"];
                    [b"\xff".as_slice(), format!("{{\"return\":{id}}}\n").as_bytes()].concat()
                }
                command => answer(command),
            };
            if input.write_all(&bytes).await.is_err() {
                return;
            }
        }
    }

    async fn watch(answer: impl Fn(&str) -> Vec<u8> + Send + 'static) -> Option<GuestReport> {
        watch_as(false, answer).await
    }

    async fn watch_as(
        becoming: bool,
        answer: impl Fn(&str) -> Vec<u8> + Send + 'static,
    ) -> Option<GuestReport> {
        let (near, far) = tokio::net::UnixStream::pair().unwrap();
        let guest = tokio::spawn(async move { fake_guest(far, answer).await });
        let options = hostler_qmp::guest::GuestOptions {
            command_timeout: Duration::from_millis(500),
            max_line: 64 << 10,
        };
        let agent = GuestAgent::new(near, options);
        let (_port, seen) = watch::channel(Port { open: Some(true), hints: 0, becoming });
        let (actor, mut messages) = mpsc::channel(4);
        let watching = tokio::spawn(watch_guest(agent, seen, actor, None, oneshot::channel().0));
        let heard = tokio::time::timeout(Duration::from_secs(4), messages.recv()).await;
        watching.abort();
        guest.abort();
        match heard.ok().flatten() {
            Some(Message::Guest { report, .. }) => Some(report),
            _ => None,
        }
    }

    #[tokio::test]
    async fn a_hostile_guest_says_nothing_that_harms() {
        let ansi = r#"{"return":{"host-name":"\u001b]0;owned\u0007<script>x"}}"#;
        let report = watch(move |command| match command {
            "guest-get-host-name" => format!("{ansi}\n").into_bytes(),
            "guest-get-osinfo" => {
                b"{\"return\":{\"pretty-name\":\"\\u001b[2JDebian\\u202e\"}}\n".to_vec()
            }
            "guest-network-get-interfaces" => vec![b'x'; 1 << 20],
            _ => b"{\"return\":{}}\n".to_vec(),
        });
        let report = report.await.unwrap();
        assert_eq!(report.hostname, None, "not a host name");
        assert_eq!(report.os.as_deref(), Some("Debian"));
        assert_eq!(report.addresses, Vec::<IpAddr>::new());
    }

    #[tokio::test]
    async fn a_clone_that_is_not_itself_yet_is_not_asked_who_it_is() {
        let parent = |command: &str| match command {
            "guest-ping" => b"{\"return\":{}}\n".to_vec(),
            "guest-get-host-name" => b"{\"return\":{\"host-name\":\"parent\"}}\n".to_vec(),
            _ => b"{\"return\":[]}\n".to_vec(),
        };
        let report = watch_as(true, parent).await.unwrap();
        assert_eq!((report.agent, report.hostname), (true, None));
        let report = watch_as(false, parent).await.unwrap();
        assert_eq!(report.hostname.as_deref(), Some("parent"));
    }

    #[tokio::test]
    async fn a_babbling_guest_is_not_believed() {
        // That somebody is there is all that its answer to the greeting says.
        let babbling = watch(|_| vec![b'['; 256 << 10]).await.unwrap();
        let hanging = watch(|_| Vec::new()).await.unwrap();
        for report in [babbling, hanging] {
            assert_eq!((&report.hostname, &report.os, report.cpus), (&None, &None, None));
            assert!(report.agent && report.addresses.is_empty() && report.nics.is_empty());
        }
    }

    #[test]
    fn only_addresses_of_use_are_shown() {
        let check = |text: &str, shown| {
            assert_eq!(is_shown(&text.parse().unwrap()), shown, "{text}");
        };
        check("10.0.0.2", true);
        check("fd00::2", true);
        for hidden in ["127.0.0.1", "169.254.1.1", "::1", "fe80::1", "0.0.0.0", "ff02::1"] {
            check(hidden, false);
        }
    }
}
