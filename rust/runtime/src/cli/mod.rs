//! The command line.

mod commands;
mod criu;
mod flags;
mod foreground;
mod logging;
mod signals;
mod spec;
mod stats;
mod update;

use std::process::ExitCode;

use flags::{Flags, Known};
use runtime::{Error, Options, Runtime};

const DEFAULT_ROOT: &str = "/run/containerd-hybrid-runtime";

const GLOBAL: &[Known] = &[
    (&["root"], true),
    (&["log"], true),
    (&["log-format"], true),
    (&["criu"], true),
    (&["rootless"], true),
    (&["debug"], false),
    (&["systemd-cgroup"], false),
    (&["restrict-oom-score-adj"], false),
    (&["version", "v"], false),
    (&["help", "h"], false),
];

pub struct Command {
    pub name: &'static str,
    pub usage: &'static str,
    pub flags: &'static [Known],
    /// Returns the exit code.
    pub run: fn(&Runtime, &Flags) -> Result<u8, Error>,
    /// It makes a process of a container.
    pub makes: bool,
}

pub fn main() -> ExitCode {
    let words: Vec<String> = std::env::args_os()
        .skip(1)
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    match run(&words) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            logging::error(&error.message);
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[String]) -> Result<u8, Error> {
    let global = Flags::parse(GLOBAL, words).map_err(Error::invalid)?;
    logging::set_up(&global)?;
    if global.is_set("version") {
        println!(
            "containerd-hybrid-runtime version {}\nspec: {}",
            env!("CARGO_PKG_VERSION"),
            runtime::OCI_VERSION
        );
        return Ok(0);
    }
    let name = global.rest.first().map_or("help", String::as_str);
    if global.is_set("help") || matches!(name, "help" | "h") {
        help();
        return Ok(0);
    }
    let Some(command) = commands::ALL.iter().find(|c| c.name == name) else {
        return Err(Error::invalid(format!(
            "No help topic for '{name}': the commands are listed by --help"
        )));
    };
    let mut flags = Flags::parse(command.flags, &global.rest[1..])
        .map_err(|e| Error::invalid(format!("{name}: {e}")))?;
    flags.adopt(&global, "criu");
    if flags.is_set("help") {
        println!("usage: containerd-hybrid-runtime {name} {}", command.usage);
        return Ok(0);
    }
    let forgive_cgroups = match global.get("rootless").unwrap_or("auto") {
        "auto" => runtime::sys::is_in_user_namespace() || !runtime::sys::is_root(),
        "true" => true,
        "false" => false,
        other => {
            return Err(Error::invalid(format!(
                "--rootless {other}: it is true, false or auto"
            )));
        }
    };
    if command.makes {
        runtime::protect::reexec()?;
    }
    let options = Options {
        clamp_oom_score_adj: global.is_set("restrict-oom-score-adj"),
        forgive_cgroups,
        ..Options::default()
    };
    let root = global.get("root").unwrap_or(DEFAULT_ROOT);
    let root = std::path::absolute(root).map_err(|e| Error::invalid(format!("--root: {e}")))?;
    let mut runtime = Runtime::new(root, options);
    if global.is_set("systemd-cgroup") {
        runtime = runtime.with_systemd_cgroup();
    }
    (command.run)(&runtime, &flags)
}

fn help() {
    println!("usage: containerd-hybrid-runtime [global options] COMMAND [options] …\n\ncommands:");
    for command in commands::ALL {
        println!("  {:<9} {}", command.name, command.usage);
    }
    println!("\nglobal options:");
    for (names, takes) in GLOBAL {
        let value = if *takes { " VALUE" } else { "" };
        println!("  --{}{value}", names[0]);
    }
}
