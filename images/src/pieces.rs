//! Digests of all of a long file, piece by piece, which several threads make at once: on the way to the file, or from it.

mod written;

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom};
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::messages::{DIGEST_WHOLE, PIECE_BYTES, PIECE_DIGEST_BYTES};

pub use written::Written;

/// What is read at a time: it is digested while it is in the processor's second cache.
const BUFFER_BYTES: usize = 256 << 10;

/// More threads than these wait for memory.
const MOST_THREADS: usize = 8;

/// BLAKE3 of a piece.
pub(crate) type Digest = [u8; PIECE_DIGEST_BYTES];

/// BLAKE3 of each piece of a file of `size` bytes, one behind the other. `open` is asked for a reader for each thread; as many
/// read as it gives, and it must give one.
///
/// # Errors
/// As the file's, and if it is shorter by now.
pub(crate) fn digests<R: Read + Seek + Send>(
    open: impl Fn() -> io::Result<R>,
    size: u64,
) -> io::Result<Vec<u8>> {
    the_rest(open, size, &Known::new())
}

/// What is known of the pieces of a file, by their numbers, which count from 0.
pub(crate) type Known = BTreeMap<u64, Digest>;

/// The same where some are known: only the others are read, and nothing is opened if there are none.
pub(crate) fn the_rest<R: Read + Seek + Send>(
    open: impl Fn() -> io::Result<R>,
    size: u64,
    known: &Known,
) -> io::Result<Vec<u8>> {
    let count = size.div_ceil(PIECE_BYTES);
    let missing: Vec<u64> = (0..count).filter(|piece| !known.contains_key(piece)).collect();
    let mut digests = known.clone();
    if !missing.is_empty() {
        digests.extend(read(open, size, &missing)?);
    }
    Ok(digests.into_values().flatten().collect())
}

/// Reads pieces.
fn read<R: Read + Seek + Send>(
    open: impl Fn() -> io::Result<R>,
    size: u64,
    pieces: &[u64],
) -> io::Result<Vec<(u64, Digest)>> {
    let processors = thread::available_parallelism().map_or(1, NonZero::get);
    let wanted = processors.min(MOST_THREADS).min(pieces.len());
    let mut readers = vec![open()?];
    readers.extend((1..wanted).map_while(|_| open().ok()));
    let next = AtomicUsize::new(0);
    let some = |mut reader: R| -> io::Result<Vec<(u64, Digest)>> {
        let (mut buffer, mut digests) = (vec![0; BUFFER_BYTES], Vec::new());
        while let Some(&piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
            digests.push((piece, digest(&mut reader, piece, size, &mut buffer)?));
        }
        Ok(digests)
    };
    thread::scope(|scope| {
        let running: Vec<_> =
            readers.into_iter().map(|reader| scope.spawn(|| some(reader))).collect();
        let mut all = Vec::new();
        for thread in running {
            let some = thread.join().map_err(|_| io::Error::other("a thread panicked"))?;
            all.extend(some?);
        }
        Ok(all)
    })
}

/// The same of a file that has pieces; `None` of one whose digest covers all of it.
pub(crate) fn of_long<R: Read + Seek + Send>(
    open: impl Fn() -> io::Result<R>,
    size: u64,
) -> io::Result<Option<Vec<u8>>> {
    (size > DIGEST_WHOLE).then(|| digests(open, size)).transpose()
}

fn digest(
    file: &mut (impl Read + Seek),
    piece: u64,
    size: u64,
    buffer: &mut [u8],
) -> io::Result<Digest> {
    let start = piece * PIECE_BYTES;
    file.seek(SeekFrom::Start(start))?;
    let mut left = PIECE_BYTES.min(size - start);
    let mut hasher = blake3::Hasher::new();
    while left > 0 {
        let count = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        file.read_exact(&mut buffer[..count])?;
        hasher.update(&buffer[..count]);
        left -= count as u64;
    }
    Ok(*hasher.finalize().as_bytes())
}

/// The first piece of which two files differ, counted from 0.
pub(crate) fn changed_piece(known: &[u8], found: &[u8]) -> Option<u64> {
    let digests = |digests| <[u8]>::chunks(digests, PIECE_DIGEST_BYTES);
    let differing = digests(known).zip(digests(found)).position(|(known, found)| known != found);
    let shorter = known.len().min(found.len()) / PIECE_DIGEST_BYTES;
    let at = differing.or((known.len() != found.len()).then_some(shorter))?;
    u64::try_from(at).ok()
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn of(bytes: &[u8]) -> Vec<u8> {
        digests(|| Ok(Cursor::new(bytes)), bytes.len() as u64).unwrap()
    }

    #[test]
    fn each_byte_is_in_a_piece() {
        let piece = usize::try_from(PIECE_BYTES).unwrap();
        let bytes: Vec<u8> = (0..2 * piece + 77).map(|at| (at % 251) as u8).collect();
        let before = of(&bytes);
        assert_eq!(before.len(), 3 * PIECE_DIGEST_BYTES);
        assert_eq!(before[..32], *blake3::hash(&bytes[..piece]).as_bytes());
        assert_eq!(changed_piece(&before, &of(&bytes)), None);
        for (at, piece) in [(0, 0), (piece - 1, 0), (piece, 1), (2 * piece, 2), (2 * piece + 76, 2)]
        {
            let mut other = bytes.clone();
            other[at] ^= 1;
            assert_eq!(changed_piece(&before, &of(&other)), Some(piece), "byte {at}");
        }
    }

    #[test]
    fn lists_of_other_lengths_differ() {
        let known = [1; 64];
        assert_eq!(changed_piece(&known, &known[..32]), Some(1));
        assert_eq!(changed_piece(&known[..32], &known), Some(1));
        assert_eq!(changed_piece(&[], &known), Some(0));
        assert_eq!(changed_piece(&known[..40], &known), Some(1));
    }

    #[test]
    fn one_reader_is_enough_and_a_shorter_file_is_told() {
        let bytes = vec![3; usize::try_from(PIECE_BYTES).unwrap() + 1];
        let given = AtomicUsize::new(0);
        let once = || match given.fetch_add(1, Ordering::Relaxed) {
            0 => Ok(Cursor::new(&bytes)),
            _ => Err(io::ErrorKind::ResourceBusy.into()),
        };
        assert_eq!(digests(once, bytes.len() as u64).unwrap(), of(&bytes));
        assert!(digests(|| Ok(Cursor::new(&bytes)), bytes.len() as u64 + 1).is_err());
        assert!(digests(|| Err::<Cursor<&[u8]>, _>(io::ErrorKind::NotFound.into()), 1).is_err());
    }

    #[test]
    fn what_is_known_is_not_read() {
        let piece = usize::try_from(PIECE_BYTES).unwrap();
        let bytes: Vec<u8> = (0..2 * piece + 77).map(|at| (at % 249) as u8).collect();
        let (all, size) = (of(&bytes), bytes.len() as u64);
        let mut known = Known::from([(0, [5; 32]), (2, [6; 32])]);
        let found = the_rest(|| Ok(Cursor::new(&bytes)), size, &known).unwrap();
        assert_eq!(found, [&[5; 32][..], &all[32..64], &[6; 32]].concat());
        known.insert(1, [7; 32]);
        let unread = || Err::<Cursor<&[u8]>, _>(io::ErrorKind::NotFound.into());
        assert_eq!(the_rest(unread, size, &known).unwrap().len(), all.len());
    }
}
