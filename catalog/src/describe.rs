//! Open files in words.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use images::messages::{
    FileEntry, InetSkEntry, REMAP_GHOST, RegFileEntry, SK_ESTABLISHED, SK_LISTEN, UnixSkEntry,
    fd_type,
};
use images::{Checkpoint, MappingKind};

/// No path of the kernel's is longer. Images may say so of a file that many descriptors are of.
const LONGEST: usize = 4096;

/// Text from an image as it may go to a terminal: control characters are escaped, what is not UTF-8 is replaced. What is longer than any
/// path is cut off.
#[must_use]
pub fn printable(bytes: &[u8]) -> String {
    let mut text = String::new();
    for char in String::from_utf8_lossy(bytes.get(..LONGEST).unwrap_or(bytes)).chars() {
        if char.is_control() {
            text.extend(char.escape_default());
        } else {
            text.push(char);
        }
    }
    if bytes.len() > LONGEST {
        text.push('…');
    }
    text
}

/// The files that some descriptor of some process refers to, each once.
pub fn open_files(checkpoint: &Checkpoint) -> impl Iterator<Item = &FileEntry> {
    let files = &checkpoint.files;
    let open: BTreeSet<u32> = files.tables.values().flatten().map(|info| info.id).collect();
    open.into_iter().filter_map(|id| files.entries.get(&id).map(Box::as_ref))
}

/// The kind of a file in a word or two.
#[must_use]
pub fn kind(file: &FileEntry) -> &'static str {
    match file.r#type {
        fd_type::REG => match file.reg.as_ref().and_then(|reg| reg.mode).map(|mode| mode >> 12) {
            Some(0o04) => "directory",
            Some(0o02 | 0o06) => "device",
            _ => "file",
        },
        fd_type::INETSK => match file.isk.as_ref().map(|socket| (socket.r#type, socket.proto)) {
            Some((3, _)) => "raw socket",
            Some((_, 6)) => "tcp socket",
            Some((_, 17)) => "udp socket",
            Some((_, 136)) => "udp-lite socket",
            Some((_, 1 | 58)) => "ping socket",
            _ => "ip socket",
        },
        other => fd_type::name(other),
    }
}

/// The kind of a mapping in a word or two.
#[must_use]
pub const fn mapping(kind: MappingKind) -> &'static str {
    match kind {
        MappingKind::Anonymous => "anonymous",
        MappingKind::Heap => "heap",
        MappingKind::Stack => "stack",
        MappingKind::SharedAnonymous | MappingKind::PrivateOfSharedAnonymous => "shared anonymous",
        MappingKind::File { shared: false } => "private file",
        MappingKind::File { shared: true } => "shared file",
        MappingKind::Vdso => "vdso",
        MappingKind::Vvar => "vvar",
        MappingKind::Vsyscall => "vsyscall",
        MappingKind::Guard => "guard",
        MappingKind::Uprobes => "uprobes",
        MappingKind::SystemV => "System V segment",
        MappingKind::HugePages { .. } => "huge pages",
        MappingKind::Secret => "secret memory",
        MappingKind::ShadowStack => "shadow stack",
        MappingKind::AioRing => "asynchronous I/O ring",
        MappingKind::IoUringRing => "io_uring",
        MappingKind::PerfRing => "performance counter",
        MappingKind::PacketRing { .. } => "packet ring",
        MappingKind::Pathless => "file without a path",
        MappingKind::Unknown => "unknown",
    }
}

/// The path, the address or the state of a file.
#[must_use]
pub fn what(checkpoint: &Checkpoint, file: &FileEntry) -> String {
    if let Some(reg) = &file.reg {
        return regular(checkpoint, reg);
    }
    if let Some(pipe) = &file.pipe {
        let end = if pipe.flags & 3 == 1 { "write" } else { "read" };
        let held = checkpoint.pipes.iter().find(|found| found.entry.pipe_id == pipe.pipe_id);
        return match held.map(|found| found.payload.size) {
            Some(bytes @ 1..) => format!("pipe:[{}], {end} end, {bytes} bytes in it", pipe.pipe_id),
            _ => format!("pipe:[{}], {end} end", pipe.pipe_id),
        };
    }
    let by_path = file.fifo.and_then(|fifo| fifo.regf_id).or(file.tty.and_then(|tty| tty.regf_id));
    if let Some(path) = by_path.and_then(|id| name(checkpoint, id)) {
        return path;
    }
    if let Some(socket) = &file.isk {
        return inet(socket);
    }
    if let Some(socket) = &file.usk {
        return unix(socket);
    }
    if let Some(socket) = &file.nlsk {
        return format!("protocol {}, port {}", socket.protocol, socket.portid);
    }
    if let Some(socket) = &file.psk {
        let interface = socket.interface.as_deref().unwrap_or("any interface");
        let protocol = u16::from_be(socket.protocol as u16);
        return format!("{}, protocol {protocol:#06x}", printable(interface.as_bytes()));
    }
    state(checkpoint, file)
}

/// Where a file that has no path stands.
fn state(checkpoint: &Checkpoint, file: &FileEntry) -> String {
    if let Some(eventfd) = &file.efd {
        format!("counter {}", eventfd.counter)
    } else if let Some(epoll) = &file.epfd {
        format!("{} files watched", epoll.tfd.len())
    } else if let Some(signalfd) = &file.sgfd {
        format!("signals {:#x}", signalfd.sigmask)
    } else if let Some(timer) = &file.tfd {
        format!("clock {}, {}.{:09} s left", timer.clockid, timer.vsec, timer.vnsec)
    } else if let Some(memfd) = &file.memfd {
        let inode = checkpoint.memfds.get(&u64::from(memfd.inode_id));
        inode.map(|inode| printable(&inode.name)).unwrap_or_default()
    } else {
        String::new()
    }
}

/// The path of a file, and whether it is gone.
#[must_use]
pub fn path(checkpoint: &Checkpoint, id: u32) -> Option<String> {
    checkpoint.files.entries.get(&id)?.reg.as_ref().map(|reg| regular(checkpoint, reg))
}

/// The bare path of a file.
#[must_use]
pub fn name(checkpoint: &Checkpoint, id: u32) -> Option<String> {
    checkpoint.files.entries.get(&id)?.reg.as_ref().map(|reg| printable(&reg.name))
}

fn regular(checkpoint: &Checkpoint, reg: &RegFileEntry) -> String {
    let mut text = printable(&reg.name);
    let remap = checkpoint.files.remaps.get(&reg.id);
    if remap.is_some_and(|remap| remap.remap_type() == REMAP_GHOST) {
        text.push_str(" (deleted, contents stored)");
    } else if remap.is_some() {
        text.push_str(" (name gone)");
    }
    if reg.pos > 0 {
        // Writing to a string cannot fail.
        write!(text, " @{}", reg.pos).ok();
    }
    text
}

fn inet(socket: &InetSkEntry) -> String {
    let mut local = address(&socket.src_addr, socket.src_port);
    if !socket.datagrams.is_empty() {
        // Writing to a string cannot fail.
        write!(local, ", {} datagrams in it", socket.datagrams.len()).ok();
    }
    match socket.state {
        SK_LISTEN if !socket.waiting.is_empty() => {
            format!("{local}, listening, {} connections wait", socket.waiting.len())
        }
        SK_LISTEN => format!("{local}, listening"),
        SK_ESTABLISHED => format!("{local} to {}", address(&socket.dst_addr, socket.dst_port)),
        _ => local,
    }
}

fn address(words: &[u32], port: u32) -> String {
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    let ip = match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).map(|bytes| IpAddr::from(Ipv4Addr::from(bytes))),
        _ => <[u8; 16]>::try_from(bytes).map(|bytes| IpAddr::from(Ipv6Addr::from(bytes))),
    };
    match ip {
        Ok(IpAddr::V4(ip)) => format!("{ip}:{port}"),
        Ok(IpAddr::V6(ip)) => format!("[{ip}]:{port}"),
        Err(_) => format!("?:{port}"),
    }
}

fn unix(socket: &UnixSkEntry) -> String {
    let name = match socket.name.as_slice() {
        [] => format!("socket:[{}]", socket.ino),
        [0, rest @ ..] => format!("@{}", printable(rest)),
        path => printable(path.strip_suffix(&[0]).unwrap_or(path)),
    };
    match socket.state {
        SK_LISTEN => format!("{name}, listening"),
        _ if socket.peer != 0 => format!("{name} to socket:[{}]", socket.peer),
        _ => name,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_images_cannot_drive_a_terminal() {
        assert_eq!(printable(b"a\x1b[2Jb\n\xff"), "a\\u{1b}[2Jb\\n\u{fffd}");
        assert_eq!(printable(&vec![b'a'; 1 << 20]).chars().count(), LONGEST + 1);
    }

    #[test]
    fn addresses_are_in_network_order() {
        assert_eq!(address(&[0x0100_007f], 80), "127.0.0.1:80");
        assert_eq!(address(&[0, 0, 0, 0x0100_0000], 80), "[::1]:80");
        assert_eq!(address(&[], 80), "?:80");
    }
}
