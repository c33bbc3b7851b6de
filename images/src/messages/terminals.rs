//! Terminals: their files, and what they are (`tty-info.img`, `tty-data.img`).

use prost::Message;

use super::file_body::file_body;
use super::owned::{Id, Owned};

use super::parts::FownEntry;

/// Kinds of terminal ([`TtyInfoEntry::type`](TtyInfoEntry)).
pub mod tty_type {
    /// Unknown.
    pub const UNKNOWN: u32 = 0;
    /// One side of a pseudo-terminal.
    pub const PTY: u32 = 1;
    /// The system console.
    pub const CONSOLE: u32 = 2;
    /// A virtual terminal.
    pub const VT: u32 = 3;
    /// `/dev/tty`.
    pub const CTTY: u32 = 4;
    /// A terminal that the caller provides.
    pub const EXT_TTY: u32 = 5;
    /// A serial line.
    pub const SERIAL: u32 = 6;
}

/// An open file description of a terminal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct TtyFileEntry {
    /// Number of the file in the checkpoint.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// The terminal, a [`TtyInfoEntry`].
    #[prost(uint32, required, tag = "2")]
    pub tty_info_id: u32,
    /// Flags, as `F_GETFL` gives them.
    #[prost(uint32, required, tag = "3")]
    pub flags: u32,
    /// Who is signalled.
    #[prost(message, required, tag = "4")]
    pub fown: FownEntry,
    /// File id of its path.
    #[prost(uint32, optional, tag = "6")]
    pub regf_id: Option<u32>,
    /// Extension: of what was opened as `/dev/tty`, the terminal that it is.
    #[prost(uint32, optional, tag = "1000")]
    pub terminal: Option<u32>,
}

/// A terminal.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct TtyInfoEntry {
    /// Number of the terminal, its own space.
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    /// Kind of terminal ([`tty_type`]).
    #[prost(uint32, required, tag = "2")]
    pub r#type: u32,
    /// `TIOCSPTLCK`.
    #[prost(bool, required, tag = "3")]
    pub locked: bool,
    /// `TIOCEXCL`.
    #[prost(bool, required, tag = "4")]
    pub exclusive: bool,
    /// `TIOCPKT`.
    #[prost(bool, required, tag = "5")]
    pub packet_mode: bool,
    /// Session it controls; 0 for none.
    #[prost(uint32, required, tag = "6")]
    pub sid: u32,
    /// Foreground process group.
    #[prost(uint32, required, tag = "7")]
    pub pgrp: u32,
    /// Which device it is (`st_rdev`).
    #[prost(uint32, required, tag = "8")]
    pub rdev: u32,
    /// Modes; absent for one that hung up.
    #[prost(message, optional, tag = "9")]
    pub termios: Option<TermiosEntry>,
    /// Modes that cannot be changed.
    #[prost(message, optional, tag = "10")]
    pub termios_locked: Option<TermiosEntry>,
    /// Window size.
    #[prost(message, optional, tag = "11")]
    pub winsize: Option<WinsizeEntry>,
    /// For pseudo-terminals.
    #[prost(message, optional, tag = "12")]
    pub pty: Option<TtyPtyEntry>,
    /// Device its node is on.
    #[prost(uint32, optional, tag = "13")]
    pub dev: Option<u32>,
    /// Owner of its node.
    #[prost(uint32, optional, tag = "14")]
    pub uid: Option<u32>,
    /// Group of its node.
    #[prost(uint32, optional, tag = "15")]
    pub gid: Option<u32>,
    /// Extension: of a master, the slave was open once and nobody had it open any more.
    #[prost(bool, optional, tag = "1000")]
    pub other_closed: Option<bool>,
    /// Extension: its output is stopped.
    #[prost(bool, optional, tag = "1001")]
    pub stopped: Option<bool>,
    /// Extension: its output was stopped by a call (`TCOOFF`).
    #[prost(bool, optional, tag = "1002")]
    pub stopped_by_call: Option<bool>,
    /// Extension: of a master, owner, group and permissions of the slave's node.
    #[prost(message, optional, tag = "1003")]
    pub node: Option<TtyNodeEntry>,
}

/// What is in a terminal's input queue.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct TtyDataEntry {
    /// Which terminal.
    #[prost(uint32, required, tag = "1")]
    pub tty_id: u32,
    /// The bytes, as a reader would get them: CRIU has no more.
    #[prost(bytes = "vec", required, tag = "2")]
    pub data: Vec<u8>,
    /// Extension: all that there is to it.
    #[prost(message, optional, tag = "1000")]
    pub input: Option<TtyInputEntry>,
    /// Extension: of a master whose slave nobody has open, what waits in that.
    #[prost(message, optional, tag = "1001")]
    pub slave: Option<TtyInputEntry>,
}

/// Extension: owner, group and permissions of a node.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct TtyNodeEntry {
    /// Owner.
    #[prost(uint32, required, tag = "1")]
    pub uid: u32,
    /// Group.
    #[prost(uint32, required, tag = "2")]
    pub gid: u32,
    /// Permissions.
    #[prost(uint32, required, tag = "3")]
    pub mode: u32,
}

/// Extension: the input queue of a terminal.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct TtyInputEntry {
    /// What the line discipline has taken, as it holds it: whole lines, then one that is being typed.
    #[prost(bytes = "vec", required, tag = "1")]
    pub taken: Vec<u8>,
    /// Where in it lines end: the last byte of each; a byte 0 there is the end of a file.
    #[prost(uint32, repeated, packed = "false", tag = "2")]
    pub line_ends: Vec<u32>,
    /// How much of it is whole lines.
    #[prost(uint32, required, tag = "3")]
    pub whole: u32,
    /// What the line discipline has not taken yet.
    #[prost(bytes = "vec", required, tag = "4")]
    pub waiting: Vec<u8>,
}

/// What pseudo-terminals have.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct TtyPtyEntry {
    /// Number under /dev/pts.
    #[prost(uint32, required, tag = "1")]
    pub index: u32,
}

/// Terminal modes.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct TermiosEntry {
    /// Input modes.
    #[prost(uint32, required, tag = "1")]
    pub c_iflag: u32,
    /// Output modes.
    #[prost(uint32, required, tag = "2")]
    pub c_oflag: u32,
    /// Control modes.
    #[prost(uint32, required, tag = "3")]
    pub c_cflag: u32,
    /// Local modes.
    #[prost(uint32, required, tag = "4")]
    pub c_lflag: u32,
    /// Line discipline.
    #[prost(uint32, required, tag = "5")]
    pub c_line: u32,
    /// Input speed.
    #[prost(uint32, required, tag = "6")]
    pub c_ispeed: u32,
    /// Output speed.
    #[prost(uint32, required, tag = "7")]
    pub c_ospeed: u32,
    /// Control characters: see [`TermiosEntry::control_chars`].
    #[prost(uint32, repeated, packed = "false", tag = "8")]
    pub c_cc: Vec<u32>,
}

/// Window size.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct WinsizeEntry {
    /// Rows.
    #[prost(uint32, required, tag = "1")]
    pub ws_row: u32,
    /// Columns.
    #[prost(uint32, required, tag = "2")]
    pub ws_col: u32,
    /// Width in pixels.
    #[prost(uint32, required, tag = "3")]
    pub ws_xpixel: u32,
    /// Height in pixels.
    #[prost(uint32, required, tag = "4")]
    pub ws_ypixel: u32,
}

/// Control characters that the kernel has (`NCCS` of its `struct termios`).
pub const CONTROL_CHARS: usize = 19;

impl TermiosEntry {
    /// The control characters. CRIU copies the bytes of `c_cc` into a list of words as they lie in memory: they are
    /// the first bytes of the words, and the rest is whatever was there.
    pub fn control_chars(&self) -> [u8; CONTROL_CHARS] {
        let mut chars = [0; CONTROL_CHARS];
        let bytes = self.c_cc.iter().flat_map(|word| word.to_le_bytes());
        chars.iter_mut().zip(bytes).for_each(|(char, byte)| *char = byte);
        chars
    }

    /// Sets the control characters, in CRIU's way.
    pub fn set_control_chars(&mut self, chars: &[u8; CONTROL_CHARS]) {
        let word = |bytes: &[u8]| {
            let mut word = [0; 4];
            word[..bytes.len()].copy_from_slice(bytes);
            u32::from_le_bytes(word)
        };
        self.c_cc = chars.chunks(4).map(word).collect();
        self.c_cc.resize(CONTROL_CHARS, 0);
    }
}

file_body! {
// Its path need not be in the images: it is found by its number.
TtyFileEntry { signals belongs_to_nobody }}

impl Owned for TtyInfoEntry {
    fn each_id(&mut self, change: &mut dyn FnMut(Id, &mut u32)) {
        self.uid.iter_mut().for_each(|user| change(Id::User, user));
        self.gid.iter_mut().for_each(|group| change(Id::Group, group));
        if let Some(node) = &mut self.node {
            change(Id::User, &mut node.uid);
            change(Id::Group, &mut node.gid);
        }
    }
}
