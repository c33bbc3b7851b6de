//! Finding, in a task's own code, the two snippets that injected calls lean on. Which these are depends on whose code its program
//! is ([`arch::sigframe::codes`]).

use std::collections::HashMap;

use arch::regs::Abi;
use arch::sigframe::codes;
use collector::{Mapping, Process, VmFlags};
use ids::HostPid;
use images::MappingKind;
use memchr::memmem::Finder;

use super::Error;
use crate::programs::abi_of;

/// Where a process has the code that its injected calls lean on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Gadgets {
    /// Whose code they are.
    pub(crate) abi: Abi,
    /// A sigreturn trampoline.
    pub(crate) trampoline: u64,
    /// A system call that returns.
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
    /// Only code from files counts, or from the kernel's vDSO: anonymous code belongs to a just-in-time compiler, which may
    /// rewrite it at any time.
    pub(crate) fn find(&mut self, process: &Process) -> Result<Gadgets, Error> {
        let abi = abi_of(process.pid).unwrap_or(Abi::Native);
        let (mut trampoline, mut syscall_return) = (None, None);
        for mapping in process.mappings.iter().filter(|mapping| holds_code(abi, mapping)) {
            let found = self.in_mapping(process.pid, abi, mapping);
            trampoline = trampoline.or(found.trampoline.map(|offset| mapping.start + offset));
            syscall_return =
                syscall_return.or(found.syscall_return.map(|offset| mapping.start + offset));
            if let (Some(trampoline), Some(syscall_return)) = (trampoline, syscall_return) {
                return Ok(Gadgets { abi, trampoline, syscall_return });
            }
        }
        Err(Error::NoCodes { pid: process.pid })
    }

    fn in_mapping(&mut self, pid: HostPid, abi: Abi, mapping: &Mapping) -> CodeOffsets {
        let bytes = mapping.end - mapping.start;
        let key = (mapping.device, mapping.inode, mapping.offset, bytes);
        let codes = codes(abi);
        if let Some(found) = self.known.get(&key).filter(|_| !codes.in_vdso) {
            return *found;
        }
        let searched = search(pid, mapping, codes.trampoline).and_then(|trampoline| {
            let syscall_return = search(pid, mapping, codes.call_return)?;
            Ok(CodeOffsets { trampoline, syscall_return })
        });
        match searched {
            Ok(found) if codes.in_vdso => found,
            Ok(found) => *self.known.entry(key).or_insert(found),
            // It says nothing of the file: the process may be ending.
            Err(_) => CodeOffsets::default(),
        }
    }
}

/// Whether a mapping holds code, of a file or the kernel's, that the task cannot write to, and that snippets of this kind are searched in.
fn holds_code(abi: Abi, mapping: &Mapping) -> bool {
    let is_searched = match codes(abi).in_vdso {
        true => mapping.kind == MappingKind::Vdso,
        false => mapping.inode != 0,
    };
    is_searched
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
        let codes = codes(self.abi);
        let mut bytes = vec![0; codes.trampoline.len() + codes.call_return.len()];
        let ranges = [
            (self.trampoline, codes.trampoline.len()),
            (self.syscall_return, codes.call_return.len()),
        ];
        let read = kernel::memory::read_ranges(pid, &ranges, &mut bytes);
        let (trampoline, syscall_return) = bytes.split_at(codes.trampoline.len());
        read.is_ok_and(|read| read == bytes.len())
            && trampoline == codes.trampoline
            && syscall_return == codes.call_return
    }
}
