//! Binds: detached trees of the host's mounts.

use std::os::fd::AsRawFd;
use std::path::Path;

use super::idmaps::idmap;
use super::options::Options;
use super::{Scene, c_string, check_proc};
use crate::error::{Context, Result};
use crate::plan::{self, What};
use crate::spec::Mount;
use crate::sys::{self, MountAttr};

/// The host's `source` as a mount, and whether it is something else than a directory.
pub(super) fn bind(
    source: &Path,
    mount: &Mount,
    options: &Options,
    scene: &Scene<'_>,
) -> Result<(What, bool)> {
    let path = c_string(&source.to_string_lossy())?;
    let place = sys::open(&path, libc::O_PATH).context(|| format!("stat {}", source.display()))?;
    let stat = sys::fstat(place.as_raw_fd()).context(|| format!("stat {}", source.display()))?;
    let is_file = stat.st_mode & libc::S_IFMT != libc::S_IFDIR;
    check_proc(mount, Some(&place))?;
    if let Some(source) = bound_in_turn(source, mount, options, scene) {
        let propagation = match scene.propagation & libc::MS_SHARED {
            0 => scene.propagation & !libc::MS_REC,
            _ => 0,
        };
        let bind = plan::Bind {
            source: c_string(&source.to_string_lossy())?,
            recursive: options.recursive,
            propagation,
            below: options.below,
            own: options.own,
        };
        return Ok((What::Bind(bind), is_file));
    }
    let tree = sys::open_tree(libc::AT_FDCWD, &path, options.recursive)
        .context(|| format!("open_tree {}", source.display()))?;
    let set = |attr: &MountAttr, recursive: bool, what: &str| {
        if attr.set | attr.clear | attr.propagation == 0 {
            return Ok(());
        }
        sys::mount_setattr(tree.as_raw_fd(), recursive, attr)
            .context(|| format!("setting {what} of {}", source.display()))
    };
    if scene.propagation & libc::MS_SHARED == 0 {
        // What the host's tree becomes in the container's namespace, its copy becomes too.
        let attr = MountAttr {
            propagation: scene.propagation & !libc::MS_REC,
            ..Default::default()
        };
        set(&attr, true, "the propagation")?;
    }
    set(&options.below, true, "recursive attributes")?;
    set(&options.own, false, "attributes")?;
    if let Some((userns, recursive)) = idmap(mount, options, scene)? {
        let attr = MountAttr {
            set: sys::MOUNT_ATTR_IDMAP,
            userns_fd: userns.as_raw_fd() as u64,
            ..Default::default()
        };
        set(&attr, recursive, "the id mapping")?;
    }
    Ok((What::Tree(tree), is_file))
}

/// The real path of a source that the new process finds as well as this one: it sees the same tree with
/// the same rights, and nothing of it is the container's root.
fn bound_in_turn(
    source: &Path,
    mount: &Mount,
    options: &Options,
    scene: &Scene<'_>,
) -> Option<std::path::PathBuf> {
    let mapped =
        options.idmap.is_some() || !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty();
    if mapped || scene.linux.namespace("user").is_some() || !scene.linux.makes("mount") {
        return None;
    }
    let own = |path: &Path| {
        path.starts_with("/proc") || path.starts_with("/dev/fd") || path.to_str().is_none()
    };
    if own(source) {
        return None;
    }
    let real = source.canonicalize().ok()?;
    let root = scene.rootfs;
    (!own(&real) && !real.starts_with(root) && !root.starts_with(&real)).then_some(real)
}
