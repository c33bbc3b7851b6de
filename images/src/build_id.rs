//! The build id of a program or library: what its linker wrote into it so that no other has the same.
//!
//! The rule is CRIU's, as the other engine compares what one writes: the first note of the type of build
//! ids in any segment of notes, whatever its name; its bytes as words in the order of the processor, the
//! last one filled up with zeros.

use std::io::{self, ErrorKind};

const PT_NOTE: u32 = 4;
const NT_GNU_BUILD_ID: u32 = 3;
/// Longest build id.
const LONGEST: usize = 512;
/// How many bytes of a segment of notes are read.
const NOTES: u64 = 1 << 20;

/// Where a class of ELF files has what we look for: offset and bytes.
struct Class {
    /// Bytes of the header of the file.
    header: usize,
    table_at: (usize, usize),
    entry_size: usize,
    entries: usize,
    /// Bytes of the header of a segment, and places in it.
    segment: u64,
    offset: (usize, usize),
    size: (usize, usize),
}

const BITS_32: Class = Class {
    header: 52,
    table_at: (28, 4),
    entry_size: 42,
    entries: 44,
    segment: 32,
    offset: (4, 4),
    size: (16, 4),
};
const BITS_64: Class = Class {
    header: 64,
    table_at: (32, 8),
    entry_size: 54,
    entries: 56,
    segment: 56,
    offset: (8, 8),
    size: (32, 8),
};

/// Finds the build id in a file, of which `read` gives all bytes asked for from an offset on; `None`
/// when it has none, or is no program.
///
/// # Errors
/// When reading fails for another reason than the end of the file.
pub fn find(
    mut read: impl FnMut(&mut [u8], u64) -> io::Result<()>,
) -> io::Result<Option<Vec<u32>>> {
    match look(&mut read) {
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
        found => found,
    }
}

fn look(read: &mut dyn FnMut(&mut [u8], u64) -> io::Result<()>) -> io::Result<Option<Vec<u32>>> {
    let mut ident = [0; 16];
    read(&mut ident, 0)?;
    let class = match ident {
        [0x7f, b'E', b'L', b'F', 1, 1, ..] => BITS_32,
        [0x7f, b'E', b'L', b'F', 2, 1, ..] => BITS_64,
        _ => return Ok(None),
    };
    let mut header = vec![0; class.header];
    read(&mut header, 0)?;
    let (at, bytes) = (number(&header, class.table_at), number(&header, (class.entry_size, 2)));
    if bytes != class.segment {
        return Ok(None);
    }
    let mut table = vec![0; (bytes * number(&header, (class.entries, 2))) as usize];
    read(&mut table, at)?;
    for segment in table.chunks_exact(bytes as usize) {
        if number(segment, (0, 4)) != u64::from(PT_NOTE) {
            continue;
        }
        let (at, size) = (number(segment, class.offset), number(segment, class.size));
        let mut notes = vec![0; size.min(NOTES) as usize];
        read(&mut notes, at)?;
        if let Some(id) = in_notes(&notes) {
            return Ok(Some(id));
        }
    }
    Ok(None)
}

fn in_notes(mut notes: &[u8]) -> Option<Vec<u32>> {
    while notes.len() >= 12 {
        let [name, content, kind] = [0, 4, 8].map(|at| number(notes, (at, 4)) as usize);
        let start = 12 + name.next_multiple_of(4);
        let end = start + content;
        if kind == NT_GNU_BUILD_ID as usize {
            let id = notes.get(start..end)?;
            return (1..=LONGEST).contains(&id.len()).then(|| words(id));
        }
        notes = notes.get(end.next_multiple_of(4)..)?;
    }
    None
}

fn words(bytes: &[u8]) -> Vec<u32> {
    let word = |bytes: &[u8]| {
        let mut word = [0; 4];
        word[..bytes.len()].copy_from_slice(bytes);
        u32::from_ne_bytes(word)
    };
    bytes.chunks(4).map(word).collect()
}

/// A number of up to eight bytes, low byte first; 0 where there is none.
fn number(bytes: &[u8], (at, count): (usize, usize)) -> u64 {
    let bytes = bytes.get(at..at + count).unwrap_or_default();
    bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(bytes: &[u8]) -> Option<Vec<u32>> {
        find(|buffer, at| {
            let end = at.saturating_add(buffer.len() as u64);
            let part = usize::try_from(at).ok().and_then(|at| bytes.get(at..end as usize));
            buffer.copy_from_slice(part.ok_or(ErrorKind::UnexpectedEof)?);
            Ok(())
        })
        .unwrap()
    }

    /// A file of one segment of notes.
    fn file(notes: &[u8]) -> Vec<u8> {
        let mut file = vec![0; 64 + 56];
        file[..6].copy_from_slice(b"\x7fELF\x02\x01");
        file[32] = 64;
        file[54] = 56;
        file[56] = 1;
        file[64] = 4;
        file[64 + 8] = 64 + 56;
        file[64 + 32] = notes.len() as u8;
        file.extend(notes);
        file
    }

    #[test]
    fn behind_other_notes() {
        let other = b"\x04\0\0\0\x05\0\0\0\x05\0\0\0GNU\0abcde\0\0\0";
        let own = b"\x04\0\0\0\x05\0\0\0\x03\0\0\0GNU\0\x01\x02\x03\x04\x05\0\0\0";
        let notes = [&other[..], &own[..]].concat();
        let expected = vec![u32::from_ne_bytes([1, 2, 3, 4]), u32::from_ne_bytes([5, 0, 0, 0])];
        assert_eq!(of(&file(&notes)), Some(expected));
        assert_eq!(of(&file(other)), None);
        assert_eq!(of(b"#!/bin/sh\n and more than that"), None);
        assert_eq!(of(b""), None);
    }

    #[test]
    fn of_this_program() {
        use std::os::unix::fs::FileExt;
        let this = std::fs::File::open("/proc/self/exe").unwrap();
        let once = find(|buffer, at| this.read_exact_at(buffer, at)).unwrap();
        assert_eq!(once, find(|buffer, at| this.read_exact_at(buffer, at)).unwrap());
    }

    proptest! {
        #[test]
        fn whatever_is_in_a_file(
            mut bytes in proptest::collection::vec(any::<u8>(), 0..400),
            class in 1..3u8,
        ) {
            of(&bytes);
            if bytes.len() > 6 {
                bytes[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', class, 1]);
                of(&bytes);
            }
        }
    }
}
