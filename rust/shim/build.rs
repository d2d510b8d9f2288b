//! Generates the shim's protobuf types from the project's own `.proto` files.
//!
//! Only the files the shim speaks are compiled. The files import each other under the virtual
//! prefix `containerd_hybrid/proto/`, which the resolver below strips.

use std::error::Error;
use std::path::{Path, PathBuf};

use protox::Compiler;
use protox::file::{ChainFileResolver, File, FileResolver, GoogleFileResolver};

const PREFIX: &str = "containerd_hybrid/proto/";

const FILES: &[&str] = &[
    "ttrpc/ttrpc.proto",
    "runtime/bootstrap/v1/bootstrap.proto",
    // Task v2 and v3 have the same messages on the wire: one set of types serves both.
    "runtime/task/v3/shim.proto",
    "runtime/sandbox/v1/sandbox.proto",
    "types/runc/options.proto",
    "types/runtimeoptions/v1/options.proto",
    "types/introspection.proto",
    "events/task.proto",
    "services/ttrpc/events/v1/events.proto",
    "services/streaming/v1/streaming.proto",
    "types/transfer/streaming.proto",
    "cgroups/v1/metrics.proto",
    "cgroups/v2/metrics.proto",
];

struct ProjectFiles {
    root: PathBuf,
}

impl FileResolver for ProjectFiles {
    fn open_file(&self, name: &str) -> Result<File, protox::Error> {
        let relative = name.strip_prefix(PREFIX).unwrap_or(name);
        let path = self.root.join(relative);
        if !path.is_file() {
            return Err(protox::Error::file_not_found(name));
        }
        File::open(name, &path)
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../proto")
        .canonicalize()?;
    println!("cargo::rerun-if-changed={}", root.display());
    println!("cargo::rerun-if-changed=build.rs");

    let mut resolver = ChainFileResolver::new();
    resolver.add(GoogleFileResolver::new());
    resolver.add(ProjectFiles { root });
    let mut compiler = Compiler::with_file_resolver(resolver);
    compiler.include_imports(true);
    for file in FILES {
        compiler.open_file(format!("{PREFIX}{file}"))?;
    }
    prost_build::Config::new()
        .include_file("proto.rs")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
