//! The checkpoint image format, byte-compatible with CRIU's.

pub mod messages;
