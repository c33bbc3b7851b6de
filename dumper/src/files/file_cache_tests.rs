use super::*;
use images::messages::{PipeEntry, RegFileEntry, fd_type};

const PRINT: NonZeroU64 = NonZeroU64::new(7).unwrap();

fn pid(number: i32) -> HostPid {
    HostPid::new(number).unwrap()
}

fn mark(print: u64, size: Option<u64>) -> Option<FileMark> {
    Some(FileMark { print: NonZeroU64::new(print).unwrap(), size })
}

fn file(fd: i32, print: u64) -> OpenFile {
    OpenFile {
        fd,
        close_on_exec: false,
        description: OpenFile::description_of(pid(40), fd),
        position: 5,
        flags: libc::O_RDWR.cast_unsigned(),
        mode: libc::S_IFREG | 0o600,
        device: 9,
        inode: 100 + u64::try_from(fd).unwrap(),
        target: "/a".into(),
        owned: Some(false),
        locked: Some(false),
        linkable: None,
        uncorked: false,
        terminal: None,
        mark: mark(print, Some(3)),
    }
}

fn found(file: &OpenFile) -> CachedFile {
    CachedFile {
        fd: file.fd,
        device: file.device,
        inode: file.inode,
        target: file.target.clone(),
        mark: file.mark.unwrap(),
        id: file.fd.cast_unsigned(),
        r#type: fd_type::REG,
        keeping: Keeping::new(file, 0..1, None),
        is_steady: true,
        peer: 0,
    }
}

fn update(keeping: &Keeping, entry: &mut FileEntry) {
    super::super::table::of_type(entry.r#type).unwrap().update(entry, keeping);
}

fn of_type(r#type: u32, entry: FileEntry) -> FileEntry {
    FileEntry { r#type, ..entry }
}

fn is_cached(cache: &mut FileCache, pid: HostPid, file: &OpenFile) -> bool {
    cache.find(pid, file, file.mark.unwrap()).is_some()
}

#[test]
fn a_file_is_cached_while_nothing_that_makes_it_is_another() {
    let before = file(3, 7);
    let same = |after: &OpenFile| found(&before).is(after, after.mark.unwrap());
    let is = |change: fn(&mut OpenFile)| {
        let mut after = before.clone();
        change(&mut after);
        same(&after)
    };
    assert!(is(|_| {}));
    assert!(is(|file| file.position = 77));
    assert!(is(|file| file.mark = mark(7, Some(4))), "its size is no part of it");
    assert!(is(|file| file.flags |= libc::O_NONBLOCK.cast_unsigned()));
    assert!(is(|file| file.mode = libc::S_IFREG | 0o644));
    assert!(!is(|file| file.mark = mark(8, Some(3))));
    assert!(!is(|file| file.flags |= libc::O_APPEND.cast_unsigned()));
    assert!(!is(|file| file.target = "/b".into()));
    assert!(!is(|file| file.target = "/a (deleted)".into()));
    assert!(!is(|file| file.inode += 1));
    assert!(!is(|file| file.device += 1));
}

#[test]
fn files_are_found_in_step() {
    let mut cache = FileCache::default();
    for number in [40, 41] {
        let files = [3, 5, 6].map(|fd| found(&file(fd, 7)));
        cache.found.insert(pid(number), files.into());
    }
    // One that was opened since, one that was closed, one that has changed.
    assert!(is_cached(&mut cache, pid(40), &file(3, 7)));
    assert!(!is_cached(&mut cache, pid(40), &file(4, 7)));
    assert!(!is_cached(&mut cache, pid(40), &file(6, 8)));
    assert!(!is_cached(&mut cache, pid(40), &file(7, 7)));
    assert!(!is_cached(&mut cache, pid(42), &file(3, 7)));
    assert!(is_cached(&mut cache, pid(41), &file(6, 7)));
}

#[test]
fn contents_are_given_once_and_only_as_they_were() {
    let pipe = OpenFile { mark: mark(7, Some(16)), ..file(3, 7) };
    let with = || {
        let mut cache = FileCache::default();
        let entry = PipeDataEntry { pipe_id: 1, bytes: 5, size: Some(65536), packets: Vec::new() };
        cache.contents.insert((pipe.device, pipe.inode), (PRINT, entry, b"bytes".to_vec()));
        cache
    };
    let (entry, bytes) = with().take_contents(&pipe).unwrap();
    assert_eq!((entry.bytes, entry.size, &bytes[..]), (5, Some(65536), &b"bytes"[..]));
    let taken = |file: &OpenFile| with().take_contents(file);
    assert!(taken(&OpenFile { mark: mark(8, Some(16)), ..pipe.clone() }).is_none());
    assert!(taken(&OpenFile { mark: None, ..pipe.clone() }).is_none());
    assert!(taken(&OpenFile { inode: 9, ..pipe.clone() }).is_none());
    let mut cache = with();
    assert!(cache.take_contents(&OpenFile { mark: None, ..pipe.clone() }).is_none());
    assert!(cache.take_contents(&pipe).is_none(), "what is no more so is not given later");
    let mut cache = with();
    assert!(cache.take_contents(&pipe).is_some() && cache.take_contents(&pipe).is_none());
}

#[test]
fn entries_are_brought_up_to_date() {
    let nonblocking = libc::O_NONBLOCK.cast_unsigned();
    let keeping = Keeping {
        entries: 0..1,
        flags: nonblocking | 2,
        mode: 0o100_644,
        position: 9,
        size: Some(4),
    };
    let reg = RegFileEntry { flags: 2, size: Some(3), ..RegFileEntry::default() };
    let mut entry =
        of_type(fd_type::REG, FileEntry { reg: Some(reg.clone()), ..FileEntry::default() });
    update(&keeping, &mut entry);
    let updated = entry.reg.unwrap();
    assert_eq!((updated.flags, updated.pos, updated.size), (nonblocking | 2, 9, Some(4)));
    assert_eq!(updated.mode, Some(0o100_644));
    // A log's size does not matter, and is not told.
    let reg = RegFileEntry { size: None, ..reg };
    let mut entry = of_type(fd_type::REG, FileEntry { reg: Some(reg), ..FileEntry::default() });
    update(&keeping, &mut entry);
    assert_eq!(entry.reg.unwrap().size, None);
    let pipe = FileEntry { pipe: Some(PipeEntry::default()), ..FileEntry::default() };
    let mut entry = of_type(fd_type::PIPE, pipe);
    update(&keeping, &mut entry);
    assert_eq!(entry.pipe.unwrap().flags, nonblocking | 2);
}
