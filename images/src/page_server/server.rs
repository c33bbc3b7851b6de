//! The side of a server: what is sent is put into a directory.
//!
//! Who sends is believed in nothing: a request is checked before anything is done for it, and what it announces takes no memory. What
//! comes is written to where nobody looks for it, and appears when all has come.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::protocol::{BYTES, NoRequest, Pages, Request, Subject};
use super::wire::{Wire, failed};
use crate::checkpoint::dedup::{self, GivenBack};
use crate::error::Error;
use crate::messages::{PagemapEntry, PagemapHead, page_flags};
use crate::names;
use crate::pagemap::PageMap;
use crate::reader::ImageReader;
use crate::store::{Arriving, Directory, ImageStore};
use crate::writer::{framed, head};

/// Numbers of pages files begin behind this one: those of the dump's own directory are below, should both be put into one.
const FIRST_PAGES: u32 = 0x10000;
/// No tree has more address spaces and pieces of shared memory.
const MOST_IMAGES: u32 = 1 << 22;
/// Bytes that are read and written at a time.
const PORTION: usize = 256 << 10;

/// How a server goes about it.
#[derive(Clone, Debug)]
pub struct Serving {
    /// Where the pages come to.
    pub directory: PathBuf,
    /// Have everything on the disk before it is said that it is there.
    pub sync: bool,
    /// For how long it is waited for the first request: a dump connects before it stops its tree, and may copy memory before it
    /// sends any.
    pub until_first: Duration,
    /// For how long it is waited for the next request, or for the rest of one.
    pub until_next: Duration,
    /// Pages of the parent of which newer ones came are given back when the dump is whole here, which is known when the other side
    /// has ended the connection.
    pub deduplicates: bool,
    /// Whether it is waited for the end of the connection: a port is free again at once if the other side has ended it.
    pub awaits_end: bool,
}

impl Serving {
    /// Into a directory, with the patience that is usual.
    #[must_use]
    pub const fn into_directory(directory: PathBuf) -> Self {
        Self {
            directory,
            sync: true,
            until_first: Duration::from_secs(3600),
            until_next: Duration::from_secs(120),
            awaits_end: true,
            deduplicates: false,
        }
    }
}

/// What came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Page maps.
    pub maps: usize,
    /// Pages that are present.
    pub pages: u64,
}

/// Serves one dump: takes what comes over `wire`, to the end.
///
/// # Errors
/// If that is not what a dump sends, or cannot be kept: nothing is there then.
pub fn receive(wire: &mut dyn Wire, serving: &Serving) -> Result<Received, Error> {
    wire.wait_for(serving.until_first).map_err(failed("set up the connection"))?;
    let mut session = Session::begin(serving)?;
    loop {
        let mut bytes = [0; BYTES];
        wire.read_exact(&mut bytes).map_err(failed("hear from the dump"))?;
        let request = Request::read(&bytes);
        let request = request.map_err(|NoRequest(what)| Error::PageServer { what })?;
        // That is asked before anything is stopped.
        if !matches!(request, Request::HasParent(_)) {
            wire.wait_for(serving.until_next).map_err(failed("set up the connection"))?;
        }
        let Request::Close { at_once } = request else {
            session.carry_out(request, wire)?;
            continue;
        };
        let done = session.end();
        let status: i32 = if done.is_ok() { 0 } else { -1 };
        let told = wire.write_all(&status.to_le_bytes()).and_then(|()| wire.flush());
        let ends = serving.awaits_end && !at_once;
        if ends {
            wire.await_end();
        }
        let received = done?;
        // It has what it was sent, and the dump will say that it has failed.
        told.map_err(failed("answer the dump"))?;
        if serving.deduplicates && received.maps > 0 {
            deduplicate(&serving.directory, ends);
        }
        return Ok(received);
    }
}

/// Pages are given back to nobody but a whole dump: one that has failed since would have taken them from others, who need them.
fn deduplicate(directory: &Path, has_ended: bool) {
    const LATER: &str = "run `criu dedup` where images and pages are together";
    if !has_ended {
        tracing::warn!(
            "pages of the parent keep their room: the dump may not be whole yet; {LATER}"
        );
        return;
    }
    match dedup::deduplicate(directory) {
        Ok(back) => {
            let GivenBack { pages, unmarked } = back.unwrap_or_default();
            tracing::info!("{pages} pages were given back");
            if unmarked > 0 {
                tracing::warn!(
                    "{unmarked} of the parents cannot say that pages are missing from them"
                );
            }
        }
        Err(error) => tracing::warn!("pages of the parent keep their room: {error}; {LATER}"),
    }
}

/// What has come so far.
struct Session<'s> {
    serving: &'s Serving,
    /// The directory that is written to meanwhile; made when it is needed.
    arriving: Option<Arriving>,
    /// The pages that come now.
    current: Option<Current>,
    /// Which pages file each page map has.
    maps: BTreeMap<Subject, u32>,
    /// How many have been begun.
    begun: u32,
    received: Received,
}

/// A page map that is being written, with its pages.
struct Current {
    subject: Subject,
    map: BufWriter<File>,
    pages: File,
    /// What the parent has of it.
    parent: Option<PageMap>,
}

impl<'s> Session<'s> {
    fn begin(serving: &'s Serving) -> Result<Self, Error> {
        // It is there from the beginning on, or it is said before a dump stops anything.
        Directory::open(&serving.directory)?;
        Ok(Self {
            serving,
            arriving: None,
            current: None,
            maps: BTreeMap::new(),
            begun: 0,
            received: Received::default(),
        })
    }

    fn carry_out(&mut self, request: Request, wire: &mut dyn Wire) -> Result<(), Error> {
        let answering = failed("answer the dump");
        match request {
            Request::Open { subject, answered } => {
                let current = self.open(subject)?;
                let has_parent = u8::from(current.parent.is_some());
                match answered {
                    true => wire.write_all(&[has_parent]).map_err(answering),
                    false => Ok(()),
                }
            }
            Request::HasParent(subject) => {
                let has_parent = u32::from(self.parent()?.is_some_and(|parent| {
                    matches!(parent.open(subject.image().name()), Ok(Some(_)))
                }));
                wire.write_all(&has_parent.to_le_bytes()).map_err(answering)
            }
            Request::Add(subject, pages) => self.add(subject, pages, wire),
            Request::Close { .. } => Ok(()),
        }
    }

    fn parent(&self) -> Result<Option<std::sync::Arc<dyn ImageStore>>, Error> {
        Directory::open(&self.serving.directory)?.parent()
    }

    /// The parent's page map of this.
    fn parent_map(&self, subject: Subject) -> Result<Option<PageMap>, Error> {
        let Some(parent) = self.parent()? else { return Ok(None) };
        let image = subject.image();
        let Some(opened) = parent.open(image.name())? else { return Ok(None) };
        let reader = ImageReader::new(&image, BufReader::new(opened.content), opened.size, true)?;
        PageMap::read(image.name(), reader).map(Some)
    }

    /// Begins a page map. One that was begun before is replaced, as its file would be.
    fn open(&mut self, subject: Subject) -> Result<&mut Current, Error> {
        self.finish_current()?;
        let parent = self.parent_map(subject)?;
        self.begun += 1;
        if self.begun > MOST_IMAGES {
            return Err(Error::PageServer { what: format!("more than {MOST_IMAGES} page maps") });
        }
        let arriving = match &mut self.arriving {
            Some(arriving) => arriving,
            none => none.insert(Arriving::begin(&self.serving.directory, self.serving.sync)?),
        };
        let image = subject.image();
        if let Some(before) = self.maps.remove(&subject) {
            arriving.remove(image.name())?;
            arriving.remove(&names::pages(before))?;
        }
        let id = arriving.free_number(FIRST_PAGES + self.begun, names::pages);
        let pages = arriving.create(&names::pages(id))?;
        let mut map = BufWriter::new(arriving.create(image.name())?);
        let begin = [head(&image), framed(&PagemapHead { pages_id: id })].concat();
        map.write_all(&begin).map_err(Error::io("write", image.name()))?;
        self.maps.insert(subject, id);
        Ok(self.current.insert(Current { subject, map, pages, parent }))
    }

    fn finish_current(&mut self) -> Result<(), Error> {
        let Some(current) = self.current.take() else { return Ok(()) };
        let image = current.subject.image();
        let written = current.map.into_inner().map_err(io::IntoInnerError::into_error);
        let mut map = written.map_err(Error::io("write", image.name()))?;
        // Whoever restores reads it like this: no run lies over another.
        let size = map.stream_position().map_err(Error::io("read", image.name()))?;
        map.rewind().map_err(Error::io("read", image.name()))?;
        let reader = ImageReader::new(&image, BufReader::new(map), size, true)?;
        PageMap::read(image.name(), reader).map(drop)
    }

    fn add(&mut self, subject: Subject, pages: Pages, wire: &mut dyn Wire) -> Result<(), Error> {
        // Versions of CRIU before 1.4 did not say beforehand what pages belong to.
        let current = match &mut self.current {
            Some(current) if current.subject == subject => current,
            _ => self.open(subject)?,
        };
        let image = subject.image();
        if pages.has(page_flags::PARENT) {
            current.check_parent(&pages)?;
        }
        let entry = PagemapEntry::run(pages.start, pages.pages, pages.flags);
        current.map.write_all(&framed(&entry)).map_err(Error::io("write", image.name()))?;
        // What is in the parent is not here, whatever else is said of it.
        if !pages.has(page_flags::PRESENT) || pages.has(page_flags::PARENT) {
            return Ok(());
        }
        let mut buffer = vec![0; PORTION];
        let mut left = pages.bytes();
        while left > 0 {
            let portion = usize::try_from(left).unwrap_or(PORTION).min(PORTION);
            wire.read_exact(&mut buffer[..portion]).map_err(failed("hear from the dump"))?;
            let written = current.pages.write_all(&buffer[..portion]);
            written.map_err(Error::io("write", image.name()))?;
            left -= portion as u64;
        }
        self.received.pages += pages.pages;
        Ok(())
    }

    /// Puts everything in place.
    fn end(mut self) -> Result<Received, Error> {
        self.finish_current()?;
        let maps = std::mem::take(&mut self.maps);
        self.received.maps = maps.len();
        if let Some(arriving) = self.arriving.take() {
            let directory = Directory::open(&self.serving.directory)?;
            let before = maps.keys().filter_map(|subject| pages_of(&directory, *subject).ok()?);
            let before: BTreeSet<u32> = before.collect();
            let pages = maps.values().map(|id| names::pages(*id));
            let maps = maps.keys().map(|subject| subject.image().name().to_owned());
            arriving.appear(&pages.chain(maps).collect::<Vec<_>>())?;
            remove_unused(&directory, before);
        }
        Ok(self.received)
    }
}

impl Current {
    /// All of what is left to the parent has to be there.
    fn check_parent(&self, pages: &Pages) -> Result<(), Error> {
        let subject = self.subject;
        let end = pages.start + pages.bytes();
        let mut at = pages.start;
        while at < end {
            let run = self.parent.as_ref().and_then(|parent| parent.find(at));
            let lost = || Error::PageServer {
                what: format!(
                    "the page at {at:#x} of {subject} is left to the parent, which does not have it"
                ),
            };
            at = run.ok_or_else(lost)?.end();
        }
        Ok(())
    }
}

/// The number of the pages file of a page map that is there.
fn pages_of(directory: &Directory, subject: Subject) -> Result<Option<u32>, Error> {
    let image = subject.image();
    let Some(opened) = directory.open(image.name())? else { return Ok(None) };
    let reader = ImageReader::new(&image, BufReader::new(opened.content), opened.size, true);
    Ok(reader?.next_entry()?.map(|head: PagemapHead| head.pages_id))
}

/// Removes pages of page maps that have been replaced, unless others have them too. What cannot be looked at or removed stays: it is in
/// nobody's way.
fn remove_unused(directory: &Directory, mut pages: BTreeSet<u32>) {
    pages.retain(|id| *id > FIRST_PAGES);
    let Ok(files) = directory.list() else { return };
    for subject in files.iter().filter_map(|file| Subject::of_image(&file.name)) {
        match pages_of(directory, subject) {
            Ok(used) => drop(used.map(|used| pages.remove(&used))),
            Err(_) => return,
        }
    }
    for id in pages {
        let path = directory.path().join(names::pages(id));
        if let Err(error) = std::fs::remove_file(&path) {
            tracing::debug!(%error, path = %path.display(), "pages that nobody has any more stay");
        }
    }
}

/// Makes a checkpoint the parent of what will be in a directory.
///
/// # Errors
/// If the link cannot be made, or leads to another one.
pub fn link_parent(directory: &Path, parent: &Path) -> Result<(), Error> {
    let link = directory.join(names::PARENT_LINK);
    match std::os::unix::fs::symlink(parent, &link) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let there = std::fs::read_link(&link).map_err(Error::path("read", &link))?;
            let what = format!(
                "the link {} leads to another parent, {}: remove it",
                link.display(),
                there.display()
            );
            if there == parent { Ok(()) } else { Err(Error::PageServer { what }) }
        }
        made => made.map_err(Error::path("link", link)),
    }
}

#[cfg(test)]
#[path = "server_tests.rs"]
mod tests;
