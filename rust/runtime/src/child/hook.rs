//! Hooks that run inside the container's namespaces.

use std::os::fd::AsRawFd;

use super::{At, Outcome};
use crate::plan::{Hook, Plan};
use crate::sys::{self, Errno};
use crate::wire::Step;

const MOST_STRINGS: usize = 256;

/// Runs hooks one after the other; each must succeed.
pub fn run_all(plan: &Plan, hooks: &[Hook], step: Step) -> Outcome<()> {
    for (index, hook) in hooks.iter().enumerate() {
        run(plan, hook).at_item(step, index)?;
    }
    Ok(())
}

/// A hook's failure is `ECHILD`, its running out of time `ETIMEDOUT`.
fn run(plan: &Plan, hook: &Hook) -> sys::Result<()> {
    let mut args = [std::ptr::null(); MOST_STRINGS];
    let mut env = [std::ptr::null(); MOST_STRINGS];
    if hook.args.len() >= MOST_STRINGS || hook.env.len() >= MOST_STRINGS {
        return Err(Errno(libc::E2BIG));
    }
    for (to, from) in args.iter_mut().zip(&hook.args) {
        *to = from.as_ptr().cast();
    }
    if hook.args.is_empty() {
        args[0] = hook.path.as_ptr().cast();
    }
    for (to, from) in env.iter_mut().zip(&hook.env) {
        *to = from.as_ptr().cast();
    }
    // SAFETY: the child only execs.
    let pid = unsafe { sys::clone3(0, None) }?;
    if pid == 0 {
        let ready = (|| {
            if let Some(state) = &plan.state {
                sys::lseek_start(state.as_raw_fd())?;
                sys::dup_to(state.as_raw_fd(), 0)?;
            }
            sys::close_on_exec_from(3)
        })();
        if ready.is_ok() {
            // SAFETY: the strings belong to the plan; both lists end with null.
            unsafe { sys::execve(&hook.path, &args, &env) };
        }
        sys::exit(127);
    }
    let late = match hook.timeout_ms {
        None => false,
        Some(limit) => {
            let process = sys::pidfd_open(pid)?;
            !sys::poll_in(process.as_raw_fd(), Some(limit))?
        }
    };
    if late {
        let _ = sys::kill(pid, libc::SIGKILL);
    }
    match (sys::wait(pid)?, late) {
        (_, true) => Err(Errno(libc::ETIMEDOUT)),
        (0, _) => Ok(()),
        _ => Err(Errno(libc::ECHILD)),
    }
}
