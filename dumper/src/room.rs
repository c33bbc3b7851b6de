//! What a restore needs beside what the tree had: where this machine would not leave room for it, the
//! tree is not dumped, as it could not come back.

use std::collections::{BTreeMap, BTreeSet};

use collector::{Inventory, VmFlags};
use ids::HostPid;
use kernel::procfs::{Dir, smaps};
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

/// Huge pages: of private mappings, which a restore sets aside for each process, or fills if that is to be spared
/// (`MAP_NORESERVE`); and of shared memory what mappings set aside.
fn huge_pages(root: HostPid, inventory: &Inventory) -> Vec<Unsupported> {
    let mut by_device: BTreeMap<u64, u64> = BTreeMap::new();
    let mut shared: BTreeMap<(u64, u64), Vec<(u64, u64)>> = BTreeMap::new();
    for process in inventory.processes.values() {
        let mut spared = None;
        for mapping in &process.mappings {
            let is = |flag| mapping.flags.contains(flag);
            let bytes = mapping.end - mapping.start;
            let add = match (is(VmFlags::HUGE_TLB), is(VmFlags::MAY_SHARE), is(VmFlags::NO_RESERVE))
            {
                (true, false, false) => bytes,
                (true, false, true) => {
                    let filled = spared.get_or_insert_with(|| filled(process.pid));
                    filled.get(&mapping.start).copied().unwrap_or(0)
                }
                (true, true, false) => {
                    let range = (mapping.offset, mapping.offset + bytes);
                    shared.entry((mapping.device, mapping.inode)).or_default().push(range);
                    continue;
                }
                _ => continue,
            };
            *by_device.entry(mapping.device).or_default() += add;
        }
    }
    for ((device, _), ranges) in shared {
        *by_device.entry(device).or_default() += covered(ranges);
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

/// Bytes that are in memory of the private huge pages of a process, by the address of the mapping. (Those of a file that
/// others have as well may be the file's.)
fn filled(pid: HostPid) -> BTreeMap<u64, u64> {
    let mut text = Vec::new();
    let read = Dir::open(pid).and_then(|dir| dir.read("smaps", &mut text));
    if let Err(error) = read {
        tracing::debug!(%pid, %error, "read smaps");
        return BTreeMap::new();
    }
    let huge = smaps(&text).flatten().map(|smap| {
        let own = smap.private_huge_kib;
        let kib = if smap.map.raw_name.starts_with(b"/anon_hugepage") {
            own.saturating_add(smap.shared_huge_kib)
        } else {
            own
        };
        (smap.map.start, kib.saturating_mul(1024))
    });
    huge.collect()
}

/// How much ranges cover that may overlap.
fn covered(mut ranges: Vec<(u64, u64)>) -> u64 {
    ranges.sort_unstable();
    let (mut bytes, mut reached) = (0, 0);
    for (start, end) in ranges {
        bytes += end.saturating_sub(start.max(reached));
        reached = reached.max(end);
    }
    bytes
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
