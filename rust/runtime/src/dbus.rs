//! As much of D-Bus as talking to systemd takes: a call and its answer, and one signal to wait for.
//!
//! The wire is that of the D-Bus specification, in this machine's byte order: authentication by EXTERNAL
//! (who one is, the kernel says), then messages of a header and a body.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::error::{Context, Error, Result};

/// Where a bus is if nothing else is said, and where systemd itself listens for root.
const SYSTEM_BUS: &str = "/run/dbus/system_bus_socket";
const PRIVATE: &str = "/run/systemd/private";
const ADDRESS: &str = "DBUS_SYSTEM_BUS_ADDRESS";

/// How long an answer, and the end of a job, may take.
const LIMIT: Duration = Duration::from_secs(30);
const LONGEST_MESSAGE: usize = 1 << 20;

const CALL: u8 = 1;
const ANSWER: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

/// A value with its type, as systemd's properties want it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Flag(bool),
    Text(String),
    Number(u64),
    /// `au`
    Numbers(Vec<u32>),
    /// `ay`
    Bytes(Vec<u8>),
    /// `as`
    Texts(Vec<String>),
}

/// The arguments of a call.
#[derive(Default)]
pub struct Body {
    bytes: Vec<u8>,
    signature: String,
}

impl Body {
    pub fn text(mut self, text: &str) -> Self {
        put_text(&mut self.bytes, text);
        self.signature.push('s');
        self
    }

    pub fn flag(mut self, on: bool) -> Self {
        put_u32(&mut self.bytes, u32::from(on));
        self.signature.push('b');
        self
    }

    /// `a(sv)`
    pub fn properties(mut self, list: &[(String, Value)]) -> Self {
        put_array(&mut self.bytes, 8, |bytes| {
            for (name, value) in list {
                pad(bytes, 8);
                put_text(bytes, name);
                put_variant(bytes, value);
            }
        });
        self.signature.push_str("a(sv)");
        self
    }

    /// `a(sa(sv))`, of which there are none.
    pub fn no_units(mut self) -> Self {
        put_array(&mut self.bytes, 8, |_| {});
        self.signature.push_str("a(sa(sv))");
        self
    }
}

fn pad(bytes: &mut Vec<u8>, to: usize) {
    bytes.resize(bytes.len().next_multiple_of(to), 0);
}

fn put_u32(bytes: &mut Vec<u8>, number: u32) {
    pad(bytes, 4);
    bytes.extend(number.to_ne_bytes());
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    put_u32(bytes, text.len() as u32);
    bytes.extend(text.as_bytes());
    bytes.push(0);
}

fn put_signature(bytes: &mut Vec<u8>, signature: &str) {
    bytes.push(signature.len() as u8);
    bytes.extend(signature.as_bytes());
    bytes.push(0);
}

/// The length counts from the first element, which is aligned.
fn put_array(bytes: &mut Vec<u8>, alignment: usize, fill: impl FnOnce(&mut Vec<u8>)) {
    put_u32(bytes, 0);
    let at = bytes.len() - 4;
    pad(bytes, alignment);
    let first = bytes.len();
    fill(bytes);
    let length = (bytes.len() - first) as u32;
    bytes[at..at + 4].copy_from_slice(&length.to_ne_bytes());
}

fn put_variant(bytes: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Flag(on) => {
            put_signature(bytes, "b");
            put_u32(bytes, u32::from(*on));
        }
        Value::Text(text) => {
            put_signature(bytes, "s");
            put_text(bytes, text);
        }
        Value::Number(number) => {
            put_signature(bytes, "t");
            pad(bytes, 8);
            bytes.extend(number.to_ne_bytes());
        }
        Value::Numbers(list) => {
            put_signature(bytes, "au");
            put_array(bytes, 4, |bytes| {
                list.iter().for_each(|n| put_u32(bytes, *n))
            });
        }
        Value::Bytes(list) => {
            put_signature(bytes, "ay");
            put_array(bytes, 1, |bytes| bytes.extend(list));
        }
        Value::Texts(list) => {
            put_signature(bytes, "as");
            put_array(bytes, 4, |bytes| {
                list.iter().for_each(|t| put_text(bytes, t))
            });
        }
    }
}

/// What came in.
#[derive(Debug, Default)]
pub struct Message {
    kind: u8,
    reply_to: u32,
    member: String,
    error: String,
    /// Its arguments, if they are texts and numbers; what comes after anything else is left out.
    pub arguments: Vec<String>,
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn take(&mut self, length: usize) -> Option<&[u8]> {
        let end = self.at.checked_add(length)?;
        let part = self.bytes.get(self.at..end)?;
        self.at = end;
        Some(part)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|b| b[0])
    }

    fn u32(&mut self) -> Option<u32> {
        self.align(4);
        self.take(4)?.try_into().ok().map(u32::from_ne_bytes)
    }

    fn text(&mut self) -> Option<String> {
        let length = self.u32()? as usize;
        let text = String::from_utf8(self.take(length)?.to_vec()).ok()?;
        (self.byte()? == 0).then_some(text)
    }

    fn signature(&mut self) -> Option<String> {
        let length = usize::from(self.byte()?);
        let text = String::from_utf8(self.take(length)?.to_vec()).ok()?;
        (self.byte()? == 0).then_some(text)
    }

    fn value(&mut self, kind: char) -> Option<String> {
        match kind {
            's' | 'o' => self.text(),
            'g' => self.signature(),
            'u' | 'b' => self.u32().map(|n| n.to_string()),
            _ => None,
        }
    }
}

fn parse(header: &[u8], body: &[u8]) -> Option<Message> {
    let mut reader = Reader {
        bytes: header,
        at: 12,
    };
    let mut message = Message {
        kind: header[1],
        ..Message::default()
    };
    let length = reader.u32()? as usize;
    let end = reader.at + length;
    let mut signature = String::new();
    while reader.at < end {
        reader.align(8);
        let field = reader.byte()?;
        let kind = reader.signature()?;
        let value = reader.value(kind.chars().next()?)?;
        match field {
            3 => message.member = value,
            4 => message.error = value,
            5 => message.reply_to = value.parse().ok()?,
            8 => signature = value,
            _ => {}
        }
    }
    let mut reader = Reader { bytes: body, at: 0 };
    for kind in signature.chars() {
        let Some(value) = reader.value(kind) else {
            break;
        };
        message.arguments.push(value);
    }
    Some(message)
}

/// A connection to systemd's manager.
pub struct Connection {
    stream: UnixStream,
    serial: u32,
    what: String,
    /// Signals that came before somebody waited for them.
    signals: Vec<Message>,
}

/// Sockets of a bus by the environment, or by their usual places; whether a bus is between.
fn places() -> Vec<(PathBuf, bool)> {
    match std::env::var(ADDRESS) {
        Ok(list) => list
            .split(';')
            .filter_map(|address| address.strip_prefix("unix:"))
            .filter_map(|keys| keys.split(',').find_map(|key| key.strip_prefix("path=")))
            .map(|path| (PathBuf::from(path), true))
            .collect(),
        Err(_) => vec![(SYSTEM_BUS.into(), true), (PRIVATE.into(), false)],
    }
}

impl Connection {
    pub fn open() -> Result<Self> {
        let places = places();
        let mut tried = Vec::new();
        for (path, bus) in &places {
            match Self::to(path, *bus) {
                Ok(connection) => return Ok(connection),
                Err(e) => tried.push(e.message),
            }
        }
        Err(Error::new(
            crate::error::Class::Unimplemented,
            format!(
                "the systemd cgroup driver needs a running systemd: {}; without one leave \
                 --systemd-cgroup (SystemdCgroup) off",
                match tried.is_empty() {
                    true => format!("{ADDRESS} names no socket"),
                    false => tried.join(", "),
                }
            ),
        ))
    }

    fn to(path: &Path, bus: bool) -> Result<Self> {
        let what = path.display().to_string();
        let stream = UnixStream::connect(path).context(|| what.clone())?;
        for set in [UnixStream::set_read_timeout, UnixStream::set_write_timeout] {
            set(&stream, Some(LIMIT)).context(|| what.clone())?;
        }
        let mut connection = Self {
            stream,
            serial: 0,
            what,
            signals: Vec::new(),
        };
        connection.authenticate()?;
        if bus {
            let own = "org.freedesktop.DBus";
            connection.call_to(own, "/org/freedesktop/DBus", own, "Hello", Body::default())?;
            let rule =
                "type='signal',interface='org.freedesktop.systemd1.Manager',member='JobRemoved'";
            let rule = Body::default().text(rule);
            connection.call_to(own, "/org/freedesktop/DBus", own, "AddMatch", rule)?;
        }
        connection.call("Subscribe", Body::default())?;
        Ok(connection)
    }

    fn failed(&self, e: impl std::fmt::Display) -> Error {
        Error::failed(format!("D-Bus at {}: {e}", self.what))
    }

    fn authenticate(&mut self) -> Result<()> {
        // SAFETY: it only tells.
        let uid = unsafe { libc::geteuid() };
        let hex: String = uid
            .to_string()
            .bytes()
            .map(|b| format!("{b:02x}"))
            .collect();
        let hello = format!("\0AUTH EXTERNAL {hex}\r\n");
        let sent = self.stream.write_all(hello.as_bytes());
        sent.map_err(|e| self.failed(e))?;
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            match self.stream.read(&mut byte) {
                Ok(1) if line.len() < 512 => line.push(byte[0]),
                Ok(_) => return Err(self.failed("it ended while we were introduced")),
                Err(e) => return Err(self.failed(e)),
            }
        }
        let line = String::from_utf8_lossy(&line);
        if !line.starts_with("OK ") {
            return Err(self.failed(format!("it refuses us: {}", line.trim())));
        }
        self.stream
            .write_all(b"BEGIN\r\n")
            .map_err(|e| self.failed(e))
    }

    /// Calls systemd's manager. What it answers are texts and numbers.
    pub fn call(&mut self, member: &str, body: Body) -> Result<Vec<String>> {
        let name = "org.freedesktop.systemd1";
        let interface = "org.freedesktop.systemd1.Manager";
        self.call_to(name, "/org/freedesktop/systemd1", interface, member, body)
    }

    fn call_to(
        &mut self,
        name: &str,
        path: &str,
        interface: &str,
        member: &str,
        body: Body,
    ) -> Result<Vec<String>> {
        self.serial += 1;
        let fields = [
            (1, "o", path),
            (2, "s", interface),
            (3, "s", member),
            (6, "s", name),
        ];
        let message = encode(self.serial, &fields, &body);
        let sent = self.stream.write_all(&message);
        sent.map_err(|e| self.failed(e))?;
        let end = Instant::now() + LIMIT;
        loop {
            let message = self.receive(end)?;
            match message.kind {
                SIGNAL => self.signals.push(message),
                ANSWER if message.reply_to == self.serial => return Ok(message.arguments),
                ERROR if message.reply_to == self.serial => {
                    let text = message.arguments.first().map_or("", String::as_str);
                    return Err(Error::failed(format!(
                        "systemd: {member}: {} ({})",
                        text, message.error
                    )));
                }
                _ => {}
            }
        }
    }

    /// Waits for the end of a job; how it went.
    pub fn job_result(&mut self, job: &str) -> Result<String> {
        let end = Instant::now() + LIMIT;
        loop {
            let message = match self.signals.pop() {
                Some(message) => message,
                None => self.receive(end)?,
            };
            if let [_, path, _, result] = message.arguments.as_slice()
                && message.kind == SIGNAL
                && message.member == "JobRemoved"
                && path == job
            {
                return Ok(result.clone());
            }
        }
    }

    fn receive(&mut self, end: Instant) -> Result<Message> {
        const FIXED: usize = 16;
        if Instant::now() > end {
            return Err(self.failed("no answer in time"));
        }
        let mut header = vec![0; FIXED];
        self.fill(&mut header)?;
        let own = if cfg!(target_endian = "little") {
            b'l'
        } else {
            b'B'
        };
        if header[0] != own {
            return Err(self.failed("its messages have another byte order"));
        }
        let number = |at: usize| {
            let bytes = [header[at], header[at + 1], header[at + 2], header[at + 3]];
            u32::from_ne_bytes(bytes) as usize
        };
        let (body, fields) = (number(4), number(12));
        if body > LONGEST_MESSAGE || fields > LONGEST_MESSAGE {
            return Err(self.failed("a message is too long"));
        }
        let whole = (FIXED + fields).next_multiple_of(8);
        header.resize(whole, 0);
        let mut rest = vec![0; whole - FIXED + body];
        self.fill(&mut rest)?;
        let (more, body) = rest.split_at(whole - FIXED);
        header[FIXED..].copy_from_slice(more);
        parse(&header, body).ok_or_else(|| self.failed("a message cannot be read"))
    }

    fn fill(&mut self, buffer: &mut [u8]) -> Result<()> {
        self.stream.read_exact(buffer).map_err(|e| match e.kind() {
            io::ErrorKind::WouldBlock => self.failed("no answer in time"),
            io::ErrorKind::UnexpectedEof => self.failed("it has closed the connection"),
            _ => self.failed(e),
        })
    }
}

fn encode(serial: u32, fields: &[(u8, &str, &str)], body: &Body) -> Vec<u8> {
    let order = if cfg!(target_endian = "little") {
        b'l'
    } else {
        b'B'
    };
    let mut message = vec![order, CALL, 0, 1];
    put_u32(&mut message, body.bytes.len() as u32);
    put_u32(&mut message, serial);
    put_array(&mut message, 8, |bytes| {
        for (field, kind, value) in fields {
            pad(bytes, 8);
            bytes.push(*field);
            put_signature(bytes, kind);
            put_text(bytes, value);
        }
        if !body.signature.is_empty() {
            pad(bytes, 8);
            bytes.push(8);
            put_signature(bytes, "g");
            put_signature(bytes, &body.signature);
        }
    });
    pad(&mut message, 8);
    message.extend(&body.bytes);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_has_the_specifications_layout() {
        let body = Body::default().text("ab");
        let message = encode(7, &[(1, "o", "/x"), (3, "s", "Go")], &body);
        let expected: &[u8] = b"l\x01\0\x01\x07\0\0\0\x07\0\0\0\x27\0\0\0\
            \x01\x01o\0\x02\0\0\0/x\0\0\0\0\0\0\
            \x03\x01s\0\x02\0\0\0Go\0\0\0\0\0\0\
            \x08\x01g\0\x01s\0\0\
            \x02\0\0\0ab\0";
        if cfg!(target_endian = "little") {
            assert_eq!(message, expected);
        }
        let read = parse(&message[..56], &message[56..]).unwrap();
        assert_eq!(
            (read.member.as_str(), read.arguments),
            ("Go", vec!["ab".to_owned()])
        );
    }

    #[test]
    fn values_are_aligned() {
        let list = [
            ("N".to_owned(), Value::Number(1)),
            ("L".to_owned(), Value::Numbers(vec![2, 3])),
        ];
        let body = Body::default().properties(&list);
        assert_eq!(body.signature, "a(sv)");
        // Length, room, then each name on a multiple of 8; a number of 8 bytes too.
        assert_eq!(body.bytes[8..14], *b"\x01\0\0\0N\0");
        assert_eq!(body.bytes[14..17], *b"\x01t\0");
        assert_eq!(body.bytes[24], 1);
        assert_eq!(body.bytes[32..38], *b"\x01\0\0\0L\0");
        assert_eq!(body.bytes.len() as u8 - 8, body.bytes[0]);
    }

    #[test]
    fn nonsense_is_no_message() {
        for length in 0..40 {
            let header = vec![0xff; 16 + length];
            assert!(parse(&header, &[]).is_none());
        }
    }
}
