//! The mappings of a process, from /proc.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use kernel::procfs::{self, Dir, smaps};

use inventory::mapping_kind;

use crate::{Mapping, VmFlags};

/// The mappings of a process, or none if it has lost its memory.
pub(crate) fn mappings(dir: &Dir, text: &mut Vec<u8>) -> Result<Vec<Mapping>, procfs::Error> {
    match dir.read("smaps", text) {
        Ok(()) => {}
        Err(error) if error.is_gone() => return Ok(Vec::new()),
        Err(error) => return Err(error),
    }
    smaps(text)
        .map(|smap| smap.map(|smap| mapping(&smap)))
        .collect::<Result<_, _>>()
        .map_err(|source| dir.malformed("smaps", source))
}

fn mapping(smap: &procfs::Smap<'_>) -> Mapping {
    let map = &smap.map;
    let mut flags = VmFlags::default();
    for letters in smap.flag_letters() {
        flags |= VmFlags::from_letters(letters);
    }
    let name = map.name().into_owned();
    Mapping {
        start: map.start,
        end: map.end,
        kind: mapping_kind(&name, map.inode, flags),
        flags,
        offset: map.offset,
        device: map.device,
        inode: map.inode,
        protection_key: smap.protection_key,
        policy: None,
        locked: None,
        name: OsString::from_vec(name),
    }
}
