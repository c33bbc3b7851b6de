//! Restartable sequences (rseq(2)): what the kernel does with a thread that it interrupts inside one.
//!
//! A thread says in its registered area which critical section it is about to run. When it is
//! preempted, migrated or signalled with its instruction pointer inside, the kernel clears the area's
//! pointer and lets the thread go on at the section's abort handler (`rseq_ip_fixup` in
//! `kernel/rseq.c`). It looks when the thread returns to user mode: a tracer that changed the
//! instruction pointer by then, or a checkpoint, has to follow the rule itself.

use std::io;

use ids::HostPid;

use crate::memory::read_exact;

/// Where `struct rseq` has the pointer to the section's descriptor; behind it, the flags.
const POINTER: u64 = 8;
/// `RSEQ_CS_FLAG_NO_RESTART_ON_*`: kernels before 6.1 let a section with them go on, later ones end
/// the process.
const NO_RESTART: u32 = 0b111;
/// Bytes of the signature in front of an abort handler.
const SIGNATURE_BYTES: u64 = 4;

/// Where a thread stands that was interrupted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interrupted {
    /// In no critical section.
    Outside,
    /// In one: it goes on at this address, its abort handler.
    Aborted(u64),
    /// In one that the kernel does not abort, or whose descriptor (at this address) it does not
    /// accept: that is left to the kernel, which must find the pointer where it was.
    Unresolved(u64),
}

/// What is in the memory of a thread. `area` is where its `struct rseq` is, `signature` what it was
/// registered with, `ip` its instruction pointer.
///
/// # Errors
/// When the area cannot be read.
pub fn interrupted(tid: HostPid, area: u64, signature: u32, ip: u64) -> io::Result<Interrupted> {
    let mut bytes = [0; 12];
    read_exact(tid, area.wrapping_add(POINTER), &mut bytes)?;
    let (pointer, flags) = (quad(&bytes, 0), half(&bytes, 8));
    Ok(at_section(tid, pointer, flags, signature, ip))
}

/// As [`interrupted`], of a thread whose area has, or had, this pointer to a descriptor.
#[must_use]
pub fn at_section(tid: HostPid, pointer: u64, flags: u32, signature: u32, ip: u64) -> Interrupted {
    if pointer == 0 {
        return Interrupted::Outside;
    }
    let mut descriptor = [0; Section::BYTES];
    if read_exact(tid, pointer, &mut descriptor).is_err() {
        return Interrupted::Unresolved(pointer);
    }
    let section = Section::parse(&descriptor);
    if !section.contains(ip) {
        return Interrupted::Outside;
    }
    let mut found = [0; SIGNATURE_BYTES as usize];
    let signed = read_exact(tid, section.abort_ip.wrapping_sub(SIGNATURE_BYTES), &mut found)
        .is_ok_and(|()| u32::from_ne_bytes(found) == signature);
    match signed && section.is_valid() && (flags | section.flags) & NO_RESTART == 0 {
        true => Interrupted::Aborted(section.abort_ip),
        false => Interrupted::Unresolved(pointer),
    }
}

/// Writes the pointer to a descriptor into the area of a thread.
///
/// # Errors
/// When the area cannot be written.
pub fn set_section(tid: HostPid, area: u64, pointer: u64) -> io::Result<()> {
    crate::memory::write_all(tid, area.wrapping_add(POINTER), &pointer.to_ne_bytes())
}

/// `struct rseq_cs`.
#[derive(Clone, Copy, Debug)]
struct Section {
    version: u32,
    flags: u32,
    start_ip: u64,
    length: u64,
    abort_ip: u64,
}

impl Section {
    const BYTES: usize = 32;

    fn parse(bytes: &[u8; Self::BYTES]) -> Self {
        Self {
            version: half(bytes, 0),
            flags: half(bytes, 4),
            start_ip: quad(bytes, 8),
            length: quad(bytes, 16),
            abort_ip: quad(bytes, 24),
        }
    }

    const fn contains(&self, ip: u64) -> bool {
        ip.wrapping_sub(self.start_ip) < self.length
    }

    /// The kernel's checks of the addresses: in user space, and the handler not in the section.
    const fn is_valid(&self) -> bool {
        const USER: u64 = 1 << 63;
        let Some(end) = self.start_ip.checked_add(self.length) else { return false };
        self.version == 0 && end < USER && self.abort_ip < USER && !self.contains(self.abort_ip)
    }
}

fn half(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn quad(bytes: &[u8], at: usize) -> u64 {
    let mut quad = [0; 8];
    quad.copy_from_slice(&bytes[at..at + 8]);
    u64::from_ne_bytes(quad)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGNATURE: u32 = 0x5305_3053;

    /// A descriptor, a handler behind its signature, and an area, in this process's own memory.
    #[repr(C, align(32))]
    struct Memory {
        version_and_flags: [u32; 2],
        addresses: [u64; 3],
        code: [u32; 4],
        area: [u64; 3],
    }

    fn memory(change: impl Fn(&mut Memory)) -> Box<Memory> {
        let mut memory = Box::new(Memory {
            version_and_flags: [0, 0],
            addresses: [0x1000, 0x100, 0],
            code: [0, SIGNATURE, 0, 0],
            area: [0; 3],
        });
        memory.addresses[2] = (&raw const memory.code[2]) as u64;
        memory.area[1] = (&raw const *memory) as u64;
        change(&mut memory);
        memory
    }

    fn look(memory: &Memory, ip: u64) -> Interrupted {
        let area = (&raw const memory.area) as u64;
        interrupted(HostPid::own(), area, SIGNATURE, ip).unwrap()
    }

    #[test]
    fn a_section_is_left_by_its_handler() {
        let memory = memory(|_| ());
        let handler = memory.addresses[2];
        for (ip, wanted) in [
            (0xfff, Interrupted::Outside),
            (0x1000, Interrupted::Aborted(handler)),
            (0x10ff, Interrupted::Aborted(handler)),
            (0x1100, Interrupted::Outside),
            (handler, Interrupted::Outside),
        ] {
            assert_eq!(look(&memory, ip), wanted, "{ip:#x}");
        }
    }

    #[test]
    fn what_the_kernel_would_not_abort_is_left_to_it() {
        let changes: [fn(&mut Memory); 7] = [
            |memory| memory.version_and_flags[0] = 1,
            |memory| memory.version_and_flags[1] = 2,
            |memory| memory.area[2] = 4,
            |memory| memory.code[1] = 0,
            |memory| memory.addresses[2] = 0x1010,
            |memory| memory.addresses[1] = u64::MAX,
            |memory| memory.addresses[2] = u64::MAX - 8,
        ];
        for (index, change) in changes.into_iter().enumerate() {
            let memory = memory(change);
            assert_eq!(look(&memory, 0x1008), Interrupted::Unresolved(memory.area[1]), "{index}");
        }
        let nowhere = memory(|memory| memory.area[1] = 8);
        assert_eq!(look(&nowhere, 0x1008), Interrupted::Unresolved(8));
        let none = memory(|memory| memory.area[1] = 0);
        assert_eq!(look(&none, 0x1008), Interrupted::Outside);
    }
}
