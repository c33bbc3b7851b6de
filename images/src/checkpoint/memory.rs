//! Address spaces and shared memory, checked against each other.

use std::collections::{BTreeMap, BTreeSet};

use super::unique::unique;
use super::{Body, Checkpoint, IpcNamespace, Mapping, Process, ipc};
use crate::error::Error;
use crate::images::Images;
use crate::mapping_kind::MappingKind;
use crate::messages::{FileBody, MemfdInodeEntry, VmaEntry, vma_status};
use crate::names;
use crate::pagemap::{PAGE_SIZE, PageMap};

pub(super) fn memfds(images: &Images) -> Result<BTreeMap<u64, MemfdInodeEntry>, Error> {
    let image = names::memfd();
    let entries = images.read_all(&image)?;
    unique(image.name(), "memfd", entries.into_iter().map(|memfd| (memfd.inode_id, memfd)))
}

/// Page maps of all shared memory that a mapping, a memfd or a System V segment refers to. Memory never written to has none.
pub(super) fn shared(
    images: &Images,
    processes: &[Process],
    memfds: &BTreeMap<u64, MemfdInodeEntry>,
    ipc: &BTreeMap<u32, IpcNamespace>,
) -> Result<BTreeMap<u64, PageMap>, Error> {
    let mapped = processes.iter().flat_map(|process| &process.body).flat_map(|body| &body.mappings);
    let mut ids: BTreeSet<u64> = mapped
        .filter(|mapping| mapping.kind.is_shared_anonymous())
        .map(|mapping| mapping.vma.shmid)
        .chain(memfds.values().map(|memfd| u64::from(memfd.shmid)))
        .collect();
    for segment in ipc.values().flat_map(|namespace| namespace.segments.values()) {
        if !ids.insert(segment.page_map()) {
            let what = format!("segment {} has the page map of other memory", segment.desc.id);
            return Err(Error::invalid(names::pagemap_shmem(segment.page_map()).name(), what));
        }
    }
    let mut maps = BTreeMap::new();
    for id in ids {
        let image = names::pagemap_shmem(id);
        if let Some(map) = images.page_map(&image)? {
            check_parent(images, image.name(), &map)?;
            maps.insert(id, map);
        }
    }
    Ok(maps)
}

pub(super) fn check(checkpoint: &Checkpoint, process: &Process, body: &Body) -> Result<(), Error> {
    let image = names::mm(process.pid);
    let name = image.name();
    let files = &checkpoint.files;
    files.require(body.mm.exe_file_id, name, "the program")?;
    let fs = names::fs(process.pid);
    files.require(body.fs.cwd_id, fs.name(), "the working directory")?;
    files.require(body.fs.root_id, fs.name(), "the root")?;

    check_keys(name, body)?;
    let mut end = 0;
    for mapping in &body.mappings {
        let vma = &mapping.vma;
        let (is_guard, what) = match mapping.kind {
            MappingKind::Guard => (true, "guard"),
            _ => (false, "mapping"),
        };
        if !range_is_sane(vma) || vma.start < end && !is_guard {
            let what = format!("{what} {:#x}-{:#x} cannot be", vma.start, vma.end);
            return Err(Error::invalid(name, what));
        }
        if !is_guard {
            end = vma.end;
            check_backing(checkpoint, name, mapping)?;
            ipc::check(&checkpoint.ipc_namespaces, process, mapping)?;
        }
    }
    check_pages(checkpoint, process, body)
}

/// Protection keys have numbers that there may be, and the kernel's own one is of no mapping.
fn check_keys(name: &str, body: &Body) -> Result<(), Error> {
    let (taken, kernels) = (body.mm.protection_keys.unwrap_or(0), body.mm.execute_only_key);
    let given = body.mappings.iter().filter_map(|mapping| mapping.vma.protection_key);
    let wrong = given.filter(|key| !(1..u32::BITS).contains(key) || Some(*key) == kernels);
    let no_kernels = kernels.filter(|key| taken & 1_u32.checked_shl(*key).unwrap_or(0) == 0);
    match wrong.chain(no_kernels).chain((taken & 1 != 0).then_some(0)).next() {
        None => Ok(()),
        Some(key) => Err(Error::invalid(name, format!("protection key {key} cannot be"))),
    }
}

fn range_is_sane(vma: &VmaEntry) -> bool {
    vma.start < vma.end && vma.start.is_multiple_of(PAGE_SIZE) && vma.end.is_multiple_of(PAGE_SIZE)
}

/// A memfd needs its contents.
pub(super) fn check_memfds(checkpoint: &Checkpoint) -> Result<(), Error> {
    for file in checkpoint.files.entries.values() {
        let contents = file.memfd.as_ref().map(|memfd| u64::from(memfd.inode_id));
        if contents.is_some_and(|id| !checkpoint.memfds.contains_key(&id)) {
            let what = format!("file {}: its contents are not in memfd.img", file.id);
            return Err(Error::invalid(names::files().name(), what));
        }
    }
    Ok(())
}

/// A mapping of a file needs the file.
fn check_backing(checkpoint: &Checkpoint, name: &str, mapping: &Mapping) -> Result<(), Error> {
    let vma = &mapping.vma;
    if !mapping.kind.is_of_file() {
        return Ok(());
    }
    let mapping = format!("mapping {:#x}-{:#x}", vma.start, vma.end);
    let id = u32::try_from(vma.shmid)
        .map_err(|_| Error::invalid(name, format!("{mapping} is of file {}", vma.shmid)))?;
    let file = checkpoint.files.require(id, name, &mapping)?;
    let of_kind = file.body().map_or(0, FileBody::mapping_status);
    if vma.status & vma_status::OF_KINDS != of_kind {
        let what = format!("{mapping} is of file {id}, which is of another kind");
        return Err(Error::invalid(name, what));
    }
    Ok(())
}

/// Every stored page is in a mapping.
fn check_pages(checkpoint: &Checkpoint, process: &Process, body: &Body) -> Result<(), Error> {
    let image = names::pagemap(process.pid);
    check_parent(&checkpoint.images, image.name(), &body.pages)?;
    let mappings = body.mappings.iter().filter(|mapping| mapping.kind != MappingKind::Guard);
    let vmas: Vec<_> = mappings.map(|mapping| &mapping.vma).collect();
    for run in &body.pages.runs {
        let mut at = run.start;
        while at < run.end() {
            let next = vmas.partition_point(|vma| vma.end <= at);
            match vmas.get(next) {
                Some(vma) if vma.start <= at => at = vma.end,
                _ => {
                    let what = format!("the page at {at:#x} is in no mapping");
                    return Err(Error::invalid(image.name(), what));
                }
            }
        }
    }
    Ok(())
}

fn check_parent(images: &Images, name: &str, map: &PageMap) -> Result<(), Error> {
    if map.runs.iter().any(crate::PageRun::in_parent) && images.parent()?.is_none() {
        let what = format!("pages are in the parent, and there is no link {}", names::PARENT_LINK);
        return Err(Error::invalid(name, what));
    }
    Ok(())
}
