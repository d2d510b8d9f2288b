//! Runtime options: what a caller may send, and how they are kept in the bundle.
//!
//! Callers send `containerd.runc.v1.Options`; the CRI plugin of a stock containerd sends
//! `runtimeoptions.v1.Options` (TOML text or the path of a TOML file) for runtimes it does not know
//! by name; old clients send `containerd.linux.runc.CreateOptions`.

use std::io;
use std::path::Path;

use prost::Message;
use prost_types::Any;
use serde_json::{Map, Value};

use crate::proto::containerd::runc::v1::CheckpointOptions;
pub use crate::proto::containerd::runc::v1::Options;
use crate::proto::runtimeoptions;
use crate::ttrpc::Status;

/// The options as the bundle keeps them, for the `delete` action of a later process. The name and
/// the fields are containerd's own shim's.
pub const FILE: &str = "options.json";
/// The runtime binary's name, kept apart for historical reasons.
pub const RUNTIME_FILE: &str = "runtime";

/// Options of containerd 1.x clients (`containerd.linux.runc.CreateOptions`).
#[derive(Clone, PartialEq, Message)]
struct LegacyCreateOptions {
    #[prost(bool, tag = "1")]
    no_pivot_root: bool,
    #[prost(bool, tag = "8")]
    no_new_keyring: bool,
    #[prost(string, tag = "9")]
    shim_cgroup: String,
    #[prost(uint32, tag = "10")]
    io_uid: u32,
    #[prost(uint32, tag = "11")]
    io_gid: u32,
    #[prost(string, tag = "12")]
    criu_work_path: String,
    #[prost(string, tag = "13")]
    criu_image_path: String,
}

/// Options of containerd 1.x daemons (`containerd.linux.runc.RuncOptions`).
#[derive(Clone, PartialEq, Message)]
struct LegacyRuncOptions {
    #[prost(string, tag = "1")]
    runtime: String,
    #[prost(string, tag = "2")]
    runtime_root: String,
    #[prost(bool, tag = "4")]
    systemd_cgroup: bool,
}

/// The message's full name: a type URL may have a prefix up to its last slash.
pub fn type_name(any: &Any) -> &str {
    any.type_url.rsplit('/').next().unwrap_or_default()
}

/// Decodes options; none, or an empty message, are the defaults.
pub fn decode(any: Option<&Any>) -> Result<Options, Status> {
    let Some(any) = any.filter(|any| !(any.type_url.is_empty() && any.value.is_empty())) else {
        return Ok(Options::default());
    };
    let name = type_name(any);
    let damaged =
        |e: prost::DecodeError| Status::invalid_argument(format!("runtime options {name}: {e}"));
    match name {
        "containerd.runc.v1.Options" => Options::decode(&*any.value).map_err(damaged),
        "runtimeoptions.v1.Options" => {
            from_generic(&runtimeoptions::v1::Options::decode(&*any.value).map_err(damaged)?)
        }
        "containerd.linux.runc.CreateOptions" => {
            let old = LegacyCreateOptions::decode(&*any.value).map_err(damaged)?;
            Ok(Options {
                no_pivot_root: old.no_pivot_root,
                no_new_keyring: old.no_new_keyring,
                shim_cgroup: old.shim_cgroup,
                io_uid: old.io_uid,
                io_gid: old.io_gid,
                criu_work_path: old.criu_work_path,
                criu_image_path: old.criu_image_path,
                ..Options::default()
            })
        }
        "containerd.linux.runc.RuncOptions" => {
            let old = LegacyRuncOptions::decode(&*any.value).map_err(damaged)?;
            Ok(Options {
                binary_name: old.runtime,
                root: old.runtime_root,
                systemd_cgroup: old.systemd_cgroup,
                ..Options::default()
            })
        }
        _ => Err(Status::invalid_argument(format!(
            "runtime options of type {:?} are not known; use containerd.runc.v1.Options",
            any.type_url
        ))),
    }
}

/// Decodes the options of a checkpoint.
pub fn decode_checkpoint(any: Option<&Any>) -> Result<CheckpointOptions, Status> {
    let Some(any) = any else {
        return Ok(CheckpointOptions::default());
    };
    match type_name(any) {
        "" => Ok(CheckpointOptions::default()),
        "containerd.runc.v1.CheckpointOptions" => CheckpointOptions::decode(&*any.value)
            .map_err(|e| Status::invalid_argument(format!("checkpoint options: {e}"))),
        other => Err(Status::invalid_argument(format!(
            "checkpoint options of type {other:?}"
        ))),
    }
}

fn from_generic(generic: &runtimeoptions::v1::Options) -> Result<Options, Status> {
    let text = if !generic.config_body.is_empty() {
        String::from_utf8_lossy(&generic.config_body).into_owned()
    } else if !generic.config_path.is_empty() {
        std::fs::read_to_string(&generic.config_path).map_err(|e| {
            Status::invalid_argument(format!("runtime options file {}: {e}", generic.config_path))
        })?
    } else {
        return Ok(Options::default());
    };
    from_toml(&text).map_err(|e| Status::invalid_argument(format!("runtime options: {e}")))
}

/// Reads the flat `Key = value` lines a runtime's options table has. Keys are matched without case
/// or underscores, as containerd writes `BinaryName` and users write `binary_name`; keys that are
/// not the shim's (`TypeUrl`, `ConfigPath`, …) and tables are passed over.
fn from_toml(text: &str) -> Result<Options, String> {
    let mut options = Options::default();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.starts_with('[') {
            break;
        }
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let bad = |what: &str| format!("line {}: {what}: {line}", number + 1);
        let (key, value) = line
            .split_once('=')
            .ok_or_else(|| bad("expected key = value"))?;
        let key: String = key
            .trim()
            .chars()
            .filter(|c| !"_\"'".contains(*c))
            .collect::<String>()
            .to_lowercase();
        let value = value.trim();
        let string = || toml_string(value).ok_or_else(|| bad("expected a string"));
        let boolean = || match value.split('#').next().unwrap_or_default().trim() {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(bad("expected true or false")),
        };
        let number = || {
            let digits = value
                .split('#')
                .next()
                .unwrap_or_default()
                .trim()
                .replace('_', "");
            digits.parse::<u32>().map_err(|_| bad("expected a number"))
        };
        match key.as_str() {
            "nopivotroot" => options.no_pivot_root = boolean()?,
            "nonewkeyring" => options.no_new_keyring = boolean()?,
            "shimcgroup" => options.shim_cgroup = string()?,
            "iouid" => options.io_uid = number()?,
            "iogid" => options.io_gid = number()?,
            "binaryname" => options.binary_name = string()?,
            "root" => options.root = string()?,
            "systemdcgroup" => options.systemd_cgroup = boolean()?,
            "criuimagepath" => options.criu_image_path = string()?,
            "criuworkpath" => options.criu_work_path = string()?,
            _ => {}
        }
    }
    Ok(options)
}

/// A one-line TOML string: literal in single quotes, basic in double quotes.
fn toml_string(value: &str) -> Option<String> {
    if let Some(rest) = value.strip_prefix('\'') {
        return rest.split_once('\'').map(|(text, _)| text.to_owned());
    }
    let mut chars = value.strip_prefix('"')?.chars();
    let mut text = String::new();
    loop {
        match chars.next()? {
            '"' => return Some(text),
            '\\' => match chars.next()? {
                'n' => text.push('\n'),
                't' => text.push('\t'),
                c @ ('"' | '\\') => text.push(c),
                _ => return None,
            },
            c => text.push(c),
        }
    }
}

/// Keeps the options in the bundle, under the names Go's JSON encoding gives them.
pub fn save(bundle: &Path, options: &Options) -> io::Result<()> {
    let mut map = Map::new();
    for (name, value) in [
        ("shim_cgroup", &options.shim_cgroup),
        ("binary_name", &options.binary_name),
        ("root", &options.root),
        ("criu_image_path", &options.criu_image_path),
        ("criu_work_path", &options.criu_work_path),
    ] {
        if !value.is_empty() {
            map.insert(name.into(), Value::from(value.as_str()));
        }
    }
    for (name, value) in [
        ("no_pivot_root", options.no_pivot_root),
        ("no_new_keyring", options.no_new_keyring),
        ("systemd_cgroup", options.systemd_cgroup),
    ] {
        if value {
            map.insert(name.into(), Value::from(true));
        }
    }
    for (name, value) in [("io_uid", options.io_uid), ("io_gid", options.io_gid)] {
        if value != 0 {
            map.insert(name.into(), Value::from(value));
        }
    }
    crate::bundle::write_private(
        &bundle.join(FILE),
        Value::Object(map).to_string().as_bytes(),
    )?;
    crate::bundle::write_private(&bundle.join(RUNTIME_FILE), options.binary_name.as_bytes())
}

/// The options kept in a bundle; the defaults if there are none.
pub fn load(bundle: &Path) -> io::Result<Options> {
    let text = match std::fs::read(bundle.join(FILE)) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => b"{}".to_vec(),
        Err(e) => return Err(e),
    };
    let value: Value = serde_json::from_slice(&text).map_err(io::Error::other)?;
    let string = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
    let boolean = |name: &str| value[name].as_bool().unwrap_or_default();
    let mut options = Options {
        no_pivot_root: boolean("no_pivot_root"),
        no_new_keyring: boolean("no_new_keyring"),
        shim_cgroup: string("shim_cgroup"),
        binary_name: string("binary_name"),
        root: string("root"),
        systemd_cgroup: boolean("systemd_cgroup"),
        criu_image_path: string("criu_image_path"),
        criu_work_path: string("criu_work_path"),
        ..Options::default()
    };
    if options.binary_name.is_empty() {
        options.binary_name = std::fs::read_to_string(bundle.join(RUNTIME_FILE))
            .unwrap_or_default()
            .trim()
            .into();
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn any(name: &str, message: &impl Message) -> Any {
        Any {
            type_url: name.into(),
            value: message.encode_to_vec(),
        }
    }

    fn sample() -> Options {
        Options {
            no_new_keyring: true,
            binary_name: "crun".into(),
            root: "/run/x".into(),
            systemd_cgroup: true,
            ..Options::default()
        }
    }

    #[test]
    fn current_options_with_and_without_a_url_prefix() {
        for prefix in ["", "type.googleapis.com/", "types.containerd.io/"] {
            let any = any(&format!("{prefix}containerd.runc.v1.Options"), &sample());
            assert_eq!(decode(Some(&any)).unwrap(), sample());
        }
        assert_eq!(decode(None).unwrap(), Options::default());
        assert_eq!(decode(Some(&Any::default())).unwrap(), Options::default());
    }

    #[test]
    fn generic_options_carry_toml() {
        let body =
            b"TypeUrl = \"x\"\n# c\nBinaryName = \"/usr/bin/c\\\"run\" # c\nroot = '/run/x'\n\
            SystemdCgroup = true\nio_uid = 1_000\n[other]\nroot = 5\n";
        let generic = runtimeoptions::v1::Options {
            config_body: body.to_vec(),
            ..Default::default()
        };
        let got = decode(Some(&any("runtimeoptions.v1.Options", &generic))).unwrap();
        assert_eq!(got.binary_name, "/usr/bin/c\"run");
        assert_eq!(
            (got.root.as_str(), got.systemd_cgroup, got.io_uid),
            ("/run/x", true, 1000)
        );

        let wrong = runtimeoptions::v1::Options {
            config_body: b"\nSystemdCgroup = \"yes\"".to_vec(),
            ..Default::default()
        };
        let error = decode(Some(&any("runtimeoptions.v1.Options", &wrong))).unwrap_err();
        assert!(
            error.message.contains("line 2: expected true or false"),
            "{error}"
        );

        let missing = runtimeoptions::v1::Options {
            config_path: "/no/file".into(),
            ..Default::default()
        };
        let error = decode(Some(&any("runtimeoptions.v1.Options", &missing))).unwrap_err();
        assert!(error.message.contains("/no/file"), "{error}");
    }

    #[test]
    fn legacy_options() {
        let old = LegacyCreateOptions {
            no_pivot_root: true,
            io_gid: 7,
            ..Default::default()
        };
        let got = decode(Some(&any("containerd.linux.runc.CreateOptions", &old))).unwrap();
        assert_eq!((got.no_pivot_root, got.io_gid), (true, 7));
        let old = LegacyRuncOptions {
            runtime: "crun".into(),
            ..Default::default()
        };
        let got = decode(Some(&any("containerd.linux.runc.RuncOptions", &old))).unwrap();
        assert_eq!(got.binary_name, "crun");
    }

    #[test]
    fn unknown_or_damaged_options_are_refused_by_name() {
        let error = decode(Some(&Any {
            type_url: "a/b.C".into(),
            value: vec![],
        }))
        .unwrap_err();
        assert!(error.message.contains("a/b.C"), "{error}");
        let url = "containerd.runc.v1.Options".to_owned();
        let error = decode(Some(&Any {
            type_url: url,
            value: vec![0xff],
        }))
        .unwrap_err();
        assert!(
            error.message.contains("containerd.runc.v1.Options"),
            "{error}"
        );
    }

    #[test]
    fn the_bundle_keeps_them() {
        let dir = std::env::temp_dir().join(format!("shim-options-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        assert_eq!(load(&dir).unwrap(), Options::default());
        save(&dir, &sample()).unwrap();
        assert_eq!(load(&dir).unwrap(), sample());
        let text = std::fs::read_to_string(dir.join(FILE)).unwrap();
        assert!(
            text.contains(r#""systemd_cgroup":true"#) && !text.contains("io_uid"),
            "{text}"
        );
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
