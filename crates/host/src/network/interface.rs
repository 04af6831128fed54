//! Network interfaces through ioctls: no process is started, so a VM's start does not wait.

use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};

use hostler_types::MacAddress;
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, Result};
use rustix::ioctl::{Opcode, Updater, ioctl};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};

const SIOCGIFFLAGS: Opcode = 0x8913;
const SIOCSIFFLAGS: Opcode = 0x8914;
const SIOCGIFADDR: Opcode = 0x8915;
const SIOCSIFADDR: Opcode = 0x8916;
const SIOCGIFNETMASK: Opcode = 0x891b;
const SIOCSIFNETMASK: Opcode = 0x891c;
const SIOCGIFMTU: Opcode = 0x8921;
const SIOCSIFMTU: Opcode = 0x8922;
const SIOCSIFHWADDR: Opcode = 0x8924;
const SIOCGIFINDEX: Opcode = 0x8933;
const SIOCBRADDBR: Opcode = 0x89a0;
const SIOCBRDELBR: Opcode = 0x89a1;
const SIOCBRADDIF: Opcode = 0x89a2;
const TUNSETIFF: Opcode = 0x4004_54ca;

const IFF_UP: u16 = 0x1;
const IFF_TAP: u16 = 0x2;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;
const AF_INET: u16 = 2;
const ARPHRD_ETHER: u16 = 1;

/// The kernel's `struct ifreq`: a name and 24 bytes that each request reads in its own way.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
struct Request {
    name: [u8; 16],
    data: [u8; 24],
}

impl Request {
    /// Fails for a name that is no interface's: empty, too long, or with a zero byte.
    fn new(interface: &str) -> Result<Self> {
        let bytes = interface.as_bytes();
        if bytes.is_empty() || bytes.len() > 15 || bytes.contains(&0) {
            return Err(Errno::INVAL);
        }
        let mut name = [0; 16];
        name[..bytes.len()].copy_from_slice(bytes);
        Ok(Self { name, data: [0; 24] })
    }

    fn put(mut self, at: usize, bytes: &[u8]) -> Self {
        self.data[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    fn get<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.data[at..at + N]);
        bytes
    }

    fn with_address(self, address: Ipv4Addr) -> Self {
        self.put(0, &AF_INET.to_ne_bytes()).put(4, &address.octets())
    }
}

/// A handle for requests about the interfaces of the network namespace it was opened in.
#[derive(Debug)]
pub(super) struct Interfaces(OwnedFd);

impl Interfaces {
    pub(super) fn open() -> Result<Self> {
        let flags = SocketFlags::CLOEXEC;
        socket_with(AddressFamily::INET, SocketType::DGRAM, flags, None).map(Self)
    }

    pub(super) fn index(&self, interface: &str) -> Result<i32> {
        let request = self.request::<SIOCGIFINDEX>(Request::new(interface)?)?;
        Ok(i32::from_ne_bytes(request.get(0)))
    }

    pub(super) fn exists(&self, interface: &str) -> Result<bool> {
        match self.index(interface) {
            Ok(_) => Ok(true),
            Err(Errno::NODEV) => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(super) fn add_bridge(&self, name: &str) -> Result<()> {
        self.bridge_request::<SIOCBRADDBR>(name)
    }

    /// The bridge must be down.
    pub(super) fn remove_bridge(&self, name: &str) -> Result<()> {
        self.bridge_request::<SIOCBRDELBR>(name)
    }

    pub(super) fn add_port(&self, bridge: &str, port: &str) -> Result<()> {
        let index = self.index(port)?;
        let request = Request::new(bridge)?.put(0, &index.to_ne_bytes());
        self.request::<SIOCBRADDIF>(request).map(drop)
    }

    pub(super) fn set_up(&self, interface: &str, up: bool) -> Result<()> {
        let request = self.request::<SIOCGIFFLAGS>(Request::new(interface)?)?;
        let flags = u16::from_ne_bytes(request.get(0));
        let wanted = if up { flags | IFF_UP } else { flags & !IFF_UP };
        if wanted == flags {
            return Ok(());
        }
        let request = Request::new(interface)?.put(0, &wanted.to_ne_bytes());
        self.request::<SIOCSIFFLAGS>(request).map(drop)
    }

    pub(super) fn mtu(&self, interface: &str) -> Result<i32> {
        let request = self.request::<SIOCGIFMTU>(Request::new(interface)?)?;
        Ok(i32::from_ne_bytes(request.get(0)))
    }

    pub(super) fn set_mtu(&self, interface: &str, mtu: i32) -> Result<()> {
        let request = Request::new(interface)?.put(0, &mtu.to_ne_bytes());
        self.request::<SIOCSIFMTU>(request).map(drop)
    }

    pub(super) fn set_mac(&self, interface: &str, mac: MacAddress) -> Result<()> {
        let request = Request::new(interface)?.put(0, &ARPHRD_ETHER.to_ne_bytes()).put(2, &mac.0);
        self.request::<SIOCSIFHWADDR>(request).map(drop)
    }

    /// The first IPv4 address and its netmask.
    pub(super) fn address(&self, interface: &str) -> Result<Option<(Ipv4Addr, Ipv4Addr)>> {
        let address = |request: Request| Ipv4Addr::from(request.get::<4>(4));
        match self.request::<SIOCGIFADDR>(Request::new(interface)?.with_address(ANY)) {
            Err(Errno::ADDRNOTAVAIL) => Ok(None),
            Err(error) => Err(error),
            Ok(found) => {
                let request = Request::new(interface)?.with_address(ANY);
                let netmask = self.request::<SIOCGIFNETMASK>(request)?;
                Ok(Some((address(found), address(netmask))))
            }
        }
    }

    pub(super) fn set_address(
        &self,
        interface: &str,
        address: Ipv4Addr,
        netmask: Ipv4Addr,
    ) -> Result<()> {
        self.request::<SIOCSIFADDR>(Request::new(interface)?.with_address(address))?;
        self.request::<SIOCSIFNETMASK>(Request::new(interface)?.with_address(netmask)).map(drop)
    }

    #[expect(unsafe_code, reason = "the kernel's interface to network devices")]
    fn request<const OPCODE: Opcode>(&self, mut request: Request) -> Result<Request> {
        // SAFETY: every opcode used here reads and writes one `struct ifreq`, which `Request` is.
        unsafe { ioctl(self.0.as_fd(), Updater::<OPCODE, Request>::new(&mut request))? };
        Ok(request)
    }

    #[expect(unsafe_code, reason = "the kernel's interface to network devices")]
    fn bridge_request<const OPCODE: Opcode>(&self, name: &str) -> Result<()> {
        let mut name = Request::new(name)?.name;
        // SAFETY: both opcodes read a name of 16 bytes.
        unsafe { ioctl(self.0.as_fd(), Updater::<OPCODE, [u8; 16]>::new(&mut name)) }
    }
}

const ANY: Ipv4Addr = Ipv4Addr::UNSPECIFIED;

/// A new tap, gone when the last copy of its descriptor is closed.
#[expect(unsafe_code, reason = "the kernel's interface to taps")]
pub(super) fn open_tap(name: &str) -> Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = rustix::fs::open("/dev/net/tun", flags, Mode::empty())?;
    let kind = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    let mut request = Request::new(name)?.put(0, &kind.to_ne_bytes());
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, which `Request` is.
    unsafe { ioctl(&file, Updater::<TUNSETIFF, Request>::new(&mut request))? };
    Ok(file)
}
