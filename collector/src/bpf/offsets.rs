//! Looks up in the kernel's type information where the structures keep what the programs read, and
//! what calls the programs.

use std::path::Path;

use ebpf_common::offsets::{ABSENT, COUNT, FIELDS, OF_PROCESSOR, REGISTERS_CALL, Want};

use kernel::btf::{Btf, Named};

use super::BpfError;
use super::programs::PROGRAMS;

/// What has to be known of a kernel before the programs can be loaded into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Layout {
    /// In the order of the table that the programs share.
    pub(super) offsets: [u32; COUNT],
    /// The numbers of what calls the programs, in their order; 0 for what is not there.
    pub(super) targets: [u32; PROGRAMS.len()],
}

/// The fields' paths on this processor, in the order of the table; `None` for what it does not have.
pub(super) fn paths() -> [Option<&'static str>; COUNT] {
    FIELDS.map(|(path, _)| match path.strip_prefix(OF_PROCESSOR) {
        Some(name) => arch::kernel::path(name),
        None => Some(path),
    })
}

/// How many numbers a layout is.
pub(super) const WORDS: usize = COUNT + PROGRAMS.len();

impl Layout {
    /// Looks everything up, in one pass.
    pub(super) fn resolve(path: &'static str) -> Result<Self, BpfError> {
        let failed = |source| BpfError::TypeInformation { path, source };
        let bytes = std::fs::read(Path::new(path)).map_err(failed)?;
        let fields = paths();
        let structures = fields.iter().flatten().filter_map(|path| path.split('.').next());
        let structures = structures.map(|name| (Named::Structure, name));
        let wanted: Vec<_> =
            structures.chain(PROGRAMS.iter().map(|program| program.target)).collect();
        let btf = Btf::parse(&bytes, &wanted).map_err(|source| {
            failed(std::io::Error::new(std::io::ErrorKind::InvalidData, source))
        })?;
        let mut offsets = [ABSENT; COUNT];
        for ((slot, (name, want)), path) in offsets.iter_mut().zip(FIELDS).zip(fields) {
            let found = path.and_then(|path| match path.split_once('.') {
                // A path that is a structure alone asks for its size.
                None => btf.bytes(path),
                Some((structure, members)) if want == Want::Value => btf.value(structure, members),
                Some((structure, members)) => {
                    btf.offset(structure, members).map(|bits| match want {
                        Want::Bit | Want::OptionalBit => bits,
                        Want::Byte | Want::Optional | Want::Value => bits / 8,
                    })
                }
            });
            match found {
                Some(offset) => *slot = offset,
                None if matches!(want, Want::Optional | Want::OptionalBit | Want::Value) => {}
                None => return Err(BpfError::Field(path.unwrap_or(name))),
            }
        }
        let targets =
            PROGRAMS.map(|program| btf.number(program.target.0, program.target.1).unwrap_or(0));
        Ok(Self { offsets, targets })
    }

    /// Whether the programs know this processor's system calls, so that they can be counted.
    pub(super) const fn has_calls(&self) -> bool {
        self.offsets[REGISTERS_CALL] != ABSENT
    }

    /// As numbers, to be kept.
    pub(super) fn words(&self) -> impl Iterator<Item = u32> {
        self.offsets.iter().chain(&self.targets).copied()
    }

    /// From such numbers.
    pub(super) fn from_words(words: [u32; WORDS]) -> Self {
        let mut layout = Self { offsets: [ABSENT; COUNT], targets: [0; PROGRAMS.len()] };
        let slots = layout.offsets.iter_mut().chain(&mut layout.targets);
        for (slot, word) in slots.zip(words) {
            *slot = word;
        }
        layout
    }
}
