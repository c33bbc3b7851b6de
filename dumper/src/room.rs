//! What a restore needs beside what the tree had: where this machine would not leave room for it, the
//! tree is not dumped, as it could not come back.

use std::collections::{BTreeMap, BTreeSet};

use collector::{Inventory, VmFlags};
use ids::HostPid;
use nix::sys::resource::{Resource, getrlimit};
use support::Unsupported;
use support::room::{OpenFiles, of_huge_pages_of_each, of_mappings};

/// What does not leave room for a restore.
pub(crate) fn find(root: HostPid, inventory: &Inventory) -> Vec<Unsupported> {
    let most = most_mappings();
    let of_process = |process: &collector::Process| {
        of_mappings(process.pid, process.mappings.len() as u64, most)
    };
    let mut found: Vec<Unsupported> = inventory.processes.values().filter_map(of_process).collect();
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((u64::MAX, u64::MAX));
    found.extend(open_files(inventory).check(root, hard));
    found.extend(huge_pages(root, inventory));
    found
}

/// Huge pages that processes have in private mappings of no file, which a restore sets aside for each.
fn huge_pages(root: HostPid, inventory: &Inventory) -> Vec<Unsupported> {
    let mut by_device: BTreeMap<u64, u64> = BTreeMap::new();
    let all = inventory.processes.values().flat_map(|process| &process.mappings);
    for mapping in all.filter(|mapping| {
        let is = |flag| mapping.flags.contains(flag);
        is(VmFlags::HUGE_TLB) && !is(VmFlags::SHARED) && !is(VmFlags::NO_RESERVE)
    }) {
        *by_device.entry(mapping.device).or_default() += mapping.end - mapping.start;
    }
    let of_device = |(device, bytes): (u64, u64)| {
        let shift = kernel::huge_pages::shift_of_device(device).ok()??;
        let size = 1u64.checked_shl(shift)?;
        let directory = kernel::huge_pages::directory(shift).display().to_string();
        let most = kernel::huge_pages::most(shift)?;
        of_huge_pages_of_each(root, (bytes.div_ceil(size), size), most, &directory)
    };
    by_device.into_iter().filter_map(of_device).collect()
}

/// The most mappings that a process may have.
fn most_mappings() -> u64 {
    let text = kernel::sysctl::read("/proc/sys/vm/max_map_count");
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(u64::MAX)
}

fn open_files(inventory: &Inventory) -> OpenFiles {
    let processes = || inventory.processes.values();
    let files = || processes().flat_map(|process| &process.files);
    let sockets = files().filter(|file| file.mode & libc::S_IFMT == libc::S_IFSOCK);
    let sockets = sockets.map(|file| file.description).collect::<BTreeSet<_>>().len();
    let mappings = processes().flat_map(|process| &process.mappings);
    let mapped: BTreeSet<(u64, u64)> =
        mappings.map(|mapping| (mapping.device, mapping.inode)).collect();
    let highest = files().map(|file| file.fd.unsigned_abs() as usize).max().unwrap_or(0);
    OpenFiles::new(highest, sockets, mapped.len(), processes().count())
}
