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
/// Changes what others see of named files: counted for the whole machine.
pub const NAMES: u8 = 16;
/// The same, if a file is opened for writing; the second argument has the flags.
pub const OPEN_SECOND: u8 = 32;
/// The same; the third argument has the flags.
pub const OPEN_THIRD: u8 = 64;
/// All that a call can change of which nothing is known.
pub const ALL: u8 = FILES | MEMORY | CREDENTIALS | ASYNCHRONOUS | NAMES;

/// How many system calls the table has; a call behind them is one that is not known.
pub const CALLS: usize = 512;

/// What each system call may change: [`FILES`] and so on; 0 for nothing that is counted. By the
/// numbers of x86-64, the one processor that the programs are loaded on.
///
/// What the kernel itself counts or the inventory reads anew each time is left out: mappings
/// (`mm_lock_seq`), signal masks and pending signals, timers, registers. So are changes that a
/// call makes only in memory. A call is listed as changing something if any of its uses does.
pub const TABLE: [u8; CALLS] = table();

const fn table() -> [u8; CALLS] {
    let mut table = [ALL; CALLS];
    set(&mut table, NOTHING, 0);
    set(&mut table, OF_FILES, FILES);
    set(&mut table, OF_NAMES, FILES | NAMES);
    set(&mut table, OF_CREDENTIALS, CREDENTIALS);
    set(&mut table, &[(95, 95)], FILES | CREDENTIALS); // umask
    set(&mut table, &[(2, 2)], FILES | OPEN_SECOND); // open
    set(&mut table, &[(257, 257)], FILES | OPEN_THIRD); // openat
    set(&mut table, &[(444, 446)], FILES | CREDENTIALS); // landlock_*
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
    (234, 234), // tgkill
    (247, 247), // waitid
    (252, 252), // ioprio_get
    (262, 262), // newfstatat
    (267, 267), // readlinkat
    (269, 271), // faccessat, pselect6, ppoll
    (273, 274), // set_robust_list, get_robust_list
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
    (439, 440), // faccessat2, process_madvise
    (448, 449), // process_mrelease, futex_waitv
    (451, 451), // cachestat
    (453, 458), // map_shadow_stack, futex_*, statmount, listmount
    (462, 462), // mseal
];

const OF_FILES: Ranges = &[
    (0, 1),     // read, write
    (3, 3),     // close
    (8, 8),     // lseek
    (16, 20),   // ioctl, pread64, pwrite64, readv, writev
    (22, 22),   // pipe
    (32, 33),   // dup, dup2
    (40, 48),   // sendfile, socket … shutdown
    (50, 50),   // listen
    (53, 55),   // socketpair, setsockopt, getsockopt (which takes an error off the socket)
    (72, 73),   // fcntl, flock
    (77, 78),   // ftruncate, getdents
    (80, 81),   // chdir, fchdir
    (161, 161), // chroot
    (213, 213), // epoll_create
    (217, 217), // getdents64
    (221, 221), // fadvise64
    (232, 233), // epoll_wait, epoll_ctl
    (253, 255), // inotify_*
    (275, 278), // splice, tee, sync_file_range, vmsplice
    (281, 296), // epoll_pwait … pwritev
    (298, 301), // perf_event_open, recvmmsg, fanotify_*
    (307, 307), // sendmmsg
    (319, 319), // memfd_create
    (321, 321), // bpf
    (323, 323), // userfaultfd
    (326, 328), // copy_file_range, preadv2, pwritev2
    (434, 434), // pidfd_open
    (436, 436), // close_range
    (441, 441), // epoll_pwait2
    (447, 447), // memfd_secret
];

const OF_NAMES: Ranges = &[
    (49, 49),   // bind (which makes a name)
    (76, 76),   // truncate
    (82, 88),   // rename, mkdir, rmdir, creat, link, unlink, symlink
    (90, 94),   // chmod, fchmod, chown, fchown, lchown
    (132, 133), // utime, mknod
    (155, 155), // pivot_root
    (165, 166), // mount, umount2
    (188, 190), // setxattr …
    (197, 199), // removexattr …
    (235, 235), // utimes
    (258, 261), // mkdirat, mknodat, fchownat, futimesat
    (263, 266), // unlinkat, renameat, linkat, symlinkat
    (268, 268), // fchmodat
    (280, 280), // utimensat
    (304, 304), // open_by_handle_at
    (316, 316), // renameat2
    (428, 433), // open_tree … fspick
    (437, 438), // openat2, pidfd_getfd (which gets at others' files)
    (442, 442), // mount_setattr
    (452, 452), // fchmodat2
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
    (317, 317), // seccomp
];
