//! Stage 3b of a restore: what each process's restorer will be told, laid out ready to be copied
//! into the process. Pure but for the descriptors that are named in it.
//!
//! All of it is made before the first task is, so that a child has nothing left to do but to copy
//! it into place.

mod attachments;
mod issued;
mod mappings;
mod table;
mod threads;
mod userfaults;

use std::collections::BTreeMap;
use std::os::fd::RawFd;

use arch::memory::{END_OF_SPACE, PAGE_SIZE};
use arch::regs::Abi;
use ids::ImagePid;
use images::id_map::IdMap;
use parasite::RESTORER;
use parasite::plain::bytes_of;
use parasite::restorer::{Arguments, LateDescriptor, Limit, MmMap, PosixTimer, ThreadProgress};
use parasite::task::{SigAction, Time, TimerValue};

pub(crate) use attachments::is_read_only;
pub(crate) use threads::{name, scheduling};

use self::table::Tables;
use crate::error::Error;
use crate::files::{Issued, Late, Serving};
use crate::forked::Layout;
use crate::gap::{place, place_below};
use crate::host::{Host, Range};
use crate::load::{Body, Mapping, Process, personality};

const PAGE: usize = PAGE_SIZE as usize;
/// Stack of a thread while it runs the restorer, which has no deep frames.
const STACK: usize = 4 * PAGE;
const SIGKILL: u64 = 9;
const SIGSTOP: u64 = 19;

/// The descriptors that a process's new address space is made of.
#[derive(Debug, Default)]
pub(crate) struct Descriptors {
    /// Executable.
    pub(crate) exe: RawFd,
    /// Mapped files, by id and flags.
    pub(crate) mapped: BTreeMap<(u32, u32), RawFd>,
    /// Shared anonymous memory, by its id.
    pub(crate) segments: BTreeMap<u64, RawFd>,
    /// How large System V segments are, by namespace and id.
    pub(crate) segment_sizes: BTreeMap<(u32, u64), u64>,
    /// Rings to which one thread of it alone may submit.
    pub(crate) issued: Vec<Issued>,
    /// Its userfaultfds.
    pub(crate) serving: Vec<Serving>,
    /// Pages files.
    pub(crate) stores: Vec<RawFd>,
    /// Descriptors from this one on are the restore's own.
    pub(crate) base: RawFd,
    /// Descriptors that have such numbers all the same, and where the way to their holder is.
    pub(crate) late: (Vec<Late>, RawFd),
    /// If others have the descriptors, too: by which one waits for the others' turns, and for how many; one of
    /// the others waits for none.
    pub(crate) turns: Option<(RawFd, u32)>,
    /// The user namespace below that of the tree that it enters.
    pub(crate) user_namespace: Option<RawFd>,
    /// What ids are called in the one that it is born in, and whether nobody may choose groups in there.
    pub(crate) born_in: Option<(IdMap, bool)>,
    /// There may be breakpoints of uprobes in memory.
    pub(crate) has_uprobes: bool,
    /// It is born in a user namespace, where it has no rights of the machine.
    pub(crate) is_without_rights: bool,
    /// The same of the one that it enters before it has other threads.
    pub(crate) entered: Option<(IdMap, bool)>,
    /// Where it asks for numbers of its threads, and by which one it waits for its turn.
    pub(crate) registrars: Option<(Vec<RawFd>, RawFd)>,
}

impl Descriptors {
    /// Those of the restore's own that are needed when the others are closed.
    fn kept(&self) -> Vec<RawFd> {
        let (registrars, turn) = self.registrars.clone().unzip();
        let more = [Some(self.late.1), self.user_namespace, turn];
        let all = more.into_iter().flatten().chain(registrars.into_iter().flatten());
        let mut kept: Vec<RawFd> = all.filter(|fd| *fd >= self.base).collect();
        kept.sort_unstable();
        kept
    }
}

/// A process's region, ready to be copied.
#[derive(Debug, Default)]
pub(crate) struct Region {
    /// Where it goes.
    pub(crate) address: u64,
    /// Its length.
    pub(crate) bytes: usize,
    /// Length of the code at its start.
    pub(crate) code_bytes: usize,
    /// Where the arguments go.
    pub(crate) arguments_at: usize,
    /// The arguments and their tables.
    pub(crate) arguments: Vec<u8>,
    /// Where the leader's stack ends.
    pub(crate) stack: usize,
    /// Its threads do not say themselves how they are scheduled.
    pub(crate) is_without_rights: bool,
    /// Where each thread's report is, in the order of the threads.
    reports: Vec<u64>,
}

impl Region {
    /// Address of the report of a thread.
    pub(crate) fn report(&self, thread: usize) -> Option<u64> {
        self.reports.get(thread).copied()
    }
}

/// A region that has no place yet.
#[derive(Debug)]
pub(crate) struct LaidOut {
    pid: ImagePid,
    arguments: Arguments,
    tables: Tables,
    bytes: usize,
    code_bytes: usize,
    arguments_at: usize,
    stack: usize,
    is_without_rights: bool,
    /// Where addresses end for it.
    end: u64,
    /// Where there must be nothing of it.
    taken: Vec<Range>,
    /// The room for System V segments, and what its address is a multiple of.
    scratch: Option<(u64, u64)>,
}

impl LaidOut {
    fn no_gap(&self, bytes: usize) -> Error {
        let refusal = support::host::no_gap(bytes);
        Error::refused(refusal.of(self.pid.get(), format!("process {}", self.pid)))
    }

    fn threads(&self) -> u32 {
        self.arguments.threads.count as u32
    }

    /// Puts it where it goes, with `tail` bytes behind it that stay, too, and `others` threads of who has the same memory.
    fn at(mut self, address: u64, tail: u64, others: u32) -> Result<Region, Error> {
        let region = Range { start: address, end: address + self.bytes as u64 };
        if let Some((largest, align)) = self.scratch {
            // What is in huge pages is attached at multiples of their size only.
            let needed = largest.saturating_add(align);
            let kept = Range { end: region.end + tail, ..region };
            self.arguments.scratch = place(self.taken.iter().copied().chain([kept]), needed)
                .map(|start| start.next_multiple_of(align))
                .ok_or_else(|| self.no_gap(usize::try_from(needed).unwrap_or(usize::MAX)))?;
        }
        let arguments = &mut self.arguments;
        arguments.region_start = address;
        arguments.region_bytes = region.bytes();
        arguments.kept_bytes = region.bytes() + tail;
        arguments.sharing_threads = others;
        let base = address + self.arguments_at as u64;
        let report = std::mem::offset_of!(parasite::restorer::Thread, report);
        let size = size_of::<parasite::restorer::Thread>();
        let reports = (0..arguments.threads.count as usize)
            .map(|thread| base + arguments.threads.offset + (thread * size + report) as u64)
            .collect();
        Ok(Region {
            address,
            bytes: self.bytes,
            code_bytes: self.code_bytes,
            stack: self.stack,
            is_without_rights: self.is_without_rights,
            arguments_at: self.arguments_at,
            arguments: self.tables.finish(bytes_of(&[self.arguments])),
            reports,
        })
    }
}

/// Places the regions of processes that have one memory, one behind the other, that of the one first that makes it. `host` has what is
/// mapped here.
pub(crate) fn place_all(host: &Host, mut regions: Vec<LaidOut>) -> Result<Vec<Region>, Error> {
    let total: usize = regions.iter().map(|region| region.bytes).sum();
    let Some(first) = regions.first() else { return Ok(Vec::new()) };
    let taken = first.taken.iter().chain(&host.mappings).copied();
    let start = place_below(first.end, taken, total as u64).ok_or_else(|| first.no_gap(total))?;
    let mut at = start;
    let mut places = Vec::with_capacity(regions.len());
    for region in &regions {
        places.push((at, at + region.arguments_at as u64));
        at += region.bytes as u64;
    }
    let others = regions.iter().skip(1).map(LaidOut::threads).sum();
    for (index, region) in regions.iter_mut().enumerate() {
        region.arguments.lender = if index == 0 { 0 } else { places[0].1 };
        region.arguments.next_sharer = places.get(index + 1).map_or(0, |(_, arguments)| *arguments);
    }
    let placed = regions.into_iter().zip(places).enumerate();
    let placed = placed.map(|(index, (region, (address, _)))| {
        // Only who makes the memory takes the old one away.
        let tail = if index == 0 { at - address - region.bytes as u64 } else { 0 };
        region.at(address, tail, if index == 0 { others } else { 0 })
    });
    placed.collect()
}

/// Lays out the region of a process, with the `mappings` of its memory.
pub(crate) fn region(
    host: &Host,
    process: &Process,
    (body, mapped): (&Body, &[Mapping]),
    descriptors: &Descriptors,
    (park_signal, helper): (i32, Option<ImagePid>),
    (forked, index): (&Layout, usize),
) -> Result<LaidOut, Error> {
    let code_bytes = RESTORER.code.len().next_multiple_of(PAGE);
    let mut tables = Tables::new(size_of::<Arguments>());
    let mut arguments = Arguments {
        end_of_space: END_OF_SPACE,
        pid: body.threads.first().map_or(process.pid, |it| it.levels.innermost()).get(),
        close_from: descriptors.base,
        park_signal,
        helper: helper.map_or(0, ImagePid::get),
        user_namespace: descriptors.user_namespace.unwrap_or(-1),
        // Of memory that is another's that one says it.
        dumpable: body.mm.dumpable.filter(|_| body.lender.is_none()).unwrap_or(-1),
        personality: personality(process.core.personality).unwrap_or(0),
        child_subreaper: process.core.child_subreaper.unwrap_or(false).into(),
        thp_disable: u32::from(body.mm.thp_disabled.unwrap_or(false))
            | body.mm.thp_disable_flags.unwrap_or(0),
        future_locks: body.mm.future_locks.unwrap_or(0),
        deny_write_execute: body.mm.deny_write_execute.unwrap_or(0),
        protection_keys: body.mm.protection_keys.unwrap_or(0),
        execute_only_key: body.mm.execute_only_key.unwrap_or(0),
        merge_memory: body.mm.merge_memory.unwrap_or(false).into(),
        membarrier: process.core.membarrier_registration_mask.unwrap_or(0),
        components: body.permitted_components(),
        mm: mm(body, descriptors.exe),
        common_filters: threads::common_filters(&body.threads) as u32,
        ..Arguments::default()
    };
    arguments.auxv = tables.put(&body.mm.mm_saved_auxv);
    arguments.pending = tables.put(&threads::pending(process.core.signals_s.as_ref()));
    arguments.limits = tables.put(&limits(process));
    let (late, slot) = &descriptors.late;
    arguments.late_from = *slot;
    arguments.kept = tables.put(&descriptors.kept());
    let (registrars, turn) = descriptors.registrars.clone().unwrap_or((Vec::new(), -1));
    arguments.registrars_turn = turn;
    arguments.registrars = tables.put(&registrars);
    (arguments.turns, arguments.others) = descriptors.turns.unwrap_or((-1, 0));
    arguments.late = tables.put(&late.iter().map(late_entry).collect::<Vec<_>>());
    arguments.compat = (body.abi() == Abi::Compat).into();
    arguments.actions = tables.put(&actions(process)?);
    arguments.timers = tables.put(&timers(process, body)?);
    // It has one number, which is free in all pid namespaces that the process is seen in.
    let depth = body.threads.first().map_or(0, |leader| leader.levels.depth());
    let numbers: Vec<i32> = helper.map_or(Vec::new(), |helper| vec![helper.get(); depth + 1]);
    arguments.helper_numbers = tables.put(&numbers);
    arguments.interval_timers = interval_timers(process)?;
    let spare = |start| forked.spare(index, start);
    let of_mappings = (&mut tables, &mut arguments);
    mappings::lay_out(process.pid, body, descriptors, spare, of_mappings)?;
    if let Some(range) = forked.range {
        (arguments.spare_start, arguments.spare_bytes) = (range.start, range.bytes());
    }
    let (attachments, pieces) = attachments::of(body, descriptors);
    arguments.attachments = tables.put(&attachments);
    arguments.attached = tables.put(&pieces);
    arguments.issued = issued::lay_out((body, mapped), &descriptors.issued, &mut tables)?;
    arguments.userfaults = userfaults::lay_out(&descriptors.serving, &mut tables);

    // In the region: the code, the stacks, the arguments with their tables, the waiting vDSO.
    let threads = body.threads.len();
    let stack_of = |thread: usize| (code_bytes + (thread + 1) * STACK) as u64;
    arguments.threads = threads::lay_out(
        body,
        threads::Place {
            host,
            is_nested: descriptors.user_namespace.is_some() || descriptors.born_in.is_some(),
            born_in: descriptors.born_in.as_ref(),
            is_without_rights: descriptors.is_without_rights,
            entered: descriptors.entered.as_ref(),
            asked: registrars.len(),
        },
        stack_of,
        &mut tables,
    )?;
    // The helper's stack is behind those of the threads.
    arguments.helper_stack = stack_of(threads);
    let arguments_at = stack_of(threads) as usize;
    let pieces = host.vdso_of(body.abi()).0.len() + 1;
    let parked_at = (arguments_at + tables.len_with(pieces)).next_multiple_of(PAGE) as u64;
    let (specials, parked_bytes) = mappings::specials(host, body, parked_at);
    arguments.specials = tables.put(&specials);
    (arguments.vdso_parked, arguments.vdso_bytes) = (parked_at, parked_bytes);

    let taken = mapped.iter().map(|Mapping { vma, .. }| Range { start: vma.start, end: vma.end });
    Ok(LaidOut {
        pid: process.pid,
        bytes: (parked_at + parked_bytes).next_multiple_of(PAGE_SIZE) as usize,
        code_bytes,
        stack: stack_of(0) as usize,
        is_without_rights: descriptors.is_without_rights,
        // What calls of 32-bit code read there is below 4 GiB.
        end: match body.abi() {
            Abi::Native => END_OF_SPACE,
            Abi::Compat => arch::compat::END_OF_SPACE,
        },
        arguments_at,
        arguments,
        tables,
        taken: taken.chain(forked.range).collect(),
        scratch: attachments
            .iter()
            .map(|attachment| attachment.bytes)
            .max()
            .map(|largest| (largest, attachments::alignment(body))),
    })
}

const _: () = assert!(size_of::<ThreadProgress>() == 16);

fn mm(body: &Body, exe: RawFd) -> MmMap {
    let mm = &body.mm;
    MmMap {
        start_code: mm.mm_start_code,
        end_code: mm.mm_end_code,
        start_data: mm.mm_start_data,
        end_data: mm.mm_end_data,
        start_brk: mm.mm_start_brk,
        brk: mm.mm_brk,
        start_stack: mm.mm_start_stack,
        arg_start: mm.mm_arg_start,
        arg_end: mm.mm_arg_end,
        env_start: mm.mm_env_start,
        env_end: mm.mm_env_end,
        auxv: 0,
        auxv_bytes: (mm.mm_saved_auxv.len() * size_of::<u64>()) as u32,
        exe_fd: exe,
    }
}

fn late_entry(late: &Late) -> LateDescriptor {
    let Late { number, from, close_on_exec } = *late;
    LateDescriptor { number, from, close_on_exec: close_on_exec.into(), pad: 0 }
}

fn limits(process: &Process) -> Vec<Limit> {
    let limits = process.core.rlimits.iter().flat_map(|all| &all.rlimits).enumerate();
    limits
        .map(|(resource, limit)| Limit {
            resource: resource as u64,
            soft: limit.cur,
            hard: limit.max,
        })
        .collect()
}

fn actions(process: &Process) -> Result<Vec<parasite::restorer::Action>, Error> {
    let signals = (1..=64).filter(|signal| ![SIGKILL, SIGSTOP].contains(signal));
    let actions = signals.zip(&process.core.sigactions).map(|(signal, entry)| {
        if entry.mask_extended.is_some_and(|mask| mask != 0) {
            let object = format!("process {}, signal {signal}", process.pid);
            return Err(Error::image(object, "it blocks signals that there are not"));
        }
        let action = SigAction {
            handler: entry.sigaction,
            flags: entry.flags,
            restorer: entry.restorer,
            mask: entry.mask,
        };
        Ok(parasite::restorer::Action { signal, action })
    });
    actions.collect()
}

fn time(seconds: u64, fraction: u64) -> Result<Time, Error> {
    let bad = || Error::image("timer", format!("{seconds} seconds are no time"));
    Ok(Time {
        seconds: i64::try_from(seconds).map_err(|_| bad())?,
        fraction: i64::try_from(fraction).map_err(|_| bad())?,
    })
}

fn interval_timers(process: &Process) -> Result<[TimerValue; 3], Error> {
    let Some(timers) = &process.core.timers else { return Ok(<[TimerValue; 3]>::default()) };
    let value = |timer: &images::messages::ItimerEntry| {
        Ok::<_, Error>(TimerValue {
            interval: time(timer.isec, timer.iusec)?,
            value: time(timer.vsec, timer.vusec)?,
        })
    };
    let mut real = value(&timers.real)?;
    // A periodic timer without time left has rung, and goes on when its signal is taken: it is
    // wound up to ring at once, for no other setting would keep the period.
    if real.value == Time::default() && real.interval != Time::default() {
        real.value.fraction = 1;
    }
    Ok([real, value(&timers.virt)?, value(&timers.prof)?])
}

/// POSIX timers in ascending order of their ids: a kernel that counts ids up must meet them so.
fn timers(process: &Process, body: &Body) -> Result<Vec<PosixTimer>, Error> {
    let called = |number: i32| {
        let thread = body.threads.iter().find(|thread| thread.tid.get() == number);
        thread.map_or(number, |thread| thread.levels.innermost().get())
    };
    let entries = process.core.timers.iter().flat_map(|timers| &timers.posix);
    let mut timers = entries
        .map(|timer| {
            let value = TimerValue {
                interval: time(timer.isec, timer.insec)?,
                value: time(timer.vsec, timer.vnsec)?,
            };
            Ok(PosixTimer {
                id: timer.it_id as i32,
                clock: timer.clock_id as i32,
                signal: timer.si_signo as i32,
                notify: timer.it_sigev_notify as i32,
                value: timer.sival_ptr,
                thread: timer.notify_thread_id.map_or(0, called),
                pad: 0,
                setting: value,
            })
        })
        .collect::<Result<Vec<_>, Error>>()?;
    timers.sort_by_key(|timer| timer.id);
    Ok(timers)
}
