//! memfds: contents with holes, positions, seals and rights; open more than once, mapped without being
//! open, shared with a child.

use std::ffi::CStr;
use std::fs::{File, Permissions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::wait::{WaitStatus, waitpid};

use crate::files::fcntl;
use crate::memory::Region;
use crate::stage::{Findings, Outcome, Stage, check, eventually};

const READ: i32 = libc::PROT_READ;
const WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;
const FAR: u64 = 3 << 20;

pub(crate) fn make(name: &CStr, flags: u32) -> File {
    // SAFETY: the name is a string; the answer is checked.
    let fd = check(unsafe { libc::memfd_create(name.as_ptr(), flags) }).expect("memfd_create");
    // SAFETY: the kernel has just given us this descriptor.
    unsafe { File::from_raw_fd(fd) }
}

fn again(file: &File, flags: i32) -> File {
    let write = flags & libc::O_ACCMODE != libc::O_RDONLY;
    let mut options = File::options();
    options.read(!write).write(write).custom_flags(flags & !libc::O_ACCMODE);
    options.open(format!("/proc/self/fd/{}", file.as_raw_fd())).expect("open again")
}

fn seals(file: &File) -> i32 {
    fcntl(file.as_raw_fd(), libc::F_GET_SEALS, 0)
}

fn name(file: &File) -> String {
    let link = std::fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())).expect("link");
    link.to_string_lossy().into_owned()
}

pub(crate) fn word(region: &Region) -> &AtomicU32 {
    // SAFETY: the region is a page or more, aligned, and its first word is reached by atomic operations
    // only.
    unsafe { &*(region.addr() as *const AtomicU32) }
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    // One inode, open three times.
    let mut first = make(c"a name", libc::MFD_ALLOW_SEALING);
    first.write_all(b"begins").expect("write");
    first.write_all_at(b"ends", FAR).expect("write");
    first.set_permissions(Permissions::from_mode(0o640)).expect("chmod");
    let mut reader = again(&first, libc::O_RDONLY);
    reader.seek(SeekFrom::Start(FAR)).expect("seek");
    let log = again(&first, libc::O_WRONLY | libc::O_APPEND | libc::O_CLOEXEC);
    let sealed = libc::F_SEAL_SHRINK;
    fcntl(first.as_raw_fd(), libc::F_ADD_SEALS, sealed);

    let plain = make(c"", libc::MFD_CLOEXEC);
    plain.set_len(5).expect("set the size");

    // Mapped by two, and open in neither.
    let shared = make(c"shared", 0);
    shared.set_len(8192).expect("set the size");
    let region = Region::map(8192, WRITE, libc::MAP_SHARED, Some((&shared, 0)));
    drop(shared);
    word(&region).store(1, Ordering::SeqCst);

    // Private changes over it.
    let below = make(c"below", 0);
    below.write_all_at(&[5; 8192], 0).expect("write");
    let private = Region::map(8192, WRITE, libc::MAP_PRIVATE, Some((&below, 0)));
    word(&private).store(6, Ordering::SeqCst);

    let mut program = make(c"program", 0);
    program.write_all(&std::fs::read("/bin/true").expect("read")).expect("write");

    let child = crate::tree::child(stage, "one", || {
        while word(&region).load(Ordering::SeqCst) != 2 {
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        word(&region).store(3, Ordering::SeqCst);
        // The position is that of the parent.
        (&reader).read_exact(&mut [0; 2]).map_err(|error| error.to_string())?;
        Ok(())
    });
    let before = (name(&first), name(&plain), first.metadata().expect("stat").blocks());
    stage.ready_then_wait();

    let mut found = Findings::default();
    found.same("name", &before.0, &name(&first));
    found.same("no name", &before.1, &name(&plain));
    let stat = first.metadata().expect("stat");
    found.same("size", &(FAR + 4), &stat.len());
    found.same("rights", &0o640, &(stat.mode() & 0o7777));
    found.must("holes", stat.blocks() <= before.2);
    found.same("position", &6, &first.stream_position().expect("position"));
    let mut text = [0; 6];
    found.works("read", first.read_exact_at(&mut text, 0));
    found.same("contents", b"begins", &text);
    found.same("seals", &sealed, &seals(&first));
    found.same("not to be sealed", &libc::F_SEAL_SEAL, &seals(&plain));
    found.must("it cannot be made shorter", first.set_len(1).is_err());
    found.same(
        "flags of the log",
        &libc::O_APPEND,
        &(fcntl(log.as_raw_fd(), libc::F_GETFL, 0) & libc::O_APPEND),
    );
    found.works("append", (&log).write_all(b"!"));
    found.same("it is one file", &(FAR + 5), &first.metadata().expect("stat").len());
    found.same("five zeros", &5, &plain.metadata().expect("stat").len());

    word(&region).store(2, Ordering::SeqCst);
    found.same("the child", &Ok(WaitStatus::Exited(child, 0)), &waitpid(child, None));
    found.same("what the child wrote", &3, &word(&region).load(Ordering::SeqCst));
    found.same("the child has read", &(FAR + 2), &reader.stream_position().expect("position"));

    // Who writes a program keeps it from being run; who made it does not.
    let path = format!("/proc/self/fd/{}", program.as_raw_fd());
    let run = std::process::Command::new(path).status();
    found.must("it can be run", run.is_ok_and(|status| status.success()));

    found.same("a private change", &6, &word(&private).load(Ordering::SeqCst));
    let mut four = [0; 4];
    found.works("read", below.read_exact_at(&mut four, 0));
    found.same("is not in the file", &[5; 4], &four);
    found.works("write", below.write_all_at(&[9; 4], 4096));
    // SAFETY: the region has two pages.
    let second = unsafe { *((private.addr() + 4096) as *const u8) };
    found.same("what was not changed is the file", &9, &second);
    found.outcome()
}

/// Sealed against writing, and mapped. (CRIU seals it after it was mapped to be written, which fails.)
pub(crate) fn sealed(stage: &Stage) -> Outcome {
    let closed = make(c"closed", libc::MFD_ALLOW_SEALING);
    closed.write_all_at(b"closed", 0).expect("write");
    fcntl(closed.as_raw_fd(), libc::F_ADD_SEALS, libc::F_SEAL_WRITE | libc::F_SEAL_SEAL);
    let view = Region::map(4096, READ, libc::MAP_SHARED, Some((&closed, 0)));
    stage.ready_then_wait();
    let mut found = Findings::default();
    let all = libc::F_SEAL_WRITE | libc::F_SEAL_SEAL;
    found.same("seals against writing", &all, &seals(&closed));
    found.must("it cannot be written", closed.write_all_at(b"x", 0).is_err());
    // SAFETY: the region has a page.
    let six = unsafe { std::slice::from_raw_parts(view.addr() as *const u8, 6) };
    found.same("its view", b"closed", six.try_into().expect("six bytes"));
    found.outcome()
}

/// Sealed against writing by whoever maps it later, as a browser seals the memory that it hands to others: it is mapped to be
/// written from before, and to be read since then. One is nothing but mapped. (After a restore by CRIU what was mapped since
/// then may be written.)
pub(crate) fn sealed_for_others(stage: &Stage) -> Outcome {
    const SEALS: i32 = libc::F_SEAL_FUTURE_WRITE | libc::F_SEAL_SHRINK | libc::F_SEAL_SEAL;
    let both = READ | libc::PROT_WRITE;
    let sealed = |name| {
        let file = make(name, libc::MFD_ALLOW_SEALING);
        file.set_len(4096).expect("set the size");
        let writer = Region::map(4096, both, libc::MAP_SHARED, Some((&file, 0)));
        writer.bytes()[0] = 1;
        fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, SEALS);
        let reader = Region::map(4096, READ, libc::MAP_SHARED, Some((&file, 0)));
        (file, writer, reader)
    };
    let (kept, kept_writer, kept_reader) = sealed(c"kept");
    let (closed, writer, reader) = sealed(c"closed");
    drop(closed);
    stage.ready_then_wait();
    let mut found = Findings::default();
    found.same("seals", &SEALS, &seals(&kept));
    found.must("it cannot be written", kept.write_all_at(b"x", 0).is_err());
    for (writer, reader) in [(&kept_writer, &kept_reader), (&writer, &reader)] {
        // SAFETY: the region has a page, which is there to be read.
        let first = || unsafe { std::ptr::read_volatile(reader.addr() as *const u8) };
        found.same("what was written", &1, &first());
        writer.bytes()[0] = 2;
        found.same("what is written", &2, &first());
        writer.bytes()[0] = 1;
        // SAFETY: the page is our own; it stays as it is.
        let changed = unsafe { libc::mprotect(reader.addr() as *mut _, 4096, both) };
        found.must("what was mapped since then cannot be written", changed < 0);
    }
    let fd = kept.as_raw_fd();
    // SAFETY: the kernel chooses where.
    let new = unsafe { libc::mmap(std::ptr::null_mut(), 4096, both, libc::MAP_SHARED, fd, 0) };
    found.must("nobody maps it to be written", new == libc::MAP_FAILED);
    found.outcome()
}

const BLOCK: u64 = 512;

/// What a file has beside its contents and rights. (CRIU has no place for it.)
pub(crate) fn attributes(stage: &Stage) -> Outcome {
    let file = make(c"attributes", libc::MFD_ALLOW_SEALING);
    let fd = file.as_raw_fd();
    file.set_len(5 * 4096).expect("set the size");
    file.write_all_at(b"some", 8192).expect("write");
    // SAFETY: these calls take numbers, and strings and structures that outlive them.
    unsafe {
        // In a hole, and behind the end.
        check(libc::fallocate(fd, libc::FALLOC_FL_KEEP_SIZE, 0, 8192)).expect("fallocate");
        check(libc::fallocate(fd, libc::FALLOC_FL_KEEP_SIZE, 9 * 4096, 4096)).expect("fallocate");
        check(libc::fchown(fd, 7, 8)).expect("fchown");
        let (name, value) = (c"user.is".as_ptr(), c"carried".as_ptr().cast());
        check(libc::fsetxattr(fd, name, value, 7, 0)).expect("fsetxattr");
        let no_dump = 0x40_u32;
        check(libc::ioctl(fd, libc::FS_IOC_SETFLAGS, &raw const no_dump)).expect("FS_IOC_SETFLAGS");
        let times = [(12_345, 678), (-9, 999_999_999)]
            .map(|(tv_sec, tv_nsec)| libc::timespec { tv_sec, tv_nsec });
        check(libc::futimens(fd, times.as_ptr())).expect("futimens");
    }
    let state = |file: &File| {
        let stat = file.metadata().expect("stat");
        let mut flags = 0_u64;
        let mut value = [0_u8; 16];
        // SAFETY: there is room for the flags, and for the value with its length.
        let bytes = unsafe {
            let fd = file.as_raw_fd();
            check(libc::ioctl(fd, libc::FS_IOC_GETFLAGS, &raw mut flags)).expect("FS_IOC_GETFLAGS");
            let to = value.as_mut_ptr().cast();
            libc::fgetxattr(fd, c"user.is".as_ptr(), to, value.len())
        };
        let times = [stat.atime(), stat.atime_nsec(), stat.mtime(), stat.mtime_nsec()];
        (stat.uid(), stat.gid(), stat.size(), stat.blocks() * BLOCK, times, flags, bytes, value)
    };
    let before = state(&file);
    stage.ready_then_wait();
    let mut found = Findings::default();
    found.same("attributes", &before, &state(&file));
    let mut some = [0; 4];
    found.works("read", file.read_exact_at(&mut some, 8192));
    found.same("contents", b"some", &some);
    found.outcome()
}

/// A program that was executed from a memfd, which nothing but the program itself holds then.
pub(crate) fn program(stage: &Stage) -> Outcome {
    let executed = || std::fs::read_link("/proc/self/exe").expect("link").into_os_string();
    if !executed().to_string_lossy().starts_with("/memfd:") {
        use std::os::unix::process::CommandExt;
        let own = std::fs::read("/proc/self/exe").expect("read");
        let mut file = make(c"program", libc::MFD_CLOEXEC);
        file.write_all(&own).expect("write");
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let error = std::process::Command::new(path).args(std::env::args_os().skip(1)).exec();
        return Err(format!("execute a memfd: {error}"));
    }
    let sum = || crate::stage::checksum(&std::fs::read("/proc/self/exe").expect("read"));
    let before = (executed(), sum());
    stage.ready_then_wait();
    let mut found = Findings::default();
    found.same("program", &before, &(executed(), sum()));
    found.outcome()
}

/// One that can never become a program, and is the only one here.
pub(crate) fn never_run(stage: &Stage) -> Outcome {
    let file = make(c"never", libc::MFD_NOEXEC_SEAL);
    file.write_all_at(b"data", 0).expect("write");
    let state = || (seals(&file), file.metadata().expect("stat").mode());
    let before = state();
    stage.ready_then_wait();
    let mut found = Findings::default();
    found.same("seals and rights", &before, &state());
    found.same("contents", &Ok(()), &file.read_exact_at(&mut [0; 4], 0).map_err(|e| e.kind()));
    found.outcome()
}

/// One that can only be added to.
pub(crate) fn unchangeable(stage: &Stage) -> Outcome {
    let file = make(c"appended", 0);
    let only_append = 0x20_u32;
    // SAFETY: the kernel reads one int.
    let set =
        unsafe { libc::ioctl(file.as_raw_fd(), libc::FS_IOC_SETFLAGS, &raw const only_append) };
    check(set).expect("FS_IOC_SETFLAGS");
    stage.ready_then_wait();
    drop(file);
    Ok(())
}

/// The file behind shared anonymous memory.
fn file_of(region: &Region, write: bool, flags: i32) -> File {
    let (start, end) = (region.addr(), region.addr() + region.bytes().len());
    let path = format!("/proc/self/map_files/{start:x}-{end:x}");
    File::options().read(true).write(write).custom_flags(flags).open(path).expect("open the memory")
}

/// Shared anonymous memory that is open and mapped as a file, too: all of it is one piece of memory.
pub(crate) fn memory(stage: &Stage) -> Outcome {
    as_files(stage, &["/dev/zero (deleted)"])
}

/// The same, which CRIU makes a memfd of.
pub(crate) fn memory_plain(stage: &Stage) -> Outcome {
    as_files(stage, &["/dev/zero (deleted)", "/memfd:/dev/zero (deleted)"])
}

fn as_files(stage: &Stage, names: &[&str]) -> Outcome {
    const PAGE: usize = 4096;
    let shared = libc::MAP_SHARED | libc::MAP_ANONYMOUS;
    let region = Region::map(5 * PAGE, WRITE, shared, None);
    for page in 0..3 {
        region.bytes()[page * PAGE] = 11 * (page as u8 + 1);
    }
    let file = file_of(&region, true, 0);
    let reader = file_of(&region, false, 0);
    (&reader).seek(SeekFrom::Start(77)).expect("seek");
    let private = Region::map(3 * PAGE, WRITE, libc::MAP_PRIVATE, Some((&file, PAGE as i64)));
    private.bytes()[2 * PAGE] = 99;
    let other = Region::map(2 * PAGE, WRITE, libc::MAP_SHARED, Some((&file, 2 * PAGE as i64)));
    // Nothing but a mapping leads to this one, and that is private.
    let hidden = Region::map(2 * PAGE, WRITE, shared, None);
    hidden.bytes()[PAGE] = 55;
    let of_hidden = file_of(&hidden, true, 0);
    let own = Region::map(2 * PAGE, WRITE, libc::MAP_PRIVATE, Some((&of_hidden, 0)));
    own.bytes()[0] = 66;
    hidden.unmap().expect("munmap");
    drop(of_hidden);
    // And nothing but descriptors to this one, which has another size.
    let gone = Region::map(PAGE, WRITE, shared, None);
    let alone = file_of(&gone, true, libc::O_APPEND);
    gone.unmap().expect("munmap");
    alone.set_len(0).expect("truncate");
    (&alone).write_all(b"hello").expect("write");
    (&alone).seek(SeekFrom::Start(3)).expect("seek");
    let plain = Region::map(PAGE, WRITE, shared, None);
    plain.bytes()[5] = 5;
    let child = crate::tree::child(stage, "shares", || {
        stage.wait();
        let mut found = Findings::default();
        found.must("its parent's write", eventually(|| region.bytes()[4 * PAGE] == 44));
        other.bytes()[2 * PAGE - 1] = 45;
        found.outcome()
    });
    stage.ready_then_wait();
    let mut found = Findings::default();
    let byte = |file: &File, at: usize| {
        let mut byte = [0];
        file.read_exact_at(&mut byte, at as u64).map(|()| byte[0]).ok()
    };
    found.must(&format!("the name {}", name(&file)), names.contains(&name(&file).as_str()));
    found.same("what is the memory's", &22, &private.bytes()[0]);
    found.same("what is the mapping's own", &99, &private.bytes()[2 * PAGE]);
    found.same("the other mapping", &33, &other.bytes()[0]);
    other.bytes()[1] = 34;
    found.same("a write there", &34, &region.bytes()[2 * PAGE + 1]);
    found.same("the same in the file", &Some(34), &byte(&reader, 2 * PAGE + 1));
    region.bytes()[2 * PAGE + 2] = 35;
    found.same("and in the private mapping", &35, &private.bytes()[PAGE + 2]);
    found.works("write to the file", file.write_all_at(&[36], 4 * PAGE as u64 + 1));
    found.same("seen in the memory", &36, &region.bytes()[4 * PAGE + 1]);
    found.same("position", &Some(77), &(&reader).stream_position().ok());
    found.same("what was unmapped", &(66, 55), &(own.bytes()[0], own.bytes()[PAGE]));
    found.same(
        "flags",
        &libc::O_APPEND,
        &(fcntl(alone.as_raw_fd(), libc::F_GETFL, 0) & libc::O_APPEND),
    );
    found.same("position of the one alone", &Some(3), &(&alone).stream_position().ok());
    found.same("size", &Some(5), &alone.metadata().ok().map(|metadata| metadata.len()));
    found.same("contents", &Some(b'h'), &byte(&alone, 0));
    found.same("plain memory", &5, &plain.bytes()[5]);
    region.bytes()[4 * PAGE] = 44;
    found.same("child", &Ok(WaitStatus::Exited(child, 0)), &waitpid(child, None));
    found.same("the child's write", &45, &region.bytes()[4 * PAGE - 1]);
    found.outcome()
}
