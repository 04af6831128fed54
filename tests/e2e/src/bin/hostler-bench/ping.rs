//! Asks a guest of a lab for an echo every 5 ms, from the server's network: how long nobody hears of it.
//!
//! An echo that is lost is not sent again, so that no clock of TCP's is measured instead of the guest.

use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hostler_e2e::Lab;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketType, ipproto};

/// Between two.
const PAUSE: Duration = Duration::from_millis(5);
/// This program's first argument when it is the one that asks.
pub(crate) const ARGUMENT: &str = "ping";

/// Goes on until it is dropped.
pub(crate) struct Pinging {
    child: Child,
    heard: Arc<AtomicU64>,
    /// The longest time without an echo, in microseconds.
    gap: Arc<AtomicU64>,
}

impl Pinging {
    pub(crate) fn begin(lab: &Lab, address: &str) -> Result<Self> {
        let mut command = lab.command_in("net", std::env::current_exe()?);
        command.args([ARGUMENT, address]).stdout(Stdio::piped());
        let mut child = command.spawn().context("start the one that asks")?;
        let output = child.stdout.take().context("its output")?;
        let (heard, gap) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let (counted, longest) = (heard.clone(), gap.clone());
        std::thread::spawn(move || {
            let mut last = None;
            let lines = BufReader::new(output).lines().map_while(std::io::Result::ok);
            for at in lines.filter_map(|line| line.parse::<u64>().ok()) {
                if let Some(last) = last.replace(at) {
                    longest.fetch_max(at - last, Ordering::Relaxed);
                }
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        Ok(Self { child, heard, gap })
    }

    /// Waits for more echoes.
    pub(crate) fn goes_on(&self) -> Result<()> {
        let (begin, before) = (Instant::now(), self.heard.load(Ordering::Relaxed));
        while self.heard.load(Ordering::Relaxed) < before + 100 {
            ensure!(begin.elapsed() < Duration::from_secs(30), "the guest does not answer");
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// The longest time without an echo since this was asked last.
    pub(crate) fn longest_gap(&self) -> Duration {
        Duration::from_micros(self.gap.swap(0, Ordering::Relaxed))
    }
}

impl Drop for Pinging {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks for ever; prints when each echo has come, in microseconds.
pub(crate) fn ask(address: &str) -> Result<()> {
    let to = SocketAddrV4::new(address.parse::<Ipv4Addr>()?, 0);
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::ICMP))?;
    let sending = socket.try_clone()?;
    std::thread::spawn(move || {
        let mut number = 0_u16;
        loop {
            // Nowhere to go while the guest is nowhere.
            let _lost = rustix::net::sendto(&sending, &request(number), SendFlags::empty(), &to);
            number = number.wrapping_add(1);
            std::thread::sleep(PAUSE);
        }
    });
    let (begin, mut bytes) = (Instant::now(), [0_u8; 256]);
    loop {
        let (_, length, from) = rustix::net::recvfrom(&socket, &mut bytes[..], RecvFlags::empty())?;
        let echo = bytes[..length].get(20).is_some_and(|kind| *kind == 0);
        let from = from.and_then(|from| SocketAddrV4::try_from(from).ok());
        if echo && from.is_some_and(|from| from.ip() == to.ip()) {
            println!("{}", begin.elapsed().as_micros());
        }
    }
}

/// ICMP: type 8, its sum, one of ours, a number.
fn request(number: u16) -> [u8; 8] {
    const OURS: u16 = 0x4874;
    let words = [0x0800_u16, OURS, number];
    let sum = words.iter().fold(0_u32, |sum, word| sum + u32::from(*word));
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = !u16::try_from((sum & 0xffff) + (sum >> 16)).unwrap_or(u16::MAX);
    let mut packet = [0; 8];
    for (place, word) in packet.chunks_exact_mut(2).zip([words[0], sum, words[1], words[2]]) {
        place.copy_from_slice(&word.to_be_bytes());
    }
    packet
}
