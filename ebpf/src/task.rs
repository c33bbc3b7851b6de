//! `iter/task`: threads.

use core::ffi::c_void;
use core::mem::MaybeUninit;

use aya_ebpf::bindings::seq_file;
use stasis_ebpf_common::offsets::{self as o, ABSENT};
use stasis_ebpf_common::{
    ACTIONS_AT_ONCE, Header, KIND_SIGNAL_ACTIONS, KIND_TASK, NAMESPACES, SIGNALS, SignalAction,
    SignalActionsRecord, TaskIds, TaskMarks, TaskPlaces, TaskProcessor, TaskRecord, TaskSignals,
};

use crate::mark::Mark;
use crate::places::emit_places;
use crate::read::{at, field, fill, load, many_at, many_in_field, offset, zero};
use crate::{Meta, emit, file, numbers, settings};

#[repr(C)]
pub(crate) struct TaskContext {
    pub(crate) meta: *mut Meta,
    pub(crate) task: *mut c_void,
}

#[unsafe(link_section = "iter/task")]
#[unsafe(no_mangle)]
extern "C" fn task(context: *mut TaskContext) -> i32 {
    // SAFETY: the kernel passes a context of this shape.
    let (meta, task) = unsafe { ((*context).meta, (*context).task as u64) };
    if task == 0 {
        return 0;
    }
    // SAFETY: as above.
    let seq = unsafe { (*meta).seq };
    let (tid, tgid) = ids(seq, task);
    signals(seq, task);
    places(seq, task);
    marks(seq, task, tid == tgid);
    processor(seq, task);
    settings::emit_settings(seq, task, tid == tgid);
    if tid == tgid {
        actions(seq, tgid, field(task, o::TASK_SIGHAND));
        emit_places(seq, task, tgid);
    }
    0
}

// Each piece is a function of its own, with a stack frame of its own.

#[inline(never)]
fn ids(seq: *mut seq_file, task: u64) -> (i32, i32) {
    let signal: u64 = load(task, o::TASK_SIGNAL);
    let mut ids = TaskIds {
        header: Header { kind: KIND_TASK, bytes: size_of::<TaskRecord>() as u32 },
        tid: numbers::of(field(task, o::TASK_THREAD_PID)),
        tgid: numbers::of_process(signal),
        ppid: numbers::of_process(load(load(task, o::TASK_REAL_PARENT), o::TASK_SIGNAL)),
        pgid: numbers::of_group(signal),
        sid: numbers::of_session(signal),
        threads: load(signal, o::SIGNAL_NR_THREADS),
        flags: load(task, o::TASK_FLAGS),
        state: load(task, o::TASK_STATE),
        exit_state: load(task, o::TASK_EXIT_STATE),
        exit_code: load(task, o::TASK_EXIT_CODE),
        group_exit_code: load(signal, o::SIGNAL_GROUP_EXIT_CODE),
        signal_flags: load(signal, o::SIGNAL_FLAGS),
        start_boottime: load(task, o::TASK_START_BOOTTIME),
        terminal: 0,
        foreground: 0,
        comm: [0; 16],
    };
    fill(&mut ids.comm, task, o::TASK_COMM);
    (ids.terminal, ids.foreground) = file::controlling(field(signal, o::SIGNAL_TERMINAL));
    emit(seq, &ids);
    (ids.tid, ids.tgid)
}

#[inline(never)]
fn signals(seq: *mut seq_file, task: u64) {
    let mut signals = TaskSignals {
        blocked: load(task, o::TASK_BLOCKED),
        pending: load(task, o::TASK_PENDING),
        shared_pending: load(load(task, o::TASK_SIGNAL), o::SIGNAL_SHARED_PENDING),
        alt_stack_start: load(task, o::TASK_SAS_SP),
        alt_stack_bytes: load(task, o::TASK_SAS_SIZE),
        alt_stack_flags: load(task, o::TASK_SAS_FLAGS),
        parent_death_signal: load(task, o::TASK_PDEATH_SIGNAL),
        rseq_bytes: load(task, o::TASK_RSEQ_LEN),
        rseq_signature: load(task, o::TASK_RSEQ_SIG),
        ..TaskSignals::default()
    };
    fill(&mut signals.clear_child_tid, task, o::TASK_CLEAR_CHILD_TID);
    fill(&mut signals.robust_list, task, o::TASK_ROBUST_LIST);
    fill(&mut signals.compat_robust_list, task, o::TASK_COMPAT_ROBUST_LIST);
    fill(&mut signals.rseq, task, o::TASK_RSEQ);
    fill(&mut signals.continues, task, o::TASK_CONTINUES);
    emit(seq, &signals);
}

#[inline(never)]
fn places(seq: *mut seq_file, task: u64) {
    let mut place = MaybeUninit::uninit();
    let places: &mut TaskPlaces = zero(&mut place);
    // As numbers, to be compared with others.
    fill(&mut places.memory, task, o::TASK_MM);
    fill(&mut places.files, task, o::TASK_FILES);
    fill(&mut places.file_system, task, o::TASK_FS);
    fill(&mut places.signal_handlers, task, o::TASK_SIGHAND);
    let memory: u64 = load(task, o::TASK_MM);
    places.heap_start = load(memory, o::MM_START_BRK);
    places.heap_end = load(memory, o::MM_BRK);
    places.stack_start = load(memory, o::MM_START_STACK);
    places.users = [
        load(memory, o::MM_USERS),
        load(load(task, o::TASK_FILES), o::FILES_COUNT),
        load(load(task, o::TASK_FS), o::FS_USERS),
        load(load(task, o::TASK_SIGHAND), o::SIGHAND_COUNT),
    ];
    namespaces(&mut places.namespaces, task);
    emit(seq, places);
}

/// In the order of `/proc/PID/ns`: that of the alphabet.
#[inline(always)]
fn namespaces(ids: &mut [u32; NAMESPACES], task: u64) {
    let proxy: u64 = load(task, o::TASK_NSPROXY);
    *ids = [
        load(load(proxy, o::NSPROXY_CGROUP), o::CGROUP_NS_INUM),
        load(load(proxy, o::NSPROXY_IPC), o::IPC_NS_INUM),
        load(load(proxy, o::NSPROXY_MNT), o::MNT_NS_INUM),
        load(load(proxy, o::NSPROXY_NET), o::NET_NS_INUM),
        field(numbers::namespace(task), o::PID_NS_INUM),
        load(load(proxy, o::NSPROXY_PID_FOR_CHILDREN), o::PID_NS_INUM),
        load(load(proxy, o::NSPROXY_TIME), o::TIME_NS_INUM),
        load(load(proxy, o::NSPROXY_TIME_FOR_CHILDREN), o::TIME_NS_INUM),
        load(load(load(task, o::TASK_REAL_CRED), o::CRED_USER_NS), o::USER_NS_INUM),
        load(load(proxy, o::NSPROXY_UTS), o::UTS_NS_INUM),
    ];
}

#[inline(never)]
fn marks(seq: *mut seq_file, task: u64, leads: bool) {
    let mut marks = TaskMarks {
        thread: thread_mark(task),
        timer_slack: load(task, o::TASK_TIMER_SLACK),
        securebits: load(load(task, o::TASK_REAL_CRED), o::CRED_SECUREBITS),
        asynchronous: u32::from(has_rings(task)),
        ..TaskMarks::default()
    };
    let memory: u64 = field(task, o::TASK_MM);
    if leads && memory != 0 {
        let signal: u64 = field(task, o::TASK_SIGNAL);
        marks.process = process_mark(task, signal, memory);
        fill(&mut marks.memory_flags, memory, o::MM_FLAGS);
        fill(&mut marks.membarrier, memory, o::MM_MEMBARRIER);
        marks.child_subreaper = bit(signal, o::SIGNAL_SUBREAPER);
        marks.timers = u32::from(has_timers(signal));
        marks.mappings = mappings_mark(task, memory);
    }
    emit(seq, &marks);
}

/// How many segments a thread can have.
const SEGMENTS: usize = 3;

#[inline(never)]
fn processor(seq: *mut seq_file, task: u64) {
    let fpu = extended_state(task);
    let memory: u64 = field(task, o::TASK_MM);
    let ports: u64 = field(task, o::TASK_IO_BITMAP);
    let descriptors: u64 = field(memory, o::MM_LOCAL_DESCRIPTORS);
    let state: u64 = field(fpu, o::FPU_STATE);
    let segments: [u64; SEGMENTS] = field(task, o::TASK_SEGMENTS);
    let record = TaskProcessor {
        permitted: field(fpu, o::FPU_PERMITTED),
        flags: field(task, o::TASK_INFO_FLAGS),
        extended_bytes: field(state, o::FPSTATE_USER_SIZE),
        ports: u32::from(ports != 0),
        port_level: field::<u64>(task, o::TASK_IO_LEVEL) as u32,
        local_descriptors: u32::from(descriptors != 0),
        space_flags: field(memory, o::MM_SPACE_FLAGS),
        segments: u32::from(segments != [0; SEGMENTS]),
        pad: 0,
    };
    emit(seq, &record);
}

/// Where the kernel keeps a task's extended state: in the task's structure, since Linux 6.16 right
/// behind it.
#[inline(always)]
fn extended_state(task: u64) -> u64 {
    let inside = offset(o::TASK_FPU);
    let place = if inside == ABSENT { o::TASK_BYTES } else { o::TASK_FPU };
    task + u64::from(offset(place))
}

#[inline(always)]
fn has_rings(task: u64) -> bool {
    let rings: u64 = field(task, o::TASK_IO_URING);
    rings != 0
}

/// Covers all mappings: `mm_lock_seq` counts every holder of the lock that whoever changes one
/// must hold. Another address space may come to lie at the same place by an exec, so that these
/// are counted in. Since Linux 6.13 the number is odd while the lock is held
/// (include/linux/mmap_lock.h); on kernels before, half of the marks are missing for that.
#[inline(always)]
fn mappings_mark(task: u64, memory: u64) -> u64 {
    if offset(o::MM_SEQUENCE) == ABSENT {
        return 0;
    }
    let sequence: u32 = field(memory, o::MM_SEQUENCE);
    if sequence % 2 == 1 {
        return 0;
    }
    let mut mark = Mark::new();
    mark.add(memory);
    mark.add(load(task, o::TASK_EXECS));
    mark.add(load(task, o::TASK_START_BOOTTIME));
    // The names of heap and stack follow from these, which PR_SET_MM changes under another lock.
    mark.add(field(memory, o::MM_START_BRK));
    mark.add(field(memory, o::MM_BRK));
    mark.add(field(memory, o::MM_START_STACK));
    mark.add(u64::from(sequence));
    mark.finish()
}

/// Covers what the dump reads of a thread in `/proc/PID/task/TID/cgroup`, in `status` (ids, groups,
/// capabilities, no_new_privs, seccomp, umask, shadow stack), and by `sched_getattr` and
/// `sched_getaffinity`.
#[inline(never)]
fn thread_mark(task: u64) -> u64 {
    let mut mark = Mark::new();
    let cred: u64 = field(task, o::TASK_REAL_CRED);
    mark.add_field::<4>(cred, o::CRED_UID);
    mark.add(u64::from(load::<u32>(load(task, o::TASK_REAL_CRED), o::CRED_SECUREBITS)));
    mark.add_field::<5>(cred, o::CRED_CAPABILITIES);
    // A set of control groups stays what it is: a task that is moved gets another one.
    mark.add(field(task, o::TASK_CGROUPS));
    let groups: u64 = field(cred, o::CRED_GROUPS);
    let count: u32 = field(groups, o::GROUPS_COUNT);
    mark.add(u64::from(count));
    if count > GROUPS {
        return 0;
    }
    for pair in 0..u64::from(GROUPS) / 2 {
        if pair * 2 < u64::from(count) {
            let last = pair * 2 + 1 == u64::from(count);
            let ids: u64 = at(groups + u64::from(offset(o::GROUPS_IDS)) + pair * 8);
            mark.add(if last { ids & u64::from(u32::MAX) } else { ids });
        }
    }
    mark.add(u64::from(load::<u32>(task, o::TASK_STATIC_PRIO)));
    mark.add(u64::from(load::<u32>(task, o::TASK_RT_PRIORITY)));
    mark.add(u64::from(load::<u32>(task, o::TASK_POLICY)));
    mark.add(u64::from(bit(task, o::TASK_RESET_ON_FORK)));
    mark.add_field::<1>(task, o::TASK_UCLAMP);
    mark.add_field::<1>(task, o::TASK_SLICE);
    mark.add_field::<3>(task, o::TASK_DEADLINE);
    let cpus = task + u64::from(offset(o::TASK_CPUS_MASK));
    let bytes = u64::from(offset(o::CPUMASK_BYTES));
    if bytes > PROCESSORS / 8 {
        return 0;
    }
    for chunk in 0..PROCESSORS / 256 {
        if chunk * 32 + 32 <= bytes {
            mark.add_words::<4>(cpus + chunk * 32);
            continue;
        }
        // The end of a shorter mask; what stands behind it changes all the time.
        for word in chunk * 4..chunk * 4 + 3 {
            if word * 8 < bytes {
                mark.add(at(cpus + word * 8));
            }
        }
    }
    mark.add(u64::from(load::<u32>(task, o::TASK_SECCOMP_MODE)));
    mark.add(load(task, o::TASK_ATOMIC_FLAGS));
    mark.add(field(task, o::TASK_SHADOW_STACK));
    mark.add(u64::from(load::<u32>(load(task, o::TASK_FS), o::FS_UMASK)));
    mark.finish()
}

/// Credentials with more groups than this have no mark.
const GROUPS: u32 = 32;

/// Threads of kernels for more processors than this have no mark.
const PROCESSORS: u64 = 1024;

/// Covers what the dump reads of a process as a whole: its limits, oom_score_adj, personality and
/// loginuid (the leader's), the places of code, data, stack, arguments and environment, the
/// auxiliary vector, and which program it runs.
#[inline(never)]
fn process_mark(leader: u64, signal: u64, memory: u64) -> u64 {
    let mut mark = Mark::new();
    mark.add(memory);
    mark.add(load(leader, o::TASK_EXECS));
    mark.add(u64::from(field::<u32>(leader, o::TASK_PERSONALITY)));
    mark.add(u64::from(field::<u32>(leader, o::TASK_LOGIN_UID)));
    mark.add_chunks::<4>(signal + u64::from(offset(o::SIGNAL_LIMITS)));
    mark.add(u64::from(field::<u16>(signal, o::SIGNAL_OOM_SCORE_ADJ)));
    mark.add(field(memory, o::MM_EXE_FILE));
    // From start_code to start_brk; the break itself, which moves, has a place in the record.
    mark.add_field::<5>(memory, o::MM_START_CODE);
    // From start_stack to env_end, and the auxiliary vector right behind them.
    mark.add_chunks::<7>(memory + u64::from(offset(o::MM_START_STACK)));
    mark.finish()
}

/// Whether a POSIX timer exists, or an interval timer is set.
#[inline(always)]
fn has_timers(signal: u64) -> bool {
    let posix: u64 = field(signal, o::SIGNAL_POSIX_TIMERS);
    let real: u8 = field(signal, o::SIGNAL_REAL_TIMER_STATE);
    let period: u64 = field(signal, o::SIGNAL_REAL_TIMER_PERIOD);
    let processor: [u64; 4] = many_in_field(signal, o::SIGNAL_CPU_TIMERS);
    posix | u64::from(real) | period | processor[0] | processor[1] | processor[2] | processor[3]
        != 0
}

/// A field of one bit.
#[inline(always)]
pub(crate) fn bit(base: u64, index: usize) -> u32 {
    let bits = offset(index);
    let byte: u8 = at(base + u64::from(bits / 8));
    u32::from(byte >> (bits % 8)) & 1
}

#[inline(never)]
fn actions(seq: *mut seq_file, tgid: i32, handlers: u64) {
    if handlers == 0 {
        return;
    }
    let bytes = size_of::<SignalActionsRecord>() + SIGNALS * size_of::<SignalAction>();
    emit(
        seq,
        &SignalActionsRecord {
            header: Header { kind: KIND_SIGNAL_ACTIONS, bytes: bytes as u32 },
            tgid,
            reserved: 0,
        },
    );
    let first = handlers + u64::from(offset(o::SIGHAND_ACTION));
    let step = (ACTIONS_AT_ONCE * size_of::<SignalAction>()) as u64;
    for chunk in 0..(SIGNALS / ACTIONS_AT_ONCE) as u64 {
        let some: [SignalAction; ACTIONS_AT_ONCE] = many_at(first + chunk * step);
        emit(seq, &some);
    }
}
