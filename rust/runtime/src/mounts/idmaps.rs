//! User namespaces for mounts with ids of their own, and the maps of a container's.

use std::os::fd::{AsRawFd, OwnedFd};

use super::Scene;
use super::options::Options;
use crate::error::{Context, Error, Result};
use crate::spec::{IdMapping, Mount};
use crate::sys;

/// The user namespace whose maps the mount gets, and whether those below it do too.
pub(super) fn idmap(
    mount: &Mount,
    options: &Options,
    scene: &Scene<'_>,
) -> Result<Option<(OwnedFd, bool)>> {
    if options.idmap.is_none() && mount.uid_mappings.is_empty() && mount.gid_mappings.is_empty() {
        return Ok(None);
    }
    let own = !mount.uid_mappings.is_empty() || !mount.gid_mappings.is_empty();
    let (uids, gids) = match own {
        true => (&mount.uid_mappings, &mount.gid_mappings),
        false => (&scene.linux.uid_mappings, &scene.linux.gid_mappings),
    };
    if uids.is_empty() || gids.is_empty() {
        return Err(Error::invalid(
            "an idmapped mount needs uidMappings and gidMappings, its own or the container's",
        ));
    }
    let userns = user_namespace(uids, gids)?;
    Ok(Some((userns, options.idmap.unwrap_or(false))))
}

/// A user namespace with these maps, held by its descriptor only.
fn user_namespace(uids: &[IdMapping], gids: &[IdMapping]) -> Result<OwnedFd> {
    let what = || "a user namespace for an idmapped mount".to_owned();
    let (ours, theirs) = sys::socket_pair().context(what)?;
    // SAFETY: the child only waits for its end.
    let pid = unsafe { sys::clone3(libc::CLONE_NEWUSER as u64, None) }.context(what)?;
    if pid == 0 {
        sys::close(ours.as_raw_fd());
        let _ = sys::read(theirs.as_raw_fd(), &mut [0]);
        sys::exit(0);
    }
    let result = write_maps(pid, uids, gids).and_then(|()| {
        std::fs::File::open(format!("/proc/{pid}/ns/user"))
            .map(OwnedFd::from)
            .context(what)
    });
    drop(ours);
    let _ = sys::kill(pid, libc::SIGKILL);
    let _ = sys::wait(pid);
    result
}

/// Writes the maps of the user namespace that process `pid` is in.
pub fn write_maps(pid: i32, uids: &[IdMapping], gids: &[IdMapping]) -> Result<()> {
    for (file, maps) in [("uid_map", uids), ("gid_map", gids)] {
        if maps.is_empty() {
            continue;
        }
        let lines: String = maps
            .iter()
            .map(|m| format!("{} {} {}\n", m.container_id, m.host_id, m.size))
            .collect();
        std::fs::write(format!("/proc/{pid}/{file}"), lines)
            .context(|| format!("write {file} ({maps:?})"))?;
    }
    Ok(())
}
