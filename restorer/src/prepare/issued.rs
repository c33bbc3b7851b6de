//! Rings to which one thread alone may submit: it brings them to where they stood.

use images::MappingKind;
use kernel::io_uring::place;
use parasite::restorer::{IssuedRing, Table};

use super::table::Tables;
use crate::error::Error;
use crate::files::Issued;
use crate::load::{Body, Mapping};

/// Lays out those of a process.
pub(super) fn lay_out(
    (body, mappings): (&Body, &[Mapping]),
    rings: &[Issued],
    tables: &mut Tables,
) -> Result<Table<IssuedRing>, Error> {
    let mut all = Vec::new();
    for ring in rings {
        let Some(thread) = body.threads.iter().find(|it| it.tid.unsigned() == ring.submitter)
        else {
            // It is of another process that has the ring.
            continue;
        };
        let mapped = |places: &[u64], bytes: usize| {
            let of_ring = mappings.iter().filter(|it| it.kind == MappingKind::IoUringRing);
            let mut vmas = of_ring.map(|it| &it.vma);
            let found = vmas.find(|vma| {
                vma.shmid == u64::from(ring.file)
                    && places.contains(&vma.pgoff)
                    && vma.end - vma.start >= bytes as u64
            });
            found.map(|vma| vma.start).ok_or_else(|| {
                Error::image(format!("io_uring {}", ring.file), "its issuer has not mapped it")
            })
        };
        let layout = ring.layout;
        all.push(IssuedRing {
            tid: thread.levels.innermost().get(),
            fd: ring.fd,
            queues: mapped(&[place::QUEUES, place::COMPLETIONS], layout.queues)?,
            submissions: mapped(&[place::SUBMISSIONS], layout.submissions)?,
            submitted: ring.submitted,
            completed: ring.completed,
            unread: ring.unread,
            entries: ring.entries,
            submission_bytes: layout.submission_bytes() as u32,
            no_drain: ring.no_drain.into(),
            head: layout.heads(),
            tail: layout.tails(),
            array: layout.array(),
            signal_flags: layout.signal_flags(),
            queues_content: tables.put(&ring.queues),
            submissions_content: tables.put(&ring.submissions),
        });
    }
    Ok(tables.put(&all))
}
