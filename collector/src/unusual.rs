//! What few tasks have set for themselves and a checkpoint cannot carry.

use ebpf_common::unusual;

use crate::settings::LANDLOCK;
use crate::sharing::peculiar_names;
use crate::{Process, Refusal, Thread};

/// Something that cannot be carried: its bit, its name, why not and what helps, and what to call it where
/// nothing but eBPF sees it (`None`: `/proc` does).
type Rule = (u32, &'static str, Refusal, Option<&'static str>);

const REFUSED: [Rule; 13] = [
    (
        LANDLOCK,
        "landlock domain",
        (
            "it has given up rights by landlock, which nothing can read back to give up again",
            "start it without its sandbox",
        ),
        Some("landlock domains"),
    ),
    (
        unusual::SESSION_KEYRING,
        "session keyring",
        (
            "it holds keys, which stay in the kernel",
            "start it in an empty one (keyctl session - COMMAND), or unlink the keys (keyctl unlink KEY @s)",
        ),
        Some("keys of its own"),
    ),
    (
        unusual::PROCESS_KEYRING,
        "process keyring",
        ("it holds keys, which stay in the kernel", "have it unlink them before the dump"),
        Some("keys of its own"),
    ),
    (
        unusual::THREAD_KEYRING,
        "thread keyring",
        ("it holds keys, which stay in the kernel", "have it unlink them before the dump"),
        Some("keys of its own"),
    ),
    (
        unusual::REQUEST_KEY,
        "request for a key",
        ("the kernel waits for the key that it was started to make", "dump it when that is done"),
        Some("requests for keys"),
    ),
    (
        unusual::SYSCALL_DISPATCH,
        "system call dispatch",
        (
            "its system calls are handed back to itself (PR_SET_SYSCALL_USER_DISPATCH), those of a \
             restore too",
            "have it switch that off before the dump",
        ),
        Some("system call dispatch"),
    ),
    (
        unusual::IO_FLUSHER,
        "I/O flusher",
        (
            "it allocates memory without waiting for I/O (PR_SET_IO_FLUSHER), as others wait for it",
            "have it switch that off before the dump",
        ),
        None,
    ),
    (
        unusual::CORE_COOKIE,
        "core scheduling",
        (
            "it has a cookie, which it shares with whoever may run beside it",
            "start it without one (PR_SCHED_CORE)",
        ),
        Some("core scheduling cookies"),
    ),
    (
        unusual::SEM_UNDO,
        "System V semaphores",
        (
            "operations on them are to be undone when it ends (SEM_UNDO)",
            "have it give back what it took of the semaphores (ipcs -s lists them)",
        ),
        Some("semaphore undo"),
    ),
    (
        unusual::TRACER,
        "tracer",
        ("it traces other processes (ptrace)", "have it detach from them (a debugger: quit it)"),
        None,
    ),
    (
        unusual::SHARED_IO,
        "I/O context",
        (
            "it shares its I/O context with another task (clone with CLONE_IO)",
            "start it without CLONE_IO",
        ),
        Some("shared I/O contexts"),
    ),
    (
        unusual::RINGS,
        "io_uring",
        ("it has an io_uring, which the kernel works on by itself", "close it before the dump"),
        Some("io_uring without a descriptor"),
    ),
    (
        unusual::PROTECTION_KEYS,
        "memory protection keys",
        ("it has allocated some (pkey_alloc)", "have it free them (pkey_free) before the dump"),
        Some("protection keys"),
    ),
];

/// What of a thread of a process cannot be carried: its name, why not and what helps. An io_uring that a
/// descriptor leads to is refused with that.
pub fn of_thread(process: &Process, thread: &Thread) -> impl Iterator<Item = (String, Refusal)> {
    let known = thread.in_task.map(|known| known.settings).unwrap_or_default();
    let has_ring = process.files.iter().any(|file| file.target == "anon_inode:[io_uring]");
    let told = if has_ring { unusual::RINGS } else { 0 };
    let wide = known.memory_policy.is_some_and(|policy| policy.wide);
    refused(known.unusual & !told)
        .chain(wide.then_some(("NUMA policy", WIDE_POLICY)))
        .map(|(object, refusal)| (format!("{object} of thread {}", thread.tid), refusal))
}

/// What of these things cannot be carried.
pub fn refused(unusual: u32) -> impl Iterator<Item = (&'static str, Refusal)> {
    let refused = REFUSED.iter().filter(move |(bit, ..)| unusual & bit != 0);
    refused.map(|(_, object, refusal, _)| (*object, *refusal))
}

/// Why a NUMA policy cannot be carried.
pub const WIDE_POLICY: Refusal = (
    "its NUMA policy names a node above 63 or a home node",
    "give it another policy before the dump",
);

/// What of a process as a whole cannot be carried.
#[must_use]
pub fn of_process(process: &Process) -> Option<(String, Refusal)> {
    let known = process.in_process.as_ref()?;
    let asked = known.timers || known.thp_restricted;
    (asked && known.settings.deny_write_execute != 0).then(|| {
        let object = "write xor execute (PR_SET_MDWE)".to_owned();
        let refusal = (
            "it has timers or restricts huge pages, for which it has to be asked by code of ours, \
             which it does not let in",
            "start it without PR_SET_MDWE (systemd: MemoryDenyWriteExecute=no)",
        );
        (object, refusal)
    })
}

/// Why a child of a process that is dumped cannot be carried: it is none as `fork` makes it.
#[must_use]
pub fn of_child(process: &Process) -> Option<(String, Refusal)> {
    let leader = process.threads.get(&process.pid)?;
    of_exit_signal(leader.in_task?.settings.exit_signal)
}

/// The same of the signal that its parent gets at its end.
#[must_use]
pub fn of_exit_signal(signal: i32) -> Option<(String, Refusal)> {
    (signal != libc::SIGCHLD).then_some((
        "exit signal".to_owned(),
        (
            "its end is not told to its parent by SIGCHLD (clone with another signal, or with none)",
            "start it by fork, or by clone with SIGCHLD",
        ),
    ))
}

/// What only eBPF sees beside what is refused.
const UNSEEN: [&str; 8] = [
    "memory merging before Linux 6.15",
    "tracers of single threads",
    "segments (modify_ldt)",
    "I/O ports",
    "locks of memory to come (MCL_FUTURE)",
    "write-xor-execute (PR_SET_MDWE)",
    "speculation control (PR_SET_SPECULATION_CTRL)",
    "default timer slack",
];

/// What is seen in the kernel's structures alone: without eBPF a dump cannot tell whether a task has
/// any of it.
#[must_use]
pub fn unseen_without_bpf() -> String {
    let refused = REFUSED.iter().filter_map(|(.., name)| *name);
    let mut all: Vec<&str> = refused.chain(UNSEEN).chain(peculiar_names()).collect();
    all.dedup();
    all.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bit_is_told_once() {
        let all = REFUSED.iter().fold(0, |all, (bit, ..)| {
            assert_eq!((all & bit, bit.count_ones()), (0, 1));
            all | bit
        });
        assert_eq!(all & unusual::EMPTY_SESSION, 0);
    }

    /// What /proc does not show is in the line that a dump without eBPF prints.
    #[test]
    fn what_is_not_seen_is_listed() {
        let line = unseen_without_bpf();
        for (bit, .., name) in REFUSED {
            let told = bit == unusual::IO_FLUSHER || bit == unusual::TRACER;
            assert_eq!(name.is_none(), told);
            assert!(name.is_none_or(|name| line.contains(name)));
        }
        assert_eq!(line.matches("keys of its own").count(), 1);
        assert!(line.contains("IPsec"));
    }
}
