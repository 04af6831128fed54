//! Asks a guest for the proof of its customization: cloud-init's own result, the instance and hash
//! it was told, its name and its addresses.
//!
//! ```text
//!  agent's port opens --> ask --> applied | failed      told, and this task ends
//!                          |  \
//!                 pause <--+   pending (a reason)       told when the reason changes
//! ```
//!
//! cloud-init has no event, so the guest is asked again and again, for a bounded time; after that
//! only the agent's port opening anew (a reboot) begins another round. What the guest says is
//! believed of itself alone: a guest that lies spoils its own status.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use hostler_qmp::guest::{
    ExecRequest, GetHostName, GuestAgent, GuestError, NetworkGetInterfaces, sanitize,
};
use hostler_types::{CustomizationState, GuestOs, Name};
use serde::Deserialize;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use super::actor::Message;
use super::guest::Port;

/// Without an agent for so long, the reason says so.
const AGENTLESS: Duration = Duration::from_secs(10 * 60);
/// From an agent's coming to the last question.
const ROUNDS: Duration = Duration::from_secs(20 * 60);
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(3);
/// How long a name or an address may be missing after cloud-init has ended.
const GRACE: Duration = Duration::from_secs(20);
/// For the guest to collect what is asked.
const ANSWER: Duration = Duration::from_secs(20);
const MAX_OUTPUT: usize = 128 << 10;
const MAX_REASON: usize = 400;

/// What a guest proves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Expected {
    pub(super) run: u32,
    pub(super) os: GuestOs,
    pub(super) instance: String,
    /// Empty: the guest was told none.
    pub(super) hash: String,
    /// Absent: user data of its own may decide.
    pub(super) hostname: Option<Name>,
    pub(super) addresses: Vec<Ipv4Addr>,
}

/// What the actor is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(super) run: u32,
    pub(super) state: CustomizationState,
    pub(super) reason: Option<String>,
}

/// Asks one guest until it has proved or disproved its customization, or its machine ends.
pub(super) async fn prove(
    agent: GuestAgent,
    mut port: watch::Receiver<Port>,
    actor: mpsc::Sender<Message>,
    expected: Expected,
) {
    let begin = Instant::now();
    let mut teller = Teller { actor, run: expected.run, told: None };
    loop {
        if port.borrow_and_update().open == Some(false) {
            let left = AGENTLESS.saturating_sub(begin.elapsed());
            tokio::select! {
                changed = port.changed() => if changed.is_err() { return },
                () = sleep(left), if !left.is_zero() => {
                    let minutes = AGENTLESS.as_secs() / 60;
                    teller.pending(format!("no guest agent has answered for {minutes} min")).await;
                }
            }
            continue;
        }
        let Some(last) = rounds(&agent, &mut port, &mut teller, &expected).await else { return };
        if let Some(reason) = last {
            let minutes = ROUNDS.as_secs() / 60;
            teller.pending(format!("not proved within {minutes} min: {reason}")).await;
            if port.changed().await.is_err() {
                return;
            }
        }
    }
}

/// Asks while the port is open. `None`: it is over; `Some(Some(_))`: the time is.
async fn rounds(
    agent: &GuestAgent,
    port: &mut watch::Receiver<Port>,
    teller: &mut Teller,
    expected: &Expected,
) -> Option<Option<String>> {
    let begin = Instant::now();
    let mut pause = FIRST_PAUSE;
    let mut odd_since = None;
    loop {
        let reason = match ask(agent, expected).await {
            Finding::Applied => {
                teller.tell(CustomizationState::Applied, None).await;
                return None;
            }
            Finding::Failed(reason) => {
                teller.tell(CustomizationState::Failed, Some(reason)).await;
                return None;
            }
            Finding::Odd(reason) => {
                if odd_since.get_or_insert_with(Instant::now).elapsed() > GRACE {
                    teller.tell(CustomizationState::Failed, Some(reason)).await;
                    return None;
                }
                reason
            }
            Finding::Pending(reason) => reason,
        };
        teller.pending(reason.clone()).await;
        if begin.elapsed() > ROUNDS {
            return Some(Some(reason));
        }
        tokio::select! {
            changed = port.changed() => match changed {
                Err(_) => return None,
                Ok(()) if port.borrow_and_update().open == Some(false) => return Some(None),
                Ok(()) => {}
            },
            () = sleep(pause) => {}
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

struct Teller {
    actor: mpsc::Sender<Message>,
    run: u32,
    told: Option<String>,
}

impl Teller {
    async fn pending(&mut self, reason: String) {
        if self.told.as_ref() != Some(&reason) {
            self.told = Some(reason.clone());
            self.tell(CustomizationState::Pending, Some(reason)).await;
        }
    }

    async fn tell(&self, state: CustomizationState, reason: Option<String>) {
        let verdict = Verdict { run: self.run, state, reason };
        let _ = self.actor.send(Message::Customization(verdict)).await;
    }
}

/// What one question brought.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Finding {
    Applied,
    Failed(String),
    /// All is done, but not as told; it may need a moment.
    Odd(String),
    Pending(String),
}

/// Prints what is asked, part by part. `head` bounds each.
const QUESTION: &str = r#"PATH=/usr/sbin:/usr/bin:/sbin:/bin
for file in /run/cloud-init/result.json /run/cloud-init/status.json /var/lib/cloud/data/instance-id /var/lib/hostler/customization-failed; do
  echo "--- ${file##*/}"
  [ ! -f "$file" ] || head -c 16384 "$file"
  echo
done
echo '--- hash'
grep -o '"hostler-hash": *"[0-9a-f]*"' /run/cloud-init/instance-data.json 2>/dev/null | head -n 1
"#;

/// Where the script that Cloudbase-Init runs leaves its result.
const WINDOWS_RESULT: &str = r"C:\ProgramData\hostler\customization.json";

async fn ask(agent: &GuestAgent, expected: &Expected) -> Finding {
    let request = match expected.os {
        GuestOs::Linux => ExecRequest::new("/bin/sh").arg("-c").arg(QUESTION),
        GuestOs::Windows => ExecRequest::new("cmd.exe").args(["/c", "type", WINDOWS_RESULT]),
    };
    let output = match agent.exec(request.within(ANSWER).max_output(MAX_OUTPUT)).await {
        Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
        Err(error) => return Finding::Pending(unheard(&error)),
    };
    let finding = match expected.os {
        GuestOs::Linux => Evidence::of(&output).judge(expected),
        GuestOs::Windows => judge_windows(&output, expected),
    };
    if finding != Finding::Applied {
        return finding;
    }
    match compare(agent, expected).await {
        Ok(()) => Finding::Applied,
        Err(reason) => Finding::Odd(reason),
    }
}

/// Why there is no answer, in words that stay the same from one question to the next.
fn unheard(error: &GuestError) -> String {
    match error {
        GuestError::Refused { .. } => {
            "the guest agent runs no commands, so nothing can be proved".to_owned()
        }
        GuestError::Unresponsive { .. } | GuestError::Timeout { .. } | GuestError::Closed => {
            "the guest agent does not answer".to_owned()
        }
        error => sanitize(&error.to_string(), MAX_REASON),
    }
}

/// Name and addresses, as the guest's system has them.
async fn compare(agent: &GuestAgent, expected: &Expected) -> Result<(), String> {
    if let Some(wanted) = &expected.hostname {
        let found = agent.execute(GetHostName).await.ok();
        let found = found.as_ref().and_then(|found| found.host_name.as_host_name());
        let label = found.and_then(|name| name.split('.').next());
        if label.is_none_or(|label| !label.eq_ignore_ascii_case(wanted.as_str())) {
            let found = found.unwrap_or("nothing");
            return Err(format!("the guest is called {found}, not {wanted}"));
        }
    }
    if expected.addresses.is_empty() {
        return Ok(());
    }
    let interfaces = agent.execute(NetworkGetInterfaces).await;
    let interfaces = interfaces.map_err(|_| "the guest does not tell its addresses".to_owned())?;
    let found: Vec<IpAddr> = (interfaces.iter())
        .flat_map(|interface| &interface.ip_addresses)
        .map(|address| address.address)
        .collect();
    match expected.addresses.iter().find(|wanted| !found.contains(&IpAddr::V4(**wanted))) {
        Some(missing) => Err(format!("the guest does not have the address {missing}")),
        None => Ok(()),
    }
}

/// What a Linux guest printed.
#[derive(Debug, Default)]
struct Evidence<'a> {
    result: &'a str,
    status: &'a str,
    instance: &'a str,
    failure: &'a str,
    hash: &'a str,
}

/// Of cloud-init's `result.json` and `status.json`.
#[derive(Debug, Deserialize)]
struct Document<T> {
    v1: T,
}
#[derive(Debug, Deserialize)]
struct CloudResult {
    #[serde(default)]
    datasource: Option<String>,
    #[serde(default)]
    errors: Vec<String>,
}
#[derive(Debug, Deserialize)]
struct CloudStatus {
    #[serde(default)]
    stage: Option<String>,
}

impl<'a> Evidence<'a> {
    fn of(text: &'a str) -> Self {
        let mut evidence = Self::default();
        for part in text.split("--- ").skip(1) {
            let Some((name, content)) = part.split_once('\n') else { continue };
            let content = content.trim();
            match name.trim() {
                "result.json" => evidence.result = content,
                "status.json" => evidence.status = content,
                "instance-id" => evidence.instance = content,
                "customization-failed" => evidence.failure = content,
                "hash" => {
                    evidence.hash =
                        content.trim_end_matches('"').rsplit('"').next().unwrap_or_default();
                }
                _ => {}
            }
        }
        evidence
    }

    fn judge(&self, expected: &Expected) -> Finding {
        if self.result.is_empty() {
            let status = serde_json::from_str::<Document<CloudStatus>>(self.status);
            return Finding::Pending(match status {
                Ok(Document { v1: CloudStatus { stage: Some(stage) } }) => {
                    format!("cloud-init is at work ({})", sanitize(&stage, 40))
                }
                Ok(_) => "cloud-init is at work".to_owned(),
                Err(_) => "the guest shows nothing of cloud-init".to_owned(),
            });
        }
        let Ok(Document { v1: result }) =
            serde_json::from_str::<Document<CloudResult>>(self.result)
        else {
            return Finding::Failed("cloud-init's result cannot be understood".to_owned());
        };
        let datasource = result.datasource.unwrap_or_default();
        if datasource.contains("DataSourceNone") {
            return Finding::Failed("cloud-init has found no seed".to_owned());
        }
        if self.instance != expected.instance {
            return Finding::Pending(format!(
                "the guest still is what it was told before (instance {}); it is told anew when it is started the next time",
                sanitize(self.instance, 64)
            ));
        }
        if let Some(error) = result.errors.first() {
            let words = if self.failure.is_empty() { error } else { self.failure };
            return Finding::Failed(sanitize(words, MAX_REASON));
        }
        if !self.failure.is_empty() {
            return Finding::Failed(sanitize(self.failure, MAX_REASON));
        }
        if self.hash != expected.hash {
            return Finding::Pending(format!(
                "the guest was told something else (hash {}) than what is asked for now",
                sanitize(self.hash, 64)
            ));
        }
        Finding::Applied
    }
}

/// What the script of the config drive leaves.
#[derive(Debug, Deserialize)]
struct WindowsResult {
    hash: String,
    instance: String,
    error: Option<String>,
}

fn judge_windows(output: &str, expected: &Expected) -> Finding {
    let text = output.trim_start_matches('\u{feff}');
    let Ok(result) = serde_json::from_str::<WindowsResult>(text) else {
        return Finding::Pending("Cloudbase-Init has left no result".to_owned());
    };
    if result.instance != expected.instance || result.hash != expected.hash {
        return Finding::Pending("the guest still is what it was told before".to_owned());
    }
    match result.error {
        Some(error) => Finding::Failed(sanitize(&error, MAX_REASON)),
        None => Finding::Applied,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected() -> Expected {
        Expected {
            run: 1,
            os: GuestOs::Linux,
            instance: "vm-1".to_owned(),
            hash: "c0ffee".to_owned(),
            hostname: Some("web01".parse().unwrap()),
            addresses: Vec::new(),
        }
    }

    const GOOD: &str =
        r#"{"v1": {"datasource": "DataSourceNoCloud [seed=/dev/vdb]", "errors": []}}"#;

    fn output(result: &str, instance: &str, failure: &str, hash: &str) -> String {
        let status = r#"{"v1": {"stage": "modules-final"}}"#;
        format!(
            "--- result.json\n{result}\n--- status.json\n{status}\n--- instance-id\n{instance}\n\n\
             --- customization-failed\n{failure}\n--- hash\n\"hostler-hash\": \"{hash}\"\n"
        )
    }

    fn judge(text: &str) -> Finding {
        Evidence::of(text).judge(&expected())
    }

    #[test]
    fn only_the_whole_proof_counts() {
        assert_eq!(judge(&output(GOOD, "vm-1", "", "c0ffee")), Finding::Applied);
        let pending = |text: &str, words: &str| match judge(text) {
            Finding::Pending(reason) => assert!(reason.contains(words), "{reason}"),
            finding => panic!("{text}: {finding:?}"),
        };
        pending(&output("", "vm-1", "", "c0ffee"), "modules-final");
        pending(&output(GOOD, "vm-0", "", "c0ffee"), "instance vm-0");
        pending(&output(GOOD, "vm-1", "", "beef"), "hash beef");
        pending(&output(GOOD, "vm-1", "", ""), "hash");
        pending("", "nothing of cloud-init");
        pending("--- ", "nothing of cloud-init");
    }

    #[test]
    fn a_failure_carries_the_guests_reason() {
        let failed = |text: &str, words: &str| match judge(text) {
            Finding::Failed(reason) => {
                assert!(reason.contains(words), "{reason}");
                assert!(reason.chars().count() <= MAX_REASON && !reason.contains('\u{1b}'));
            }
            finding => panic!("{text}: {finding:?}"),
        };
        let bad = r#"{"v1": {"datasource": "DataSourceNoCloud", "errors": ["('scripts_user', RuntimeError('1 failure'))"]}}"#;
        failed(&output(bad, "vm-1", "", "c0ffee"), "scripts_user");
        let words = "run-once command 2 failed with exit code 3: \u{1b}[31mno such thing";
        failed(&output(bad, "vm-1", words, "c0ffee"), "no such thing");
        failed(&output(GOOD, "vm-1", words, "c0ffee"), "command 2");
        failed(&output(bad, "vm-1", &"x".repeat(9000), "c0ffee"), "xxx");
        failed(&output("[]", "vm-1", "", "c0ffee"), "understood");
        failed(&output(&GOOD.replace("NoCloud", "None"), "", "", ""), "no seed");
    }

    #[test]
    fn windows_tells_in_one_file() {
        let check = |text: &str, applied: bool| {
            assert_eq!(judge_windows(text, &expected()) == Finding::Applied, applied, "{text}");
        };
        check(r#"{"hash":"c0ffee","instance":"vm-1","error":null}"#, true);
        check(r#"{"hash":"c0ffee","instance":"vm-1","error":"no"}"#, false);
        check(r#"{"hash":"c0ffee","instance":"vm-0","error":null}"#, false);
        check("The system cannot find the file specified.", false);
    }
}
