//! The restore, stage by stage: what is loaded is checked and planned; namespaces are made, files opened, shared memory filled,
//! processes prepared; then the holder builds the tree, which is let go at its last word ([`words`]).

mod built;
mod loaded;
mod prepared;
mod shared;
mod words;

use std::sync::Arc;
use std::time::{Duration, Instant};

use hooks::{Hooks, Moment, Point};
use ids::{HostPid, ImagePid};
use images::{Images, Progress};

use self::built::Work;
use self::loaded::Loaded;
use self::shared::OwnDescriptors;
use self::words::Words;
use crate::cgroups;
use crate::error::Error;
use crate::files::{Makers, OpenContext, OpenFiles};
use crate::holder::{self, Side, started};
use crate::keys;
use crate::namespaces;
use crate::network::{self, Network};
use crate::numbers;
use crate::options::{AfterRestore, RestoreOptions, RestoreReport};
use crate::registrars::Desks;
use crate::rights;
use crate::root::{self, Reins};
use crate::stand_in;
use crate::subreaper::Subreaper;
use crate::sysv;
use crate::task::BuildContext;
use crate::together::AllTogether;
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
    let begun_at = Instant::now();
    progress.begin("load", None);
    let path = images.path();
    hooks::call(hooks, Moment::of(Point::PreRestore, None, path))?;
    let loaded = Loaded::read(options, images)?;
    let plan = loaded.plan(options)?;
    let Loaded { mut checkpoint, mut host, holders, connections } = loaded;
    let inside = checkpoint.namespaces.own_pids();
    let park_signal = loaded::park_signal(&checkpoint)?;
    let (mode, roots) = (options.cgroups, &options.cgroup_roots[..]);
    let (yard, undo) = (options.cgroup_yard.as_deref(), &*options.undo);
    let asked = cgroups::Asked { mode, roots, yard, undo };
    checkpoint.namespaces.make_users()?;
    let mut groups = cgroups::Plan::make(&mut checkpoint, asked)?;

    let root = plan.tasks[0].pid;
    let sets = std::mem::take(&mut checkpoint.namespaces);
    let on_mounts = checkpoint.files.on_mounts();
    let ground = namespaces::Ground {
        root_process: root,
        root: options.root.as_deref(),
        options: &options.mounts,
        images,
        files: &on_mounts,
    };
    let given = given(options);
    let own_namespaces = sets.has_own(root);
    let mut stood_in = None;
    let made_all = |made: &namespaces::Made<'_>| {
        if own_namespaces {
            stood_in = stand_in::tell(hooks, path, made, root)?;
        }
        Ok(())
    };
    let (mut namespaces, roots) = namespaces::Made::make(&sets, &given, &ground, made_all)?;
    if let Some(pids) = namespaces.given_pids() {
        numbers::check_in(&plan, pids)?;
    }
    let first = checkpoint.processes.first().map(|process| process.pid);
    let networks = namespaces.networks(first)?;
    let ipc = namespaces.ipc()?;
    let entries = checkpoint.files.files.values().map(|file| &**file);
    let is_joined = options.networks.joined.is_some();
    let locks = network::locks(images, first.map(ImagePid::get), entries, (&networks, is_joined));

    let makers = groups.of_files(&checkpoint.processes, &checkpoint.files.tables);
    let numbers: Vec<HostPid> = numbers::spare(&plan).take(ATTEMPTS).collect();
    let makers = Arc::new(Makers::of(makers, numbers.clone()));
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
        makers: Arc::clone(&makers),
        ipc,
        work: prepared::work(&checkpoint) + roots.descriptors(),
        roots: Arc::new(roots),
        numbers,
    };
    let mut files = OpenFiles::open(std::mem::take(&mut checkpoint.files), &context)?;
    makers.end();
    namespaces.complete(&given)?;
    drop(given);
    progress.advance(bytes);
    // Not the holder's: only the caller's copies keep these terminals.
    let orphans = files.take_orphans();
    drop(context);
    let network = Network::of(&checkpoint, locks, options.networks.joined.clone(), &files);
    let base = files.base();
    namespaces.keep(base)?;
    let limits = namespaces.limits(base)?;
    groups.keep(base)?;
    keys::join(&checkpoint)?;

    progress.begin("shared memory", None);
    let mut kept = OwnDescriptors::default();
    let shared = shared::make(&checkpoint, base, &mut kept, progress)?;
    let (attachments, made_segments) =
        sysv::make(&checkpoint, &namespaces, &options.undo, progress)?;
    let (complaints, heard) = shared::pipe(base)?;
    host.map()?;
    let helpers = numbers::helpers(&checkpoint, &plan);
    let turns = AllTurns::new(&checkpoint, &plan, base)?;
    let memory = |index: usize| Some(checkpoint.processes.get(index)?.body.as_ref()?.ids.vm_id);
    let together = AllTogether::new(&plan, memory);
    let first = FirstThere::new(&plan, base)?;
    let of = (&checkpoint, &plan);
    let (forked, spare_memory) = prepared::forked(of, &host);
    let machine = (&host, &forked);
    let nested_users = sets.nested_users().keep(base)?;
    let desks = Desks::new(&plan, &checkpoint.levels, base)?;
    let with = (&turns, (&nested_users, &desks), &sets);
    let prepared = prepared::all(of, machine, with, &mut files, &shared, &helpers, park_signal)?;

    progress.begin("restore processes", Some(checkpoint.pages() * images::PAGE_SIZE));
    let since = started(HostPid::own()).unwrap_or(0);
    let reins = Reins::new(base)?;
    let own_network = sets.has_own_of(root, "net");
    let mut spare = numbers::spare(&plan)
        .filter(|number| !helpers.values().any(|helper| helper.get() == number.get()));
    let adopted = if plan.tasks.iter().any(|task| task.adopts || task.born_in.is_some()) {
        ATTEMPTS
    } else {
        0
    };
    let passing: Vec<HostPid> = spare.by_ref().take(adopted).collect();
    let registrars = desks.registrars(inside, spare.by_ref().take(ATTEMPTS * desks.count()))?;
    let tracer = built::tracer(of, &helpers, park_signal, (inside, registrars))?;
    let work = Work {
        checkpoint: &checkpoint,
        plan: &plan,
        groups: &groups,
        prepared: &prepared,
        inside,
        ends_with_root: namespaces.given_pids().is_none(),
        own_namespaces,
        stops: options.after == AfterRestore::Stop,
        stays: options.until_told,
    };
    let holder = match holder::split(spare.by_ref().take(ATTEMPTS), base, inside)? {
        Side::Commander(holder) => holder,
        Side::Holder(held) => {
            let with = (files, kept, attachments);
            held.live(move |held| work.carry_out(held, tracer, reins, heard, with))
        }
    };
    let build_context = BuildContext {
        checkpoint: &checkpoint,
        plan: &plan,
        groups: &groups,
        namespaces: &namespaces,
        files: &files,
        turns: &turns,
        together: &together,
        prepared: &prepared,
        spare_memory: spare_memory.as_ref(),
        complaints: &complaints,
        park_signal,
        spare: &passing,
        first: &first,
        desks: &desks,
        stood_in: stood_in.filter(|_| inside),
    };
    let born_at = Instant::now();
    let made = root::make(&build_context, reins, options.parent, &mut spare, holder.socket());
    // Nobody needs them here any more: they are the tree's. It fetches what others keep.
    let (keepers, _, links) = files.into_kept();
    drop((kept, complaints, namespaces, attachments, nested_users, desks));
    let subreaper = Subreaper::begin()?;
    let (root, made) = match made {
        Ok(root) => (Some(root), Ok(())),
        Err(error) => (None, Err(error)),
    };
    let tasks = built::everybody(&plan, root, inside);
    let mut report = RestoreReport {
        pid: root.unwrap_or_else(HostPid::own),
        total: Duration::ZERO,
        births: Duration::ZERO,
        processes: checkpoint.processes.len(),
        threads: checkpoint.threads(),
        pages_restored: checkpoint.pages() + of_files,
        untold: None,
    };
    let mut words = Words {
        hooks,
        images: path,
        root,
        orphans,
        network,
        own_network,
        groups,
        keepers: Some(keepers),
        records: options.records.as_deref().map(|place| (place, &options.labels)),
        limits,
        begun_at,
        born_at,
    };
    let finished = holder.finish((&tasks, since), options.until_told, |stage| {
        words.reached(stage, &subreaper, &mut report)
    });
    drop(subreaper);
    report.untold = made.and(finished)?;
    made_segments.keep();
    std::mem::take(&mut words.groups).keep_groups();
    links.remove();
    words.tell(Point::PostResume, None)?;
    report.total = begun_at.elapsed();
    Ok(report)
}

/// What namespaces are told of the networks that a tree is given.
fn given(options: &RestoreOptions) -> namespaces::Given {
    let inherited = options.inherited.iter();
    let name = |key: &[u8]| String::from_utf8_lossy(key).into_owned();
    let inherited = inherited.map(|it| (name(&it.key), Arc::clone(&it.file))).collect();
    namespaces::Given { inherited, ..options.networks.clone() }
}

/// How many numbers are tried for a process of our own.
const ATTEMPTS: usize = 100;
