//! Network devices of programs (tun and tap).

use std::fs::File;
use std::io::{Read, Write};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

use crate::networks::{enter_new, plain, run, set};
use crate::stage::{Findings, Outcome, Stage, check};

const TUN: u16 = 0x1;
const TAP: u16 = 0x2;
const MULTI_QUEUE: u16 = 0x100;
const ATTACH: u16 = 0x200;
const DETACH: u16 = 0x400;
const NO_HEADER: u16 = 0x1000;
const VIRTIO_HEADER: u16 = 0x4000;

const SET_DEVICE: libc::Ioctl = 0x4004_54ca;
const SET_PERSISTENT: libc::Ioctl = 0x4004_54cb;
const SET_OFFLOADS: libc::Ioctl = 0x4004_54d0;
const GET_DEVICE: libc::Ioctl = 0x8004_54d2;
const GET_BUFFER: libc::Ioctl = 0x8004_54d3;
const SET_BUFFER: libc::Ioctl = 0x4004_54d4;
const GET_HEADER: libc::Ioctl = 0x8004_54d7;
const SET_HEADER: libc::Ioctl = 0x4004_54d8;
const SET_QUEUE: libc::Ioctl = 0x4004_54d9;

fn open() -> File {
    File::options().read(true).write(true).open("/dev/net/tun").expect("open /dev/net/tun")
}

/// Asks by a name and flags; what they are then.
fn ask(file: &File, number: libc::Ioctl, name: &str, flags: u16) -> std::io::Result<(String, u16)> {
    let mut request = [0_u8; 40];
    request[..name.len()].copy_from_slice(name.as_bytes());
    request[16..18].copy_from_slice(&flags.to_ne_bytes());
    // SAFETY: these requests read and write a `struct ifreq`, of 40 bytes.
    check(unsafe { libc::ioctl(file.as_raw_fd(), number, request.as_mut_ptr()) })?;
    let name = request[..16].split(|byte| *byte == 0).next().unwrap_or_default();
    let name = String::from_utf8(name.to_vec()).expect("a name");
    Ok((name, u16::from_ne_bytes([request[16], request[17]])))
}

fn number(file: &File, request: libc::Ioctl, mut value: i32) -> i32 {
    // SAFETY: these requests read or write an `int`.
    check(unsafe { libc::ioctl(file.as_raw_fd(), request, &raw mut value) }).expect("ioctl");
    value
}

fn attached(name: &str, flags: u16) -> File {
    let file = open();
    ask(&file, SET_DEVICE, name, flags).expect(name);
    file
}

fn persist(file: &File, stays: libc::c_ulong) {
    // SAFETY: this request takes a number.
    check(unsafe { libc::ioctl(file.as_raw_fd(), SET_PERSISTENT, stays) }).expect("persist");
}

/// A packet from the network comes to the program of a device without headers, and one of its own to the network.
fn passes(device: &mut File, found: &mut Findings) {
    let socket = UdpSocket::bind("10.77.0.1:0").expect("bind");
    socket.set_read_timeout(Some(std::time::Duration::from_secs(10))).expect("timeout");
    socket.send_to(b"out", "10.77.0.2:77").expect("send");
    let mut packet = [0; 2000];
    let (mut count, mut tries) = (0, 0);
    // Others come as well: of neighbours, of multicast.
    while (count < 28 || packet[9] != 17 || packet[0] != 0x45) && tries < 100 {
        count = device.read(&mut packet).expect("read a packet");
        tries += 1;
    }
    found.same("a packet", &b"out".to_vec(), &packet[28..count.max(28)].to_vec());
    // The answer: the addresses and the ports change places, which no checksum sees.
    for (one, other, length) in [(12, 16, 4), (20, 22, 2)] {
        for at in 0..length {
            packet.swap(one + at, other + at);
        }
    }
    device.write_all(&packet[..count]).expect("write a packet");
    let mut text = [0; 16];
    let answer = socket.recv(&mut text);
    found.same("its answer", &Some(3), &answer.ok());
}

/// All that can be asked.
fn picture(files: &[&File]) -> Vec<String> {
    let lines = ["ip -o -d link", "ip -o address", "ip route"];
    // The kernel alone says that an address is one of its own.
    let lines = lines.iter().map(|line| plain(&run(line)).replace("stable-privacy", ""));
    let files = files.iter().map(|file| {
        let device = ask(file, GET_DEVICE, "", 0).expect("TUNGETIFF");
        format!("{device:?} {} {}", number(file, GET_HEADER, 0), number(file, GET_BUFFER, 0))
    });
    let features = ["queued", "sized"].map(|device| format!("{device} {:?}", features(device)));
    lines.chain(files).chain(features).collect()
}

/// Whether the program of a device does checksums and segments itself.
fn features(device: &str) -> [u32; 2] {
    const SIOCETHTOOL: libc::Ioctl = 0x8946;
    const CHECKSUMS: u32 = 0x16;
    const SEGMENTS: u32 = 0x1e;
    let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
    [CHECKSUMS, SEGMENTS].map(|command| {
        let mut value = [command, 0];
        let mut request = [0_u8; 40];
        request[..device.len()].copy_from_slice(device.as_bytes());
        request[16..24].copy_from_slice(&(value.as_mut_ptr() as usize).to_ne_bytes());
        // SAFETY: the kernel reads a `struct ifreq`, and reads and writes the two words that it points to.
        check(unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, request.as_mut_ptr()) })
            .expect("SIOCETHTOOL");
        value[1]
    })
}

/// What CRIU carries as well, and more of it.
fn all(stage: &Stage, beyond: bool) -> Outcome {
    enter_new(&["10.7.0.1/24"]);
    if !beyond {
        // CRIU has devices get other addresses than they had.
        set("ipv6/conf/default/disable_ipv6", "1");
    }
    let plain_file = open();
    let mut device = attached("way", TUN | NO_HEADER);
    let queues = [0; 2].map(|_| attached("queued", TAP | MULTI_QUEUE | NO_HEADER | VIRTIO_HEADER));
    ask(&queues[1], SET_QUEUE, "", DETACH).expect("detach a queue");
    persist(&attached("stays", TUN), 1);
    let sized = attached("sized", TAP | NO_HEADER | VIRTIO_HEADER);
    if beyond {
        number(&sized, SET_HEADER, 12);
        number(&sized, SET_BUFFER, 77_777);
        // SAFETY: this request takes a number.
        check(unsafe { libc::ioctl(sized.as_raw_fd(), SET_OFFLOADS, 0x7_u64) }).expect("offloads");
        run("ip tuntap add dev owned mode tap user 7 group 8");
    }
    for line in [
        "ip address add 10.77.0.1/24 dev way",
        "ip link set way mtu 1400 up",
        "ip link set sized address 02:00:00:00:00:77 up",
    ] {
        run(line);
    }
    let mut found = Findings::default();
    passes(&mut device, &mut found);
    while run("ip -o address").contains("tentative") {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    let before = picture(&[&device, &queues[0], &queues[1], &sized]);
    stage.ready_then_wait();
    for (before, after) in before.iter().zip(&picture(&[&device, &queues[0], &queues[1], &sized])) {
        found.same("devices", before, after);
    }
    passes(&mut device, &mut found);
    found.must("a queue takes part again", ask(&queues[1], SET_QUEUE, "", ATTACH).is_ok());
    found.must("what stays is there", ask(&open(), SET_DEVICE, "stays", TUN).is_ok());
    let is_free = ask(&plain_file, SET_DEVICE, "new", TUN);
    found.same("a file without a device", &Some("new".to_owned()), &is_free.ok().map(|it| it.0));
    drop((device, sized));
    let left = run("ip -o link");
    found.must("what does not stay is gone", !left.contains("way") && !left.contains("sized"));
    found.outcome()
}

pub(crate) fn run_all(stage: &Stage) -> Outcome {
    all(stage, true)
}

pub(crate) fn run_plain(stage: &Stage) -> Outcome {
    all(stage, false)
}

/// The device that `DEVICE` names, in the namespace of the machine.
pub(crate) fn outside(stage: &Stage) -> Outcome {
    let name = std::env::var("DEVICE").expect("DEVICE");
    let device = attached(&name, TAP | NO_HEADER);
    number(&device, SET_BUFFER, 55_555);
    stage.ready_then_wait();
    let mut found = Findings::default();
    let now = ask(&device, GET_DEVICE, "", 0).expect("TUNGETIFF");
    found.same("its device", &name, &now.0);
    found.same("its buffer", &55_555, &number(&device, GET_BUFFER, 0));
    found.outcome()
}
