//! What a thread has set that few tasks set: part of its record, so that the frozen moment needs no
//! question for it.

use aya_ebpf::bindings::seq_file;
use stasis_ebpf_common::offsets::{self as o, ABSENT};
use stasis_ebpf_common::{MemoryPolicy, SECURITY_WORDS, TaskSettings, unusual};

use crate::read::{at, field, fill, load, many_at, offset};
use crate::{emit, numbers};

/// Writes the last part of a thread's record.
#[inline(never)]
pub(crate) fn emit_settings(seq: *mut seq_file, task: u64, leads: bool) {
    let mut settings = TaskSettings {
        default_timer_slack: load(task, o::TASK_DEFAULT_TIMER_SLACK),
        atomic_flags: load(task, o::TASK_ATOMIC_FLAGS),
        exit_signal: load(task, o::TASK_EXIT_SIGNAL),
        unusual: of_task(task) | of_credentials(task),
        personality: load(task, o::TASK_PERSONALITY),
        traced: load(task, o::TASK_PTRACE),
        ..TaskSettings::default()
    };
    let io: u64 = field(task, o::TASK_IO_CONTEXT);
    if io != 0 {
        settings.io_priority = u32::from(field::<u16>(io, o::IO_PRIORITY));
        if field::<u32>(io, o::IO_SHARERS) > 1 + workers(task) {
            settings.unusual |= unusual::SHARED_IO;
        }
    }
    memory_policy(&mut settings.policy, field(task, o::TASK_MEMORY_POLICY));
    fill_security(&mut settings.security, field(task, o::TASK_REAL_CRED));
    settings.unusual |= of_pids(numbers::namespace(task));
    let memory: u64 = field(task, o::TASK_MM);
    if leads && memory != 0 {
        settings.default_memory_flags = field(memory, o::MM_DEFAULT_FLAGS);
        settings.mapping_base = field(memory, o::MM_MAPPING_BASE);
        settings.compat_mapping_base = field(memory, o::MM_COMPAT_MAPPING_BASE);
        let group: u64 = field(field(task, o::TASK_SIGNAL), o::SIGNAL_AUTOGROUP);
        settings.autogroup_nice = field(group, o::AUTOGROUP_NICE);
        settings.protection_keys = field(memory, o::MM_PROTECTION_KEYS);
        settings.execute_only_key = field(memory, o::MM_EXECUTE_ONLY_KEY);
    }
    emit(seq, &settings);
}

/// The kernel's own threads that work for the rings of a task, with its I/O context.
#[inline(always)]
fn workers(task: u64) -> u32 {
    let of: u64 = field(field(task, o::TASK_IO_URING), o::REQUESTS_WORKERS);
    let lacks = |index| offset(index) == ABSENT;
    if of == 0
        || lacks(o::WORKERS_OF_KIND)
        || lacks(o::WORKERS_KIND_BYTES)
        || lacks(o::WORKERS_COUNT)
    {
        return 0;
    }
    // Those of bounded work, and behind them those of unbounded work.
    let first = of + u64::from(offset(o::WORKERS_OF_KIND));
    let second = first + u64::from(offset(o::WORKERS_KIND_BYTES));
    field::<u32>(first, o::WORKERS_COUNT) + field::<u32>(second, o::WORKERS_COUNT)
}

#[inline(always)]
fn fill_security(words: &mut [u64; SECURITY_WORDS], cred: u64) {
    let security: u64 = field(cred, o::CRED_SECURITY);
    if security != 0 {
        *words = many_at(security);
    }
}

/// What few threads have, of the task itself.
#[inline(always)]
fn of_task(task: u64) -> u32 {
    // include/linux/thread_info.h, include/linux/sched.h
    const SYSCALL_USER_DISPATCH: u64 = 1 << 5;
    const IO_FLUSHER: u32 = 0x0008_0000 | 0x0010_0000;
    let mut found = 0;
    let work: u64 = field(task, o::TASK_SYSCALL_WORK);
    let selector: u64 = field(task, o::TASK_DISPATCH_SELECTOR);
    if work & SYSCALL_USER_DISPATCH != 0 || selector != 0 {
        found |= unusual::SYSCALL_DISPATCH;
    }
    let flags: u32 = load(task, o::TASK_FLAGS);
    if flags & IO_FLUSHER == IO_FLUSHER {
        found |= unusual::IO_FLUSHER;
    }
    let cookie: u64 = field(task, o::TASK_CORE_COOKIE);
    if cookie != 0 {
        found |= unusual::CORE_COOKIE;
    }
    if holds(field(task, o::TASK_SEM_UNDO), o::SEM_UNDO_LIST) {
        found |= unusual::SEM_UNDO;
    }
    if holds(task, o::TASK_PTRACED) {
        found |= unusual::TRACER;
    }
    let rings: u64 = field(field(task, o::TASK_IO_URING), o::RINGS_HEAD);
    if rings != 0 {
        found |= unusual::RINGS;
    }
    found
}

/// Whether somebody has set something of a pid namespace: a new one gives out all numbers that there are, and is as strict with
/// memfds as the one around it.
#[inline(always)]
fn of_pids(namespace: u64) -> u32 {
    /// `PID_MAX_LIMIT` of a kernel of 64 bits.
    const ALL: u32 = 4 << 20;
    let around: u64 = field(namespace, o::PID_NS_PARENT);
    if namespace == 0 || around == 0 {
        return 0;
    }
    let highest = |of| field::<u32>(of, o::PID_NS_MAX);
    let scope = |of| field::<u32>(of, o::PID_NS_MEMFD_SCOPE);
    let is_limited = highest(namespace) != ALL && highest(namespace) != highest(around);
    match is_limited || scope(namespace) > scope(around) {
        true => unusual::PID_SETTINGS,
        false => 0,
    }
}

/// Whether the list in a structure has a member.
#[inline(always)]
pub(crate) fn holds(base: u64, list: usize) -> bool {
    if base == 0 || offset(list) == ABSENT {
        return false;
    }
    let head = base + u64::from(offset(list));
    let next: u64 = at(head);
    // Not as a comparison of pointers: the verifier has them for numbers.
    next != 0 && next ^ head != 0
}

#[inline(never)]
fn of_credentials(task: u64) -> u32 {
    let cred: u64 = field(task, o::TASK_REAL_CRED);
    let mut found = session(field(cred, o::CRED_SESSION_KEYRING));
    let keyrings = [
        (o::CRED_PROCESS_KEYRING, unusual::PROCESS_KEYRING),
        (o::CRED_THREAD_KEYRING, unusual::THREAD_KEYRING),
    ];
    for (keyring, bit) in keyrings {
        let keyring: u64 = field(cred, keyring);
        if keyring != 0 && field::<u64>(keyring, o::KEY_LEAVES) != 0 {
            found |= bit;
        }
    }
    let request: u64 = field(cred, o::CRED_REQUEST_KEY);
    if request != 0 {
        found |= unusual::REQUEST_KEY;
    }
    found
}

/// What a session keyring is to a checkpoint: a user's own (`_uid_ses.N`) is found again by any
/// process of that user; one with nothing in it, or with nothing but a link to the user's own, as a
/// login makes it, is made anew.
#[inline(always)]
pub(crate) fn session(keyring: u64) -> u32 {
    if keyring == 0 || is_of_user(keyring) {
        return 0;
    }
    let leaves: u64 = field(keyring, o::KEY_LEAVES);
    if leaves == 0 || leaves == 1 && is_of_user(only_leaf(keyring)) {
        return unusual::EMPTY_SESSION;
    }
    unusual::SESSION_KEYRING
}

/// A keyring that the kernel keeps for a user: its name begins with `_uid`.
#[inline(always)]
fn is_of_user(key: u64) -> bool {
    let description: u64 = field(key, o::KEY_DESCRIPTION);
    description != 0 && at::<u32>(description) == u32::from_ne_bytes(*b"_uid")
}

/// The key of a keyring that holds one: in one of the slots of its only node.
#[inline(always)]
fn only_leaf(keyring: u64) -> u64 {
    if offset(o::KEY_NODE_SLOTS) == ABSENT {
        return 0;
    }
    (0..SLOTS).fold(0, |leaf, place| leaf | slot(keyring, place))
}

/// Slots of a node: so many keys a keyring has in its only one.
pub(crate) const SLOTS: u64 = 16;

/// The key in a slot of the first node of a keyring; 0 for none, and for what leads to another node. The lowest two bits of the pointers
/// say of which kind they are.
#[inline(always)]
pub(crate) fn slot(keyring: u64, place: u64) -> u64 {
    const KIND: u64 = 3;
    const LEADS_ON: u64 = 1;
    let root: u64 = field(keyring, o::KEY_ROOT);
    let slots = (root & !KIND) + u64::from(offset(o::KEY_NODE_SLOTS));
    let word: u64 = at(slots + place * 8);
    if word & LEADS_ON == 0 { word & !KIND } else { 0 }
}

/// Takes down a policy; leaves it empty where there is none.
#[inline(always)]
pub(crate) fn memory_policy(found: &mut MemoryPolicy, policy: u64) {
    const MPOL_F_STATIC_NODES: u16 = 1 << 15;
    const MPOL_F_RELATIVE_NODES: u16 = 1 << 14;
    const LONGEST: u64 = 16;
    if policy == 0 || offset(o::POLICY_NODES) == ABSENT {
        return;
    }
    fill(&mut found.mode, policy, o::POLICY_MODE);
    fill(&mut found.flags, policy, o::POLICY_FLAGS);
    let as_given = found.flags & (MPOL_F_STATIC_NODES | MPOL_F_RELATIVE_NODES) != 0;
    let index = if as_given { o::POLICY_USER_NODES } else { o::POLICY_NODES };
    let nodes = policy + u64::from(offset(index));
    found.nodes = at(nodes);
    let home: i32 =
        if offset(o::POLICY_HOME) == ABSENT { -1 } else { field(policy, o::POLICY_HOME) };
    let words = u64::from(offset(o::POLICY_HOME).wrapping_sub(offset(o::POLICY_NODES))) / 8;
    let mut others = 0;
    for word in 1..LONGEST {
        if word < words {
            others |= at::<u64>(nodes + word * 8);
        }
    }
    found.wide = u32::from(home != -1 || others != 0);
}
