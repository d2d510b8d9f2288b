//! The command line, in the manner of Go's `flag` package: `-name value`, `-name=value`, one dash
//! or two, switches alone; the first other word is the action.

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Flags {
    pub namespace: String,
    pub id: String,
    /// The daemon's gRPC address.
    pub address: String,
    /// The daemon's program, to publish events with where there is no ttrpc address.
    pub publish_binary: String,
    pub bundle: String,
    /// A socket path to serve on; without it, descriptor 3 is the listening socket.
    pub socket: String,
    pub debug: bool,
    pub version: bool,
    pub info: bool,
    pub action: String,
}

impl Flags {
    pub fn parse(args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut flags = Self::default();
        let mut args = args.peekable();
        while let Some(arg) = args.next() {
            let Some(name) = arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')) else {
                flags.action = arg;
                break;
            };
            let (name, value) = match name.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (name, None),
            };
            let switch = match name {
                "debug" => Some(&mut flags.debug),
                "v" | "version" => Some(&mut flags.version),
                "info" => Some(&mut flags.info),
                _ => None,
            };
            if let Some(switch) = switch {
                *switch = !matches!(
                    value.as_deref(),
                    Some("false" | "0" | "f" | "F" | "False" | "FALSE")
                );
                continue;
            }
            let mut unused = String::new();
            let target = match name {
                "namespace" => &mut flags.namespace,
                "id" => &mut flags.id,
                "address" => &mut flags.address,
                "publish-binary" => &mut flags.publish_binary,
                "bundle" => &mut flags.bundle,
                "socket" => &mut flags.socket,
                "debug-socket" => &mut unused,
                _ => return Err(format!("flag provided but not defined: -{name}")),
            };
            *target = match value.or_else(|| args.next()) {
                Some(value) => value,
                None => return Err(format!("flag needs an argument: -{name}")),
            };
        }
        Ok(flags)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Flags, String> {
        Flags::parse(line.split(' ').map(Into::into))
    }

    #[test]
    fn what_containerd_passes() {
        let line = "-namespace ns -address /run/c.sock -publish-binary /bin/c -id box -bundle /b -debug start";
        let expected = Flags {
            namespace: "ns".into(),
            address: "/run/c.sock".into(),
            publish_binary: "/bin/c".into(),
            id: "box".into(),
            bundle: "/b".into(),
            debug: true,
            action: "start".into(),
            ..Flags::default()
        };
        assert_eq!(parse(line).unwrap(), expected);
        assert_eq!(
            parse("--namespace=ns --debug=false delete").unwrap().action,
            "delete"
        );
        assert!(parse("-v").unwrap().version);
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(
            parse("-nope x").unwrap_err(),
            "flag provided but not defined: -nope"
        );
        assert_eq!(parse("-id").unwrap_err(), "flag needs an argument: -id");
    }
}
