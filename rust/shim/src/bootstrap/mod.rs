//! The ways containerd runs this program.

pub mod delete;
mod farewell;
pub mod info;
mod params;
pub mod serve;
mod socket;
pub mod start;

use std::path::PathBuf;

use crate::flags::Flags;

/// The bundle: the working directory, unless named.
fn bundle_path(flags: &Flags) -> Result<PathBuf, String> {
    let cwd = std::env::current_dir().map_err(|e| format!("working directory: {e}"))?;
    Ok(if flags.bundle.is_empty() {
        cwd
    } else {
        cwd.join(&flags.bundle)
    })
}
