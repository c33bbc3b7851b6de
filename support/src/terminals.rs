//! Terminals: the sides of pseudo-terminals, what they are outside of the tree, what of them has no place
//! in the images.

use ids::HostPid;
use inventory::terminals::{Input, Side, Terminal};
use inventory::{Process, ProcessState};

use crate::unsupported::{Refusal, Unsupported};

const AGAIN: &str = "try again in a moment";

/// A terminal whose master is not in the tree.
pub const OUTSIDE: Refusal = Refusal::fixed(
    "it is a terminal outside the tree",
    "dump with --shell-job, and restore with it from the terminal it shall have",
);

/// Another terminal outside, beside the one that the terminal of a restore takes the place of.
pub const SECOND_OUTSIDE: Refusal = Refusal::fixed(
    "it is a second terminal outside the tree, and a restore has one to give",
    "start the program with all of its input and output on one terminal",
);

/// A slave that somebody outside of the tree has open as well.
#[must_use]
pub fn held_outside(number: u32) -> Refusal {
    Refusal::new(
        format!(
            "a process outside the tree has /dev/pts/{number} open, too: it would lose this terminal"
        ),
        format!(
            "have it close the terminal (`fuser -v /dev/pts/{number}` says who), or dump a tree with both"
        ),
    )
}

/// Two pseudo-terminals with one number, each in its own file system.
#[must_use]
pub fn in_two_instances(number: u32) -> Refusal {
    Refusal::new(
        format!("there are two terminals with number {number}, of two devpts file systems"),
        "dump the processes that have one of them without those that have the other",
    )
}

/// A virtual terminal that draws itself.
pub const DRAWN: Refusal = Refusal::fixed(
    "it is a virtual terminal in graphics mode, or one that a program switches: the screen is not carried",
    "have the program leave the screen (chvt to another terminal, KD_TEXT and VT_AUTO)",
);

/// Input that cannot be seen without eBPF.
pub const INPUT_UNSEEN: Refusal = Refusal::fixed(
    "input waits in it, which cannot be read without being taken away where there is no eBPF",
    "dump with the rights for eBPF (CAP_BPF, CAP_PERFMON), or when it has been read",
);

const INPUT_OF_A_LINE: Refusal = Refusal::fixed(
    "input waits in it, which cannot be put back into a terminal of this kind",
    "try again when it has been read",
);

const MOVES: Refusal = Refusal::fixed("input is on its way into it", AGAIN);

const LITERAL_NEXT: Refusal = Refusal::fixed(
    "the character that is typed next would be taken as it is (Ctrl-V was typed)",
    "type another character",
);

const ECHOES: Refusal =
    Refusal::fixed("echoes wait in it until its other side is read", "have its other side read");

const TOO_MUCH: Refusal = Refusal::fixed(
    "more input waits in it than can be carried, or some with errors",
    "try again when it has been read",
);

const STATUS_WAITS: Refusal = Refusal::fixed(
    "a change of its modes waits to be told to its reader (packet mode)",
    "try again when it has been read",
);

/// What stands in the way of carrying a terminal of the tree's own, by how it is.
#[must_use]
pub fn of_terminal(terminal: &Terminal) -> Option<Refusal> {
    if terminal.hung_up {
        return None;
    }
    if terminal.discipline != 0 {
        return Some(Refusal::new(
            format!(
                "its line discipline {} is not the one of terminals (N_TTY)",
                terminal.discipline
            ),
            "have the program set N_TTY (TIOCSETD) before the dump",
        ));
    }
    if terminal.packet_status != 0 {
        return Some(STATUS_WAITS);
    }
    let is_line = terminal.side == Side::Line;
    let mut inputs = [&terminal.input, &terminal.input_of_slave].into_iter().flatten();
    inputs.find_map(|input| match input {
        Input { moves: true, .. } => Some(MOVES),
        Input { literal_next: true, .. } => Some(LITERAL_NEXT),
        Input { echoes: true, .. } => Some(ECHOES),
        Input { is_part: true, .. } => Some(TOO_MUCH),
        input if is_line && !input.is_empty() => Some(INPUT_OF_A_LINE),
        _ => None,
    })
}

/// Sessions whose terminal is open in nobody of the tree, by what eBPF tells of open files: they could not
/// be given it back.
pub(crate) fn of_sessions(tree: &[&Process]) -> Vec<Unsupported> {
    let is_known = |process: &&&Process| {
        process.in_process.is_some() && !matches!(process.state, ProcessState::Zombie { .. })
    };
    let leaders = tree.iter().filter(is_known).filter(|process| Some(process.pid) == process.sid);
    let with_one = leaders.filter(|process| process.terminal != 0);
    let without = with_one.filter(|process| !is_open(process.terminal, tree));
    let refuse = |process: &&Process| {
        let object = format!("controlling terminal {}", name(process.terminal));
        Refusal::new(
            "no process of the tree has it open, and its other side is outside the tree",
            "start the program without a controlling terminal (setsid), or dump a tree with the terminal's \
             other side",
        )
        .of(process.pid, object)
    };
    without.map(refuse).collect()
}

/// Whether somebody has a terminal open, or its other side.
fn is_open(device: u64, tree: &[&Process]) -> bool {
    let files = tree.iter().flat_map(|process| &process.files);
    let mut terminals = files.filter_map(|file| file.terminal.as_deref());
    terminals.any(|terminal| match terminal.side {
        Side::Master => slave(terminal.number()) == device,
        Side::Slave | Side::Line => terminal.device == device,
    })
}

/// The device of the slave with a number.
#[must_use]
pub fn slave(number: u32) -> u64 {
    libc::makedev(136, number)
}

fn name(device: u64) -> String {
    match libc::major(device) {
        136 => format!("/dev/pts/{}", libc::minor(device)),
        major => format!("{major}:{}", libc::minor(device)),
    }
}

/// A terminal of the tree whose number somebody else has by now.
#[must_use]
pub fn number_taken(number: u32, by: Option<(HostPid, &str)>) -> Refusal {
    match by {
        Some((pid, command)) => Refusal::new(
            format!("/dev/pts/{number} is another terminal by now, of process {pid} ({command})"),
            format!("close that terminal (end process {pid}), or restore when it has ended"),
        ),
        None => Refusal::new(
            format!("/dev/pts/{number} is another terminal by now"),
            format!("close that terminal (`fuser -v /dev/pts/{number}` says who has it open)"),
        ),
    }
}

/// More terminals than there may be.
pub const TOO_MANY: Refusal = Refusal::fixed(
    "there are as many pseudo-terminals as there may be",
    "let there be more (sysctl -w kernel.pty.max=N), or end programs that have some",
);

/// A number that only so many other terminals lead to.
#[must_use]
pub fn number_out_of_reach(number: u32, open: usize) -> Refusal {
    Refusal::new(
        format!(
            "to have number {number} again, {open} terminals with lower numbers were made, and no more \
             files may be open"
        ),
        "as root, raise the hard limit of open files (ulimit -Hn N), and restore from that shell",
    )
}

/// A session that is to have the caller's terminal, which is that of the caller's session.
pub const CONTROLS_ANOTHER: Refusal = Refusal::fixed(
    "it was the controlling terminal of a session in the tree, and the one here is that of another session",
    "restore in a terminal of its own: `script -qc 'exec stasis restore …'`, or `xterm -e stasis restore …`",
);
