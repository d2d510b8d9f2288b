//! The v1 hierarchies at a container's `/sys/fs/cgroup`.

use super::binds::bind;
use super::file_systems::file_system;
use super::options::{Options, RDONLY};
use super::{Scene, c_string, step};
use crate::error::Result;
use crate::plan::{self, What};
use crate::spec::Mount;
use crate::sys::MountAttr;

/// The v1 hierarchies below a tmpfs, each at its place as the host has it.
pub(super) fn cgroup_v1(
    mount: &Mount,
    options: &Options,
    scene: &Scene<'_>,
) -> Result<Vec<plan::Mount>> {
    let base = Mount {
        destination: mount.destination.clone(),
        ..Default::default()
    };
    let tmpfs = Options {
        own: MountAttr {
            set: options.own.set & !RDONLY,
            ..Default::default()
        },
        data: vec!["mode=755".into()],
        ..Default::default()
    };
    let label = &scene.linux.mount_label;
    let fs = file_system("tmpfs", "tmpfs", &tmpfs, label)?;
    let mut steps = vec![step(&base, What::New(fs), Vec::new())?];
    for hierarchy in scene.cgroups.v1() {
        let name = hierarchy.directory_name();
        let at = Mount {
            destination: format!("{}/{name}", mount.destination.trim_end_matches('/')),
            ..Default::default()
        };
        let what = if scene.linux.makes("cgroup") {
            let own = Options {
                own: options.own,
                data: vec![hierarchy.mount_option()],
                ..Default::default()
            };
            What::New(file_system("cgroup", "cgroup", &own, "")?)
        } else {
            bind(&hierarchy.path, mount, options, scene)?.0
        };
        steps.push(step(&at, what, options.propagation.clone())?);
        for alias in hierarchy.aliases() {
            let link = Mount {
                destination: format!("{}/{alias}", mount.destination.trim_end_matches('/')),
                ..Default::default()
            };
            steps.push(step(&link, What::Link(c_string(&name)?), Vec::new())?);
        }
    }
    if options.own.set & RDONLY != 0 {
        steps.push(step(&base, What::Attributes(RDONLY), Vec::new())?);
    }
    Ok(steps)
}
