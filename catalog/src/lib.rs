//! What is told of checkpoints that are there: which there are below a directory, what each is in short and in full, whether it is as it
//! was written, what differs between two, and one as a stream.
//!
//! The command line and the dumper's service tell it by the same code, in the words of `api`. Nothing here asks more of the kernel than
//! files.

pub mod archive;
pub mod compare;
mod contents;
pub mod describe;
pub mod labels;
mod list;
mod summary;
mod verified;

pub use compare::compare;
pub use contents::{Most, contents};
pub use list::{Listed, list, walk};
pub use summary::summarize;
pub use verified::verification;
