//! The one error type of the crate.

use std::io;
use std::path::{Path, PathBuf};

/// Shorthand for results of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The result of a system call of libc's, which says -1 and leaves the reason in `errno`.
pub(crate) fn check(result: impl Into<i64>) -> io::Result<()> {
    if result.into() < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Why a call failed. The `Display` text names the mount and is fit to show to a user.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel refused a mount.
    #[error("{0}")]
    Mount(Box<FailedMount>),

    /// A system call other than the mount itself failed.
    #[error("{op} {}: {}", path.display(), errno_text(error))]
    Io {
        /// The system call, or what it was for.
        op: &'static str,
        /// What it was about.
        path: PathBuf,
        /// The kernel's answer.
        error: io::Error,
    },

    /// An option that cannot be right, whatever the kernel says.
    #[error("invalid mount option {option:?}: {reason}")]
    InvalidOption {
        /// As it was given.
        option: String,
        /// What is wrong, and what is expected.
        reason: String,
    },

    /// The options do not fit in the page that mount(2) takes.
    #[error("mount options of {} are too long: {length} bytes, mount(2) takes {limit}", target.display())]
    OptionsTooLong {
        /// Where it was to be mounted.
        target: PathBuf,
        /// Bytes of the options, separators included.
        length: usize,
        /// What the kernel takes.
        limit: usize,
    },

    /// A call that would do harm whatever the state of the system.
    #[error("{0}")]
    Refused(String),

    /// A mount helper program (`mount.fuse3` …) is missing or failed.
    #[error("mount helper {program} for {}: {reason}", target.display())]
    Helper {
        /// The program.
        program: String,
        /// Where it was to mount.
        target: PathBuf,
        /// Its output and exit status, or why it did not start.
        reason: String,
        /// Whether the program is not installed.
        missing: bool,
    },

    /// A file system without project quotas, or with them switched off.
    #[error("the file system of {} has no project quotas (xfs or ext4 with the mount option prjquota): {}", path.display(), errno_text(error))]
    NoProjectQuotas {
        /// A folder on it.
        path: PathBuf,
        /// The kernel's answer.
        error: io::Error,
    },

    /// A failure, and the failure to take back what was made before it.
    #[error("{first}; and what was mounted before it could not be taken away: {second}")]
    Undo {
        /// Why the call failed.
        first: Box<Error>,
        /// Why something of it is left behind.
        second: Box<Error>,
    },
}

/// A mount the kernel refused, with all it was asked for.
#[derive(Debug)]
pub struct FailedMount {
    /// The source as it was given to the kernel (a loop device instead of its file).
    pub device: String,
    /// Where it was to be mounted, links resolved.
    pub target: PathBuf,
    /// File system, or `bind`.
    pub kind: String,
    /// `MS_*`.
    pub flags: u32,
    /// What the file system itself was told.
    pub data: String,
    /// The kernel's answer.
    pub error: io::Error,
    /// The step that failed where it is not mount(2), and what the kernel logged about it; may be empty.
    pub detail: String,
}

impl std::fmt::Display for FailedMount {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "mount source {:?}, target {:?}, fstype {}, flags {}, data {:?}, err: {}",
            self.device,
            self.target,
            self.kind,
            self.flags,
            self.data,
            errno_text(&self.error)
        )?;
        if !self.detail.is_empty() {
            write!(f, " ({})", self.detail)?;
        }
        Ok(())
    }
}

impl Error {
    pub(crate) fn io(
        op: &'static str,
        path: impl AsRef<Path>,
        error: impl Into<io::Error>,
    ) -> Self {
        Self::Io {
            op,
            path: path.as_ref().to_owned(),
            error: error.into(),
        }
    }

    pub(crate) fn option(option: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::InvalidOption {
            option: option.into(),
            reason: reason.into(),
        }
    }

    /// The `errno` behind the failure, of the first one where there are two.
    pub fn raw_os_error(&self) -> Option<i32> {
        match self {
            Self::Mount(failed) => failed.error.raw_os_error(),
            Self::Io { error, .. } => error.raw_os_error(),
            Self::Undo { first, .. } => first.raw_os_error(),
            _ => None,
        }
    }
}

/// "invalid argument" where Rust says "Invalid argument (os error 22)": the form clients know from Go.
fn errno_text(error: &io::Error) -> String {
    let text = error.to_string();
    let text = match text.rfind(" (os error ") {
        Some(end) if error.raw_os_error().is_some() => &text[..end],
        _ => &text,
    };
    let mut letters = text.chars();
    match letters.next() {
        Some(first) => first.to_lowercase().chain(letters).collect(),
        None => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_mount_names_everything_it_was_asked_for() {
        let error = Error::Mount(Box::new(FailedMount {
            device: "overlay".into(),
            target: "/x/rootfs".into(),
            kind: "overlay".into(),
            flags: 0,
            data: "lowerdir=/a:/b".into(),
            error: io::Error::from_raw_os_error(libc::EINVAL),
            detail: String::new(),
        }));
        assert_eq!(
            error.to_string(),
            "mount source \"overlay\", target \"/x/rootfs\", fstype overlay, flags 0, \
             data \"lowerdir=/a:/b\", err: invalid argument"
        );
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }

    #[test]
    fn errno_texts_have_gos_form() {
        for (errno, text) in [
            (libc::EBUSY, "device or resource busy"),
            (libc::ENOENT, "no such file or directory"),
        ] {
            assert_eq!(errno_text(&io::Error::from_raw_os_error(errno)), text);
        }
    }
}
