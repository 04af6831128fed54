//! The one thing about an interface that no ioctl does: to take it off its bridge without knowing which
//! that is. So it is asked over rtnetlink, with one message of 40 bytes; `/sys`, which knows the bridge,
//! may be that of another network namespace. A crate for it would bring an event loop along.

use rustix::io::{Errno, Result};
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto, socket_with,
};

const RTM_SETLINK: u16 = 19;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const NLM_F_ACK: u16 = 4;
const IFLA_MASTER: u16 = 10;

/// The kernel's `struct nlmsghdr`.
const HEADER: usize = 16;
/// With a `struct ifinfomsg` of 16 bytes and an attribute of 8.
const LENGTH: usize = HEADER + 16 + 8;

/// Takes an interface off its bridge, or whatever else it belongs to. Fine if it belongs to nothing.
///
/// # Errors
/// The kernel's.
pub(super) fn leave_bridge(index: i32) -> Result<()> {
    // The protocol with the number 0 is NETLINK_ROUTE.
    let flags = SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
    // To the kernel, which has answered when this returns.
    sendto(&socket, &request(index), SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
    let mut answer = [0; 256];
    let (length, _) = recv(&socket, &mut answer[..], RecvFlags::DONTWAIT)?;
    outcome(&answer[..length])
}

fn request(index: i32) -> [u8; LENGTH] {
    let mut message = Vec::with_capacity(LENGTH);
    message.extend(u32::try_from(LENGTH).unwrap_or_default().to_ne_bytes());
    message.extend(RTM_SETLINK.to_ne_bytes());
    message.extend((NLM_F_REQUEST | NLM_F_ACK).to_ne_bytes());
    // A sequence number and a port, which are for who asks several things.
    message.extend([0; 8]);
    // Address family and type of hardware: unspecified.
    message.extend([0; 4]);
    message.extend(index.to_ne_bytes());
    // No flags change.
    message.extend([0; 8]);
    message.extend(8_u16.to_ne_bytes());
    message.extend(IFLA_MASTER.to_ne_bytes());
    // The interface with this index: none.
    message.extend(0_u32.to_ne_bytes());
    message.try_into().expect("it is as long as its parts")
}

/// What the kernel's acknowledgement says.
fn outcome(answer: &[u8]) -> Result<()> {
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    let code = answer.get(HEADER..HEADER + 4).and_then(|bytes| bytes.try_into().ok());
    match (kind, code.map(i32::from_ne_bytes)) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(code)) => Err(Errno::from_raw_os_error(code.wrapping_neg())),
        _ => Err(Errno::PROTO),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_is_asked_and_heard() {
        let message = request(7);
        assert_eq!(message[..4], 40_u32.to_ne_bytes());
        assert_eq!(message[20..24], 7_i32.to_ne_bytes());
        // No interface has this index.
        assert_eq!(leave_bridge(i32::MAX), Err(Errno::NODEV));
        assert_eq!(outcome(&[0; 40]), Err(Errno::PROTO));
        assert_eq!(outcome(&[]), Err(Errno::PROTO));
    }
}
