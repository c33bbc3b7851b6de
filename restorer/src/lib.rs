//! Turns images into a running process tree.

pub mod files;
mod options;

pub use options::{AfterRestore, RestoreOptions, RestoreReport};
