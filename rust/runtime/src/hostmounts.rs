//! Mounts of a container that has no mount namespace: they are the host's, and go with the container.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use crate::error::{Context, Error, Result};
use crate::mounts::c_string;
use crate::state::Record;
use crate::sys;

/// The places below `root` (not itself) that something is mounted on, in the order of mounting.
pub fn below(root: &Path) -> Vec<PathBuf> {
    let text = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    text.split(|b| *b == b'\n')
        .filter_map(|line| line.split(|b| *b == b' ').nth(4))
        .map(|field| PathBuf::from(unescape(field)))
        .filter(|path| path != root && path.starts_with(root))
        .collect()
}

/// Takes away what was mounted since the container was made.
pub fn remove(record: &Record) -> Result<()> {
    let Some(before) = &record.mounts_before else {
        return Ok(());
    };
    for path in below(&record.rootfs).iter().rev() {
        if before.contains(path) {
            continue;
        }
        let text = path
            .to_str()
            .ok_or_else(|| Error::failed(format!("unmounting {}: not a text", path.display())))?;
        sys::umount(&c_string(text)?, libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW)
            .context(|| format!("unmounting {}", path.display()))?;
    }
    Ok(())
}

/// The kernel writes blanks and backslashes as `\\ooo`.
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        rest = tail;
        let octal = match (first, tail) {
            (b'\\', [a, b, c, ..]) => std::str::from_utf8(&[*a, *b, *c])
                .ok()
                .and_then(|digits| u8::from_str_radix(digits, 8).ok()),
            _ => None,
        };
        if octal.is_some() {
            rest = &tail[3..];
        }
        bytes.push(octal.unwrap_or(*first));
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn escapes_of_the_kernel() {
        assert_eq!(unescape(b"/a\\040b\\134c").as_bytes(), b"/a b\\c");
        assert_eq!(unescape(b"/a\\04").as_bytes(), b"/a\\04");
    }
}
