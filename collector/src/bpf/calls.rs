//! Which system calls change what: data for the programs that count it.
//!
//! By name, for all processors. What the kernel itself counts or the inventory reads anew each time
//! is left out: mappings (`mm_lock_seq`), signal masks and pending signals, timers, registers. So are
//! changes that a call makes only in memory, and what epoll instances have ready. A call is listed as
//! changing something if any of its uses does; one that is not listed may change all.

use std::collections::HashMap;

use arch::calls;
use ebpf_common::track::{
    ALL, ASYNCHRONOUS, CREDENTIALS, Calls, FILES, FLAGS_SECOND, FLAGS_THIRD, INTERRUPTIBLE, MEMORY,
    MOUNTS, NAMES, OPENS, SHARES, TOUCHES, TOUCHES_BY_COMMAND,
};

/// What the calls of a list change.
const LISTS: [(&str, u16); 15] = [
    (NOTHING, 0),
    (OF_FILES, FILES),
    (INTERRUPTED, FILES | INTERRUPTIBLE),
    (OF_NAMES, FILES | NAMES),
    (OF_MOUNTS, FILES | NAMES | MOUNTS),
    ("openat2 creat", FILES | OPENS),
    ("open", FILES | OPENS | FLAGS_SECOND),
    ("openat open_by_handle_at", FILES | OPENS | FLAGS_THIRD),
    ("pidfd_getfd", FILES | OPENS | SHARES),
    ("connect listen setsockopt fchmod fchown socketcall", FILES | TOUCHES),
    ("fcntl fcntl64", FILES | TOUCHES_BY_COMMAND),
    (OF_CREDENTIALS, CREDENTIALS),
    // seccomp may give a descriptor.
    (
        "umask seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self",
        FILES | CREDENTIALS,
    ),
    ("io_setup io_destroy io_getevents io_submit io_cancel io_pgetevents", FILES | ASYNCHRONOUS),
    // They change much, but nothing goes on behind them.
    ("execve execveat ptrace unshare setns", FILES | MEMORY | CREDENTIALS),
];

const NOTHING: &str = "\
    stat fstat lstat poll mmap mprotect munmap brk rt_sigprocmask rt_sigreturn access select \
    sched_yield mremap msync mincore madvise shmget shmat shmctl pause nanosleep getitimer \
    alarm setitimer getpid getsockname getpeername clone fork vfork exit wait4 kill uname \
    semget semop semctl shmdt msgget msgsnd msgrcv msgctl fsync fdatasync getcwd readlink \
    gettimeofday getrlimit getrusage sysinfo times getuid getgid geteuid getegid getppid \
    getpgrp getgroups getresuid getresgid getpgid getsid capget rt_sigpending rt_sigtimedwait \
    rt_sigqueueinfo rt_sigsuspend sigaltstack ustat statfs fstatfs sysfs getpriority \
    sched_getparam sched_getscheduler sched_get_priority_max sched_get_priority_min \
    sched_rr_get_interval mlock munlock mlockall munlockall adjtimex sync settimeofday gettid \
    readahead getxattr lgetxattr fgetxattr listxattr llistxattr flistxattr tkill time futex \
    sched_getaffinity get_thread_area set_tid_address restart_syscall semtimedop timer_create \
    timer_settime timer_gettime timer_getoverrun timer_delete clock_settime clock_gettime \
    clock_getres clock_nanosleep exit_group epoll_wait tgkill waitid ioprio_get newfstatat \
    readlinkat faccessat pselect6 ppoll set_robust_list get_robust_list epoll_pwait \
    name_to_handle_at clock_adjtime syncfs getcpu process_vm_readv process_vm_writev kcmp \
    sched_getattr getrandom membarrier mlock2 pkey_mprotect pkey_alloc pkey_free statx rseq \
    pidfd_send_signal clone3 faccessat2 process_madvise epoll_pwait2 process_mrelease \
    futex_waitv cachestat map_shadow_stack futex_wake futex_wait futex_requeue statmount \
    listmount mseal";

/// (`getsockopt` takes an error off the socket; `sendto` and `sendmsg` may have given the socket a
/// name before they find no room.)
const OF_FILES: &str = "\
    close lseek ioctl pread64 pwrite64 pipe dup dup2 sendfile socket sendto sendmsg shutdown \
    bind socketpair getsockopt flock ftruncate getdents chdir fchdir mkdir link symlink utime \
    mknod chroot epoll_create getdents64 fadvise64 epoll_ctl utimes inotify_init \
    inotify_add_watch inotify_rm_watch mkdirat mknodat futimesat linkat symlinkat splice tee \
    sync_file_range vmsplice utimensat signalfd timerfd_create eventfd fallocate \
    timerfd_settime timerfd_gettime signalfd4 eventfd2 epoll_create1 dup3 pipe2 inotify_init1 \
    preadv pwritev perf_event_open recvmmsg fanotify_init fanotify_mark sendmmsg memfd_create \
    bpf userfaultfd copy_file_range preadv2 pwritev2 pidfd_open close_range memfd_secret";

/// They transfer something or nothing: one that was interrupted, or did not wait, has transferred
/// nothing.
const INTERRUPTED: &str = "\
    read write readv writev accept recvfrom recvmsg accept4";

/// Those that make a name where there was none change nothing that is open: they are not here.
/// (Extended attributes hold access lists, which are permissions.)
const OF_NAMES: &str = "\
    truncate rename rmdir unlink chmod chown lchown setxattr lsetxattr fsetxattr removexattr \
    lremovexattr fremovexattr fchownat unlinkat renameat fchmodat renameat2 fchmodat2";

const OF_MOUNTS: &str = "\
    pivot_root mount umount2 open_tree move_mount fsopen fsconfig fsmount fspick mount_setattr";

const OF_CREDENTIALS: &str = "\
    rt_sigaction setuid setgid setpgid setsid setreuid setregid setgroups setresuid setresgid \
    setfsuid setfsgid capset personality setpriority sched_setparam sched_setscheduler prctl \
    arch_prctl setrlimit sched_setaffinity set_thread_area ioprio_set prlimit64 sched_setattr";

/// For this processor.
pub(super) fn of_this_processor() -> Calls {
    let lists = LISTS.iter().flat_map(|(names, changes)| {
        names.split_ascii_whitespace().map(move |name| (name, *changes))
    });
    let lists: HashMap<&str, u16> = lists.collect();
    let changes = |name: &str| lists.get(name).copied().unwrap_or(ALL);
    let mut known =
        Calls { compat_status: calls::COMPAT_STATUS, variant: calls::VARIANT, ..Calls::UNKNOWN };
    let mut enter = |number: u16, name: &str, is_compat: bool| {
        let table = if is_compat { &mut known.compat } else { &mut known.native };
        if let Some(slot) = table.get_mut(usize::from(number)) {
            *slot = changes(name);
        }
    };
    for (number, name) in calls::CALLS {
        enter(*number, name, false);
    }
    for (number, name) in calls::COMPAT_CALLS {
        enter(*number, name, true);
    }
    for (number, name) in calls::VARIANT_CALLS {
        // The native call of that number is another one, or none.
        if let Some(slot) = known.native.get_mut(usize::from(*number)) {
            *slot |= changes(name) & (TOUCHES | TOUCHES_BY_COMMAND | SHARES);
        }
    }
    known
}

/// As the programs have it in memory.
pub(super) fn bytes(calls: &Calls) -> Vec<u8> {
    let Calls { native, compat, compat_status, variant } = calls;
    let tables = native.iter().chain(compat).flat_map(|changes| changes.to_ne_bytes());
    let words = [*compat_status, *variant].into_iter().flat_map(u32::to_ne_bytes);
    tables.chain(words).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use ebpf_common::track::CALLS;

    use super::*;

    #[test]
    fn every_name_is_one_of_a_call_and_listed_once() {
        let known: HashSet<&str> = [calls::CALLS, calls::COMPAT_CALLS, calls::VARIANT_CALLS]
            .iter()
            .flat_map(|calls| calls.iter().map(|call| call.1))
            .collect();
        let mut seen = HashSet::new();
        for name in LISTS.iter().flat_map(|(names, _)| names.split_ascii_whitespace()) {
            assert!(known.contains(name), "{name} is no system call");
            assert!(seen.insert(name), "{name} is listed twice");
        }
    }

    #[test]
    fn what_is_not_listed_may_change_all() {
        let known = of_this_processor();
        let number = |name: &str| {
            let call = calls::CALLS.iter().find(|call| call.1 == name);
            usize::from(call.unwrap().0)
        };
        assert_eq!(known.native[number("getpid")], 0);
        assert_eq!(known.native[number("read")], FILES | INTERRUPTIBLE);
        assert_eq!(known.native[number("mount")], FILES | NAMES | MOUNTS);
        assert_eq!(known.native[number("io_uring_setup")], ALL);
        assert_eq!(known.native[CALLS - 1], ALL);
        let last = calls::CALLS.iter().map(|call| usize::from(call.0)).max().unwrap();
        assert!(last < CALLS, "the table has room for all calls");
    }

    #[test]
    fn the_bytes_are_those_of_the_structure() {
        let known = of_this_processor();
        let bytes = bytes(&known);
        assert_eq!(bytes.len(), size_of::<Calls>());
        let at = 2 * 2;
        assert_eq!(bytes[at..at + 2], known.native[2].to_ne_bytes());
        let at = std::mem::offset_of!(Calls, compat_status);
        assert_eq!(bytes[at..at + 4], known.compat_status.to_ne_bytes());
    }
}
