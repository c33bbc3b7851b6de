//! The two position-independent blobs, and the structs they share with the host.
//!
//! - The *parasite* runs in a frozen task and reports what only the task can know ([`task`]).
//! - The *restorer* is the last stage of a restore, when the old address space must go
//!   ([`restorer`]).
//!
//! A blob is flat code and constants: it can be copied to any address of any task and entered at
//! [`Blob::entry`]. It has no relocations, no writable data and no C library; the build refuses
//! one that does. What it works on lies in memory that the host lays out with the structs here.
#![no_std]
#![warn(missing_docs)]
#![allow(unsafe_code, reason = "this is one of the rooms where unsafe lives: structs as bytes")]

pub mod plain;
pub mod restorer;
pub mod task;

/// Code to be copied into a task.
#[derive(Clone, Copy, Debug)]
pub struct Blob {
    /// The bytes, to be placed at a multiple of 64.
    pub code: &'static [u8],
    /// Offset of the entry point.
    pub entry: usize,
}

#[cfg(feature = "blobs")]
include!(concat!(env!("OUT_DIR"), "/blobs.rs"));
