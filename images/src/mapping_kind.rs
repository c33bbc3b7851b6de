//! What a mapping is: one classification, for those of a running process and for those in images.

use crate::messages::{VmaEntry, vma_status};

const MAP_SHARED: u32 = 0x01;

/// What a mapping is. The dumper has it from the kernel's name of the mapping (`inventory::mapping_kind`), the restorer
/// from its entry; nobody else asks names or status bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MappingKind {
    /// Private, of no file.
    Anonymous,
    /// The heap: as the former.
    Heap,
    /// The initial stack of a running process: as the former. Images do not tell it from them.
    Stack,
    /// Shared, of no file: `MAP_SHARED | MAP_ANONYMOUS`. The kernel backs it with an unlinked file of its own.
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
    /// The processor's page in every address space.
    Vsyscall,
    /// Only in images, and no mapping: a range guarded by `MADV_GUARD_INSTALL`.
    Guard,
    /// The kernel's `[uprobes]` page.
    Uprobes,
    /// A private mapping of the file behind shared anonymous memory.
    PrivateOfSharedAnonymous,
    /// System V shared memory.
    SystemV,
    /// Of no file, in huge pages (`MAP_ANONYMOUS | MAP_HUGETLB`). The kernel backs each with an unlinked file of its own.
    HugePages {
        /// Whether it is shared with children.
        shared: bool,
    },
    /// Memory of `memfd_secret`.
    Secret,
    /// A shadow stack.
    ShadowStack,
    /// The ring of an asynchronous I/O context.
    AioRing,
    /// The rings of an io_uring.
    IoUringRing,
    /// The ring of a performance counter.
    PerfRing,
    /// The rings of a packet socket.
    PacketRing {
        /// As the mapping of a file.
        shared: bool,
    },
    /// Of another file that has no path.
    Pathless,
    /// Only in images: nothing of the above, or several of them.
    Unknown,
}

impl MappingKind {
    /// What an entry is of.
    pub fn of(vma: &VmaEntry) -> Self {
        const SPECIAL: [(u32, MappingKind); 9] = [
            (vma_status::IO_URING, MappingKind::IoUringRing),
            (vma_status::VSYSCALL, MappingKind::Vsyscall),
            (vma_status::GUARD, MappingKind::Guard),
            (vma_status::SYSVIPC, MappingKind::SystemV),
            (vma_status::AIORING, MappingKind::AioRing),
            (vma_status::SHSTK, MappingKind::ShadowStack),
            (vma_status::UPROBES, MappingKind::Uprobes),
            (vma_status::VDSO, MappingKind::Vdso),
            (vma_status::VVAR, MappingKind::Vvar),
        ];
        const KINDS: u32 = vma_status::ANON_PRIVATE
            | vma_status::ANON_SHARED
            | vma_status::FILE_PRIVATE
            | vma_status::FILE_SHARED;
        if let Some((_, kind)) = SPECIAL.iter().find(|(bit, _)| vma.status & bit != 0) {
            return *kind;
        }
        let is_ring = vma.status & vma_status::SOCKET != 0;
        let is_regular = vma.status & vma_status::REGULAR != 0;
        match vma.status & KINDS {
            _ if !is_regular => Self::Unknown,
            // What maps a socket is of no other kind.
            0 if is_ring => Self::PacketRing { shared: vma.flags & MAP_SHARED != 0 },
            _ if is_ring => Self::Unknown,
            vma_status::ANON_PRIVATE if vma.is_huge() => Self::HugePages { shared: false },
            vma_status::ANON_SHARED if vma.is_huge() => Self::HugePages { shared: true },
            vma_status::ANON_PRIVATE if vma.status & vma_status::HEAP != 0 => Self::Heap,
            vma_status::ANON_PRIVATE => Self::Anonymous,
            vma_status::ANON_SHARED => Self::SharedAnonymous,
            vma_status::FILE_PRIVATE => Self::File { shared: false },
            vma_status::FILE_SHARED => Self::File { shared: true },
            _ => Self::Unknown,
        }
    }

    /// Its bits in [`VmaEntry::status`]; `None` for what no images of ours have.
    pub fn status(self) -> Option<u32> {
        use vma_status::{
            ANON_PRIVATE, ANON_SHARED, FILE_PRIVATE, FILE_SHARED, HEAP, REGULAR, VDSO, VSYSCALL,
            VVAR,
        };
        Some(match self {
            Self::Anonymous | Self::Stack | Self::HugePages { shared: false } => {
                REGULAR | ANON_PRIVATE
            }
            Self::Heap => REGULAR | HEAP | ANON_PRIVATE,
            Self::SharedAnonymous | Self::HugePages { shared: true } => REGULAR | ANON_SHARED,
            Self::SystemV => REGULAR | ANON_SHARED | vma_status::SYSVIPC,
            Self::File { shared: true } => REGULAR | FILE_SHARED,
            Self::File { shared: false } => REGULAR | FILE_PRIVATE,
            Self::PacketRing { .. } => REGULAR | vma_status::SOCKET,
            Self::IoUringRing => REGULAR | vma_status::IO_URING,
            Self::Vdso => REGULAR | VDSO | ANON_PRIVATE,
            Self::Vvar => REGULAR | VVAR | ANON_PRIVATE,
            Self::Vsyscall => VSYSCALL | ANON_PRIVATE,
            Self::Guard => vma_status::GUARD,
            Self::AioRing => vma_status::AIORING,
            Self::Uprobes
            | Self::PrivateOfSharedAnonymous
            | Self::Secret
            | Self::ShadowStack
            | Self::PerfRing
            | Self::Pathless
            | Self::Unknown => return None,
        })
    }

    /// Whether it is private memory of no file.
    pub fn is_anonymous(self) -> bool {
        matches!(self, Self::Anonymous | Self::Heap | Self::Stack)
    }

    /// Whether it is one of a file in the images: one that has a path, a memfd, a packet socket, an io_uring.
    pub fn is_of_file(self) -> bool {
        matches!(self, Self::File { .. } | Self::PacketRing { .. } | Self::IoUringRing)
    }

    /// Whether a task makes such mappings, and not the kernel by itself.
    pub fn is_ordinary(self) -> bool {
        self.is_anonymous()
            || self.is_of_file()
            || self.is_shared_memory()
            || matches!(self, Self::HugePages { .. } | Self::AioRing)
    }

    /// Whether it is shared memory of no file, of which a checkpoint has one copy.
    pub fn is_shared_memory(self) -> bool {
        self.is_shared_anonymous() || self == Self::SystemV
    }

    /// Whether it is shared memory that nothing but mappings holds.
    pub fn is_shared_anonymous(self) -> bool {
        matches!(self, Self::SharedAnonymous | Self::HugePages { shared: true })
    }

    /// Whether the kernel makes it by itself in a new program.
    pub fn is_the_kernels(self) -> bool {
        matches!(self, Self::Vdso | Self::Vvar | Self::Vsyscall)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_as_the_same() {
        for kind in [
            MappingKind::Anonymous,
            MappingKind::Heap,
            MappingKind::SharedAnonymous,
            MappingKind::SystemV,
            MappingKind::File { shared: true },
            MappingKind::File { shared: false },
            MappingKind::PacketRing { shared: false },
            MappingKind::AioRing,
            MappingKind::IoUringRing,
            MappingKind::Vdso,
            MappingKind::Vvar,
            MappingKind::Vsyscall,
            MappingKind::Guard,
        ] {
            let status = kind.status().expect("it is carried");
            assert_eq!(MappingKind::of(&VmaEntry { status, ..VmaEntry::default() }), kind);
        }
    }

    #[test]
    fn huge_pages_are_told_by_their_flag() {
        for shared in [true, false] {
            let kind = MappingKind::HugePages { shared };
            let status = kind.status().expect("it is carried");
            let flags = VmaEntry::huge_flags(21);
            let entry = VmaEntry { status, flags, ..VmaEntry::default() };
            assert_eq!(MappingKind::of(&entry), kind);
            assert_eq!(entry.huge_page_shift(), Some(21));
        }
        assert_eq!(VmaEntry::default().huge_page_shift(), None);
    }

    #[test]
    fn what_nothing_or_several_things_say_is_unknown() {
        use vma_status::{ANON_PRIVATE, FILE_SHARED, REGULAR};
        for status in [0, REGULAR, ANON_PRIVATE, REGULAR | ANON_PRIVATE | FILE_SHARED] {
            let entry = VmaEntry { status, ..VmaEntry::default() };
            assert_eq!(MappingKind::of(&entry), MappingKind::Unknown);
        }
    }
}
