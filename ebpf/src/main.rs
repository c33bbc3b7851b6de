//! Iterator programs: the kernel calls one for each thread, open file or mapping of the process
//! that a link was made for, and what they write is what a read of the iterator returns. And one
//! program that the kernel calls at the end of system calls, while somebody wants it to.
//!
//! They only read, by `bpf_probe_read_kernel`, which answers a bad address with an error; a field
//! that could not be read is 0. They keep everything on their stack of 512 bytes, so that any
//! number of readers may run them at once. Licence: the helpers used need a GPL-compatible one.
#![no_std]
#![no_main]
// Inline assembly for this target: the one way to its atomic additions.
#![feature(asm_experimental_arch)]

mod aio;
mod calls;
mod file;
mod held;
mod keys;
mod mark;
mod mqueue;
mod numbers;
mod places;
mod processors;
mod read;
mod rings;
mod room;
mod settings;
mod task;
mod touch;
mod track;
mod undo;
mod userfaults;
mod vma;
mod waiting;

use core::ffi::c_char;

use aya_ebpf::bindings::seq_file;
use aya_ebpf::helpers::generated::bpf_seq_write;
use stasis_ebpf_common::NAME_BYTES;

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// What every iterator's context starts with.
#[repr(C)]
pub(crate) struct Meta {
    pub(crate) seq: *mut seq_file,
}

/// Appends a value's bytes to the iterator's output. The reader takes an object's output whole or
/// not at all: when the buffer is full the kernel drops it, and calls again with an empty buffer.
#[inline(always)]
pub(crate) fn emit<T>(seq: *mut seq_file, value: &T) {
    let bytes = core::mem::size_of::<T>() as u32;
    // SAFETY: `seq` comes from the context that the kernel passed, and `value` is that long.
    unsafe { bpf_seq_write(seq, core::ptr::from_ref(value).cast(), bytes) };
}

/// Room for a name. Not cleared: the helpers fill what is then written out, and clearing it would
/// cost as much as all the rest.
pub(crate) struct Name(core::mem::MaybeUninit<[u8; NAME_BYTES]>);

impl Name {
    #[inline(always)]
    pub(crate) const fn new() -> Self {
        Self(core::mem::MaybeUninit::uninit())
    }

    #[inline(always)]
    pub(crate) fn start(&mut self) -> *mut c_char {
        self.0.as_mut_ptr().cast()
    }

    /// Appends the first `bytes` bytes, as [`fitting`] gave them, to the iterator's output.
    #[inline(always)]
    pub(crate) fn emit(&self, seq: *mut seq_file, bytes: u32) {
        // SAFETY: a local. Read volatile so that the compiler, which may know that the mask changes
        // nothing, keeps it: it is what shows the verifier that the length is in bounds.
        let bytes = unsafe { core::ptr::read_volatile(&raw const bytes) } & (NAME_BYTES as u32 - 1);
        if bytes > 0 {
            // SAFETY: the length is less than the buffer's.
            unsafe { bpf_seq_write(seq, self.0.as_ptr().cast(), bytes) };
        }
    }
}

/// The length that a helper gave, 0 for an error or for one that a record does not carry.
#[inline(always)]
pub(crate) fn fitting(length: i64) -> u32 {
    if length < 0 || length >= NAME_BYTES as i64 { 0 } else { length as u32 }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
