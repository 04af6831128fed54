//! Live migration on shared storage, in a lab of two hosts: request → the guest runs on the other host, over
//! raw QEMU → QEMU with the same arguments; and how long nobody outside hears of the guest.
//!
//! The raw one has no TLS and nobody who decides: QEMU sends to QEMU, through the same cables.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hostler_e2e::{Lab, tiny_image};
use serde_json::json;

use crate::figure::Figure;
use crate::ping::Pinging;
use crate::raw_qemu::Raw;

/// What is allowed over the raw one, in milliseconds.
const OVER_RAW: f64 = 250.0;
/// The gap seen outside.
const GAP: f64 = 100.0;

/// What the guest does meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Work {
    Idle,
    /// 50 MB/s, again and again over 64 MiB.
    Dirties,
    /// The same as fast as it goes.
    Full,
}

impl Work {
    const ALL: [Self; 3] = [Self::Idle, Self::Dirties, Self::Full];

    const fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Dirties => "50 MB/s dirtier",
            Self::Full => "full-speed dirtier",
        }
    }

    /// A shell's words in the guest. What was written before is not zero, so that it has to be sent.
    fn script(self) -> String {
        let end = "busybox pkill -f dirty.sh; ";
        let fill = "[ -e /tmp/some ] || busybox dd if=/dev/urandom of=/tmp/some bs=1M count=4 2>/dev/null; ";
        let round = "for at in 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15; do \
                     busybox dd if=/tmp/some of=/tmp/dirty bs=4M seek=$at conv=notrunc 2>/dev/null; PAUSE \
                     done";
        let pause = match self {
            Self::Idle => return end.to_owned() + "true",
            // 4 MiB each 84 ms, but for the time that writing takes.
            Self::Dirties => "busybox usleep 70000;",
            Self::Full => "",
        };
        let round = round.replace("PAUSE", pause);
        format!(
            "{end}{fill}echo 'while :; do {round}; done' >/tmp/dirty.sh; \
             busybox sh /tmp/dirty.sh >/dev/null 2>&1 </dev/null & sleep 2"
        )
    }
}

pub(crate) fn measure(runs: usize) -> Result<Vec<Figure>> {
    let own = std::env::current_exe()?;
    let lab = Lab::new("/tmp/hlab-bench", "bench", own.with_file_name("hostler"));
    lab.up(2)?;
    let lab = Ending(lab);
    let measured = measure_in(&lab.0, runs.min(7));
    drop(lab);
    measured
}

/// The lab goes whatever happens.
struct Ending(Lab);

impl Drop for Ending {
    fn drop(&mut self) {
        if let Err(error) = self.0.down() {
            println!("the lab is still there: {error:#}");
        }
    }
}

fn measure_in(lab: &Lab, runs: usize) -> Result<Vec<Figure>> {
    let image = tiny_image().display().to_string();
    lab.ok(&["image", "import", "tiny", &image, "--datastore", "shared"])?;
    let create = ["vm", "create", "web01", "--image", "tiny", "--memory", "512MiB"];
    let place = ["--host", "host1", "--network", "lab", "--set", "address=pool"];
    lab.ok(&[&create[..], &place, &["--restart", "never", "--start", "--wait=guest"]].concat())?;
    let line = command_line(lab, 1)?;
    let mut figures = Vec::new();
    let mut ours = Vec::new();
    for work in Work::ALL {
        ours.push(hosted(lab, work, runs)?);
    }
    lab.ok(&["vm", "stop", "web01", "--power-off"])?;
    for (work, (totals, gaps, told)) in Work::ALL.into_iter().zip(ours) {
        let raw = raw(lab, &line, work, runs.min(3))?;
        let name = work.name();
        let most = median(&raw) + OVER_RAW;
        let total = format!(
            "live migration, {name}: total, at most raw + 250 ms (raw {:.0} ms)",
            median(&raw)
        );
        figures.push(Figure::time(&total, &totals, most));
        figures.push(Figure::time(
            &format!("live migration, {name}: gap seen outside"),
            &gaps,
            GAP,
        ));
        figures.push(Figure::time(
            &format!("live migration, {name}: pause as the task tells it"),
            &told,
            GAP,
        ));
    }
    Ok(figures)
}

type Times = Vec<Duration>;

/// From the command line's start to its end; the gap; the pause as it is told.
fn hosted(lab: &Lab, work: Work, runs: usize) -> Result<(Times, Times, Times)> {
    exec(lab, &work.script())?;
    let pinging = Pinging::begin(lab, &address(lab)?)?;
    let (mut totals, mut gaps, mut told) = (Vec::new(), Vec::new(), Vec::new());
    for run in 0..=runs {
        pinging.goes_on()?;
        pinging.longest_gap();
        let begin = Instant::now();
        lab.ok(&["vm", "migrate", "web01"])?;
        let took = begin.elapsed();
        pinging.goes_on()?;
        // The first warms the caches.
        if run > 0 {
            totals.push(took);
            gaps.push(pinging.longest_gap());
            told.push(told_pause(lab)?);
        }
    }
    Ok((totals, gaps, told))
}

fn exec(lab: &Lab, script: &str) -> Result<String> {
    lab.ok(&["vm", "exec", "web01", "--", "/bin/sh", "-c", script])
}

fn address(lab: &Lab) -> Result<String> {
    let shown = lab.json(&["vm", "show", "web01"])?.to_string();
    let at = shown.find("10.99.0.1").context("the VM has no address of the lab's pool")?;
    let part = |c: &char| c.is_ascii_digit() || *c == '.';
    Ok(shown.get(at..).unwrap_or_default().chars().take_while(part).collect())
}

fn told_pause(lab: &Lab) -> Result<Duration> {
    let tasks = lab.json(&["task", "list"])?.to_string();
    let told = tasks.split("stood still for ").nth(1).and_then(|rest| rest.split(' ').next());
    let pause: f64 = told.context("no task tells the pause")?.parse()?;
    Ok(Duration::from_secs_f64(pause / 1e3))
}

fn command_line(lab: &Lab, host: usize) -> Result<Vec<String>> {
    let pid = *lab.processes_of("qemu-system", host).first().context("no QEMU runs")?;
    let line = std::fs::read(format!("/proc/{pid}/cmdline"))?;
    let text = String::from_utf8_lossy(&line);
    Ok(text.trim_end_matches('\0').split('\0').map(str::to_owned).collect())
}

fn raw(lab: &Lab, line: &[String], work: Work, runs: usize) -> Result<Times> {
    (0..runs).map(|_| raw_once(lab, line, work)).collect()
}

/// From `migrate` until the target runs.
fn raw_once(lab: &Lab, line: &[String], work: Work) -> Result<Duration> {
    let sockets = tempfile::tempdir()?;
    let source = Raw::start(lab, "host1", line, sockets.path(), &[])?;
    source.exec(&work.script())?;
    let incoming = ["-incoming", "tcp:0.0.0.0:9999"];
    let target = Raw::start(lab, "host2", line, sockets.path(), &incoming)?;
    let begin = Instant::now();
    source.monitor.execute(
        "migrate-set-parameters",
        &json!({
            "max-bandwidth": 1_u64 << 50, "downtime-limit": 300,
        }),
    )?;
    source.monitor.execute("migrate", &json!({"uri": "tcp:10.99.0.12:9999"}))?;
    while target.monitor.status()? != "running" {
        ensure!(begin.elapsed() < Duration::from_secs(60), "the raw migration does not end");
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(begin.elapsed())
}

fn median(times: &[Duration]) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
}
