//! Address spaces: `mm-PID.img` and `pagemap-ID.img`.

use prost::Message;

/// Bits of [`VmaEntry::status`]: what a mapping is.
pub mod vma_status {
    /// Its contents are to be restored; absent from the mappings the kernel makes by itself.
    pub const REGULAR: u32 = 1 << 0;
    /// A stack that grows down.
    pub const STACK: u32 = 1 << 1;
    /// The vsyscall page, which is the kernel's.
    pub const VSYSCALL: u32 = 1 << 2;
    /// The vDSO's code.
    pub const VDSO: u32 = 1 << 3;
    /// The heap (for information).
    pub const HEAP: u32 = 1 << 5;
    /// A private mapping of a file.
    pub const FILE_PRIVATE: u32 = 1 << 6;
    /// A shared mapping of a file.
    pub const FILE_SHARED: u32 = 1 << 7;
    /// Shared anonymous memory; `shmid` says which.
    pub const ANON_SHARED: u32 = 1 << 8;
    /// Private anonymous memory.
    pub const ANON_PRIVATE: u32 = 1 << 9;
    /// System V shared memory.
    pub const SYSVIPC: u32 = 1 << 10;
    /// The ring of a packet socket.
    pub const SOCKET: u32 = 1 << 11;
    /// The vDSO's data.
    pub const VVAR: u32 = 1 << 12;
    /// The ring of an asynchronous I/O context.
    pub const AIORING: u32 = 1 << 13;
    /// A mapping of a memfd.
    pub const MEMFD: u32 = 1 << 14;
    /// A shadow stack.
    pub const SHSTK: u32 = 1 << 15;
    /// Not a mapping: a range guarded by `MADV_GUARD_INSTALL`. These come last in the list.
    pub const GUARD: u32 = 1 << 16;
    /// The kernel's `[uprobes]` page.
    pub const UPROBES: u32 = 1 << 17;
    /// The rings of an io_uring (ours: CRIU has none).
    pub const IO_URING: u32 = 1 << 29;

    /// Those that say which kind of file is mapped, if it is not one that is found by its path.
    pub const OF_KINDS: u32 = SOCKET | MEMFD | IO_URING;
}

/// Bits of [`PagemapEntry::flags`]: where the pages of a run are.
pub mod page_flags {
    /// In the parent checkpoint, at the same addresses.
    pub const PARENT: u32 = 1 << 0;
    /// May be brought in when they are first touched.
    pub const LAZY: u32 = 1 << 1;
    /// In this checkpoint's pages file. Neither this nor `PARENT`: all zeros.
    pub const PRESENT: u32 = 1 << 2;
}

/// `mm-PID.img`: an address space.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct MmEntry {
    /// Start of the program's code.
    #[prost(uint64, required, tag = "1")]
    pub mm_start_code: u64,
    /// End of it.
    #[prost(uint64, required, tag = "2")]
    pub mm_end_code: u64,
    /// Start of its data.
    #[prost(uint64, required, tag = "3")]
    pub mm_start_data: u64,
    /// End of it.
    #[prost(uint64, required, tag = "4")]
    pub mm_end_data: u64,
    /// Where the stack began.
    #[prost(uint64, required, tag = "5")]
    pub mm_start_stack: u64,
    /// Start of the heap.
    #[prost(uint64, required, tag = "6")]
    pub mm_start_brk: u64,
    /// End of the heap.
    #[prost(uint64, required, tag = "7")]
    pub mm_brk: u64,
    /// Start of the arguments.
    #[prost(uint64, required, tag = "8")]
    pub mm_arg_start: u64,
    /// End of them.
    #[prost(uint64, required, tag = "9")]
    pub mm_arg_end: u64,
    /// Start of the environment.
    #[prost(uint64, required, tag = "10")]
    pub mm_env_start: u64,
    /// End of it.
    #[prost(uint64, required, tag = "11")]
    pub mm_env_end: u64,
    /// File id of the program.
    #[prost(uint32, required, tag = "12")]
    pub exe_file_id: u32,
    /// Auxiliary vector, without the terminating pair.
    #[prost(uint64, repeated, packed = "false", tag = "13")]
    pub mm_saved_auxv: Vec<u64>,
    /// Mappings in ascending order.
    #[prost(message, repeated, tag = "14")]
    pub vmas: Vec<VmaEntry>,
    /// `PR_GET_DUMPABLE`.
    #[prost(int32, optional, tag = "15")]
    pub dumpable: Option<i32>,
    /// Asynchronous I/O contexts.
    #[prost(message, repeated, tag = "16")]
    pub aios: Vec<AioRingEntry>,
    /// `PR_GET_THP_DISABLE`.
    #[prost(bool, optional, tag = "17")]
    pub thp_disabled: Option<bool>,
    /// Extension: what is mapped from now on is locked (`MCL_FUTURE`, `MCL_ONFAULT`).
    #[prost(uint32, optional, tag = "1010")]
    pub future_locks: Option<u32>,
    /// Extension: `PR_GET_MDWE`.
    #[prost(uint32, optional, tag = "1011")]
    pub deny_write_execute: Option<u32>,
    /// Extension: `PR_GET_MEMORY_MERGE`.
    #[prost(bool, optional, tag = "1012")]
    pub merge_memory: Option<bool>,
    /// Extension: what `PR_GET_THP_DISABLE` gives beside 1.
    #[prost(uint32, optional, tag = "1013")]
    pub thp_disable_flags: Option<u32>,
    /// Extension: NUMA policies of mappings, in ascending order.
    #[prost(message, repeated, tag = "1014")]
    pub policies: Vec<MappingPolicyEntry>,
    /// Extension: the address below which the kernel looks for room for new mappings
    /// (`mm->mmap_base`).
    #[prost(uint64, optional, tag = "1015")]
    pub mapping_base: Option<u64>,
    /// Extension: protection keys that it has taken (`pkey_alloc`), one bit each, without key 0.
    #[prost(uint32, optional, tag = "1016")]
    pub protection_keys: Option<u32>,
    /// Extension: which of these the kernel has taken for code that may not be read.
    #[prost(uint32, optional, tag = "1017")]
    pub execute_only_key: Option<u32>,
}

/// Of a [`MmEntry`] what must be known before all else; its mappings, which may be many, are not kept.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct LayoutEntry {
    /// [`MmEntry::mapping_base`].
    #[prost(uint64, optional, tag = "1015")]
    pub mapping_base: Option<u64>,
}

/// Extension: the NUMA policy of a mapping, as `mbind` takes it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct MappingPolicyEntry {
    /// First address.
    #[prost(uint64, required, tag = "1")]
    pub start: u64,
    /// Address after the last.
    #[prost(uint64, required, tag = "2")]
    pub end: u64,
    /// `MPOL_*` with its flags.
    #[prost(uint32, required, tag = "3")]
    pub mode: u32,
    /// Nodes 0 to 63, one bit each.
    #[prost(uint64, required, tag = "4")]
    pub nodes: u64,
}

/// A mapping. `flags` and `prot` are those of `mmap`; `status` says what it is
/// ([`vma_status`]).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct VmaEntry {
    /// First address.
    #[prost(uint64, required, tag = "1")]
    pub start: u64,
    /// Address after the last.
    #[prost(uint64, required, tag = "2")]
    pub end: u64,
    /// Offset in the file, in bytes.
    #[prost(uint64, required, tag = "3")]
    pub pgoff: u64,
    /// File id, or for shared anonymous memory the number in `pagemap-shmem-ID.img`.
    #[prost(uint64, required, tag = "4")]
    pub shmid: u64,
    /// `PROT_*`.
    #[prost(uint32, required, tag = "5")]
    pub prot: u32,
    /// `MAP_*`.
    #[prost(uint32, required, tag = "6")]
    pub flags: u32,
    /// What it is ([`vma_status`]).
    #[prost(uint32, required, tag = "7")]
    pub status: u32,
    /// Not used: -1.
    #[prost(sint64, required, tag = "8")]
    pub fd: i64,
    /// Advice given: bit *n* for `madvise` advice *n*.
    #[prost(uint64, optional, tag = "9")]
    pub madv: Option<u64>,
    /// How the mapped file was opened.
    #[prost(uint32, optional, tag = "10")]
    pub fdflags: Option<u32>,
    /// Extension: its pages are locked as they are touched (`MLOCK_ONFAULT`).
    #[prost(bool, optional, tag = "1010")]
    pub lock_on_fault: Option<bool>,
    /// Extension: nothing about it can be changed (`mseal`).
    #[prost(bool, optional, tag = "1011")]
    pub sealed: Option<bool>,
    /// Extension: the protection key that it was given (`pkey_mprotect`).
    #[prost(uint32, optional, tag = "1012")]
    pub protection_key: Option<u32>,
    /// Extension: the lock (flock) that the open file it was made of has, of which no descriptor is left: `F_RDLCK` or `F_WRLCK`.
    #[prost(uint32, optional, tag = "1013")]
    pub flock: Option<u32>,
}

/// Where flags of mappings, memfds and segments have the size of huge pages: two to the power of that.
pub(super) const HUGE_SHIFT: u32 = nix::libc::MAP_HUGE_SHIFT.cast_unsigned();
const HUGE_MASK: u32 = nix::libc::MAP_HUGE_MASK.cast_unsigned();

impl VmaEntry {
    const MAP_HUGETLB: u32 = 0x4_0000;

    /// What its flags have for huge pages of two to the power of `shift` bytes.
    pub const fn huge_flags(shift: u32) -> u32 {
        Self::MAP_HUGETLB | (shift & HUGE_MASK) << HUGE_SHIFT
    }

    /// Whether it is in huge pages.
    pub const fn is_huge(&self) -> bool {
        self.flags & Self::MAP_HUGETLB != 0
    }

    /// If it is, of which size: two to the power of that; 0 for the size that the kernel takes by itself.
    pub fn huge_page_shift(&self) -> Option<u32> {
        self.is_huge().then_some(self.flags >> HUGE_SHIFT & HUGE_MASK)
    }

    /// Whether the kernel may take its contents (`MAP_DROPPABLE`).
    pub const fn is_droppable(&self) -> bool {
        const MAP_TYPE: u32 = 0x0f;
        const MAP_DROPPABLE: u32 = 0x08;
        self.flags & MAP_TYPE == MAP_DROPPABLE
    }
}

/// An asynchronous I/O context.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct AioRingEntry {
    /// Address of the ring.
    #[prost(uint64, required, tag = "1")]
    pub id: u64,
    /// Requests it was made for.
    #[prost(uint32, required, tag = "2")]
    pub nr_req: u32,
    /// Its length in bytes.
    #[prost(uint32, required, tag = "3")]
    pub ring_len: u32,
}

/// First entry of a page map: which `pages-ID.img` holds its pages.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct PagemapHead {
    /// Number of the pages file.
    #[prost(uint32, required, tag = "1")]
    pub pages_id: u32,
}

/// A run of pages. Runs are in ascending order and do not overlap; the pages of those that are
/// [`page_flags::PRESENT`] lie one after another in the pages file, in the order of the runs.
/// Old images have no `flags`: then a run is present unless `in_parent`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct PagemapEntry {
    /// Address of the first page.
    #[prost(uint64, required, tag = "1")]
    pub vaddr: u64,
    /// Pages, for CRIU before 4.1.
    #[prost(uint32, required, tag = "2")]
    pub compat_nr_pages: u32,
    /// The pages are in the parent (older images).
    #[prost(bool, optional, tag = "3")]
    pub in_parent: Option<bool>,
    /// Where the pages are ([`page_flags`]).
    #[prost(uint32, optional, tag = "4")]
    pub flags: Option<u32>,
    /// Pages.
    #[prost(uint64, optional, tag = "5")]
    pub nr_pages: Option<u64>,
}
