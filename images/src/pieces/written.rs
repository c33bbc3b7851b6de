//! Digests that are made while a file is written, when what is written is in a processor's cache: reading it again costs as much as writing it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Digest, Known};
use crate::messages::PIECE_BYTES;

/// What was written to a file, of which no byte is written twice. Several threads may write; a piece that is not written from its
/// beginning to its end, one part after the other, is not known.
#[derive(Debug, Default)]
pub struct Written(Mutex<BTreeMap<u64, Piece>>);

/// How far a piece has come.
#[derive(Debug)]
enum Piece {
    /// So many bytes of it, from its beginning.
    Begun(Box<blake3::Hasher>, u64),
    /// All of it.
    Whole(Digest),
    /// It will have to be read, if whoever is at work on it does not say otherwise.
    Unknown,
}

impl Written {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Piece>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes note of bytes that were written.
    pub fn add(&self, mut bytes: &[u8], mut offset: u64) {
        while !bytes.is_empty() {
            let (piece, inside) = (offset / PIECE_BYTES, offset % PIECE_BYTES);
            let room = usize::try_from(PIECE_BYTES - inside).unwrap_or(usize::MAX);
            let (part, later) = bytes.split_at(bytes.len().min(room));
            self.add_to(piece, part, inside);
            offset += part.len() as u64;
            bytes = later;
        }
    }

    /// The lock is not held while digesting. Who comes to the same piece meanwhile does not find it, and what it writes is in no digest: then
    /// the piece never becomes as long as it is in the file.
    fn add_to(&self, piece: u64, part: &[u8], inside: u64) {
        let mut digester = match self.lock().insert(piece, Piece::Unknown) {
            None if inside == 0 => Box::default(),
            Some(Piece::Begun(digester, bytes)) if bytes == inside => digester,
            _ => return,
        };
        digester.update(part);
        let bytes = inside + part.len() as u64;
        let now = match bytes == PIECE_BYTES {
            true => Piece::Whole(*digester.finalize().as_bytes()),
            false => Piece::Begun(digester, bytes),
        };
        self.lock().insert(piece, now);
    }

    /// Forgets bytes that are in the file no more, once nobody writes.
    pub fn forget(&self, offset: u64, bytes: u64) {
        let end = offset.saturating_add(bytes).div_ceil(PIECE_BYTES);
        let mut pieces = self.lock();
        for (_, piece) in pieces.range_mut(offset / PIECE_BYTES..end) {
            *piece = Piece::Unknown;
        }
    }

    /// What is known of the file, which has `size` bytes.
    pub(crate) fn known(&self, size: u64) -> Known {
        let digest = |(&piece, state): (&u64, &Piece)| {
            let length = PIECE_BYTES.min(size.checked_sub(piece * PIECE_BYTES)?);
            let digest = match state {
                Piece::Whole(digest) if length == PIECE_BYTES => *digest,
                Piece::Begun(digester, bytes) if *bytes == length => {
                    *digester.finalize().as_bytes()
                }
                _ => return None,
            };
            Some((piece, digest))
        };
        self.lock().iter().filter_map(digest).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    const PIECE: usize = PIECE_BYTES as usize;

    fn bytes(count: usize) -> Vec<u8> {
        (0..count).map(|at| (at % 241) as u8).collect()
    }

    /// All that is known is what is read.
    fn compare(written: &Written, bytes: &[u8], known: &[u64]) {
        let (found, size) = (written.known(bytes.len() as u64), bytes.len() as u64);
        let read = super::super::digests(|| Ok(Cursor::new(bytes)), size).unwrap();
        assert_eq!(found.keys().copied().collect::<Vec<_>>(), known);
        for (piece, digest) in found {
            let at = usize::try_from(piece).unwrap() * digest.len();
            assert_eq!(digest[..], read[at..at + digest.len()], "piece {piece}");
        }
    }

    #[test]
    fn what_is_written_in_a_row_is_known() {
        let bytes = bytes(2 * PIECE + 4096);
        for part in [4096, 100_000, PIECE, 3 * PIECE] {
            let written = Written::default();
            let mut at = 0;
            for part in bytes.chunks(part) {
                written.add(part, at);
                at += part.len() as u64;
            }
            compare(&written, &bytes, &[0, 1, 2]);
            // Of a longer file the last one is not whole.
            assert_eq!(written.known(bytes.len() as u64 + 1).len(), 2);
            assert_eq!(written.known(PIECE_BYTES - 1).len(), 0);
        }
    }

    #[test]
    fn pieces_are_written_in_any_order() {
        let bytes = bytes(3 * PIECE);
        let written = Written::default();
        for piece in [2, 0, 1] {
            written.add(&bytes[piece * PIECE..(piece + 1) * PIECE], (piece * PIECE) as u64);
        }
        compare(&written, &bytes, &[0, 1, 2]);
    }

    #[test]
    fn what_is_written_out_of_order_is_not() {
        let bytes = bytes(3 * PIECE);
        let written = Written::default();
        let put = |from: usize, to: usize| written.add(&bytes[from..to], from as u64);
        put(4096, PIECE + 8192);
        put(0, 4096);
        put(PIECE + 8192, 2 * PIECE - 1);
        put(2 * PIECE, 2 * PIECE + 1);
        put(2 * PIECE + 2, 3 * PIECE);
        put(2 * PIECE + 1, 2 * PIECE + 2);
        compare(&written, &bytes, &[]);
        put(2 * PIECE - 1, 2 * PIECE);
        compare(&written, &bytes, &[1]);
    }

    #[test]
    fn what_is_given_back_is_forgotten() {
        let mut bytes = bytes(4 * PIECE);
        let written = Written::default();
        written.add(&bytes, 0);
        written.forget(PIECE_BYTES - 1, 2);
        bytes[PIECE - 1..=PIECE].fill(0);
        compare(&written, &bytes, &[2, 3]);
        written.forget(u64::MAX, u64::MAX);
        written.forget(0, u64::MAX);
        compare(&written, &bytes, &[]);
    }

    #[test]
    fn of_threads_at_once_nothing_wrong_is_known() {
        let bytes = bytes(8 * PIECE);
        let written = Written::default();
        let turns = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    loop {
                        let at = turns.fetch_add(1, std::sync::atomic::Ordering::Relaxed) * 65536;
                        if at >= bytes.len() {
                            break;
                        }
                        written.add(&bytes[at..at + 65536], at as u64);
                    }
                });
            }
        });
        let known: Vec<u64> = written.known(bytes.len() as u64).into_keys().collect();
        compare(&written, &bytes, &known);
    }
}
