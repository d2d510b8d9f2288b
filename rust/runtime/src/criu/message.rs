//! The few messages of CRIU's RPC (its `images/rpc.proto`), written and read without a generator.

/// A protobuf message as it is written.
#[derive(Default)]
pub struct Writer(Vec<u8>);

impl Writer {
    pub fn number(&mut self, field: u32, value: u64) -> &mut Self {
        self.varint(u64::from(field) << 3);
        self.varint(value);
        self
    }

    pub fn flag(&mut self, field: u32, on: bool) -> &mut Self {
        match on {
            true => self.number(field, 1),
            false => self,
        }
    }

    pub fn text(&mut self, field: u32, text: &str) -> &mut Self {
        self.bytes(field, text.as_bytes())
    }

    /// Nothing for an empty one.
    pub fn some(&mut self, field: u32, text: &str) -> &mut Self {
        match text.is_empty() {
            true => self,
            false => self.text(field, text),
        }
    }

    pub fn message(&mut self, field: u32, message: &Writer) -> &mut Self {
        self.bytes(field, &message.0)
    }

    fn bytes(&mut self, field: u32, bytes: &[u8]) -> &mut Self {
        self.varint(u64::from(field) << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
        self
    }

    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

pub enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

/// The fields of a message; `None` for what is no message.
pub fn fields(mut rest: &[u8]) -> Option<Vec<(u32, Value<'_>)>> {
    let mut list = Vec::new();
    while !rest.is_empty() {
        let key = varint(&mut rest)?;
        let value = match key & 7 {
            0 => Value::Number(varint(&mut rest)?),
            1 => Value::Bytes(take(&mut rest, 8)?),
            2 => {
                let length = usize::try_from(varint(&mut rest)?).ok()?;
                Value::Bytes(take(&mut rest, length)?)
            }
            5 => Value::Bytes(take(&mut rest, 4)?),
            _ => return None,
        };
        list.push((u32::try_from(key >> 3).ok()?, value));
    }
    Some(list)
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(length)?;
    *rest = left;
    Some(taken)
}

fn varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (first, left) = rest.split_first()?;
        *rest = left;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

/// What CRIU answers, or asks for while it works.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Response {
    pub kind: u64,
    pub success: bool,
    /// The script of a notification, and the process it is about.
    pub script: String,
    pub pid: i32,
    pub errno: i32,
    pub message: String,
    /// As one number: 3.17.1 is 31701.
    pub version: u64,
}

impl Response {
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let mut response = Self::default();
        for (field, value) in fields(bytes)? {
            match (field, value) {
                (1, Value::Number(kind)) => response.kind = kind,
                (2, Value::Number(success)) => response.success = success != 0,
                (4, Value::Bytes(restored)) => {
                    for (field, value) in fields(restored)? {
                        if let (1, Value::Number(pid)) = (field, value) {
                            response.pid = pid as i32;
                        }
                    }
                }
                (5, Value::Bytes(notice)) => {
                    for (field, value) in fields(notice)? {
                        match (field, value) {
                            (1, Value::Bytes(script)) => {
                                response.script = String::from_utf8_lossy(script).into_owned();
                            }
                            (2, Value::Number(pid)) => response.pid = pid as i32,
                            _ => {}
                        }
                    }
                }
                (7, Value::Number(errno)) => response.errno = errno as i32,
                (9, Value::Bytes(text)) => {
                    response.message = String::from_utf8_lossy(text).into_owned();
                }
                (10, Value::Bytes(version)) => {
                    for (field, value) in fields(version)? {
                        response.version += match (field, value) {
                            (1, Value::Number(major)) => major * 10_000,
                            (2, Value::Number(minor)) => minor * 100,
                            (4, Value::Number(sublevel)) => sublevel,
                            _ => 0,
                        };
                    }
                }
                _ => {}
            }
        }
        Some(response)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read() {
        let mut notice = Writer::default();
        notice.text(1, "post-restore").number(2, 70_000);
        let mut version = Writer::default();
        version.number(1, 3).number(2, 17).number(4, 1).text(6, "x");
        let mut all = Writer::default();
        all.number(1, 6).flag(2, true).message(5, &notice);
        all.text(9, "words").message(10, &version);
        let read = Response::parse(all.as_bytes()).unwrap();
        assert_eq!((read.kind, read.success), (6, true));
        assert_eq!((read.script.as_str(), read.pid), ("post-restore", 70_000));
        assert_eq!((read.message.as_str(), read.version), ("words", 31_701));
    }

    #[test]
    fn what_is_cut_off_is_no_answer() {
        let mut whole = Writer::default();
        whole.number(1, 300).text(9, "some words");
        let bytes = whole.as_bytes();
        for length in 1..bytes.len() {
            let cut = Response::parse(&bytes[..length]);
            assert!(cut.is_none() || length == 3, "{length}");
        }
        assert!(Response::parse(&[0xff; 20]).is_none());
    }
}
