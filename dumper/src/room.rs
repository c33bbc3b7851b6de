//! What a restore needs beside what the tree had: where this machine would not leave room for it, the
//! tree is not dumped, as it could not come back.

use std::collections::BTreeSet;

use collector::Inventory;
use ids::HostPid;
use nix::sys::resource::{Resource, getrlimit};
use support::Unsupported;
use support::room::{OpenFiles, of_mappings};

/// What does not leave room for a restore.
pub(crate) fn find(root: HostPid, inventory: &Inventory) -> Vec<Unsupported> {
    let most = most_mappings();
    let of_process = |process: &collector::Process| {
        of_mappings(process.pid, process.mappings.len() as u64, most)
    };
    let mut found: Vec<Unsupported> = inventory.processes.values().filter_map(of_process).collect();
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((u64::MAX, u64::MAX));
    found.extend(open_files(inventory).check(root, hard));
    found
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
