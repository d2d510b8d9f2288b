//! Writes the layer that turns LOWER (or nothing, `-`) into UPPER and prints what it cost.
//!
//! ```text
//! cargo run --release -p containerd-hybrid-layer --example diff -- LOWER UPPER OUTPUT none|gzip|zstd [THREADS]
//! ```

use std::fs::File;
use std::os::fd::AsFd;
use std::time::Instant;

use layer::{DiffCompression, DiffOptions, diff};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [lower, upper, output, compression, rest @ ..] = &args[..] else {
        return Err("usage: diff LOWER|- UPPER OUTPUT none|gzip|zstd [THREADS]".into());
    };
    let lower = match lower.as_str() {
        "-" => None,
        path => Some(File::open(path)?),
    };
    let upper = File::open(upper)?;
    let options = DiffOptions {
        compression: match compression.as_str() {
            "none" => DiffCompression::None,
            "gzip" => DiffCompression::Gzip,
            "zstd" => DiffCompression::Zstd,
            other => return Err(format!("unknown compression {other}").into()),
        },
        threads: rest.first().map_or(Ok(0), |n| n.parse())?,
        ..DiffOptions::default()
    };
    let wall = Instant::now();
    let lower = lower.as_ref().map(AsFd::as_fd);
    let diffed = diff(lower, upper.as_fd(), File::create(output)?, options)?;
    println!("digest   {}  {} bytes", diffed.digest, diffed.size);
    println!(
        "diff ID  {}  {} bytes",
        diffed.diff_id, diffed.unpacked_bytes
    );
    let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let cpu = cpu.tv_sec as f64 + cpu.tv_nsec as f64 / 1e9;
    println!(
        "diff     {cpu:.2} CPU s, {:.2} s elapsed",
        wall.elapsed().as_secs_f64()
    );
    Ok(())
}
