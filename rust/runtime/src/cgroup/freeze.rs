//! Stopping and continuing every process of a container at once.

use std::fs;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use super::Cgroups;
use crate::error::{Class, Context, Error, Result};

const LIMIT: Duration = Duration::from_secs(2);

impl Cgroups {
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        if let Some(v2) = &self.v2 {
            let value = if frozen { "1" } else { "0" };
            let file = v2.path.join("cgroup.freeze");
            fs::write(&file, value).context(|| file.display().to_string())?;
            return wait(frozen, || v2_frozen(&v2.path));
        }
        let Some(h) = self.v1.iter().find(|h| h.has("freezer")) else {
            return Err(Error::new(
                Class::Unimplemented,
                "this host has no freezer cgroup; mount one to pause containers",
            ));
        };
        let value = if frozen { "FROZEN" } else { "THAWED" };
        let file = h.path.join("freezer.state");
        let set = || fs::write(&file, value).context(|| file.display().to_string());
        set()?;
        let result = wait(frozen, || {
            let state = v1_state(&h.path);
            if frozen && state == "FREEZING" {
                // A process that forks meanwhile is caught by another try.
                let _ = set();
            }
            state == "FROZEN"
        });
        if result.is_err() && frozen {
            let _ = fs::write(&file, "THAWED");
        }
        result
    }

    pub fn is_frozen(&self) -> bool {
        if let Some(v2) = &self.v2 {
            return v2_frozen(&v2.path);
        }
        let freezer = self.v1.iter().find(|h| h.has("freezer"));
        freezer.is_some_and(|h| v1_state(&h.path) != "THAWED" && h.path.exists())
    }
}

fn v1_state(path: &Path) -> String {
    fs::read_to_string(path.join("freezer.state"))
        .map_or_else(|_| "THAWED".into(), |text| text.trim().to_owned())
}

fn v2_frozen(path: &Path) -> bool {
    fs::read_to_string(path.join("cgroup.events")).is_ok_and(|text| text.contains("frozen 1"))
}

fn wait(wanted: bool, now: impl Fn() -> bool) -> Result<()> {
    let end = Instant::now() + LIMIT;
    let mut pause = Duration::from_micros(50);
    while now() != wanted {
        if Instant::now() > end {
            let what = if wanted { "freeze" } else { "thaw" };
            return Err(Error::failed(format!("unable to {what} the container")));
        }
        sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
    Ok(())
}
