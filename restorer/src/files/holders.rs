//! Who holds the files of the images, and with which rights.

use std::collections::{BTreeMap, BTreeSet};

use ids::ImagePid;
use kernel::credentials::Credentials;
use support::Unsupported;

/// Who holds each file of the images.
#[derive(Clone, Debug, Default)]
pub struct Holders {
    holders: Vec<Holder>,
    /// By file id, which of them.
    of: BTreeMap<u32, BTreeSet<usize>>,
    /// By file id, the first process that has it, and its descriptor if it is one.
    first: BTreeMap<u32, (ImagePid, Option<u32>)>,
    /// The files that are somebody's program.
    programs: BTreeSet<u32>,
}

/// A process, which stands for all that have the same rights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Holder {
    pub(super) pid: ImagePid,
    /// Those of its threads. They share memory and descriptors: what one may do is done for all.
    pub(super) credentials: Vec<Credentials>,
}

impl Holder {
    /// Whether one of its threads has a capability.
    pub(super) fn can(&self, capability: u64) -> bool {
        self.credentials.iter().any(|own| own.effective & capability != 0)
    }
}

impl Holders {
    /// Notes a process: its program, and all files that it holds in any way, each with its first descriptor if it is
    /// one.
    pub fn add(
        &mut self,
        pid: ImagePid,
        credentials: impl IntoIterator<Item = Credentials>,
        program: u32,
        files: impl IntoIterator<Item = (u32, Option<u32>)>,
    ) {
        let own: BTreeSet<Credentials> = credentials.into_iter().collect();
        let own: Vec<Credentials> = own.into_iter().collect();
        let known = self.holders.iter().position(|holder| holder.credentials == own);
        let holder = known.unwrap_or(self.holders.len());
        if known.is_none() {
            self.holders.push(Holder { pid, credentials: own });
        }
        self.programs.insert(program);
        for (file, descriptor) in files.into_iter().chain([(program, None)]) {
            self.of.entry(file).or_default().insert(holder);
            self.first.entry(file).or_insert((pid, descriptor));
        }
    }

    /// What is refused, of the process that has the file.
    pub(super) fn named(&self, file: u32, found: Unsupported) -> Unsupported {
        match self.first.get(&file) {
            Some(&(pid, descriptor)) => found.held_by(pid.get(), descriptor),
            None => found,
        }
    }

    /// Those that hold a file.
    pub(super) fn of(&self, file: u32) -> impl Iterator<Item = &Holder> {
        self.of.get(&file).into_iter().flatten().filter_map(|&holder| self.holders.get(holder))
    }

    /// Whether somebody runs a file.
    pub(super) fn is_program(&self, file: u32) -> bool {
        self.programs.contains(&file)
    }
}
