//! Takes the iterators' output apart and says it in the inventory's words.

use std::ffi::OsString;
use std::num::NonZeroU64;
use std::os::unix::ffi::OsStringExt;

use arch::memory::{PROTECTION_KEY, VM_FLAGS};
use ebpf_common::{FileRecord, Header, SIGNALS, SignalAction, TaskRecord, VmaRecord};
use ids::HostPid;
use zerocopy::FromBytes;

use super::landlock::Landlock;
use crate::settings::{self, MemoryPolicy, ProcessSettings, ThreadSettings};
use crate::{Action, InProcess, InTask, NamedFile, ProcessFiles, ProcessState, Thread, VmFlags};

// include/uapi/linux/magic.h
pub(super) const ANON_INODE_FS: u64 = 0x0904_1934;
pub(super) const PIPE_FS: u64 = 0x5049_5045;
pub(super) const SOCKET_FS: u64 = 0x534F_434B;
/// In `ipc/mqueue.c`.
pub(super) const MQUEUE_FS: u64 = 0x1980_0202;
pub(super) const OVERLAY_FS: u64 = 0x794c_7630;
/// File systems of this machine's own, where only calls change anything: ext4, xfs, tmpfs, ramfs, f2fs,
/// btrfs, bcachefs.
pub(super) const OWN: [u64; 7] =
    [0xef53, 0x5846_5342, 0x0102_1994, 0x8584_58f6, 0xf2f5_2010, 0x9123_683e, 0xca45_1a4e];

/// Whether names come and go by calls alone.
pub(super) fn has_names_by_calls(magic: u64) -> bool {
    OWN.contains(&magic) || magic == OVERLAY_FS
}

/// The records of an iterator's output, one by one: kind and bytes. A record that says it is longer
/// than what is left, or shorter than its header, ends the sequence with `None`.
pub(super) fn records(mut output: &[u8]) -> impl Iterator<Item = Option<(u32, &[u8])>> {
    std::iter::from_fn(move || {
        if output.is_empty() {
            return None;
        }
        let record = Header::read_from_prefix(output).ok().and_then(|(header, _)| {
            let bytes = usize::try_from(header.bytes).ok()?;
            let record = output.get(..bytes).filter(|_| bytes >= size_of::<Header>())?;
            Some((header.kind, record))
        });
        output = record.map_or(&[], |(_, record)| &output[record.len()..]);
        Some(record)
    })
}

/// A record with a name behind it.
pub(super) fn with_name<T: FromBytes>(bytes: &[u8]) -> Option<(T, OsString)> {
    let (record, name) = T::read_from_prefix(bytes).ok()?;
    let name = name.strip_suffix(&[0]).unwrap_or(name);
    Some((record, OsString::from_vec(name.to_vec())))
}

/// The letter that /proc has for a state (`fs/proc/array.c`).
pub(super) fn state_letter(task: &TaskRecord) -> char {
    const REPORTED: u32 = 0x7f;
    const UNINTERRUPTIBLE: u32 = 0x2;
    const IDLE: u32 = 0x402;
    const RT_LOCK_WAIT: u32 = 0x1000;
    const FROZEN: u32 = 0x8000;
    let (state, exit) = (task.ids.state, task.ids.exit_state);
    if state == IDLE {
        return 'I';
    }
    let sleeps = state & (RT_LOCK_WAIT | FROZEN) != 0;
    let reported = if sleeps { UNINTERRUPTIBLE } else { (state | exit) & REPORTED };
    let highest = (u32::BITS - reported.leading_zeros()) as usize;
    "RSDTtXZP".chars().nth(highest).unwrap_or('?')
}

/// `PF_KTHREAD`.
pub(super) const fn is_kernel_thread(task: &TaskRecord) -> bool {
    task.ids.flags & 0x0020_0000 != 0
}

/// A thread of the kernel's own that works for a process as one of its threads.
pub(super) const fn is_worker(task: &TaskRecord) -> bool {
    kernel::procfs::is_worker(task.ids.flags, task.signals.blocked, u64::MAX)
}

/// The state of a process, by the record of its leader.
pub(super) fn process_state(leader: &TaskRecord) -> ProcessState {
    const GROUP_EXIT: u32 = 0x4;
    match state_letter(leader) {
        'Z' | 'X' if leader.ids.threads <= 1 => ProcessState::Zombie {
            exit_status: if leader.ids.signal_flags & GROUP_EXIT != 0 {
                leader.ids.group_exit_code
            } else {
                leader.ids.exit_code
            },
        },
        'T' => ProcessState::Stopped,
        _ => ProcessState::Alive,
    }
}

/// Nanoseconds in a clock tick as user space counts them, which is the same on every processor but
/// Alpha.
const NANOSECONDS_A_TICK: u64 = 1_000_000_000 / 100;

pub(super) fn thread(
    tid: HostPid,
    task: &TaskRecord,
    leader: &TaskRecord,
    actions: &[SignalAction],
    landlock: Landlock,
    boot_shift: i64,
) -> Thread {
    let name = task.ids.comm.split(|&byte| byte == 0).next().unwrap_or_default();
    let signals = &task.signals;
    let (ignored, caught) = dispositions(actions);
    Thread {
        tid,
        start_time: task.ids.start_boottime.wrapping_add_signed(boot_shift) / NANOSECONDS_A_TICK,
        comm: OsString::from_vec(name.to_vec()),
        state: state_letter(task),
        own_tables: task.ids.tid != task.ids.tgid
            && task.places.files != 0
            && leader.places.files != 0
            && (task.places.files != leader.places.files
                || task.places.file_system != leader.places.file_system),
        own_namespaces: {
            // A task that is ending has none.
            let pairs = task.places.namespaces.into_iter().zip(leader.places.namespaces);
            pairs.into_iter().any(|(own, leaders)| own != 0 && leaders != 0 && own != leaders)
        },
        blocked: signals.blocked,
        pending: signals.pending,
        shared_pending: signals.shared_pending,
        ignored,
        caught,
        in_task: Some(InTask {
            alt_stack_start: signals.alt_stack_start,
            alt_stack_bytes: signals.alt_stack_bytes,
            alt_stack_flags: signals.alt_stack_flags,
            clear_child_tid: signals.clear_child_tid,
            parent_death_signal: signals.parent_death_signal,
            robust_list: signals.robust_list,
            compat_robust_list: signals.compat_robust_list,
            rseq: signals.rseq,
            rseq_bytes: signals.rseq_bytes,
            rseq_signature: signals.rseq_signature,
            continues: signals.continues,
            securebits: task.marks.securebits,
            extended_bytes: Some(task.processor.extended_bytes as usize)
                .filter(|bytes| *bytes != 0),
            kernel_flags: task.processor.flags,
            segments: task.processor.segments != 0,
            ports: task.processor.ports != 0 || task.processor.port_level != 0,
            mark: NonZeroU64::new(task.marks.thread),
            settings: thread_settings(task, landlock),
        }),
    }
}

fn thread_settings(task: &TaskRecord, landlock: Landlock) -> ThreadSettings {
    let set = &task.settings;
    let domain = landlock.domain(&set.security);
    ThreadSettings {
        timer_slack: task.marks.timer_slack,
        default_timer_slack: Some(set.default_timer_slack),
        io_priority: set.io_priority,
        memory_policy: MemoryPolicy::of(&set.policy),
        memory_failure: settings::memory_failure(task.ids.flags),
        speculation: set.atomic_flags & settings::SPECULATION,
        exit_signal: set.exit_signal,
        personality: set.personality,
        traced: set.traced,
        unusual: set.unusual | if domain { settings::LANDLOCK } else { 0 },
    }
}

fn process_settings(leader: &TaskRecord) -> ProcessSettings {
    let flags = leader.marks.memory_flags;
    let set = |bit: u32| flags & 1 << bit != 0;
    // include/linux/mm_types.h. Linux 6.4 to 6.6 had merging in the place of the second of these.
    const DENY: u32 = 28;
    const DENY_BUT_NOT_CHILDREN: u32 = 29;
    const MERGE: u32 = 30;
    const FILTER: u32 = 0x1ff << FILTER_SHIFT;
    const FILTER_SHIFT: u32 = 2;
    // include/linux/mm.h
    const LOCKED: u64 = 1 << 13;
    const LOCK_ON_FAULT: u64 = 1 << 19;
    let defaults = leader.settings.default_memory_flags;
    let lock = |flag: u64, value: u32| if defaults & flag != 0 { value } else { 0 };
    // include/linux/sched/signal.h
    const STOPPED: u32 = 1;
    ProcessSettings {
        // Who waits for it takes the code of the stop away.
        stop_told: leader.ids.signal_flags & STOPPED != 0 && leader.ids.group_exit_code == 0,
        core_dump_filter: (flags & FILTER) >> FILTER_SHIFT,
        autogroup_nice: leader.settings.autogroup_nice,
        future_locks: lock(LOCKED, settings::MCL_FUTURE)
            | lock(LOCK_ON_FAULT, settings::MCL_ONFAULT),
        mapping_base: leader.settings.mapping_base,
        compat_mapping_base: leader.settings.compat_mapping_base,
        deny_write_execute: match (set(DENY), set(DENY_BUT_NOT_CHILDREN)) {
            (false, _) => 0,
            (true, false) => 1,
            (true, true) => 3,
        },
        merge_memory: set(MERGE) || set(DENY_BUT_NOT_CHILDREN) && !set(DENY),
        protection_keys: u32::from(leader.settings.protection_keys) & !1,
        execute_only_key: u32::try_from(leader.settings.execute_only_key).unwrap_or(0),
    }
}

/// The commands that registered an address space for `membarrier`, by its `MEMBARRIER_STATE_*` flags
/// (include/linux/sched/mm.h): for each kind one that says it is registered, beside one that
/// says it is ready.
fn membarrier(state: u32) -> u32 {
    /// Flags and `MEMBARRIER_CMD_REGISTER_*` (include/uapi/linux/membarrier.h).
    const KINDS: [(u32, u32); 4] =
        [(0b11 << 2, 1 << 2), (0b11, 1 << 4), (0b11 << 4, 1 << 6), (0b11 << 6, 1 << 8)];
    KINDS.into_iter().filter(|(flags, _)| state & flags != 0).map(|(_, command)| command).sum()
}

/// What the leader's record says of the whole process; `None` of one without memory, and where the
/// record of its signals' actions is missing.
pub(super) fn in_process(
    leader: &TaskRecord,
    actions: &[SignalAction],
    places: &[Option<NamedFile>; 3],
) -> Option<InProcess> {
    /// The lowest bits of `mm_struct.flags` (include/linux/mm_types.h).
    const DUMPABLE: u32 = 0b11;
    /// Of all kernels: two bits since Linux 6.18, the upper one before.
    const THP_RESTRICTED: u32 = 0b11 << 23;
    if leader.places.memory == 0 || actions.len() != SIGNALS {
        return None;
    }
    let marks = &leader.marks;
    Some(InProcess {
        program_break: leader.places.heap_end,
        dumpable: (marks.memory_flags & DUMPABLE) as i32,
        thp_restricted: marks.memory_flags & THP_RESTRICTED != 0,
        child_subreaper: marks.child_subreaper != 0,
        timers: marks.timers != 0,
        membarrier: membarrier(marks.membarrier),
        places: match places {
            [Some(program), Some(working_directory), Some(root_directory)] => Some(ProcessFiles {
                program: program.clone(),
                working_directory: working_directory.clone(),
                root_directory: root_directory.clone(),
            }),
            _ => None,
        },
        permitted_components: leader.processor.permitted,
        local_descriptors: leader.processor.local_descriptors != 0,
        actions: actions
            .iter()
            .map(|action| Action {
                handler: action.handler,
                flags: action.flags,
                restorer: action.restorer,
                mask: action.mask,
            })
            .collect(),
        mark: NonZeroU64::new(marks.process),
        mappings_mark: NonZeroU64::new(marks.mappings),
        settings: process_settings(leader),
    })
}

/// Which signals are ignored and which have a handler, signal 1 at bit 0.
fn dispositions(actions: &[SignalAction]) -> (u64, u64) {
    const DEFAULT: u64 = 0;
    const IGNORE: u64 = 1;
    let mask = |wanted: fn(u64) -> bool| {
        actions
            .iter()
            .take(SIGNALS)
            .enumerate()
            .filter(|(_, action)| wanted(action.handler))
            .fold(0, |mask, (signal, _)| mask | 1 << signal)
    };
    (mask(|handler| handler == IGNORE), mask(|handler| handler != IGNORE && handler != DEFAULT))
}

/// A device number in the kernel's encoding as `st_dev`.
pub(super) fn device(kernel: u32) -> u64 {
    libc::makedev(kernel >> 20, kernel & 0xf_ffff)
}

/// `O_CLOEXEC` is a matter of the descriptor, which the kernel shows in place of the file's own bit.
pub(super) fn file_flags(record: &FileRecord) -> u32 {
    record.flags & !libc::O_CLOEXEC.cast_unsigned()
}

/// The kernel's bit of each flag that has the same place on all processors (include/linux/mm.h). They
/// have been the same for ten years. Those of a processor are in [`arch::memory::VM_FLAGS`].
const VM_BITS: [(u32, VmFlags); 31] = [
    (0, VmFlags::READ),
    (1, VmFlags::WRITE),
    (2, VmFlags::EXEC),
    (3, VmFlags::SHARED),
    (4, VmFlags::MAY_READ),
    (5, VmFlags::MAY_WRITE),
    (6, VmFlags::MAY_EXEC),
    (7, VmFlags::MAY_SHARE),
    (8, VmFlags::GROWS_DOWN),
    (9, VmFlags::UFFD_MISSING),
    (10, VmFlags::PFN_MAP),
    (11, VmFlags::GUARD),
    (12, VmFlags::UFFD_WRITE_PROTECT),
    (13, VmFlags::LOCKED),
    (14, VmFlags::IO),
    (15, VmFlags::SEQUENTIAL_READ),
    (16, VmFlags::RANDOM_READ),
    (17, VmFlags::DONT_COPY),
    (18, VmFlags::DONT_EXPAND),
    (19, VmFlags::LOCK_ON_FAULT),
    (20, VmFlags::ACCOUNT),
    (21, VmFlags::NO_RESERVE),
    (22, VmFlags::HUGE_TLB),
    (23, VmFlags::SYNC),
    (25, VmFlags::WIPE_ON_FORK),
    (26, VmFlags::DONT_DUMP),
    (27, VmFlags::SOFT_DIRTY),
    (28, VmFlags::MIXED_MAP),
    (29, VmFlags::HUGE_PAGE),
    (30, VmFlags::NO_HUGE_PAGE),
    (31, VmFlags::MERGEABLE),
];

/// Those of this processor.
const OWN_VM_BITS: [(u32, VmFlags); VM_FLAGS.len()] = {
    let mut bits = [(0, VmFlags::UNKNOWN); VM_FLAGS.len()];
    let mut next = 0;
    while next < bits.len() {
        let (bit, letters) = VM_FLAGS[next];
        bits[next] = (bit, VmFlags::from_letters(letters));
        next += 1;
    }
    bits
};

pub(super) fn protection_key(record: &VmaRecord) -> u32 {
    ((record.flags & PROTECTION_KEY) >> PROTECTION_KEY.trailing_zeros()) as u32
}

pub(super) fn vm_flags(record: &VmaRecord) -> VmFlags {
    let mut left = record.flags & !PROTECTION_KEY;
    let mut flags = VmFlags::default();
    for (bit, flag) in VM_BITS.into_iter().chain(OWN_VM_BITS) {
        if left & 1 << bit != 0 {
            flags |= flag;
            left &= !(1 << bit);
        }
    }
    if left != 0 {
        flags |= VmFlags::UNKNOWN;
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(state: u32, exit_state: u32) -> TaskRecord {
        let mut task = TaskRecord::default();
        task.ids.state = state;
        task.ids.exit_state = exit_state;
        task.ids.threads = 1;
        task
    }

    #[test]
    fn states_have_the_letters_of_proc() {
        let cases = [
            (0, 0, 'R'),
            (1, 0, 'S'),
            (2, 0, 'D'),
            (4, 0, 'T'),
            (8, 0, 't'),
            (0x104, 0, 'T'),
            (0x402, 0, 'I'),
            (0x8000, 0, 'D'),
            (0x2001, 0, 'S'),
            (0, 0x20, 'Z'),
            (0x80, 0x20, 'Z'),
        ];
        for (state, exit_state, letter) in cases {
            assert_eq!(state_letter(&task(state, exit_state)), letter, "{state:x} {exit_state:x}");
        }
    }

    #[test]
    fn a_leader_with_threads_is_no_zombie() {
        let mut leader = task(0, 0x20);
        leader.ids.exit_code = 256;
        assert_eq!(process_state(&leader), ProcessState::Zombie { exit_status: 256 });
        leader.ids.threads = 2;
        assert_eq!(process_state(&leader), ProcessState::Alive);
    }

    #[test]
    fn records_that_lie_about_their_length_end_the_sequence() {
        let header = |kind: u32, bytes: u32| [kind.to_ne_bytes(), bytes.to_ne_bytes()].concat();
        let good = header(7, 8);
        let all: Vec<_> = records(&good).collect();
        assert_eq!(all, [Some((7, &good[..]))]);
        for bytes in [0, 7, 9, u32::MAX] {
            let bad = header(7, bytes);
            assert_eq!(records(&bad).collect::<Vec<_>>(), [None]);
        }
        assert_eq!(records(&[1]).collect::<Vec<_>>(), [None]);
    }

    #[test]
    fn flags_without_a_name_are_unknown() {
        let flags = |flags| vm_flags(&VmaRecord { flags, ..VmaRecord::default() });
        assert_eq!(flags(0x75).letters(), "rd ex mr mw me");
        assert!(flags(1 << 39).contains(VmFlags::UNKNOWN));
        let keyed = VmaRecord { flags: 3 << 32 | 1, ..VmaRecord::default() };
        assert_eq!((protection_key(&keyed), vm_flags(&keyed)), (3, VmFlags::READ));
    }
}
