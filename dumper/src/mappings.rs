//! Mappings: what each is, whether it can be carried, and its entry in `mm-PID.img`.

use arch::memory::{END_OF_SPACE, GATE};
use collector::{Mapping, VmFlags};
use images::messages::{VmaEntry, vma_status};
use kernel::pagemap::PageRun;
use support::Refusal;
use support::mappings::of_mapping;

/// What a mapping is, as far as carrying it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Private, of no file.
    Anonymous,
    /// The heap: as the former.
    Heap,
    /// Shared, of no file: `MAP_SHARED | MAP_ANONYMOUS`. The kernel backs it with an unlinked
    /// file of its own.
    SharedAnonymous,
    /// Of a file, private or shared.
    File {
        /// Writes go to the file.
        shared: bool,
    },
    /// The kernel's code for user space.
    Vdso,
    /// The data of that code.
    Vvar,
    /// The processor's page in every address space ([`GATE`]).
    Vsyscall,
}

/// What a mapping is, or why it cannot be carried.
pub(crate) fn classify(mapping: &Mapping) -> Result<Kind, Refusal> {
    let name = mapping.name.as_encoded_bytes();
    // The kernel's own mappings carry flags of devices.
    match name {
        b"[vdso]" => return Ok(Kind::Vdso),
        b"[vvar]" | b"[vvar_vclock]" => return Ok(Kind::Vvar),
        GATE => return Ok(Kind::Vsyscall),
        _ => {}
    }
    if let Some(refusal) = of_mapping(mapping) {
        return Err(refusal);
    }
    let shared = mapping.flags.contains(VmFlags::MAY_SHARE);
    match name {
        b"[heap]" => Ok(Kind::Heap),
        b"/dev/zero (deleted)" if shared => Ok(Kind::SharedAnonymous),
        _ if mapping.inode == 0 => Ok(Kind::Anonymous),
        _ => Ok(Kind::File { shared }),
    }
}

/// `MADV_*` numbers of the advice that stays with a mapping.
const ADVICE: [(VmFlags, u32); 8] = [
    (VmFlags::RANDOM_READ, 1),
    (VmFlags::SEQUENTIAL_READ, 2),
    (VmFlags::DONT_COPY, 10),
    (VmFlags::MERGEABLE, 12),
    (VmFlags::HUGE_PAGE, 14),
    (VmFlags::NO_HUGE_PAGE, 15),
    (VmFlags::DONT_DUMP, 16),
    (VmFlags::WIPE_ON_FORK, 18),
];

/// The entry of a mapping. `object` is the file's id for a file, the segment's for shared
/// anonymous memory, and 0 for all others.
pub(crate) fn encode(mapping: &Mapping, kind: Kind, object: u64) -> VmaEntry {
    let has = |flags| mapping.flags.contains(flags);
    let choose = |flag, value: i32| if has(flag) { value.cast_unsigned() } else { 0 };
    let prot = choose(VmFlags::READ, libc::PROT_READ)
        | choose(VmFlags::WRITE, libc::PROT_WRITE)
        | choose(VmFlags::EXEC, libc::PROT_EXEC);
    let of_file = matches!(kind, Kind::File { .. });
    // MAP_LOCKED would bring in all of its pages.
    let on_fault = has(VmFlags::LOCK_ON_FAULT);
    let shared = matches!(kind, Kind::File { shared: true, .. } | Kind::SharedAnonymous);
    let map = |flag: i32| flag.cast_unsigned();
    let flags = (if shared { map(libc::MAP_SHARED) } else { map(libc::MAP_PRIVATE) })
        | (if of_file { 0 } else { map(libc::MAP_ANONYMOUS) })
        | choose(VmFlags::GROWS_DOWN, libc::MAP_GROWSDOWN)
        | if on_fault { 0 } else { choose(VmFlags::LOCKED, libc::MAP_LOCKED) }
        | choose(VmFlags::NO_RESERVE, libc::MAP_NORESERVE);
    let advice = ADVICE
        .iter()
        .filter(|(flag, _)| has(*flag))
        .fold(0u64, |mask, (_, number)| mask | 1 << number);
    // A shared mapping that may become writable needs its file open for writing.
    let file_flags = if shared && has(VmFlags::MAY_WRITE) { libc::O_RDWR } else { libc::O_RDONLY };
    VmaEntry {
        start: mapping.start,
        end: mapping.end,
        pgoff: if of_file { mapping.offset } else { shared_offset(mapping, kind) },
        shmid: object,
        prot,
        flags,
        status: status(kind),
        fd: -1,
        madv: (advice != 0).then_some(advice),
        fdflags: of_file.then_some(file_flags.cast_unsigned()),
        lock_on_fault: on_fault.then_some(true),
    }
}

/// The entry of a guard region, which is none of a mapping: CRIU has them behind all of these.
pub(crate) fn guard(region: &PageRun) -> VmaEntry {
    VmaEntry {
        start: region.start,
        end: region.end,
        status: vma_status::GUARD,
        fd: -1,
        ..VmaEntry::default()
    }
}

/// Where in its segment a mapping of shared anonymous memory begins.
fn shared_offset(mapping: &Mapping, kind: Kind) -> u64 {
    if kind == Kind::SharedAnonymous { mapping.offset } else { 0 }
}

fn status(kind: Kind) -> u32 {
    let carried = match kind {
        Kind::Vsyscall => 0,
        _ => vma_status::REGULAR,
    };
    carried
        | match kind {
            Kind::Anonymous => vma_status::ANON_PRIVATE,
            Kind::Heap => vma_status::HEAP | vma_status::ANON_PRIVATE,
            Kind::SharedAnonymous => vma_status::ANON_SHARED,
            Kind::Vdso => vma_status::VDSO | vma_status::ANON_PRIVATE,
            Kind::Vvar => vma_status::VVAR | vma_status::ANON_PRIVATE,
            Kind::Vsyscall => vma_status::VSYSCALL | vma_status::ANON_PRIVATE,
            Kind::File { shared: true } => vma_status::FILE_SHARED,
            Kind::File { shared: false } => vma_status::FILE_PRIVATE,
        }
}

/// A free range of `bytes` between a process's mappings, far from where the kernel puts new ones:
/// it fills an address space from the top, so the lowest gap above 4 GiB is the last that it
/// would choose.
pub(crate) fn free_range(mappings: &[Mapping], bytes: u64) -> Option<u64> {
    const LOWEST: u64 = 1 << 32;
    /// Room that a stack above may grow into.
    const DISTANCE: u64 = 1 << 24;
    let mut at = LOWEST;
    for mapping in mappings.iter().filter(|mapping| mapping.end > LOWEST) {
        if mapping.start >= at + bytes + DISTANCE {
            break;
        }
        at = at.max(mapping.end + DISTANCE);
    }
    (at + bytes <= END_OF_SPACE).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(start: u64, end: u64, flags: VmFlags, inode: u64, name: &str) -> Mapping {
        Mapping {
            start,
            end,
            flags,
            offset: 0,
            device: u64::from(inode != 0),
            inode,
            protection_key: 0,
            policy: None,
            name: name.into(),
        }
    }

    #[test]
    fn entries_are_those_that_criu_writes() {
        let code = VmFlags::READ | VmFlags::EXEC | VmFlags::MAY_READ;
        let libc = mapping(0x1000, 0x2000, code, 7, "/usr/lib/libc.so.6");
        let kind = classify(&libc).unwrap();
        let entry = encode(&libc, kind, 3);
        assert_eq!((entry.prot, entry.flags, entry.status), (5, 2, 65));
        assert_eq!((entry.shmid, entry.fd, entry.fdflags), (3, -1, Some(0)));
        let data = VmFlags::READ | VmFlags::WRITE | VmFlags::GROWS_DOWN;
        let stack = mapping(0x1000, 0x2000, data, 0, "[stack]");
        let entry = encode(&stack, classify(&stack).unwrap(), 0);
        assert_eq!((entry.prot, entry.flags, entry.status), (3, 290, 513));
        let vvar =
            mapping(0, 0x1000, VmFlags::READ | VmFlags::PFN_MAP | VmFlags::DONT_DUMP, 0, "[vvar]");
        let entry = encode(&vvar, classify(&vvar).unwrap(), 0);
        assert_eq!((entry.status, entry.flags, entry.madv), (4609, 34, Some(65536)));
    }

    #[test]
    fn a_shared_mapping_is_told_by_what_it_may_become() {
        let read_only = VmFlags::READ | VmFlags::MAY_SHARE | VmFlags::MAY_READ;
        let file = mapping(0, 0x1000, read_only, 9, "/tmp/f");
        assert_eq!(classify(&file), Ok(Kind::File { shared: true }));
        assert_eq!(encode(&file, classify(&file).unwrap(), 1).fdflags, Some(0));
        let zero = mapping(0, 0x1000, VmFlags::MAY_SHARE, 9, "/dev/zero (deleted)");
        assert_eq!(classify(&zero), Ok(Kind::SharedAnonymous));
    }

    #[test]
    fn what_cannot_be_carried_is_named() {
        for flags in [VmFlags::HUGE_TLB, VmFlags::UFFD_MISSING, VmFlags::SEALED] {
            assert!(classify(&mapping(0, 0x1000, flags, 0, "")).is_err());
        }
        assert!(
            classify(&mapping(0, 0x1000, VmFlags::MAY_SHARE, 1, "/SYSV00000000 (deleted)"))
                .is_err()
        );
    }

    #[test]
    fn the_free_range_keeps_its_distance() {
        let low = mapping(0x40_0000, 0x50_0000, VmFlags::READ, 0, "");
        assert_eq!(free_range(std::slice::from_ref(&low), 0x3000), Some(1 << 32));
        let there = mapping(1 << 32, (1 << 32) + 0x1000, VmFlags::READ, 0, "");
        let at = free_range(&[low, there], 0x3000).unwrap();
        assert!(at >= (1 << 32) + 0x1000 + (1 << 24));
        let all = mapping(0, 0x7fff_ffff_f000, VmFlags::READ, 0, "");
        assert_eq!(free_range(&[all], 0x1000), None);
    }
}
