//! The restore, stage by stage: load, plan, open, prepare, build, finish.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::time::Instant;

use images::messages::SaEntry;
use images::{ImageDir, Progress};
use kernel::descriptors::duplicate_from;
use kernel::process::{Fork, exists, fork_as, reset_signal_actions, set_signal_mask};
use kernel::ptrace::{RseqConfiguration, Stopped};
use kernel::shared_memory::SharedMemory;

use crate::cgroups;
use crate::error::Error;
use crate::explain::explain;
use crate::files::{Needs, OpenContext, OpenFiles, changed};
use crate::finish::{self, Parked};
use crate::host::Host;
use crate::load::{Body, Process, Run, State, World, signal_of};
use crate::on_behalf;
use crate::options::{AfterRestore, RestoreOptions, RestoreReport};
use crate::plan::{Caller, Plan};
use crate::prepare::{self, Descriptors};
use crate::rights;
use crate::task::{Crew, Place};
use crate::tracer::{Loss, Tracer};

/// Restores a checkpoint. The calling process must have only this thread: it forks, and it waits
/// for any child.
///
/// # Errors
/// Names what could not be restored. Nothing that was built is left.
pub fn restore(
    options: &RestoreOptions,
    progress: &mut dyn Progress,
) -> Result<RestoreReport, Error> {
    let started = Instant::now();
    progress.begin("load", None);
    let dir = ImageDir::open(&options.images_dir)?;
    let mut world = World::load(&dir)?;
    on_behalf::check(&world, options)?;
    let mut host = Host::probe()?;
    let unchanged = changed::check(&world.files, options.root.as_deref());
    Error::all([host.check(&world), unchanged.map_err(Error::from)])?;
    check_vdso(&host, &world)?;
    let caller = Caller { sid: host.sid, pgid: host.pgid, shell_job: options.shell_job };
    let plan = Plan::new(&world, caller)?;
    check_parent(&world, &plan, options)?;
    check_numbers(&world, &plan)?;
    let park_signal = park_signal(&world)?;
    let groups = cgroups::Plan::make(&mut world, options.cgroups, &options.cgroup_roots)?;

    progress.begin("open files", None);
    let context = OpenContext {
        shell_job: options.shell_job,
        root: options.root.clone(),
        holders: rights::holders(&world),
        trust: options.trust,
        validation: options.validation,
    };
    let mut files = OpenFiles::open(std::mem::take(&mut world.files), &context)?;
    let base = files.base();
    session_keyring(&world)?;
    progress.begin("shared memory", None);
    let mut kept = Kept::default();
    let shared = shared(&world, base, &mut kept, progress)?;
    let (complaints, mut heard) = pipe(base)?;
    host.map()?;
    let helpers = helpers(&world, &plan);
    let places = places(&world, &host, &mut files, &shared, &helpers, park_signal)?;

    progress.begin("restore processes", Some(world.pages() * images::PAGE_SIZE));
    let crew = Crew {
        world: &world,
        plan: &plan,
        groups: &groups,
        files: &files,
        places: &places,
        complaints: &complaints,
        park_signal,
    };
    let mut dying = dying(&world, &plan);
    dying.extend(helpers.values());
    let mut tracer = Tracer::new(park_signal, dying, numbers(&world, &plan).collect());
    let subreaper = Subreaper::begin()?;
    let built = build(&crew, &mut tracer, options.sibling, base).and_then(|parked| {
        let stop = options.after == AfterRestore::Stop;
        Ok(finish::finish(&world, &plan, &places, parked, stop)?)
    });
    if let Err(loss) = built {
        let error = explain(loss, &crew, &mut heard);
        tracer.destroy();
        drop(subreaper);
        return Err(error);
    }
    drop(subreaper);
    Ok(RestoreReport {
        pid: plan.tasks[0].pid,
        total: started.elapsed(),
        processes: world.processes.len(),
        threads: world.threads(),
        pages_restored: world.pages(),
    })
}

/// Tasks come back in the session keyring that this process has. They get an empty one instead where
/// one of them had that, and where this process's would lend them keys.
fn session_keyring(world: &World) -> Result<(), Error> {
    let empty = |process: &Process| process.core.empty_session_keyring == Some(true);
    // In a thread of its own, as looking makes the user's keyring that of whoever looks.
    let lends =
        || !std::thread::spawn(kernel::keyrings::session_is_the_users).join().unwrap_or(true);
    if world.processes.iter().any(empty) || lends() {
        kernel::keyrings::join_new_session().map_err(Error::kernel("make a session keyring"))?;
    }
    Ok(())
}

/// No kernel's vDSO comes near this.
const LARGEST_VDSO: u64 = 1 << 20;

/// Compares the vDSO that was dumped with ours.
fn check_vdso(host: &Host, world: &World) -> Result<(), Error> {
    for (process, body) in world.living() {
        let bytes = body.vdso.iter().map(Run::bytes).fold(0, u64::saturating_add);
        if bytes > LARGEST_VDSO {
            let object = format!("process {}", process.pid);
            return Err(Error::image(object, format!("a vdso of {bytes} bytes")));
        }
        let mut stored = vec![0; bytes as usize];
        let mut at = 0;
        for run in &body.vdso {
            let Some((store, offset)) = run.place else { continue };
            let bytes = run.bytes() as usize;
            world.stores[store]
                .read_exact_at(&mut stored[at..at + bytes], offset)
                .map_err(Error::kernel("read the dumped vdso"))?;
            at += bytes;
        }
        host.check_vdso(process.pid, body, (at > 0).then_some(&stored))?;
    }
    Ok(())
}

/// A root that asked for a signal at its parent's death would get it at once from one that ends.
fn check_parent(world: &World, plan: &Plan, options: &RestoreOptions) -> Result<(), Error> {
    let root = plan.tasks[0].pid;
    let asked = world
        .living()
        .filter(|(process, _)| process.pid == root)
        .flat_map(|(process, body)| body.threads.iter().map(move |thread| (process, thread)))
        .filter_map(|(process, thread)| Some((process, thread.core.pdeath_sig?)))
        .find(|(process, signal)| *signal != 0 && !is_ignored(&process.core.sigactions, *signal));
    match asked {
        Some((_, signal)) if options.detached => Err(Error::refused(
            format!("process {root}"),
            format!(
                "it asked for signal {signal} at its parent's death (PR_SET_PDEATHSIG), and its \
                 parent, the restore, would end at once"
            ),
            "leave out --detach, so that the restore stays and is its parent",
        )),
        _ => Ok(()),
    }
}

/// Whether a signal does nothing to a process with these actions: those of the signals from 1 to 64,
/// but for SIGKILL and SIGSTOP.
fn is_ignored(actions: &[SaEntry], signal: u32) -> bool {
    const BY_DEFAULT: [i32; 4] = [libc::SIGCHLD, libc::SIGURG, libc::SIGWINCH, libc::SIGCONT];
    let signal = signal.cast_signed();
    let fixed = [libc::SIGKILL, libc::SIGSTOP];
    let mut numbers = (1..=64).filter(|number| !fixed.contains(number)).zip(actions);
    let action = numbers.find(|(number, _)| *number == signal).map(|(_, entry)| entry.sigaction);
    match action.and_then(|handler| usize::try_from(handler).ok()) {
        Some(libc::SIG_IGN) => true,
        Some(libc::SIG_DFL) => BY_DEFAULT.contains(&signal),
        _ => false,
    }
}

/// The numbers that are to be given out: those of tasks and of threads.
fn numbers<'a>(world: &'a World, plan: &'a Plan) -> impl Iterator<Item = i32> + 'a {
    let threads = world.living().flat_map(|(_, body)| &body.threads).map(|thread| thread.tid);
    plan.tasks.iter().map(|task| task.pid).chain(threads)
}

/// Every number that is to be given out must be one that this machine has, and free.
fn check_numbers(world: &World, plan: &Plan) -> Result<(), Error> {
    let limit = pid_max();
    if let Some(id) = numbers(world, plan).find(|&id| id >= limit) {
        return Err(Error::refused(
            format!("process {id}"),
            format!("process numbers end at {limit} here"),
            "raise /proc/sys/kernel/pid_max",
        ));
    }
    match numbers(world, plan).find(|&id| exists(id)) {
        None => Ok(()),
        Some(id) => Err(Error::refused(
            format!("process {id}"),
            "its number is in use",
            "end the process that has it, or restore in another pid namespace",
        )),
    }
}

/// The number at which process numbers end.
fn pid_max() -> i32 {
    /// What the kernel starts with.
    const DEFAULT: i32 = 1 << 15;
    std::fs::read_to_string("/proc/sys/kernel/pid_max")
        .ok()
        .and_then(|text| text.trim().parse().ok())
        .unwrap_or(DEFAULT)
}

/// A signal that is pending nowhere, so that parking cannot be mistaken for it.
fn park_signal(world: &World) -> Result<i32, Error> {
    let mut pending = 0u64;
    for (process, body) in world.living() {
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
    free.ok_or_else(|| {
        Error::refused(
            "the tree",
            "every signal is pending in it",
            "restore needs one to work with",
        )
    })
}

/// Tasks that end while the tree is being built.
fn dying(world: &World, plan: &Plan) -> BTreeSet<i32> {
    let ends = plan.tasks.iter().filter(|task| {
        task.process.is_none_or(|index| matches!(world.processes[index].state, State::Dead { .. }))
    });
    ends.map(|task| task.pid).collect()
}

/// Numbers for threads that help processes with much memory to read it: free now, wanted by
/// nobody in the tree, and far from where the kernel gives out numbers next.
fn helpers(world: &World, plan: &Plan) -> BTreeMap<i32, i32> {
    /// Bytes that are worth a thread.
    const MUCH: u64 = 32 << 20;
    if std::thread::available_parallelism().map_or(1, usize::from) < 2 {
        return BTreeMap::new();
    }
    let wanted: BTreeSet<i32> = numbers(world, plan).collect();
    let mut free = (1..pid_max()).rev().filter(|id| !wanted.contains(id) && !exists(*id));
    let large = world
        .living()
        .filter(|(_, body)| body.runs.iter().map(|run| run.bytes()).sum::<u64>() >= MUCH);
    large.filter_map(|(process, _)| Some((process.pid, free.next()?))).collect()
}

/// Descriptors of the restore's own, from the base on, which close when it is over.
#[derive(Debug, Default)]
struct Kept(Vec<OwnedFd>);

impl Kept {
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
    stores: Vec<RawFd>,
}

/// Fills shared anonymous memory, once, and moves the pages files out of the way.
fn shared(
    world: &World,
    base: RawFd,
    kept: &mut Kept,
    progress: &mut dyn Progress,
) -> Result<Shared, Error> {
    let mut shared = Shared::default();
    for store in &world.stores {
        shared.stores.push(kept.keep(store, base)?);
    }
    for segment in &world.segments {
        let failed = |what| Error::kernel(format!("{what} shared memory {}", segment.shmid));
        let mut memory = SharedMemory::new(segment.bytes as usize).map_err(failed("create"))?;
        for run in &segment.runs {
            let Some((store, offset)) = run.place else { continue };
            memory
                .fill(run.start, run.bytes(), &world.stores[store], offset)
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

/// Prepares every living process.
fn places(
    world: &World,
    host: &Host,
    files: &mut OpenFiles,
    shared: &Shared,
    helpers: &BTreeMap<i32, i32>,
    park_signal: i32,
) -> Result<Vec<Option<Place>>, Error> {
    let base = files.base();
    let mut places = Vec::new();
    for process in &world.processes {
        let Some(body) = &process.body else {
            places.push(None);
            continue;
        };
        let descriptors = Descriptors {
            exe: files.program(body.mm.exe_file_id)?,
            mapped: mapped(body, files)?,
            segments: shared.segments.clone(),
            stores: shared.stores.clone(),
            base,
        };
        let helper = helpers.get(&process.pid).copied().unwrap_or(0);
        places.push(Some(Place {
            region: prepare::region(host, process, body, &descriptors, park_signal, helper)?,
            cwd: files.working_directory(body.fs.cwd_id)?,
            root: files.root_directory(body.fs.root_id)?,
        }));
    }
    Ok(places)
}

fn mapped(body: &Body, files: &mut OpenFiles) -> Result<BTreeMap<(u32, u32), RawFd>, Error> {
    let mut wanted: BTreeMap<(u32, u32), Needs> = BTreeMap::new();
    for vma in body.mm.vmas.iter().filter(|vma| prepare::of_file(vma)) {
        let Ok(id) = u32::try_from(vma.shmid) else { continue };
        let (flags, needs) = (prepare::open_flags(vma), prepare::needs(vma));
        let most = wanted.entry((id, flags)).or_insert(needs);
        *most = needs.max(*most);
    }
    let open = |((id, flags), needs)| Ok(((id, flags), files.mapped(id, flags, needs)?));
    wanted.into_iter().map(open).collect()
}

/// While the tree is built, its orphans are ours: should it have to be destroyed, the dead can be
/// taken away.
#[derive(Debug)]
struct Subreaper {
    before: bool,
}

impl Subreaper {
    fn begin() -> Result<Self, Error> {
        let failed = |errno: nix::Error| Error::kernel("become a subreaper")(errno.into());
        let before = nix::sys::prctl::get_child_subreaper().map_err(failed)?;
        nix::sys::prctl::set_child_subreaper(true).map_err(failed)?;
        Ok(Self { before })
    }
}

impl Drop for Subreaper {
    fn drop(&mut self) {
        // Giving up what we were just given cannot fail, and would do no harm if it did.
        nix::sys::prctl::set_child_subreaper(self.before).unwrap_or_default();
    }
}

/// Builds the tree up to the point where every thread is parked in its new process.
fn build(crew: &Crew<'_>, tracer: &mut Tracer, sibling: bool, base: RawFd) -> Result<Parked, Loss> {
    let root = root(crew, tracer, sibling, base)?;
    let rseq = root.0.rseq()?;
    root.0.resume(0)?;
    let mut go = root.1;
    go.write_all(&message(&rseq)).map_err(Error::kernel("set the root going"))?;
    drop(go);
    let everybody = crew.plan.tasks.len();
    for _ in 0..2 {
        for task in tracer.gather(everybody)?.into_values() {
            task.resume(0)?;
        }
    }
    let parked = tracer.gather_all(crew.world.threads())?;
    crew.groups.move_threads()?;
    Ok(parked)
}

/// Forks the root, which waits to be told to go on; returns it stopped.
fn root(
    crew: &Crew<'_>,
    tracer: &mut Tracer,
    sibling: bool,
    base: RawFd,
) -> Result<(Stopped, File), Error> {
    let failed = || Error::kernel("make a pipe");
    let (read, write) =
        nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC).map_err(|errno| failed()(errno.into()))?;
    let read = File::from(duplicate_from(&read, base).map_err(failed())?);
    let pid = crew.plan.tasks[0].pid;
    crew.pass_slack(0)?;
    match fork_as(pid, sibling).map_err(Error::kernel(format!("create process {pid}")))? {
        Fork::Parent => Ok((tracer.seize_root(pid)?, File::from(write))),
        Fork::Child => {
            // Without our copy of it, the pipe ends when the coordinator does.
            drop(write);
            run_root(crew, read)
        }
    }
}

fn run_root(crew: &Crew<'_>, mut go: File) -> ! {
    let mut bytes = [0; MESSAGE];
    let ready = set_signal_mask(crew.mask()).and_then(|()| go.read_exact(&mut bytes));
    if ready.is_err() {
        kernel::process::exit_now(1);
    }
    drop(go);
    reset_signal_actions();
    crew.run(0, &configuration(&bytes))
}

/// Bytes of the message that sets the root going: where the C library of this process, and so of
/// all its copies, has its restartable-sequence area.
const MESSAGE: usize = 16;

fn message(rseq: &RseqConfiguration) -> [u8; MESSAGE] {
    let mut bytes = [0; MESSAGE];
    bytes[..8].copy_from_slice(&rseq.pointer.to_ne_bytes());
    bytes[8..12].copy_from_slice(&rseq.size.to_ne_bytes());
    bytes[12..].copy_from_slice(&rseq.signature.to_ne_bytes());
    bytes
}

fn configuration(bytes: &[u8; MESSAGE]) -> RseqConfiguration {
    let word =
        |at: usize| u32::from_ne_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    let mut pointer = [0; 8];
    pointer.copy_from_slice(&bytes[..8]);
    RseqConfiguration {
        pointer: u64::from_ne_bytes(pointer),
        size: word(8),
        signature: word(12),
        ..RseqConfiguration::default()
    }
}
