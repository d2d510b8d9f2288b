//! One operation a file.

mod create;
mod delete;
mod exec;
mod kill;
mod list;
mod pause;
mod start;
mod stats;
mod update;
