//! Network devices of the calling thread's namespace.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, OwnedFd};

use super::{Result, check, owned};

/// Brings a network interface of the calling thread's namespace up.
pub fn interface_up(name: &[u8]) -> Result<()> {
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
    let socket = call!(libc::SYS_socket, libc::AF_INET, kind, 0).map(owned)?;
    // SAFETY: a zeroed request is valid; the name is shorter than its field.
    unsafe {
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(name) {
            *to = *from as libc::c_char;
        }
        let fd = socket.as_raw_fd();
        check(libc::ioctl(fd, libc::SIOCGIFFLAGS, &raw mut request).into())?;
        request.ifr_ifru.ifru_flags |= libc::IFF_UP as i16;
        check(libc::ioctl(fd, libc::SIOCSIFFLAGS, &raw mut request).into())?;
    }
    Ok(())
}

/// A socket to the kernel's routing tables and devices.
pub fn route_socket() -> Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
    call!(
        libc::SYS_socket,
        libc::AF_NETLINK,
        kind,
        libc::NETLINK_ROUTE
    )
    .map(owned)
}

fn interface(name: &[u8], index: i32, request: libc::c_ulong) -> Result<i32> {
    let kind = libc::SOCK_DGRAM | libc::SOCK_CLOEXEC;
    let socket = call!(libc::SYS_socket, libc::AF_UNIX, kind, 0).map(owned)?;
    // SAFETY: a zeroed request is valid, and lives; the name is cut to its field and its end.
    unsafe {
        let mut data: libc::ifreq = std::mem::zeroed();
        for (to, from) in data.ifr_name.iter_mut().take(15).zip(name) {
            *to = *from as libc::c_char;
        }
        data.ifr_ifru.ifru_ifindex = index;
        check(libc::ioctl(socket.as_raw_fd(), request, &raw mut data).into())?;
        Ok(data.ifr_ifru.ifru_ifindex)
    }
}

/// The number of a network device of the calling thread's namespace.
pub fn interface_index(name: &CStr) -> Result<u32> {
    interface(name.to_bytes(), 0, libc::SIOCGIFINDEX).map(|index| index as u32)
}

/// Whether a network device of the calling thread's namespace is set up.
pub fn interface_is_up(name: &CStr) -> Result<bool> {
    // The flags begin where the index does.
    let flags = interface(name.to_bytes(), 0, libc::SIOCGIFFLAGS)?;
    Ok(flags & libc::IFF_UP != 0)
}

pub fn interface_exists(index: u32) -> bool {
    const SIOCGIFNAME: libc::c_ulong = 0x8910;
    interface(b"", index as i32, SIOCGIFNAME).is_ok()
}
