//! The files of mappings: how they are opened, and what of them must be as it was.

use images::MappingKind;
use images::checkpoint::Mapping;

use crate::files::Needs;

const SHARED_FILE: MappingKind = MappingKind::File { shared: true };
const PROT_WRITE: u32 = 2;
const O_RDONLY: u32 = 0;
const O_RDWR: u32 = 2;

/// With which flags a mapping's file is to be opened.
pub(crate) fn open_flags(Mapping { vma, kind }: &Mapping) -> u32 {
    let writes = *kind == SHARED_FILE && vma.prot & PROT_WRITE != 0;
    vma.fdflags.unwrap_or(if writes { O_RDWR } else { O_RDONLY })
}

/// What a mapping needs of its file: of a private one the images hold only the pages that differ from
/// it; what is mapped shared is the file itself.
pub(crate) fn needs(mapped: &Mapping) -> Needs {
    let writes = open_flags(mapped).cast_signed() & libc::O_ACCMODE != libc::O_RDONLY;
    match mapped.kind == SHARED_FILE {
        true if writes => Needs::File,
        true => Needs::Identity,
        false => Needs::Contents,
    }
}
