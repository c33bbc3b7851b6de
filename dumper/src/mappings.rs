//! Mappings: their entries in `mm-PID.img`.

use arch::memory::END_OF_SPACE;
use arch::regs::Abi;
use collector::settings::ProcessSettings;
use collector::{Mapping, VmFlags};
use images::MappingKind;
use images::messages::{VmaEntry, vma_status};
use kernel::pagemap::PageRun;

/// In place of `MAP_PRIVATE`: memory that the kernel may take the contents of.
const MAP_DROPPABLE: u32 = 0x08;

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
/// memory, and 0 for all others; `huge` tells how large its huge pages are, two to the power of that. `None` for what is not carried, which no dump comes this far with.
pub(crate) fn encode(mapping: &Mapping, object: u64, huge: Option<u32>) -> Option<VmaEntry> {
    let kind = mapping.kind;
    let status = kind.status()?;
    let has = |flags| mapping.flags.contains(flags);
    let choose = |flag, value: i32| if has(flag) { value.cast_unsigned() } else { 0 };
    let prot = choose(VmFlags::READ, libc::PROT_READ)
        | choose(VmFlags::WRITE, libc::PROT_WRITE)
        | choose(VmFlags::EXEC, libc::PROT_EXEC);
    let of_file = kind.is_of_file();
    // MAP_LOCKED would bring in all of its pages.
    let on_fault = has(VmFlags::LOCK_ON_FAULT);
    let shared = matches!(
        kind,
        MappingKind::File { shared: true }
            | MappingKind::PacketRing { shared: true }
            | MappingKind::SharedAnonymous
            | MappingKind::HugePages { shared: true }
            | MappingKind::SystemV
            | MappingKind::AioRing
            | MappingKind::IoUringRing
    );
    // A ring of asynchronous I/O is of a file that the kernel makes with it.
    let is_ring = kind == MappingKind::AioRing;
    let map = |flag: i32| flag.cast_unsigned();
    let private = if has(VmFlags::DROPPABLE) { MAP_DROPPABLE } else { map(libc::MAP_PRIVATE) };
    let flags = (if shared { map(libc::MAP_SHARED) } else { private })
        | (if of_file || is_ring { 0 } else { map(libc::MAP_ANONYMOUS) })
        | huge.map_or(0, VmaEntry::huge_flags)
        | choose(VmFlags::GROWS_DOWN, libc::MAP_GROWSDOWN)
        | if on_fault { 0 } else { choose(VmFlags::LOCKED, libc::MAP_LOCKED) }
        | choose(VmFlags::NO_RESERVE, libc::MAP_NORESERVE);
    let advice = ADVICE
        .iter()
        .filter(|(flag, _)| has(*flag))
        .fold(0u64, |mask, (_, number)| mask | 1 << number);
    // A shared mapping that may become writable needs its file open for writing.
    let file_flags = if shared && has(VmFlags::MAY_WRITE) { libc::O_RDWR } else { libc::O_RDONLY };
    let has_offset = of_file || kind.is_shared_memory();
    Some(VmaEntry {
        start: mapping.start,
        end: mapping.end,
        pgoff: if has_offset { mapping.offset } else { 0 },
        shmid: object,
        prot,
        flags,
        status,
        fd: -1,
        madv: (advice != 0).then_some(advice),
        // A segment is attached to be read only, or to be written as well.
        fdflags: (of_file || is_ring || kind == MappingKind::SystemV)
            .then_some(file_flags.cast_unsigned()),
        lock_on_fault: on_fault.then_some(true),
        sealed: has(VmFlags::SEALED).then_some(true),
        protection_key: (mapping.protection_key != 0).then_some(mapping.protection_key),
        flock: None,
    })
}

/// The protection keys of a process.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ProtectionKeys {
    /// Those that are taken, one bit each, without key 0.
    pub(crate) taken: u32,
    /// Which of them the kernel has taken for code that may not be read; 0 for none.
    pub(crate) execute_only: u32,
}

/// The keys that are taken: `own` by the program. The kernel gives its own one to code that may not be read,
/// as it will when that is mapped again: so it is taken off the entries. Without eBPF it is known by them. (A
/// mapping may also have a key that was given back.)
pub(crate) fn protection_keys(
    vmas: &mut [VmaEntry],
    own: u32,
    known: &ProcessSettings,
) -> ProtectionKeys {
    let is_code = |vma: &VmaEntry| vma.prot == libc::PROT_EXEC.cast_unsigned();
    let keys = |code: bool| {
        let vmas = vmas.iter().filter(|vma| is_code(vma) == code);
        vmas.filter_map(|vma| vma.protection_key).fold(0_u32, |all, key| all | 1 << key)
    };
    let execute_only = match keys(true) & !keys(false) & !own {
        0 => known.execute_only_key,
        _ if known.execute_only_key != 0 => known.execute_only_key,
        of_code => of_code.trailing_zeros(),
    };
    for vma in vmas.iter_mut().filter(|vma| vma.protection_key == Some(execute_only)) {
        vma.protection_key = None;
    }
    let kernels = if execute_only == 0 { 0 } else { 1 << execute_only };
    ProtectionKeys { taken: own | kernels, execute_only }
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

/// A free range of `bytes` between a process's mappings, far from where the kernel puts new ones:
/// it fills an address space from the top, so the lowest gap above 4 GiB is the last that it
/// would choose; in a 32-bit program the lowest of all, but for what programs with null pointers meet.
pub(crate) fn free_range(abi: Abi, mappings: &[Mapping], bytes: u64) -> Option<u64> {
    /// Room that a stack above may grow into.
    const DISTANCE: u64 = 1 << 24;
    let (lowest, end) = match abi {
        Abi::Native => (1 << 32, END_OF_SPACE),
        Abi::Compat => (DISTANCE, arch::compat::END_OF_SPACE),
    };
    let mut at = lowest;
    for mapping in mappings.iter().filter(|mapping| mapping.end > lowest && mapping.start < end) {
        if mapping.start >= at + bytes + DISTANCE {
            break;
        }
        at = at.max(mapping.end + DISTANCE);
    }
    (at + bytes <= end).then_some(at)
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
            locked: None,
            name: name.into(),
            kind: collector::mapping_kind(name.as_bytes(), inode, flags),
        }
    }

    #[test]
    fn entries_are_those_that_criu_writes() {
        let code = VmFlags::READ | VmFlags::EXEC | VmFlags::MAY_READ;
        let libc = mapping(0x1000, 0x2000, code, 7, "/usr/lib/libc.so.6");
        let entry = encode(&libc, 3, None).unwrap();
        assert_eq!((entry.prot, entry.flags, entry.status), (5, 2, 65));
        assert_eq!((entry.shmid, entry.fd, entry.fdflags), (3, -1, Some(0)));
        let data = VmFlags::READ | VmFlags::WRITE | VmFlags::GROWS_DOWN;
        let stack = mapping(0x1000, 0x2000, data, 0, "[stack]");
        let entry = encode(&stack, 0, None).unwrap();
        assert_eq!((entry.prot, entry.flags, entry.status), (3, 290, 513));
        let vvar =
            mapping(0, 0x1000, VmFlags::READ | VmFlags::PFN_MAP | VmFlags::DONT_DUMP, 0, "[vvar]");
        let entry = encode(&vvar, 0, None).unwrap();
        assert_eq!((entry.status, entry.flags, entry.madv), (4609, 34, Some(65536)));
    }

    #[test]
    fn a_ring_is_written_as_criu_writes_it() {
        let flags = VmFlags::READ | VmFlags::WRITE | VmFlags::MAY_SHARE | VmFlags::MAY_WRITE;
        let ring = mapping(0x1000, 0x3000, flags, 9, "/[aio] (deleted)");
        let entry = encode(&ring, 0, None).unwrap();
        assert_eq!((entry.prot, entry.flags, entry.status), (3, 1, 8192));
        assert_eq!((entry.shmid, entry.fd, entry.fdflags), (0, -1, Some(2)));
    }

    #[test]
    fn a_shared_mapping_is_told_by_what_it_may_become() {
        let read_only = VmFlags::READ | VmFlags::MAY_SHARE | VmFlags::MAY_READ;
        let file = mapping(0, 0x1000, read_only, 9, "/tmp/f");
        let entry = encode(&file, 1, None).unwrap();
        assert_eq!((entry.status, entry.fdflags), (129, Some(0)));
    }

    #[test]
    fn the_free_range_keeps_its_distance() {
        let low = mapping(0x40_0000, 0x50_0000, VmFlags::READ, 0, "");
        assert_eq!(free_range(Abi::Native, std::slice::from_ref(&low), 0x3000), Some(1 << 32));
        let there = mapping(1 << 32, (1 << 32) + 0x1000, VmFlags::READ, 0, "");
        let at = free_range(Abi::Native, &[low, there], 0x3000).unwrap();
        assert!(at >= (1 << 32) + 0x1000 + (1 << 24));
        let all = mapping(0, 0x7fff_ffff_f000, VmFlags::READ, 0, "");
        assert_eq!(free_range(Abi::Native, &[all], 0x1000), None);
    }
}
