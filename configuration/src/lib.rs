//! The one configuration file, `/etc/stasis/stasis.toml`, for all programs.
//!
//! Nothing here lists what can be configured: the keys of a program's section are the long names of
//! its options, and what a key may hold is what the option's own parser takes. A value of the file
//! becomes the option's default before the command line is read, so that clap itself sees to the
//! order: option, then `STASIS_*`, then file, then the program's own default.
//!
//! A program checks its own section and what `[common]` holds for it. `stasis config check`, which
//! knows all programs, checks the whole file.

mod check;
mod document;
mod error;
mod file;
mod key;
mod parse;
mod program;
mod show;

pub use check::{Values, check};
pub use document::{COMMON, SECTIONS};
pub use error::{Error, Fault};
pub use file::{Place, Text};
pub use program::Program;
pub use show::{Environment, show};
