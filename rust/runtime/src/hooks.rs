//! Hooks that run in the runtime's own namespaces.

use std::io::{Read, Seek, SeekFrom};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use crate::error::{Context, Error, Result};
use crate::mounts::c_string;
use crate::plan;
use crate::spec::Hook;
use crate::sys;

/// What of a failed hook's output goes into the error, in bytes.
const OUTPUT_LIMIT: u64 = 4096;

/// Runs hooks in order, each with the state on its standard input; the first failure ends it.
pub fn run_all(kind: &str, hooks: &[Hook], state: &serde_json::Value) -> Result<()> {
    if hooks.is_empty() {
        return Ok(());
    }
    let text = state.to_string();
    for (index, hook) in hooks.iter().enumerate() {
        run(hook, &text).map_err(|e| {
            e.during(format!(
                "error running {kind} hook #{index} ({})",
                hook.path
            ))
        })?;
    }
    Ok(())
}

fn run(hook: &Hook, state: &str) -> Result<()> {
    let file = |content: &str| {
        sys::memory_file(c"hook", content.as_bytes()).context(|| "a file in memory".into())
    };
    let (input, output) = (file(state)?, file("")?);
    let output_copy = output.try_clone().context(|| "a descriptor".into())?;
    let error_copy = output.try_clone().context(|| "a descriptor".into())?;
    let mut command = Command::new(&hook.path);
    if let Some((name, rest)) = hook.args.split_first() {
        command.arg0(name).args(rest);
    }
    command
        .env_clear()
        .envs(hook.env.iter().filter_map(|entry| entry.split_once('=')))
        .stdin(Stdio::from(input))
        .stdout(Stdio::from(output_copy))
        .stderr(Stdio::from(error_copy));
    // SAFETY: one system call.
    unsafe {
        // What the caller of this program left open is none of the hook's.
        command.pre_exec(|| Ok(sys::close_on_exec_from(3)?));
    }
    let mut child = command.spawn().context(|| "starting it".into())?;
    if let Some(seconds) = hook.timeout {
        let milliseconds = i32::try_from(seconds.saturating_mul(1000)).unwrap_or(i32::MAX);
        let process = sys::pidfd_open(child.id() as i32).context(|| "pidfd".into())?;
        let ended = sys::poll_in(process.as_raw_fd(), Some(milliseconds));
        if !ended.context(|| "poll".into())? {
            let _ = child.kill();
            let _ = child.wait();
            return Err(Error::failed(format!("it did not end within {seconds} s")));
        }
    }
    let status = child.wait().context(|| "waiting for it".into())?;
    if status.success() {
        return Ok(());
    }
    Err(Error::failed(format!(
        "{status}, output: {}",
        contents(output)
    )))
}

fn contents(output: OwnedFd) -> String {
    let mut file = std::fs::File::from(output);
    let mut bytes = Vec::new();
    let _ = file.seek(SeekFrom::Start(0));
    let _ = file.take(OUTPUT_LIMIT).read_to_end(&mut bytes);
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

/// Checks hooks of every place before anything is made.
pub fn validate(kind: &str, hooks: &[Hook]) -> Result<()> {
    for hook in hooks {
        if !hook.path.starts_with('/') {
            return Err(Error::invalid(format!(
                "hooks.{kind}: path {:?} is not absolute",
                hook.path
            )));
        }
        if hook.timeout.is_some_and(|t| t <= 0) {
            return Err(Error::invalid(format!(
                "hooks.{kind}: timeout of {} must be greater than zero",
                hook.path
            )));
        }
    }
    Ok(())
}

/// Hooks for the new process to run.
pub fn plan(hooks: &[Hook]) -> Result<Vec<plan::Hook>> {
    let strings = |list: &[String]| list.iter().map(|s| c_string(s)).collect::<Result<Vec<_>>>();
    hooks
        .iter()
        .map(|hook| {
            let milliseconds = |s: i64| i32::try_from(s.saturating_mul(1000)).unwrap_or(i32::MAX);
            Ok(plan::Hook {
                path: c_string(&hook.path)?,
                args: strings(&hook.args)?,
                env: strings(&hook.env)?,
                timeout_ms: hook.timeout.map(milliseconds),
            })
        })
        .collect()
}
