//! The records that the eBPF programs emit.
#![no_std]
