//! Where pages are read from: the checkpoint with its parents, and the pages files in use.
//!
//! Tasks read their pages themselves, from descriptors. Of a store whose pages are in no file, what is wanted is
//! brought into memory that is one.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::num::NonZero;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use images::{Images, Lineage, PageSource};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::error::Error;
use crate::run::RunSource;

/// Bytes that are brought at once.
const AT_ONCE: u64 = 1 << 20;
/// Bytes that a thread takes at a time.
const SHARE: u64 = 8 << 20;

/// The checkpoint with its parents, and the pages files in use, each opened once.
#[derive(Debug)]
pub(crate) struct Store {
    pub(super) lineage: Lineage,
    sources: Vec<Source>,
    /// By how many parents up the checkpoint is, and the number of the file.
    known: BTreeMap<(usize, u32), usize>,
}

/// A pages file.
#[derive(Debug)]
struct Source {
    pages: Arc<dyn PageSource>,
    /// What of it is wanted, if it has to be brought: offset and bytes.
    wanted: Vec<(u64, u64)>,
}

impl Store {
    pub(super) fn of(dir: &Images) -> Result<Self, Error> {
        Ok(Self { lineage: Lineage::of(dir)?, sources: Vec::new(), known: BTreeMap::new() })
    }

    /// The place of bytes that are wanted: in a pages file of the checkpoint that is so many levels up.
    pub(super) fn source(
        &mut self,
        level: usize,
        pages_id: u32,
        offset: u64,
        bytes: u64,
    ) -> Result<RunSource, Error> {
        let index = match self.known.get(&(level, pages_id)) {
            Some(&index) => index,
            None => {
                let pages = self.lineage.level(level)?.pages(pages_id)?;
                self.sources.push(Source { pages, wanted: Vec::new() });
                self.known.insert((level, pages_id), self.sources.len() - 1);
                self.sources.len() - 1
            }
        };
        let source = &mut self.sources[index];
        if source.pages.file().is_none() {
            source.wanted.push((offset, bytes));
        }
        Ok(RunSource::Stored(index, offset))
    }

    /// The files that the places refer to.
    pub(super) fn into_files(self) -> Result<Vec<File>, Error> {
        self.sources.iter().map(Source::to_file).collect()
    }
}

impl Source {
    fn to_file(&self) -> Result<File, Error> {
        match self.pages.file() {
            Some(file) => file.try_clone().map_err(Error::kernel("duplicate a pages file")),
            None => self.bring().map_err(Error::kernel("bring pages into memory")),
        }
    }

    /// A file that holds what is wanted, where it is in the source. What is brought may have to be decrypted: several threads do it.
    fn bring(&self) -> io::Result<File> {
        let file = File::from(memfd_create(c"pages", MFdFlags::MFD_CLOEXEC)?);
        file.set_len(self.pages.bytes())?;
        let shares = shares(&self.wanted);
        let next = AtomicUsize::new(0);
        let work = || -> io::Result<()> {
            let mut buffer = Vec::new();
            while let Some(&(start, bytes)) = shares.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.bring_share(&file, (start, bytes), &mut buffer)?;
            }
            Ok(())
        };
        let most = thread::available_parallelism().map_or(1, NonZero::get);
        thread::scope(|scope| {
            let others = (1..most.min(shares.len())).map(|_| scope.spawn(work));
            let others: Vec<_> = others.collect();
            let own = work();
            others.into_iter().try_fold((), |(), other| {
                other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })?;
            own
        })?;
        Ok(file)
    }

    fn bring_share(
        &self,
        file: &File,
        (start, bytes): (u64, u64),
        buffer: &mut Vec<u8>,
    ) -> io::Result<()> {
        let mut done = 0;
        while done < bytes {
            buffer.resize((bytes - done).min(AT_ONCE) as usize, 0);
            self.pages.read_exact_at(buffer, start + done)?;
            file.write_all_at(buffer, start + done)?;
            done += buffer.len() as u64;
        }
        Ok(())
    }
}

/// Cuts what is wanted into shares that threads take in turns: what follows one another, in one, as far as that goes.
fn shares(wanted: &[(u64, u64)]) -> Vec<(u64, u64)> {
    let mut joined: Vec<(u64, u64)> = Vec::new();
    for &(start, bytes) in wanted {
        match joined.last_mut() {
            Some((last, length)) if *last + *length == start => *length += bytes,
            _ => joined.push((start, bytes)),
        }
    }
    let mut shares = Vec::new();
    for (mut start, mut bytes) in joined {
        while bytes > 0 {
            let share = bytes.min(SHARE);
            shares.push((start, share));
            (start, bytes) = (start + share, bytes - share);
        }
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_wanted_is_shared_out_and_nothing_is_left() {
        let mib = 1 << 20;
        assert_eq!(shares(&[]), []);
        assert_eq!(shares(&[(0, 4096), (4096, 4096), (12288, 1)]), [(0, 8192), (12288, 1)]);
        let all = shares(&[(mib, 5 * mib), (6 * mib, 20 * mib)]);
        assert_eq!(
            all,
            [(mib, SHARE), (mib + SHARE, SHARE), (mib + 2 * SHARE, SHARE), (mib + 3 * SHARE, mib)]
        );
    }
}
