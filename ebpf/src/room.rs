//! Room for bytes that are read from somewhere to be written out, of which there are more than the stack has room for.

use aya_ebpf::bindings::{BPF_F_NO_PREALLOC, seq_file};
use aya_ebpf::helpers::generated::{
    bpf_get_current_pid_tgid, bpf_probe_read_kernel, bpf_seq_write,
};
use aya_ebpf::maps::{Array, HashMap};
use stasis_ebpf_common::queue::MOST;

/// Room for what is read, which the stack has not: one for each thread that reads.
#[unsafe(link_section = "maps")]
#[unsafe(export_name = "ROOMS")]
static ROOMS: HashMap<u32, [u8; MOST]> = HashMap::with_max_entries(1 << 10, BPF_F_NO_PREALLOC);

/// What a room is made of.
#[unsafe(link_section = "maps")]
#[unsafe(export_name = "EMPTY")]
static EMPTY: Array<[u8; MOST]> = Array::with_max_entries(1, 0);

/// A room, until it is left.
pub(crate) struct Room {
    reader: u32,
    start: *mut u8,
}

impl Room {
    /// `None` where there is no memory for it.
    #[inline(always)]
    pub(crate) fn enter() -> Option<Self> {
        // SAFETY: the helper takes nothing.
        let reader = unsafe { bpf_get_current_pid_tgid() } as u32;
        let empty = EMPTY.get(0)?;
        ROOMS.insert(&reader, empty, 0).ok()?;
        let start = ROOMS.get_ptr_mut(&reader)?.cast();
        Some(Self { reader, start })
    }

    /// Reads so many bytes, which are in bounds, at an address; 0 if that could be done.
    #[inline(always)]
    pub(crate) fn read(&self, from: u64, count: u32) -> u64 {
        // SAFETY: the helper checks the address, and the verifier that the bytes fit.
        let failed = unsafe {
            bpf_probe_read_kernel(self.start.cast(), count, from as *const core::ffi::c_void)
        };
        failed.cast_unsigned()
    }

    /// Writes out so many bytes of what was read.
    #[inline(always)]
    pub(crate) fn write(&self, seq: *mut seq_file, count: u32) {
        // SAFETY: as above.
        unsafe { bpf_seq_write(seq, self.start.cast(), count) };
    }

    #[inline(always)]
    pub(crate) fn leave(self) {
        // It may be gone.
        let _ = ROOMS.remove(&self.reader);
    }
}
