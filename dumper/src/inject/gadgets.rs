//! Finding, in a task's own code, the two snippets that injected calls lean on.

use std::collections::HashMap;

use arch::sigframe::{SYSCALL_RETURN_CODE, TRAMPOLINE_CODE};
use collector::{Mapping, Process, VmFlags};
use ids::HostPid;
use memchr::memmem::Finder;

use super::Error;

/// Where a process has the code that its injected calls lean on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gadgets {
    /// A sigreturn trampoline.
    pub(crate) trampoline: u64,
    /// A `syscall; ret`.
    pub(crate) syscall_return: u64,
}

/// Device, inode, file offset and length of a mapping: what decides the bytes that it shows.
type MappingKey = (u64, u64, u64, u64);

/// Offsets into a mapping.
#[derive(Clone, Copy, Debug, Default)]
struct CodeOffsets {
    trampoline: Option<u64>,
    syscall_return: Option<u64>,
}

/// Searches code, and remembers what it found in which file.
#[derive(Debug, Default)]
pub(crate) struct GadgetFinder {
    known: HashMap<MappingKey, CodeOffsets>,
}

/// Bytes searched at a time.
const CHUNK: usize = 256 * 1024;

impl GadgetFinder {
    /// Finds both snippets in the executable mappings of `process`.
    ///
    /// Only code from files counts: anonymous code belongs to a just-in-time compiler, which may
    /// rewrite it at any time.
    pub(crate) fn find(&mut self, process: &Process) -> Result<Gadgets, Error> {
        let (mut trampoline, mut syscall_return) = (None, None);
        for mapping in process.mappings.iter().filter(|mapping| is_file_code(mapping)) {
            let found = self.in_mapping(process.pid, mapping);
            trampoline = trampoline.or(found.trampoline.map(|offset| mapping.start + offset));
            syscall_return =
                syscall_return.or(found.syscall_return.map(|offset| mapping.start + offset));
            if let (Some(trampoline), Some(syscall_return)) = (trampoline, syscall_return) {
                return Ok(Gadgets { trampoline, syscall_return });
            }
        }
        Err(Error::NoCodes { pid: process.pid })
    }

    fn in_mapping(&mut self, pid: HostPid, mapping: &Mapping) -> CodeOffsets {
        let bytes = mapping.end - mapping.start;
        let key = (mapping.device, mapping.inode, mapping.offset, bytes);
        if let Some(found) = self.known.get(&key) {
            return *found;
        }
        let searched = search(pid, mapping, &TRAMPOLINE_CODE).and_then(|trampoline| {
            let syscall_return = search(pid, mapping, &SYSCALL_RETURN_CODE)?;
            Ok(CodeOffsets { trampoline, syscall_return })
        });
        match searched {
            Ok(found) => *self.known.entry(key).or_insert(found),
            // It says nothing of the file: the process may be ending.
            Err(_) => CodeOffsets::default(),
        }
    }
}

/// Whether a mapping holds code of a file that the task cannot write to.
fn is_file_code(mapping: &Mapping) -> bool {
    mapping.inode != 0
        && mapping.flags.contains(VmFlags::READ | VmFlags::EXEC)
        && !mapping.flags.contains(VmFlags::WRITE)
}

/// Offset of the first occurrence of `code` in a mapping.
fn search(pid: HostPid, mapping: &Mapping, code: &[u8]) -> std::io::Result<Option<u64>> {
    let finder = Finder::new(code);
    let mut chunk = vec![0; CHUNK];
    let mut at = mapping.start;
    while at < mapping.end {
        let want = (mapping.end - at).min(CHUNK as u64) as usize;
        let read = kernel::memory::read_ranges(pid, &[(at, want)], &mut chunk[..want])?;
        if let Some(offset) = finder.find(&chunk[..read]) {
            return Ok(Some(at - mapping.start + offset as u64));
        }
        if read < want {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if want < CHUNK {
            return Ok(None);
        }
        // The next chunk overlaps, so that an occurrence across the edge is seen.
        at += (read - code.len()) as u64;
    }
    Ok(None)
}

impl Gadgets {
    /// Whether both snippets still stand where they were found.
    pub(crate) fn still_there(&self, pid: HostPid) -> bool {
        let mut bytes = [0; TRAMPOLINE_CODE.len() + SYSCALL_RETURN_CODE.len()];
        let ranges = [
            (self.trampoline, TRAMPOLINE_CODE.len()),
            (self.syscall_return, SYSCALL_RETURN_CODE.len()),
        ];
        let read = kernel::memory::read_ranges(pid, &ranges, &mut bytes);
        let (trampoline, syscall_return) = bytes.split_at(TRAMPOLINE_CODE.len());
        read.is_ok_and(|read| read == bytes.len())
            && trampoline == TRAMPOLINE_CODE
            && syscall_return == SYSCALL_RETURN_CODE
    }
}
