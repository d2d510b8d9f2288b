//! Applies one layer file to a fresh directory and prints what it cost.
//!
//! ```text
//! cargo run --release -p containerd-hybrid-layer --example apply -- LAYER [PARENT_OF_TARGET]
//! ```

use std::fs::File;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use layer::{ApplyOptions, apply, disk_usage, remove_tree};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args_os().skip(1);
    let path = args.next().ok_or("usage: apply LAYER [PARENT_OF_TARGET]")?;
    let parent = args.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let name = format!("layer-apply-{}", std::process::id());
    std::fs::create_dir(parent.join(&name))?;

    let source = File::open(&path)?;
    let root = File::open(parent.join(&name))?;
    let (cpu, wall) = (cpu_time(), Instant::now());
    let result = apply(source, root.as_fd(), ApplyOptions::default());
    let (wall, cpu) = (wall.elapsed(), cpu_time() - cpu);
    let usage = disk_usage(root.as_fd())?;
    let removal = Instant::now();
    remove_tree(File::open(&parent)?.as_fd(), name.as_ref())?;
    let removal = removal.elapsed();

    let applied = result?;
    println!(
        "{:?}, {} entries, {}",
        path, applied.entries, applied.compression
    );
    if let Some(digest) = &applied.digest {
        println!("digest   {digest}  {} bytes", applied.size);
    }
    println!(
        "diff ID  {}  {} bytes",
        applied.diff_id, applied.unpacked_bytes
    );
    println!("on disk  {} bytes, {} inodes", usage.bytes, usage.inodes);
    println!(
        "apply    {:.2} CPU s, {:.2} s elapsed",
        cpu.as_secs_f64(),
        wall.as_secs_f64()
    );
    println!("removal  {:.2} s elapsed", removal.as_secs_f64());
    applied
        .warnings
        .iter()
        .for_each(|w| println!("warning  {w}"));
    Ok(())
}

/// User and system time of this process so far.
fn cpu_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}
