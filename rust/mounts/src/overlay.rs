//! Overlays whose options are longer than the page mount(2) takes, and overlays on mapped layers.
//!
//! Kernels from 6.7 on take the layers one by one (`fsconfig` with `lowerdir+`). Older ones get paths
//! relative to the folder all layers have in common, from a thread that stands in it.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags,
    fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount,
    open_tree,
};

use crate::error::{Error, Result};
use crate::mount::{Mount, is_unsupported};
use crate::options::Options;
use crate::place::Place;
use crate::sys;

/// Longest value that `fsconfig` takes, the terminating NUL not counted.
const FSCONFIG_VALUE_MAX: usize = 255;

/// Mounts an overlay whose options do not fit in a page.
pub(crate) fn mount_long(mount: &Mount, options: &Options, place: &Place) -> Result<()> {
    match assemble(mount, options) {
        Ok(detached) => {
            let flags =
                MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
            move_mount(&detached, "", place, "", flags).map_err(|e| {
                let data = options.data();
                mount.failed(
                    &mount.source,
                    place.path(),
                    options.flags,
                    &data,
                    e,
                    "move_mount".into(),
                )
            })
        }
        Err(Refusal::Unsupported) => mount_relative(mount, options, place),
        Err(Refusal::Failed { step, errno, log }) => {
            let detail = if log.is_empty() {
                step
            } else {
                format!("{step}: {log}")
            };
            let data = options.data();
            Err(mount.failed(
                &mount.source,
                place.path(),
                options.flags,
                &data,
                errno,
                detail,
            ))
        }
    }
}

enum Refusal {
    /// This kernel cannot do it that way.
    Unsupported,
    Failed {
        step: String,
        errno: Errno,
        log: String,
    },
}

/// Makes the overlay, mounted nowhere yet, from its layers one by one.
fn assemble(mount: &Mount, options: &Options) -> Result<OwnedFd, Refusal> {
    let parameters = Parameters::of(mount, options);
    if parameters
        .strings
        .iter()
        .any(|(_, value)| value.len() > FSCONFIG_VALUE_MAX)
    {
        return Err(Refusal::Unsupported);
    }
    let fs =
        fsopen(mount.kind.as_str(), FsOpenFlags::FSOPEN_CLOEXEC).map_err(|errno| match errno {
            e if is_unsupported(e) => Refusal::Unsupported,
            errno => Refusal::Failed {
                step: "fsopen".into(),
                errno,
                log: String::new(),
            },
        })?;
    let failed = |step: String, errno| Refusal::Failed {
        step,
        errno,
        log: kernel_log(fs.as_fd()),
    };
    let mut knows_layers = false;
    for (key, value) in &parameters.strings {
        match fsconfig_set_string(&fs, key.as_str(), value.as_str()) {
            Ok(()) => knows_layers |= key == "lowerdir+",
            // Before 6.7 this is an unknown parameter.
            Err(Errno::INVAL) if key == "lowerdir+" && !knows_layers => {
                return Err(Refusal::Unsupported);
            }
            Err(errno) => return Err(failed(format!("{key}={value}"), errno)),
        }
    }
    for key in &parameters.flags {
        fsconfig_set_flag(&fs, key.as_str()).map_err(|errno| failed(key.clone(), errno))?;
    }
    fsconfig_create(&fs).map_err(|errno| failed("create".into(), errno))?;
    fsmount(
        &fs,
        FsMountFlags::FSMOUNT_CLOEXEC,
        attributes(options.flags),
    )
    .map_err(|errno| failed("fsmount".into(), errno))
}

/// What `fsconfig` is told.
#[derive(Debug, Default, PartialEq, Eq)]
struct Parameters {
    strings: Vec<(String, String)>,
    flags: Vec<String>,
}

impl Parameters {
    fn of(mount: &Mount, options: &Options) -> Self {
        let mut parameters = Self::default();
        let mut set = |key: &str, value: String| parameters.strings.push((key.to_owned(), value));
        set("source", mount.source.clone());
        // One option string may hold several options.
        let data = options.data();
        let mut flags = Vec::new();
        for option in split_unescaped(&data, ',')
            .into_iter()
            .filter(|o| !o.is_empty())
        {
            match option.split_once('=') {
                Some(("lowerdir", layers)) => {
                    for (key, layer) in layers_of(layers) {
                        set(key, unescape(layer));
                    }
                }
                Some((key, value)) => set(key, value.to_owned()),
                None => flags.push(option.to_owned()),
            }
        }
        for (flag, name) in [
            (MountFlags::RDONLY, "ro"),
            (MountFlags::SYNCHRONOUS, "sync"),
            (MountFlags::DIRSYNC, "dirsync"),
        ] {
            if options.flags.contains(flag) {
                flags.push(name.to_owned());
            }
        }
        parameters.flags = flags;
        parameters
    }
}

/// Layers of a `lowerdir=` value with the key each has in `fsconfig`. Those behind `::` are data-only.
fn layers_of(value: &str) -> Vec<(&'static str, &str)> {
    let mut layers = Vec::new();
    let mut key = "lowerdir+";
    for layer in split_unescaped(value, ':') {
        if layer.is_empty() {
            key = "datadir+";
        } else {
            layers.push((key, layer));
        }
    }
    layers
}

/// Splits where `separator` has no backslash before it; the parts keep their backslashes.
fn split_unescaped(text: &str, separator: char) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, letter) in text.char_indices() {
        if escaped {
            escaped = false;
        } else if letter == '\\' {
            escaped = true;
        } else if letter == separator {
            parts.push(&text[start..at]);
            start = at + letter.len_utf8();
        }
    }
    parts.push(&text[start..]);
    parts
}

fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => plain.extend(letters.next()),
            letter => plain.push(letter),
        }
    }
    plain
}

fn attributes(flags: MountFlags) -> MountAttrFlags {
    let mut attributes = MountAttrFlags::empty();
    for (flag, attribute) in [
        (MountFlags::RDONLY, MountAttrFlags::MOUNT_ATTR_RDONLY),
        (MountFlags::NOSUID, MountAttrFlags::MOUNT_ATTR_NOSUID),
        (MountFlags::NODEV, MountAttrFlags::MOUNT_ATTR_NODEV),
        (MountFlags::NOEXEC, MountAttrFlags::MOUNT_ATTR_NOEXEC),
        (
            MountFlags::NODIRATIME,
            MountAttrFlags::MOUNT_ATTR_NODIRATIME,
        ),
        (
            MountFlags::NOSYMFOLLOW,
            MountAttrFlags::MOUNT_ATTR_NOSYMFOLLOW,
        ),
    ] {
        if flags.contains(flag) {
            attributes |= attribute;
        }
    }
    // A field of its own, of which relatime is the zero.
    if flags.contains(MountFlags::STRICTATIME) {
        attributes |= MountAttrFlags::MOUNT_ATTR_STRICTATIME;
    } else if flags.contains(MountFlags::NOATIME) {
        attributes |= MountAttrFlags::MOUNT_ATTR_NOATIME;
    }
    attributes
}

/// What the kernel has to say about a failed `fsconfig`: lines like `e overlay: …`, joined.
fn kernel_log(fs: BorrowedFd<'_>) -> String {
    let mut lines = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(length @ 1..) = rustix::io::read(fs, &mut buffer) {
        lines.push(
            String::from_utf8_lossy(&buffer[..length])
                .trim_end()
                .to_owned(),
        );
    }
    lines.join("; ")
}

/// mount(2) with paths relative to the folder that all lower layers have in common.
fn mount_relative(mount: &Mount, options: &Options, place: &Place) -> Result<()> {
    let Some((folder, data)) = shorten(options) else {
        return mount.call_with(&mount.source, options.flags, &options.data(), place);
    };
    sys::with_own_cwd(|| {
        rustix::process::chdir(&folder).map_err(|e| Error::io("chdir", &folder, e))?;
        mount.call_with(&mount.source, options.flags, &data, place)
    })
}

/// The folder that all layers (lower, upper and work) or at least all lower ones lie below, and the
/// options with paths relative to it. `None` where there is no such folder but `/`.
fn shorten(options: &Options) -> Option<(String, String)> {
    let data = options.data();
    let parts = split_unescaped(&data, ',');
    let lower = parts
        .iter()
        .find_map(|part| part.strip_prefix("lowerdir="))?;
    let layers = layers_of(lower);
    let folder = common_folder(layers.iter().map(|(_, layer)| *layer))?;
    let relative = |path: &str| {
        let path = path.trim_end_matches('/');
        path.strip_prefix(folder)
            .map_or(path, |rest| rest.trim_start_matches('/'))
            .to_owned()
    };
    let short: Vec<String> = parts
        .iter()
        .map(|part| match part.split_once('=') {
            Some(("lowerdir", value)) => {
                // Not layers_of: empty parts, which `::` is made of, have to stay.
                let layers: Vec<_> = split_unescaped(value, ':')
                    .into_iter()
                    .map(relative)
                    .collect();
                format!("lowerdir={}", layers.join(":"))
            }
            Some((key @ ("upperdir" | "workdir"), value)) => format!("{key}={}", relative(value)),
            _ => (*part).to_owned(),
        })
        .collect();
    Some((unescape(folder), short.join(",")))
}

/// The longest folder that all of `paths` lie strictly below.
fn common_folder<'a>(paths: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    fn parent(path: &str) -> &str {
        path.trim_end_matches('/')
            .rsplit_once('/')
            .map_or("", |(parent, _)| parent)
    }
    let holds = |folder: &str, path: &str| {
        path.strip_prefix(folder)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let mut parents = paths.map(parent);
    let mut common = parents.next()?;
    for folder in parents {
        while !holds(common, folder) {
            common = parent(common);
        }
    }
    (common.starts_with('/') && common.len() > 1).then_some(common)
}

/// Covers each lower layer with a read-only, mapped view of itself, in the mount namespace of this thread.
pub(crate) fn map_lower_layers(options: &Options, user_ns: BorrowedFd<'_>) -> Result<()> {
    let data = options.data();
    let parts = split_unescaped(&data, ',');
    let lower = parts
        .iter()
        .find_map(|part| part.strip_prefix("lowerdir="))
        .ok_or_else(|| {
            Error::option(
                data.as_str(),
                "an overlay with mapped owners needs lowerdir=",
            )
        })?;
    for (_, layer) in layers_of(lower) {
        let layer = unescape(layer);
        map_over_itself(Path::new(&layer), user_ns)?;
    }
    Ok(())
}

fn map_over_itself(layer: &Path, user_ns: BorrowedFd<'_>) -> Result<()> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    let tree = open_tree(CWD, layer, flags).map_err(|e| Error::io("open_tree", layer, e))?;
    sys::map_ids(tree.as_fd(), user_ns, libc::MOUNT_ATTR_RDONLY)
        .map_err(|e| Error::io("map the owners of", layer, e))?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_SYMLINKS;
    move_mount(&tree, "", CWD, layer, flags).map_err(|e| Error::io("move_mount", layer, e))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn overlay(options: &[&str]) -> (Mount, Options) {
        let mount = Mount {
            kind: "overlay".into(),
            source: "overlay".into(),
            ..Mount::default()
        };
        (mount, Options::parse(options).unwrap())
    }

    #[test]
    fn layers_are_given_one_by_one_and_unescaped() {
        let (mount, options) = overlay(&[
            "ro",
            "userxattr",
            r"lowerdir=/a\:b:/c,upperdir=/u\,x",
            "index=off",
        ]);
        let parameters = Parameters::of(&mount, &options);
        let strings: Vec<_> = parameters
            .strings
            .iter()
            .map(|(k, v)| format!("{k}={v}"))
            .collect();
        assert_eq!(
            strings,
            [
                "source=overlay",
                "lowerdir+=/a:b",
                "lowerdir+=/c",
                r"upperdir=/u\,x",
                "index=off"
            ]
        );
        assert_eq!(parameters.flags, ["userxattr", "ro"]);
    }

    #[test]
    fn data_only_layers_have_their_own_key() {
        assert_eq!(
            layers_of("/a:/b::/d::/e"),
            [
                ("lowerdir+", "/a"),
                ("lowerdir+", "/b"),
                ("datadir+", "/d"),
                ("datadir+", "/e")
            ]
        );
    }

    #[test]
    fn shortened_paths_mean_the_same_from_the_common_folder() {
        let (_, options) = overlay(&[
            "index=off",
            "workdir=/var/lib/s/9/work",
            "upperdir=/var/lib/s/9/fs",
            "lowerdir=/var/lib/s/12/fs:/var/lib/s/1/fs",
        ]);
        assert_eq!(
            shorten(&options).unwrap(),
            (
                "/var/lib/s".to_owned(),
                "index=off,workdir=9/work,upperdir=9/fs,lowerdir=12/fs:1/fs".to_owned()
            )
        );
    }

    #[test]
    fn the_common_folder_ends_at_a_slash_and_holds_every_layer() {
        let common = |paths: &[&'static str]| common_folder(paths.iter().copied());
        assert_eq!(common(&["/s/1/fs", "/s/12/fs"]), Some("/s"));
        assert_eq!(common(&["/s/1", "/s/1/fs"]), Some("/s"));
        assert_eq!(common(&["/s/1/"]), Some("/s"));
        assert_eq!(common(&["/snap/1", "/snapshots/1"]), None);
        assert_eq!(common(&["/a", "/b"]), None);
        assert_eq!(common(&["a/b", "a/c"]), None);
    }
}
