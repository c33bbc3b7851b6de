//! Turns a frozen process tree into images.

pub mod files;
mod inject;
mod options;

pub use options::{AfterDump, DumpOptions, DumpReport, FrozenAccount};
