//! The side of a dump: images stay where they are, and pages are sent.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::flat::{Piece, flat};
use super::protocol::{Pages, Request, Subject};
use super::wire::{Wire, failed};
use crate::error::Error;
use crate::images::Images;
use crate::messages::{PagemapEntry, ServedEntry, page_flags};
use crate::names;
use crate::pagemap::PageMap;
use crate::reader::ImageReader;
use crate::store::{
    Committed, Complete, Destination, ImageOutput, NewCheckpoint, Opened, PageSink, Safe,
};
use crate::writer::{framed, head};

/// How long a server may take to go on with what it is sent, or to answer a question.
const STALLED: Duration = Duration::from_secs(60);
/// How long it may take to have everything on its disk.
const SETTLING: Duration = Duration::from_secs(600);
/// Bytes that are read and sent at a time.
const PORTION: usize = 256 << 10;

/// What follows when all has been sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The connection ends, as it is ours.
    OfConnection,
    /// The server is told to end: others hold the connection open.
    OfServer,
}

/// A connection to a page server.
#[derive(Debug)]
pub struct Client {
    line: Mutex<Line>,
    ending: Ending,
}

/// The connection, and what has not been sent over it yet.
#[derive(Debug)]
struct Line {
    wire: Box<dyn Wire>,
    waiting: Vec<u8>,
}

impl Client {
    /// Takes over a connection.
    ///
    /// # Errors
    /// As the connection's.
    pub fn new(mut wire: Box<dyn Wire>, ending: Ending) -> Result<Self, Error> {
        wire.wait_for(STALLED).map_err(failed("set up the connection"))?;
        Ok(Self { line: Mutex::new(Line { wire, waiting: Vec::new() }), ending })
    }

    fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks whether the server has a parent with pages that the local one is known to have.
    ///
    /// # Errors
    /// If it has none of them: who leaves pages to a parent would lose them.
    pub fn require_parent(&self, parent: &Images) -> Result<(), Error> {
        let mut line = self.lock();
        let mut none = true;
        for name in parent.page_maps()? {
            let Some(subject) = Subject::of_image(&name) else { continue };
            none = false;
            line.ask(&Request::HasParent(subject))?;
            let mut answer = [0; 4];
            line.hear(&mut answer)?;
            if answer != [0; 4] {
                return Ok(());
            }
        }
        match none {
            true => Ok(()),
            false => Err(Error::PageServer {
                what: "it does not have the parent checkpoint: start it with --prev-images-dir, or dump without"
                    .to_owned(),
            }),
        }
    }
}

impl Line {
    fn ask(&mut self, request: &Request) -> Result<(), Error> {
        let no_room = || Error::PageServer { what: format!("{request:?} cannot be sent to it") };
        let bytes = request.written().ok_or_else(no_room)?;
        self.send(&bytes)
    }

    /// Small things wait for each other.
    fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.waiting.extend_from_slice(bytes);
        if self.waiting.len() < PORTION { Ok(()) } else { self.send_waiting() }
    }

    fn send_waiting(&mut self) -> Result<(), Error> {
        self.wire.write_all(&self.waiting).map_err(failed("send to the page server"))?;
        self.waiting.clear();
        Ok(())
    }

    fn hear(&mut self, answer: &mut [u8]) -> Result<(), Error> {
        self.send_waiting()?;
        self.wire.read_exact(answer).map_err(failed("hear from the page server"))
    }
}

/// A place for a checkpoint of which the pages go to a page server.
#[derive(Debug)]
pub struct PagesElsewhere<D> {
    local: D,
    client: Arc<Client>,
}

impl<D> PagesElsewhere<D> {
    /// Images come to `local`.
    pub const fn new(local: D, client: Arc<Client>) -> Self {
        Self { local, client }
    }
}

impl<D: Destination> Destination for PagesElsewhere<D> {
    fn path(&self) -> &Path {
        self.local.path()
    }

    fn begin(&self) -> Result<Box<dyn NewCheckpoint>, Error> {
        let (local, client) = (self.local.begin()?, Arc::clone(&self.client));
        Ok(Box::new(Parted { local, client, links: Mutex::default() }))
    }

    fn make_safe(&self, complete: &Complete<'_>) -> Result<(), Error> {
        self.local.make_safe(complete)
    }
}

/// A checkpoint that is being written, whose pages stay in the local one until they are sent.
#[derive(Debug)]
struct Parted {
    local: Box<dyn NewCheckpoint>,
    client: Arc<Client>,
    /// Where links to parents lead.
    links: Mutex<BTreeMap<String, PathBuf>>,
}

/// A page map of one of the folders of the local checkpoint, with where its pages are.
struct Layer {
    map: PageMap,
    pages: Option<Opened>,
}

impl Parted {
    fn layer(&self, folder: &str, subject: Subject) -> Result<Layer, Error> {
        let image = subject.image();
        let Opened { content, size } = self.local.read(&format!("{folder}{}", image.name()))?;
        let reader = ImageReader::new(&image, BufReader::new(content), size, true)?;
        let map = PageMap::read(image.name(), reader)?;
        let stored = map.stored_pages() > 0;
        let name = format!("{folder}{}", names::pages(map.pages_id));
        let pages = stored.then(|| self.local.read(&name)).transpose()?;
        Ok(Layer { map, pages })
    }

    /// Sends all pages of one address space; what they are.
    fn send(
        &self,
        subject: Subject,
        names: &BTreeSet<String>,
        line: &mut Line,
    ) -> Result<Vec<Piece>, Error> {
        let folders = names::PRE_COPIES.iter().rev().map(|name| format!("{name}/"));
        let mut layers = Vec::new();
        for folder in [String::new()].into_iter().chain(folders) {
            if names.contains(&format!("{folder}{}", subject.image().name())) {
                layers.push(self.layer(&folder, subject)?);
            }
        }
        let (maps, mut files): (Vec<_>, Vec<_>) =
            layers.into_iter().map(|layer| (layer.map, layer.pages)).unzip();
        let pieces = flat(subject.image().name(), &maps)?;
        line.ask(&Request::Open { subject, answered: true })?;
        let mut has_parent = [0];
        line.hear(&mut has_parent)?;
        if has_parent == [0] && pieces.iter().any(|piece| piece.at.is_none()) {
            let what = format!(
                "it has no parent of {subject}, to which pages are left: start it with --prev-images-dir, or dump without"
            );
            return Err(Error::PageServer { what });
        }
        for piece in &pieces {
            let flags = if piece.at.is_some() { page_flags::PRESENT } else { page_flags::PARENT };
            let pages = Pages { start: piece.start, pages: piece.pages, flags };
            line.ask(&Request::Add(subject, pages))?;
            if let Some((level, offset)) = piece.at {
                let lost = || Error::Missing { name: subject.to_string() };
                let file = files.get_mut(level).and_then(Option::as_mut).ok_or_else(lost)?;
                send_bytes(file, offset, pages.bytes(), subject, line)?;
            }
        }
        Ok(pieces)
    }

    /// Sends everything, and hears that it is safe.
    fn send_all(&self, names: &BTreeSet<String>) -> Result<Sent, Error> {
        let mut line = self.client.lock();
        let subjects = names.iter().filter_map(|name| Subject::of_image(name));
        let mut sent = Vec::new();
        for subject in subjects {
            sent.push((subject, self.send(subject, names, &mut line)?));
        }
        line.ask(&Request::Close { at_once: self.client.ending == Ending::OfServer })?;
        line.wire.wait_for(SETTLING).map_err(failed("set up the connection"))?;
        let mut status = [0; 4];
        line.hear(&mut status)?;
        match i32::from_le_bytes(status) {
            0 => Ok(sent),
            status => Err(Error::PageServer {
                what: format!("it could not keep the pages ({status}): its log says why"),
            }),
        }
    }

    /// Notes what was sent.
    fn note(&self, sent: &Sent) -> Result<(), Error> {
        let image = names::served();
        let mut output = self.local.create(image.name())?;
        let mut bytes = head(&image);
        for (subject, pieces) in sent {
            let runs = pieces.len() as u64;
            let entry = ServedEntry { name: subject.to_string(), runs };
            bytes.extend(framed(&entry));
            for piece in pieces {
                let flags =
                    if piece.at.is_some() { page_flags::PRESENT } else { page_flags::PARENT };
                bytes.extend(framed(&PagemapEntry::run(piece.start, piece.pages, flags)));
            }
            output.write_all(&bytes).map_err(Error::io("write", image.name()))?;
            bytes.clear();
        }
        output.write_all(&bytes).map_err(Error::io("write", image.name()))
    }
}

/// What was sent, by what it belongs to.
type Sent = Vec<(Subject, Vec<Piece>)>;

fn send_bytes(
    file: &mut Opened,
    offset: u64,
    bytes: u64,
    subject: Subject,
    line: &mut Line,
) -> Result<(), Error> {
    let name = subject.to_string();
    file.content.seek(SeekFrom::Start(offset)).map_err(Error::io("seek in", &name))?;
    let mut buffer = vec![0; PORTION];
    let mut left = bytes;
    while left > 0 {
        let portion = usize::try_from(left).unwrap_or(PORTION).min(PORTION);
        file.content.read_exact(&mut buffer[..portion]).map_err(Error::io("read", &name))?;
        line.send(&buffer[..portion])?;
        left -= portion as u64;
    }
    Ok(())
}

/// Where a link inside belongs when there are no folders any more.
fn link_without_folders(name: &str, to: &Path) -> Option<PathBuf> {
    let is_inside = |to: &Path| names::PRE_COPIES.iter().any(|name| to == Path::new(name));
    match name.rsplit_once('/') {
        None if is_inside(to) => None,
        None => Some(to.to_owned()),
        Some((folder, _)) if folder == names::PRE_COPY => {
            Some(to.strip_prefix("..").unwrap_or(to).to_owned())
        }
        Some(_) => None,
    }
}

impl NewCheckpoint for Parted {
    fn target(&self) -> &Path {
        self.local.target()
    }

    fn create(&self, name: &str) -> Result<Box<dyn ImageOutput>, Error> {
        self.local.create(name)
    }

    fn create_pages(&self, name: &str) -> Result<Arc<dyn PageSink>, Error> {
        self.local.create_pages(name)
    }

    fn create_directory(&self, name: &str) -> Result<(), Error> {
        self.local.create_directory(name)
    }

    fn link(&self, name: &str, to: &Path) -> Result<(), Error> {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.insert(name.to_owned(), to.to_owned());
        Ok(())
    }

    fn read(&self, name: &str) -> Result<Opened, Error> {
        self.local.read(name)
    }

    fn keeps_early_apart(&self) -> bool {
        false
    }

    fn kept(&self, names: &BTreeSet<String>) -> Result<BTreeMap<String, String>, Error> {
        let sent = self.send_all(names)?;
        self.note(&sent)?;
        let mut kept = BTreeMap::new();
        let links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        for name in names {
            match links.get(name) {
                Some(to) => {
                    if let Some(to) = link_without_folders(name, to) {
                        self.local.link(names::PARENT_LINK, &to)?;
                        kept.insert(name.clone(), names::PARENT_LINK.to_owned());
                    }
                }
                None if !name.contains('/') && !names::is_of_pages(name) => {
                    kept.insert(name.clone(), name.clone());
                }
                None => {}
            }
        }
        let served = names::served().name().to_owned();
        kept.insert(served.clone(), served);
        Ok(kept)
    }

    fn commit(self: Box<Self>, names: &BTreeSet<String>, safe: Safe) -> Result<Committed, Error> {
        self.local.commit(names, safe)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_where_they_led() {
        let link = |name, to: &str| link_without_folders(name, Path::new(to));
        assert_eq!(link("parent", "../1"), Some("../1".into()));
        assert_eq!(link("parent", "pre-copy/pre-copy"), None);
        assert_eq!(link("pre-copy/parent", "../../1"), Some("../1".into()));
        assert_eq!(link("pre-copy/pre-copy/parent", ".."), None);
    }
}
