//! The last step: what was captured becomes images, while the target runs or is gone.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use arch::fpu::Layout;
use arch::regs::Abi;
use collector::{Inventory, Mapping, Process, VmFlags};
use freezer::Release;
use hooks::{Moment, Point};
use ids::HostPid;
use images::messages::{
    CoreEntry, DumpStatsEntry, FrozenAccountEntry, FsEntry, IMG_VERSION_1_1, InventoryEntry,
    LSM_NONE, MappingPolicyEntry, MmEntry, PluginsEntry, PstreeEntry, StatsEntry, TimensEntry,
    Timespec, VmaEntry,
};
use images::{ImageWriter, MappingKind, Safe, names};
use kernel::netfilter::Method as LockMethod;
use support::settings::unseen_without_bpf;

use crate::capture::{Captured, TreeState};
use crate::cgroups::{self, Sets};
use crate::clock::Clock;
use crate::core_entry::{self, Elsewhere};
use crate::ending::Ending;
use crate::error::Error;
use crate::files::{Connections, mapping_status};
use crate::interrupted::{self, Delivery};
use crate::kobj_ids;
use crate::mappings;
use crate::memory::Pages;
use crate::options::{AfterDump, DumpOptions, DumpReport, FrozenAccount};
use crate::plan::{Dump, Plan, Planned};
use crate::seccomp::Numbered;
use crate::segment::Key;
use crate::tasks::TaskCapture;

/// The last step: the checkpoint is there, and the target runs on or may end.
pub(crate) struct Written<'d> {
    tree: Option<freezer::Frozen>,
    dump: Dump<'d>,
    /// Whether the images are on the disk.
    safe: Safe,
    /// What is known but for what becomes of the target.
    report: DumpReport,
    since: Instant,
    inventory: Inventory,
    /// The first processes of pid namespaces below that of the root.
    firsts: BTreeSet<HostPid>,
    /// Those of the target's connections, of a target that is away then.
    sockets: Vec<OwnedFd>,
}

impl<'d> Written<'d> {
    /// Writes everything and makes the checkpoint appear.
    pub(crate) fn write(captured: Captured<'d>) -> Result<Self, Error> {
        let Captured { mut state, planned, frozen, since, at, tree, .. } = captured;
        let Planned { mut dump, plan } = planned;
        let Plan { frozen_pages, writer, collector, files, .. } = plan.take();
        // What is declared last is dropped first: if this fails, the target is let go before images are
        // removed and memory is given back.
        let tree = tree;
        // What this holds of the target's files must not outlive their use by the target.
        let sockets = match dump.options.is_away() {
            true => files.into_sockets(&state.files),
            false => {
                drop(files);
                Vec::new()
            }
        };
        let lacking = state.namespaces.read_later()?;
        state.files.warnings.extend(lacking);
        state.pages.iter_mut().try_for_each(|pages| pages.settle(&writer))?;
        interrupted::name_calls(&mut state.tasks);
        let source = collector.source();
        // Its programs look at every system call of the machine until then.
        drop(collector);
        let inventory = InventoryEntry {
            network_lock_method: Some(dump.network.method().number()),
            tcp_close: (dump.options.connections == Connections::Closed).then_some(true),
            allow_uprobes: has_uprobes(&state.inventory).then_some(true),
            ..inventory(&state.id)
        };
        dump.pre_copy.encode(&writer, &inventory, &state.numbers)?;
        let bytes = state.pages.iter().map(Pages::bytes).sum();
        dump.progress.begin("write", Some(bytes));
        frozen_pages.write(&state.pages, dump.progress)?;
        dump.clock.check("write the pages")?;
        let early = match writer.keeps_early_apart() {
            true => 0,
            false => dump.pre_copy.pages_of(&state.pages[..state.process_pages]),
        };
        encode(&state, &writer, dump.options, (frozen, early), &dump.clock)?;
        writer.write_one(&names::inventory(), &inventory)?;
        dump.clock.check("write the images")?;
        // Who hangs on `post-dump` finds them whole; a tree that is to run on after that does not wait for the disk.
        let waits = tree.is_some() && dump.options.afterwards() == AfterDump::Resume;
        // Of what is nowhere nothing has to be read.
        let safe = if waits || dump.options.dry_run { Safe::Later } else { Safe::AtOnce };
        let committed = writer.commit_as(safe)?;
        // Before the tree has ended: without a signature it might be that nobody restores it.
        if let (Safe::AtOnce, Some(signer)) = (safe, &dump.options.signer) {
            images::make_safe(dump.destination, Some(signer))?;
        }
        let written = Instant::now();
        if let Some(together) = dump.together {
            together.appear(&dump.clock)?;
            if tree.is_some() {
                dump.clock.account.others += written.elapsed();
            }
        }
        let report = DumpReport {
            frozen,
            processes: state.inventory.processes.len(),
            threads: state.tasks.values().map(|task| task.threads.len()).sum(),
            pages_scanned: state.pages_scanned,
            pages_written: (bytes + dump.pre_copy.bytes()) / images::PAGE_SIZE,
            frozen_at: Some(at),
            image_bytes: committed.bytes,
            source: Some(source),
            warnings: std::mem::take(&mut state.files.warnings),
            ..DumpReport::default()
        };
        let firsts = state.numbers.firsts().collect();
        Ok(Self { tree, dump, safe, report, since, inventory: state.inventory, firsts, sockets })
    }

    /// Tells who is to know that the images are whole while nothing has been done to the target. If that
    /// one refuses, the target runs on, and the images stay.
    pub(crate) fn tell(mut self) -> Result<Self, Error> {
        let (options, started) = (self.dump.options, Instant::now());
        let images = self.dump.destination.path();
        let moment = Moment::of(Point::PostDump, Some(options.pid), images);
        hooks::call(self.dump.hooks, moment)?;
        if self.tree.is_some() {
            self.dump.clock.account.hooks += started.elapsed();
        }
        Ok(self)
    }

    /// Ends the target, or leaves it stopped, where that was asked for.
    ///
    /// # Errors
    /// When the images of a tree that runs on are there, but cannot be made safe.
    pub(crate) fn end(self) -> Result<DumpReport, Error> {
        let Self { tree, mut dump, safe, mut report, since, inventory, firsts, sockets } = self;
        let account = &mut dump.clock.account;
        if let Some(tree) = tree {
            if let Some(links) = &dump.links {
                links.remove_others();
            }
            match dump.options.afterwards() {
                AfterDump::Kill => {
                    *dump.ending = Ending::of(&inventory, firsts);
                    // The sockets are held here as well: they end with this process's hold, by when they are in
                    // repair mode. Before the tree has ended they must not be: a dumper that is killed leaves it alive.
                    tree.release(Release::Kill);
                    dump.network.keep();
                    dump.network.end(&sockets);
                }
                AfterDump::Stop if dump.options.is_away() => {
                    tree.release(Release::Stop);
                    dump.network.keep();
                    dump.network.end(&sockets);
                }
                AfterDump::Stop => {
                    dump.network.tell_to_unlock(dump.hooks, dump.options.pid);
                    tree.release(Release::Stop);
                }
                AfterDump::Resume => {
                    dump.network.tell_to_unlock(dump.hooks, dump.options.pid);
                    tree.release(Release::Resume);
                }
            }
            report.frozen = since.elapsed();
            if let Some(others) = dump.together {
                others.let_go(since + report.frozen);
            }
            if let Some(links) =
                dump.links.filter(|_| dump.options.afterwards() != AfterDump::Resume)
            {
                links.keep();
            }
        } else {
            dump.network.tell_to_unlock(dump.hooks, dump.options.pid);
        }
        account.release += account.rest_of(report.frozen);
        if safe == Safe::Later {
            images::make_safe(dump.destination, dump.options.signer.as_deref())?;
        }
        if report.source == Some(collector::Source::Proc) {
            let unseen = unseen_without_bpf(inventory.processes.values());
            report
                .warnings
                .push(format!("without eBPF it was not seen whether there are {unseen}"));
        }
        Ok(DumpReport { account: *account, total: dump.started.elapsed(), ..report })
    }
}

/// Writes all images.
fn encode(
    state: &TreeState,
    writer: &ImageWriter,
    options: &DumpOptions,
    (frozen, early): (Duration, u64),
    clock: &Clock,
) -> Result<(), Error> {
    for pages in &state.pages[..state.process_pages] {
        let pid = state.numbers.named(pages.pid)?;
        pages.encode_map(writer, &names::pagemap(pid.unsigned()))?;
    }
    let segments = &state.pages[state.process_pages..];
    for (pages, &segment) in segments.iter().zip(state.segments.values()) {
        pages.encode_map(writer, &names::pagemap_shmem(segment))?;
    }
    let layout = Layout::of_this_processor();
    let threads = state.tasks.values().flat_map(|task| &task.threads);
    let members = state.tasks.iter().flat_map(|(pid, task)| {
        let namespace = state.cgroup_roots(*pid);
        task.threads.iter().map(move |thread| (&thread.attributes.groups, namespace))
    });
    let sets = Sets::of(options, members)?;
    if let Some(groups) = sets.encode(state.paused)? {
        writer.write_one(&names::cgroup(), &groups)?;
    }
    let filters = Numbered::of(threads.map(|thread| &thread.seccomp));
    for (&pid, task) in &state.tasks {
        process(state, writer, pid, task, &layout, (&sets, &filters))?;
    }
    state.namespaces.encode(writer, |host| state.numbers.message(Some(host)))?;
    state.system_v.encode(&state.namespaces, &state.inventory, writer)?;
    state.queues.encode(&state.namespaces, writer)?;
    zombies(state, writer)?;
    state.files.encode(writer)?;
    tree(state, writer, options.pid)?;
    writer.write_one(&names::seccomp(), &filters.encode())?;
    writer.write_one(&names::timens(0), &clocks())?;
    if let Some(processor) = &options.processor {
        writer.write_one(&names::cpuinfo(), processor)?;
    }
    let stats = stats(state, (frozen, early), &clock.account);
    writer.write_one(&names::stats_dump(), &stats)?;
    Ok(())
}

/// Whether a process has no controlling terminal, while others of its session have one.
fn gave_up_terminal(inventory: &Inventory, pid: HostPid) -> bool {
    let of = |pid: HostPid| inventory.processes.get(&pid);
    let Some(process) = of(pid).filter(|process| process.terminal == 0) else { return false };
    let has_one = |other: &Process| other.sid == process.sid && other.terminal != 0;
    // As a rule the leader tells.
    let leader = process.sid.and_then(of);
    leader.map_or_else(|| inventory.processes.values().any(has_one), has_one)
}

fn process(
    state: &TreeState,
    writer: &ImageWriter,
    pid: HostPid,
    task: &TaskCapture,
    layout: &Layout,
    (sets, filters): (&Sets<'_>, &Numbered),
) -> Result<(), Error> {
    let Some(report) = &task.report else { return Ok(()) };
    let numbers = &state.numbers;
    let Delivery { threads, shared } = Delivery::of(task, report);
    for (index, (thread, signals)) in task.threads.iter().zip(&threads).enumerate() {
        let Some(in_task) = &thread.in_task else { continue };
        let process = (index == 0).then_some((task, report, &shared[..], numbers));
        let elsewhere = Elsewhere {
            groups: sets.number(&thread.attributes.groups, state.cgroup_roots(pid)),
            seccomp: filters.of_thread(&thread.seccomp),
        };
        let mut entry = core_entry::thread(thread, in_task, process, layout, &elsewhere, signals);
        if let Some(creds) = entry.thread_core.as_mut().and_then(|core| core.creds.as_mut()) {
            state.namespaces.ids().enter(creds);
            state.namespaces.nested_users().set_apart(state.inventory.processes.get(&pid), creds);
        }
        if let Some(core) = &mut entry.thread_core {
            state.semaphore_undo.tell(thread.tid, core);
            core.traced = thread.traced.as_ref().map(|it| it.entry(numbers)).transpose()?;
        }
        if let Some(process) = &mut entry.tc {
            state.session_keys.tell(pid, process);
            process.without_terminal = gave_up_terminal(&state.inventory, pid).then_some(true);
        }
        entry.nested = numbers.nested(thread.tid, pid, |id| state.namespaces.pid_namespace(id));
        writer.write_one(&names::core(numbers.named(thread.tid)?.unsigned()), &entry)?;
    }
    let image = numbers.named(pid)?.unsigned();
    if let Some(ids) = state.ids.get(&pid) {
        writer.write_one(&names::ids(image), ids)?;
    }
    // Who has another's memory as well has no image of it.
    if !state.lenders.contains_key(&pid) {
        writer.write_one(&names::mm(image), &memory_map(state, pid, task)?)?;
    }
    let files = &state.files;
    let missing =
        |what| Error::Process { operation: what, pid, source: std::io::ErrorKind::NotFound.into() };
    let status = task.threads.first().map(|leader| &leader.attributes.status);
    let entry = FsEntry {
        cwd_id: files.cwd(pid).ok_or_else(|| missing("name the working directory"))?,
        root_id: files.root(pid).ok_or_else(|| missing("name the root directory"))?,
        umask: status.and_then(|status| status.umask),
    };
    Ok(writer.write_one(&names::fs(image), &entry)?)
}

/// How large the huge pages of a mapping are: two to the power of that.
fn huge_page_shift(pid: HostPid, mapping: &Mapping) -> Result<u32, Error> {
    let shift = kernel::huge_pages::shift_of_device(mapping.device);
    shift.and_then(|shift| shift.ok_or(std::io::ErrorKind::NotFound.into())).map_err(|source| {
        Error::Process { operation: "find the size of the huge pages", pid, source }
    })
}

fn is_vvar_up_to(vma: &VmaEntry, end: u64) -> bool {
    MappingKind::of(vma) == MappingKind::Vvar && vma.end == end
}

fn memory_map(state: &TreeState, pid: HostPid, task: &TaskCapture) -> Result<MmEntry, Error> {
    let (stat, report) = (&task.attributes.stat, task.report.as_ref());
    let process = state.inventory.processes.get(&pid);
    let (mut vmas, mut policies) = (Vec::new(), Vec::new());
    let mappings = process.map_or(&[][..], |process| &process.mappings);
    // The kernel makes its own again.
    for mapping in mappings.iter().filter(|it| it.kind != MappingKind::Uprobes) {
        if mapping.kind == MappingKind::Vvar
            && let Some(last) = vmas.last_mut().filter(|last| is_vvar_up_to(last, mapping.start))
        {
            // Newer kernels cut the vDSO's data in two; in CRIU's images it is one, and CRIU
            // redirects every call into the vDSO when its size differs.
            last.end = mapping.end;
            continue;
        }
        let file = state.files.mapped(pid, mapping).map(u64::from);
        let as_file = |shared| Mapping { kind: MappingKind::File { shared }, ..mapping.clone() };
        // Shared anonymous memory that is a file as well is a memfd in the images.
        let of_memory = match mapping.kind {
            MappingKind::SharedAnonymous if file.is_some() => Some(as_file(true)),
            MappingKind::PrivateOfSharedAnonymous => Some(as_file(false)),
            _ => None,
        };
        let mapping = of_memory.as_ref().unwrap_or(mapping);
        let object = match mapping.kind {
            kind if kind.is_of_file() => file,
            kind if kind.is_shared_anonymous() => {
                state.segments.get(&Key::File(mapping.device, mapping.inode)).copied()
            }
            MappingKind::SystemV => Some(mapping.inode),
            _ => Some(0),
        };
        let object = object.ok_or_else(|| Error::Process {
            operation: "name the file behind a mapping",
            pid,
            source: std::io::ErrorKind::NotFound.into(),
        })?;
        let huge = match mapping.flags.contains(VmFlags::HUGE_TLB) {
            true => Some(huge_page_shift(pid, mapping)?),
            false => None,
        };
        let Some(entry) = mappings::encode(mapping, object, huge) else { continue };
        let of_kind = if mapping.kind.is_of_file() { mapping_status(mapping) } else { 0 };
        let status = entry.status | of_kind;
        let flock = state.kept_locks.of(pid, mapping);
        vmas.push(VmaEntry { status, flock, ..entry });
        policies.extend(mapping.policy.map(|policy| MappingPolicyEntry {
            start: mapping.start,
            end: mapping.end,
            mode: policy.mode,
            nodes: policy.nodes,
        }));
    }
    let own_keys = report.map_or(0, |report| report.state.protection_keys);
    let keys = mappings::protection_keys(&mut vmas, own_keys, &task.settings);
    let pages = &state.pages[..state.process_pages];
    if let Ok(index) = pages.binary_search_by_key(&pid, |pages| pages.pid) {
        vmas.extend(pages[index].guards.iter().map(mappings::guard));
    }
    Ok(MmEntry {
        mm_start_code: stat.start_code,
        mm_end_code: stat.end_code,
        mm_start_data: stat.start_data,
        mm_end_data: stat.end_data,
        mm_start_stack: stat.start_stack,
        mm_start_brk: stat.start_brk,
        mm_brk: report.map_or(stat.start_brk, |report| report.state.program_break),
        mm_arg_start: stat.arg_start,
        mm_arg_end: stat.arg_end,
        mm_env_start: stat.env_start,
        mm_env_end: stat.env_end,
        exe_file_id: state.files.exe(pid).unwrap_or(0),
        mm_saved_auxv: auxiliary_vector(task.attributes.abi, &task.attributes.auxv.0),
        vmas,
        aios: state.aio.of(pid).to_vec(),
        dumpable: report.map(|report| report.state.dumpable),
        thp_disabled: report.map(|report| report.state.thp_disable != 0),
        thp_disable_flags: report
            .map(|report| report.state.thp_disable.cast_unsigned() & !1)
            .filter(|flags| *flags != 0),
        future_locks: Some(task.settings.future_locks).filter(|locks| *locks != 0),
        deny_write_execute: Some(task.settings.deny_write_execute).filter(|deny| *deny != 0),
        mapping_base: Some(match task.attributes.abi {
            Abi::Native => task.settings.mapping_base,
            Abi::Compat => task.settings.compat_mapping_base,
        })
        .filter(|base| *base != 0),
        merge_memory: task.settings.merge_memory.then_some(true),
        policies,
        protection_keys: (keys.taken != 0).then_some(keys.taken),
        execute_only_key: (keys.execute_only != 0).then_some(keys.execute_only),
    })
}

/// The auxiliary vector without the pair of zeros that ends it and the padding behind: the kernel
/// ends it anew when it is set, and CRIU has room for 44 words, which the entries of Linux 6.18
/// alone fill. In the one of 32-bit code a pair is one of these words.
fn auxiliary_vector(abi: Abi, words: &[u64]) -> Vec<u64> {
    if abi == Abi::Compat {
        return words.iter().take_while(|pair| **pair != 0).copied().collect();
    }
    words.chunks_exact(2).take_while(|pair| pair[0] != 0).flatten().copied().collect()
}

fn zombies(state: &TreeState, writer: &ImageWriter) -> Result<(), Error> {
    for process in state.inventory.processes.values() {
        if let collector::ProcessState::Zombie { exit_status } = process.state {
            let name =
                process.threads.get(&process.pid).map(|thread| thread.comm.as_encoded_bytes());
            let pid = process.pid;
            let nested = state.numbers.nested(pid, pid, |id| state.namespaces.pid_namespace(id));
            let zombie = core_entry::zombie(name.unwrap_or_default(), exit_status);
            let entry = CoreEntry { nested, ..zombie };
            writer.write_one(&names::core(state.numbers.named(process.pid)?.unsigned()), &entry)?;
        }
    }
    Ok(())
}

/// The process tree, parents before children.
fn tree(state: &TreeState, writer: &ImageWriter, root: HostPid) -> Result<(), Error> {
    let processes = &state.inventory.processes;
    let number = |host| state.numbers.message(host);
    let mut ordered = vec![root];
    let mut at = 0;
    while let Some(&parent) = ordered.get(at) {
        let children = processes.values().filter(|process| process.ppid == Some(parent));
        ordered.extend(children.map(|child| child.pid).filter(|&pid| pid != root));
        at += 1;
    }
    let entries: Vec<_> = ordered
        .iter()
        .filter_map(|pid| processes.get(pid))
        .map(|process| PstreeEntry {
            pid: number(Some(process.pid)),
            ppid: if process.pid == root { 0 } else { number(process.ppid) },
            pgid: number(process.pgid),
            sid: number(process.sid),
            threads: match state.tasks.get(&process.pid) {
                Some(task) => task.threads.iter().map(|thread| number(Some(thread.tid))).collect(),
                None => vec![number(Some(process.pid))],
            },
        })
        .collect();
    Ok(writer.write_all(&names::pstree(), &entries)?)
}

fn has_uprobes(inventory: &Inventory) -> bool {
    let mut mappings = inventory.processes.values().flat_map(|process| &process.mappings);
    mappings.any(|mapping| mapping.kind == MappingKind::Uprobes)
}

/// What every directory of images begins with.
/// `id` is what this dump is known by to later ones.
pub(crate) fn inventory(id: &str) -> InventoryEntry {
    InventoryEntry {
        img_version: IMG_VERSION_1_1,
        fdinfo_per_id: Some(true),
        root_ids: Some(kobj_ids::own()),
        ns_per_id: Some(true),
        root_cg_set: Some(cgroups::OWN_SET),
        lsmtype: Some(LSM_NONE),
        plugins_entry: Some(PluginsEntry::default()),
        network_lock_method: Some(LockMethod::Skip.number()),
        dump_uptime: uptime_micros(),
        dump_criu_run_id: Some(id.to_owned()),
        ..InventoryEntry::default()
    }
}

/// By this CRIU tells whether a process is younger than the parent checkpoint that has its number.
fn uptime_micros() -> Option<u64> {
    let clock = nix::time::ClockId::CLOCK_BOOTTIME;
    let now = nix::time::clock_gettime(clock).ok()?;
    Some(now.tv_sec().cast_unsigned() * 1_000_000 + now.tv_nsec().cast_unsigned() / 1000)
}

/// The clocks at the dump, for a restore into a time namespace.
fn clocks() -> TimensEntry {
    use nix::time::{ClockId, clock_gettime};
    let read = |clock| {
        let now = clock_gettime(clock).unwrap_or(nix::sys::time::TimeSpec::new(0, 0));
        Timespec { tv_sec: now.tv_sec().cast_unsigned(), tv_nsec: now.tv_nsec().cast_unsigned() }
    };
    TimensEntry {
        monotonic: read(ClockId::CLOCK_MONOTONIC),
        boottime: read(ClockId::CLOCK_BOOTTIME),
    }
}

/// `early` are pages that were copied early and are not apart from the others.
fn stats(
    state: &TreeState,
    (frozen, early): (Duration, u64),
    account: &FrozenAccount,
) -> StatsEntry {
    let micros = |time: Duration| u32::try_from(time.as_micros()).unwrap_or(u32::MAX);
    let written =
        |pages: &[Pages]| pages.iter().map(|pages| pages.bytes() / images::PAGE_SIZE).sum();
    let (private, shared) = state.pages.split_at(state.process_pages);
    StatsEntry {
        dump: Some(DumpStatsEntry {
            freezing_time: micros(account.stop),
            frozen_time: micros(frozen),
            memdump_time: micros(account.memory),
            memwrite_time: 0,
            pages_scanned: state.pages_scanned,
            pages_skipped_parent: state
                .pages
                .iter()
                .map(Pages::in_parent)
                .sum::<u64>()
                .saturating_sub(early),
            pages_written: written(private) + early,
            pages_lazy: 0,
            shpages_written: Some(written(shared)),
            frozen_account: Some(FrozenAccountEntry {
                stop: micros(account.stop),
                inventory: micros(account.inventory),
                registers: micros(account.registers),
                parasite: micros(account.parasite),
                files: micros(account.files),
                cure: micros(account.cure),
                memory: micros(account.memory),
                release: micros(account.release),
                handover: Some(micros(account.handover)).filter(|time| *time > 0),
                others: Some(micros(account.others)).filter(|time| *time > 0),
            }),
            ..DumpStatsEntry::default()
        }),
        restore: None,
    }
}
