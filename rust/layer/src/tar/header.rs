//! One 512-byte header block.

use crate::error::{Error, Result};

/// Size of a tar block in bytes.
pub const BLOCK: usize = 512;

/// One block.
pub(crate) type Block = [u8; BLOCK];

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Regular file, contiguous and sparse ones included.
    File,
    /// Another name for an inode.
    HardLink,
    /// Symbolic link.
    Symlink,
    /// Character device.
    Char,
    /// Block device.
    Block,
    /// Directory.
    Directory,
    /// Named pipe.
    Fifo,
    /// Any other type flag, e.g. GNU's volume label `V`.
    Other(u8),
}

/// A point in time as pax has it; `nanos` counts forward also before 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Time {
    /// Seconds since 1970.
    pub seconds: i64,
    /// 0 … 999,999,999.
    pub nanos: u32,
}

/// Byte ranges of the fields (POSIX ustar; tar(5)).
pub(crate) mod field {
    use std::ops::Range;

    pub const NAME: Range<usize> = 0..100;
    pub const MODE: Range<usize> = 100..108;
    pub const UID: Range<usize> = 108..116;
    pub const GID: Range<usize> = 116..124;
    pub const SIZE: Range<usize> = 124..136;
    pub const MTIME: Range<usize> = 136..148;
    pub const CHECKSUM: Range<usize> = 148..156;
    pub const TYPE: usize = 156;
    pub const LINK: Range<usize> = 157..257;
    pub const MAGIC: Range<usize> = 257..265;
    pub const DEV_MAJOR: Range<usize> = 329..337;
    pub const DEV_MINOR: Range<usize> = 337..345;
    pub const PREFIX: Range<usize> = 345..500;
    pub const STAR_PREFIX: Range<usize> = 345..476;
    pub const STAR_TRAILER: Range<usize> = 508..512;
    pub const GNU_ATIME: Range<usize> = 345..357;
    pub const GNU_CTIME: Range<usize> = 357..369;
    pub const GNU_SPARSE: Range<usize> = 386..482;
    pub const GNU_EXTENDED: usize = 482;
    pub const GNU_REAL_SIZE: Range<usize> = 483..495;
}

/// The dialect, by magic and version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    V7,
    Ustar,
    Star,
    Gnu,
}

/// A header block taken apart, before extended headers are laid over it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fields {
    pub name: Vec<u8>,
    pub link: Vec<u8>,
    pub flag: u8,
    pub mode: u32,
    pub uid: i64,
    pub gid: i64,
    pub size: i64,
    pub mtime: i64,
    pub major: i64,
    pub minor: i64,
}

/// Whether the block is an end mark.
pub(crate) fn is_zero(block: &Block) -> bool {
    block.iter().all(|&b| b == 0)
}

/// Checks the sum and takes the fields out.
pub(crate) fn parse(block: &Block) -> Result<Fields> {
    verify_checksum(block)?;
    let dialect = dialect(block);
    let number = |range: std::ops::Range<usize>, what: &str| {
        parse_number(&block[range]).ok_or_else(|| bad_field(block, what))
    };
    let flag = block[field::TYPE];
    let mut fields = Fields {
        name: text(&block[field::NAME]).to_vec(),
        link: text(&block[field::LINK]).to_vec(),
        flag,
        // The file type above the twelve permission bits is the type flag's business.
        mode: (number(field::MODE, "mode")? & 0o7777) as u32,
        uid: number(field::UID, "uid")?,
        gid: number(field::GID, "gid")?,
        size: number(field::SIZE, "size")?,
        mtime: number(field::MTIME, "mtime")?,
        major: 0,
        minor: 0,
    };
    if dialect != Dialect::V7 && matches!(flag, b'3' | b'4') {
        fields.major = number(field::DEV_MAJOR, "device number")?;
        fields.minor = number(field::DEV_MINOR, "device number")?;
    }
    let prefix = match dialect {
        Dialect::V7 => b"",
        Dialect::Ustar => text(&block[field::PREFIX]),
        Dialect::Star => text(&block[field::STAR_PREFIX]),
        Dialect::Gnu => stray_prefix(block),
    };
    if !prefix.is_empty() {
        let mut name = prefix.to_vec();
        name.push(b'/');
        name.append(&mut fields.name);
        fields.name = name;
    }
    Ok(fields)
}

fn dialect(block: &Block) -> Dialect {
    match &block[field::MAGIC] {
        b"ustar  \0" => Dialect::Gnu,
        [b'u', b's', b't', b'a', b'r', 0, ..] if &block[field::STAR_TRAILER] == b"tar\0" => {
            Dialect::Star
        }
        [b'u', b's', b't', b'a', b'r', 0, ..] => Dialect::Ustar,
        _ => Dialect::V7,
    }
}

/// Go before 1.8 (and so old Docker) wrote a ustar prefix under GNU magic. It is recognised where the
/// times that GNU keeps there are no numbers.
fn stray_prefix(block: &Block) -> &[u8] {
    let times = [&block[field::GNU_ATIME], &block[field::GNU_CTIME]];
    if times.iter().all(|t| t[0] == 0 || parse_number(t).is_some()) {
        return b"";
    }
    let prefix = text(&block[field::PREFIX]);
    if prefix.is_ascii() { prefix } else { b"" }
}

fn verify_checksum(block: &Block) -> Result<()> {
    let stored =
        parse_number(&block[field::CHECKSUM]).ok_or_else(|| bad_field(block, "checksum"))?;
    let (unsigned, signed) = checksums(block);
    // Sun's tar summed signed bytes; readers have accepted both ever since.
    if stored != unsigned && stored != signed {
        return Err(Error::invalid(format!(
            "tar header checksum does not match{}",
            named(block)
        )));
    }
    Ok(())
}

/// Sum of all bytes with the checksum field taken as blanks: of unsigned and of signed bytes.
pub(crate) fn checksums(block: &Block) -> (i64, i64) {
    let mut unsigned = 0i64;
    let mut high = 0i64;
    for (i, &byte) in block.iter().enumerate() {
        let byte = if field::CHECKSUM.contains(&i) {
            b' '
        } else {
            byte
        };
        unsigned += i64::from(byte);
        high += i64::from(byte >> 7);
    }
    (unsigned, unsigned - 256 * high)
}

fn bad_field(block: &Block, what: &str) -> Error {
    Error::invalid(format!("tar header has no valid {what}{}", named(block)))
}

/// ` in NAME` for messages, if there is something printable to say.
fn named(block: &Block) -> String {
    let name = String::from_utf8_lossy(text(&block[field::NAME]));
    match name.is_empty() || name.chars().any(char::is_control) {
        true => String::new(),
        false => format!(" in {name:?}"),
    }
}

/// A text field: up to the first NUL or to its end.
pub(crate) fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|&b| b == 0).unwrap_or(field.len());
    &field[..end]
}

/// A number field: octal digits, or base 256 (two's complement, big endian) when the top bit is set.
pub(crate) fn parse_number(field: &[u8]) -> Option<i64> {
    if field.first().is_some_and(|b| b & 0x80 != 0) {
        return parse_base256(field);
    }
    let blank = |b: &u8| *b == b' ' || *b == 0;
    let start = field.iter().position(|b| !blank(b)).unwrap_or(field.len());
    let digits = text(&field[start..]);
    let end = digits.iter().rposition(|b| !blank(b)).map_or(0, |i| i + 1);
    digits[..end].iter().try_fold(0i64, |value, &b| match b {
        b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(b - b'0')),
        _ => None,
    })
}

fn parse_base256(field: &[u8]) -> Option<i64> {
    let negative = field[0] & 0x40 != 0;
    let flip = if negative { 0xff } else { 0 };
    let mut value = 0u64;
    for (i, &byte) in field.iter().enumerate() {
        let byte = (byte ^ flip) & if i == 0 { 0x7f } else { 0xff };
        if value >> 56 != 0 {
            return None;
        }
        value = value << 8 | u64::from(byte);
    }
    let value = i64::try_from(value).ok()?;
    Some(if negative { !value } else { value })
}
