//! update: other limits for a container that is there.

use crate::Runtime;
use crate::error::{Class, Error, Result};
use crate::spec::Resources;
use crate::state::{Place, Status};

impl Runtime {
    pub fn update(&self, id: &str, resources: &Resources) -> Result<()> {
        let place = Place::of(&self.root, id)?;
        let record = place.load()?;
        if place.status(&record) == Status::Stopped {
            return Err(Error::new(Class::State, "container not running"));
        }
        record.cgroups.set(resources)
    }

    /// Other lines for the `schemata` of the container's group in resctrl; an empty one changes nothing.
    pub fn update_rdt(&self, id: &str, lines: &[&str]) -> Result<()> {
        let place = Place::of(&self.root, id)?;
        match place.load()?.rdt {
            Some(group) => group.update(lines),
            None => Err(Error::new(
                Class::State,
                format!(
                    "container {id} has no linux.intelRdt: it was made without a group in resctrl"
                ),
            )),
        }
    }
}
