//! Landlock domains. The kernel shows them nowhere: a task's is in what its security modules keep of
//! it, at a place that depends on which modules there are. The place is found by trial: a thread of
//! our own gets a domain and ends, and the word that becomes a pointer is the one.

use std::sync::mpsc;
use std::thread;

use ebpf_common::SECURITY_WORDS;
use ids::HostPid;

use super::BpfError;

/// How a landlock domain is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Landlock {
    /// This kernel has none.
    Absent,
    /// By this word.
    Word(usize),
    /// It is not known by what.
    Unknown,
}

impl Landlock {
    /// Whether a thread with these words has a domain, as far as can be told.
    pub(super) fn domain(self, words: &[u64; SECURITY_WORDS]) -> bool {
        matches!(self, Self::Word(word) if words.get(word).is_some_and(|domain| *domain != 0))
    }
}

/// How often it is tried. The words that are read may be more than the modules keep, and what lies behind
/// them in the kernel's memory is others': now and then one of those becomes a pointer as well.
const TRIES: usize = 16;

/// Finds out how domains are told; `words` reads what the security modules keep of a thread.
pub(super) fn find(
    mut words: impl FnMut(HostPid) -> Result<[u64; SECURITY_WORDS], BpfError>,
) -> Landlock {
    let mut left = [true; SECURITY_WORDS];
    for _ in 0..TRIES {
        match try_out(&mut words) {
            Ok(None) => return Landlock::Absent,
            Ok(Some((before, after))) => {
                if let Some(found) = place(&before, &after, &mut left) {
                    return found;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "landlock domains are not seen");
                return Landlock::Unknown;
            }
        }
    }
    tracing::warn!(
        "landlock domains are not seen: their place in the kernel's memory is not found"
    );
    Landlock::Unknown
}

/// The words of a thread before it got a domain and after.
type Words = ([u64; SECURITY_WORDS], [u64; SECURITY_WORDS]);

/// Gives a thread a domain; `None` where there are none.
fn try_out(
    mut words: impl FnMut(HostPid) -> Result<[u64; SECURITY_WORDS], BpfError>,
) -> Result<Option<Words>, BpfError> {
    let (say_tid, tid) = mpsc::channel();
    let (go, wait) = mpsc::channel::<()>();
    let (say_done, done) = mpsc::channel();
    thread::scope(|scope| {
        thread::Builder::new()
            .name("landlock".to_owned())
            .spawn_scoped(scope, move || {
                let own = kernel::process::own_thread();
                // An error of any of these means that nobody waits for this any more.
                if say_tid.send(own).is_ok() && wait.recv().is_ok() {
                    let restricted = kernel::landlock::restrict_this_thread();
                    if say_done.send(restricted).is_ok() {
                        wait.recv().ok();
                    }
                }
            })
            .map_err(BpfError::Landlock)?;
        let gone = |_| BpfError::SelfCheck;
        let tid = tid.recv().map_err(gone)?;
        let before = words(tid)?;
        go.send(()).map_err(|_| BpfError::SelfCheck)?;
        if !done.recv().map_err(gone)?.map_err(BpfError::Landlock)? {
            return Ok(None);
        }
        let after = words(tid)?;
        drop(go);
        Ok(Some((before, after)))
    })
}

/// The word that was zero and is a pointer into the kernel's half, in this try and in those before, which have
/// `left` these; `None` if that is more than one yet.
fn place(
    before: &[u64; SECURITY_WORDS],
    after: &[u64; SECURITY_WORDS],
    left: &mut [bool; SECURITY_WORDS],
) -> Option<Landlock> {
    for ((before, after), left) in before.iter().zip(after).zip(left.iter_mut()) {
        *left &= *before == 0 && *after > i64::MAX.cast_unsigned();
    }
    let mut found = (0..SECURITY_WORDS).filter(|word| left[*word]);
    match (found.next(), found.next()) {
        (Some(word), None) => Some(Landlock::Word(word)),
        (None, _) => Some(Landlock::Unknown),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POINTER: u64 = 0xffff_8880_0123_4500;

    #[test]
    fn the_word_that_becomes_a_pointer_is_the_domain() {
        let once = |before, after| place(before, after, &mut [true; SECURITY_WORDS]);
        assert_eq!(once(&[7, 0, 0, 9], &[7, 0, POINTER, 9]), Some(Landlock::Word(2)));
        assert_eq!(once(&[7, 0, 0, 9], &[7, 0, 3, 9]), Some(Landlock::Unknown));
        assert_eq!(once(&[0; 4], &[POINTER, POINTER, 0, 0]), None);
        assert!(Landlock::Word(1).domain(&[0, POINTER, 0, 0]));
        assert!(!Landlock::Word(1).domain(&[POINTER, 0, 0, 0]));
        assert!(!Landlock::Absent.domain(&[POINTER; 4]));
    }
    #[test]
    fn what_is_others_shows_when_it_is_tried_again() {
        let mut left = [true; SECURITY_WORDS];
        assert_eq!(place(&[0; 4], &[POINTER, 0, POINTER, 0], &mut left), None);
        let again = place(&[0; 4], &[POINTER, POINTER, 0, 0], &mut left);
        assert_eq!(again, Some(Landlock::Word(0)));
    }
}
