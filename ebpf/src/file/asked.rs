//! What the reader of an iterator asks for.
//!
//! The program runs in the task that reads. So it finds there, by the thread's number, what that has
//! left for it: what to write out, and where in its own memory to find a word for each descriptor, that
//! says whether it wants it. An entry that is not there, or a word that cannot be read, stands for all.

use aya_ebpf::helpers::generated::{bpf_get_current_pid_tgid, bpf_probe_read_user};
use aya_ebpf::maps::LruHashMap;
use stasis_ebpf_common::asked::{ALWAYS, Asked, FILES, NEVER};

/// By the reader's thread. Those whose readers were killed make room for others.
#[unsafe(link_section = "maps")]
#[unsafe(export_name = "ASKED")]
static ASKED: LruHashMap<u32, Asked> = LruHashMap::with_max_entries(1 << 10, 0);

/// What the thread that reads asks for.
#[inline(always)]
pub(super) fn asked() -> Asked {
    // SAFETY: the helper takes nothing.
    let reader = unsafe { bpf_get_current_pid_tgid() } as u32;
    // SAFETY: the value is only read, and only its own thread changes it.
    let asked = unsafe { ASKED.get(reader) };
    asked.copied().unwrap_or(Asked { what: FILES, count: 0, wanted: 0 })
}

/// What the reader has left of a descriptor: [`NEVER`], [`ALWAYS`] or a print.
#[inline(always)]
pub(super) fn wanted(asked: &Asked, fd: u32) -> u64 {
    if asked.wanted == 0 {
        return ALWAYS;
    }
    if fd >= asked.count {
        return NEVER;
    }
    let mut word = 0u64;
    let address = asked.wanted + u64::from(fd) * 8;
    // SAFETY: the helper checks the address and writes just the word.
    let failed = unsafe {
        bpf_probe_read_user(core::ptr::from_mut(&mut word).cast(), 8, address as *const _)
    };
    if failed != 0 { ALWAYS } else { word }
}
