//! The new address space: mappings, what fills them, what they are advised.

use ids::ImagePid;
use images::checkpoint::Mapping as Mapped;
use images::messages::VmaEntry;
use images::{MappingKind, PAGE_SIZE};
use parasite::restorer::{
    Advice, Arguments, LOCK_NOW, LOCK_ON_FAULT, Mapping, MemoryPolicy, Read, Segment, Special,
};

use super::table::Tables;
use super::{Descriptors, Host};
use crate::error::Error;
use crate::files::Needs;
use crate::load::Body;
use crate::run::{Run, RunSource};

const SHARED_FILE: MappingKind = MappingKind::File { shared: true };
const PROT_READ: u32 = 1;
const PROT_WRITE: u32 = 2;
const MAP_SHARED: u32 = 0x01;
const MAP_PRIVATE: u32 = 0x02;
/// In place of `MAP_PRIVATE`.
const MAP_DROPPABLE: u32 = 0x08;
const MAP_ANONYMOUS: u32 = 0x20;
const MAP_GROWSDOWN: u32 = 0x100;
const MAP_LOCKED: u32 = 0x2000;
const MAP_NORESERVE: u32 = 0x4000;
const O_RDONLY: u32 = 0;
const O_RDWR: u32 = 2;

const MADV_RANDOM: u64 = 1;
const MADV_SEQUENTIAL: u64 = 2;
const MADV_DONTFORK: u64 = 10;
const MADV_MERGEABLE: u64 = 12;
const MADV_HUGEPAGE: u64 = 14;
const MADV_NOHUGEPAGE: u64 = 15;
const MADV_DONTDUMP: u64 = 16;
const MADV_WIPEONFORK: u64 = 18;
const MADV_GUARD_INSTALL: u64 = 102;
/// What a mapping remembers of the advice it was given.
const LASTING: [u64; 8] = [
    MADV_RANDOM,
    MADV_SEQUENTIAL,
    MADV_DONTFORK,
    MADV_MERGEABLE,
    MADV_HUGEPAGE,
    MADV_NOHUGEPAGE,
    MADV_DONTDUMP,
    MADV_WIPEONFORK,
];

/// Segments that the kernel takes in one call.
const MAX_SEGMENTS: usize = 1024;
/// Bytes of one read: what two threads share out between them, and what is still in the
/// processor's cache when it is read into after it was cleared.
const MAX_READ: u64 = 2 << 20;

/// With which flags a mapping's file is to be opened.
pub(crate) fn open_flags(Mapped { vma, kind }: &Mapped) -> u32 {
    let writes = *kind == SHARED_FILE && vma.prot & PROT_WRITE != 0;
    vma.fdflags.unwrap_or(if writes { O_RDWR } else { O_RDONLY })
}

/// What a mapping needs of its file: of a private one the images hold only the pages that differ from
/// it; what is mapped shared is the file itself.
pub(crate) fn needs(mapped: &Mapped) -> Needs {
    let writes = open_flags(mapped).cast_signed() & libc::O_ACCMODE != libc::O_RDONLY;
    match mapped.kind == SHARED_FILE {
        true if writes => Needs::File,
        true => Needs::Identity,
        false => Needs::Contents,
    }
}

/// Lays out all of it.
pub(super) fn lay_out(
    pid: ImagePid,
    body: &Body,
    descriptors: &Descriptors,
    tables: &mut Tables,
    arguments: &mut Arguments,
) -> Result<(), Error> {
    let mut mappings = Vec::new();
    let mut advice = Vec::new();
    let mut runs = body.runs.iter().peekable();
    for mapped in &body.mappings {
        let vma = &mapped.vma;
        if mapped.kind == MappingKind::Guard {
            let (start, bytes) = (vma.start, vma.end - vma.start);
            advice.push(Advice { start, bytes, advice: MADV_GUARD_INSTALL });
        }
        if !mapped.kind.is_ordinary() {
            continue;
        }
        while runs.next_if(|run| run.end() <= vma.start).is_some() {}
        let filled = runs.peek().is_some_and(|run| run.start < vma.end);
        mappings.push(mapping(pid, mapped, filled, descriptors)?);
        advise(pid, vma, &mut advice)?;
    }
    let (reads, segments) = reads(&body.runs, descriptors);
    arguments.mappings = tables.put(&mappings);
    arguments.advice = tables.put(&advice);
    let policies = body.mm.policies.iter().map(|policy| MemoryPolicy {
        start: policy.start,
        bytes: policy.end.saturating_sub(policy.start),
        mode: policy.mode.into(),
        nodes: policy.nodes,
    });
    arguments.policies = tables.put(&policies.collect::<Vec<_>>());
    arguments.reads = tables.put(&reads);
    arguments.segments = tables.put(&segments);
    Ok(())
}

fn mapping(
    pid: ImagePid,
    mapped: &Mapped,
    filled: bool,
    descriptors: &Descriptors,
) -> Result<Mapping, Error> {
    let vma = &mapped.vma;
    let lost = || {
        let object = format!("process {pid}, mapping {:#x}", vma.start);
        Error::image(object, "the file or memory that it maps is not in the images")
    };
    if mapped.kind == MappingKind::SystemV {
        return Ok(attached(vma));
    }
    let kept = vma.flags & (MAP_GROWSDOWN | MAP_NORESERVE);
    let (fd, flags, offset) = match mapped.kind {
        MappingKind::File { shared } | MappingKind::PacketRing { shared } => {
            let id = u32::try_from(vma.shmid).map_err(|_| lost())?;
            let fd = *descriptors.mapped.get(&(id, open_flags(mapped))).ok_or_else(lost)?;
            (fd, if shared { MAP_SHARED } else { MAP_PRIVATE }, vma.pgoff)
        }
        // Each segment is a file by now.
        MappingKind::SharedAnonymous => {
            (*descriptors.segments.get(&vma.shmid).ok_or_else(lost)?, MAP_SHARED, vma.pgoff)
        }
        _ if vma.is_droppable() => (-1, MAP_DROPPABLE | MAP_ANONYMOUS, 0),
        _ => (-1, MAP_PRIVATE | MAP_ANONYMOUS, 0),
    };
    Ok(Mapping {
        start: vma.start,
        bytes: vma.end - vma.start,
        offset,
        fd,
        flags: flags | kept,
        fill_protection: if filled { vma.prot | PROT_WRITE } else { vma.prot },
        protection: vma.prot,
        locked: locked(vma),
        sealed: vma.sealed.unwrap_or_default().into(),
    })
}

/// A mapping that an attachment makes.
fn attached(vma: &VmaEntry) -> Mapping {
    let fill_protection = match super::attachments::is_read_only(vma) {
        true => PROT_READ,
        false => PROT_READ | PROT_WRITE,
    };
    Mapping {
        start: vma.start,
        bytes: vma.end - vma.start,
        offset: 0,
        fd: -1,
        flags: 0,
        fill_protection,
        protection: vma.prot,
        locked: locked(vma),
        sealed: vma.sealed.unwrap_or_default().into(),
    }
}

fn locked(vma: &VmaEntry) -> u32 {
    match (vma.lock_on_fault, vma.flags & MAP_LOCKED != 0) {
        (Some(true), _) => LOCK_ON_FAULT,
        (_, true) => LOCK_NOW,
        (_, false) => 0,
    }
}

/// The image has bit N for advice N.
fn advise(pid: ImagePid, vma: &VmaEntry, advice: &mut Vec<Advice>) -> Result<(), Error> {
    let given = vma.madv.unwrap_or(0);
    let known = LASTING.iter().fold(0, |set, advice| set | 1 << advice);
    if given & !known != 0 {
        return Err(Error::refused(
            support::images::unknown_advice(given & !known)
                .of(pid.get(), format!("mapping {:#x}", vma.start)),
        ));
    }
    let (start, bytes) = (vma.start, vma.end - vma.start);
    let each = LASTING.iter().filter(|&&each| given & 1 << each != 0);
    advice.extend(each.map(|&advice| Advice { start, bytes, advice }));
    Ok(())
}

/// Groups runs that lie in a row in their file, in the order of the file, into reads as large as
/// the kernel takes.
fn reads(runs: &[Run], descriptors: &Descriptors) -> (Vec<Read>, Vec<Segment>) {
    let mut ordered: Vec<&Run> = runs.iter().collect();
    ordered.sort_by_key(|run| run.source);
    let mut reads: Vec<Read> = Vec::new();
    let mut segments: Vec<Segment> = Vec::new();
    // Where the last read ends in its file, and how much it takes.
    let mut end = None;
    let mut taken = 0;
    for run in ordered {
        let mut rest = *run;
        while rest.pages > 0 {
            let bytes = rest.bytes().min(MAX_READ);
            let joins = rest.stored().is_some()
                && end == Some(rest.source)
                && taken + bytes <= MAX_READ
                && reads.last().is_some_and(|read| (read.segments as usize) < MAX_SEGMENTS);
            if !joins {
                let (fd, offset) = match rest.source {
                    RunSource::Stored(store, offset) => (descriptors.stores[store], offset),
                    RunSource::Zero => (-1, 0),
                };
                reads.push(Read { fd, segments: 0, first: segments.len() as u64, offset });
                taken = 0;
            }
            // A run that follows the last one in memory too lengthens it.
            match segments.last_mut() {
                Some(last) if joins && last.start + last.bytes == rest.start => last.bytes += bytes,
                _ => {
                    segments.push(Segment { start: rest.start, bytes });
                    if let Some(read) = reads.last_mut() {
                        read.segments += 1;
                    }
                }
            }
            taken += bytes;
            rest.start += bytes;
            rest.pages -= bytes / PAGE_SIZE;
            rest.source = rest.source.after(bytes);
            end = Some(rest.source);
        }
    }
    (reads, segments)
}

/// Where the kernel's own mappings go, and how many bytes they take while they wait behind
/// `parked_at`. A process that had none gets none.
pub(super) fn specials(host: &Host, body: &Body, parked_at: u64) -> (Vec<Special>, u64) {
    let first = |kind: MappingKind| {
        body.mappings.iter().find(|mapped| mapped.kind == kind).map(|mapped| mapped.vma.start)
    };
    let mut specials = Vec::new();
    let mut parked = parked_at;
    let groups = [
        (first(MappingKind::Vvar), host.vdso.data.as_slice()),
        (first(MappingKind::Vdso), host.vdso.code.as_slice()),
    ];
    for (to, pieces) in groups {
        // The pieces keep their distances: they are one behind the other everywhere.
        let Some((mut to, _)) = to.zip(pieces.first()) else { continue };
        for piece in pieces {
            let bytes = piece.bytes();
            specials.push(Special { from: piece.start, bytes, parked, to });
            parked += bytes;
            to += bytes;
        }
    }
    (specials, parked - parked_at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_in_a_row_are_read_together() {
        let descriptors = Descriptors { stores: vec![70, 71], ..Descriptors::default() };
        let run = |start, pages, source| Run { start, pages, source };
        let runs = [
            run(0x1000, 1, RunSource::Stored(0, 0)),
            run(0x2000, 1, RunSource::Stored(0, 4096)),
            run(0x8000, 2, RunSource::Stored(0, 8192)),
            run(0x1_0000, 1, RunSource::Zero),
            run(0x2_0000, 1, RunSource::Stored(1, 0)),
        ];
        let (reads, segments) = reads(&runs, &descriptors);
        assert_eq!(reads.len(), 3);
        assert_eq!((reads[0].fd, reads[0].segments), (-1, 1));
        assert_eq!((reads[1].fd, reads[1].segments, reads[1].offset), (70, 2, 0));
        assert_eq!((reads[2].fd, reads[2].segments), (71, 1));
        assert_eq!(segments[1], Segment { start: 0x1000, bytes: 0x2000 });
        assert_eq!(segments[2], Segment { start: 0x8000, bytes: 0x2000 });
    }

    #[test]
    fn long_runs_are_read_in_pieces() {
        let descriptors = Descriptors { stores: vec![70], ..Descriptors::default() };
        let pages = 3 * MAX_READ / PAGE_SIZE / 2;
        let (reads, segments) =
            reads(&[Run { start: 0, pages, source: RunSource::Stored(0, 4096) }], &descriptors);
        assert_eq!(reads.len(), 2);
        assert_eq!(reads[1].offset, 4096 + MAX_READ);
        assert_eq!(segments.iter().map(|segment| segment.bytes).sum::<u64>(), pages * PAGE_SIZE);
    }
}
