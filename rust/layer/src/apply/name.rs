//! Names in an archive: cleaned to components below the root, and sorted into files and whiteouts.

use crate::error::{Error, Result};
use crate::sys::split;

/// Cleans a path lexically, as if the root were `/`: no empty, `.` or `..` component is left, and
/// `..` stops at the root. Empty for the root itself.
pub(crate) fn clean(path: &[u8]) -> Result<Vec<u8>> {
    if path.contains(&0) {
        return Err(Error::invalid(format!("NUL in the name {}", show(path))));
    }
    let mut clean: Vec<u8> = Vec::with_capacity(path.len());
    for component in path.split(|&b| b == b'/') {
        match component {
            b"" | b"." => {}
            b".." => clean.truncate(split(&clean).0.len()),
            name => {
                if !clean.is_empty() {
                    clean.push(b'/');
                }
                clean.extend_from_slice(name);
            }
        }
    }
    Ok(clean)
}

/// What the last component of an entry's path asks for.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Purpose<'a> {
    /// An ordinary entry.
    Create,
    /// `.wh.NAME`: `NAME` of the lower layers is gone.
    Delete(&'a [u8]),
    /// `.wh..wh..opq`: nothing of the lower layers is left in this directory.
    Opaque,
    /// AUFS' own bookkeeping (`.wh..wh.plnk`, `.wh..wh.aufs`, …): means nothing elsewhere.
    Bookkeeping,
}

const WHITEOUT: &[u8] = b".wh.";
const WHITEOUT_META: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// Sorts a cleaned, non-empty path.
///
/// # Errors
/// [`Error::InvalidArchive`] for a whiteout of nothing, of `.` or of `..`.
pub(crate) fn purpose(path: &[u8]) -> Result<Purpose<'_>> {
    let (parent, name) = split(path);
    if parent
        .split(|&b| b == b'/')
        .any(|c| c.starts_with(WHITEOUT_META))
    {
        return Ok(Purpose::Bookkeeping);
    }
    if name == OPAQUE {
        return Ok(Purpose::Opaque);
    }
    if name.starts_with(WHITEOUT_META) {
        return Ok(Purpose::Bookkeeping);
    }
    match name.strip_prefix(WHITEOUT) {
        None => Ok(Purpose::Create),
        Some(b"" | b"." | b"..") => Err(Error::invalid(format!(
            "invalid whiteout name {}",
            show(path)
        ))),
        Some(target) => Ok(Purpose::Delete(target)),
    }
}

/// A name as a message shows it.
pub(crate) fn show(path: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleaning() {
        let cases: [(&[u8], &[u8]); 12] = [
            (b"", b""),
            (b".", b""),
            (b"./", b""),
            (b"/", b""),
            (b"..", b""),
            (b"../../etc/passwd", b"etc/passwd"),
            (b"/etc//passwd/", b"etc/passwd"),
            (b"a/./b/../c", b"a/c"),
            (b"a/../../b", b"b"),
            (b"a/b/../../..", b""),
            (b"a/...", b"a/..."),
            (b"\xff/\n", b"\xff/\n"),
        ];
        for (path, expected) in cases {
            assert_eq!(clean(path).unwrap(), expected, "{}", show(path));
        }
        assert!(clean(b"a\0b").is_err());
    }

    #[test]
    fn purposes() {
        assert_eq!(purpose(b"a/b").unwrap(), Purpose::Create);
        assert_eq!(purpose(b"a/.whiteout").unwrap(), Purpose::Create);
        assert_eq!(purpose(b"a/.wh.b").unwrap(), Purpose::Delete(b"b"));
        assert_eq!(purpose(b".wh....").unwrap(), Purpose::Delete(b"..."));
        assert_eq!(purpose(b"a/.wh..wh..opq").unwrap(), Purpose::Opaque);
        assert_eq!(purpose(b".wh..wh.plnk").unwrap(), Purpose::Bookkeeping);
        assert_eq!(purpose(b".wh..wh.plnk/1.2").unwrap(), Purpose::Bookkeeping);
        assert_eq!(purpose(b".wh..wh.aufs").unwrap(), Purpose::Bookkeeping);
        for bad in [&b"a/.wh."[..], b".wh..", b"a/.wh..."] {
            assert!(purpose(bad).is_err(), "{}", show(bad));
        }
    }
}
