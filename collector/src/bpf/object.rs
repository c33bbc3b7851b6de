//! Brings the object with the programs into the kernel.
//!
//! `aya-obj` reads and links the object; loading it is done here, not by `aya`, which reads the kernel's
//! type information twice for what the one pass of `Layout` has found already: ten times as long as all
//! the rest takes.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroU32;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};

use aya_obj::generated::bpf_insn;
use aya_obj::{EbpfSectionKind, Map, Object};
use kernel::bpf::{MapSpec, ProgramSpec, map_constant, map_create, program_load};

use super::offsets::Layout;
use super::programs::{ITERATORS, LONGEST_FIRST, MAPS, PROGRAMS, Program, TRACKED};
use super::{BpfError, calls};

/// The programs' object, in the alignment that its parser wants.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/stasis-ebpf"));

/// Names the object and all that its users expect of it: no version uses another one's pins.
pub(super) const VERSION: &str = env!("STASIS_EBPF_VERSION");

/// Programs and maps, in the kernel.
#[derive(Debug)]
pub(super) struct Objects {
    pub(super) iterators: [OwnedFd; ITERATORS],
    /// `None` where nothing can be counted: on another processor, or by the kernel's refusal.
    pub(super) counting: Option<CountingObjects>,
}

/// What counts changes, and the maps with the counts, in the order of their tables.
#[derive(Debug)]
pub(super) struct CountingObjects {
    pub(super) programs: Vec<OwnedFd>,
    pub(super) maps: Vec<OwnedFd>,
}

/// Loads all, with room for so many tracked processes.
pub(super) fn load(layout: &Layout, room: Option<NonZeroU32>) -> Result<Objects, BpfError> {
    let linked = Linked::new(layout, room)?;
    let refused = || BpfError::Missing(PROGRAMS[0].name);
    let mut loaded = linked.load_all(layout).into_iter();
    let iterators = loaded.by_ref().take(ITERATORS).collect::<Result<Vec<_>, _>>()?;
    let iterators = iterators.try_into().map_err(|_| refused())?;
    let counting = loaded.collect::<Result<Vec<_>, _>>().and_then(|programs| {
        let maps = MAPS.iter().map(|name| linked.map(name)).collect::<Result<_, _>>()?;
        Ok(CountingObjects { programs, maps })
    });
    let counting = if layout.has_calls() {
        counting
            .inspect_err(|error| tracing::warn!(%error, "nothing is counted: no tracks, no marks of sockets and pipes"))
            .ok()
    } else {
        None
    };
    Ok(Objects { iterators, counting })
}

/// The code of each program, complete, and the maps that it refers to.
struct Linked {
    object: Object,
    maps: HashMap<String, OwnedFd>,
}

impl Linked {
    fn new(layout: &Layout, room: Option<NonZeroU32>) -> Result<Self, BpfError> {
        let failed = |source: Box<dyn std::error::Error + Send + Sync>| BpfError::Object(source);
        let mut object = Object::parse(OBJECT).map_err(|error| failed(error.into()))?;
        let offsets: Vec<u8> =
            layout.offsets.iter().flat_map(|offset| offset.to_ne_bytes()).collect();
        let calls = calls::bytes(&calls::of_this_processor());
        // Where the kernel does not tell, no program looks at them one by one.
        let processors = kernel::aio::processors().unwrap_or(0).to_ne_bytes();
        let constants = [
            ("OFFSETS", (offsets.as_slice(), true)),
            ("CALLS", (calls.as_slice(), true)),
            ("PROCESSORS", (processors.as_slice(), true)),
        ];
        object.patch_map_data(HashMap::from(constants)).map_err(|error| failed(error.into()))?;
        let descriptions: Vec<(String, Map)> = object.maps.drain().collect();
        let mut maps = HashMap::new();
        for (name, map) in &descriptions {
            maps.insert(name.clone(), make(name, map, room)?);
        }
        let sections: HashSet<usize> =
            object.functions.keys().map(|(section, _)| *section).collect();
        let made = descriptions
            .iter()
            .filter_map(|(name, map)| Some((name.as_str(), maps.get(name)?.as_raw_fd(), map)));
        object.relocate_maps(made, &sections).map_err(|error| failed(error.into()))?;
        object.relocate_calls(&sections).map_err(|error| failed(error.into()))?;
        Ok(Self { object, maps })
    }

    /// Loads the programs, in their order. The verifier looks at one at a time in each thread, so that there are two, and
    /// whoever is free takes the next.
    fn load_all(&self, layout: &Layout) -> Vec<Result<OwnedFd, BpfError>> {
        let next = AtomicUsize::new(0);
        let some = || {
            let taken =
                std::iter::from_fn(|| LONGEST_FIRST.get(next.fetch_add(1, Ordering::Relaxed)));
            taken.map(|&index| (index, self.load(layout, index))).collect()
        };
        let mut loaded: Vec<_> = std::thread::scope(|scope| {
            let other = std::thread::Builder::new().spawn_scoped(scope, some);
            let mut own: Vec<(usize, Result<OwnedFd, BpfError>)> = some();
            // Where no thread is to be had, this one has loaded all.
            if let Ok(other) = other {
                own.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            }
            own
        });
        loaded.sort_by_key(|(index, _)| *index);
        loaded.into_iter().map(|(_, program)| program).collect()
    }

    fn load(&self, layout: &Layout, index: usize) -> Result<OwnedFd, BpfError> {
        let Program { name, called, target } = PROGRAMS[index];
        let target = match layout.targets[index] {
            0 => return Err(BpfError::Field(target.1)),
            number => number,
        };
        let missing = || BpfError::Missing(name);
        let program = self.object.programs.get(name).ok_or_else(missing)?;
        let function = self.object.functions.get(&program.function_key()).ok_or_else(missing)?;
        let instructions: Vec<u64> = function.instructions.iter().map(instruction).collect();
        let spec = ProgramSpec {
            name,
            called,
            target,
            instructions: &instructions,
            license: &program.license,
        };
        // Where it says at the end why.
        let mut log = vec![0; 1 << 20];
        program_load(&spec, &mut log).map_err(|source| {
            tracing::debug!(name, "{}", said(&log));
            BpfError::Program { name, source }
        })
    }

    fn map(&self, name: &'static str) -> Result<OwnedFd, BpfError> {
        let map = self.maps.get(name).ok_or(BpfError::Missing(name))?;
        map.try_clone()
            .map_err(|source| BpfError::Map { name, source: aya::maps::MapError::IoError(source) })
    }
}

/// The last lines of the verifier's log.
fn said(log: &[u8]) -> String {
    const LINES: usize = 12;
    let text = log.split(|byte| *byte == 0).next().unwrap_or_default();
    let text = String::from_utf8_lossy(text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

fn make(name: &str, map: &Map, room: Option<NonZeroU32>) -> Result<OwnedFd, BpfError> {
    let entries = match room {
        Some(room) if name == TRACKED => room.get(),
        _ => map.max_entries(),
    };
    let spec = MapSpec {
        name,
        kind: map.map_type(),
        key_bytes: map.key_size(),
        value_bytes: map.value_size(),
        entries,
        flags: map.map_flags(),
    };
    let made = match map.section_kind() {
        EbpfSectionKind::Rodata => map_constant(&spec, map.data()),
        _ => map_create(&spec),
    };
    made.map_err(|source| BpfError::MakeMap { name: name.to_owned(), source })
}

/// As the kernel has it in memory.
fn instruction(instruction: &bpf_insn) -> u64 {
    let registers = instruction.dst_reg() | instruction.src_reg() << 4;
    let [offset_low, offset_high] = instruction.off.to_ne_bytes();
    let [a, b, c, d] = instruction.imm.to_ne_bytes();
    u64::from_ne_bytes([instruction.code, registers, offset_low, offset_high, a, b, c, d])
}
