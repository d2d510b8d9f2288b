//! What is mounted: `/proc/PID/mountinfo` (proc(5)).

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
use rustix::io::Errno;

use crate::error::{Error, Result};

/// Of the calling thread: threads may have mount namespaces of their own.
const MOUNTINFO: &str = "/proc/thread-self/mountinfo";

/// One line of mountinfo, escapes decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountInfo {
    /// Unique while it is mounted.
    pub id: u64,
    /// The mount it is mounted on; its own ID for the root of the tree.
    pub parent: u64,
    /// Of the device, 0 for file systems without one.
    pub major: u32,
    /// Of the device.
    pub minor: u32,
    /// Folder of the file system that is mounted; not `/` for most binds.
    pub root: PathBuf,
    /// Where it is mounted, relative to the root of the process.
    pub mount_point: PathBuf,
    /// Options of this mount.
    pub options: String,
    /// Propagation: `shared:N`, `master:N`, `propagate_from:N`, `unbindable`.
    pub propagation: Vec<String>,
    /// `ext4`, `overlay`, `fuse.NAME` …
    pub kind: String,
    /// Device, or whatever the file system takes.
    pub source: OsString,
    /// Options of the file system.
    pub super_options: OsString,
}

/// All mounts in the mount namespace of the calling thread, in the kernel's order.
///
/// # Errors
/// [`Error::Io`]: `/proc` cannot be read, or says what nobody understands.
pub fn mountinfo() -> Result<Vec<MountInfo>> {
    let text = std::fs::read(MOUNTINFO).map_err(|e| Error::io("read", MOUNTINFO, e))?;
    parse_mountinfo(&text)
}

/// Reads the text of a mountinfo file.
///
/// # Errors
/// [`Error::Io`] (invalid data) names the line.
pub fn parse_mountinfo(text: &[u8]) -> Result<Vec<MountInfo>> {
    text.split(|&b| b == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| {
            parse_line(line).ok_or_else(|| {
                let what = format!("unexpected line {:?}", String::from_utf8_lossy(line));
                Error::io(
                    "parse",
                    MOUNTINFO,
                    std::io::Error::new(std::io::ErrorKind::InvalidData, what),
                )
            })
        })
        .collect()
}

/// `36 35 98:0 /root /point options optional… - kind source super`; the source may be empty.
fn parse_line(line: &[u8]) -> Option<MountInfo> {
    let mut fields = line.split(|&b| b == b' ');
    let id = number(fields.next()?)?;
    let parent = number(fields.next()?)?;
    let device = std::str::from_utf8(fields.next()?).ok()?;
    let (major, minor) = device.split_once(':')?;
    let root = path(fields.next()?);
    let mount_point = path(fields.next()?);
    let options = text(fields.next()?);
    let mut propagation = Vec::new();
    loop {
        match fields.next()? {
            b"-" => break,
            field => propagation.push(text(field)),
        }
    }
    Some(MountInfo {
        id,
        parent,
        major: major.parse().ok()?,
        minor: minor.parse().ok()?,
        root,
        mount_point,
        options,
        propagation,
        kind: text(fields.next()?),
        source: OsString::from_vec(unescape(fields.next()?)),
        super_options: OsString::from_vec(unescape(fields.next()?)),
    })
}

fn number(field: &[u8]) -> Option<u64> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

fn text(field: &[u8]) -> String {
    String::from_utf8_lossy(&unescape(field)).into_owned()
}

fn path(field: &[u8]) -> PathBuf {
    OsString::from_vec(unescape(field)).into()
}

/// Decodes `\ooo`; a backslash without three octal digits stands for itself.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        match (first, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..]) => {
                plain.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = &tail[3..];
            }
            _ => {
                plain.push(first);
                rest = tail;
            }
        }
    }
    plain
}

/// Whether something is mounted on `path`, links followed. What does not exist is no mount point.
///
/// # Errors
/// [`Error::Io`]: the path cannot be looked at.
pub fn is_mountpoint(path: &Path) -> Result<bool> {
    // A server that does not answer must not keep us: the kernel knows it without asking.
    let flags = AtFlags::STATX_DONT_SYNC | AtFlags::NO_AUTOMOUNT;
    match statx(CWD, path, flags, StatxFlags::empty()) {
        Ok(stat)
            if stat
                .stx_attributes_mask
                .contains(StatxAttributes::MOUNT_ROOT) =>
        {
            Ok(stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
        }
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(false),
        // Old kernels, and mounts whose server is gone.
        Ok(_) | Err(Errno::NOTCONN | Errno::IO | Errno::STALE | Errno::HOSTDOWN) => is_listed(path),
        Err(e) => Err(Error::io("statx", path, e)),
    }
}

fn is_listed(path: &Path) -> Result<bool> {
    let Some(path) = crate::unmount::canonical(path)? else {
        return Ok(false);
    };
    Ok(mountinfo()?.iter().any(|mount| mount.mount_point == path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_of_a_line_is_read() {
        let line = b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:7 - ext3 /dev/root rw,errors=continue\n";
        let mounts = parse_mountinfo(line).unwrap();
        assert_eq!(
            mounts,
            [MountInfo {
                id: 36,
                parent: 35,
                major: 98,
                minor: 0,
                root: "/mnt1".into(),
                mount_point: "/mnt2".into(),
                options: "rw,noatime".into(),
                propagation: vec!["master:1".into(), "shared:7".into()],
                kind: "ext3".into(),
                source: "/dev/root".into(),
                super_options: "rw,errors=continue".into(),
            }]
        );
    }

    #[test]
    fn escapes_are_decoded_and_an_empty_source_stays_empty() {
        let line = br"1 1 0:5 / /a\040b\011c\134d\012e\043f\xff rw - tmpfs  rw";
        let mount = parse_mountinfo(line).unwrap().remove(0);
        assert_eq!(mount.mount_point, Path::new("/a b\tc\\d\ne#f\\xff"));
        assert_eq!(mount.source, "");
    }

    #[test]
    fn bytes_that_are_no_utf8_survive() {
        use std::os::unix::ffi::OsStrExt;
        let mount = parse_mountinfo(b"1 1 0:5 / /\xff rw - tmpfs x rw")
            .unwrap()
            .remove(0);
        assert_eq!(mount.mount_point.as_os_str().as_bytes(), b"/\xff");
    }

    #[test]
    fn a_line_that_is_none_is_named() {
        for wrong in [
            "nonsense",
            "1 1 0:5 / /x rw shared:1",
            "1 1 05 / /x rw - tmpfs x rw",
        ] {
            let error = parse_mountinfo(wrong.as_bytes()).unwrap_err().to_string();
            assert!(error.contains(wrong), "{error}");
        }
    }

    #[test]
    fn the_list_agrees_with_the_kernels_answer() {
        for path in [
            "/",
            "/proc",
            "/proc/self",
            "/proc/1/absent",
            "/usr",
            "/usr/../proc",
        ] {
            let path = Path::new(path);
            assert_eq!(
                is_listed(path).unwrap(),
                is_mountpoint(path).unwrap(),
                "{}",
                path.display()
            );
        }
    }
}
