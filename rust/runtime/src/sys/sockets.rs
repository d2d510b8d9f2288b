//! Sockets that pass messages and descriptors.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use super::{Errno, Result, check, owned};

/// Waits until `fd` has something to read, or the time is over (`None`: for ever).
pub fn poll_in(fd: RawFd, timeout_ms: Option<i32>) -> Result<bool> {
    let mut poll = libc::pollfd {
        fd,
        events: libc::POLLIN,
        revents: 0,
    };
    loop {
        // SAFETY: one live structure.
        match check(unsafe { libc::poll(&raw mut poll, 1, timeout_ms.unwrap_or(-1)) }.into()) {
            Ok(n) => return Ok(n > 0),
            Err(Errno(libc::EINTR)) => {}
            Err(e) => return Err(e),
        }
    }
}

/// A pair of connected sockets that keep message boundaries.
pub fn socket_pair() -> Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: room for two descriptors.
    check(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) }.into())?;
    Ok((owned(fds[0].into()), owned(fds[1].into())))
}

/// Makes receiving fail with `EAGAIN` when nothing comes for so long.
pub fn limit_receiving(socket: RawFd, limit: std::time::Duration) -> Result<()> {
    let time = libc::timeval {
        tv_sec: limit.as_secs() as libc::time_t,
        tv_usec: limit.subsec_micros().into(),
    };
    let size = std::mem::size_of_val(&time) as libc::socklen_t;
    let level = libc::SOL_SOCKET;
    let time = (&raw const time).cast();
    // SAFETY: the option takes a timeval, which lives through the call.
    check(unsafe { libc::setsockopt(socket, level, libc::SO_RCVTIMEO, time, size) }.into())
        .map(drop)
}

const CONTROL: usize = 64;

/// Sends a message, with a descriptor if there is one.
pub fn send(socket: RawFd, data: &[u8], fd: Option<RawFd>) -> Result<()> {
    let mut iov = libc::iovec {
        iov_base: data.as_ptr().cast_mut().cast(),
        iov_len: data.len(),
    };
    let mut control = [0_u64; CONTROL / 8];
    // SAFETY: a zeroed header is valid; it is filled in below.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut iov;
    header.msg_iovlen = 1;
    if let Some(fd) = fd {
        header.msg_control = control.as_mut_ptr().cast();
        // SAFETY: the control buffer is aligned and larger than one descriptor's message.
        unsafe {
            header.msg_controllen = libc::CMSG_SPACE(4) as _;
            let message = libc::CMSG_FIRSTHDR(&raw const header);
            (*message).cmsg_level = libc::SOL_SOCKET;
            (*message).cmsg_type = libc::SCM_RIGHTS;
            (*message).cmsg_len = libc::CMSG_LEN(4) as _;
            libc::CMSG_DATA(message).cast::<RawFd>().write_unaligned(fd);
        }
    }
    call!(
        libc::SYS_sendmsg,
        socket,
        &raw const header,
        libc::MSG_NOSIGNAL
    )
    .map(drop)
}

/// Receives a message (length 0: the other side is gone) and a descriptor that came with it.
pub fn receive(socket: RawFd, data: &mut [u8]) -> Result<(usize, Option<OwnedFd>)> {
    let mut iov = libc::iovec {
        iov_base: data.as_mut_ptr().cast(),
        iov_len: data.len(),
    };
    let mut control = [0_u64; CONTROL / 8];
    // SAFETY: a zeroed header is valid; it is filled in below.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = &raw mut iov;
    header.msg_iovlen = 1;
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = CONTROL as _;
    let flags = libc::MSG_CMSG_CLOEXEC;
    let length = loop {
        match call!(libc::SYS_recvmsg, socket, &raw mut header, flags) {
            Ok(n) => break n as usize,
            Err(Errno(libc::EINTR)) => {}
            Err(e) => return Err(e),
        }
    };
    // SAFETY: the kernel filled the control buffer; a rights message holds descriptors that are ours.
    let fd = unsafe {
        let message = libc::CMSG_FIRSTHDR(&raw const header);
        if !message.is_null()
            && (*message).cmsg_type == libc::SCM_RIGHTS
            && (*message).cmsg_len as usize >= libc::CMSG_LEN(4) as usize
        {
            let fd = libc::CMSG_DATA(message).cast::<RawFd>().read_unaligned();
            Some(OwnedFd::from_raw_fd(fd))
        } else {
            None
        }
    };
    Ok((length, fd))
}

pub fn accept(socket: RawFd) -> Result<OwnedFd> {
    let null = std::ptr::null::<u8>();
    loop {
        match call!(libc::SYS_accept4, socket, null, null, libc::SOCK_CLOEXEC) {
            Ok(fd) => return Ok(owned(fd)),
            Err(Errno(libc::EINTR | libc::ECONNABORTED)) => {}
            Err(e) => return Err(e),
        }
    }
}
