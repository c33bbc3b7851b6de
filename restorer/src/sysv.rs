//! System V shared memory of the restoring process's IPC namespace.
//!
//! Each segment comes back with its id, its key and what was in it. The coordinator makes it and has it attached for as
//! long as the tree is being built, as do its copies; the tasks attach it themselves, in their restorer.
//!
//! The kernel keeps a segment that nobody has attached, so one may still be there when the tree is restored: it is taken over, with
//! what is in the images, if it is the same one, nobody uses it, and the tasks may attach it. What is made is written down
//! first ([`freezer::Deed`]), as it would outlive a restore that is killed.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::time::Duration;

use freezer::{Deed, Undo};
use ids::HostPid;
use images::id_map::IdMap;
use images::messages::{IpcDescEntry, VmaEntry};
use images::{MappingKind, Progress, Quiet};
use kernel::credentials::Credentials;
use kernel::namespaces::inside;
use kernel::sysv::limits::Limit;
use kernel::sysv::segments::{self, Attached, LOCKED, REMOVED, Segment, attached_to, set_owner};
use kernel::sysv::{Owner, is_gone};
use support::ipc::{Conflict, conflict};

use crate::error::Error;
use crate::ipc_owner::owner;
use crate::load::{Body, Checkpoint, Process, SystemVSegment};
use crate::namespaces;
use crate::prepare;
use crate::rights;
use crate::run::Run;

/// The id that is asked for goes to whoever makes the next segment, in any process: another may come between. So it is
/// asked for so often, with such pauses.
const TRIES: u32 = 16;
const PAUSE: Duration = Duration::from_millis(2);

/// Segments that are attached to this process, and kept for the tasks by that.
#[derive(Debug, Default)]
pub(crate) struct Attachments(
    #[allow(dead_code, reason = "held for what dropping it does")] Vec<Attached>,
);

/// What has been made for the tree, and goes unless it is kept.
#[derive(Debug, Default)]
pub(crate) struct Made(Vec<(i32, Undo)>);

impl Made {
    /// The tree lives: it has what was made for it.
    pub(crate) fn keep(mut self) {
        for (_, undo) in self.0.drain(..) {
            undo.keep();
        }
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        for (id, _) in &self.0 {
            match segments::remove(*id) {
                Err(error) if !is_gone(&error) => {
                    tracing::error!("remove shared memory segment {id} (ipcrm -m {id}): {error}");
                }
                _ => {}
            }
        }
    }
}

/// Makes the segments that were in the dumper's IPC namespace, in the namespace of this process, and fills the segments of namespaces that
/// have been made.
pub(crate) fn make(
    checkpoint: &Checkpoint,
    namespaces: &namespaces::Made<'_>,
    undo: &Path,
    progress: &mut dyn Progress,
) -> Result<(Attachments, Made), Error> {
    let (mut attachments, mut made) = (Attachments::default(), Made::default());
    for segment in checkpoint.system_v.iter().filter(|segment| segment.is_outside) {
        let owner = owner(&segment.entry.desc);
        let one = One { checkpoint, segment, owner, ids: namespaces.ids() };
        attachments.0.push(one.make(undo, &mut made, progress)?);
    }
    let stores = &*checkpoint.stores;
    for segment in checkpoint.system_v.iter().filter(|segment| !segment.is_outside) {
        let failed = format!("fill System V shared memory segment {}", segment.entry.desc.id);
        let ipc = namespaces.namespace("ipc", segment.namespace);
        let ipc =
            ipc.ok_or_else(|| Error::image(&failed, "its IPC namespace is not in the images"))?;
        let attached = inside("ipc", ipc, || fill_inside(segment, stores));
        attachments.0.push(attached.map_err(Error::kernel(failed))?);
        progress.advance(segment.runs.iter().map(Run::bytes).sum());
    }
    for segment in checkpoint.system_v.iter().filter(|it| !it.is_outside && it.is_forced) {
        if let Some(ipc) = namespaces.namespace("ipc", segment.namespace) {
            inside("ipc", ipc, || Limit::RemovedForced.set(&[1]))
                .map_err(Error::kernel("set kernel.shm_rmid_forced"))?;
        }
    }
    Ok((attachments, made))
}

/// Fills a segment of the calling thread's namespace, which nobody has attached.
fn fill_inside(segment: &SystemVSegment, stores: &[File]) -> io::Result<Attached> {
    let (id, owner) = (segment.entry.desc.id.cast_signed(), owner(&segment.entry.desc));
    let mut attached = Attached::attach(&Segment::read(id)?, true)?;
    fill(&mut attached, segment, stores, &mut Quiet)?;
    finish(id, &owner)?;
    Ok(attached)
}

/// Fills a segment that is attached.
fn fill(
    attached: &mut Attached,
    segment: &SystemVSegment,
    stores: &[File],
    progress: &mut dyn Progress,
) -> io::Result<()> {
    for run in &segment.runs {
        let Some((store, offset)) = run.stored() else { continue };
        attached.fill(run.start, run.bytes(), &stores[store], offset)?;
        progress.advance(run.bytes());
    }
    Ok(())
}

/// A segment to be made.
struct One<'c> {
    checkpoint: &'c Checkpoint,
    segment: &'c SystemVSegment,
    owner: Owner,
    /// How ids are called in the user namespace.
    ids: IdMap,
}

impl One<'_> {
    fn id(&self) -> i32 {
        self.segment.entry.desc.id.cast_signed()
    }

    fn huge_flags(&self) -> i32 {
        self.segment.huge.map_or(0, Segment::huge_flags)
    }

    fn failed(&self, what: &str) -> impl FnOnce(io::Error) -> Error + use<> {
        Error::kernel(format!("{what} System V shared memory segment {}", self.id()))
    }

    fn conflict(&self, found: &Conflict) -> Error {
        let refusal = conflict(self.id(), self.owner.key, found);
        let user = self.users().next().map_or(0, |(process, _)| process.pid.get());
        Error::refused(refusal.of(user, format!("System V shared memory segment {}", self.id())))
    }

    fn make(
        &self,
        undo: &Path,
        made: &mut Made,
        progress: &mut dyn Progress,
    ) -> Result<Attached, Error> {
        let id = self.id();
        let (segment, is_new) = match Segment::read(id) {
            Ok(there) => (self.take_over(there)?, false),
            Err(error) if is_gone(&error) => (self.make_new(undo, made)?, true),
            Err(error) => return Err(self.failed("look for")(error)),
        };
        let mut attached = Attached::attach(&segment, true).map_err(self.failed("attach"))?;
        if !is_new {
            attached.clear().map_err(self.failed("clear"))?;
        }
        fill(&mut attached, self.segment, &self.checkpoint.stores, progress)
            .map_err(self.failed("fill"))?;
        finish(id, &self.owner).map_err(self.failed("set the owner of"))?;
        Ok(attached)
    }

    /// Uses one that is there.
    fn take_over(&self, there: Segment) -> Result<Segment, Error> {
        let entry = &self.segment.entry;
        let boot = kernel::boot::boot();
        let is_same = boot.is_some() && entry.boot == boot;
        let (one, other) = (there.owner, self.owner);
        if !is_same
            || there.bytes != entry.size
            || (Owner { mode: 0, ..one }) != (Owner { mode: 0, ..other })
        {
            return Err(self.conflict(&Conflict::Id { by: there.id, creator: there.creator }));
        }
        if there.attached > 0 || other.mode & REMOVED != 0 {
            let by = self.attached_by()?;
            return Err(self.conflict(&Conflict::InUse { by }));
        }
        for (_, body) in self.users() {
            let writes = self.mappings(body).any(|vma| !prepare::is_read_only(vma));
            for credentials in rights::of_threads(body, &self.ids) {
                if !may_attach(&credentials, &there, writes)
                    .map_err(self.failed("try to attach"))?
                {
                    return Err(self.conflict(&Conflict::Forbidden));
                }
            }
        }
        if there.huge_page_shift().map_err(self.failed("look at the pages of"))?
            != self.segment.huge
        {
            return Err(self.conflict(&Conflict::Id { by: there.id, creator: there.creator }));
        }
        Ok(there)
    }

    fn attached_by(&self) -> Result<Option<HostPid>, Error> {
        let others = attached_to(self.id(), own_namespace()?)?;
        Ok(others.first().map(|(pid, _)| *pid))
    }

    fn make_new(&self, undo: &Path, made: &mut Made) -> Result<Segment, Error> {
        let (id, key) = (self.id(), self.owner.key);
        let all = Segment::all().map_err(self.failed("look for what is in the way of"))?;
        if let Some(by) = all.iter().find(|other| key != 0 && other.owner.key == key) {
            return Err(self.conflict(&Conflict::Key { by: by.id, creator: by.creator }));
        }
        let maker = HostPid::own();
        let deed = Deed::MadeSegment { id, maker: maker.get(), namespace: own_namespace()? };
        let written = |error: freezer::Error| {
            self.failed("write down the making of")(io::Error::other(error))
        };
        let written = Undo::before(undo, deed).map_err(written)?;
        // The kernel's table has so many places, of which an id names one.
        const PLACES: i32 = 1 << 15;
        let there = all.iter().find(|other| other.id % PLACES == id % PLACES);
        let tries = if there.is_some() { 1 } else { TRIES };
        match self.make_with_its_id(tries) {
            Ok(true) => made.0.push((id, written)),
            Ok(false) => {
                return Err(self.conflict(&there.map_or(Conflict::NoId, |there| Conflict::Id {
                    by: there.id,
                    creator: there.creator,
                })));
            }
            Err(error) if is_limit(&error) => return Err(self.conflict(&Conflict::Limits)),
            Err(error) => return Err(self.failed("make")(error)),
        }
        Segment::read(id).map_err(self.failed("look at"))
    }

    /// Makes it; whether its id was to be had.
    fn make_with_its_id(&self, tries: u32) -> io::Result<bool> {
        let (id, size) = (self.id(), self.segment.entry.size);
        for _ in 1..tries {
            match Segment::make(id, &self.owner, size, self.huge_flags()) {
                Ok(false) => std::thread::sleep(PAUSE),
                made => return made,
            }
        }
        Segment::make(id, &self.owner, size, self.huge_flags())
    }

    /// The processes that have it attached.
    fn users(&self) -> impl Iterator<Item = (&Process, &Body)> {
        let living = self.checkpoint.living();
        living.filter(|(_, body)| self.mappings(body).next().is_some())
    }

    /// Where a process has it attached.
    fn mappings<'b>(&'b self, body: &'b Body) -> impl Iterator<Item = &'b VmaEntry> {
        let id = u64::from(self.segment.entry.desc.id);
        let is_there = body.ids.ipc_ns_id.unwrap_or_default() == self.segment.namespace;
        let mappings = self.checkpoint.mappings(body).iter().filter(move |mapping| {
            is_there && mapping.kind == MappingKind::SystemV && mapping.vma.shmid == id
        });
        mappings.map(|mapping| &mapping.vma)
    }
}

/// Gives a segment that is filled what else it had.
fn finish(id: i32, owner: &Owner) -> io::Result<()> {
    set_owner(id, owner)?;
    if owner.mode & LOCKED != 0 {
        segments::lock(id)?;
    }
    // It stays for as long as it is attached, and can be attached by its id.
    if owner.mode & REMOVED != 0 {
        segments::remove(id)?;
    }
    Ok(())
}

/// Whether the kernel says that the size, or the number of segments, is beyond what is allowed.
fn is_limit(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSPC))
}

/// The kernel's word on whether somebody may attach a segment, to write if it `writes`.
fn may_attach(credentials: &Credentials, segment: &Segment, writes: bool) -> io::Result<bool> {
    match credentials.during(|| Attached::attach(segment, writes).map(drop))? {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Ok(false),
        Err(error) => Err(error),
    }
}

/// The kernel's number of this process's IPC namespace.
fn own_namespace() -> Result<u64, Error> {
    let names = kernel::procfs::Dir::open(HostPid::own())
        .and_then(|dir| kernel::procfs::Namespaces::read(&dir))?;
    names
        .0
        .get("ipc")
        .copied()
        .ok_or_else(|| Error::kernel("find the own IPC namespace")(io::ErrorKind::NotFound.into()))
}

/// Refuses segments that are not the user's, for one who asks.
pub(crate) fn check_user(checkpoint: &Checkpoint, user: u32) -> Result<(), Error> {
    let others = checkpoint.system_v.iter().filter(|segment| {
        let IpcDescEntry { uid, cuid, .. } = segment.entry.desc;
        (uid, cuid) != (user, user)
    });
    let refused: Vec<_> = others
        .map(|segment| {
            let object = format!("System V shared memory segment {}", segment.entry.desc.id);
            support::ipc::SEGMENT_OF_ANOTHER.of(0, object)
        })
        .collect();
    if refused.is_empty() { Ok(()) } else { Err(Error::Refused(refused)) }
}

/// Sizes of the segments in whole pages, by namespace and id.
pub(crate) fn sizes(checkpoint: &Checkpoint) -> BTreeMap<(u32, u64), u64> {
    let all = checkpoint.system_v.iter();
    all.map(|segment| ((segment.namespace, u64::from(segment.entry.desc.id)), segment.bytes()))
        .collect()
}
