//! Memory: mappings, by what the kernel tells of each.

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

const HUGE_PAGES: Refusal =
    Refusal::fixed("memory of hugetlbfs", "use transparent huge pages instead of MAP_HUGETLB");
const DEVICE: Refusal = Refusal::fixed("memory of a device", "close the device before the dump");
const USERFAULTFD: Refusal = Refusal::fixed(
    "the process serves its own page faults by userfaultfd",
    "unregister it before the dump",
);

static FLAGS: [(VmFlags, Refusal); 10] = [
    (VmFlags::HUGE_TLB, HUGE_PAGES),
    (VmFlags::PFN_MAP, DEVICE),
    (VmFlags::IO, DEVICE),
    (VmFlags::MIXED_MAP, DEVICE),
    (VmFlags::UFFD_MISSING, USERFAULTFD),
    (VmFlags::UFFD_MINOR, USERFAULTFD),
    (VmFlags::SHADOW_STACK, Refusal::fixed("a shadow stack", arch::kernel::WITHOUT_SHADOW_STACK)),
    (
        VmFlags::SEALED,
        Refusal::fixed("sealed by mseal", "start the program without sealing its mappings"),
    ),
    (VmFlags::DROPPABLE, Refusal::fixed("made by MAP_DROPPABLE", "unmap it before the dump")),
    (
        VmFlags::UNKNOWN,
        Refusal::fixed("has a flag that this program does not know", "unmap it before the dump"),
    ),
];

/// Mappings by what their names begin with.
static NAMES: [(&[u8], Refusal); 3] = [
    (
        b"/secretmem",
        Refusal::fixed(
            "memory that nobody but the process may read (memfd_secret)",
            "unmap it before the dump",
        ),
    ),
    (
        b"anon_inode:[io_uring]",
        Refusal::fixed("the rings of an io_uring", "close the io_uring before the dump"),
    ),
    (
        b"anon_inode:[perf_event]",
        Refusal::fixed("the ring of a performance counter", "close the counter before the dump"),
    ),
];

/// Why a mapping cannot be carried, if it cannot. (Whether a file can that is mapped is a question of
/// its own; here only those without any path are refused.)
#[must_use]
pub fn of_mapping(mapping: &Mapping) -> Option<Refusal> {
    let name = mapping.name.as_encoded_bytes();
    match name {
        // The kernel's own carry the flags of devices, and come with every kernel anew.
        b"[vdso]" | b"[vvar]" | b"[vvar_vclock]" | arch::memory::GATE => return None,
        b"[uprobes]" => {
            return Some(Refusal::fixed("holds the kernel's uprobes", "detach the tracer first"));
        }
        b"/anon_hugepage (deleted)" => return Some(HUGE_PAGES),
        _ => {}
    }
    // Before the flags, which say no more than that somebody else put the pages there.
    if let Some((_, refusal)) = NAMES.iter().find(|(start, _)| name.starts_with(start)) {
        return Some(refusal.clone());
    }
    // The rings of a packet socket are pages of the kernel's own, as those of some devices.
    let is_ring = name.starts_with(b"socket:[");
    let is_unknown = |flag: VmFlags| !(is_ring && flag == VmFlags::MIXED_MAP);
    let mut flags = FLAGS.iter().filter(|(flag, _)| is_unknown(*flag));
    if let Some((_, refusal)) = flags.find(|(flag, _)| mapping.flags.contains(*flag)) {
        return Some(refusal.clone());
    }
    if mapping.policy.is_some_and(|policy| policy.wide) {
        return Some(WIDE_POLICY);
    }
    if mapping.protection_key != 0 {
        return Some(Refusal::fixed(
            "has a protection key",
            "free its protection key before the dump",
        ));
    }
    if name.starts_with(b"/[aio]") {
        return Some(Refusal::fixed(
            "the ring of an asynchronous I/O context",
            "io_destroy it before the dump",
        ));
    }
    if name.starts_with(b"/SYSV") {
        return Some(Refusal::fixed(
            "System V shared memory",
            "use POSIX shared memory or a shared anonymous mapping instead",
        ));
    }
    if is_anonymous_file(name) && !mapping.flags.contains(VmFlags::MAY_SHARE) {
        return Some(Refusal::fixed(
            "a private mapping of shared anonymous memory (made by /proc/PID/map_files)",
            "unmap it before the dump",
        ));
    }
    if name.starts_with(b"anon_inode:") {
        return Some(Refusal::fixed("of a file without a path", "unmap it before the dump"));
    }
    None
}

/// Whether this is the name of the file that the kernel makes for shared anonymous memory.
fn is_anonymous_file(name: &[u8]) -> bool {
    name == b"/dev/zero (deleted)"
}

/// Memory that is write-protected by a userfaultfd of somebody else's: its pages could not be told from
/// those that a dump protects.
pub const WRITE_PROTECTED: Refusal = Refusal::fixed(
    "its pages are write-protected by a userfaultfd",
    "unregister it before the dump",
);
