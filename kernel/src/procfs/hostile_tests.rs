//! Every parser on text that no kernel prints: an answer or an error, never a panic.

use proptest::prelude::*;

use super::*;

/// Pieces that get parsers further than noise alone would.
const PIECES: &[&[u8]] = &[
    b"pos:\t0\nflags:\t02\nmnt_id:\t1\n",
    b"tfd: 3 events: 1 data: 0 pos:0 ino:1 sdev:1\n",
    b"inotify wd:1 ino:1 sdev:1 mask:2 f_handle:a7\n",
    b"fanotify flags:0 event-flags:0\n",
    b"fanotify ino:1 sdev:1 mflags:0 mask:0 ignored_mask:0\n",
    b"lock:\t1: -> POSIX  ADVISORY  WRITE 1 fe:00:1 0 EOF\n",
    b"it_value: (1, 2)\n",
    b"it_value: )(\n",
    b"1000-2000 rw-p 00000000 00:00 0 \\012\\777\\",
    b"VmFlags: rd wr x\n",
    b"Max cpu time  1 2 s\n",
    b"ID: 1\nsignal: 14/0\nnotify: signal/tid.1\nClockID: 0\n",
    b"1 2 3:4 / / rw - a b c\n",
    b"0::/\n",
    b"1 (x) R ",
    b"18446744073709551616 -9223372036854775809 ",
    b"(",
    b")",
    b":",
    b"\n",
];

fn texts() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        prop::sample::select(PIECES).prop_map(<[u8]>::to_vec),
        prop::collection::vec(any::<u8>(), 0..12),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

/// The answer is of no interest, that there is one is.
fn used<T>(value: T) {
    drop(value);
}

proptest! {
    #[test]
    fn no_text_panics(text in texts()) {
        used(Stat::parse(&text));
        used(Status::parse(&text));
        used(FdInfo::parse(&text));
        used(Limits::parse(&text));
        used(PosixTimers::parse(&text));
        used(Mounts::parse(&text));
        used(Cgroup::parse(&text));
        used(Auxv::parse(&text).map(|auxv| auxv.get(6)));
        used(OomScoreAdj::parse(&text));
        used(LoginUid::parse(&text));
        used(CoreDumpFilter::parse(&text));
        used(TimerSlack::parse(&text));
        used(Autogroup::parse(&text));
        maps(&text).for_each(|map| {
            used(map.map(|map| map.name().into_owned()));
        });
        smaps(&text).for_each(|smap| {
            used(smap.map(|smap| smap.flag_letters().count()));
        });
        prop_assert!(unescape_octal(&text).len() <= text.len());
    }
}
