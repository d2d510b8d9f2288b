//! Mounts rewritten before they are made, by the first part of their type, as containerd 2.2 has
//! them: `format/TYPE` fills in templates, `mkdir/TYPE` makes folders.

use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

use ::mounts::Mount;

/// A mount that was made.
pub struct Active {
    pub mount: Mount,
    pub place: PathBuf,
}

const MKDIR: &str = "X-containerd.mkdir.path=";
const DEFAULT_MODE: u32 = 0o700;

pub fn is_special(kind: &str) -> bool {
    kind.starts_with("format/") || kind.starts_with("mkdir/")
}

/// The mount with nothing left to rewrite; folders it asks for are made.
pub fn resolve(mount: &Mount, active: &[Active]) -> io::Result<Mount> {
    let mut mount = mount.clone();
    loop {
        if let Some(kind) = mount.kind.strip_prefix("format/") {
            mount.kind = kind.into();
            mount.source = fill(&mount.source, active)?;
            mount.target = fill(&mount.target, active)?;
            for option in &mut mount.options {
                *option = fill(option, active)?;
            }
        } else if let Some(kind) = mount.kind.strip_prefix("mkdir/") {
            mount.kind = kind.into();
            for option in &mount.options {
                if let Some(wish) = option.strip_prefix(MKDIR) {
                    make(wish, active)?;
                }
            }
            mount.options.retain(|option| !option.starts_with(MKDIR));
        } else {
            return Ok(mount);
        }
    }
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}

/// Replaces each `{{ … }}`.
fn fill(text: &str, active: &[Active]) -> io::Result<String> {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        let Some((expression, tail)) = after.split_once("}}") else {
            break;
        };
        out.push_str(before);
        out.push_str(&evaluate(expression, active, text)?);
        rest = tail;
    }
    out.push_str(rest);
    Ok(out)
}

fn evaluate(expression: &str, active: &[Active], text: &str) -> io::Result<String> {
    let one = |number: &str| {
        let index: usize = number.parse().map_err(|_| {
            invalid(format!(
                "mount template {text:?}: {number:?} is not a number"
            ))
        })?;
        active.get(index).ok_or_else(|| {
            let count = active.len();
            invalid(format!(
                "mount template {text:?}: index out of bounds: {index}, has {count} active mounts"
            ))
        })
    };
    let words: Vec<&str> = expression.split_whitespace().collect();
    let place = |active: &Active| active.place.to_string_lossy().into_owned();
    match words[..] {
        ["source", n] => Ok(one(n)?.mount.source.clone()),
        ["target", n] => Ok(one(n)?.mount.target.clone()),
        ["mount", n] => Ok(place(one(n)?)),
        ["overlay", first, last] => {
            one(first)?;
            one(last)?;
            let number = |word: &str| word.parse::<usize>().unwrap_or_default();
            let (first, last) = (number(first), number(last));
            let mut places: Vec<String> = active[first.min(last)..=first.max(last)]
                .iter()
                .map(place)
                .collect();
            if first > last {
                places.reverse();
            }
            Ok(places.join(":"))
        }
        _ => Err(invalid(format!(
            "mount template {text:?}: {{{{{expression}}}}} is none of {{{{ source N }}}}, \
             {{{{ target N }}}}, {{{{ mount N }}}}, {{{{ overlay A B }}}}"
        ))),
    }
}

/// `PATH[:MODE[:UID:GID]]`: a folder on one of the mounts made before; its parent has to exist.
fn make(wish: &str, active: &[Active]) -> io::Result<()> {
    let wrong = || {
        invalid(format!(
            "invalid mkdir option {MKDIR}{wish}: use PATH[:MODE[:UID:GID]], MODE being octal"
        ))
    };
    let fields: Vec<&str> = wish.split(':').collect();
    let path = Path::new(fields[0]);
    let mode = match fields.get(1) {
        None => DEFAULT_MODE,
        Some(text) => u32::from_str_radix(text, 8).map_err(|_| wrong())?,
    };
    let owner = match fields[1..] {
        [] | [_] => None,
        [_, uid, gid] => Some((
            uid.parse().map_err(|_| wrong())?,
            gid.parse().map_err(|_| wrong())?,
        )),
        _ => return Err(wrong()),
    };
    let parent = path.parent().ok_or_else(wrong)?.canonicalize()?;
    if mode & !0o777 != 0
        || !active
            .iter()
            .any(|active| parent.starts_with(&active.place))
    {
        return Err(invalid(format!(
            "mkdir {}: only on what was mounted before it, with a mode of at most 777",
            path.display()
        )));
    }
    let named = |e: io::Error| io::Error::new(e.kind(), format!("mkdir {}: {e}", path.display()));
    let path = parent.join(path.file_name().ok_or_else(wrong)?);
    match std::fs::create_dir(&path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
        made => made.map_err(named)?,
    }
    if !std::fs::symlink_metadata(&path).map_err(named)?.is_dir() {
        return Err(invalid(format!(
            "mkdir {}: what is there is not a folder",
            path.display()
        )));
    }
    if let Some((uid, gid)) = owner {
        chown(&path, Some(uid), Some(gid)).map_err(named)?;
    }
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).map_err(named)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn active(places: &[&Path]) -> Vec<Active> {
        let made = |place: &&Path| Active {
            mount: Mount {
                kind: "erofs".into(),
                source: format!("{}.img", place.display()),
                target: String::new(),
                options: Vec::new(),
            },
            place: place.to_path_buf(),
        };
        places.iter().map(made).collect()
    }

    fn overlay(kind: &str, options: &[&str]) -> Mount {
        Mount {
            kind: kind.into(),
            source: "overlay".into(),
            target: String::new(),
            options: options.iter().map(|option| (*option).into()).collect(),
        }
    }

    #[test]
    fn templates_name_what_was_mounted() {
        let active = active(&[Path::new("/a"), Path::new("/b"), Path::new("/c")]);
        let mount = overlay(
            "format/overlay",
            &[
                "lowerdir={{ overlay 2 0 }}",
                "x={{ source 1 }}:{{mount 0}}",
                "plain",
            ],
        );
        let got = resolve(&mount, &active).unwrap();
        assert_eq!(got.kind, "overlay");
        assert_eq!(got.options, ["lowerdir=/c:/b:/a", "x=/b.img:/a", "plain"]);
        for wrong in [
            "{{ mount 3 }}",
            "{{ mount x }}",
            "{{ nothing }}",
            "{{ overlay 0 3 }}",
        ] {
            let error = resolve(&overlay("format/overlay", &[wrong]), &active).unwrap_err();
            assert!(error.to_string().contains("mount template"), "{error}");
        }
    }

    #[test]
    fn folders_are_made_on_earlier_mounts_and_nowhere_else() {
        let dir = std::env::temp_dir().join(format!("shim-mkdir-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let dir = dir.canonicalize().unwrap();
        let active = active(&[&dir]);
        let wish = "X-containerd.mkdir.path={{ mount 0 }}/upper:0755";
        let mount = overlay(
            "format/mkdir/overlay",
            &[wish, "upperdir={{ mount 0 }}/upper"],
        );
        let got = resolve(&mount, &active).unwrap();
        let upper = dir.join("upper");
        assert_eq!((got.kind.as_str(), got.options.len()), ("overlay", 1));
        assert_eq!(
            std::fs::metadata(&upper).unwrap().permissions().mode() & 0o777,
            0o755
        );

        std::os::unix::fs::symlink("/", dir.join("out")).unwrap();
        let outside = std::env::temp_dir().join("shim-mkdir-outside");
        for wrong in [
            format!("{}/out/tmp/shim-mkdir-outside", dir.display()),
            outside.display().to_string(),
            format!("{}/x:9", dir.display()),
            format!("{}/x:4755", dir.display()),
        ] {
            let option = format!("{MKDIR}{wrong}");
            assert!(
                resolve(&overlay("mkdir/overlay", &[&option]), &active).is_err(),
                "{wrong}"
            );
        }
        assert!(!outside.exists());
        std::fs::remove_dir_all(dir).unwrap();
    }
}
