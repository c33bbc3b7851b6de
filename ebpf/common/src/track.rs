//! What the tracking programs keep of tracked processes, and which system calls change what.

/// What is kept of a tracked process: the value of the map `TRACKED`, by the process's pid.
///
/// Each generation only grows, with every event that may have changed what it is of. Two readings
/// of the whole value that are equal mean that the process is the same one and has changed
/// nothing between them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TrackedProcess {
    /// The track that it belongs to: a key of the map `TRACKS`.
    pub track: u64,
    /// When it was entered, in nanoseconds of the monotonic clock: tells it from an earlier process
    /// of the same pid.
    pub entered: u64,
    /// Threads made and ended.
    pub threads: u64,
    /// Ends of system calls that may change descriptors, what they refer to, or directories; and forks,
    /// after which a child holds the same files.
    pub files: u64,
    /// Programs executed, and calls that are not known here. Changes of mappings the kernel counts
    /// itself.
    pub memory: u64,
    /// Ends of system calls that may change credentials, limits, scheduling, signal actions.
    pub credentials: u64,
    /// Calls after which the kernel may work on for the process with no call to be seen
    /// (`io_setup`, `io_uring_setup`).
    pub asynchronous: u64,
}

/// Set in the ids of tracks that dumps make for themselves; the rest is the dumper's pid and a number of
/// its own. Dumpers enter themselves, too.
const OF_DUMP: u64 = 1 << 63;
const PID_SHIFT: u32 = 32;

/// The id of the track of a dump.
#[must_use]
pub const fn dump_track(dumper: i32, number: u32) -> u64 {
    OF_DUMP | (dumper as u64 & 0x7fff_ffff) << PID_SHIFT | number as u64
}

/// Whose track it is, if it is one of a dump.
#[must_use]
pub const fn dumper_of(track: u64) -> Option<i32> {
    if track & OF_DUMP == 0 { None } else { Some(((track & !OF_DUMP) >> PID_SHIFT) as i32) }
}

/// The words of a [`TrackedProcess`].
pub const TRACKED_WORDS: usize = size_of::<TrackedProcess>() / 8;

impl From<[u64; TRACKED_WORDS]> for TrackedProcess {
    fn from(words: [u64; TRACKED_WORDS]) -> Self {
        let [track, entered, threads, files, memory, credentials, asynchronous] = words;
        Self { track, entered, threads, files, memory, credentials, asynchronous }
    }
}

impl From<TrackedProcess> for [u64; TRACKED_WORDS] {
    fn from(process: TrackedProcess) -> Self {
        let TrackedProcess { track, entered, threads, files, memory, credentials, asynchronous } =
            process;
        [track, entered, threads, files, memory, credentials, asynchronous]
    }
}

/// What is kept of a track: the value of the map `TRACKS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Track {
    /// Processes that came and went.
    pub tree: u64,
    /// Processes that there was no room for: from the first on, nothing is known for sure.
    pub lost: u64,
}

/// The words of a [`Track`].
pub const TRACK_WORDS: usize = size_of::<Track>() / 8;

/// The generation [`TrackedProcess::files`].
pub const FILES: u8 = 1;
/// The generation [`TrackedProcess::memory`].
pub const MEMORY: u8 = 2;
/// The generation [`TrackedProcess::credentials`].
pub const CREDENTIALS: u8 = 4;
/// [`TrackedProcess::asynchronous`].
pub const ASYNCHRONOUS: u8 = 8;
/// Changes files that it finds by their names: counted for the whole machine.
pub const NAMES: u8 = 16;
/// Returns a descriptor of a file that others may have open: counted for the file, if it can be
/// changed by that descriptor.
pub const OPENS: u8 = 32;
/// Changes what a mark may not show, or what others have open, by the descriptor that is its first
/// argument: counted for the file.
pub const TOUCHES: u8 = 64;
/// Has changed nothing when it says that it was interrupted, or would have had to wait.
pub const INTERRUPTIBLE: u8 = 128;
/// All that a call can change of which nothing is known.
pub const ALL: u8 = FILES | MEMORY | CREDENTIALS | ASYNCHRONOUS | NAMES | OPENS;

/// How many system calls the table has; a call behind them is one that is not known.
pub const CALLS: usize = 512;

/// What each system call may change: [`FILES`] and so on; 0 for nothing that is counted. By the
/// numbers of x86-64, the one processor that the programs are loaded on.
///
/// What the kernel itself counts or the inventory reads anew each time is left out: mappings
/// (`mm_lock_seq`), signal masks and pending signals, timers, registers. So are changes that a
/// call makes only in memory, and what epoll instances have ready: they are read anew each time. A call
/// is listed as changing something if any of its uses does.
pub const TABLE: [u8; CALLS] = table();

const fn table() -> [u8; CALLS] {
    let mut table = [ALL; CALLS];
    set(&mut table, NOTHING, 0);
    set(&mut table, OF_FILES, FILES);
    set(&mut table, INTERRUPTED, FILES | INTERRUPTIBLE);
    set(&mut table, OF_NAMES, FILES | NAMES);
    set(&mut table, OF_OPENING, FILES | OPENS);
    set(&mut table, OF_SETTINGS, FILES | TOUCHES);
    set(&mut table, OF_CREDENTIALS, CREDENTIALS);
    set(&mut table, &[(95, 95)], FILES | CREDENTIALS); // umask
    // seccomp, which may give a descriptor; landlock_*
    set(&mut table, &[(317, 317), (444, 446)], FILES | CREDENTIALS);
    set(&mut table, &[(206, 210), (333, 333)], FILES | ASYNCHRONOUS); // io_*
    // Execution, ptrace and unshare change much, but nothing goes on behind them.
    let much = FILES | MEMORY | CREDENTIALS;
    set(&mut table, &[(59, 59), (101, 101), (272, 272), (308, 308), (322, 322)], much);
    table
}

const fn set(table: &mut [u8; CALLS], ranges: &[(usize, usize)], to: u8) {
    let mut nth = 0;
    while nth < ranges.len() {
        let (mut call, last) = ranges[nth];
        while call <= last {
            table[call] = to;
            call += 1;
        }
        nth += 1;
    }
}

/// First and last of calls with neighbouring numbers.
type Ranges = &'static [(usize, usize)];

const NOTHING: Ranges = &[
    (4, 7),     // stat, fstat, lstat, poll
    (9, 12),    // mmap, mprotect, munmap, brk
    (14, 15),   // rt_sigprocmask, rt_sigreturn
    (21, 21),   // access
    (23, 31),   // select, sched_yield, mremap, msync, mincore, madvise, shmget, shmat, shmctl
    (34, 39),   // pause, nanosleep, getitimer, alarm, setitimer, getpid
    (51, 52),   // getsockname, getpeername
    (56, 58),   // clone, fork, vfork
    (60, 71),   // exit, wait4, kill, uname, sem*, shmdt, msg*
    (74, 75),   // fsync, fdatasync
    (79, 79),   // getcwd
    (89, 89),   // readlink
    (96, 100),  // gettimeofday, getrlimit, getrusage, sysinfo, times
    (102, 102), // getuid
    (104, 104), // getgid
    (107, 108), // geteuid, getegid
    (110, 111), // getppid, getpgrp
    (115, 115), // getgroups
    (118, 118), // getresuid
    (120, 121), // getresgid, getpgid
    (124, 125), // getsid, capget
    (127, 131), // rt_sigpending … sigaltstack
    (136, 140), // ustat, statfs, fstatfs, sysfs, getpriority
    (143, 143), // sched_getparam
    (145, 152), // sched_getscheduler … munlockall
    (159, 159), // adjtimex
    (162, 162), // sync
    (164, 164), // settimeofday
    (186, 187), // gettid, readahead
    (191, 196), // getxattr …, listxattr …
    (200, 202), // tkill, time, futex
    (204, 204), // sched_getaffinity
    (211, 211), // get_thread_area
    (218, 220), // set_tid_address, restart_syscall, semtimedop
    (222, 231), // timer_*, clock_*, exit_group
    (232, 232), // epoll_wait
    (234, 234), // tgkill
    (247, 247), // waitid
    (252, 252), // ioprio_get
    (262, 262), // newfstatat
    (267, 267), // readlinkat
    (269, 271), // faccessat, pselect6, ppoll
    (273, 274), // set_robust_list, get_robust_list
    (281, 281), // epoll_pwait
    (303, 303), // name_to_handle_at
    (305, 306), // clock_adjtime, syncfs
    (309, 312), // getcpu, process_vm_readv, process_vm_writev, kcmp
    (315, 315), // sched_getattr
    (318, 318), // getrandom
    (324, 325), // membarrier, mlock2
    (329, 332), // pkey_*, statx
    (334, 334), // rseq
    (424, 424), // pidfd_send_signal
    (435, 435), // clone3
    (439, 441), // faccessat2, process_madvise, epoll_pwait2
    (448, 449), // process_mrelease, futex_waitv
    (451, 451), // cachestat
    (453, 458), // map_shadow_stack, futex_*, statmount, listmount
    (462, 462), // mseal
];

const OF_FILES: Ranges = &[
    (3, 3),   // close
    (8, 8),   // lseek
    (16, 18), // ioctl, pread64, pwrite64
    (22, 22), // pipe
    (32, 33), // dup, dup2
    (40, 41), // sendfile, socket
    // Before they find no room they may have given the socket a name.
    (44, 44),   // sendto
    (46, 46),   // sendmsg
    (48, 49),   // shutdown, bind
    (53, 53),   // socketpair
    (55, 55),   // getsockopt (which takes an error off the socket)
    (72, 73),   // fcntl, flock
    (77, 78),   // ftruncate, getdents
    (80, 81),   // chdir, fchdir
    (83, 83),   // mkdir
    (86, 86),   // link
    (88, 88),   // symlink
    (132, 133), // utime, mknod
    (161, 161), // chroot
    (213, 213), // epoll_create
    (217, 217), // getdents64
    (221, 221), // fadvise64
    (233, 233), // epoll_ctl
    (235, 235), // utimes
    (253, 255), // inotify_*
    (258, 259), // mkdirat, mknodat
    (261, 261), // futimesat
    (265, 266), // linkat, symlinkat
    (275, 278), // splice, tee, sync_file_range, vmsplice
    (280, 280), // utimensat
    (282, 287), // signalfd, timerfd_*, eventfd, fallocate
    (289, 296), // signalfd4, eventfd2, epoll_create1, dup3, pipe2, inotify_init1, preadv, pwritev
    (298, 301), // perf_event_open, recvmmsg, fanotify_*
    (307, 307), // sendmmsg
    (319, 319), // memfd_create
    (321, 321), // bpf
    (323, 323), // userfaultfd
    (326, 328), // copy_file_range, preadv2, pwritev2
    (434, 434), // pidfd_open
    (436, 436), // close_range
    (447, 447), // memfd_secret
];

/// They transfer something or nothing: one that was interrupted, or did not wait, has transferred
/// nothing.
const INTERRUPTED: Ranges = &[
    (0, 1),     // read, write
    (19, 20),   // readv, writev
    (43, 43),   // accept
    (45, 45),   // recvfrom
    (47, 47),   // recvmsg
    (288, 288), // accept4
];

/// Those that make a name where there was none change nothing that is open: they are not here.
const OF_NAMES: Ranges = &[
    (76, 76),   // truncate
    (82, 82),   // rename
    (84, 84),   // rmdir
    (87, 87),   // unlink
    (90, 90),   // chmod
    (92, 92),   // chown
    (94, 94),   // lchown
    (155, 155), // pivot_root
    (165, 166), // mount, umount2
    (188, 190), // setxattr … (access lists are permissions)
    (197, 199), // removexattr …
    (260, 260), // fchownat
    (263, 264), // unlinkat, renameat
    (268, 268), // fchmodat
    (316, 316), // renameat2
    (428, 433), // open_tree … fspick
    (442, 442), // mount_setattr
    (452, 452), // fchmodat2
];

const OF_OPENING: Ranges = &[
    (2, 2),     // open
    (85, 85),   // creat
    (257, 257), // openat
    (304, 304), // open_by_handle_at
    (437, 438), // openat2, pidfd_getfd
];

const OF_SETTINGS: Ranges = &[
    (42, 42), // connect
    (50, 50), // listen
    (54, 54), // setsockopt
    (91, 91), // fchmod
    (93, 93), // fchown
];

const OF_CREDENTIALS: Ranges = &[
    (13, 13),   // rt_sigaction
    (105, 106), // setuid, setgid
    (109, 109), // setpgid
    (112, 114), // setsid, setreuid, setregid
    (116, 117), // setgroups, setresuid
    (119, 119), // setresgid
    (122, 123), // setfsuid, setfsgid
    (126, 126), // capset
    (135, 135), // personality
    (141, 142), // setpriority, sched_setparam
    (144, 144), // sched_setscheduler
    (157, 158), // prctl, arch_prctl
    (160, 160), // setrlimit
    (203, 203), // sched_setaffinity
    (205, 205), // set_thread_area
    (251, 251), // ioprio_set
    (302, 302), // prlimit64
    (314, 314), // sched_setattr
];

const TOUCHED_BITS: u32 = 16;

/// How many counts of touched files there are, in the map `CHANGED`: 64-bit numbers.
pub const TOUCHED: usize = (1 << TOUCHED_BITS) + 1;

/// The last of them is of files that are not known, and concerns all.
pub const TOUCHED_UNKNOWN: usize = 1 << TOUCHED_BITS;

/// The count of a file, by its inode's address.
#[must_use]
pub const fn touched_place(inode: u64) -> usize {
    (inode.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - TOUCHED_BITS)) as usize
}
