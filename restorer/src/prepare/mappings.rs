//! The new address space: mappings, what fills them, what they are advised.

use arch::regs::Abi;
use ids::ImagePid;
use images::MappingKind;
use images::checkpoint::Mapping as Mapped;
use images::messages::VmaEntry;
use parasite::restorer::{
    Advice, AioRing, Arguments, Keyed, LOCK_NOW, LOCK_ON_FAULT, Mapping, MemoryPolicy, Special,
};

use super::table::Tables;
use super::{Descriptors, Host};
use crate::error::Error;
use crate::host::Range;
use crate::load::Body;
use crate::mapped::open_flags;
use crate::reads::reads;

const PROT_READ: u32 = 1;
const PROT_WRITE: u32 = 2;
const PROT_EXEC: u32 = 4;
const MAP_SHARED: u32 = 0x01;
const MAP_PRIVATE: u32 = 0x02;
/// In place of `MAP_PRIVATE`.
const MAP_DROPPABLE: u32 = 0x08;
const MAP_ANONYMOUS: u32 = 0x20;
const MAP_GROWSDOWN: u32 = 0x100;
const MAP_LOCKED: u32 = 0x2000;
const MAP_NORESERVE: u32 = 0x4000;

const MADV_RANDOM: u64 = 1;
const MADV_SEQUENTIAL: u64 = 2;
const MADV_DONTFORK: u64 = 10;
const MADV_DOFORK: u64 = 11;
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

/// Lays out all of it.
pub(super) fn lay_out(
    pid: ImagePid,
    body: &Body,
    descriptors: &Descriptors,
    spare: impl Fn(u64) -> Option<u64>,
    (tables, arguments): (&mut Tables, &mut Arguments),
) -> Result<(), Error> {
    let mut mappings = Vec::new();
    // What is not built already.
    let mut rest = Vec::new();
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
        let made = mapping(pid, mapped, filled, descriptors)?;
        if let Some(spare) = spare(vma.start) {
            mappings.push(Mapping { spare, fill_protection: PROT_READ | PROT_WRITE, ..made });
        } else {
            mappings.push(made);
            // None reaches over its mapping.
            while let Some(run) = runs.next_if(|run| run.start < vma.end) {
                rest.push(*run);
            }
        }
        if descriptors.has_uprobes {
            find_uprobes(mapped, &mut advice);
        }
        advise(pid, vma, &mut advice)?;
    }
    let (reads, segments) = reads(&rest, &descriptors.stores);
    arguments.mappings = tables.put(&mappings);
    arguments.advice = tables.put(&advice);
    let policies = body.mm.policies.iter().map(|policy| MemoryPolicy {
        start: policy.start,
        bytes: policy.end.saturating_sub(policy.start),
        mode: policy.mode.into(),
        nodes: policy.nodes,
    });
    arguments.policies = tables.put(&policies.collect::<Vec<_>>());
    arguments.keyed = tables.put(&keyed(body));
    arguments.rings = tables.put(&rings(body));
    arguments.reads = tables.put(&reads);
    arguments.segments = tables.put(&segments);
    Ok(())
}

/// The rings of asynchronous I/O.
fn rings(body: &Body) -> Vec<AioRing> {
    let rings = body.mm.aios.iter().map(|context| AioRing {
        start: context.id,
        bytes: context.ring_len.into(),
        requests: context.nr_req.into(),
    });
    rings.collect()
}

/// The mappings with protection keys.
fn keyed(body: &Body) -> Vec<Keyed> {
    let keyed = body.mappings.iter().filter_map(|mapped| {
        let vma = &mapped.vma;
        let (start, bytes, protection) = (vma.start, vma.end - vma.start, vma.prot);
        vma.protection_key.map(|key| Keyed { start, bytes, protection, key })
    });
    keyed.collect()
}

/// The protection of a mapping until it has its key. Code that may not be read would be given the kernel's
/// own key, which is only to be taken where there was one.
fn without_key(vma: &VmaEntry) -> u32 {
    match vma.protection_key {
        Some(_) if vma.prot == PROT_EXEC => PROT_READ | PROT_EXEC,
        _ => vma.prot,
    }
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
    let protection = without_key(vma);
    let kept = vma.flags & (MAP_GROWSDOWN | MAP_NORESERVE);
    let (fd, flags, offset) = match mapped.kind {
        MappingKind::File { shared } | MappingKind::PacketRing { shared } => {
            let id = u32::try_from(vma.shmid).map_err(|_| lost())?;
            let fd = *descriptors.mapped.get(&(id, open_flags(mapped))).ok_or_else(lost)?;
            (fd, if shared { MAP_SHARED } else { MAP_PRIVATE }, vma.pgoff)
        }
        MappingKind::IoUringRing => {
            let id = u32::try_from(vma.shmid).map_err(|_| lost())?;
            let fd = *descriptors.mapped.get(&(id, open_flags(mapped))).ok_or_else(lost)?;
            (fd, MAP_SHARED, vma.pgoff)
        }
        // Each segment is a file by now.
        kind if kind.is_shared_anonymous() => {
            (*descriptors.segments.get(&vma.shmid).ok_or_else(lost)?, MAP_SHARED, vma.pgoff)
        }
        MappingKind::HugePages { .. } => {
            let size = vma.huge_page_shift().map_or(0, VmaEntry::huge_flags);
            (-1, MAP_PRIVATE | MAP_ANONYMOUS | size, 0)
        }
        _ if vma.is_droppable() => (-1, MAP_DROPPABLE | MAP_ANONYMOUS, 0),
        _ => (-1, MAP_PRIVATE | MAP_ANONYMOUS, 0),
    };
    let fill_protection = match mapped.kind {
        // Of what is read into it a new ring is made.
        MappingKind::AioRing => PROT_READ | PROT_WRITE,
        _ if filled => protection | PROT_WRITE,
        _ => protection,
    };
    Ok(Mapping {
        start: vma.start,
        bytes: vma.end - vma.start,
        offset,
        spare: 0,
        fd,
        flags: flags | kept,
        fill_protection,
        protection,
        locked: locked(vma),
        sealed: vma.sealed.unwrap_or_default().into(),
        ring: (mapped.kind == MappingKind::IoUringRing).into(),
        pad: 0,
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
        spare: 0,
        fd: -1,
        flags: 0,
        fill_protection,
        protection: without_key(vma),
        locked: locked(vma),
        sealed: vma.sealed.unwrap_or_default().into(),
        ring: 0,
        pad: 0,
    }
}

fn locked(vma: &VmaEntry) -> u32 {
    match (vma.lock_on_fault, vma.flags & MAP_LOCKED != 0) {
        (Some(true), _) => LOCK_ON_FAULT,
        (_, true) => LOCK_NOW,
        (_, false) => 0,
    }
}

/// Has the kernel look for uprobes in code: it does so when a mapping is made that cannot be written to, as none is that is filled, or
/// when it is cut in two (`uprobe_mmap` of kernel/events/uprobes.c). What is cut off is joined again at once.
fn find_uprobes(mapped: &Mapped, advice: &mut Vec<Advice>) {
    let vma = &mapped.vma;
    let is_code = mapped.kind == MappingKind::File { shared: false } && vma.prot & PROT_EXEC != 0;
    if is_code && vma.end - vma.start > images::PAGE_SIZE {
        let of_page = |advice| Advice { start: vma.start, bytes: images::PAGE_SIZE, advice };
        advice.extend([MADV_DONTFORK, MADV_DOFORK].map(of_page));
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

/// Where the kernel's own mappings go, and how many bytes they take while they wait behind
/// `parked_at`. A process that had none gets none. A task of 32-bit code has its own made where they wait.
pub(super) fn specials(host: &Host, body: &Body, parked_at: u64) -> (Vec<Special>, u64) {
    let first = |kind: MappingKind| {
        body.mappings.iter().find(|mapped| mapped.kind == kind).map(|mapped| mapped.vma.start)
    };
    let (data, code): (Vec<_>, Vec<_>) = match body.abi() {
        Abi::Native => {
            let of = |range: &Range| (range.start, range.bytes());
            (host.vdso.data.iter().map(of).collect(), host.vdso.code.iter().map(of).collect())
        }
        // Without code there is nothing to be made.
        Abi::Compat if first(MappingKind::Vdso).is_none() => (Vec::new(), Vec::new()),
        Abi::Compat => {
            let (data, code) = host.vdso_of(Abi::Compat);
            let data = data.into_iter().map(|bytes| (0, bytes));
            (data.collect(), vec![(0, code.len() as u64)])
        }
    };
    let mut specials = Vec::new();
    let mut parked = parked_at;
    for (to, pieces) in [(first(MappingKind::Vvar), data), (first(MappingKind::Vdso), code)] {
        if to.is_none() && body.abi() == Abi::Native {
            continue;
        }
        // The pieces keep their distances: they are one behind the other everywhere. What is made and not wanted stays, until the
        // region goes.
        let mut to = to;
        for (from, bytes) in pieces {
            specials.extend(to.map(|to| Special { from, bytes, parked, to }));
            parked += bytes;
            to = to.map(|to| to + bytes);
        }
    }
    (specials, parked - parked_at)
}
