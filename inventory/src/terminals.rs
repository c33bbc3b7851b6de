//! Open terminals, as the kernel keeps them.

/// Which side of a pair a terminal is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// None: it is a console, a virtual terminal, a line.
    #[default]
    Line,
    /// The master of a pseudo-terminal.
    Master,
    /// The slave of a pseudo-terminal.
    Slave,
}

/// A terminal behind an open file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terminal {
    /// Which side of a pair it is.
    pub side: Side,
    /// Its own device as `st_rdev` has it, whatever it was opened by.
    pub device: u64,
    /// Of a pseudo-terminal the device of the file system that its slave is on (`st_dev`); 0 if that is not
    /// known.
    pub instance: u64,
    /// The open file has hung up: it tells nothing, and is at its end.
    pub hung_up: bool,
    /// How many open files of it there are; `None` if that is not known.
    pub opens: Option<u32>,
    /// Of a master: the slave was open once, and nobody has it open now.
    pub other_closed: bool,
    /// Line discipline (`N_*`).
    pub discipline: i32,
    /// It may not be opened again (`TIOCEXCL`).
    pub exclusive: bool,
    /// Of a master: the slave may not be opened (`TIOCSPTLCK`).
    pub locked: bool,
    /// Of a master: it is in packet mode (`TIOCPKT`).
    pub packets: bool,
    /// Of a master: what a read in packet mode says next (`TIOCPKT_*`).
    pub packet_status: u8,
    /// Its output is stopped.
    pub stopped: bool,
    /// That was done by a call (`TCOOFF`), and only another one undoes it.
    pub stopped_by_call: bool,
    /// Modes, as in the kernel's `struct ktermios`; those of a master are its slave's.
    pub modes: Modes,
    /// Which of the modes are locked.
    pub locked_modes: Modes,
    /// Rows, columns and their sizes in pixels.
    pub window: [u16; 4],
    /// What waits to be read from it; `None` if that is not known.
    pub input: Option<Input>,
    /// Of a master whose slave nobody has open: what waits to be read from that.
    pub input_of_slave: Option<Input>,
}

/// Number of control characters.
pub const CONTROL_CHARACTERS: usize = 19;

/// Modes of a terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Modes {
    /// Input, output, control and local modes.
    pub flags: [u32; 4],
    /// Line discipline.
    pub line: u8,
    /// Control characters.
    pub characters: [u8; CONTROL_CHARACTERS],
    /// Speeds of input and output.
    pub speeds: [u32; 2],
}

/// What waits to be read from a terminal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Input {
    /// What the line discipline has taken: whole lines, then one that is being typed.
    pub taken: Vec<u8>,
    /// Where in this the lines end: the last byte of each. The end of a file is a byte 0.
    pub line_ends: Vec<u32>,
    /// How much of this is whole lines (only then may it be read, if the terminal gives lines).
    pub whole: u32,
    /// What the line discipline has not taken, as there was no room.
    pub waiting: Vec<u8>,
    /// The column that the output is at.
    pub column: u32,
    /// The next character is taken as it is.
    pub literal_next: bool,
    /// There are echoes that have not been made, as there was no room.
    pub echoes: bool,
    /// It was on its way while it was looked at, so that the rest here may be wrong.
    pub moves: bool,
    /// More waits than is here.
    pub is_part: bool,
}

impl Input {
    /// Whether anything waits.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.taken.is_empty() && self.waiting.is_empty()
    }
}

impl Terminal {
    /// The number of a pseudo-terminal.
    #[must_use]
    pub const fn number(&self) -> u32 {
        // As makedev(3) lays it out.
        (self.device & 0xff) as u32 | (self.device >> 12 & 0xffff_ff00) as u32
    }
}
