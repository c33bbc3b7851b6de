//! Files that have no name any more, or another file under their old name.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};

use crate::memory::Region;
use crate::stage::{Findings, Outcome, Stage, pattern};

fn make(stage: &Stage, name: &str, contents: &[u8]) -> File {
    let path = stage.path(name);
    fs::write(&path, contents).expect("write");
    let file = OpenOptions::new().read(true).write(true).open(&path).expect("open");
    fs::remove_file(&path).expect("unlink");
    file
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    let contents = pattern(41, 300_000);
    let mut plain = make(stage, "plain", &contents);
    plain.seek(SeekFrom::Start(123_456)).expect("seek");
    // The same deleted file, opened once more: another position, the same contents.
    let again = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&plain));
    let mut again = File::open(again).expect("open again");
    again.seek(SeekFrom::Start(5)).expect("seek");
    // A hole of 8 MiB, then data.
    let sparse = make(stage, "sparse", b"");
    sparse.write_all_at(b"behind the hole", 8 << 20).expect("write");
    let empty = make(stage, "empty", b"");
    // Its name is taken by another file now.
    let mut replaced = make(stage, "replaced", b"old contents");
    fs::write(stage.path("replaced"), b"new contents").expect("write");
    // Only a shared mapping is left of it.
    let rw = libc::PROT_READ | libc::PROT_WRITE;
    let mapped = make(stage, "mapped", &pattern(42, 8192));
    let mapped = Region::map(8192, rw, libc::MAP_SHARED, Some((&mapped, 0)));
    mapped.bytes()[4096] ^= 1;
    // A link that has no name any more, and leads nowhere.
    std::os::unix::fs::symlink("/nowhere/at all", stage.path("link")).expect("link");
    let mut handle = OpenOptions::new();
    let handle = handle.read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW);
    let link = handle.open(stage.path("link")).expect("open");
    fs::remove_file(stage.path("link")).expect("unlink");
    let files = [&plain, &again, &sparse, &empty, &replaced].map(|f| f.metadata().expect("stat"));

    stage.ready_then_wait();

    let mut found = Findings::default();
    for (before, file) in files.iter().zip([&plain, &again, &sparse, &empty, &replaced]) {
        let Some(after) = found.works("stat", file.metadata()) else { continue };
        found.same("size", &before.len(), &after.len());
        found.same("mode", &before.mode(), &after.mode());
        found.same("names", &0, &after.nlink());
    }
    let mut rest = Vec::new();
    found.works("read on", plain.read_to_end(&mut rest));
    found.must("contents from the position on", rest == contents[123_456..]);
    found.works("append", plain.write_all(b"appended"));
    let mut all = Vec::new();
    found.works("read again", again.read_to_end(&mut all));
    let same = all.len() == 300_000 - 5 + 8
        && all[..299_995] == contents[5..]
        && all.ends_with(b"appended");
    found.must("the second opening sees what the first wrote", same);
    let mut tail = [0; 15];
    found.works("read behind the hole", sparse.read_exact_at(&mut tail, 8 << 20));
    found.same("data behind the hole", b"behind the hole", &tail);
    found.must("the hole is one still", sparse.metadata().is_ok_and(|m| m.blocks() < 1024));
    let mut old = String::new();
    found.works("read the replaced file", replaced.seek(SeekFrom::Start(0)));
    found.works("read the replaced file", replaced.read_to_string(&mut old));
    found.same("the open file is the old one", &"old contents", &old.as_str());
    let named = fs::read(stage.path("replaced")).unwrap_or_default();
    found.same("the named file is the new one", &b"new contents".as_slice(), &named.as_slice());
    let mut expected = pattern(42, 8192);
    expected[4096] ^= 1;
    found.must("mapped deleted file", mapped.bytes() == expected);
    let leads = nix::fcntl::readlinkat(&link, "");
    found.same("where the link leads", &Ok("/nowhere/at all".into()), &leads);
    let names = fs::read_dir(stage.dir()).expect("list").flatten().map(|e| e.file_name());
    let mut left: Vec<_> = names.filter(|n| n.to_string_lossy().contains("plain")).collect();
    left.sort();
    found.must(&format!("no name of a ghost is left: {left:?}"), left.is_empty());
    found.outcome()
}
