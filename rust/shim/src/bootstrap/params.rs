//! What a caller of `start` says, and the form of answer it reads.
//!
//! - containerd ≤ 1.6: flags, `TTRPC_ADDRESS`, runtime options (an `Any`) on stdin; reads the
//!   address as text.
//! - 1.7 to 2.2: the same, and `MAX_SHIM_VERSION`; reads JSON. It says 2 in all of these, 2.x too,
//!   which would take a 3; what the caller asks for is what it gets.
//! - from 2.3: a `BootstrapParams` message on stdin; reads a `BootstrapResult`.

use prost::Message;
use prost_types::Any;

use crate::options::{self, Options};
use crate::proto::containerd::runtime::bootstrap::v1::{
    BootstrapParams, BootstrapResult, LogLevel,
};
use crate::ttrpc::Status;

/// The newest task API version spoken here.
const NEWEST: i32 = 3;

#[derive(Debug, PartialEq)]
pub struct Params {
    pub options: Options,
    pub answer: Answer,
    pub debug: bool,
    pub grpc_address: String,
    pub ttrpc_address: String,
    pub containerd_binary: String,
    /// Where sockets go, if the caller has a wish.
    pub socket_dir: Option<String>,
}

/// The form of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Text,
    Json { version: i32 },
    Message,
}

/// What the environment says.
#[derive(Default)]
pub struct Environment {
    pub ttrpc_address: String,
    pub max_shim_version: Option<String>,
}

impl Params {
    /// `input` is all of stdin; `id` and `namespace` are the flags', which a bootstrap message has
    /// to repeat: runtime options can be read as one by mistake.
    pub fn read(
        input: &[u8],
        flags: &crate::flags::Flags,
        env: Environment,
    ) -> Result<Self, Status> {
        if let Ok(params) = BootstrapParams::decode(input)
            && !input.is_empty()
            && params.instance_id == flags.id
            && params.namespace == flags.namespace
        {
            return Self::from_message(params, flags, env);
        }
        let options = match input {
            [] => Options::default(),
            bytes => {
                let any = Any::decode(bytes).map_err(|e| {
                    Status::invalid_argument(format!("runtime options on stdin: {e}"))
                })?;
                options::decode(Some(&any))?
            }
        };
        let answer = match env.max_shim_version {
            None => Answer::Text,
            Some(text) => {
                let version = text.parse().unwrap_or(2).clamp(2, NEWEST);
                Answer::Json { version }
            }
        };
        Ok(Self {
            options,
            answer,
            debug: flags.debug,
            grpc_address: flags.address.clone(),
            ttrpc_address: env.ttrpc_address,
            containerd_binary: flags.publish_binary.clone(),
            socket_dir: None,
        })
    }

    fn from_message(
        params: BootstrapParams,
        flags: &crate::flags::Flags,
        env: Environment,
    ) -> Result<Self, Status> {
        let mut decoded = Options::default();
        for any in params
            .extensions
            .iter()
            .filter_map(|extension| extension.value.as_ref())
        {
            // Other extensions are for other shims, or for later versions of this one.
            if options::type_name(any).ends_with("Options") {
                decoded = options::decode(Some(any))?;
            }
        }
        Ok(Self {
            options: decoded,
            answer: Answer::Message,
            debug: flags.debug || params.log_level <= LogLevel::Debug as i32,
            grpc_address: params.containerd_grpc_address,
            // A caller may still say it the older way only.
            ttrpc_address: match params.containerd_ttrpc_address {
                address if address.is_empty() => env.ttrpc_address,
                address => address,
            },
            containerd_binary: params.containerd_binary,
            socket_dir: params.socket_dir.filter(|dir| !dir.is_empty()),
        })
    }
}

impl Answer {
    pub fn encode(self, address: &str) -> Vec<u8> {
        match self {
            Self::Text => address.as_bytes().to_vec(),
            Self::Json { version } => {
                serde_json::json!({"version": version, "address": address, "protocol": "ttrpc"})
                    .to_string()
                    .into_bytes()
            }
            Self::Message => BootstrapResult {
                version: NEWEST,
                address: address.into(),
                protocol: "ttrpc".into(),
                ..BootstrapResult::default()
            }
            .encode_to_vec(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::Flags;
    use crate::proto::containerd::runtime::bootstrap::v1::Extension;

    fn flags() -> Flags {
        Flags {
            id: "box".into(),
            namespace: "ns".into(),
            address: "/grpc".into(),
            ..Flags::default()
        }
    }

    fn options() -> Any {
        let options = Options {
            binary_name: "crun".into(),
            ..Options::default()
        };
        Any {
            type_url: "containerd.runc.v1.Options".into(),
            value: options.encode_to_vec(),
        }
    }

    #[test]
    fn the_oldest_gets_text() {
        let env = Environment {
            ttrpc_address: "/ttrpc".into(),
            max_shim_version: None,
        };
        let got = Params::read(&options().encode_to_vec(), &flags(), env).unwrap();
        assert_eq!(
            (got.answer, got.options.binary_name.as_str()),
            (Answer::Text, "crun")
        );
        assert_eq!(
            (got.grpc_address.as_str(), got.ttrpc_address.as_str()),
            ("/grpc", "/ttrpc")
        );
        assert_eq!(got.answer.encode("unix:///s"), b"unix:///s");
    }

    #[test]
    fn a_version_limit_gets_json() {
        for (said, version) in [("2", 2), ("3", 3), ("9", 3), ("1", 2), ("x", 2)] {
            let env = Environment {
                max_shim_version: Some(said.into()),
                ..Environment::default()
            };
            let got = Params::read(b"", &flags(), env).unwrap();
            assert_eq!(got.answer, Answer::Json { version });
        }
        let json = Answer::Json { version: 2 }.encode("unix:///s");
        let value: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(value["address"], "unix:///s");
        assert_eq!(
            (&value["version"], &value["protocol"]),
            (&2.into(), &"ttrpc".into())
        );
    }

    #[test]
    fn a_bootstrap_message_gets_one() {
        let params = BootstrapParams {
            instance_id: "box".into(),
            namespace: "ns".into(),
            log_level: LogLevel::Debug as i32,
            containerd_ttrpc_address: "/t".into(),
            containerd_grpc_address: "/g".into(),
            extensions: vec![
                Extension {
                    value: Some(Any {
                        type_url: "some.Thing".into(),
                        value: vec![1],
                    }),
                },
                Extension {
                    value: Some(options()),
                },
            ],
            socket_dir: Some("/sockets".into()),
            ..BootstrapParams::default()
        };
        // 2.x sets the environment's limit as well.
        let env = Environment {
            max_shim_version: Some("2".into()),
            ..Environment::default()
        };
        let got = Params::read(&params.encode_to_vec(), &flags(), env).unwrap();
        assert_eq!((got.answer, got.debug), (Answer::Message, true));
        assert_eq!(got.options.binary_name, "crun");
        assert_eq!(got.socket_dir.as_deref(), Some("/sockets"));
        let answer = BootstrapResult::decode(&*got.answer.encode("unix:///s")).unwrap();
        assert_eq!((answer.version, answer.address.as_str()), (3, "unix:///s"));

        let other = BootstrapParams {
            instance_id: "other".into(),
            ..params
        };
        let env = Environment::default();
        assert!(
            Params::read(&other.encode_to_vec(), &flags(), env).is_err(),
            "not for this call"
        );
    }
}
