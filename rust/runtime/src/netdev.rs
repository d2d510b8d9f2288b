//! Network devices of the runtime's namespace that the container gets (`linux.netDevices`).
//!
//! The maker moves a device when the new process, in its namespace already, has said under which index;
//! that process then gives it back its addresses, which a move takes, and sets it up. What it sends was
//! prepared: it allocates nothing.
//!
//! A device goes into a namespace that is not this process's own only, and comes back, as it was, from a
//! container that was made in vain: the namespace would take a virtual one along when it goes.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt;

use serde::{Deserialize, Serialize};

use crate::error::{Context, Error, Result};
use crate::mounts::c_string;
use crate::spec;
use crate::sys::{self, Errno};

/// A device to be moved.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Device {
    pub name: String,
    pub index: u32,
    pub was_up: bool,
    /// The namespace it was in.
    pub origin: (u64, u64),
    /// Its name in the container; `%d` is the kernel's to fill in.
    pub new_name: CString,
    /// Requests for its addresses, but for the index of the device.
    pub addresses: Vec<Vec<u8>>,
}

const HEADER: usize = 16;
/// Where a request of either kind has the index of its device.
const INDEX: usize = HEADER + 4;
const LONGEST_REQUEST: usize = 256;

const NEW_LINK: u16 = 16;
const NEW_ADDRESS: u16 = 20;
const GET_ADDRESS: u16 = 22;
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
const DUMP: u16 = 0x300;
const CREATE: u16 = 0x400 | 0x200;
const ERROR: u16 = 2;
const DONE: u16 = 3;

const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_NEW_IFINDEX: u16 = 49;
const IFA_FLAGS: u16 = 8;
const IFA_F_PERMANENT: u32 = 0x80;
/// Of an address's flags, what was somebody's choice: no duplicate detection, no route, temporary ones.
const IFA_F_CHOSEN: u32 = 0x02 | 0x100 | 0x200;

pub fn validate(devices: &BTreeMap<String, spec::NetDevice>) -> Result<()> {
    let mut names = std::collections::BTreeSet::new();
    for (name, device) in devices {
        let new = if device.name.is_empty() {
            name
        } else {
            &device.name
        };
        for name in [name, new] {
            let wrong = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
            if name.is_empty()
                || name.len() > 15
                || matches!(name.as_str(), "." | "..")
                || name.contains(wrong)
            {
                return Err(Error::invalid(format!(
                    "linux.netDevices: {name:?} cannot be the name of a network device"
                )));
            }
        }
        if new.contains('%') && (new.matches('%').count() > 1 || !new.contains("%d")) {
            return Err(Error::invalid(format!(
                "linux.netDevices: {new:?}: a template has one %d"
            )));
        }
        if !new.contains('%') && !names.insert(new) {
            return Err(Error::invalid(format!(
                "linux.netDevices: two devices are to be {new:?}"
            )));
        }
    }
    Ok(())
}

/// Looks the devices up in this process's namespace.
pub fn plan(devices: &BTreeMap<String, spec::NetDevice>) -> Result<Vec<Device>> {
    if devices.is_empty() {
        return Ok(Vec::new());
    }
    let addresses = addresses()?;
    let origin = own_namespace().and_then(|own| identity(&own));
    let origin = origin.context(|| "linux.netDevices: the runtime's network namespace".into())?;
    let plan = |(name, device): (&String, &spec::NetDevice)| {
        let what = || format!("linux.netDevices: network device {name}");
        let index = sys::interface_index(&c_string(name)?).context(what)?;
        let new = if device.name.is_empty() {
            name
        } else {
            &device.name
        };
        let own = addresses.iter().filter(|(of, _)| *of == index);
        Ok(Device {
            name: name.clone(),
            index,
            origin,
            was_up: sys::interface_is_up(&c_string(name)?).context(what)?,
            new_name: c_string(new)?,
            addresses: own.map(|(_, request)| request.clone()).collect(),
        })
    };
    devices.iter().map(plan).collect()
}

fn request(kind: u16, flags: u16, body: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(HEADER + body.len());
    message.extend(((HEADER + body.len()) as u32).to_ne_bytes());
    message.extend(kind.to_ne_bytes());
    message.extend((flags | REQUEST).to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    message
}

fn attribute(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend((4 + value.len() as u16).to_ne_bytes());
    body.extend(kind.to_ne_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

/// Attributes and their values.
fn attributes(mut bytes: &[u8]) -> Vec<(u16, &[u8])> {
    let mut list = Vec::new();
    while let Some(&[a, b, c, d]) = bytes.first_chunk() {
        let length = u16::from_ne_bytes([a, b]) as usize;
        let Some(value) = bytes.get(4..length) else {
            break;
        };
        list.push((u16::from_ne_bytes([c, d]), value));
        bytes = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    list
}

/// The addresses that go along, of all devices: the permanent ones of global scope.
fn addresses() -> Result<Vec<(u32, Vec<u8>)>> {
    let what = || "linux.netDevices: the devices' addresses".to_owned();
    let socket = sys::route_socket().context(what)?;
    sys::write(socket.as_raw_fd(), &request(GET_ADDRESS, DUMP, &[0; 8])).context(what)?;
    let mut list = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        let length = sys::read(socket.as_raw_fd(), &mut buffer).context(what)?;
        let mut rest = &buffer[..length];
        while let Some(message) = first(rest) {
            match message.kind {
                DONE => return Ok(list),
                ERROR => return Err(message.error().unwrap_or(Errno(libc::EIO))).context(what),
                NEW_ADDRESS => list.extend(address(message.body)),
                _ => {}
            }
            rest = rest
                .get(message.length.next_multiple_of(4)..)
                .unwrap_or_default();
        }
    }
}

struct Message<'a> {
    kind: u16,
    length: usize,
    body: &'a [u8],
}

impl Message<'_> {
    /// What an acknowledgement says.
    fn error(&self) -> Option<Errno> {
        let code = self
            .body
            .first_chunk()
            .map_or(-libc::EIO, |b| i32::from_ne_bytes(*b));
        (code != 0).then_some(Errno(-code))
    }
}

fn first(bytes: &[u8]) -> Option<Message<'_>> {
    let length = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes([*bytes.get(4)?, *bytes.get(5)?]);
    let body = bytes.get(HEADER..length)?;
    Some(Message { kind, length, body })
}

/// From what the kernel tells of an address to the request for it.
fn address(body: &[u8]) -> Option<(u32, Vec<u8>)> {
    const FIXED: usize = 8;
    let &[family, prefix, flags, scope, i, j, k, l] = body.first_chunk()?;
    let mut new = vec![family, prefix, 0, scope, 0, 0, 0, 0];
    let mut all = u32::from(flags);
    for (kind, value) in attributes(&body[FIXED..]) {
        match kind {
            // The address, the peer's, broadcast, the priority of its route.
            1 | 2 | 4 | 9 => attribute(&mut new, kind, value),
            IFA_FLAGS => all = u32::from_ne_bytes(*value.first_chunk()?),
            _ => {}
        }
    }
    if all & IFA_F_PERMANENT == 0 || scope != 0 {
        return None;
    }
    attribute(&mut new, IFA_FLAGS, &(all & IFA_F_CHOSEN).to_ne_bytes());
    let index = u32::from_ne_bytes([i, j, k, l]);
    let request = request(NEW_ADDRESS, ACKNOWLEDGE | CREATE, &new);
    (request.len() <= LONGEST_REQUEST).then_some((index, request))
}

/// A request that moves device `from` into a namespace, as number `to` there.
fn relocation(from: u32, to: u32, name: &[u8], namespace: RawFd) -> Vec<u8> {
    let mut body = vec![0; 16];
    body[4..8].copy_from_slice(&from.to_ne_bytes());
    attribute(&mut body, IFLA_NET_NS_FD, &namespace.to_ne_bytes());
    attribute(&mut body, IFLA_IFNAME, name);
    if from != to {
        attribute(&mut body, IFLA_NEW_IFINDEX, &to.to_ne_bytes());
    }
    request(NEW_LINK, ACKNOWLEDGE, &body)
}

fn own_namespace() -> std::io::Result<File> {
    File::open("/proc/thread-self/ns/net")
}

fn identity(namespace: &File) -> std::io::Result<(u64, u64)> {
    namespace.metadata().map(|m| (m.dev(), m.ino()))
}

fn is_own(namespace: &File) -> std::io::Result<bool> {
    Ok(identity(namespace)? == identity(&own_namespace()?)?)
}

/// Refuses to move devices into the namespace they are in.
pub fn check_namespace(namespace: &File) -> Result<()> {
    let own = is_own(namespace).context(|| "linux.netDevices: the network namespace".into())?;
    match own {
        false => Ok(()),
        true => Err(Error::invalid(
            "linux.netDevices: the container's network namespace is the runtime's own",
        )),
    }
}

/// Devices that are in a container's namespace, which this holds.
pub struct Given {
    namespace: File,
    /// With their numbers there.
    devices: Vec<(Device, u32)>,
}

impl Given {
    pub fn of_process(pid: i32) -> Result<Self> {
        let what = || format!("linux.netDevices: the network namespace of process {pid}");
        let namespace = File::open(format!("/proc/{pid}/ns/net")).context(what)?;
        check_namespace(&namespace)?;
        Ok(Self {
            namespace,
            devices: Vec::new(),
        })
    }

    /// Devices that an earlier call moved.
    pub fn known(pid: i32, devices: &[(Device, u32)]) -> Result<Self> {
        let mut given = Self::of_process(pid)?;
        given.devices = devices.to_vec();
        Ok(given)
    }

    pub fn devices(self) -> Vec<(Device, u32)> {
        self.devices
    }

    /// Moves a device there, as number `index`.
    pub fn hand(&mut self, device: &Device, index: u32) -> Result<()> {
        let what = || format!("linux.netDevices: moving network device {}", device.name);
        let name = device.new_name.to_bytes_with_nul();
        let request = relocation(device.index, index, name, self.namespace.as_raw_fd());
        let socket = sys::route_socket().context(what)?;
        ask(&socket, &request).context(what)?;
        self.devices.push((device.clone(), index));
        Ok(())
    }

    /// Brings all of them back, with name, number, addresses and state; the first failure is told when
    /// all were tried.
    pub fn take_back(self) -> Result<()> {
        let mut result = Ok(());
        for (device, index) in self.devices.iter().rev() {
            let taken = self.take(device, *index).context(|| {
                format!(
                    "linux.netDevices: taking network device {} back",
                    device.name
                )
            });
            result = result.and(taken);
        }
        result
    }

    fn take(&self, device: &Device, index: u32) -> sys::Result<()> {
        let own = own_namespace()?;
        if identity(&own)? != device.origin {
            // It came from elsewhere than where this runs.
            return Err(Errno(libc::EXDEV));
        }
        let name = c_string(&device.name).map_err(|_| Errno(libc::EINVAL))?;
        let request = relocation(
            index,
            device.index,
            name.to_bytes_with_nul(),
            own.as_raw_fd(),
        );
        // SAFETY: the child makes system calls on what is prepared here, and exits.
        let pid = unsafe { sys::clone3(0, None) }?;
        if pid == 0 {
            let moved = sys::setns(self.namespace.as_raw_fd(), libc::CLONE_NEWNET)
                .and_then(|()| sys::route_socket())
                .and_then(|socket| ask(&socket, &request));
            sys::exit(moved.map_or_else(|e| e.0, |()| 0));
        }
        let status = sys::wait(pid)?;
        match libc::WIFEXITED(status) {
            true if libc::WEXITSTATUS(status) == 0 => {}
            true => return Err(Errno(libc::WEXITSTATUS(status))),
            false => return Err(Errno(libc::EINTR)),
        }
        match device.was_up || !device.addresses.is_empty() {
            true => device.set(device.index, device.was_up),
            false => Ok(()),
        }
    }
}

impl Device {
    /// An index that is free in this process's namespace, where the new name must be too.
    pub fn place(&self) -> sys::Result<u32> {
        let template = self.new_name.as_bytes().contains(&b'%');
        if !template && sys::interface_index(&self.new_name).is_ok() {
            return Err(Errno(libc::EEXIST));
        }
        let free = |index: &u32| !sys::interface_exists(*index);
        (self.index..i32::MAX as u32)
            .find(free)
            .ok_or(Errno(libc::ENOSPC))
    }

    /// Gives it its addresses and sets it up, where it is number `index` now.
    pub fn set_up(&self, index: u32) -> sys::Result<()> {
        self.set(index, true)
    }

    fn set(&self, index: u32, up: bool) -> sys::Result<()> {
        let socket = sys::route_socket()?;
        let mut buffer = [0; LONGEST_REQUEST];
        for request in &self.addresses {
            let request = numbered(request, index, &mut buffer);
            match ask(&socket, request) {
                Err(Errno(libc::EEXIST)) => {}
                other => other?,
            }
        }
        if !up {
            return Ok(());
        }
        const UP: u8 = 1;
        let mut up = [0; HEADER + 16];
        up[0] = up.len() as u8;
        up[4..6].copy_from_slice(&NEW_LINK.to_ne_bytes());
        up[6..8].copy_from_slice(&(REQUEST | ACKNOWLEDGE).to_ne_bytes());
        up[INDEX..INDEX + 4].copy_from_slice(&index.to_ne_bytes());
        // Flags, and which of them change.
        up[INDEX + 4] = UP;
        up[INDEX + 8] = UP;
        ask(&socket, &up)
    }
}

fn numbered<'a>(request: &[u8], index: u32, buffer: &'a mut [u8; LONGEST_REQUEST]) -> &'a [u8] {
    let length = request.len().min(LONGEST_REQUEST);
    buffer[..length].copy_from_slice(&request[..length]);
    buffer[INDEX..INDEX + 4].copy_from_slice(&index.to_ne_bytes());
    &buffer[..length]
}

/// Sends a request and waits for its acknowledgement.
fn ask(socket: &OwnedFd, request: &[u8]) -> sys::Result<()> {
    sys::write(socket.as_raw_fd(), request)?;
    let mut buffer = [0; 1024];
    let length = sys::read(socket.as_raw_fd(), &mut buffer)?;
    match first(&buffer[..length]) {
        Some(message) if message.kind == ERROR => message.error().map_or(Ok(()), Err),
        // A cut-off answer to a long request still begins with the code.
        _ if length >= HEADER + 4 && buffer[4..6] == ERROR.to_ne_bytes() => {
            let code = buffer[HEADER..]
                .first_chunk()
                .map_or(0, |b| i32::from_ne_bytes(*b));
            match code {
                0 => Ok(()),
                code => Err(Errno(-code)),
            }
        }
        _ => Err(Errno(libc::EBADMSG)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        let devices = |text: &str| validate(&serde_json::from_str(text).unwrap());
        for text in [
            r#"{"": {}}"#,
            r#"{"eth0": {"name": "a/b"}}"#,
            r#"{"eth0": {"name": "sixteen-letters-"}}"#,
            r#"{"eth0": {"name": "%s"}}"#,
            r#"{"eth0": {"name": "x"}, "eth1": {"name": "x"}}"#,
        ] {
            assert!(devices(text).is_err(), "{text}");
        }
        devices(r#"{"eth0": {"name": "n%d"}, "eth1": {"name": "n%d"}, "eth2": {}}"#).unwrap();
    }

    #[test]
    fn permanent_global_addresses_go_along() {
        let told = |flags: u8, scope: u8| {
            let mut body = vec![2, 24, flags, scope, 7, 0, 0, 0];
            attribute(&mut body, 2, &[10, 0, 0, 1]);
            attribute(&mut body, 3, b"eth0\0");
            body
        };
        let (index, request) = address(&told(0x80, 0)).unwrap();
        assert_eq!(index, 7);
        let mut buffer = [0; LONGEST_REQUEST];
        let body = &numbered(&request, 9, &mut buffer)[HEADER..];
        assert_eq!(body[..8], [2, 24, 0, 0, 9, 0, 0, 0]);
        assert_eq!(
            attributes(&body[8..]),
            [(2, &[10, 0, 0, 1][..]), (8, &[0; 4][..])]
        );
        assert!(address(&told(0, 0)).is_none(), "it has a lifetime");
        assert!(address(&told(0x80, 253)).is_none(), "of the link");
    }
}
