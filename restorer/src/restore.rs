//! The restore, stage by stage: load, plan, open, prepare, build, finish.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hooks::{Hooks, Moment, Point};
use ids::{HostPid, ImagePid};
use images::messages::VmaEntry;
use images::{Images, Progress};
use kernel::descriptors::duplicate_from;
use kernel::pidfd::PidFd;
use kernel::shared_memory::SharedMemory;
use kernel::spare::SpareMemory;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

use crate::aio;
use crate::capacity;
use crate::cgroups;
use crate::error::Error;
use crate::explain::explain;
use crate::files::changed::{self, Which};
use crate::files::{self, Needs, OpenContext, OpenFiles};
use crate::finish::{self, Parked};
use crate::forked::Layout;
use crate::holder::{self, Side, Stage, started};
use crate::host::Host;
use crate::inherited_values;
use crate::kept_locks::KeptByMapping;
use crate::load::{Body, Checkpoint, Process, State, Thread, signal_of};
use crate::mapped;
use crate::namespaces;
use crate::nested_users::NestedMade;
use crate::network::{self, Network};
use crate::numbers;
use crate::on_behalf;
use crate::options::{AfterRestore, RestoreOptions, RestoreReport};
use crate::pids::Pids;
use crate::plan::{Caller, Part, Plan, Table};
use crate::prepare::{self, Descriptors};
use crate::record::Record;
use crate::rights;
use crate::root::{self, Reins};
use crate::run::Run;
use crate::stand_in;
use crate::subreaper::Subreaper;
use crate::sysv::{self, Attachments};
use crate::task::{BuildContext, PreparedTask};
use crate::tracer::{Loss, Tracer};
use crate::turns::{AllTurns, FirstThere};

/// Restores the checkpoint that `images` are. The calling process must have only this thread: it forks, and it waits
/// for any child.
///
/// # Errors
/// Names what could not be restored, or which of the `hooks` refused. Nothing that was built is left.
pub fn restore(
    options: &RestoreOptions,
    images: &Images,
    hooks: &mut dyn Hooks,
    progress: &mut dyn Progress,
) -> Result<RestoreReport, Error> {
    let started_at = Instant::now();
    progress.begin("load", None);
    let path = images.path();
    hooks::call(hooks, Moment::of(Point::PreRestore, None, path))?;
    let mut checkpoint = Checkpoint::load(images, options.joined)?;
    let connections = network::connections(options, images);
    let holders = rights::holders(&checkpoint, &checkpoint.namespaces.ids());
    let named = |error: files::Error| error.named(&holders);
    checkpoint.files.check().map_err(named)?;
    on_behalf::check(&checkpoint, &holders, options, connections)?;
    checkpoint.files.leases().restrict(options.on_behalf_of.map(|(user, _)| user));
    checkpoint.files.inherit(&options.inherited).map_err(named)?;
    if !options.file_locks && checkpoint.leave_locks() {
        tracing::warn!("the images hold file locks, which are not taken: --file-locks does that");
    }
    let mut host = Host::probe()?;
    host.born_with_groups =
        checkpoint.namespaces.users().is_some_and(crate::users::Users::no_groups);
    let possible = host.check(&checkpoint);
    // What is opened is looked at then, unless it does not come to that.
    let which = if possible.is_ok() { Which::Undescribed } else { Which::All };
    let unchanged =
        changed::check(&checkpoint.files, options.root.as_deref(), options.any_permissions, which);
    Error::all([possible, unchanged.map_err(|error| named(error).into())])?;
    check_vdso(&host, &checkpoint)?;
    inherited_values::check(&checkpoint, &checkpoint.namespaces.ids())?;
    aio::check(&checkpoint)?;
    let inside = checkpoint.namespaces.own_pids();
    let of_caller = |pid: Option<HostPid>| pid.map(HostPid::in_own_namespace).filter(|_| !inside);
    let caller = Caller {
        sid: of_caller(host.sid),
        pgid: of_caller(host.pgid),
        shell_job: options.shell_job,
    };
    let plan = Plan::new(&checkpoint, caller, inside)?;
    numbers::check(&plan, options.records.as_deref())?;
    let lacking = capacity::find(&checkpoint, &plan);
    if !lacking.is_empty() {
        return Err(Error::Refused(lacking));
    }
    let park_signal = park_signal(&checkpoint)?;
    let (mode, roots) = (options.cgroups, &options.cgroup_roots[..]);
    let asked = cgroups::Asked { mode, roots, yard: options.cgroup_yard.as_deref() };
    checkpoint.namespaces.make_users()?;
    let mut groups = cgroups::Plan::make(&mut checkpoint, asked)?;

    let sets = std::mem::take(&mut checkpoint.namespaces);
    let on_mounts = checkpoint.files.on_mounts();
    let ground = namespaces::Ground {
        root_process: plan.tasks[0].pid,
        root: options.root.as_deref(),
        options: &options.mounts,
        images,
        files: &on_mounts,
    };
    let given = {
        let inherited = options.inherited.iter();
        let name = |key: &[u8]| String::from_utf8_lossy(key).into_owned();
        let inherited = inherited.map(|it| (name(&it.key), Arc::clone(&it.file))).collect();
        namespaces::Given { inherited, ..options.networks.clone() }
    };
    let root_number = plan.tasks[0].pid;
    let own_namespaces = sets.has_own(root_number);
    let mut stood_in = None;
    let made_all = |made: &namespaces::Made<'_>| {
        if own_namespaces {
            stood_in = stand_in::tell(hooks, path, made, (root_number, inside))?;
        }
        Ok(())
    };
    let (mut namespaces, roots) = namespaces::Made::make(&sets, &given, &ground, made_all)?;
    let first = checkpoint.processes.first().map(|process| process.pid);
    let networks = namespaces.networks(first)?;
    let root = first.map(ImagePid::get);
    let entries = checkpoint.files.files.values().map(|file| &**file);
    let is_joined = options.networks.joined.is_some();
    let locks = network::locks(images, root, entries, (&networks, is_joined));
    let of_files = checkpoint.files.pages();
    let bytes = of_files * images::PAGE_SIZE;
    progress.begin("open files", Some(bytes).filter(|bytes| *bytes != 0));
    let context = OpenContext {
        shell_job: options.shell_job,
        gives_masters: hooks.hang_on(Point::OrphanPtsMaster),
        external_unix: options.external_unix,
        // It is the root of the tree's own namespace.
        root: options.root.clone().filter(|_| roots.is_empty()),
        holders,
        lasting: rights::lasting(&checkpoint),
        trust: options.trust,
        validation: options.validation,
        any_permissions: options.any_permissions,
        connections,
        levels: Arc::clone(&checkpoint.levels),
        networks,
        work: work(&checkpoint) + roots.descriptors(),
        roots: Arc::new(roots),
        numbers: numbers::spare(&plan).take(ATTEMPTS).collect(),
    };
    let mut files = OpenFiles::open(std::mem::take(&mut checkpoint.files), &context)?;
    namespaces.complete(&given)?;
    drop(given);
    progress.advance(bytes);
    // Not the holder's: only the caller's copies keep these terminals.
    let mut orphans = files.take_orphans();
    drop(context);
    let network = Network::of(&checkpoint, locks, options.networks.joined.clone(), &files);
    let base = files.base();
    namespaces.keep(base)?;
    groups.keep(base)?;
    session_keyring(&checkpoint)?;
    progress.begin("shared memory", None);
    let mut kept = OwnDescriptors::default();
    let shared = shared(&checkpoint, base, &mut kept, progress)?;
    let (attachments, made_segments) =
        sysv::make(&checkpoint, &namespaces, &options.undo, progress)?;
    let (complaints, mut heard) = pipe(base)?;
    host.map()?;
    let helpers = numbers::helpers(&checkpoint, &plan);
    let turns = AllTurns::new(&checkpoint, &plan, base)?;
    let first = FirstThere::new(&plan, base)?;
    let of = (&checkpoint, &plan);
    let (forked, spare_memory) = forked(of, &host);
    let machine = (&host, &forked);
    let nested_users = sets.nested_users().keep(base)?;
    let with = (&turns, &nested_users);
    let prepared = prepared(of, machine, with, &mut files, &shared, &helpers, park_signal)?;

    progress.begin("restore processes", Some(checkpoint.pages() * images::PAGE_SIZE));
    let mut dying = dying(&checkpoint, &plan);
    dying.extend(helpers.values());
    let mut tracer = Tracer::new(park_signal, dying, plan.numbers.clone(), Pids::of(inside));
    let filtered = |(_, body): &(_, &Body)| body.threads.iter().any(Thread::is_filtered);
    if let Some((process, _)) = checkpoint.living().find(filtered) {
        if !kernel::seccomp::may_read() {
            let refusal = support::host::FILTERS_FROM_INSIDE;
            return Err(Error::refused(refusal.of(process.pid.get(), "seccomp")));
        }
        tracer = tracer.suspend_seccomp();
    }
    let root = plan.tasks[0].pid;
    let since = started(HostPid::own()).unwrap_or(0);
    let reins = Reins::new(base)?;
    let own_network = sets.has_own_of(root, "net");
    let mut spare = numbers::spare(&plan)
        .filter(|number| !helpers.values().any(|helper| helper.get() == number.get()));
    let adopted = if plan.tasks.iter().any(|task| task.adopts) { ATTEMPTS } else { 0 };
    let passing: Vec<HostPid> = spare.by_ref().take(adopted).collect();
    let stays = options.until_told;
    let holder = match holder::split(spare.by_ref().take(ATTEMPTS), base, inside)? {
        Side::Commander(holder) => holder,
        Side::Holder(held) => held.live(move |held| {
            let stop = options.after == AfterRestore::Stop;
            let entered = || if own_namespaces { held.entered() } else { Ok(()) };
            let built = reins.await_root(root).map_err(Loss::from).and_then(|root| {
                let parked = build(
                    &plan,
                    (&checkpoint, &groups),
                    &mut tracer,
                    (root, entered),
                    (files, kept, attachments),
                )?;
                let plan = (&plan, tracer.pids());
                Ok(finish::finish(&checkpoint, plan, &prepared, parked, stop)?)
            });
            let parked = built.map_err(|loss| {
                let error = explain(loss, (&checkpoint, tracer.pids()), &prepared, &mut heard);
                tracer.destroy();
                error
            })?;
            // By descriptors: once they run their numbers may become others'.
            let answered_for = match stays {
                true => opened(&everybody(&plan, Some(tracer.pids().host(root)?), inside))?,
                false => Vec::new(),
            };
            if held.ask(tracer.pids())? {
                return finish::let_go(parked).map(|()| answered_for);
            }
            tracer.destroy();
            Err(Error::Lost { pid: root.get(), what: "nobody wants it any more".to_owned() })
        }),
    };
    let build_context = BuildContext {
        checkpoint: &checkpoint,
        plan: &plan,
        groups: &groups,
        namespaces: &namespaces,
        files: &files,
        turns: &turns,
        prepared: &prepared,
        spare_memory: spare_memory.as_ref(),
        complaints: &complaints,
        park_signal,
        spare: &passing,
        first: &first,
        stood_in: stood_in.filter(|_| inside),
    };
    let born_at = Instant::now();
    let made = root::make(&build_context, reins, options.parent, &mut spare, holder.socket());
    // Nobody needs them here any more: they are the tree's. It fetches what others keep.
    let (keepers, _, links) = files.into_kept();
    drop((kept, complaints, namespaces, attachments, nested_users));
    let subreaper = Subreaper::begin()?;
    let (root, made) = match made {
        Ok(root) => (Some(root), Ok(())),
        Err(error) => (None, Err(error)),
    };
    let tasks = everybody(&plan, root, inside);
    let mut report = RestoreReport {
        pid: root.unwrap_or_else(HostPid::own),
        total: Duration::ZERO,
        births: Duration::ZERO,
        processes: checkpoint.processes.len(),
        threads: checkpoint.threads(),
        pages_restored: checkpoint.pages() + of_files,
        untold: None,
    };
    let mut tell = |point, descriptor: Option<BorrowedFd<'_>>| {
        hooks::call(hooks, Moment { descriptor, ..Moment::of(point, root, path) })
    };
    let mut keepers = Some(keepers);
    let reached = |stage| {
        let Stage::Built(pids) = stage else {
            return Ok(subreaper.aside(|| tell(Point::PostSetupNamespaces, None))?);
        };
        report.births = born_at.elapsed();
        subreaper.aside(|| {
            for master in orphans.drain(..) {
                tell(Point::OrphanPtsMaster, Some(master.as_fd()))?;
            }
            tell(Point::PostRestore, None)?;
            network.unlock();
            if own_network {
                tell(Point::NetworkUnlock, None)?;
            }
            tell(Point::PreResume, None)
        })?;
        network.let_go(&pids)?;
        groups.freeze();
        keepers.take();
        report.total = started_at.elapsed();
        if let Some(place) = &options.records {
            Record::of(&report, path).keep(place);
        }
        Ok(())
    };
    let finished = holder.finish((&tasks, since), stays, reached);
    drop(subreaper);
    report.untold = made.and(finished)?;
    made_segments.keep();
    links.remove();
    tell(Point::PostResume, None)?;
    report.total = started_at.elapsed();
    Ok(report)
}

/// With whom the whole tree ends: all the others end with the init of a pid namespace.
fn everybody(plan: &Plan, root: Option<HostPid>, inside: bool) -> Vec<HostPid> {
    match inside {
        true => root.into_iter().collect(),
        false => plan.tasks.iter().map(|task| task.pid.in_own_namespace()).collect(),
    }
}

/// A pidfd of each task that has not ended yet.
fn opened(tasks: &[HostPid]) -> Result<Vec<PidFd>, Error> {
    let is_there = |opened: &std::io::Result<PidFd>| {
        opened.as_ref().err().is_none_or(|error| error.raw_os_error() != Some(libc::ESRCH))
    };
    let opened: std::io::Result<Vec<PidFd>> =
        tasks.iter().map(|&pid| PidFd::open(pid)).filter(is_there).collect();
    opened.map_err(Error::kernel("open the tasks of the tree"))
}

/// Tasks come back in the session keyring that this process has. They get an empty one instead where
/// one of them had that, and where this process's would lend them keys.
fn session_keyring(checkpoint: &Checkpoint) -> Result<(), Error> {
    let empty = |process: &Process| process.core.empty_session_keyring == Some(true);
    // In a thread of its own, since a thread that looks gets the user's keyring by that.
    let lends =
        || !std::thread::spawn(kernel::keyrings::session_is_the_users).join().unwrap_or(true);
    if checkpoint.processes.iter().any(empty) || lends() {
        kernel::keyrings::join_new_session().map_err(Error::kernel("make a session keyring"))?;
    }
    Ok(())
}

/// How many numbers are tried for a process of our own.
const ATTEMPTS: usize = 100;

/// No kernel's vDSO comes near this.
const LARGEST_VDSO: u64 = 1 << 20;

/// How many descriptors the restore needs for itself in every task: programs and directories, mapped
/// files, pages files, shared memory, and a few more.
fn work(checkpoint: &Checkpoint) -> usize {
    const MORE: usize = 64;
    let mut files = BTreeSet::new();
    for (_, body) in checkpoint.living() {
        let paths = [body.mm.exe_file_id, body.fs.cwd_id, body.fs.root_id];
        files.extend(paths.map(|id| (id, libc::O_RDONLY.cast_unsigned())));
        files.extend(mapped_ids(body).map(|(key, _)| key));
    }
    files.len() + checkpoint.stores.len() + checkpoint.segments.len() + MORE
}

/// The files that a process maps, with the flags to open them with, and what of them must be as it was.
fn mapped_ids(body: &Body) -> impl Iterator<Item = ((u32, u32), Needs)> + '_ {
    let mapped = body.mappings.iter().filter(|mapping| mapping.kind.is_of_file());
    mapped.filter_map(|mapping| {
        let id = u32::try_from(mapping.vma.shmid).ok()?;
        Some(((id, mapped::open_flags(mapping)), mapped::needs(mapping)))
    })
}

/// Compares the vDSO that was dumped with ours.
fn check_vdso(host: &Host, checkpoint: &Checkpoint) -> Result<(), Error> {
    for (process, body) in checkpoint.living() {
        let bytes = body.vdso.iter().map(Run::bytes).fold(0, u64::saturating_add);
        if bytes > LARGEST_VDSO {
            let object = format!("process {}", process.pid);
            return Err(Error::image(object, format!("a vdso of {bytes} bytes")));
        }
        let mut stored = vec![0; bytes as usize];
        let mut at = 0;
        for run in &body.vdso {
            let Some((store, offset)) = run.stored() else { continue };
            let bytes = run.bytes() as usize;
            checkpoint.stores[store]
                .read_exact_at(&mut stored[at..at + bytes], offset)
                .map_err(Error::kernel("read the dumped vdso"))?;
            at += bytes;
        }
        host.check_vdso(process.pid, body, (at > 0).then_some(&stored))?;
    }
    Ok(())
}

/// A signal that is pending nowhere, so that parking cannot be mistaken for it.
fn park_signal(checkpoint: &Checkpoint) -> Result<i32, Error> {
    let mut pending = 0u64;
    for (process, body) in checkpoint.living() {
        let queues = body.threads.iter().filter_map(|thread| thread.core.signals_p.as_ref());
        for entry in queues.chain(&process.core.signals_s).flat_map(|queue| &queue.signals) {
            pending |= 1 << (signal_of(&entry.siginfo) - 1);
        }
    }
    // These mean something to the tracer, or cannot be blocked.
    for reserved in [libc::SIGKILL, libc::SIGSTOP, libc::SIGCONT, libc::SIGCHLD] {
        pending |= 1 << (reserved - 1);
    }
    let free = std::iter::once(libc::SIGTRAP).chain(1..=64).find(|s| pending & 1 << (s - 1) == 0);
    free.ok_or_else(|| Error::refused(support::host::NO_SIGNAL.of(0, "the tree")))
}

/// Tasks that end while the tree is being built.
fn dying(checkpoint: &Checkpoint, plan: &Plan) -> BTreeSet<ImagePid> {
    let ends = plan.tasks.iter().filter(|task| {
        task.process
            .is_none_or(|index| matches!(checkpoint.processes[index].state, State::Dead { .. }))
    });
    ends.map(|task| task.pid).collect()
}

/// Descriptors of the restore's own, from the base on, which close when it is over.
#[derive(Debug, Default)]
struct OwnDescriptors(Vec<OwnedFd>);

impl OwnDescriptors {
    /// A second descriptor for `file`, out of the tasks' way.
    fn keep(&mut self, file: &File, base: RawFd) -> Result<RawFd, Error> {
        let fd = duplicate_from(file, base).map_err(Error::kernel("duplicate a descriptor"))?;
        self.0.push(fd);
        Ok(self.0.last().map_or(-1, AsRawFd::as_raw_fd))
    }
}

/// The descriptors that every process may need.
#[derive(Debug, Default)]
struct Shared {
    segments: BTreeMap<u64, RawFd>,
    /// Of System V segments, by namespace and id.
    segment_sizes: BTreeMap<(u32, u64), u64>,
    stores: Vec<RawFd>,
}

/// Fills shared anonymous memory, once, and moves the pages files out of the way.
fn shared(
    checkpoint: &Checkpoint,
    base: RawFd,
    kept: &mut OwnDescriptors,
    progress: &mut dyn Progress,
) -> Result<Shared, Error> {
    let mut shared = Shared { segment_sizes: sysv::sizes(checkpoint), ..Shared::default() };
    for store in checkpoint.stores.iter() {
        shared.stores.push(kept.keep(store, base)?);
    }
    for segment in &checkpoint.segments {
        let failed = |what| Error::kernel(format!("{what} shared memory {}", segment.shmid));
        let flags = segment.huge.map_or(0, VmaEntry::huge_flags).cast_signed();
        let memory = SharedMemory::new(segment.bytes as usize, flags);
        let mut memory = memory.map_err(failed("create"))?;
        for run in &segment.runs {
            let Some((store, offset)) = run.stored() else { continue };
            memory
                .fill(run.start, run.bytes(), &checkpoint.stores[store], offset)
                .map_err(failed("fill"))?;
            progress.advance(run.bytes());
        }
        let file = memory.into_file().map_err(failed("open"))?;
        shared.segments.insert(segment.shmid, kept.keep(&file, base)?);
    }
    Ok(shared)
}

/// Where complaints go in, and where they come out without waiting; out of the tasks' way.
fn pipe(base: RawFd) -> Result<(File, File), Error> {
    let failed = || Error::kernel("make a pipe");
    let flags = nix::fcntl::OFlag::O_CLOEXEC | nix::fcntl::OFlag::O_NONBLOCK;
    let (read, write) = nix::unistd::pipe2(flags).map_err(|errno| failed()(errno.into()))?;
    let write = duplicate_from(&write, base).map_err(failed())?;
    Ok((File::from(write), File::from(read)))
}

/// What the tasks have of their parents' memory, and the addresses where it is built.
fn forked((checkpoint, plan): (&Checkpoint, &Plan), host: &Host) -> (Layout, Option<SpareMemory>) {
    // Where memory is counted, what a task is born with and has not itself would be counted, too.
    let is_limited = |limit| getrlimit(limit).map_or(true, |(soft, _)| soft != RLIM_INFINITY);
    if capacity::is_counted()
        || is_limited(Resource::RLIMIT_AS)
        || is_limited(Resource::RLIMIT_DATA)
    {
        return <(Layout, Option<SpareMemory>)>::default();
    }
    let layout = Layout::new(checkpoint, plan, &host.mappings);
    let Some(range) = layout.range else { return (layout, None) };
    match SpareMemory::reserve(range.start, range.bytes() as usize) {
        Ok(spare) => (layout, Some(spare)),
        Err(error) => {
            tracing::warn!(
                "reserve {} addresses: {error}: no memory is shared since a fork",
                range.bytes()
            );
            (Layout::default(), None)
        }
    }
}

/// Prepares every living process.
fn prepared(
    (checkpoint, plan): (&Checkpoint, &Plan),
    (host, forked): (&Host, &Layout),
    (turns, nested_users): (&AllTurns, &NestedMade),
    files: &mut OpenFiles,
    shared: &Shared,
    helpers: &BTreeMap<ImagePid, ImagePid>,
    park_signal: i32,
) -> Result<Vec<Option<PreparedTask>>, Error> {
    let base = files.base();
    let mut prepared = Vec::new();
    for (index, process) in checkpoint.processes.iter().enumerate() {
        let Some(body) = &process.body else {
            prepared.push(None);
            continue;
        };
        let task = plan.tasks.iter().find(|task| task.process == Some(index));
        let part = task.map_or(Part::Alone, |task| task.descriptors.part);
        let descriptors = Descriptors {
            exe: files.program(body.mm.exe_file_id)?,
            mapped: mapped(body, files)?,
            segments: shared.segments.clone(),
            segment_sizes: shared.segment_sizes.clone(),
            stores: shared.stores.clone(),
            base,
            late: if part == Part::Other {
                (Vec::new(), -1)
            } else {
                files.late(body.ids.files_id)
            },
            turns: turns.at(Table::Descriptors, body).map(|turns| {
                let others = if let Part::First { others } = part { others } else { 0 };
                (turns.done.number(), others)
            }),
            user_namespace: nested_users.of(process.pid),
        };
        // Their numbers may be those that the restore has for itself.
        if descriptors.user_namespace.is_some() && descriptors.late.1 >= 0 {
            let refusal = support::users::NESTED_LATE;
            return Err(Error::refused(refusal.of(process.pid.get(), "user namespace")));
        }
        let helper = helpers.get(&process.pid).copied();
        prepared.push(Some(PreparedTask {
            memory: forked.task(
                checkpoint,
                index,
                |file| descriptors.mapped.get(&file).copied(),
                &descriptors.stores,
            )?,
            region: prepare::region(
                host,
                process,
                body,
                &descriptors,
                (park_signal, helper),
                (forked, index),
            )?,
            kept_locks: kept_locks(process.pid, body, &descriptors)?,
            cwd: files.working_directory(body.fs.cwd_id)?,
            root: files.root_directory(body.fs.root_id)?,
        }));
    }
    Ok(prepared)
}

fn mapped(body: &Body, files: &mut OpenFiles) -> Result<BTreeMap<(u32, u32), RawFd>, Error> {
    let mut wanted: BTreeMap<(u32, u32), Needs> = BTreeMap::new();
    for (key, needs) in mapped_ids(body) {
        let most = wanted.entry(key).or_insert(needs);
        *most = needs.max(*most);
    }
    let open = |((id, flags), needs)| Ok(((id, flags), files.mapped(id, flags, needs)?));
    wanted.into_iter().map(open).collect()
}

/// The locks that nothing but mappings of a process keep.
fn kept_locks(
    pid: ImagePid,
    body: &Body,
    descriptors: &Descriptors,
) -> Result<Vec<KeptByMapping>, Error> {
    let kept = body.mappings.iter().filter_map(|mapping| {
        let id = u32::try_from(mapping.vma.shmid).ok().filter(|_| mapping.kind.is_of_file())?;
        let fd = descriptors.mapped.get(&(id, mapped::open_flags(mapping)))?;
        KeptByMapping::of(pid, &mapping.vma, *fd)
    });
    kept.collect()
}

/// Builds the tree up to the point where every thread is parked in its new process. What is open here is
/// closed when there is nothing to do but to wait.
fn build(
    plan: &Plan,
    (checkpoint, groups): (&Checkpoint, &cgroups::Plan),
    tracer: &mut Tracer,
    ((root, mut go), entered): ((HostPid, File), impl FnOnce() -> Result<(), Error>),
    (files, kept, attachments): (OpenFiles, OwnDescriptors, Attachments),
) -> Result<Parked, Loss> {
    let root = tracer.seize_root(root)?;
    let rseq = root.rseq()?;
    root.resume(0)?;
    go.write_all(&root::message(&rseq)).map_err(Error::kernel("set the root going"))?;
    drop(go);
    let everybody = plan.tasks.len();
    let there = tracer.gather(everybody)?;
    entered()?;
    for task in there.into_values() {
        task.resume(0)?;
    }
    let grouped = tracer.gather(everybody)?;
    files.open_later(tracer.pids()).map_err(Error::from)?;
    for task in grouped.into_values() {
        task.resume(0)?;
    }
    let (_, later, _) = files.into_kept();
    drop(kept);
    let parked = tracer.gather_all(checkpoint.threads())?;
    drop((later, attachments));
    groups.move_threads(tracer.pids())?;
    Ok(parked)
}
