//! Probes that ask the kernel about this very process.

use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use arch::memory::PAGE_SIZE;
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent};

use super::Answer;

pub(super) fn no(what: &str, errno: Errno) -> Answer {
    match errno {
        Errno::ENOSYS => Answer::No(format!("{what}: the kernel has no such call")),
        Errno::EPERM | Errno::EACCES => Answer::No(format!("{what}: not permitted")),
        errno => Answer::No(format!("{what}: {}", errno.desc().to_lowercase())),
    }
}

pub(super) fn unknown(what: &str, errno: Errno) -> Answer {
    Answer::Unknown(format!("{what}: {}", errno.desc().to_lowercase()))
}

/// The answer of a call that succeeds where the feature is there.
pub(super) fn outcome(what: &str, result: libc::c_long) -> Answer {
    if result >= 0 { Answer::Yes } else { no(what, Errno::last()) }
}

pub(super) fn owned(what: &str, result: libc::c_long) -> Result<OwnedFd, Answer> {
    match i32::try_from(result) {
        // SAFETY: the system call has just returned this descriptor, so nobody else owns it.
        Ok(fd) if fd >= 0 => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        _ => Err(no(what, Errno::last())),
    }
}

pub(super) fn own_pid() -> libc::pid_t {
    nix::unistd::getpid().as_raw()
}

pub(super) fn exists(path: &str, missing: &str) -> Answer {
    match Path::new(path).try_exists() {
        Ok(true) => Answer::Yes,
        Ok(false) => Answer::No(missing.to_owned()),
        Err(error) => Answer::Unknown(format!("look for {path}: {error}")),
    }
}

pub(super) fn proc_children() -> Answer {
    exists("/proc/thread-self/children", "the kernel was built without CONFIG_PROC_CHILDREN")
}

pub(super) fn proc_timers() -> Answer {
    exists("/proc/self/timers", "the kernel was built without CONFIG_CHECKPOINT_RESTORE")
}

pub(super) fn time_namespaces() -> Answer {
    exists("/proc/self/ns/time", "the kernel was built without CONFIG_TIME_NS")
}

pub(super) fn user_namespaces() -> Answer {
    exists("/proc/self/ns/user", "the kernel was built without CONFIG_USER_NS")
}

pub(super) fn cgroup_namespaces() -> Answer {
    exists("/proc/self/ns/cgroup", "the kernel has no namespaces of control groups")
}

/// Moves nothing, whose name is empty: a kernel that knows the flag says that there is no such file.
pub(super) fn mount_groups() -> Answer {
    const MOVE_MOUNT_SET_GROUP: libc::c_uint = 0x100;
    // SAFETY: both paths are strings with their terminating zeros.
    let result = unsafe {
        let (nowhere, none) = (libc::AT_FDCWD, c"".as_ptr());
        libc::syscall(libc::SYS_move_mount, nowhere, none, nowhere, none, MOVE_MOUNT_SET_GROUP)
    };
    match (result, Errno::last()) {
        (-1, Errno::ENOENT) => Answer::Yes,
        (-1, Errno::EINVAL) => Answer::No("the kernel has no MOVE_MOUNT_SET_GROUP".into()),
        (_, errno) => no("move_mount MOVE_MOUNT_SET_GROUP", errno),
    }
}

/// Asks for a second vDSO: a kernel that can map one says that there is one.
pub(super) fn map_vdso() -> Answer {
    let (number, arguments, there) = arch::vdso::ASK_MAP;
    // SAFETY: in a process that has a vDSO the call changes nothing.
    let result = unsafe { libc::syscall(number as libc::c_long, arguments[0], arguments[1]) };
    match (result, Errno::last()) {
        (-1, errno) if errno as i32 == there => Answer::Yes,
        (-1, Errno::EINVAL) => Answer::No("the kernel maps no vDSO where it is told".into()),
        (_, errno) => unknown("map a vDSO", errno),
    }
}

/// Has a child become a task of 32-bit code, as one is restored.
pub(super) fn compat() -> Answer {
    match crate::compat::vdso() {
        Ok(Some(_)) => Answer::Yes,
        Ok(None) => Answer::No(
            "the kernel runs no 32-bit code, or does not map its vDSO where it is told".into(),
        ),
        Err(error) => Answer::Unknown(format!("map the vDSO of 32-bit code: {error}")),
    }
}

/// Opens the mapping that holds this very code by its link in `/proc/self/map_files`, which
/// takes a right that the dump of other processes takes too.
pub(super) fn map_files() -> Answer {
    let entries = match std::fs::read_dir("/proc/self/map_files") {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Answer::No("the kernel has no /proc/PID/map_files".into());
        }
        Err(error) => return Answer::No(format!("read /proc/self/map_files: {error}")),
    };
    match entries.flatten().next() {
        None => Answer::Unknown("this process maps no file".into()),
        Some(entry) => match std::fs::File::open(entry.path()) {
            Ok(_) => Answer::Yes,
            Err(error) => Answer::No(format!("open a link of /proc/self/map_files: {error}")),
        },
    }
}

/// `PR_SET_MM_MAP_SIZE` writes the size of the structure that `PR_SET_MM_MAP` takes: a kernel
/// without the one lacks the other.
pub(super) fn set_mm_map() -> Answer {
    let mut size: libc::c_uint = 0;
    // SAFETY: the kernel writes one unsigned int at the address.
    let result = unsafe {
        libc::prctl(libc::PR_SET_MM, libc::PR_SET_MM_MAP_SIZE, &raw mut size, 0_usize, 0_usize)
    };
    outcome("prctl(PR_SET_MM_MAP)", result.into())
}

/// Asks for a child with our own pid: a kernel that can, and lets us, finds it taken.
pub(super) fn clone3_set_tid() -> Answer {
    let tid = own_pid();
    // SAFETY: all-zero is a valid clone_args: no flags, no pointers.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.exit_signal = libc::SIGCHLD as u64;
    arguments.set_tid = (&raw const tid) as u64;
    arguments.set_tid_size = 1;
    // SAFETY: no memory or descriptor is shared with a child (no flags), and no child can come
    // of it: its pid is the one of this running process.
    let result = unsafe {
        libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<libc::clone_args>())
    };
    match (result, Errno::last()) {
        (0, _) => {
            // SAFETY: cannot happen; but should a child ever come of it, it must not run on here.
            unsafe { libc::_exit(0) }
        }
        (-1, Errno::EEXIST) => Answer::Yes,
        (-1, Errno::E2BIG) => Answer::No("clone3 has no set_tid".into()),
        (-1, errno) => no("clone3 with set_tid", errno),
        _ => Answer::Unknown("clone3 with our own pid made a child".into()),
    }
}

pub(super) fn process_vm() -> Answer {
    let source = [7_u8];
    let mut copy = [0_u8];
    let local = libc::iovec { iov_base: copy.as_mut_ptr().cast(), iov_len: 1 };
    let remote = libc::iovec { iov_base: source.as_ptr().cast_mut().cast(), iov_len: 1 };
    // SAFETY: both vectors describe one byte each, of arrays that outlive the call; the kernel
    // only reads the remote one.
    let result =
        unsafe { libc::process_vm_readv(own_pid(), &raw const local, 1, &raw const remote, 1, 0) };
    outcome("process_vm_readv", result as libc::c_long)
}

pub(super) fn pidfd_getfd() -> Answer {
    // SAFETY: pidfd_open touches no memory.
    let opened = unsafe { libc::syscall(libc::SYS_pidfd_open, own_pid(), 0) };
    let pidfd = match owned("pidfd_open", opened) {
        Ok(pidfd) => pidfd,
        Err(answer) => return answer,
    };
    // SAFETY: pidfd_getfd touches no memory; the descriptor copied is the pidfd itself.
    let copied =
        unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), pidfd.as_raw_fd(), 0) };
    owned("pidfd_getfd", copied).err().unwrap_or(Answer::Yes)
}

pub(super) fn memfd() -> Answer {
    // SAFETY: the name is a string with its terminating zero.
    let made = unsafe { libc::memfd_create(c"stasis-probe".as_ptr(), libc::MFD_CLOEXEC) };
    owned("memfd_create", made.into()).err().unwrap_or(Answer::Yes)
}

/// An empty range above every descriptor there can be.
pub(super) fn close_range() -> Answer {
    // SAFETY: the range holds no descriptor, so none is closed behind its owner's back.
    let result = unsafe { libc::syscall(libc::SYS_close_range, u32::MAX, u32::MAX, 0) };
    outcome("close_range", result)
}

/// Registering with an impossible flag is refused as invalid by a kernel that has the call.
pub(super) fn rseq() -> Answer {
    // SAFETY: with an unknown flag the kernel refuses before it looks at the address.
    let result = unsafe { libc::syscall(libc::SYS_rseq, 0_usize, 0, -1, 0) };
    match (result, Errno::last()) {
        (-1, Errno::EINVAL) | (0, _) => Answer::Yes,
        (_, errno) => no("rseq", errno),
    }
}

pub(super) fn kcmp() -> Answer {
    const KCMP_VM: libc::c_int = 1;
    // SAFETY: kcmp touches no memory.
    let result = unsafe { libc::syscall(libc::SYS_kcmp, own_pid(), own_pid(), KCMP_VM, 0, 0) };
    outcome("kcmp", result)
}

/// Asks whether the one file that an epoll watches is itself, by `struct kcmp_epoll_slot`.
pub(super) fn kcmp_epoll() -> Answer {
    const KCMP_EPOLL_TFD: libc::c_int = 7;
    let (read, _write) = match nix::unistd::pipe() {
        Ok(pipe) => pipe,
        Err(errno) => return unknown("make a pipe", errno),
    };
    let watched = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)
        .and_then(|epoll| epoll.add(&read, EpollEvent::empty()).map(|()| epoll));
    let epoll = match watched {
        Ok(epoll) => epoll,
        Err(errno) => return unknown("watch a pipe by an epoll", errno),
    };
    let slot = [epoll.0.as_raw_fd() as u32, read.as_raw_fd() as u32, 0];
    // SAFETY: the kernel reads one slot of three words at the address, which `slot` is.
    let result = unsafe {
        let (pid, fd) = (own_pid(), read.as_raw_fd());
        libc::syscall(libc::SYS_kcmp, pid, pid, KCMP_EPOLL_TFD, fd, slot.as_ptr())
    };
    outcome("kcmp KCMP_EPOLL_TFD", result)
}

/// `struct pm_scan_arg` of `<linux/fs.h>`.
#[repr(C)]
#[derive(Default)]
struct PmScanArg {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

pub(super) fn pagemap_scan() -> Answer {
    const PAGEMAP_SCAN: libc::c_ulong = 0xc060_6610;
    let pagemap = match std::fs::File::open("/proc/self/pagemap") {
        Ok(file) => file,
        Err(error) => return Answer::No(format!("open /proc/self/pagemap: {error}")),
    };
    // No pages and no room for results: nothing is walked and nothing written but `walk_end`.
    let mut argument = PmScanArg { size: size_of::<PmScanArg>() as u64, ..PmScanArg::default() };
    // SAFETY: the request takes a pm_scan_arg of the size it states, which `argument` is.
    let result = unsafe { libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN, &raw mut argument) };
    match (result, Errno::last()) {
        (-1, Errno::ENOTTY) => Answer::No("the kernel has no PAGEMAP_SCAN".into()),
        // Older and newer kernels differ in whether an empty range is valid; both know the call.
        (-1, Errno::EINVAL | Errno::EFAULT) => Answer::Yes,
        (-1, errno) => no("PAGEMAP_SCAN", errno),
        _ => Answer::Yes,
    }
}

pub(super) fn pagemap_guards() -> Answer {
    const PAGEMAP_SCAN: libc::c_ulong = 0xc060_6610;
    const PAGE_IS_GUARD: u64 = 1 << 8;
    let pagemap = match std::fs::File::open("/proc/self/pagemap") {
        Ok(file) => file,
        Err(error) => return Answer::No(format!("open /proc/self/pagemap: {error}")),
    };
    let page = &raw const pagemap as u64 / PAGE_SIZE * PAGE_SIZE;
    // Start, end and categories of one region.
    let mut region = [0u64; 3];
    let mut argument = PmScanArg {
        size: size_of::<PmScanArg>() as u64,
        start: page,
        end: page + PAGE_SIZE,
        vec: &raw mut region as u64,
        vec_len: 1,
        category_mask: PAGE_IS_GUARD,
        return_mask: PAGE_IS_GUARD,
        ..PmScanArg::default()
    };
    // SAFETY: the request takes a pm_scan_arg of the size it states, which `argument` is, and writes as many
    // regions as that says, which is one.
    let result = unsafe { libc::ioctl(pagemap.as_raw_fd(), PAGEMAP_SCAN, &raw mut argument) };
    outcome("PAGEMAP_SCAN of guard regions", result.into())
}

pub(super) fn timer_ids() -> Answer {
    const PR_TIMER_CREATE_RESTORE_IDS: libc::c_int = 77;
    const GET: libc::c_ulong = 2;
    // SAFETY: asks for the present setting and touches no memory.
    let result =
        unsafe { libc::prctl(PR_TIMER_CREATE_RESTORE_IDS, GET, 0_usize, 0_usize, 0_usize) };
    if result >= 0 {
        return Answer::Yes;
    }
    Answer::No("ids are counted up to instead, which large ids make slow".into())
}

/// Bit 55 of a page's entry in the pagemap: a page just written has it where soft-dirty bits
/// are kept.
pub(super) fn soft_dirty() -> Answer {
    const SOFT_DIRTY: u64 = 1 << 55;
    let mut page = vec![0_u8; PAGE_SIZE as usize];
    std::hint::black_box(&mut page).fill(1);
    let index = page.as_ptr() as u64 / PAGE_SIZE;
    let mut entry = [0_u8; 8];
    let read = std::fs::File::open("/proc/self/pagemap")
        .and_then(|file| std::os::unix::fs::FileExt::read_exact_at(&file, &mut entry, index * 8));
    match read {
        Err(error) => Answer::Unknown(format!("read /proc/self/pagemap: {error}")),
        Ok(()) if u64::from_ne_bytes(entry) & SOFT_DIRTY != 0 => Answer::Yes,
        Ok(()) => Answer::No("the kernel was built without CONFIG_MEM_SOFT_DIRTY".into()),
    }
}

/// `struct uffdio_api` of `<linux/userfaultfd.h>`.
#[repr(C)]
struct UffdioApi {
    api: u64,
    features: u64,
    ioctls: u64,
}

pub(super) fn guard_regions() -> Answer {
    const MADV_GUARD_INSTALL: libc::c_int = 102;
    // SAFETY: no page is meant: the kernel says whether it knows the advice.
    let result = unsafe { libc::madvise(std::ptr::null_mut(), 0, MADV_GUARD_INSTALL) };
    outcome("madvise MADV_GUARD_INSTALL", result.into())
}

pub(super) fn sealed_memory() -> Answer {
    const MSEAL: libc::c_long = arch::syscall::nr::MSEAL as libc::c_long;
    // SAFETY: no page is meant: the kernel says whether it knows the call.
    let result = unsafe { libc::syscall(MSEAL, 0, 0, 0) };
    outcome("mseal", result)
}

pub(super) fn droppable_memory() -> Answer {
    const MAP_DROPPABLE: libc::c_int = 0x08;
    let flags = MAP_DROPPABLE | libc::MAP_ANONYMOUS;
    // SAFETY: a new mapping, of a page, where the kernel has room for it.
    let made = unsafe { libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ, flags, -1, 0) };
    if made == libc::MAP_FAILED {
        return outcome("mmap MAP_DROPPABLE", -1);
    }
    // SAFETY: that mapping, to which nothing refers.
    outcome("munmap", unsafe { libc::munmap(made, 4096) }.into())
}

pub(super) fn protection_keys() -> Answer {
    // SAFETY: a key that no memory gets.
    let key = unsafe { libc::syscall(libc::SYS_pkey_alloc, 0, 0) };
    if key < 0 {
        return outcome("pkey_alloc", key);
    }
    // SAFETY: the key that has just been taken.
    outcome("pkey_free", unsafe { libc::syscall(libc::SYS_pkey_free, key) })
}

/// Asks for nothing and is told of every feature that the kernel's userfaultfd has.
fn uffd_features() -> Result<u64, Answer> {
    const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
    const UFFD_API: u64 = 0xaa;
    // SAFETY: userfaultfd touches no memory; the descriptor registers nothing yet.
    let made = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) };
    let uffd = owned("userfaultfd", made)?;
    let mut argument = UffdioApi { api: UFFD_API, features: 0, ioctls: 0 };
    // SAFETY: the request reads and writes one uffdio_api, which `argument` is.
    let result = unsafe { libc::ioctl(uffd.as_raw_fd(), UFFDIO_API, &raw mut argument) };
    if result < 0 {
        return Err(unknown("UFFDIO_API", Errno::last()));
    }
    Ok(argument.features)
}

fn uffd_has(wanted: u64, missing: &str) -> Answer {
    match uffd_features() {
        Ok(features) if features & wanted == wanted => Answer::Yes,
        Ok(_) => Answer::No(missing.to_owned()),
        Err(answer) => answer,
    }
}

pub(super) fn uffd() -> Answer {
    uffd_has(0, "")
}

pub(super) fn uffd_wp_async() -> Answer {
    const UFFD_FEATURE_WP_ASYNC: u64 = 1 << 15;
    uffd_has(UFFD_FEATURE_WP_ASYNC, "userfaultfd has no asynchronous write-protection")
}

/// Events of forks and of mappings that move or go.
pub(super) fn uffd_events() -> Answer {
    const FORK_REMAP_REMOVE_UNMAP: u64 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 6;
    uffd_has(FORK_REMAP_REMOVE_UNMAP, "userfaultfd does not tell of forks and mappings that move")
}

/// The right to make BPF maps, and a kernel whose type information names the iterators.
pub(super) fn bpf_iterators() -> Answer {
    const BPF_MAP_CREATE: libc::c_int = 0;
    const BPF_MAP_TYPE_ARRAY: u32 = 2;
    // The head of `union bpf_attr`: type, key size, value size, entries, flags.
    let attributes: [u32; 5] = [BPF_MAP_TYPE_ARRAY, 4, 4, 1, 0];
    // SAFETY: the kernel reads the bytes of `attributes`, whose size is passed along.
    let made = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_MAP_CREATE, attributes.as_ptr(), size_of_val(&attributes))
    };
    if let Err(answer) = owned("make a BPF map", made) {
        return answer;
    }
    let types = match std::fs::read("/sys/kernel/btf/vmlinux") {
        Ok(types) => types,
        Err(error) => return Answer::No(format!("read /sys/kernel/btf/vmlinux: {error}")),
    };
    let names = ["bpf_iter__task\0", "bpf_iter__task_file\0", "bpf_iter__task_vma\0"];
    match names.iter().find(|name| !contains(&types, name.as_bytes())) {
        None => Answer::Yes,
        Some(name) => Answer::No(format!("the kernel has no {}", name.trim_end_matches('\0'))),
    }
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    // SAFETY: both pointers are valid for the lengths that go with them.
    let found = unsafe {
        libc::memmem(haystack.as_ptr().cast(), haystack.len(), needle.as_ptr().cast(), needle.len())
    };
    !found.is_null()
}

/// The root of a hierarchy has no `cgroup.freeze`: looks for one in its children.
pub(super) fn cgroup_v2_freeze() -> Answer {
    let mounts = match crate::cgroup::Hierarchies::find() {
        Ok(mounts) => mounts,
        Err(error) => return Answer::Unknown(error.to_string()),
    };
    let Some(root) = mounts.unified() else {
        return Answer::No("no unified cgroup hierarchy is mounted".into());
    };
    let mut children = std::fs::read_dir(root).into_iter().flatten().flatten();
    match children.find(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        None => Answer::Unknown(format!("{} has no cgroup to look at", root.display())),
        Some(child) if child.path().join("cgroup.freeze").exists() => Answer::Yes,
        Some(_) => Answer::No("cgroups have no cgroup.freeze".into()),
    }
}

pub(super) fn cgroup_v1_freezer() -> Answer {
    match crate::cgroup::Hierarchies::find() {
        Ok(mounts) if mounts.freezer().is_some() => Answer::Yes,
        Ok(_) => Answer::No("no v1 freezer is mounted".into()),
        Err(error) => Answer::Unknown(error.to_string()),
    }
}

pub(super) fn cap_sys_resource() -> Answer {
    const CAP_SYS_RESOURCE: u32 = 24;
    let status = match std::fs::read_to_string("/proc/self/status") {
        Ok(status) => status,
        Err(error) => return Answer::Unknown(format!("read /proc/self/status: {error}")),
    };
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
    match effective {
        None => Answer::Unknown("/proc/self/status names no capabilities".into()),
        Some(set) if set & (1 << CAP_SYS_RESOURCE) != 0 => Answer::Yes,
        Some(_) => Answer::No("this process does not have the capability".into()),
    }
}

/// Asks for no entries, which a kernel that has the call refuses as invalid.
pub(super) fn io_uring() -> Answer {
    // SAFETY: with no parameters the kernel refuses before it writes anything.
    let result = unsafe { libc::syscall(libc::SYS_io_uring_setup, 0, 0_usize) };
    match (result, Errno::last()) {
        (-1, Errno::EINVAL | Errno::EFAULT) => Answer::Yes,
        (_, errno) => no("io_uring_setup", errno),
    }
}
