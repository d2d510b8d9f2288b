//! Extended headers (POSIX pax "x" records) and what the keywords mean.

use super::header::Time;
use super::sparse::Segment;
use crate::error::{Error, Result};

/// Records laid over the next entry.
#[derive(Debug, Clone, Default)]
pub(crate) struct Extended {
    pub path: Option<Vec<u8>>,
    pub link: Option<Vec<u8>>,
    pub size: Option<i64>,
    pub uid: Option<i64>,
    pub gid: Option<i64>,
    pub mtime: Option<Time>,
    pub atime: Option<Time>,
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub sparse: SparseRecords,
}

/// The `GNU.sparse.*` records of the formats 0.0, 0.1 and 1.0.
#[derive(Debug, Clone, Default)]
pub(crate) struct SparseRecords {
    pub major: Option<i64>,
    pub minor: Option<i64>,
    pub name: Option<Vec<u8>>,
    pub real_size: Option<i64>,
    /// Formats 0.0 and 0.1.
    pub map: Vec<Segment>,
    pub has_map: bool,
    /// Format 0.0: an offset still waiting for its length.
    half: Option<u64>,
}

/// Takes the records of one extended header apart.
pub(crate) fn parse(mut data: &[u8]) -> Result<Extended> {
    let mut extended = Extended::default();
    let mut libarchive = Vec::new();
    while !data.is_empty() {
        let (key, value, rest) =
            record(data).ok_or_else(|| Error::invalid("malformed pax record"))?;
        data = rest;
        extended.take(key, value, &mut libarchive).ok_or_else(|| {
            Error::invalid(format!(
                "pax record {:?} has no valid value",
                String::from_utf8_lossy(key)
            ))
        })?;
    }
    if extended.sparse.half.is_some() {
        return Err(Error::invalid(
            "sparse map ends with an offset without a length",
        ));
    }
    // bsdtar writes each attribute twice; the SCHILY form is the one all tools agree on.
    for (name, value) in libarchive {
        if !extended.xattrs.iter().any(|(known, _)| *known == name) {
            extended.xattrs.push((name, value));
        }
    }
    Ok(extended)
}

/// `LENGTH SP KEY=VALUE LF` at the start of `data`, and what follows it.
fn record(data: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let space = data.iter().take(20).position(|&b| b == b' ')?;
    let len = usize::try_from(decimal(&data[..space])?).ok()?;
    let body = data.get(space + 1..len)?;
    let (last, body) = body.split_last()?;
    let equals = body.iter().position(|&b| b == b'=')?;
    let (key, value) = (&body[..equals], &body[equals + 1..]);
    let valid = *last == b'\n' && !key.is_empty() && !key.contains(&0);
    valid.then(|| (key, value, &data[len..]))
}

impl Extended {
    /// `None` when the value is malformed. Unknown keywords are no concern of ours.
    fn take(
        &mut self,
        key: &[u8],
        value: &[u8],
        libarchive: &mut Vec<(Vec<u8>, Vec<u8>)>,
    ) -> Option<()> {
        if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            set(&mut self.xattrs, unescape(name), value.to_vec());
            return (!name.is_empty()).then_some(());
        }
        if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
            set(libarchive, unescape(name), base64(value)?);
            return (!name.is_empty()).then_some(());
        }
        // An empty value takes the record back: the header's own field counts again.
        let given = !value.is_empty();
        match key {
            b"path" => self.path = given.then(|| value.to_vec()),
            b"linkpath" => self.link = given.then(|| value.to_vec()),
            b"size" => self.size = optional(value, decimal)?,
            b"uid" => self.uid = optional(value, decimal)?,
            b"gid" => self.gid = optional(value, decimal)?,
            b"mtime" => self.mtime = optional(value, time)?,
            b"atime" => self.atime = optional(value, time)?,
            b"GNU.sparse.major" => self.sparse.major = optional(value, decimal)?,
            b"GNU.sparse.minor" => self.sparse.minor = optional(value, decimal)?,
            b"GNU.sparse.name" => self.sparse.name = given.then(|| value.to_vec()),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => {
                self.sparse.real_size = optional(value, decimal)?;
            }
            b"GNU.sparse.offset" => {
                self.sparse.has_map = true;
                let offset = u64::try_from(decimal(value)?).ok()?;
                if self.sparse.half.replace(offset).is_some() {
                    return None;
                }
            }
            b"GNU.sparse.numbytes" => {
                let offset = self.sparse.half.take()?;
                let len = u64::try_from(decimal(value)?).ok()?;
                self.sparse.map.push(Segment { offset, len });
            }
            b"GNU.sparse.map" => {
                self.sparse.has_map = true;
                self.sparse.map = sparse_map(value)?;
            }
            _ => {}
        }
        // A NUL would end the name early for the kernel, but not for whoever inspected the archive.
        let is_name = matches!(key, b"path" | b"linkpath" | b"GNU.sparse.name");
        (!is_name || !value.contains(&0)).then_some(())
    }
}

fn set(list: &mut Vec<(Vec<u8>, Vec<u8>)>, name: Vec<u8>, value: Vec<u8>) {
    match list.iter_mut().find(|(known, _)| *known == name) {
        Some(entry) => entry.1 = value,
        None => list.push((name, value)),
    }
}

fn optional<T>(value: &[u8], parse: impl Fn(&[u8]) -> Option<T>) -> Option<Option<T>> {
    match value {
        b"" => Some(None),
        value => parse(value).map(Some),
    }
}

/// Format 0.1: `offset,length,offset,length…`.
fn sparse_map(value: &[u8]) -> Option<Vec<Segment>> {
    if value.is_empty() {
        return Some(Vec::new());
    }
    let numbers: Option<Vec<u64>> = value
        .split(|&b| b == b',')
        .map(|n| u64::try_from(decimal(n)?).ok())
        .collect();
    let numbers = numbers?;
    let (pairs, odd) = numbers.as_chunks::<2>();
    odd.is_empty().then(|| {
        pairs
            .iter()
            .map(|&[offset, len]| Segment { offset, len })
            .collect()
    })
}

/// A decimal number that fits, with an optional minus.
pub(crate) fn decimal(text: &[u8]) -> Option<i64> {
    let (negative, digits) = match text {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0i64, |value, &b| {
        let digit = i64::from(b.is_ascii_digit().then(|| b - b'0')?);
        let value = value.checked_mul(10)?;
        if negative {
            value.checked_sub(digit)
        } else {
            value.checked_add(digit)
        }
    })
}

/// `seconds[.fraction]`; digits beyond nanoseconds are cut.
fn time(text: &[u8]) -> Option<Time> {
    let (whole, fraction) = match text.iter().position(|&b| b == b'.') {
        Some(dot) => (&text[..dot], &text[dot + 1..]),
        None => (text, &b""[..]),
    };
    let seconds = decimal(whole)?;
    let mut nanos = 0u32;
    for i in 0..9 {
        let digit = fraction.get(i).copied().unwrap_or(b'0');
        nanos = nanos * 10 + u32::from(digit.is_ascii_digit().then(|| digit - b'0')?);
    }
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    if whole.starts_with(b"-") && nanos > 0 {
        return Some(Time {
            seconds: seconds.checked_sub(1)?,
            nanos: 1_000_000_000 - nanos,
        });
    }
    Some(Time { seconds, nanos })
}

/// `%3D` stands for `=`, which would end the key (GNU tar, libarchive); other escapes likewise.
fn unescape(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len());
    let mut rest = name;
    while let [first, tail @ ..] = rest {
        let escaped = match rest {
            [b'%', high, low, ..] => hex(*high).zip(hex(*low)),
            _ => None,
        };
        match escaped {
            Some((high, low)) if high << 4 | low != 0 => {
                out.push(high << 4 | low);
                rest = &rest[3..];
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).map(|d| d as u8)
}

/// Base 64, with or without padding.
fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut held) = (0u32, 0);
    for &b in text.iter().filter(|&&b| b != b'=' && b != b'\n') {
        let six = match b {
            b'A'..=b'Z' => b - b'A',
            b'a'..=b'z' => b - b'a' + 26,
            b'0'..=b'9' => b - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = bits << 6 | u32::from(six);
        held += 6;
        if held >= 8 {
            held -= 8;
            out.push((bits >> held) as u8);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tar::writer::push_record;

    fn records(pairs: &[(&str, &str)]) -> Vec<u8> {
        let mut data = Vec::new();
        for (key, value) in pairs {
            push_record(key.as_bytes(), value.as_bytes(), &mut data);
        }
        data
    }

    #[test]
    fn numbers_and_times() {
        assert_eq!(decimal(b"-9223372036854775808"), Some(i64::MIN));
        assert_eq!(decimal(b"9223372036854775808"), None);
        assert_eq!(decimal(b""), None);
        assert_eq!(decimal(b"+1"), None);
        let at = |seconds, nanos| Some(Time { seconds, nanos });
        assert_eq!(time(b"12.5"), at(12, 500_000_000));
        assert_eq!(time(b"12.1234567899"), at(12, 123_456_789));
        assert_eq!(time(b"-0.25"), at(-1, 750_000_000));
        assert_eq!(time(b"1.x"), None);
        assert_eq!(time(b"1.0000000000x"), None);
    }

    #[test]
    fn keys_and_values_are_unescaped() {
        assert_eq!(unescape(b"user.a%3Db%25%zz%00"), b"user.a=b%%zz%00");
        assert_eq!(base64(b"AAH/").unwrap(), [0, 1, 255]);
        assert_eq!(base64(b"QQ==").unwrap(), b"A");
        assert_eq!(base64(b"?"), None);
    }

    #[test]
    fn a_record_with_newlines_in_its_value() {
        let extended = parse(&records(&[("SCHILY.xattr.user.k", "a\nb=c\0d")])).unwrap();
        assert_eq!(
            extended.xattrs,
            [(b"user.k".to_vec(), b"a\nb=c\0d".to_vec())]
        );
    }

    #[test]
    fn malformed_records() {
        for bad in [
            &b"x"[..],
            b"5 a=b",
            b"6 =ab\n",
            b"6 abc\n",
            b"99 a=b\n",
            b"0 a=b\n",
            b"-6 a=b\n",
            b"10 path=\0\n\n",
            b"11 size=1x\n",
            b"99999999999999999999999 a=b\n",
        ] {
            assert!(parse(bad).is_err(), "{:?}", String::from_utf8_lossy(bad));
        }
    }

    #[test]
    fn sparse_maps() {
        let map = |pairs: &[(&str, &str)]| parse(&records(pairs)).map(|e| e.sparse.map);
        let (offset, len) = (("GNU.sparse.offset", "1"), ("GNU.sparse.numbytes", "2"));
        assert_eq!(
            map(&[offset, len]).unwrap(),
            [Segment { offset: 1, len: 2 }]
        );
        assert_eq!(
            map(&[("GNU.sparse.map", "1,2,30,4")]).unwrap(),
            [
                Segment { offset: 1, len: 2 },
                Segment { offset: 30, len: 4 }
            ]
        );
        assert!(map(&[("GNU.sparse.map", "1,2,3")]).is_err());
        assert!(map(&[offset]).is_err());
        assert!(map(&[offset, offset]).is_err());
        assert!(map(&[len]).is_err());
    }
}
