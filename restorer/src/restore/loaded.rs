//! The images, read and compared with this machine, before anything is made.

use std::os::unix::fs::FileExt;

use ids::HostPid;
use images::Images;

use crate::aio;
use crate::capacity;
use crate::error::Error;
use crate::files::changed::{self, Which};
use crate::files::{self, Connections, Holders};
use crate::host::Host;
use crate::inherited_values;
use crate::keys;
use crate::load::{Checkpoint, State, signal_of};
use crate::network;
use crate::numbers;
use crate::on_behalf;
use crate::options::RestoreOptions;
use crate::plan::{Caller, Plan};
use crate::rights;
use crate::run::Run;
use crate::users::Users;

/// A checkpoint that this machine can restore, as far as looking at it tells.
pub(super) struct Loaded {
    pub(super) checkpoint: Checkpoint,
    pub(super) host: Host,
    pub(super) holders: Holders,
    /// What becomes of TCP connections.
    pub(super) connections: Connections,
}

impl Loaded {
    /// Reads the images, and refuses what they ask for and is not to be had here.
    pub(super) fn read(options: &RestoreOptions, images: &Images) -> Result<Self, Error> {
        if images.inventory().allow_uprobes == Some(true) && !options.allow_uprobes {
            let refusal = support::images::WITH_UPROBES;
            return Err(Error::refused(refusal.of(0, "the tree")));
        }
        let mut checkpoint = Checkpoint::load(images, options.joined)?;
        // A dump does not see the probes of a process that has not got the kernel's mapping for them yet.
        checkpoint.has_uprobes |= options.allow_uprobes;
        let connections = network::connections(options, images);
        let holders = rights::holders(&checkpoint, &checkpoint.namespaces.ids());
        let host = Host::probe()?;
        let mut loaded = Self { checkpoint, host, holders, connections };
        loaded.check(options)?;
        Ok(loaded)
    }

    fn check(&mut self, options: &RestoreOptions) -> Result<(), Error> {
        let Self { checkpoint, host, holders, connections } = self;
        let named = |error: files::Error| error.named(holders);
        checkpoint.files.check().map_err(named)?;
        on_behalf::check(checkpoint, holders, options, *connections)?;
        checkpoint.files.leases().restrict(options.on_behalf_of.map(|(user, _)| user));
        checkpoint.files.inherit(&options.inherited).map_err(named)?;
        if !options.file_locks && checkpoint.leave_locks() {
            tracing::warn!(
                "the images hold file locks, which are not taken: --file-locks does that"
            );
        }
        host.born_with_groups = checkpoint.namespaces.users().is_some_and(Users::no_groups);
        let possible = host.check(checkpoint);
        // What is opened is looked at then, unless it does not come to that.
        let which = if possible.is_ok() { Which::Undescribed } else { Which::All };
        let (root, any) = (options.root.as_deref(), options.any_permissions);
        let unchanged = changed::check(&checkpoint.files, root, any, which);
        Error::all([possible, unchanged.map_err(|error| named(error).into())])?;
        host.check_compat(checkpoint)?;
        check_vdso(host, checkpoint)?;
        inherited_values::check(checkpoint, &checkpoint.namespaces.ids())?;
        keys::check(checkpoint, options.on_behalf_of)?;
        aio::check(checkpoint)
    }

    /// How the tasks are made, if they can be.
    pub(super) fn plan(&self, options: &RestoreOptions) -> Result<Plan, Error> {
        let Self { checkpoint, host, .. } = self;
        let inside = checkpoint.namespaces.own_pids();
        let of_caller =
            |pid: Option<HostPid>| pid.map(HostPid::in_own_namespace).filter(|_| !inside);
        let caller = Caller {
            sid: of_caller(host.sid),
            pgid: of_caller(host.pgid),
            shell_job: options.shell_job,
        };
        let plan = Plan::new(checkpoint, caller, inside)?;
        numbers::check(&plan, options.records.as_deref())?;
        let lacking = capacity::find(checkpoint, &plan);
        if lacking.is_empty() { Ok(plan) } else { Err(Error::Refused(lacking)) }
    }
}

/// No kernel's vDSO comes near this.
const LARGEST_VDSO: u64 = 1 << 20;

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
pub(super) fn park_signal(checkpoint: &Checkpoint) -> Result<i32, Error> {
    let mut pending = 0u64;
    for (process, body) in checkpoint.living() {
        let queues = body.threads.iter().filter_map(|thread| thread.core.signals_p.as_ref());
        for entry in queues.chain(&process.core.signals_s).flat_map(|queue| &queue.signals) {
            pending |= 1 << (signal_of(&entry.siginfo) - 1);
        }
    }
    // By one of these a task ends that had ended so.
    for process in &checkpoint.processes {
        if let State::Dead { status } = process.state
            && libc::WIFSIGNALED(status)
        {
            pending |= 1 << (libc::WTERMSIG(status) - 1);
        }
    }
    // These mean something to the tracer, or cannot be blocked.
    for reserved in [libc::SIGKILL, libc::SIGSTOP, libc::SIGCONT, libc::SIGCHLD] {
        pending |= 1 << (reserved - 1);
    }
    let free = std::iter::once(libc::SIGTRAP).chain(1..=64).find(|s| pending & 1 << (s - 1) == 0);
    free.ok_or_else(|| Error::refused(support::host::NO_SIGNAL.of(0, "the tree")))
}
