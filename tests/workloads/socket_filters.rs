//! Sockets with programs that choose what they receive, of every family that can have some.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use crate::sockets::{bind, get, ipv4, is_silent, name, new, receive, send_to, set};
use crate::stage::{Findings, Outcome, Stage, check};

/// `ldb [8]; jeq #'y', 0, 1; ret #-1; ret #0`: datagrams of UDP (whose header has 8 bytes) that begin with a
/// `y`.
fn only_y(at: u32) -> [libc::sock_filter; 4] {
    let line = |code, jt, jf, k| libc::sock_filter { code, jt, jf, k };
    [
        line(0x30, 0, 0, at),
        line(0x15, 0, 1, u32::from(b'y')),
        line(0x06, 0, 0, u32::MAX),
        line(0x06, 0, 0, 0),
    ]
}

fn attach(socket: &impl AsFd, filter: &mut [libc::sock_filter]) -> std::io::Result<i32> {
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the kernel reads the structure and the instructions that it names.
    check(unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const program).cast(),
            size_of_val(&program) as libc::socklen_t,
        )
    })
}

fn filtered(socket: OwnedFd, at: u32) -> OwnedFd {
    attach(&socket, &mut only_y(at)).expect("SO_ATTACH_FILTER");
    socket
}

/// Whether of two datagrams to an address the one that begins with a `y` comes.
fn chooses(socket: &OwnedFd, sender: &OwnedFd, address: &[u8]) -> bool {
    send_to(sender, b"no", address).expect("send");
    send_to(sender, b"yes", address).expect("send");
    let mut bytes = [0; 16];
    receive(socket, &mut bytes).is_ok_and(|count| &bytes[..count] == b"yes") && is_silent(socket)
}

pub(crate) fn run(stage: &Stage) -> Outcome {
    let udp = filtered(new(libc::AF_INET, libc::SOCK_DGRAM, 0), 8);
    bind(&udp, &ipv4([127, 0, 0, 1], 0));
    let unix = filtered(new(libc::AF_UNIX, libc::SOCK_DGRAM, 0), 0);
    let family = (libc::AF_UNIX as u16).to_ne_bytes();
    let abstract_name = format!("\0stasis filter {}", std::process::id());
    bind(&unix, &[&family[..], abstract_name.as_bytes()].concat());
    let netlink = filtered(new(libc::AF_NETLINK, libc::SOCK_RAW, 2), 0);
    let stream = filtered(new(libc::AF_INET6, libc::SOCK_STREAM, 0), 0);
    let (udp_name, unix_name) = (name(&udp), name(&unix));

    stage.ready_then_wait();

    let mut found = Findings::default();
    let sender = new(libc::AF_INET, libc::SOCK_DGRAM, 0);
    found.must("UDP chooses", chooses(&udp, &sender, &udp_name));
    let sender = new(libc::AF_UNIX, libc::SOCK_DGRAM, 0);
    found.must("Unix chooses", chooses(&unix, &sender, &unix_name));
    for (socket, what) in [(&udp, "UDP"), (&netlink, "netlink"), (&stream, "TCP")] {
        let mut length = 4 as libc::socklen_t;
        let mut there = only_y(1);
        // SAFETY: the kernel writes as many instructions as the length says that there is room for.
        let done = unsafe {
            libc::getsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_ATTACH_FILTER,
                there.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        found.works(what, check(done));
        found.same(what, &4, &length);
        found.must(what, there[2].k == u32::MAX && there[1].k == u32::from(b'y'));
    }
    found.outcome()
}

/// A filter that cannot be exchanged any more, which CRIU does not know of.
pub(crate) fn locked(stage: &Stage) -> Outcome {
    let locked = filtered(new(libc::AF_INET, libc::SOCK_DGRAM, 0), 8);
    bind(&locked, &ipv4([127, 0, 0, 1], 0));
    set(&locked, libc::SOL_SOCKET, libc::SO_LOCK_FILTER, 1);
    let address = name(&locked);

    stage.ready_then_wait();

    let mut found = Findings::default();
    found.same("SO_LOCK_FILTER", &1, &get(&locked, libc::SOL_SOCKET, libc::SO_LOCK_FILTER));
    found.must("a locked filter stays", attach(&locked, &mut only_y(0)).is_err());
    let sender = new(libc::AF_INET, libc::SOCK_DGRAM, 0);
    found.must("it chooses", chooses(&locked, &sender, &address));
    found.outcome()
}

/// An eBPF program, which nobody can read back.
pub(crate) fn of_ebpf(stage: &Stage) -> Outcome {
    use std::os::fd::FromRawFd;
    const PROG_LOAD: i32 = 5;
    const SOCKET_FILTER: u32 = 1;
    const SO_ATTACH_BPF: i32 = 50;
    // r0 = 0; exit
    let code: [u8; 16] = [0xb7, 0, 0, 0, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];
    let license = c"GPL";
    // `union bpf_attr` of BPF_PROG_LOAD: type, number of instructions, instructions, licence.
    let mut request = [SOCKET_FILTER, 2].map(u32::to_ne_bytes).concat();
    request.extend_from_slice(&(code.as_ptr() as u64).to_ne_bytes());
    request.extend_from_slice(&(license.as_ptr() as u64).to_ne_bytes());
    request.resize(128, 0);
    // SAFETY: the kernel reads the request, and the code and text that it names.
    let program = check(unsafe {
        libc::syscall(libc::SYS_bpf, PROG_LOAD, request.as_ptr(), request.len()) as i32
    });
    let program = program.expect("load a program");
    let socket = new(libc::AF_INET, libc::SOCK_DGRAM, 0);
    set(&socket, libc::SOL_SOCKET, SO_ATTACH_BPF, program.cast_unsigned());
    // SAFETY: the descriptor was opened above and belongs to nobody else.
    drop(unsafe { OwnedFd::from_raw_fd(program) });
    stage.ready_then_wait();
    drop(socket);
    Ok(())
}
