//! `-info`: describes the runtime, as its options on stdin choose it.

use std::io::{Read, Write};

use prost::Message;
use prost_types::Any;

use crate::options;
use crate::proto::containerd::types::{RuntimeInfo, RuntimeVersion};
use crate::spawn;

const FEATURES_TYPE: &str = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

pub fn run() -> Result<(), String> {
    let mut input = Vec::new();
    std::io::stdin()
        .read_to_end(&mut input)
        .map_err(|e| format!("stdin: {e}"))?;
    let asked = match input.as_slice() {
        [] => None,
        bytes => Some(Any::decode(bytes).map_err(|e| format!("runtime options on stdin: {e}"))?),
    };
    let decoded = options::decode(asked.as_ref()).map_err(|e| e.message)?;
    let binary = if decoded.binary_name.is_empty() {
        "runc"
    } else {
        &decoded.binary_name
    };
    let path = spawn::find(binary)
        .map_err(|e| format!("failed to look up the path of {binary:?}: {e}"))?;
    // Not every runtime has the command.
    let features = std::process::Command::new(path)
        .arg("features")
        .output()
        .ok()
        .filter(|output| output.status.success())
        .filter(|output| serde_json::from_slice::<serde_json::Value>(&output.stdout).is_ok())
        .map(|output| Any {
            type_url: FEATURES_TYPE.into(),
            value: output.stdout,
        });
    let info = RuntimeInfo {
        name: crate::RUNTIME_NAME.into(),
        version: Some(RuntimeVersion {
            version: env!("CARGO_PKG_VERSION").into(),
            revision: String::new(),
        }),
        options: asked,
        features,
        annotations: std::collections::HashMap::new(),
    };
    std::io::stdout()
        .write_all(&info.encode_to_vec())
        .map_err(|e| format!("stdout: {e}"))
}
