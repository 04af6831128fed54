//! `longest-write DEVICE OFFSET SECONDS`: writes 4 KiB to one place again and again, past every
//! cache and flushed each time, and prints how often and how long the longest took, in microseconds.
//!
//! For the benchmark, which compiles it into one file that needs no library and runs it in a guest:
//! so it uses the standard library only, and measures by the guest's clock.
#![expect(clippy::print_stdout, reason = "what it measures is its output")]

use std::error::Error;
use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::time::{Duration, Instant};

/// As Linux has them on x86-64; no crate is at hand here.
const O_DIRECT: i32 = 0o40000;
const O_DSYNC: i32 = 0o10000;

/// What `O_DIRECT` takes: memory that begins at a page.
#[repr(align(4096))]
struct Page([u8; 4096]);

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut next = |what: &str| arguments.next().ok_or(format!("{what} is missing"));
    let (device, offset, seconds) = (next("DEVICE")?, next("OFFSET")?, next("SECONDS")?);
    let (offset, seconds): (u64, u64) = (offset.parse()?, seconds.parse()?);
    let device = OpenOptions::new().write(true).custom_flags(O_DIRECT | O_DSYNC).open(device)?;
    let page = Page([7; 4096]);
    let (end, mut longest, mut count) = (Duration::from_secs(seconds), Duration::ZERO, 0u64);
    let begin = Instant::now();
    while begin.elapsed() < end {
        let written = Instant::now();
        device.write_all_at(&page.0, offset)?;
        longest = longest.max(written.elapsed());
        count += 1;
    }
    println!("{count} {}", longest.as_micros());
    Ok(())
}
