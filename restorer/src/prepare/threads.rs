//! What each thread's part of the restorer is told.

use std::collections::BTreeMap;
use std::sync::Arc;

use ids::{ImagePid, ImagePids};
use images::id_map::IdMap;
use images::messages::{CredsEntry, SchedulingEntry, SeccompFilter, ThreadCoreEntry};
use parasite::plain::Plain;
use parasite::restorer::{
    BORN_WITH_GROUPS, BORN_WITH_IDS, BORN_WITHOUT_RIGHTS, CLOCK_FAULTS, Credentials, Filter,
    IDENTIFICATION_FAULTS, NEEDS_ROOM, SIGINFO_BYTES, SchedAttr, Settings, Table, Thread, UNSET,
};
use parasite::task::AltStack;

use super::table::Tables;
use crate::error::Error;
use crate::host::Host;
use crate::load::{self, Body, Chain, capability_set, ids_of};

/// `SS_DISABLE`: no alternate stack.
const SS_DISABLE: u32 = 2;
/// `SS_ONSTACK`: the thread was on it. The kernel sees that for itself, from the stack pointer.
const SS_ONSTACK: u32 = 1;

/// Where threads come back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place<'a> {
    pub(super) host: &'a Host,
    /// In a user namespace below that of the tree.
    pub(super) is_nested: bool,
    /// Which they are born in: what ids are called there, and whether nobody may choose groups.
    pub(super) born_in: Option<&'a (IdMap, bool)>,
    /// They have no rights of the machine: it is the holder who says how they are scheduled.
    pub(super) is_without_rights: bool,
    /// The same of the one that the leader enters before it makes the others.
    pub(super) entered: Option<&'a (IdMap, bool)>,
    /// How many numbers of a thread, from the pid namespace of the root on, are asked for and not chosen.
    pub(super) asked: usize,
}

/// Lays out the threads, the leader first. `stack_of` says where the stack of each ends.
pub(super) fn lay_out(
    body: &Body,
    place: Place<'_>,
    stack_of: impl Fn(usize) -> u64,
    tables: &mut Tables,
) -> Result<Table<Thread>, Error> {
    let mut threads = Vec::with_capacity(body.threads.len());
    let mut filters = Filters::default();
    let leader = body.threads.first().and_then(|leader| leader.core.creds.as_ref());
    for (index, thread) in body.threads.iter().enumerate() {
        let filters = filters.of(&thread.filters, tables);
        let mut place = place;
        let mut born_with = 0;
        if place.entered.is_some() && body.threads.len() > 1 {
            if ids_of(leader) == ids_of(thread.core.creds.as_ref()) {
                born_with = BORN_WITH_IDS;
            } else {
                // It is born where the leader is by then.
                place.born_in = place.entered;
            }
        }
        let mut laid = Thread { stack: stack_of(index), filters, ..one(thread, place, tables)? };
        laid.credentials.born_with |= born_with;
        threads.push(laid);
    }
    Ok(tables.put(&threads))
}

fn one(thread: &load::Thread, place: Place<'_>, tables: &mut Tables) -> Result<Thread, Error> {
    let core = &thread.core;
    let rseq = core.rseq_entry.unwrap_or_default();
    let creds = core
        .creds
        .as_ref()
        .ok_or_else(|| Error::image(format!("thread {}", thread.tid), "it has no credentials"))?;
    let mut asked = numbers(&thread.levels);
    asked.reverse();
    let mut chosen = asked.split_off(place.asked.min(asked.len()));
    chosen.reverse();
    let (asked, chosen) = (&asked, &chosen);
    Ok(Thread {
        tid: thread.levels.innermost().get(),
        numbers: tables.put(chosen),
        asked: tables.put(asked),
        parent_death_signal: core.pdeath_sig.unwrap_or(0) as i32,
        stack: 0,
        clear_child_tid: thread.processor.clear_child_tid(),
        robust_list: core.futex_rla,
        robust_bytes: core.futex_rla_len.into(),
        rseq: rseq.rseq_abi_pointer,
        rseq_bytes: rseq.rseq_abi_size,
        rseq_signature: rseq.signature,
        alt_stack: alt_stack(core.sas.as_ref()),
        name: name(core.comm.as_deref().unwrap_or_default()),
        scheduling: match place.is_without_rights {
            true => SchedAttr::default(),
            false => scheduling(core),
        },
        settings: match place.is_without_rights {
            true => Settings { io_priority: UNSET, ..settings(core) },
            false => settings(core),
        },
        processor: processor(thread),
        affinity: tables.put(core.cpu_affinity.as_deref().unwrap_or_default()),
        credentials: credentials(creds, place, tables),
        strict: thread.is_strict().into(),
        pending: tables.put(&pending(core.signals_p.as_ref())),
        ..Thread::default()
    })
}

/// The numbers of a thread as `set_tid` of clone3(2) wants them.
pub(super) fn numbers(levels: &ImagePids) -> Vec<i32> {
    levels.from_innermost().map(ImagePid::get).collect()
}

/// The filters that have been laid out, each once: where they are, by where they are kept.
#[derive(Debug, Default)]
struct Filters {
    chains: BTreeMap<*const Arc<SeccompFilter>, (u64, u64)>,
    filters: BTreeMap<*const SeccompFilter, (u64, u64)>,
}

impl Filters {
    fn of(&mut self, chain: &Chain, tables: &mut Tables) -> Table<Filter> {
        if let Some(&(offset, count)) = self.chains.get(&chain.as_ptr()) {
            return Table::new(offset, count);
        }
        let laid: Vec<_> = chain.iter().map(|filter| self.one(filter, tables)).collect();
        let table = tables.put(&laid);
        self.chains.insert(chain.as_ptr(), (table.offset, table.count));
        table
    }

    fn one(&mut self, filter: &Arc<SeccompFilter>, tables: &mut Tables) -> Filter {
        let &mut (offset, count) = self.filters.entry(Arc::as_ptr(filter)).or_insert_with(|| {
            let instructions = filter.filter.as_chunks().0.iter().copied().map(u64::from_ne_bytes);
            let table = tables.put(&instructions.collect::<Vec<_>>());
            (table.offset, table.count)
        });
        Filter { instructions: Table::new(offset, count), flags: filter.flags.unwrap_or(0), pad: 0 }
    }
}

/// How many of their first filters all threads have in common.
pub(super) fn common_filters(threads: &[load::Thread]) -> usize {
    let Some((first, others)) = threads.split_first() else { return 0 };
    let same = |count: usize, other: &load::Thread| {
        let pairs = first.filters[..count].iter().zip(other.filters.iter());
        pairs.take_while(|(one, two)| one == two).count()
    };
    others.iter().fold(first.filters.len(), same)
}

fn processor(thread: &load::Thread) -> u32 {
    let bit = |there: bool, bit| if there { bit } else { 0 };
    let processor = &thread.processor;
    bit(processor.identification_faults(), IDENTIFICATION_FAULTS)
        | bit(processor.clock_faults(), CLOCK_FAULTS)
        | bit(processor.needs_room(), NEEDS_ROOM)
}

/// How the images have a thread scheduled.
pub(crate) fn scheduling(core: &ThreadCoreEntry) -> SchedAttr {
    const SCHED_RESET_ON_FORK: u32 = 0x4000_0000;
    const SCHED_FLAG_RESET_ON_FORK: u64 = 1;
    const SCHED_FLAG_UTIL_CLAMP: u64 = 0x60;
    let stored = core.sched_policy.unwrap_or(0);
    let reset = if stored & SCHED_RESET_ON_FORK != 0 { SCHED_FLAG_RESET_ON_FORK } else { 0 };
    let beyond = core.scheduling.unwrap_or(SchedulingEntry {
        policy: stored & !SCHED_RESET_ON_FORK,
        ..SchedulingEntry::default()
    });
    let wishes = (beyond.utilization_min, beyond.utilization_max);
    SchedAttr {
        size: size_of::<SchedAttr>() as u32,
        policy: beyond.policy,
        flags: beyond.flags | reset | if wishes == (0, 0) { 0 } else { SCHED_FLAG_UTIL_CLAMP },
        nice: core.sched_nice.unwrap_or(0),
        priority: core.sched_prio.unwrap_or(0),
        runtime: beyond.runtime,
        deadline: beyond.deadline,
        period: beyond.period,
        util_min: wishes.0,
        util_max: wishes.1,
    }
}

fn settings(core: &ThreadCoreEntry) -> Settings {
    let policy = core.memory_policy.unwrap_or_default();
    Settings {
        timer_slack: core.timer_slack.unwrap_or(0),
        default_timer_slack: core.default_timer_slack.unwrap_or(0),
        nodes: policy.nodes,
        memory_policy: policy.mode,
        io_priority: core.io_priority.unwrap_or(UNSET),
        memory_failure: core.memory_failure.unwrap_or(UNSET),
        speculation: core.speculation.unwrap_or(0) as u32,
        personality: core.personality.unwrap_or(UNSET),
        pad: 0,
    }
}

fn alt_stack(entry: Option<&images::messages::ThreadSasEntry>) -> AltStack {
    match entry {
        Some(sas) if sas.ss_flags & SS_DISABLE == 0 => AltStack {
            start: sas.ss_sp,
            flags: sas.ss_flags & !SS_ONSTACK,
            pad: 0,
            bytes: sas.ss_size,
        },
        _ => AltStack { flags: SS_DISABLE, ..AltStack::default() },
    }
}

/// A name of at most fifteen bytes, with the zeros that end it.
pub(crate) fn name(comm: &[u8]) -> [u8; 16] {
    let mut name = [0; 16];
    let bytes = comm.len().min(name.len() - 1);
    name[..bytes].copy_from_slice(&comm[..bytes]);
    name
}

fn credentials(creds: &CredsEntry, place: Place<'_>, tables: &mut Tables) -> Credentials {
    let mut creds = creds.clone();
    if let Some((ids, _)) = place.born_in {
        ids.enter(&mut creds);
    }
    let Place { host, is_nested, .. } = place;
    let groups: Vec<i32> = creds.groups.iter().map(|&group| group as i32).collect();
    let sets = [&creds.cap_inh, &creds.cap_prm, &creds.cap_eff, &creds.cap_bnd, &creds.cap_amb];
    let sets = sets.map(|set| capability_set(set));
    // These are rights in the namespace that it enters, and nowhere else.
    let mut nested = creds.cap_nested.chunks(2).map(capability_set).filter(|_| is_nested);
    let [inheritable, permitted, effective, bounding, ambient] =
        sets.map(|set| nested.next().unwrap_or(set) & host.known);
    Credentials {
        users: [creds.uid, creds.euid, creds.suid, creds.fsuid],
        groups: [creds.gid, creds.egid, creds.sgid, creds.fsgid],
        inheritable,
        permitted,
        effective,
        bounding,
        ambient,
        known: host.known,
        securebits: creds.secbits,
        no_new_privs: creds.no_new_privs.unwrap_or(0),
        supplementary: tables.put(&groups),
        born_with: match place.born_in.map_or(host.born_with_groups, |it| it.1) {
            _ if host.born_with_ids.is_some() => BORN_WITH_IDS | BORN_WITHOUT_RIGHTS,
            true => BORN_WITH_GROUPS,
            false => 0,
        },
    }
}

const fn plain<T: Plain>() {}
const _: () = plain::<Thread>();

/// Pending signals, each as long as the kernel wants it.
pub(super) fn pending(
    queue: Option<&images::messages::SignalQueueEntry>,
) -> Vec<[u8; SIGINFO_BYTES]> {
    let entries = queue.iter().flat_map(|queue| &queue.signals);
    let whole = entries.map(|entry| {
        let mut info = [0; SIGINFO_BYTES];
        let bytes = entry.siginfo.len().min(SIGINFO_BYTES);
        info[..bytes].copy_from_slice(&entry.siginfo[..bytes]);
        info
    });
    whole.collect()
}
