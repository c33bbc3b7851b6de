//! What goes over the connection, as CRIU has it.
//!
//! A request is [`BYTES`] long: command (32 bits), four bytes without meaning, pages, address, and what they are pages of. Of the
//! command the lower half says what is wanted, and the upper one holds the flags of pages
//! ([`page_flags`]). The bytes of pages that are present follow their request.

use std::fmt;

use crate::messages::{PagemapHead, page_flags};
use crate::names::{self, Image};
use crate::pagemap::PAGE_SIZE;

/// The length of a request.
pub(super) const BYTES: usize = 32;

const ADD: u32 = 1;
const HOLE: u32 = 2;
const OPEN: u32 = 3;
const OPEN_AND_ANSWER: u32 = 4;
const HAS_PARENT: u32 = 5;
const ADD_WITH_FLAGS: u32 = 6;
const GET: u32 = 7;
const CLOSE: u32 = 0x1023;
const CLOSE_AT_ONCE: u32 = 0x1024;

/// Bits of a command that say what it is; the others are flags.
const COMMAND_BITS: u32 = 16;
/// Bits of a subject's number that say what it is.
const KIND_BITS: u32 = 8;

/// What pages belong to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Subject {
    /// A process, by its number in the images.
    Process(u32),
    /// Shared memory, by its id.
    Shared(u64),
}

impl Subject {
    /// The image of its page map.
    pub(super) fn image(self) -> Image<PagemapHead> {
        match self {
            Self::Process(pid) => names::pagemap(pid),
            Self::Shared(id) => names::pagemap_shmem(id),
        }
    }

    /// Whose page map has this name.
    pub(super) fn of_image(name: &str) -> Option<Self> {
        let number = name.strip_prefix("pagemap-")?.strip_suffix(".img")?;
        match number.strip_prefix("shmem-") {
            Some(id) => id.parse().ok().map(Self::Shared),
            None => number.parse().ok().map(Self::Process),
        }
    }

    /// What it is called on the way; `None` of an id for which there is no room.
    pub(super) fn number(self) -> Option<u64> {
        let (kind, id) = match self {
            Self::Process(pid) => (1, u64::from(pid)),
            Self::Shared(id) => (2, id),
        };
        (id >> (u64::BITS - KIND_BITS) == 0).then_some(id << KIND_BITS | kind)
    }

    /// Older versions of CRIU have other numbers for the kinds, by version.
    fn of_number(number: u64) -> Option<Self> {
        let id = number >> KIND_BITS;
        match number & ((1 << KIND_BITS) - 1) {
            1 | 10 | 11 | 16 | 17 => u32::try_from(id).ok().map(Self::Process),
            2 | 27 | 28 | 29 | 32 | 33 | 34 => Some(Self::Shared(id)),
            _ => None,
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.image().name())
    }
}

/// Pages that follow one another in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pages {
    pub(super) start: u64,
    pub(super) pages: u64,
    pub(super) flags: u32,
}

impl Pages {
    /// Their end does not lie beyond all addresses.
    fn checked(start: u64, pages: u64, flags: u32) -> Option<Self> {
        let end = pages.checked_mul(PAGE_SIZE).and_then(|bytes| start.checked_add(bytes));
        let known = page_flags::PARENT | page_flags::LAZY | page_flags::PRESENT;
        let is_sane = start.is_multiple_of(PAGE_SIZE) && pages > 0 && end.is_some();
        (is_sane && flags & !known == 0).then_some(Self { start, pages, flags })
    }

    pub(super) const fn bytes(&self) -> u64 {
        self.pages * PAGE_SIZE
    }

    pub(super) const fn has(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }
}

/// What a server is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// Pages of this will follow. The answer, if one is wanted, is a byte: whether there is a parent that has any of it.
    Open { subject: Subject, answered: bool },
    /// The same question alone; the answer has four bytes.
    HasParent(Subject),
    /// Pages; of those that are present the bytes follow.
    Add(Subject, Pages),
    /// That was all. The answer, of four bytes, is 0 if all is well.
    Close {
        /// The server is not to wait for the end of the connection.
        at_once: bool,
    },
}

/// Why what came is no request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NoRequest(pub(super) String);

impl Request {
    pub(super) fn read(bytes: &[u8; BYTES]) -> Result<Self, NoRequest> {
        let number = |at: usize| {
            let mut number = [0; 8];
            number.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(number)
        };
        let command = u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        let (flags, wanted) = (command >> COMMAND_BITS, command & ((1 << COMMAND_BITS) - 1));
        let subject = || {
            let found = Subject::of_number(number(24));
            found
                .ok_or_else(|| NoRequest(format!("pages of something unknown ({:#x})", number(24))))
        };
        let add = |flags| {
            let (pages, start) = (number(8), number(16));
            let checked = Pages::checked(start, pages, flags);
            let wrong = || NoRequest(format!("{pages} pages at {start:#x} with flags {flags:#x}"));
            Ok(Self::Add(subject()?, checked.ok_or_else(wrong)?))
        };
        match wanted {
            ADD => add(page_flags::PRESENT),
            HOLE => add(page_flags::PARENT),
            ADD_WITH_FLAGS => add(flags),
            OPEN | OPEN_AND_ANSWER => {
                Ok(Self::Open { subject: subject()?, answered: wanted == OPEN_AND_ANSWER })
            }
            HAS_PARENT => Ok(Self::HasParent(subject()?)),
            CLOSE | CLOSE_AT_ONCE => Ok(Self::Close { at_once: wanted == CLOSE_AT_ONCE }),
            GET => Err(NoRequest(
                "pages are wanted as they are touched, which is not served; send all of them"
                    .to_owned(),
            )),
            other => Err(NoRequest(format!("command {other:#x} is unknown"))),
        }
    }

    /// As it is sent; `None` of memory whose id there is no room for.
    pub(super) fn written(&self) -> Option<[u8; BYTES]> {
        let (command, pages, subject) = match self {
            Self::Open { subject, answered: true } => (OPEN_AND_ANSWER, None, Some(subject)),
            Self::Open { subject, answered: false } => (OPEN, None, Some(subject)),
            Self::HasParent(subject) => (HAS_PARENT, None, Some(subject)),
            Self::Add(subject, pages) => {
                (ADD_WITH_FLAGS | pages.flags << COMMAND_BITS, Some(pages), Some(subject))
            }
            Self::Close { at_once: true } => (CLOSE_AT_ONCE, None, None),
            Self::Close { at_once: false } => (CLOSE, None, None),
        };
        let mut bytes = [0; BYTES];
        bytes[..4].copy_from_slice(&command.to_le_bytes());
        if let Some(pages) = pages {
            bytes[8..16].copy_from_slice(&pages.pages.to_le_bytes());
            bytes[16..24].copy_from_slice(&pages.start.to_le_bytes());
        }
        if let Some(subject) = subject {
            bytes[24..].copy_from_slice(&subject.number()?.to_le_bytes());
        }
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(command: u32, pages: u64, start: u64, subject: u64) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[..4].copy_from_slice(&command.to_le_bytes());
        for (at, number) in [(8, pages), (16, start), (24, subject)] {
            bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        bytes
    }

    #[test]
    fn what_is_written_is_read() {
        let pages = |flags| Pages { start: 0x7000, pages: 3, flags };
        for asked in [
            Request::Open { subject: Subject::Process(7), answered: true },
            Request::Open { subject: Subject::Shared(1 << 40), answered: false },
            Request::HasParent(Subject::Process(u32::MAX)),
            Request::Add(Subject::Process(1), pages(page_flags::PRESENT)),
            Request::Add(Subject::Shared(9), pages(page_flags::PRESENT | page_flags::LAZY)),
            Request::Add(Subject::Shared(9), pages(page_flags::PARENT)),
            Request::Close { at_once: true },
            Request::Close { at_once: false },
        ] {
            assert_eq!(Request::read(&asked.written().unwrap()), Ok(asked));
        }
        let subject = Subject::Shared(1 << 56);
        assert_eq!(Request::HasParent(subject).written(), None);
    }

    /// The bytes that CRIU 4.2 has for one page of process 5.
    #[test]
    fn the_order_of_bytes_is_criu_s() {
        let pages = Pages { start: 0x1000, pages: 1, flags: page_flags::PRESENT };
        let written = Request::Add(Subject::Process(5), pages).written().unwrap();
        assert_eq!(&written[..8], [6, 0, 4, 0, 0, 0, 0, 0]);
        assert_eq!(&written[8..16], [1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&written[16..24], [0, 0x10, 0, 0, 0, 0, 0, 0]);
        assert_eq!(&written[24..], [1, 5, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn old_numbers_are_known() {
        for kind in [1, 10, 11, 16, 17] {
            assert_eq!(Subject::of_number(5 << 8 | kind), Some(Subject::Process(5)));
        }
        for kind in [2, 27, 28, 29, 32, 33, 34] {
            assert_eq!(Subject::of_number(5 << 8 | kind), Some(Subject::Shared(5)));
        }
        let old = Request::read(&request(ADD, 2, 0x2000, 5 << 8 | 11));
        let pages = Pages { start: 0x2000, pages: 2, flags: page_flags::PRESENT };
        assert_eq!(old, Ok(Request::Add(Subject::Process(5), pages)));
    }

    #[test]
    fn what_cannot_be_is_no_request() {
        let process = 5 << 8 | 1;
        for bytes in [
            request(0, 1, 0, process),
            request(99, 1, 0, process),
            request(GET, 1, 0x1000, process),
            request(OPEN, 0, 0, 3),
            // A process has a number of 32 bits.
            request(OPEN, 0, 0, 1 << 40 | 1),
            request(ADD, 0, 0x1000, process),
            request(ADD, 1, 0x1001, process),
            request(ADD, u64::MAX, 0x1000, process),
            request(ADD, 2, !0xfff, process),
            request(ADD, 1 << 52, 0, process),
            request(ADD_WITH_FLAGS | 8 << 16, 1, 0x1000, process),
        ] {
            assert!(Request::read(&bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn page_maps_are_known_by_their_names() {
        for subject in [Subject::Process(5), Subject::Shared(u64::MAX)] {
            assert_eq!(Subject::of_image(subject.image().name()), Some(subject));
        }
        for name in
            ["pagemap-.img", "pagemap-x.img", "pagemap-5", "pages-5.img", "pagemap-shmem-.img"]
        {
            assert_eq!(Subject::of_image(name), None, "{name}");
        }
    }
}
