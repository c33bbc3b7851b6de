//! Keeps a live inventory of process trees: by eBPF iterators where the kernel lets us, from
//! /proc otherwise. One [`Inventory`] type, two sources.

mod inventory;

pub use inventory::{InTask, Inventory, Mapping, OpenFile, Process, ProcessState, Thread, VmFlags};
