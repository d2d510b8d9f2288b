//! Headers in POSIX pax form: plain ustar where it fits, pax records for the rest.
//!
//! The bytes are those that Go's `archive/tar` writes for the same values (and so containerd's), field
//! for field: an unchanged tree gives the same diff ID whoever makes the layer.

use std::collections::BTreeMap;

use super::header::{self, BLOCK, Block, Kind, field};
use super::sparse::padding;

/// What a header is made from.
#[derive(Debug, Clone)]
pub struct WriteEntry<'a> {
    /// What it is; `Other` is written with its flag.
    pub kind: Kind,
    /// Path relative to the root; directories end with a slash.
    pub path: &'a [u8],
    /// Target of a link.
    pub link: &'a [u8],
    /// The twelve permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Bytes of content that follow.
    pub size: u64,
    /// Modification time in seconds since 1970.
    pub mtime: i64,
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Extended attributes.
    pub xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

/// Appends the header blocks of `entry`, extended header included.
pub fn write_header(entry: &WriteEntry<'_>, out: &mut Vec<u8>) {
    let mut records: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    let mut record = |key: &str, value: &[u8]| {
        records.insert(key.as_bytes().to_vec(), value.to_vec());
    };
    let mut block: Block = [0; BLOCK];
    if !text_field(&mut block[field::LINK], entry.link) {
        record("linkpath", entry.link);
    }
    number_field(&mut block[field::MODE], u64::from(entry.mode));
    for (range, value, key) in [
        (field::UID, u64::from(entry.uid), "uid"),
        (field::GID, u64::from(entry.gid), "gid"),
        (field::SIZE, entry.size, "size"),
    ] {
        if !number_field(&mut block[range], value) {
            record(key, value.to_string().as_bytes());
        }
    }
    let mtime_fits =
        u64::try_from(entry.mtime).is_ok_and(|t| number_field(&mut block[field::MTIME], t));
    if !mtime_fits {
        number_field(&mut block[field::MTIME], 0);
        record("mtime", entry.mtime.to_string().as_bytes());
    }
    number_field(&mut block[field::DEV_MAJOR], u64::from(entry.device.0));
    number_field(&mut block[field::DEV_MINOR], u64::from(entry.device.1));
    block[field::TYPE] = flag(entry.kind);
    for (name, value) in entry.xattrs {
        let mut key = b"SCHILY.xattr.".to_vec();
        escape(name, &mut key);
        records.insert(key, value.clone());
    }
    // ustar's split of a long path saves the extended header, unless there is one anyway.
    match split_path(entry.path).filter(|_| records.is_empty()) {
        Some((prefix, name)) => {
            block[field::PREFIX][..prefix.len()].copy_from_slice(prefix);
            block[field::NAME][..name.len()].copy_from_slice(name);
        }
        None => {
            if !text_field(&mut block[field::NAME], entry.path) {
                records.insert(b"path".to_vec(), entry.path.to_vec());
            }
        }
    }
    if !records.is_empty() {
        extended_header(entry.path, &records, out);
    }
    seal(&mut block);
    out.extend_from_slice(&block);
}

/// Two zero blocks.
pub(crate) const END_MARK: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

fn flag(kind: Kind) -> u8 {
    match kind {
        Kind::File => b'0',
        Kind::HardLink => b'1',
        Kind::Symlink => b'2',
        Kind::Char => b'3',
        Kind::Block => b'4',
        Kind::Directory => b'5',
        Kind::Fifo => b'6',
        Kind::Other(flag) => flag,
    }
}

fn extended_header(path: &[u8], records: &BTreeMap<Vec<u8>, Vec<u8>>, out: &mut Vec<u8>) {
    let mut data = Vec::new();
    for (key, value) in records {
        push_record(key, value, &mut data);
    }
    let (above, name) = match path.iter().rposition(|&b| b == b'/') {
        Some(slash) => (&path[..=slash], &path[slash + 1..]),
        None => (&b""[..], path),
    };
    let mut label = [above, b"PaxHeaders.0/", name].concat();
    if name.is_empty() {
        label.pop();
    }
    let mut label = ascii(&label);
    label.truncate(field::NAME.len());
    while label.ends_with(b"/") {
        label.pop();
    }
    let mut block: Block = [0; BLOCK];
    block[..label.len()].copy_from_slice(&label);
    for range in [field::MODE, field::UID, field::GID, field::MTIME] {
        number_field(&mut block[range], 0);
    }
    number_field(&mut block[field::SIZE], data.len() as u64);
    block[field::TYPE] = b'x';
    seal(&mut block);
    out.extend_from_slice(&block);
    let blanks = padding(data.len() as u64) as usize;
    out.append(&mut data);
    out.resize(out.len() + blanks, 0);
}

/// `LENGTH SP KEY=VALUE LF`, where LENGTH counts its own digits.
pub(super) fn push_record(key: &[u8], value: &[u8], out: &mut Vec<u8>) {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + decimal_digits(rest);
    len = rest + decimal_digits(len);
    out.extend_from_slice(len.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

fn decimal_digits(n: usize) -> usize {
    n.max(1).ilog10() as usize + 1
}

/// Writes what fits, ASCII only; false when that is not the whole text.
fn text_field(field: &mut [u8], text: &[u8]) -> bool {
    let shown = ascii(text);
    let n = shown.len().min(field.len());
    field[..n].copy_from_slice(&shown[..n]);
    if shown.len() > field.len() {
        // A cut name that ends in a slash is taken for a directory by old readers.
        while let Some(last) = field.iter_mut().rfind(|b| **b != 0).filter(|b| **b == b'/') {
            *last = 0;
        }
    }
    shown.len() == text.len() && text.len() <= field.len()
}

/// Without what is no ASCII character: of UTF-8 text and of other bytes alike.
fn ascii(text: &[u8]) -> Vec<u8> {
    text.iter()
        .copied()
        .filter(|b| b.is_ascii() && *b != 0)
        .collect()
}

/// Octal digits with leading zeros and a NUL. False, and zero in the field, when the number is too large.
fn number_field(field: &mut [u8], value: u64) -> bool {
    let digits = field.len() - 1;
    let fits = value < 1 << (3 * digits);
    let mut rest = if fits { value } else { 0 };
    for byte in field[..digits].iter_mut().rev() {
        *byte = b'0' + (rest & 7) as u8;
        rest >>= 3;
    }
    field[digits] = 0;
    fits
}

/// Magic, version and checksum.
fn seal(block: &mut Block) {
    block[field::MAGIC].copy_from_slice(b"ustar\x0000");
    let (sum, _) = header::checksums(block);
    let checksum = &mut block[field::CHECKSUM];
    number_field(&mut checksum[..7], sum as u64);
    checksum[7] = b' ';
}

/// Splits a long ASCII path at a slash so that both parts fit ustar's fields.
fn split_path(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let (name_len, prefix_len) = (field::NAME.len(), field::PREFIX.len());
    if path.len() <= name_len || !path.is_ascii() {
        return None;
    }
    let search = if path.len() > prefix_len + 1 {
        prefix_len + 1
    } else {
        path.len() - usize::from(path.ends_with(b"/"))
    };
    let slash = path[..search].iter().rposition(|&b| b == b'/')?;
    let name = &path[slash + 1..];
    (slash > 0 && !name.is_empty() && name.len() <= name_len).then(|| (&path[..slash], name))
}

/// An equals sign would end the key; GNU tar's escape for it, and for the escape's own sign.
fn escape(name: &[u8], out: &mut Vec<u8>) {
    for &byte in name {
        match byte {
            b'=' => out.extend_from_slice(b"%3D"),
            b'%' => out.extend_from_slice(b"%25"),
            other => out.push(other),
        }
    }
}
