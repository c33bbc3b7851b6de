//! Images made by CRIU 4.2 itself (`tests/data/criu-4.2`): all of them are read, checked, and written again byte
//! for byte.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends")]

use std::fs;
use std::path::{Path, PathBuf};

use prost::Message;
use stasis_images::checkpoint::{Payload, PayloadReader, State};
use stasis_images::messages::{
    GhostChunkEntry, PagemapEntry, SHUTDOWN_NONE, SK_LISTEN, fd_type, vma_status,
};
use stasis_images::{
    Checkpoint, Image, ImageReader, ImageWriter, Images, WriteOptions, encode, names,
};

fn set(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/data/criu-4.2").join(name)
}

fn load(name: &str) -> Checkpoint {
    Checkpoint::load(Images::open(&set(name)).unwrap()).unwrap()
}

/// What CRIU of before 2.0 wrote into images of their own is not left out in silence.
#[test]
fn what_nobody_reads_is_named() {
    let folder = tempfile::tempdir().unwrap();
    for file in fs::read_dir(set("busy")).unwrap().flatten() {
        fs::copy(file.path(), folder.path().join(file.file_name())).unwrap();
    }
    fs::write(folder.path().join("itimers-7.img"), [0; 8]).unwrap();
    assert!(Checkpoint::load(Images::open(folder.path()).unwrap()).is_ok());
    fs::write(folder.path().join("itimers-7.img"), [0; 9]).unwrap();
    let error = Checkpoint::load(Images::open(folder.path()).unwrap()).unwrap_err().to_string();
    assert!(error.contains("itimers-7.img") && error.contains("interval timers"), "{error}");
}

/// Reads an image whose entries are followed by as many bytes as `payload` says, and writes it again.
fn again<M: Message + Default>(
    image: &Image<M>,
    bytes: &[u8],
    payload: impl Fn(&M) -> u64,
) -> Vec<u8> {
    let mut reader = ImageReader::new(image, bytes, bytes.len() as u64, true).unwrap();
    let mut written = encode::<M>(image, []);
    let head = written.len();
    while let Some(entry) = reader.next_entry().unwrap() {
        written.extend(&encode(image, [&entry])[head..]);
        written.extend(reader.bytes(payload(&entry)).unwrap());
    }
    written
}

fn plain<M: Message + Default>(image: &Image<M>, bytes: &[u8]) -> Vec<u8> {
    again(image, bytes, |_| 0)
}

/// Reads an image whose first entry is of another type than the rest.
fn headed<M: Message + Default, N: Message + Default>(
    image: &Image<M>,
    bytes: &[u8],
    payload: impl Fn(&N) -> u64,
) -> Vec<u8> {
    let mut reader = ImageReader::new(image, bytes, bytes.len() as u64, true).unwrap();
    let mut written = encode(image, [&reader.next_entry().unwrap().unwrap()]);
    while let Some(entry) = reader.next_as::<N>().unwrap() {
        written.extend(u32::try_from(entry.encoded_len()).unwrap().to_le_bytes());
        written.extend(entry.encode_to_vec());
        written.extend(reader.bytes(payload(&entry)).unwrap());
    }
    written
}

fn written_again(name: &str, bytes: &[u8]) -> Option<Vec<u8>> {
    let stem = name.strip_suffix(".img").unwrap_or(name);
    let kind = stem.trim_end_matches(|c: char| c.is_ascii_hexdigit()).trim_end_matches('-');
    let kind = if stem.contains('-') { kind } else { stem };
    Some(match (stem, kind) {
        ("inventory", _) => plain(&names::inventory(), bytes),
        ("pstree", _) => plain(&names::pstree(), bytes),
        ("files", _) => plain(&names::files(), bytes),
        ("memfd", _) => plain(&names::memfd(), bytes),
        ("seccomp", _) => plain(&names::seccomp(), bytes),
        ("tty-info", _) => plain(&names::tty_info(), bytes),
        ("remap-fpath", _) => plain(&names::remap_fpath(), bytes),
        ("stats-dump", _) => plain(&names::stats_dump(), bytes),
        ("pipes-data", _) => again(&names::pipes_data(), bytes, |pipe| pipe.bytes.into()),
        ("bpfmap-data", _) => again(&names::bpfmap_data(), bytes, |map| {
            u64::from(map.keys_bytes) + u64::from(map.values_bytes)
        }),
        ("fifo-data", _) => again(&names::fifo_data(), bytes, |pipe| pipe.bytes.into()),
        ("sk-queues", _) => again(&names::sk_queues(), bytes, |packet| packet.length.into()),
        (_, "core") => plain(&names::core(1), bytes),
        (_, "ids") => plain(&names::ids(1), bytes),
        (_, "fs") => plain(&names::fs(1), bytes),
        (_, "mm") => plain(&names::mm(1), bytes),
        (_, "fdinfo") => plain(&names::fdinfo(1), bytes),
        (_, "timens") => plain(&names::timens(0), bytes),
        (_, "pagemap" | "pagemap-shmem") => headed(&names::pagemap(1), bytes, |_: &PagemapEntry| 0),
        (_, "ghost-file") => {
            let image = names::ghost_file(1);
            let mut reader = ImageReader::new(&image, bytes, bytes.len() as u64, true).unwrap();
            if reader.next_entry().unwrap().unwrap().chunks() {
                headed(&image, bytes, |chunk: &GhostChunkEntry| chunk.len)
            } else {
                let rest = reader.left();
                again(&image, bytes, |_| rest)
            }
        }
        (_, "pages") => return None,
        _ => panic!("no test for {name}"),
    })
}

fn bytes_of<M>(checkpoint: &Checkpoint, image: &Image<M>, payload: Payload) -> Vec<u8> {
    PayloadReader::open(&checkpoint.images, image).unwrap().read(payload).unwrap()
}

#[test]
fn every_image_is_written_again_byte_for_byte() {
    let mut images = 0;
    for name in ["minimal", "busy", "family", "ghosts", "terminal"] {
        for file in fs::read_dir(set(name)).unwrap() {
            let path = file.unwrap().path();
            let bytes = fs::read(&path).unwrap();
            if let Some(written) =
                written_again(path.file_name().unwrap().to_str().unwrap(), &bytes)
            {
                assert!(written == bytes, "{} differs", path.display());
                images += 1;
            }
        }
    }
    assert!(images > 80, "{images}");
}

#[test]
fn a_minimal_process_is_read() {
    let checkpoint = load("minimal");
    let [process] = checkpoint.processes.as_slice() else { panic!("one process") };
    assert_eq!((process.ppid, process.pgid, process.sid), (0, process.pid, process.pid));
    assert_eq!((process.state, process.task.comm.as_slice()), (State::Alive, &b"minimal"[..]));
    let body = process.body.as_ref().unwrap();
    assert!((3..10).contains(&body.pages.stored_pages()));
    assert_eq!(process.task.sigactions.len(), 62);
    assert_eq!(process.task.rlimits.as_ref().unwrap().rlimits.len(), 16);
    let exe = &checkpoint.files.entries[&body.mm.exe_file_id];
    assert!(exe.reg.as_ref().unwrap().name.ends_with(b"/minimal"));
}

#[test]
fn threads_files_and_queues_are_read() {
    let checkpoint = load("busy");
    let process = checkpoint.root();
    assert_eq!(process.threads.len(), 2);
    let files = &checkpoint.files;
    let count = |kind| files.entries.values().filter(|file| file.r#type == kind).count();
    assert_eq!(count(fd_type::PIPE), 4);
    assert_eq!(count(fd_type::FIFO), 1);
    assert_eq!(count(fd_type::UNIXSK), 5);
    assert_eq!(count(fd_type::INETSK), 2);
    assert_eq!(count(fd_type::MEMFD), 1);
    let epoll = files.entries.values().find_map(|file| file.epfd.as_ref()).unwrap();
    assert_eq!(epoll.tfd.len(), 6);
    let inet = files.entries.values().find_map(|file| file.isk.as_ref()).unwrap();
    assert_eq!((inet.state, inet.src_addr.clone()), (SK_LISTEN, vec![0x0100_007f]));
    assert_eq!(inet.shutdown.unwrap_or(SHUTDOWN_NONE), SHUTDOWN_NONE);

    let pipe = checkpoint.pipes.iter().find(|pipe| pipe.entry.bytes > 0).unwrap();
    let bytes = bytes_of(&checkpoint, &names::pipes_data(), pipe.payload);
    assert_eq!(bytes, b"in the pipe");
    let bytes = bytes_of(&checkpoint, &names::fifo_data(), checkpoint.fifos[0].payload);
    assert_eq!(bytes, b"in the fifo");
    let queues = names::sk_queues();
    let packets: Vec<_> = checkpoint
        .packets
        .iter()
        .map(|packet| bytes_of(&checkpoint, &queues, packet.payload))
        .collect();
    assert_eq!(packets, [b"in the socket", b"to the server"]);

    let timers = process.task.timers.as_ref().unwrap();
    assert_eq!((timers.real.isec, timers.posix.len()), (100, 1));
    let pending = &process.task.signals_s.as_ref().unwrap().signals;
    assert_eq!(pending.iter().map(|signal| signal.siginfo.len()).collect::<Vec<_>>(), [128]);
    let shared = process.body.as_ref().unwrap().mappings.iter();
    assert_eq!(shared.filter(|mapping| mapping.vma.status & vma_status::MEMFD != 0).count(), 1);
    assert_eq!(checkpoint.shared_memory.len(), 1);
}

#[test]
fn a_family_is_read() {
    let checkpoint = load("family");
    let states: Vec<_> = checkpoint.processes.iter().map(|process| process.state).collect();
    assert_eq!(states.iter().filter(|state| matches!(state, State::Dead { .. })).count(), 2);
    assert_eq!(states.iter().filter(|state| **state == State::Stopped).count(), 1);
    assert_eq!(states.iter().filter(|state| **state == State::Alive).count(), 3);
    let codes: Vec<_> = checkpoint
        .processes
        .iter()
        .filter_map(|process| match process.state {
            State::Dead { status } => Some(status),
            State::Alive | State::Stopped => None,
        })
        .collect();
    assert_eq!(codes, [17 << 8, 9]);
    assert!(checkpoint.root().task.child_subreaper());
    let sessions: std::collections::BTreeSet<_> =
        checkpoint.processes.iter().map(|process| process.sid).collect();
    assert_eq!(sessions.len(), 2);
}

#[test]
fn files_without_names_are_read() {
    let checkpoint = load("ghosts");
    let files = &checkpoint.files;
    assert_eq!((files.remaps.len(), files.ghosts.len()), (4, 3));
    let sparse = files.ghosts.values().find(|ghost| ghost.entry.chunks()).unwrap();
    assert_eq!((sparse.size(), sparse.parts.len()), ((3 << 20) + 3, 2));
    let (id, ghost) = files.ghosts.iter().find(|(_, ghost)| ghost.size() == 12).unwrap();
    let bytes = bytes_of(&checkpoint, &names::ghost_file(*id), ghost.parts[0].payload);
    assert_eq!(bytes, b"I was a file");
    let odd = files.entries.values().find_map(|file| {
        file.reg.as_ref().filter(|file| file.name.ends_with(b"/na\xffme with spaces"))
    });
    assert!(odd.is_some());
}

#[test]
fn a_terminal_is_read() {
    let checkpoint = load("terminal");
    let terminal = checkpoint.terminals.values().next().unwrap();
    let size = terminal.winsize.unwrap();
    assert_eq!((size.ws_row, size.ws_col), (33, 77));
    assert_eq!(terminal.sid, checkpoint.root().pid);
    let mut modes = terminal.termios.clone().unwrap();
    let chars = modes.control_chars();
    // Interrupt, quit, erase, kill, end of file, as a new terminal has them.
    assert_eq!(chars[..5], [3, 28, 127, 21, 4]);
    modes.set_control_chars(&chars);
    assert_eq!(modes.control_chars(), chars);
    assert_eq!(modes.c_cc.len(), 19);
}

/// Images of version 1 begin with the number of their kind.
#[test]
fn images_without_the_common_number_are_read() {
    let old = Damage::new("busy");
    for file in fs::read_dir(old.0.path()).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let bytes = fs::read(&path).unwrap();
        if name == "inventory.img" {
            let image = names::inventory();
            let mut entry = plain_entry(&image, &bytes);
            entry.img_version = 1;
            fs::write(&path, encode(&image, [&entry])).unwrap();
        } else if !name.starts_with("pages-") {
            fs::write(&path, &bytes[4..]).unwrap();
        }
    }
    let checkpoint = Checkpoint::load(Images::open(old.0.path()).unwrap()).unwrap();
    assert_eq!(checkpoint.root().threads.len(), 2);
    assert_eq!(checkpoint.packets.len(), 2);
}

fn plain_entry<M: Message + Default>(image: &Image<M>, bytes: &[u8]) -> M {
    ImageReader::new(image, bytes, bytes.len() as u64, true).unwrap().only().unwrap()
}

/// Each damage must be refused with an error, and none may panic.
#[test]
fn a_damaged_checkpoint_is_refused() {
    let damage: [(&str, Apply); 7] = [
        ("a lost image of a thread", |set| set.remove("core-")),
        ("a lost address space", |set| set.remove("mm-")),
        ("lost files", |set| set.remove("files.img")),
        ("lost pages", |set| set.remove("pages-2")),
        ("a lost memfd", |set| set.remove("memfd.img")),
        ("a short pages file", |set| set.cut("pages-2")),
        ("a short queue", |set| set.cut("sk-queues")),
    ];
    for (what, apply) in damage {
        let mut set = Damage::new("busy");
        apply(&mut set);
        let loaded = Images::open(set.0.path()).and_then(Checkpoint::load);
        assert!(loaded.is_err(), "{what}");
    }
}

type Apply = fn(&mut Damage);

struct Damage(tempfile::TempDir);

impl Damage {
    fn new(name: &str) -> Self {
        let copy = tempfile::tempdir().unwrap();
        for file in fs::read_dir(set(name)).unwrap() {
            let path = file.unwrap().path();
            fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
        }
        Self(copy)
    }

    fn find(&self, prefix: &str) -> PathBuf {
        fs::read_dir(self.0.path())
            .unwrap()
            .map(|file| file.unwrap().path())
            .find(|path| path.file_name().unwrap().to_str().unwrap().starts_with(prefix))
            .unwrap()
    }

    fn remove(&mut self, prefix: &str) {
        fs::remove_file(self.find(prefix)).unwrap();
    }

    fn cut(&mut self, prefix: &str) {
        let file = fs::OpenOptions::new().write(true).open(self.find(prefix)).unwrap();
        file.set_len(file.metadata().unwrap().len() - 1).unwrap();
    }
}

/// Images cut short at many lengths, and with many bits of their first 200 bytes flipped, are refused or read,
/// and never a panic.
#[test]
fn cut_and_flipped_images_do_no_harm() {
    for file in fs::read_dir(set("busy")).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if name.starts_with("pages-") {
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        let copy = Damage::new("busy");
        let target = copy.0.path().join(&name);
        let try_with = |damaged: &[u8]| {
            fs::write(&target, damaged).unwrap();
            drop(Images::open(copy.0.path()).and_then(Checkpoint::load));
        };
        for length in (0..bytes.len().min(200)).step_by(7) {
            try_with(&bytes[..length]);
        }
        let mut flipped = bytes.clone();
        for bit in (0..bytes.len().min(200) * 8).step_by(23) {
            flipped[bit / 8] ^= 1 << (bit % 8);
            try_with(&flipped);
            flipped[bit / 8] ^= 1 << (bit % 8);
        }
    }
}

#[test]
fn a_copy_through_reader_and_writer_is_the_same() {
    let copy = tempfile::tempdir().unwrap();
    let target = copy.path().join("copy");
    let from = Images::open(&set("family")).unwrap();
    let writer = ImageWriter::create(&target, WriteOptions::default()).unwrap();
    for file in from.files().unwrap() {
        let mut output = writer.raw(&file.name).unwrap();
        std::io::copy(&mut from.raw(&file.name).unwrap(), &mut output).unwrap();
    }
    writer.commit().unwrap();
    let there = Checkpoint::load(Images::open(&target).unwrap()).unwrap();
    assert_eq!(there.processes.len(), 6);
}
