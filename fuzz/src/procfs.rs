//! Every parser of kernel text. Names in it (commands, paths) come from anybody.

use kernel::procfs::{
    Auxv, Cgroup, FdInfo, Limits, LoginUid, Mounts, OomScoreAdj, PosixTimers, ProcFile, Stat,
    Status, maps, smaps, unescape_octal,
};

use crate::used;

/// Reads `input`, after its first byte, by the parser that this byte chooses.
pub fn procfs(input: &[u8]) {
    let Some((parser, text)) = input.split_first() else { return };
    match parser % 13 {
        0 => used(Stat::parse(text)),
        1 => used(Status::parse(text)),
        2 => used(FdInfo::parse(text)),
        3 => used(Limits::parse(text)),
        4 => used(PosixTimers::parse(text)),
        5 => used(Mounts::parse(text)),
        6 => used(Cgroup::parse(text)),
        7 => used(Auxv::parse(text).map(|auxv| auxv.get(6))),
        8 => used(OomScoreAdj::parse(text)),
        9 => used(LoginUid::parse(text)),
        10 => maps(text).for_each(|map| used(map.map(|map| map.name().into_owned()))),
        11 => smaps(text).for_each(|smap| used(smap.map(|smap| smap.flag_letters().count()))),
        _ => assert!(unescape_octal(text).len() <= text.len()),
    }
}
