//! pause and resume.

use crate::Runtime;
use crate::error::{Class, Error, Result};
use crate::state::{Place, Status};

impl Runtime {
    pub fn pause(&self, id: &str) -> Result<()> {
        let place = Place::of(&self.root, id)?;
        let record = place.load()?;
        match place.status(&record) {
            Status::Running | Status::Created => record.cgroups.freeze(true),
            status => Err(wrong("container not running", status)),
        }
    }

    pub fn resume(&self, id: &str) -> Result<()> {
        let place = Place::of(&self.root, id)?;
        let record = place.load()?;
        let status = place.status(&record);
        if status == Status::Stopped || !record.cgroups.is_frozen() {
            return Err(wrong("container not paused", status));
        }
        record.cgroups.freeze(false)
    }
}

fn wrong(text: &str, status: Status) -> Error {
    Error::new(Class::State, format!("{text}: it is {}", status.name()))
}
