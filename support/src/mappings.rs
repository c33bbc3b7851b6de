//! Memory: mappings, by what the kernel tells of each.

use images::MappingKind;
use inventory::{Mapping, VmFlags};

use crate::settings::WIDE_POLICY;
use crate::unsupported::Refusal;

/// What to call a mapping.
#[must_use]
pub fn object_of(mapping: &Mapping) -> String {
    let name = mapping.name.to_string_lossy();
    let object = format!("mapping {:#x}-{:#x} {name}", mapping.start, mapping.end);
    object.trim_end().to_owned()
}

const HUGE_PAGES: Refusal = Refusal::fixed(
    "memory of hugetlbfs that is a file's",
    "have the program unmap it before the dump",
);
const DEVICE: Refusal = Refusal::fixed(
    "memory of a device",
    "have the program unmap it (munmap) and close the device before the dump",
);
const USERFAULTFD: Refusal = Refusal::fixed(
    "the process serves its own page faults by userfaultfd (UFFDIO_REGISTER_MODE_MINOR), which cannot be carried yet",
    "have the program unregister it (UFFDIO_UNREGISTER) before the dump",
);

static FLAGS: [(VmFlags, Refusal); 7] = [
    (VmFlags::HUGE_TLB, HUGE_PAGES),
    (VmFlags::PFN_MAP, DEVICE),
    (VmFlags::IO, DEVICE),
    (VmFlags::MIXED_MAP, DEVICE),
    (VmFlags::UFFD_MINOR, USERFAULTFD),
    (VmFlags::SHADOW_STACK, Refusal::fixed("a shadow stack", arch::kernel::WITHOUT_SHADOW_STACK)),
    (
        VmFlags::UNKNOWN,
        Refusal::fixed(
            "has a flag that this program does not know",
            "have the program unmap it before the dump",
        ),
    ),
];

/// Why a mapping cannot be carried, if it cannot. (Whether a file can that is mapped is a question of
/// its own; here only those without any path are refused.)
#[must_use]
pub fn of_mapping(mapping: &Mapping) -> Option<Refusal> {
    match mapping.kind {
        // The kernel's own carry the flags of devices, and come with every kernel anew.
        MappingKind::Vdso | MappingKind::Vvar | MappingKind::Vsyscall => return None,
        // Before the flags, which say no more than that somebody else put the pages there.
        MappingKind::Uprobes => {
            return Some(UPROBES);
        }
        MappingKind::Secret => return Some(SECRET),
        MappingKind::PerfRing => {
            return Some(Refusal::fixed(
                "the ring of a performance counter",
                "have the program unmap it (munmap) and close the counter before the dump",
            ));
        }
        _ => {}
    }
    // The rings of a packet socket and of an io_uring are pages of the kernel's own, as those of some devices.
    let is_ring = matches!(mapping.kind, MappingKind::PacketRing { .. } | MappingKind::IoUringRing);
    let is_huge = match mapping.kind {
        MappingKind::HugePages { .. } | MappingKind::SystemV => true,
        MappingKind::File { .. } => mapping.name.as_encoded_bytes().starts_with(b"/memfd:"),
        _ => false,
    };
    let is_unknown = |flag: VmFlags| {
        !(is_ring && flag == VmFlags::MIXED_MAP || is_huge && flag == VmFlags::HUGE_TLB)
    };
    let mut flags = FLAGS.iter().filter(|(flag, _)| is_unknown(*flag));
    if let Some((_, refusal)) = flags.find(|(flag, _)| mapping.flags.contains(*flag)) {
        return Some(refusal.clone());
    }
    if mapping.policy.is_some_and(|policy| policy.wide) {
        return Some(WIDE_POLICY);
    }
    match mapping.kind {
        // The kernel makes it, where no policy is asked for.
        MappingKind::AioRing if mapping.policy.is_some() => Some(Refusal::fixed(
            "the ring of an asynchronous I/O context, with a NUMA policy",
            "have the program io_destroy the context before the dump",
        )),
        MappingKind::PrivateOfSharedAnonymous if mapping.name != "/dev/zero (deleted)" => {
            Some(Refusal::fixed(
                "a private mapping of shared memory (made by /proc/PID/map_files)",
                "have the program unmap it before the dump",
            ))
        }
        MappingKind::Pathless => Some(Refusal::fixed(
            "of a file without a path",
            "have the program unmap it before the dump",
        )),
        _ => None,
    }
}

// The kernel takes this mapping away with the memory of the process, and not before.
const UPROBES: Refusal = Refusal::fixed(
    "holds the kernel's uprobes",
    "remove the uprobes (perf probe --del, or end bpftrace or bcc) and start the program again: the mapping stays \
     as long as it runs; or give --allow-uprobes to `criu dump` and `criu restore`, and have the same uprobes active at both",
);

const SECRET: Refusal = Refusal::fixed(
    "memory that nobody but the process may read (memfd_secret)",
    "have the program unmap it before the dump",
);

/// The ring of an asynchronous I/O context, without eBPF: a ring tells nothing of requests that are not completed.
pub const AIO_UNSEEN: Refusal = Refusal::fixed(
    "only eBPF programs see what an asynchronous I/O context has in flight",
    "dump with CAP_BPF and CAP_PERFMON (`stasis programs` says what is loaded), or io_destroy it before the dump",
);

/// A context with requests that wait for something to happen.
pub const AIO_WAITING: Refusal = Refusal::fixed(
    "a request of the asynchronous I/O context waits for something to happen (IOCB_CMD_POLL)",
    "io_cancel it, or io_destroy the context, before the dump",
);

/// A ring that a process has from its parent: the context is that one's.
pub const AIO_OF_ANOTHER: Refusal = Refusal::fixed(
    "the ring of an asynchronous I/O context that the process has not, but a parent had",
    "have the program unmap it before the dump",
);

/// A ring that is no longer as the kernel has made it.
pub const AIO_RING_CHANGED: Refusal = Refusal::fixed(
    "the ring of an asynchronous I/O context that is mapped in parts or has been written over",
    "have the program io_destroy the context before the dump",
);

/// A context with requests that have not been completed in the time that they were waited for.
#[must_use]
pub fn aio_in_flight(requests: u32) -> Refusal {
    Refusal::new(
        format!("{requests} requests of the asynchronous I/O context are in flight"),
        "dump again when they are completed, or io_destroy the context before the dump",
    )
}

/// A dry run of a tree whose changes are logged since a checkpoint: what tells of them would be used up, and the next increment be whole.
pub const TRACKED_DRY_RUN: Refusal = Refusal::fixed(
    "what it changes is tracked since a checkpoint, and a dry run would use that up",
    "take the checkpoint (--parent), or end the tracking first: stasis untrack PID, DELETE /v1/dirty-logs/PID",
);

/// Memory that is write-protected by a userfaultfd of somebody else's: its pages could not be told from
/// those that a dump protects.
pub const WRITE_PROTECTED: Refusal = Refusal::fixed(
    "its pages are write-protected by a userfaultfd",
    "have the program unregister it (UFFDIO_UNREGISTER) before the dump",
);
