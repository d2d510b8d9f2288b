//! Mount helper programs: `fuse.NAME` and `fuse3.NAME` are mounted by `mount.fuse` and `mount.fuse3`.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::error::{Error, Result};
use crate::mount::Mount;
use crate::place::Place;

const HELPERS: [(&str, &str); 2] = [("fuse.", "mount.fuse"), ("fuse3.", "mount.fuse3")];

/// The helper for a type, and what the helper calls the type.
pub(crate) fn of(kind: &str) -> Option<(&'static str, &str)> {
    HELPERS
        .iter()
        .find_map(|(prefix, program)| Some((*program, kind.strip_prefix(prefix)?)))
}

/// Runs `program SOURCE TARGET -o OPTION… -t KIND`.
pub(crate) fn mount(program: &str, kind: &str, mount: &Mount, place: &Place) -> Result<()> {
    let mut command = Command::new(program);
    command.arg(&mount.source).arg(place.path());
    for option in &mount.options {
        command.args(["-o", option]);
    }
    command.args(["-t", kind]);
    run(program, command, place.path())
}

/// Unmounts with FUSE's own program, which may do it for users who may not.
pub(crate) fn unmount_fuse(target: &Path) -> Result<()> {
    let mut result = Ok(());
    for program in ["fusermount3", "fusermount"] {
        let mut command = Command::new(program);
        command.arg("-u").arg(target);
        result = run(program, command, target);
        if result.is_ok() {
            break;
        }
    }
    result
}

fn run(program: &str, mut command: Command, target: &Path) -> Result<()> {
    let failed = |reason: String, missing| Error::Helper {
        program: program.to_owned(),
        target: target.to_owned(),
        reason,
        missing,
    };
    let output = command
        .stdin(Stdio::null())
        .output()
        .map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => {
                failed("not found on PATH: install FUSE's programs".into(), true)
            }
            _ => failed(e.to_string(), false),
        })?;
    if output.status.success() {
        return Ok(());
    }
    let text = [output.stderr, output.stdout].concat();
    let text = String::from_utf8_lossy(&text);
    Err(failed(format!("{}: {}", output.status, text.trim()), false))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_fuse_types_have_helpers() {
        assert_eq!(
            of("fuse3.fuse-overlayfs"),
            Some(("mount.fuse3", "fuse-overlayfs"))
        );
        assert_eq!(of("fuse.sshfs"), Some(("mount.fuse", "sshfs")));
        assert_eq!(of("fuse"), None);
        assert_eq!(of("overlay"), None);
    }
}
