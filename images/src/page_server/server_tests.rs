//! A server and what dumps send to it, good and bad.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use super::*;
use crate::messages::{IMG_VERSION_1_1, InventoryEntry};
use crate::page_server::{Client, Ending, PagesElsewhere};
use crate::store::{Destination, NewDirectory};
use crate::{ImageWriter, Images, PAGE_SIZE, RunPlace};

#[derive(Debug)]
struct Line(UnixStream);

impl Read for Line {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Wire for Line {
    fn wait_for(&mut self, time: Duration) -> io::Result<()> {
        self.0.set_read_timeout(Some(time))
    }
}

fn serving(directory: &Path) -> Serving {
    Serving {
        sync: false,
        until_first: Duration::from_secs(5),
        until_next: Duration::from_millis(200),
        ..Serving::into_directory(directory.into())
    }
}

/// Serves what `send` sends; what came of it, and what was answered.
fn serve(directory: &Path, send: &[u8], stays: bool) -> (Result<Received, Error>, Vec<u8>) {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let serving = serving(directory);
    std::thread::scope(|scope| {
        let server = scope.spawn(move || receive(&mut Line(ours), &serving));
        // Who hangs up early is sent no more.
        theirs.write_all(send).ok();
        if !stays {
            theirs.shutdown(std::net::Shutdown::Write).unwrap();
        }
        let mut answer = Vec::new();
        theirs.read_to_end(&mut answer).ok();
        (server.join().unwrap(), answer)
    })
}

fn list(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn requests(requests: &[Request]) -> Vec<u8> {
    requests.iter().flat_map(|request| request.written().unwrap()).collect()
}

const SUBJECT: Subject = Subject::Process(5);

fn open() -> Request {
    Request::Open { subject: SUBJECT, answered: true }
}

fn add(start: u64, pages: u64, flags: u32) -> Request {
    Request::Add(SUBJECT, Pages { start, pages, flags })
}

fn page(fill: u8) -> Vec<u8> {
    vec![fill; 4096]
}

const CLOSE: Request = Request::Close { at_once: false };

#[test]
fn what_comes_is_there_when_all_has_come() {
    let directory = tempfile::tempdir().unwrap();
    let send = [
        requests(&[open(), add(0x1000, 2, page_flags::PRESENT)]),
        page(1),
        page(2),
        requests(&[add(0x8000, 1, page_flags::LAZY), CLOSE]),
    ];
    let (received, answer) = serve(directory.path(), &send.concat(), false);
    assert_eq!(received.unwrap(), Received { maps: 1, pages: 2 });
    assert_eq!(answer, [0, 0, 0, 0, 0]);
    assert_eq!(list(directory.path()), ["pagemap-5.img", "pages-65537.img"]);
    let pages = std::fs::read(directory.path().join("pages-65537.img")).unwrap();
    assert_eq!(pages, [page(1), page(2)].concat());
    // Once more: the older pages go, and others stay.
    std::fs::write(directory.path().join("pages-1.img"), "x").unwrap();
    let (received, _) = serve(directory.path(), &requests(&[open(), CLOSE]), false);
    assert_eq!(received.unwrap(), Received { maps: 1, pages: 0 });
    assert_eq!(list(directory.path()), ["pagemap-5.img", "pages-1.img", "pages-65538.img"]);
}

#[test]
fn a_map_that_is_opened_again_begins_anew() {
    let directory = tempfile::tempdir().unwrap();
    let other = Request::Open { subject: Subject::Shared(9), answered: false };
    let send = [
        requests(&[open(), add(0x1000, 1, page_flags::PRESENT)]),
        page(1),
        requests(&[other, open(), add(0x2000, 1, page_flags::PRESENT)]),
        page(2),
        requests(&[CLOSE]),
    ];
    let (received, _) = serve(directory.path(), &send.concat(), false);
    assert_eq!(received.unwrap().maps, 2);
    let there = list(directory.path());
    assert_eq!(
        there,
        ["pagemap-5.img", "pagemap-shmem-9.img", "pages-65538.img", "pages-65539.img"]
    );
    assert_eq!(std::fs::read(directory.path().join("pages-65539.img")).unwrap(), page(2));
}

/// A checkpoint whose page maps are replaced is none any more, and one that has come meanwhile stays.
#[test]
fn an_older_checkpoint_is_none_any_more() {
    for written_meanwhile in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let inventory = directory.path().join("inventory.img");
        std::fs::write(&inventory, "of another").unwrap();
        let serving = serving(directory.path());
        let mut session = Session::begin(&serving).unwrap();
        session.open(SUBJECT).unwrap();
        if written_meanwhile {
            std::fs::write(&inventory, "of this one").unwrap();
        }
        session.end().unwrap();
        assert_eq!(inventory.exists(), written_meanwhile);
        assert!(directory.path().join("pagemap-5.img").exists());
    }
}

#[test]
fn a_link_to_another_parent_is_not_taken_for_this_one() {
    let directory = tempfile::tempdir().unwrap();
    let link = |to: &str| link_parent(directory.path(), Path::new(to));
    link("../1").unwrap();
    link("../1").unwrap();
    let error = link("../2").unwrap_err().to_string();
    assert!(error.contains("another parent, ../1"), "{error}");
}

/// Nothing of what is wrong or not whole is left, nor takes much time or memory.
#[test]
fn what_is_not_right_leaves_nothing() {
    let whole = [requests(&[open(), add(0x1000, 1, page_flags::PRESENT)]), page(1)].concat();
    let huge = add(0, 1 << 51, page_flags::PRESENT);
    let over_another = {
        let page =
            |start| [requests(&[add(start, 2, page_flags::PRESENT)]), page(1), page(1)].concat();
        [requests(&[open()]), page(0x5000), page(0x6000), requests(&[CLOSE])].concat()
    };
    let cases: [(&str, Vec<u8>); 10] = [
        ("one run over another", over_another),
        ("nothing", Vec::new()),
        ("not closed", whole.clone()),
        ("cut within a request", [&whole[..], &[1; 31]].concat()),
        ("cut within a page", whole[..whole.len() - 1].to_vec()),
        ("more is announced than comes", [requests(&[open(), huge]), page(1)].concat()),
        ("an unknown command", [whole.clone(), vec![0xee; BYTES]].concat()),
        ("an unknown kind", [whole.clone(), vec![3; BYTES]].concat()),
        ("pages on demand", {
            let mut get = [0; BYTES];
            get[0] = 7;
            [whole.clone(), get.to_vec()].concat()
        }),
        (
            "left to a parent that is not",
            requests(&[open(), add(0x1000, 1, page_flags::PARENT), CLOSE]),
        ),
    ];
    for (what, send) in cases {
        for stays in [false, true] {
            if what == "nothing" && stays {
                continue;
            }
            let directory = tempfile::tempdir().unwrap();
            let (received, answer) = serve(directory.path(), &send, stays);
            assert!(received.is_err(), "{what}");
            assert!(answer.len() <= 1 || answer[1..] == [0xff; 4], "{what}: {answer:?}");
            assert_eq!(list(directory.path()), [""; 0], "{what}");
        }
    }
}

fn checkpoint(
    to: &dyn Destination,
    write: impl FnOnce(&ImageWriter) -> Result<(), Error>,
) -> Result<(), Error> {
    let writer = ImageWriter::of(to.begin()?);
    write(&writer)?;
    let inventory = InventoryEntry { img_version: IMG_VERSION_1_1, ..InventoryEntry::default() };
    writer.write_one(&names::inventory(), &inventory)?;
    writer.commit().map(drop)
}

/// Writes a page map whose stored pages are each filled with a number of their own.
fn map(folder: crate::Folder<'_>, runs: &[(u64, u64, u32)], fill: u8) -> Result<(), Error> {
    let (id, sink) = folder.pages()?;
    let mut image = folder.image(&names::pagemap(5))?;
    image.put(&PagemapHead { pages_id: id })?;
    for (start, pages, flags) in runs {
        image.put_as(&PagemapEntry::run(start * PAGE_SIZE, *pages, *flags))?;
        if *flags == page_flags::PRESENT {
            let at = sink.reserve(pages * PAGE_SIZE).unwrap();
            sink.write_all_at(&vec![fill; (pages * PAGE_SIZE) as usize], at).unwrap();
        }
    }
    image.finish()
}

fn destination(directory: &Path) -> NewDirectory {
    let options =
        crate::WriteOptions { overwrite: true, in_place: true, sync: false, pages_elsewhere: true };
    NewDirectory { path: directory.into(), options }
}

/// A checkpoint whose pages go to a server with the directory `there`.
fn elsewhere(
    here: &Path,
    there: &Path,
    parent: Option<&Images>,
    write: impl FnOnce(&ImageWriter) -> Result<(), Error>,
) -> (Result<(), Error>, Result<Received, Error>) {
    elsewhere_by(here, &serving(there), parent, |to| checkpoint(to, write))
}

fn elsewhere_by(
    here: &Path,
    serving: &Serving,
    parent: Option<&Images>,
    dump: impl FnOnce(&dyn Destination) -> Result<(), Error>,
) -> (Result<(), Error>, Result<Received, Error>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    std::thread::scope(|scope| {
        let server = scope.spawn(move || receive(&mut Line(ours), serving));
        let client = Client::new(Box::new(Line(theirs)), Ending::OfConnection).unwrap();
        let client = Arc::new(client);
        let done = parent.map_or(Ok(()), |parent| client.require_parent(parent));
        let done =
            done.and_then(|()| dump(&PagesElsewhere::new(destination(here), Arc::clone(&client))));
        drop(client);
        (done, server.join().unwrap())
    })
}

/// Which pages a page map has, and what they are filled with.
fn shown(images: &Images) -> Vec<(u64, u64, Option<u8>)> {
    let map = images.page_map(&names::pagemap(5)).unwrap().unwrap();
    let pages = images.pages(map.pages_id).unwrap();
    let run = |run: &crate::PageRun| {
        let fill = match run.place {
            RunPlace::Stored(offset) => {
                let mut bytes = vec![0; run.bytes() as usize];
                pages.read_exact_at(&mut bytes, offset).unwrap();
                assert!(bytes.iter().all(|byte| *byte == bytes[0]));
                Some(bytes[0])
            }
            _ => None,
        };
        (run.start / PAGE_SIZE, run.pages, fill)
    };
    map.runs.iter().map(run).collect()
}

const PRESENT: u32 = page_flags::PRESENT;
const PARENT: u32 = page_flags::PARENT;

/// In one directory, and in two: a dump with what was copied early, and one that leaves pages to it.
#[test]
fn pages_come_to_the_server_and_images_stay() {
    for together in [true, false] {
        let place = tempfile::tempdir().unwrap();
        let at = |name: &str| {
            let path = place.path().join(name);
            std::fs::create_dir_all(&path).unwrap();
            path
        };
        let (here, there) = (at("here/1"), if together { at("here/1") } else { at("there/1") });
        // Of an older checkpoint in the same place.
        std::fs::write(here.join("pagemap-77.img"), "x").unwrap();
        let (done, received) = elsewhere(&here, &there, None, |writer| {
            let folders = writer.pre_copies(2)?;
            map(folders[0], &[(0, 8, PRESENT)], 1)?;
            map(folders[1], &[(2, 2, PRESENT), (4, 4, PARENT), (0, 2, PARENT)], 2)?;
            folders[1].link_parent(Path::new(".."))?;
            writer.link_parent(names::PRE_COPIES[1].as_ref())?;
            map(writer.here(), &[(0, 6, PARENT), (6, 1, PRESENT), (9, 1, PRESENT)], 3)
        });
        done.unwrap();
        assert_eq!(received.unwrap(), Received { maps: 1, pages: 8 });
        let of_both = [
            "inventory.img",
            "pagemap-5.img",
            "pages-65537.img",
            "stasis-manifest",
            "stasis-served.img",
        ];
        match together {
            true => assert_eq!(list(&here), of_both),
            false => {
                assert_eq!(list(&here), ["inventory.img", "stasis-manifest", "stasis-served.img"]);
                assert_eq!(list(&there), of_both[1..3]);
                let error = Images::open(&here).unwrap().page_map(&names::pagemap(5)).unwrap_err();
                assert!(matches!(error, Error::Elsewhere { .. }), "{error}");
            }
        }
        let first = Images::open(&here).unwrap();
        assert_eq!(first.page_runs(&names::pagemap(5)).unwrap().unwrap().len(), 5);

        let (next, then) = (at("here/2"), if together { at("here/2") } else { at("there/2") });
        let second = |writer: &ImageWriter| {
            let entry = first.as_parent()?;
            writer.here().link_checkpoint(Path::new("../1"), entry)?;
            map(writer.here(), &[(0, 4, PARENT), (4, 1, PRESENT)], 4)
        };
        // Without the parent the server refuses, before anything is sent.
        let (done, received) = elsewhere(&next, &then, Some(&first), second);
        assert!(done.unwrap_err().to_string().contains("--prev-images-dir"));
        assert!(received.is_err());
        assert_eq!(list(&next), [""; 0]);
        let (done, _) = elsewhere(&next, &then, None, second);
        assert!(done.unwrap_err().to_string().contains("--prev-images-dir"));
        assert_eq!(list(&next), [""; 0]);
        link_parent(&then, Path::new("../1")).unwrap();
        let (done, received) = elsewhere(&next, &then, Some(&first), second);
        done.unwrap();
        assert_eq!(received.unwrap(), Received { maps: 1, pages: 1 });

        // Whoever restores puts them together.
        if !together {
            for (from, to) in [(&there, &here), (&then, &next)] {
                for name in list(from) {
                    if name.starts_with("pagemap") || name.starts_with("pages") {
                        std::fs::copy(from.join(&name), to.join(&name)).unwrap();
                    }
                }
            }
        }
        let first = Images::open(&here).unwrap();
        let second = Images::open(&next).unwrap();
        let all =
            [(0, 2, Some(1)), (2, 2, Some(2)), (4, 2, Some(1)), (6, 1, Some(3)), (9, 1, Some(3))];
        assert_eq!(shown(&first), all);
        assert_eq!(shown(&second), [(0, 4, None), (4, 1, Some(4))]);
        assert_eq!(shown(&second.parent().unwrap().unwrap()), all);
        // Those of another dump are told.
        std::fs::copy(next.join("pagemap-5.img"), here.join("pagemap-5.img")).unwrap();
        let error = first.page_map(&names::pagemap(5)).unwrap_err();
        assert!(matches!(error, Error::Changed { .. }), "{error}");
    }
}

/// Pages of a parent go to a dump that is whole, and not to one that has sent its pages and fails.
#[test]
fn a_dump_that_fails_takes_nothing_from_the_parent() {
    let place = tempfile::tempdir().unwrap();
    let at = |name: &str| {
        let path = place.path().join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    };
    let (one, two, other) = (at("1"), at("2"), at("other"));
    let (done, _) = elsewhere(&one, &one, None, |writer| map(writer.here(), &[(0, 8, PRESENT)], 1));
    done.unwrap();
    let first = Images::open(&one).unwrap();
    link_parent(&two, Path::new("../1")).unwrap();
    let serving = Serving { deduplicates: true, ..serving(&two) };
    let second = |writer: &ImageWriter| {
        writer.here().link_checkpoint(Path::new("../1"), first.as_parent()?)?;
        map(writer.here(), &[(0, 4, PARENT), (4, 4, PRESENT)], 2)
    };
    // Images cannot be put in place any more when the pages are there.
    std::fs::create_dir_all(other.join("inventory.img/in the way")).unwrap();
    let send = |to: &dyn Destination| checkpoint(to, second);
    let (done, received) = elsewhere_by(&other, &serving, Some(&first), send);
    done.unwrap_err();
    assert_eq!(received.unwrap().pages, 4);
    assert_eq!(shown(&Images::open(&one).unwrap()), [(0, 8, Some(1))]);

    let (done, received) = elsewhere_by(&two, &serving, Some(&first), send);
    done.unwrap();
    received.unwrap();
    let bytes = std::fs::read(one.join("pages-65537.img")).unwrap();
    let filled: Vec<_> = bytes.chunks(4096).map(|page| page[0]).collect();
    assert_eq!(filled, [1, 1, 1, 1, 0, 0, 0, 0]);
}

/// A server that ends, or stops to listen, fails the dump, which leaves nothing.
#[test]
fn a_server_that_is_lost_fails_the_dump() {
    let place = tempfile::tempdir().unwrap();
    for answers in [0, 1, 4] {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let mut request = [0; BYTES];
                theirs.read_exact(&mut request).unwrap();
                theirs.write_all(&vec![0; answers]).unwrap();
            });
            let client = Client::new(Box::new(Line(ours)), Ending::OfConnection).unwrap();
            let to = PagesElsewhere::new(destination(place.path()), Arc::new(client));
            let write = |writer: &ImageWriter| map(writer.here(), &[(0, 100, PRESENT)], 1);
            let error = checkpoint(&to, write).unwrap_err();
            assert!(matches!(error, Error::PageServerLink { .. }), "{error}");
        });
        assert_eq!(list(place.path()), [""; 0]);
    }
}
