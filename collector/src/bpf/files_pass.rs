//! The open files' part of an inventory: which of them are read, and what is known then.

use std::any::Any;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use ebpf_common::asked::{ALWAYS, Asked, FILES, HOLDERS, NEVER};
use ids::HostPid;
use kernel::bpf::IterTarget;

use super::BpfError;
use super::change_detection::{Basis, Counted, Held, Needs, Reading, Wanted};
use super::files::{Decoded, Decoding};
use super::programs::What;
use super::reading::{BpfSource, FoundProcess};
use crate::basis;
use crate::{Inventory, Look, OpenFile, Parts};

/// Up to how many files are read one by one, and none behind them looked at: a program's first
/// descriptors are often all that is of interest.
const FEW: usize = 32;

/// The pass over the files of some processes.
#[derive(Default)]
pub(super) struct FilesPass {
    /// There are counts to go by.
    is_counted: bool,
    /// Who shares what with whom is found out, for the next inventory.
    looks_ahead: bool,
    counted: Counted,
    needs: Needs,
    /// Of each place the touches, before.
    touched: Vec<u64>,
    /// How many descriptors this process has of each open file, for having got at them; `None` until
    /// somebody needs to know.
    own: Option<HashMap<u64, u64>>,
    /// Processes of whose settled files none has to be read.
    settled: HashSet<HostPid>,
    held: BTreeMap<HostPid, Held>,
    /// Processes whose files have not been read.
    spared: HashSet<HostPid>,
}

impl FilesPass {
    /// Comes before anything else is read: what changes from here on is counted behind this.
    pub(super) fn begin(
        source: &mut BpfSource,
        pids: impl Iterator<Item = HostPid> + Clone,
        parts: Parts,
        earlier: &Inventory,
        look: Look,
    ) -> Result<Self, BpfError> {
        if !parts.contains(Parts::FILES) || source.watch.is_none() {
            return Ok(Self::default());
        }
        let looks_ahead = look == Look::Ahead;
        let Some(watch) = &mut source.watch else { return Ok(Self::default()) };
        if looks_ahead {
            watch.enter(pids.clone());
        }
        let counted = Counted::read(&watch.counts, pids)?;
        let touched = if looks_ahead { watch.counts.all_touched() } else { Vec::new() };
        let nothing = Basis::default();
        let basis = settled_in(&earlier.basis);
        let basis = basis.as_deref().unwrap_or(&nothing);
        let needs = basis.needs(&counted, &|place| watch.counts.touched(place));
        Ok(Self {
            is_counted: true,
            looks_ahead,
            counted,
            touched,
            // Before a first look there was nothing to get at.
            own: earlier.processes.is_empty().then(HashMap::new),
            settled: basis.without_news(&needs),
            needs,
            ..Self::default()
        })
    }

    /// How many processes' files have not been read.
    pub(super) fn spared(&self) -> usize {
        self.spared.len()
    }

    /// The files of a process, made of `before`, its files of before.
    pub(super) fn read(
        &mut self,
        source: &mut BpfSource,
        found: &mut FoundProcess,
        before: Vec<OpenFile>,
    ) -> Result<(), BpfError> {
        let pid = found.process.pid;
        let Some(tid) = found.speaker() else { return Ok(()) };
        let decoding = Decoding { pid, tid, watched: source.watch.is_some() };
        let before = match self.needs.get(&pid) {
            Some(wanted) if wanted.is_none() => {
                self.spared.insert(pid);
                found.process.files = before;
                return Ok(());
            }
            Some(wanted) if self.pays(pid, before.len()) => {
                source.read_some_files(pid, wanted)?;
                match decoding.decode_some(&source.output, before, wanted)? {
                    Ok(decoded) => {
                        found.take_files(decoded);
                        return Ok(());
                    }
                    Err(before) => before,
                }
            }
            _ => before,
        };
        let wanted = self.needs.remove(&pid);
        self.settled.remove(&pid);
        if self.looks_ahead && self.own.is_none() {
            self.own = Some(source.files_got_at()?);
        }
        source.read_files(pid, self.looks_ahead)?;
        let mut decoded = decoding.decode(&source.output, before)?;
        if let Some(wanted) = wanted {
            decoded.keep_names(&wanted);
        }
        found.take_files(decoded);
        if let (true, Some(own)) = (self.looks_ahead, &self.own) {
            let reading = Reading {
                process: &found.process,
                users: found.users,
                counted: &self.counted,
                touched: &|place| self.touched.get(place).copied().unwrap_or(0),
                own,
            };
            self.held.extend(Held::new(&reading, &source.output).map(|held| (pid, held)));
        }
        Ok(())
    }

    /// Whether to read only some of a process's files: of few, all are read sooner.
    fn pays(&self, pid: HostPid, count: usize) -> bool {
        if self.looks_ahead { self.settled.contains(&pid) } else { count > FEW }
    }

    /// What to keep for the next inventory.
    pub(super) fn basis(
        self,
        found: &BTreeMap<HostPid, FoundProcess>,
        earlier: &basis::Basis,
    ) -> basis::Basis {
        let nothing = Basis::default();
        let before = settled_in(earlier);
        let before = before.as_deref().unwrap_or(&nothing);
        let settled = match (self.is_counted, self.looks_ahead) {
            (false, _) => None,
            (true, false) => Some(before.go_on(&self.needs)),
            (true, true) => Some(before.establish(found.keys().copied(), self.held, &self.settled)),
        };
        let differing = earlier.differing.as_ref().map(|before| {
            let differing = found.iter().filter(|(_, found)| found.same_descriptors);
            let differing = differing.filter_map(|(pid, found)| {
                let mut differing = before.get(pid)?.clone();
                differing.extend(&found.differing);
                differing.sort_unstable();
                differing.dedup();
                Some((*pid, differing))
            });
            differing.collect()
        });
        let of_source = settled.map(|settled| Arc::new(settled) as Arc<dyn Any + Send + Sync>);
        basis::Basis { of_source, differing }
    }
}

/// What this source has found settled for an inventory of before.
fn settled_in(basis: &basis::Basis) -> Option<Arc<Basis>> {
    basis.of_source.clone()?.downcast().ok()
}

impl BpfSource {
    /// Reads all files of a process into the buffer, and if asked for also who holds them.
    fn read_files(&mut self, pid: HostPid, and_holders: bool) -> Result<(), BpfError> {
        let what = match &mut self.watch {
            Some(watch) if and_holders => {
                watch.counts.ask(Asked { what: FILES | HOLDERS, ..Asked::default() })?;
                What::SomeFiles
            }
            _ => What::Files,
        };
        // Not IterTarget::Thread: such an iterator, read on behind its end, goes back to where the
        // last buffer ended and never ends (seen on Linux 6.18).
        self.iterate(what, IterTarget::Process(pid))
    }

    /// Reads the files behind some descriptors of a process into the buffer.
    fn read_some_files(&mut self, pid: HostPid, wanted: &Wanted) -> Result<(), BpfError> {
        let Some(watch) = &mut self.watch else { return self.read_files(pid, false) };
        let words = words(wanted);
        watch.counts.ask(Asked {
            what: FILES,
            count: words.len() as u32,
            wanted: words.as_ptr() as u64,
        })?;
        // They are read from there while the iterator is.
        let count = Some(wanted.always.len()).filter(|_| wanted.unless.is_empty());
        let objects = count.filter(|count| *count <= FEW);
        let target = IterTarget::Process(pid);
        let read = self.iterate_over(What::SomeFiles, target, objects);
        drop(words);
        read
    }

    /// How many descriptors this process has of each open file that it had not before it watched.
    fn files_got_at(&mut self) -> Result<HashMap<u64, u64>, BpfError> {
        let all = self.own_files()?;
        let before = self.watch.as_ref().map(|watch| &watch.own);
        let is_new = |file: &u64| before.is_none_or(|before| !before.contains(file));
        let mut got_at = HashMap::new();
        all.into_iter().filter(is_new).for_each(|file| *got_at.entry(file).or_default() += 1);
        Ok(got_at)
    }

    /// The addresses of what this process has open.
    pub(super) fn own_files(&mut self) -> Result<Vec<u64>, BpfError> {
        let Some(watch) = &mut self.watch else { return Ok(Vec::new()) };
        watch.counts.ask(Asked { what: HOLDERS, ..Asked::default() })?;
        self.iterate(What::SomeFiles, IterTarget::Process(HostPid::own()))?;
        Ok(super::change_detection::descriptions(&self.output))
    }
}

impl FoundProcess {
    fn take_files(&mut self, decoded: Decoded) {
        self.process.files = decoded.files;
        self.read = decoded.read;
        self.same_descriptors = decoded.same_descriptors;
    }
}

/// A word for each descriptor up to the last one wanted, that says whether it is.
fn words(wanted: &Wanted) -> Vec<u64> {
    let unless = wanted.unless.iter().copied();
    let all = wanted.always.iter().map(|fd| (*fd, ALWAYS)).chain(unless);
    let all = all.filter_map(|(fd, word)| Some((usize::try_from(fd).ok()?, word)));
    let mut words = vec![NEVER; all.clone().map(|(fd, _)| fd + 1).max().unwrap_or(1)];
    for (fd, word) in all {
        words[fd] = word;
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_descriptors() {
        assert_eq!(words(&Wanted::default()), [NEVER]);
        let wanted = Wanted { always: vec![0, 3], unless: vec![(1, 77), (5, 99)] };
        assert_eq!(words(&wanted), [ALWAYS, 77, NEVER, ALWAYS, NEVER, 99]);
    }
}
