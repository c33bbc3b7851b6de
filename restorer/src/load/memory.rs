//! Address spaces, page maps and shared memory.

use std::collections::BTreeMap;

use arch::compat;
use arch::memory::END_OF_SPACE;
use arch::regs::Abi;
use ids::ImagePid;
use images::checkpoint::{IpcNamespace, Mapping};
use images::messages::{IpcShmEntry, MmEntry, PagemapHead, VmaEntry};
use images::{Held, HeldRun, MappingKind, PAGE_SIZE, PageMap, names};
use kernel::huge_pages::HUGE_SHIFT;
use support::Refusal;

use super::Process;
use super::memfd::Nameless;
use super::store::Store;
use crate::error::Error;
use crate::run::{Run, RunSource};

/// Shared anonymous memory.
#[derive(Debug)]
pub(crate) struct SharedSegment {
    pub(crate) shmid: u64,
    pub(crate) bytes: u64,
    /// It is in huge pages of this size: two to the power of that.
    pub(crate) huge: Option<u32>,
    pub(crate) runs: Vec<Run>,
}

/// A System V shared memory segment.
#[derive(Debug)]
pub(crate) struct SystemVSegment {
    /// The number of its IPC namespace.
    pub(crate) namespace: u32,
    /// That is the one which the dumper was in: it is made in the restoring process's.
    pub(crate) is_outside: bool,
    /// The namespace removes what nobody has attached (`kernel.shm_rmid_forced`).
    pub(crate) is_forced: bool,
    pub(crate) entry: IpcShmEntry,
    /// It is in huge pages of this size: two to the power of that.
    pub(crate) huge: Option<u32>,
    pub(crate) runs: Vec<Run>,
}

impl SystemVSegment {
    /// Bytes of its pages.
    pub(crate) fn bytes(&self) -> u64 {
        bytes_of_pages(self.entry.size, self.huge)
    }
}

/// Bytes of the pages of a segment of so many bytes, which may be in huge ones.
fn bytes_of_pages(size: u64, huge: Option<u32>) -> u64 {
    let page = huge.and_then(|shift| 1u64.checked_shl(shift)).unwrap_or(PAGE_SIZE);
    size.checked_next_multiple_of(page).unwrap_or(u64::MAX)
}

/// Which page map, in whichever checkpoint of the chain.
#[derive(Clone, Copy)]
enum Owner {
    Process(ImagePid),
    Segment(u64),
}

impl Owner {
    fn image(self) -> images::Image<PagemapHead> {
        match self {
            Self::Process(pid) => names::pagemap(pid.unsigned()),
            Self::Segment(shmid) => names::pagemap_shmem(shmid),
        }
    }

    /// Refuses pages that stayed with the dumper, to be asked for later.
    fn check(self, held: &[HeldRun]) -> Result<(), Error> {
        let mut missing = held.iter().filter(|run| run.held == Held::Lazy);
        let Some(first) = missing.next() else { return Ok(()) };
        let pages = missing.fold(first.pages, |sum, run| sum.saturating_add(run.pages));
        let task = if let Self::Process(pid) = self { pid.get() } else { 0 };
        Err(Error::refused(support::images::lazy_pages(pages, first.start).of(task, self.name())))
    }

    fn name(self) -> String {
        self.image().name().to_owned()
    }
}

/// Reads a page map; pages that are in a parent checkpoint are looked up there.
fn runs(owner: Owner, map: &PageMap, store: &mut Store) -> Result<Vec<Run>, Error> {
    let held = store.lineage.held(&owner.image(), map)?;
    owner.check(&held)?;
    let run = |HeldRun { start, pages, held }| {
        let source = match held {
            Held::Stored { level, pages_id, offset } => {
                store.source(level, pages_id, offset, pages * PAGE_SIZE)?
            }
            Held::Zero | Held::Lazy => RunSource::Zero,
        };
        Ok(Run { start, pages, source })
    };
    held.into_iter().map(run).collect()
}

/// Checks what the images do not check by themselves: that the mappings are of kinds that can be made, and have
/// room in an address space.
pub(super) fn check(
    pid: ImagePid,
    abi: Abi,
    mm: &MmEntry,
    mappings: &[Mapping],
) -> Result<(), Error> {
    let end_of_space = match abi {
        Abi::Native => END_OF_SPACE,
        Abi::Compat => compat::END_OF_SPACE,
    };
    contexts(pid, mm, mappings)?;
    for Mapping { vma, kind } in mappings {
        if *kind == MappingKind::Vsyscall {
            continue;
        }
        let object = || format!("mapping {:#x}-{:#x}", vma.start, vma.end);
        let wrong = |what| Err(Error::image(format!("process {pid}, {}", object()), what));
        if vma.end > end_of_space {
            return wrong("it cannot be there");
        }
        if vma.end.checked_add(vma.pgoff).is_none() {
            return wrong("its file offset cannot be");
        }
        if vma.is_huge() && !is_of_huge_pages(vma) {
            return wrong("its bounds are not those of huge pages");
        }
        if vma.is_droppable() && *kind != MappingKind::Anonymous {
            return wrong("what may be dropped is of no file");
        }
        if let Some(refusal) = refusal(*kind) {
            return Err(Error::refused(refusal.of(pid.get(), object())));
        }
    }
    Ok(())
}

/// Checks the asynchronous I/O contexts of a process: each has one mapping, which is all of its ring.
fn contexts(pid: ImagePid, mm: &MmEntry, mappings: &[Mapping]) -> Result<(), Error> {
    let rings = || mappings.iter().filter(|mapping| mapping.kind == MappingKind::AioRing);
    let object = |start: u64| format!("process {pid}, asynchronous I/O context {start:#x}");
    let mut ids: Vec<u64> = mm.aios.iter().map(|context| context.id).collect();
    ids.sort_unstable();
    if !ids.iter().copied().eq(rings().map(|ring| ring.vma.start)) {
        let first = ids.first().copied().or_else(|| Some(rings().next()?.vma.start));
        return Err(Error::image(
            object(first.unwrap_or_default()),
            "its context and the mapping of its ring do not belong together",
        ));
    }
    for (context, ring) in mm.aios.iter().flat_map(|context| {
        rings().filter(|ring| ring.vma.start == context.id).map(move |ring| (context, ring))
    }) {
        let bytes = ring.vma.end.saturating_sub(ring.vma.start);
        if bytes != u64::from(context.ring_len) || context.nr_req == 0 {
            return Err(Error::image(object(context.id), "there is no ring of this size"));
        }
    }
    Ok(())
}

/// The size of the pages of a mapping of huge ones; the kernel of this machine says which, if the mapping does not.
pub(crate) fn huge_page_shift(vma: &VmaEntry) -> Option<u32> {
    let shift = vma.huge_page_shift()?;
    if shift == 0 { kernel::huge_pages::default_shift() } else { Some(shift) }
}

/// Whether a mapping consists of whole huge pages.
fn is_of_huge_pages(vma: &VmaEntry) -> bool {
    let size = huge_page_shift(vma).and_then(|shift| 1u64.checked_shl(shift));
    size.is_some_and(|size| {
        [vma.start, vma.end, vma.pgoff].iter().all(|place| place.is_multiple_of(size))
    })
}

/// Why a mapping cannot be made, if it cannot.
fn refusal(kind: MappingKind) -> Option<Refusal> {
    use support::images;
    Some(match kind {
        MappingKind::Anonymous
        | MappingKind::Heap
        | MappingKind::Stack
        | MappingKind::SharedAnonymous
        | MappingKind::HugePages { .. }
        | MappingKind::SystemV
        | MappingKind::File { .. }
        | MappingKind::PacketRing { .. }
        | MappingKind::AioRing
        | MappingKind::IoUringRing
        | MappingKind::Vdso
        | MappingKind::Vvar
        | MappingKind::Vsyscall
        | MappingKind::Guard => return None,
        MappingKind::ShadowStack => images::SHADOW_STACK,
        MappingKind::Uprobes => images::PROBES,
        // No image says these.
        MappingKind::PrivateOfSharedAnonymous
        | MappingKind::Secret
        | MappingKind::PerfRing
        | MappingKind::Pathless
        | MappingKind::Unknown => images::UNKNOWN_MAPPING,
    })
}

/// What the private memory of a process holds; beside it, what its vDSO held.
pub(super) fn private_runs(
    pid: ImagePid,
    mappings: &[Mapping],
    pages: &PageMap,
    store: &mut Store,
) -> Result<(Vec<Run>, Vec<Run>), Error> {
    let all = runs(Owner::Process(pid), pages, store)?;
    let mut kept = Vec::with_capacity(all.len());
    let mut vdso = Vec::new();
    let mapped = mappings.iter().filter(|mapping| mapping.kind != MappingKind::Guard);
    let mut mapped = mapped.peekable();
    for run in all {
        let mut rest = run;
        // A run may reach over several adjacent mappings.
        while rest.pages > 0 {
            while mapped.next_if(|mapping| mapping.vma.end <= rest.start).is_some() {}
            let mapping = mapped.peek().filter(|mapping| mapping.vma.start <= rest.start);
            let Mapping { vma, kind } = mapping.ok_or_else(|| {
                let name = names::pagemap(pid.unsigned());
                Error::image(name.name(), format!("no mapping at {:#x}", rest.start))
            })?;
            let pages = rest.pages.min((vma.end - rest.start) / PAGE_SIZE);
            let run = Run { pages, ..rest };
            match kind {
                // New anonymous memory is zeros without anybody's help.
                kind if kind.is_anonymous()
                    || matches!(
                        kind,
                        MappingKind::HugePages { shared: false } | MappingKind::AioRing
                    ) =>
                {
                    kept.extend(run.stored().map(|_| run));
                }
                MappingKind::File { shared: false } => kept.push(run),
                MappingKind::File { shared: true }
                | MappingKind::PacketRing { .. }
                | MappingKind::IoUringRing
                | MappingKind::SharedAnonymous
                | MappingKind::HugePages { shared: true }
                | MappingKind::SystemV => {
                    let object = names::pagemap(pid.unsigned());
                    let reason = format!("pages of shared memory at {:#x}", rest.start);
                    return Err(Error::image(object.name(), reason));
                }
                MappingKind::Vdso => vdso.push(run),
                _ => {}
            }
            let bytes = pages * PAGE_SIZE;
            rest.start += bytes;
            rest.pages -= pages;
            rest.source = rest.source.after(bytes);
        }
    }
    Ok((kept, vdso))
}

/// The segments of shared anonymous memory that the processes map, as large as the images say, or as the
/// farthest mapping or page of each; what they hold is taken from `maps`.
pub(super) fn segments(
    processes: &[Process],
    nameless: &Nameless,
    maps: &mut BTreeMap<u64, PageMap>,
    store: &mut Store,
) -> Result<Vec<SharedSegment>, Error> {
    let mut sizes: BTreeMap<u64, (u64, Option<u32>)> = BTreeMap::new();
    let bodies = processes.iter().filter_map(|process| process.body.as_ref());
    for Mapping { vma, kind } in bodies.flat_map(|body| &body.mappings) {
        if !kind.is_shared_anonymous() {
            continue;
        }
        let huge = huge_page_shift(vma);
        let (size, of) = sizes.entry(vma.shmid).or_insert_with(|| (nameless.size(vma.shmid), huge));
        *size = (*size).max(vma.pgoff + (vma.end - vma.start));
        if *of != huge {
            let what = "it is in huge pages in one mapping, and not in another";
            return Err(Error::image(Owner::Segment(vma.shmid).name(), what));
        }
    }
    let mut segments = Vec::new();
    for (shmid, (bytes, huge)) in sizes {
        let map = maps.remove(&shmid).unwrap_or_default();
        let runs = runs(Owner::Segment(shmid), &map, store)?;
        let bytes = runs.iter().map(Run::end).fold(bytes, u64::max);
        let size = huge.and_then(|shift| 1u64.checked_shl(shift)).unwrap_or(1);
        let bytes = bytes.checked_next_multiple_of(size).filter(|&bytes| bytes <= END_OF_SPACE);
        let beyond = || Error::image(Owner::Segment(shmid).name(), "pages beyond all memory");
        let bytes = bytes.ok_or_else(beyond)?;
        segments.push(SharedSegment { shmid, bytes, huge, runs });
    }
    Ok(segments)
}

/// System V segments; what they hold is taken from `maps`. `own` is the number of the dumper's IPC namespace.
pub(super) fn system_v(
    namespaces: &BTreeMap<u32, IpcNamespace>,
    own: Option<u32>,
    maps: &mut BTreeMap<u64, PageMap>,
    store: &mut Store,
) -> Result<Vec<SystemVSegment>, Error> {
    let mut found = Vec::new();
    for (&namespace, objects) in namespaces {
        for entry in objects.segments.values() {
            let number = entry.page_map();
            let huge = entry.hugetlb_flag.filter(|flag| *flag != 0);
            let huge = huge.map(|flags| segment_shift(entry.desc.id, flags)).transpose()?;
            let map = maps.remove(&number).unwrap_or_default();
            let runs = runs(Owner::Segment(number), &map, store)?;
            let end = runs.iter().map(Run::end).max().unwrap_or(0);
            if end > bytes_of_pages(entry.size, huge) || entry.size > END_OF_SPACE {
                let name = Owner::Segment(number).name();
                let what = format!("pages up to {end:#x} of a segment of {:#x} bytes", entry.size);
                return Err(Error::image(name, what));
            }
            let limits = objects.limits.as_ref();
            found.push(SystemVSegment {
                namespace,
                is_outside: own.is_none_or(|own| own == namespace),
                is_forced: limits.is_some_and(|limits| limits.shm_rmid_forced != 0),
                entry: entry.clone(),
                huge,
                runs,
            });
        }
    }
    Ok(found)
}

/// The size of the pages of a segment in huge ones, by the flags that it is made with.
fn segment_shift(id: u32, flags: u32) -> Result<u32, Error> {
    let huge = libc::SHM_HUGETLB.cast_unsigned();
    let sizes = flags.checked_sub(huge).map(|size| (size >> HUGE_SHIFT, size << (32 - HUGE_SHIFT)));
    let shift = match sizes {
        Some((0, 0)) => kernel::huge_pages::default_shift(),
        Some((shift, 0)) => Some(shift),
        _ => None,
    };
    shift.filter(|shift| *shift < u64::BITS).ok_or_else(|| {
        let object = format!("System V shared memory segment {id}");
        Error::image(object, format!("flags of huge pages {flags:#x}"))
    })
}

/// What is in shared memory that no mapping of its own has, by its id: files hold it.
pub(super) fn of_files(
    maps: BTreeMap<u64, PageMap>,
    store: &mut Store,
) -> Result<BTreeMap<u64, Vec<Run>>, Error> {
    let runs = |(shmid, map)| Ok((shmid, runs(Owner::Segment(shmid), &map, store)?));
    maps.into_iter().map(runs).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use images::messages::{InventoryEntry, PagemapEntry, page_flags};
    use images::{ImageWriter, Images, WriteOptions};

    use super::*;

    const STORED: u32 = page_flags::PRESENT;
    const PARENT: u32 = page_flags::PARENT;

    /// A checkpoint with a page map of process 7, runs given by page numbers.
    fn write(place: &Path, name: &str, parent: Option<&str>, runs: &[(u64, u64, u32)]) {
        let writer = ImageWriter::create(&place.join(name), WriteOptions::default()).unwrap();
        let (pages_id, pages) = writer.pages().unwrap();
        let mut map = writer.image(&names::pagemap(7)).unwrap();
        map.put(&PagemapHead { pages_id }).unwrap();
        let mut stored = 0;
        for &(page, count, flags) in runs {
            map.put_as(&PagemapEntry::run(page * PAGE_SIZE, count, flags)).unwrap();
            stored += if flags & STORED != 0 { count } else { 0 };
        }
        map.finish().unwrap();
        let room = pages.reserve(stored * PAGE_SIZE).unwrap();
        pages.write_all_at(&vec![1; (stored * PAGE_SIZE) as usize], room).unwrap();
        if let Some(parent) = parent {
            writer.link_parent(Path::new(parent)).unwrap();
        }
        let inventory = InventoryEntry { img_version: 2, ..InventoryEntry::default() };
        writer.write_one(&names::inventory(), &inventory).unwrap();
        writer.commit().unwrap();
    }

    /// Page, number of pages, file and page in it.
    type Resolved = (u64, u64, Option<(usize, u64)>);

    fn resolve(place: &Path, name: &str) -> Result<Vec<Resolved>, Error> {
        let dir = Images::open(&place.join(name)).unwrap();
        let mut store = Store::of(&dir).unwrap();
        let map = dir.page_map(&names::pagemap(7)).unwrap().unwrap();
        let runs = runs(Owner::Process(ImagePid::new(7).unwrap()), &map, &mut store)?;
        let pages = |bytes: u64| bytes / PAGE_SIZE;
        Ok(runs
            .iter()
            .map(|run| {
                let place = run.stored().map(|(file, offset)| (file, pages(offset)));
                (pages(run.start), run.pages, place)
            })
            .collect())
    }

    #[test]
    fn pages_are_found_through_several_parents() {
        let place = tempfile::tempdir().unwrap();
        let place = place.path();
        write(place, "a", None, &[(10, 4, STORED), (14, 1, 0), (20, 10, STORED)]);
        write(place, "b", Some("../a"), &[(10, 4, PARENT), (14, 2, STORED), (20, 10, PARENT)]);
        write(place, "c", Some("../b"), &[(11, 4, PARENT), (22, 1, STORED), (23, 2, PARENT)]);
        assert_eq!(
            resolve(place, "c").unwrap(),
            [
                (11, 3, Some((0, 1))),
                (14, 1, Some((1, 0))),
                (22, 1, Some((2, 0))),
                (23, 2, Some((0, 7))),
            ]
        );
    }

    #[test]
    fn pages_that_stayed_with_a_lazy_dump_are_refused_and_not_restored_as_zeros() {
        const LAZY: u32 = page_flags::LAZY;
        let place = tempfile::tempdir().unwrap();
        let place = place.path();
        write(place, "whole", None, &[(10, 4, STORED | LAZY)]);
        assert_eq!(resolve(place, "whole").unwrap(), [(10, 4, Some((0, 0)))]);
        write(place, "lazy", None, &[(10, 4, STORED), (20, 2, LAZY), (30, 1, LAZY)]);
        let error = resolve(place, "lazy").unwrap_err().to_string();
        assert!(error.contains("3 pages") && error.contains("0x14000"), "{error}");
        write(place, "child", Some("../lazy"), &[(20, 2, PARENT | LAZY)]);
        assert!(resolve(place, "child").unwrap_err().to_string().contains("lazy"));
    }

    #[test]
    fn a_page_that_no_parent_has_is_named() {
        let place = tempfile::tempdir().unwrap();
        let place = place.path();
        write(place, "a", None, &[(10, 4, STORED)]);
        write(place, "b", Some("../a"), &[(12, 3, PARENT)]);
        let error = crate::error::chain(&resolve(place, "b").unwrap_err());
        assert!(error.contains("0xe000") && error.contains("b/parent"), "{error}");
        write(place, "c", Some("../gone"), &[(12, 3, PARENT)]);
        assert!(resolve(place, "c").is_err());
    }
}
