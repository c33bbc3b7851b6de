//! Spare addresses of this process, in which memory is built that is moved elsewhere later.
//!
//! A forked child has the same memory at the same addresses, and the pages that it does not write to stay its
//! parent's, too: so memory that processes are to share copy-on-write is built before the child is made.
//!
//! All of the range is reserved, and all of it can be read at any time. Only the kernel writes to it, and it
//! answers `EFAULT` where nothing is mapped to be written.

use std::io;
use std::ops::Range;
use std::os::fd::RawFd;

use ids::HostPid;

use crate::memory::{IOV_MAX, write_all};

const PAGE: usize = arch::memory::PAGE_SIZE as usize;

/// A reserved range of addresses.
#[derive(Debug)]
pub struct SpareMemory {
    start: u64,
    bytes: usize,
}

/// What is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backing {
    /// Memory of no file.
    Anonymous,
    /// A private mapping of a file, from an offset on.
    File(RawFd, u64),
}

impl SpareMemory {
    /// Reserves `bytes` at `start`, if nothing is there.
    ///
    /// # Errors
    /// When something is, or a limit does not allow it.
    pub fn reserve(start: u64, bytes: usize) -> io::Result<Self> {
        map(start, bytes, libc::PROT_READ, RESERVED | libc::MAP_FIXED_NOREPLACE, -1, 0)?;
        Ok(Self { start, bytes })
    }

    /// Where it is.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.start..self.start + self.bytes as u64
    }

    /// Maps private memory that can be written, with `flags` (`MAP_*`) beside.
    ///
    /// # Errors
    /// When it is not inside, or the kernel refuses it.
    pub fn map(&self, start: u64, bytes: usize, flags: i32, backing: Backing) -> io::Result<()> {
        self.contains(start, bytes)?;
        let (own, fd, offset) = match backing {
            Backing::Anonymous => (libc::MAP_ANONYMOUS, -1, 0),
            Backing::File(fd, offset) => (0, fd, offset),
        };
        let flags = flags | own | libc::MAP_PRIVATE | libc::MAP_FIXED;
        map(start, bytes, libc::PROT_READ | libc::PROT_WRITE, flags, fd, offset)
    }

    /// Fills ranges (address, bytes) with what lies in a row in a file.
    ///
    /// # Errors
    /// When a range is not inside or not mapped, or the file cannot be read or ends early.
    ///
    /// # Panics
    /// When there are more than [`IOV_MAX`] ranges.
    pub fn read(&self, ranges: &[(u64, usize)], file: RawFd, offset: u64) -> io::Result<()> {
        assert!(ranges.len() <= IOV_MAX, "too many ranges in one read");
        for &(start, bytes) in ranges {
            self.contains(start, bytes)?;
        }
        let mut rest: Vec<libc::iovec> = ranges.iter().map(|&range| segment(range)).collect();
        let mut rest = rest.as_mut_slice();
        let mut offset = offset;
        while !rest.is_empty() {
            let (segments, count) = (rest.as_ptr(), rest.len() as _);
            // SAFETY: the segments are inside of the reserved range, in which there is no object of this
            // program, and no slice of it is alive.
            let read = unsafe { libc::preadv(file, segments, count, offset.cast_signed()) };
            let read = usize::try_from(read).map_err(|_| io::Error::last_os_error())?;
            if read == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            offset += read as u64;
            rest = after(rest, read);
        }
        Ok(())
    }

    /// The same, but a page that holds that already is left as it is, and stays shared with whoever has it, too.
    /// `room` takes what the file holds. All these pages have been written before: such of a mapped file change and
    /// end with that, and are not looked at.
    ///
    /// # Errors
    /// As [`SpareMemory::read`], and when `room` is too small.
    ///
    /// # Panics
    /// As [`SpareMemory::read`].
    pub fn update(
        &self,
        ranges: &[(u64, usize)],
        file: RawFd,
        offset: u64,
        room: &mut [u8],
    ) -> io::Result<()> {
        let bytes = ranges.iter().map(|(_, bytes)| bytes).sum();
        let room = room.get_mut(..bytes).ok_or(io::ErrorKind::InvalidInput)?;
        read_exact(file, offset, room)?;
        let mut at = 0;
        for &(start, bytes) in ranges {
            for differing in self.differing(start, &room[at..at + bytes])? {
                let range = (start + differing.start as u64, differing.len());
                self.read(&[range], file, offset + (at + differing.start) as u64)?;
            }
            at += bytes;
        }
        Ok(())
    }

    /// Makes a range zeros.
    ///
    /// # Errors
    /// When it is not inside or not mapped.
    pub fn zero(&self, start: u64, bytes: usize) -> io::Result<()> {
        self.contains(start, bytes)?;
        let zeros = [0; PAGE];
        (0..bytes).step_by(PAGE).try_for_each(|page| {
            let rest = PAGE.min(bytes - page);
            write_all(HostPid::own(), start + page as u64, &zeros[..rest])
        })
    }

    /// Makes a range zeros, but for pages that are that already. All have been written before, as for
    /// [`SpareMemory::update`].
    ///
    /// # Errors
    /// When it is not inside or not mapped.
    pub fn clear(&self, start: u64, bytes: usize) -> io::Result<()> {
        let zeros = [0; PAGE];
        for page in (0..bytes).step_by(PAGE) {
            let at = start + page as u64;
            if !self.differing(at, &zeros)?.is_empty() {
                write_all(HostPid::own(), at, &zeros)?;
            }
        }
        Ok(())
    }

    /// Gives pages back: they are what was mapped there, again.
    ///
    /// # Errors
    /// When they are not inside.
    pub fn discard(&self, start: u64, bytes: usize) -> io::Result<()> {
        self.contains(start, bytes)?;
        // SAFETY: inside of the reserved range, in which there is no object of this program.
        match unsafe { libc::madvise(start as *mut _, bytes, libc::MADV_DONTNEED) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Stretches of whole pages, as offsets in `wanted`, that hold something else.
    fn differing(&self, start: u64, wanted: &[u8]) -> io::Result<Vec<Range<usize>>> {
        self.contains(start, wanted.len())?;
        // SAFETY: inside of the reserved range, which is readable and initialised all over; its pages are of no
        // file, as they have been written, and nobody writes to them while the slice is alive.
        let found = unsafe { std::slice::from_raw_parts(start as *const u8, wanted.len()) };
        let mut differing: Vec<Range<usize>> = Vec::new();
        for (page, (found, wanted)) in found.chunks(PAGE).zip(wanted.chunks(PAGE)).enumerate() {
            if found == wanted {
                continue;
            }
            let at = page * PAGE;
            match differing.last_mut() {
                Some(last) if last.end == at => last.end += wanted.len(),
                _ => differing.push(at..at + wanted.len()),
            }
        }
        Ok(differing)
    }

    fn contains(&self, start: u64, bytes: usize) -> io::Result<()> {
        let offset = start.checked_sub(self.start).and_then(|offset| usize::try_from(offset).ok());
        let end = offset.and_then(|offset| offset.checked_add(bytes));
        end.filter(|&end| end <= self.bytes).map(drop).ok_or(io::ErrorKind::InvalidInput.into())
    }
}

impl Drop for SpareMemory {
    fn drop(&mut self) {
        // SAFETY: the range is ours, and no slice of it is alive.
        unsafe { libc::munmap(self.start as *mut _, self.bytes) };
    }
}

const RESERVED: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;

fn map(
    start: u64,
    bytes: usize,
    protection: i32,
    flags: i32,
    fd: RawFd,
    offset: u64,
) -> io::Result<()> {
    let wanted = start as *mut libc::c_void;
    let offset = offset.cast_signed();
    // SAFETY: the callers map where nothing is, or inside of a reserved range, in which there is no object of
    // this program.
    let mapped = unsafe { libc::mmap(wanted, bytes, protection, flags, fd, offset) };
    if mapped == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    if mapped != wanted {
        // A kernel before 4.17 takes the address for a wish.
        // SAFETY: the mapping was made by us just now.
        unsafe { libc::munmap(mapped, bytes) };
        return Err(io::Error::from_raw_os_error(libc::EEXIST));
    }
    Ok(())
}

fn segment((start, bytes): (u64, usize)) -> libc::iovec {
    libc::iovec { iov_base: start as *mut _, iov_len: bytes }
}

/// What is left of segments when `done` bytes of them are full.
fn after(mut segments: &mut [libc::iovec], mut done: usize) -> &mut [libc::iovec] {
    while let [first, ..] = segments {
        if done < first.iov_len {
            first.iov_base = first.iov_base.wrapping_byte_add(done);
            first.iov_len -= done;
            break;
        }
        done -= first.iov_len;
        segments = &mut segments[1..];
    }
    segments
}

fn read_exact(file: RawFd, mut offset: u64, mut room: &mut [u8]) -> io::Result<()> {
    while !room.is_empty() {
        // SAFETY: the kernel writes into the slice, and no further.
        let read = unsafe {
            libc::pread(file, room.as_mut_ptr().cast(), room.len(), offset.cast_signed())
        };
        let read = usize::try_from(read).map_err(|_| io::Error::last_os_error())?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        offset += read as u64;
        room = &mut room[read..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::fd::AsRawFd;

    use super::*;

    const START: u64 = 0x2000_0000_0000;
    const PAGES: u64 = 16;

    #[test]
    fn only_what_differs_is_written() {
        let spare = SpareMemory::reserve(START, PAGES as usize * PAGE).unwrap();
        assert!(SpareMemory::reserve(START, PAGE).is_err(), "it is taken");
        let at = |page: u64| START + page * PAGE as u64;
        let page = |page: u64| {
            // SAFETY: the range is reserved, and nobody writes to it here.
            unsafe { std::slice::from_raw_parts(at(page) as *const u8, PAGE) }
        };
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 3 * PAGE]).unwrap();
        file.write_all(&[8; PAGE]).unwrap();
        let fd = file.as_raw_fd();

        let not_mapped = spare.read(&[(at(0), PAGE)], fd, 0).unwrap_err();
        assert_eq!(not_mapped.raw_os_error(), Some(libc::EFAULT));
        spare.map(at(0), 4 * PAGE, 0, Backing::Anonymous).unwrap();
        spare.read(&[(at(0), PAGE), (at(2), 2 * PAGE)], fd, 0).unwrap();
        assert!(page(0)[0] == 7 && page(1)[0] == 0 && page(2)[9] == 7 && page(3)[9] == 7);
        let mut room = vec![0; 4 * PAGE];
        spare.update(&[(at(0), 4 * PAGE)], fd, 0, &mut room).unwrap();
        assert!(page(1)[5] == 7 && page(3)[5] == 8);
        spare.clear(at(0), PAGE).unwrap();
        spare.zero(at(3), PAGE).unwrap();
        assert!(page(3)[5] == 0 && spare.zero(at(PAGES), PAGE).is_err());
        spare.discard(at(1), PAGE).unwrap();
        assert!(page(0)[0] == 0 && page(1)[0] == 0 && page(2)[0] == 7);

        spare.map(at(8), PAGE, 0, Backing::File(fd, 3 * PAGE as u64)).unwrap();
        assert_eq!(page(8)[0], 8);
        assert!(spare.read(&[(at(0), PAGE)], fd, 4 * PAGE as u64).is_err(), "the file has ended");
        for (page, bytes) in [(PAGES, PAGE), (PAGES - 1, 2 * PAGE), (0, usize::MAX)] {
            assert!(spare.map(at(page), bytes, 0, Backing::Anonymous).is_err());
        }
    }
}
