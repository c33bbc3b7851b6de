//! Shared anonymous memory that is open, or mapped privately, as a file.

use std::collections::BTreeSet;

use collector::Inventory;
use images::MappingKind;

/// What the kernel calls the file of shared anonymous memory.
pub(super) const NAMELESS: &str = "/dev/zero (deleted)";

/// The files behind shared anonymous memory of a tree that are open or mapped privately as well, by device and
/// inode: so what is mapped of them is of files.
pub(super) fn open_memory(inventory: &Inventory) -> BTreeSet<(u64, u64)> {
    let processes = || inventory.processes.values();
    let open = processes().flat_map(|process| &process.files);
    let open = open.filter(|file| file.target == NAMELESS);
    let mapped = processes().flat_map(|process| &process.mappings);
    let mapped = mapped.filter(|mapping| mapping.kind == MappingKind::PrivateOfSharedAnonymous);
    open.map(|file| (file.device, file.inode))
        .chain(mapped.map(|mapping| (mapping.device, mapping.inode)))
        .collect()
}
