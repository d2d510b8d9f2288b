//! state, ps and list: what there is.

use std::io::ErrorKind;

use crate::Runtime;
use crate::error::{Context, Result};
use crate::state::{Place, Record, Status, check_id};

impl Runtime {
    /// The state as the specification has it.
    pub fn state(&self, id: &str) -> Result<serde_json::Value> {
        let (record, status) = self.inspect(id)?;
        Ok(record.state(status.name()))
    }

    pub fn inspect(&self, id: &str) -> Result<(Record, Status)> {
        let place = Place::of(&self.root, id)?;
        let record = place.load()?;
        let status = place.status(&record);
        Ok((record, status))
    }

    /// The ids of all processes in the container.
    pub fn ps(&self, id: &str) -> Result<Vec<i32>> {
        let (record, _) = self.inspect(id)?;
        record.cgroups.processes()
    }

    /// Every container, by id.
    pub fn list(&self) -> Result<Vec<(Record, Status)>> {
        let entries = match std::fs::read_dir(&self.root) {
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.context(|| self.root.display().to_string())?,
        };
        let mut ids: Vec<String> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|id| check_id(id).is_ok())
            .collect();
        ids.sort();
        // One that goes meanwhile is no error of the list.
        Ok(ids.iter().filter_map(|id| self.inspect(id).ok()).collect())
    }
}
