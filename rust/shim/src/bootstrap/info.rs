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
    let features = match decoded.binary_name.as_str() {
        "" => Some(::runtime::features().to_string().into_bytes()),
        binary => features_of(binary)?,
    };
    let features = features.map(|value| Any {
        type_url: FEATURES_TYPE.into(),
        value,
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

/// What the program prints; nothing if it does not have the command, as not every runtime does.
fn features_of(binary: &str) -> Result<Option<Vec<u8>>, String> {
    let path = spawn::find(binary)
        .map_err(|e| format!("failed to look up the path of {binary:?}: {e}"))?;
    let output = std::process::Command::new(path)
        .arg("features")
        .output()
        .ok();
    Ok(output
        .filter(|output| output.status.success())
        .map(|output| output.stdout)
        .filter(|text| serde_json::from_slice::<serde_json::Value>(text).is_ok()))
}
