//! Terminals: `tty-info.img`, `tty-data.img` and the entry in `files.img`.

use prost::Message;

use super::files::FownEntry;

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
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    #[prost(uint32, required, tag = "2")]
    pub tty_info_id: u32,
    #[prost(uint32, required, tag = "3")]
    pub flags: u32,
    #[prost(message, required, tag = "4")]
    pub fown: FownEntry,
    #[prost(uint32, optional, tag = "6")]
    pub regf_id: Option<u32>,
}

/// A terminal.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct TtyInfoEntry {
    #[prost(uint32, required, tag = "1")]
    pub id: u32,
    #[prost(uint32, required, tag = "2")]
    pub r#type: u32,
    #[prost(bool, required, tag = "3")]
    pub locked: bool,
    #[prost(bool, required, tag = "4")]
    pub exclusive: bool,
    #[prost(bool, required, tag = "5")]
    pub packet_mode: bool,
    #[prost(uint32, required, tag = "6")]
    pub sid: u32,
    #[prost(uint32, required, tag = "7")]
    pub pgrp: u32,
    #[prost(uint32, required, tag = "8")]
    pub rdev: u32,
    #[prost(message, optional, tag = "9")]
    pub termios: Option<TermiosEntry>,
    #[prost(message, optional, tag = "10")]
    pub termios_locked: Option<TermiosEntry>,
    #[prost(message, optional, tag = "11")]
    pub winsize: Option<WinsizeEntry>,
    #[prost(message, optional, tag = "12")]
    pub pty: Option<TtyPtyEntry>,
    #[prost(uint32, optional, tag = "13")]
    pub dev: Option<u32>,
    #[prost(uint32, optional, tag = "14")]
    pub uid: Option<u32>,
    #[prost(uint32, optional, tag = "15")]
    pub gid: Option<u32>,
}

/// What is in a terminal's input queue.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct TtyDataEntry {
    #[prost(uint32, required, tag = "1")]
    pub tty_id: u32,
    #[prost(bytes = "vec", required, tag = "2")]
    pub data: Vec<u8>,
}

/// What pseudo-terminals have.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct TtyPtyEntry {
    #[prost(uint32, required, tag = "1")]
    pub index: u32,
}

/// Terminal modes.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct TermiosEntry {
    #[prost(uint32, required, tag = "1")]
    pub c_iflag: u32,
    #[prost(uint32, required, tag = "2")]
    pub c_oflag: u32,
    #[prost(uint32, required, tag = "3")]
    pub c_cflag: u32,
    #[prost(uint32, required, tag = "4")]
    pub c_lflag: u32,
    #[prost(uint32, required, tag = "5")]
    pub c_line: u32,
    #[prost(uint32, required, tag = "6")]
    pub c_ispeed: u32,
    #[prost(uint32, required, tag = "7")]
    pub c_ospeed: u32,
    #[prost(uint32, repeated, packed = "false", tag = "8")]
    pub c_cc: Vec<u32>,
}

/// Window size.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct WinsizeEntry {
    #[prost(uint32, required, tag = "1")]
    pub ws_row: u32,
    #[prost(uint32, required, tag = "2")]
    pub ws_col: u32,
    #[prost(uint32, required, tag = "3")]
    pub ws_xpixel: u32,
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
