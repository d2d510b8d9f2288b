//! One operation a file.

pub mod checkpoint;
mod create;
mod delete;
mod exec;
mod kill;
mod list;
mod pause;
pub mod restore;
mod start;
mod stats;
mod update;
