//! Files that have lost the name by which they were opened, and have others.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::memory::Region;
use crate::stage::{Findings, Outcome, Stage, pattern};

/// Opens a file by a name that it loses then; it has another in `other`.
fn lose(path: &Path, other: &Path, contents: &[u8]) -> File {
    fs::write(path, contents).expect("write");
    let file = OpenOptions::new().read(true).write(true).open(path).expect("open");
    fs::hard_link(path, other).expect("link");
    fs::remove_file(path).expect("unlink");
    file
}

/// What a descriptor's link says, and how many names its file has.
fn told(file: &impl AsFd) -> (PathBuf, u64) {
    let link = format!("/proc/self/fd/{}", file.as_fd().as_raw_fd());
    let shown = fs::read_link(&link).expect("read the link");
    (shown, fs::metadata(&link).expect("stat").nlink())
}

fn no_link_is_left(stage: &Stage, found: &mut Findings) {
    let names = fs::read_dir(stage.dir()).expect("list").flatten().map(|e| e.file_name());
    let left: Vec<_> = names.filter(|name| name.to_string_lossy().contains("remap.")).collect();
    found.must(&format!("no name of a dump is left: {left:?}"), left.is_empty());
}

/// How many names dumps have given in a directory.
fn given(directory: &Path) -> usize {
    let names = fs::read_dir(directory).expect("list").flatten().map(|e| e.file_name());
    names.filter(|name| name.to_string_lossy().contains("remap.")).count()
}

/// Files whose other name is beside the lost one: opened, mapped alone, made without a name, and a named semaphore.
pub(crate) fn beside(stage: &Stage) -> Outcome {
    let mut opened = lose(&stage.path("a name"), &stage.path("opened"), b"opened");
    let mapped = lose(&stage.path("another"), &stage.path("mapped"), &pattern(53, 4096));
    let rw = libc::PROT_READ | libc::PROT_WRITE;
    let region = Region::map(4096, rw, libc::MAP_SHARED, Some((&mapped, 0)));
    drop(mapped);
    let mut nameless = OpenOptions::new();
    let nameless = nameless.read(true).write(true).custom_flags(libc::O_TMPFILE);
    let mut nameless = nameless.open(stage.dir()).expect("open a file without a name");
    let itself = format!("/proc/self/fd/{}", nameless.as_raw_fd());
    let (here, follow) = (nix::fcntl::AT_FDCWD, nix::fcntl::AtFlags::AT_SYMLINK_FOLLOW);
    nix::unistd::linkat(here, &*itself, here, &stage.path("nameless"), follow).expect("link");
    let name = std::ffi::CString::new(format!("/stasis-test.{}", std::process::id()));
    let name = name.expect("a name");
    // SAFETY: the name is a string; the semaphore is used as one until the end.
    let semaphore = unsafe { libc::sem_open(name.as_ptr(), libc::O_CREAT, 0o600, 3) };
    assert!(semaphore != libc::SEM_FAILED, "no semaphore");

    stage.ready_then_wait();

    let mut found = Findings::default();
    for (file, name) in [(&mut opened, "opened"), (&mut nameless, "nameless")] {
        found.works("append", file.seek(SeekFrom::End(0)).and_then(|_| file.write_all(b" on")));
        let named = fs::read(stage.path(name)).unwrap_or_default();
        found.must(&format!("{name} is the file of its name"), named.ends_with(b" on"));
    }
    region.bytes()[0] ^= 1;
    let named = fs::read(stage.path("mapped")).unwrap_or_default();
    found.must("what is mapped is the file of its name", named == region.bytes());
    // SAFETY: the semaphore is open, and so is the second, which is another number of the same.
    unsafe {
        let again = libc::sem_open(name.as_ptr(), 0);
        found.must("the semaphore has its name", again != libc::SEM_FAILED);
        libc::sem_wait(semaphore);
        let mut value = 0;
        libc::sem_getvalue(again, &raw mut value);
        found.same("value of the semaphore", &2, &value);
        libc::sem_unlink(name.as_ptr());
    }
    found.outcome()
}

/// One of two such files is closed when the dump has given both their names, before it freezes anybody.
pub(crate) fn closed(stage: &Stage) -> Outcome {
    let mut kept = lose(&stage.path("kept"), &stage.path("kept.other"), b"kept");
    let mut closed = Some(lose(&stage.path("closed"), &stage.path("closed.other"), b"closed"));
    stage.publish("ready", &std::process::id().to_string());
    while !stage.path("go").exists() {
        if given(&stage.dir()) == 2 && closed.take().is_some() {
            stage.publish("closed it", "");
        }
    }
    let mut found = Findings::default();
    no_link_is_left(stage, &mut found);
    found.works("seek", kept.seek(SeekFrom::Start(0)));
    let mut text = String::new();
    found.works("read", kept.read_to_string(&mut text));
    found.same("what was kept", &"kept", &text.as_str());
    found.outcome()
}

/// In a mount namespace of the program's own: in memory that the images have, on a mount of the root's file system, and by a mount that is
/// only a part of that.
pub(crate) fn in_mounts(stage: &Stage) -> Outcome {
    crate::mounts::make_mounts();
    let directories = ["/tmp/directory", "/", "/tmp"];
    let files = directories.map(|directory| {
        let name = |last| Path::new(directory).join(last);
        lose(&name("a name"), &name("other"), directory.as_bytes())
    });
    let before = files.each_ref().map(told);
    stage.ready_then_wait();
    let mut found = Findings::default();
    for ((mut file, before), directory) in files.into_iter().zip(before).zip(directories) {
        found.same("name and names", &before, &told(&file));
        let mut text = String::new();
        found.works("seek", file.seek(SeekFrom::Start(0)));
        found.works("read", file.read_to_string(&mut text));
        found.same("what is in it", &directory, &text.as_str());
        let same = |name: fs::Metadata| file.metadata().is_ok_and(|is| is.ino() == name.ino());
        let other = Path::new(directory).join("other").metadata();
        found.must("it is the file that has the other name", other.is_ok_and(same));
        found.same("names that a dump has given", &0, &given(Path::new(directory)));
    }
    found.outcome()
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    let contents = pattern(51, 100_000);
    let mut plain = lose(&stage.path("a name"), &stage.path("other"), &contents);
    plain.seek(SeekFrom::Start(54_321)).expect("seek");
    // The same file, opened once more.
    let again = format!("/proc/self/fd/{}", plain.as_raw_fd());
    let mut again = File::open(again).expect("open again");
    again.seek(SeekFrom::Start(5)).expect("seek");
    // Mappings alone are left of it, one with a page of its own.
    let mapped = lose(&stage.path("mapped"), &stage.path("mapped.other"), &pattern(52, 8192));
    let rw = libc::PROT_READ | libc::PROT_WRITE;
    let shared = Region::map(8192, rw, libc::MAP_SHARED, Some((&mapped, 0)));
    let private = Region::map(8192, rw, libc::MAP_PRIVATE, Some((&mapped, 0)));
    private.bytes()[4096] ^= 1;
    drop(mapped);
    // The directory has gone, too.
    fs::create_dir(stage.path("directory")).expect("make a directory");
    let deep = lose(&stage.path("directory/deep"), &stage.path("deep.other"), b"deep");
    fs::remove_dir(stage.path("directory")).expect("remove the directory");
    let before = (told(&plain), told(&again), told(&deep));

    stage.ready_then_wait();

    let mut found = Findings::default();
    let (first, second, third) = (told(&plain), told(&again), told(&deep));
    found.same("name and names", &before.0, &first);
    found.same("name and names of the second", &before.1, &second);
    // Its directory is not made again to be removed.
    found.same("names of the third", &before.2.1, &third.1);
    let mut rest = Vec::new();
    found.works("read on", plain.read_to_end(&mut rest));
    found.must("contents from the position on", rest == contents[54_321..]);
    found.works("append", plain.write_all(b"appended"));
    let named = fs::read(stage.path("other")).unwrap_or_default();
    found.must("the other name sees it", named.ends_with(b"appended"));
    let mut all = Vec::new();
    found.works("read again", again.read_to_end(&mut all));
    found.must("the second opening sees it", all == named[5..]);
    let mut expected = pattern(52, 8192);
    found.must("shared mapping", shared.bytes() == expected);
    shared.bytes()[0] ^= 1;
    expected[0] ^= 1;
    let named = fs::read(stage.path("mapped.other")).unwrap_or_default();
    found.must("it is of the file", named == expected);
    expected[4096] ^= 1;
    found.must("private mapping", private.bytes() == expected);
    let deep = fs::metadata(format!("/proc/self/fd/{}", deep.as_raw_fd())).expect("stat");
    let other = fs::metadata(stage.path("deep.other")).expect("stat");
    found.same("file of the directory that has gone", &other.ino(), &deep.ino());
    no_link_is_left(stage, &mut found);
    found.outcome()
}

/// What CRIU does not restore: a name that another file has by now, handles, and a fifo.
pub(crate) fn beyond_criu(stage: &Stage) -> Outcome {
    let mut old = lose(&stage.path("taken"), &stage.path("taken.other"), b"old contents");
    fs::write(stage.path("taken"), b"new contents").expect("write");
    std::os::unix::fs::symlink("/nowhere/at all", stage.path("link")).expect("link");
    fs::hard_link(stage.path("link"), stage.path("link.other")).expect("link");
    let mut handle = OpenOptions::new();
    let handle = handle.read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW);
    let link = handle.open(stage.path("link")).expect("open");
    fs::remove_file(stage.path("link")).expect("unlink");
    let fifo = stage.path("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("make a fifo");
    fs::hard_link(&fifo, stage.path("fifo.other")).expect("link");
    let mut pipe = OpenOptions::new().read(true).write(true).open(&fifo).expect("open");
    fs::remove_file(&fifo).expect("unlink");
    pipe.write_all(b"waits").expect("write");
    let before = [told(&old).1, told(&pipe).1];

    stage.ready_then_wait();

    let mut found = Findings::default();
    found.same("names", &before, &[told(&old).1, told(&pipe).1]);
    let mut text = String::new();
    found.works("read", old.read_to_string(&mut text));
    found.same("the open file is the old one", &"old contents", &text.as_str());
    let named = fs::read(stage.path("taken")).unwrap_or_default();
    found.same("the named file is the new one", &b"new contents".as_slice(), &named.as_slice());
    let leads = nix::fcntl::readlinkat(&link, "");
    found.same("where the link leads", &Ok("/nowhere/at all".into()), &leads);
    let mut waited = [0; 5];
    found.works("read the fifo", pipe.read_exact(&mut waited));
    found.same("what waited", b"waits", &waited);
    let is = |file: &File, name: &str| {
        let named = fs::symlink_metadata(stage.path(name)).expect("stat");
        let open = nix::sys::stat::fstat(file).expect("stat");
        (named.dev(), named.ino()) == (open.st_dev, open.st_ino)
    };
    found.must("it is that link", is(&link, "link.other"));
    found.must("it is that fifo", is(&pipe, "fifo.other"));
    no_link_is_left(stage, &mut found);
    found.outcome()
}
