//! Network devices of programs (tun and tap): what an open `/dev/net/tun` is attached to, and is attached to again.
//!
//! A device is made by who attaches to it first, in the network namespace in which the file was opened. Each file is a queue of
//! its device.

use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};

use crate::rtnetlink::{Attribute, Message, Rtnetlink};
use crate::sockets;

/// Number of the device `/dev/net/tun`.
pub const NUMBER: (u32, u32) = (10, 200);

/// A device without headers of the link (`IFF_TUN`).
pub const TUN: u32 = 0x1;
/// One of a network like Ethernet (`IFF_TAP`).
pub const TAP: u32 = 0x2;
/// It can have several queues.
pub const MULTI_QUEUE: u32 = 0x100;
/// It stays when nobody is attached to it.
pub const PERSISTENT: u32 = 0x800;
/// Of a queue: it takes no part at the moment.
pub const DETACHED: u32 = 0x400;
/// What is said of a device as it is attached to: its kind, `IFF_NAPI`, `IFF_NAPI_FRAGS`, `IFF_MULTI_QUEUE`, `IFF_NO_PI`,
/// `IFF_ONE_QUEUE`, `IFF_VNET_HDR`.
pub const SAID: u32 = TUN | TAP | 0x10 | 0x20 | MULTI_QUEUE | 0x1000 | 0x2000 | 0x4000;

/// Bytes of `struct ifreq`, of which the first 16 are the name.
const REQUEST: usize = 40;
const NAME: usize = 16;

const SET_DEVICE: libc::Ioctl = 0x4004_54ca;
const SET_PERSISTENT: libc::Ioctl = 0x4004_54cb;
const SET_OWNER: libc::Ioctl = 0x4004_54cc;
const SET_GROUP: libc::Ioctl = 0x4004_54ce;
const SET_OFFLOADS: libc::Ioctl = 0x4004_54d0;
const GET_DEVICE: libc::Ioctl = 0x8004_54d2;
const GET_SEND_BUFFER: libc::Ioctl = 0x8004_54d3;
const SET_SEND_BUFFER: libc::Ioctl = 0x4004_54d4;
const GET_HEADER: libc::Ioctl = 0x8004_54d7;
const SET_HEADER: libc::Ioctl = 0x4004_54d8;
const SET_QUEUE: libc::Ioctl = 0x4004_54d9;
const SET_NUMBER: libc::Ioctl = 0x4004_54da;
const GET_FILTER: libc::Ioctl = 0x8010_54db;
const SET_LITTLE_ENDIAN: libc::Ioctl = 0x4004_54dc;
const GET_LITTLE_ENDIAN: libc::Ioctl = 0x8004_54dd;
const SET_BIG_ENDIAN: libc::Ioctl = 0x4004_54de;
const GET_BIG_ENDIAN: libc::Ioctl = 0x8004_54df;
const GET_NAMESPACE: libc::Ioctl = 0x54e3;
const SIOCETHTOOL: libc::Ioctl = 0x8946;

/// It has no header of its own before packets (`IFF_NO_PI`).
const NO_HEADER: u32 = 0x1000;
/// Nor has a packet one of virtio's (`IFF_VNET_HDR`).
const VIRTIO_HEADER: u32 = 0x4000;

/// What a device says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// `IFF_*`, but for `IFF_NAPI`, `IFF_NAPI_FRAGS` and `IFF_ONE_QUEUE`, which only a file tells that is attached to it.
    pub flags: u32,
    /// The only user who may attach to it.
    pub owner: Option<u32>,
    /// The only group that may.
    pub group: Option<u32>,
    /// How many files are attached to it, of one that may have several.
    pub queues: Option<u32>,
}

impl Device {
    /// By what rtnetlink tells of it (`IFLA_INFO_DATA`).
    #[must_use]
    pub fn of(data: &[Attribute]) -> Self {
        let find = |kind| data.iter().find(|attribute: &&Attribute| attribute.kind == kind);
        let number = |kind| find(kind).and_then(Attribute::number);
        let byte = |kind| find(kind).and_then(|it| it.value.first()).copied().unwrap_or(0);
        let bits = [
            (byte(4) == 0, NO_HEADER),
            (byte(5) != 0, VIRTIO_HEADER),
            (byte(6) != 0, PERSISTENT),
            (byte(7) != 0, MULTI_QUEUE),
        ];
        let bits = bits.into_iter().filter(|(is, _)| *is).map(|(_, bit)| bit);
        Self {
            flags: bits.fold(byte(3).into(), |flags, bit| flags | bit),
            owner: number(1),
            group: number(2),
            queues: number(8).map(|queues| queues + number(9).unwrap_or(0)),
        }
    }

    /// The one of this name, in the network namespace that the thread is in; `None` if there is none, or it is no program's.
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn find(name: &str) -> io::Result<Option<Self>> {
        const GET_LINK: u16 = 18;
        const LINK: usize = 16;
        const BY_NAME: u16 = 3;
        const INFORMATION: u16 = 18;
        const KIND: u16 = 1;
        const DATA: u16 = 2;
        let message = Message {
            kind: GET_LINK,
            flags: 0,
            fixed: vec![0; LINK],
            attributes: vec![Attribute::new(BY_NAME, [name.as_bytes(), &[0]].concat())],
        };
        let answer = match Rtnetlink::open()?.get(&message) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(None),
            answer => Message::read_all(&answer?, LINK).unwrap_or_default(),
        };
        let information = answer.first().and_then(|it| it.attribute(INFORMATION)?.inner());
        let information = information.unwrap_or_default();
        let find = |kind| information.iter().find(|attribute| attribute.kind == kind);
        let is_one = find(KIND).and_then(Attribute::text) == Some("tun");
        let data = find(DATA).and_then(Attribute::inner).unwrap_or_default();
        Ok(is_one.then(|| Self::of(&data)))
    }
}

/// What a file is attached to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Name of the device.
    pub name: String,
    /// `IFF_*` of the device and of the queue; whether packets have a header of its own (`IFF_NO_PI`) they do not tell.
    pub flags: u32,
}

fn answer(value: libc::c_int) -> io::Result<i32> {
    if value < 0 { Err(io::Error::last_os_error()) } else { Ok(value) }
}

fn request_of(name: &str, flags: u32) -> io::Result<[u8; REQUEST]> {
    let mut request = [0; REQUEST];
    // A name ends in 0.
    if name.len() >= NAME {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    request[..name.len()].copy_from_slice(name.as_bytes());
    // Flags of 16 bits follow it.
    request[NAME..NAME + 2].copy_from_slice(&(flags as u16).to_ne_bytes());
    Ok(request)
}

fn with_request(
    file: impl AsFd,
    number: libc::Ioctl,
    request: &mut [u8; REQUEST],
) -> io::Result<()> {
    // SAFETY: these requests read and write a `struct ifreq`, which the array is as large as; and one of a device's features the
    // words that it points to, which [`offloads`] has made as many as the kernel has said.
    answer(unsafe { libc::ioctl(file.as_fd().as_raw_fd(), number, request.as_mut_ptr()) })?;
    Ok(())
}

fn get(file: impl AsFd, number: libc::Ioctl) -> io::Result<u32> {
    let mut value = 0_i32;
    // SAFETY: these requests write an `int`, which `value` is.
    answer(unsafe { libc::ioctl(file.as_fd().as_raw_fd(), number, &raw mut value) })?;
    Ok(value.cast_unsigned())
}

fn set(file: impl AsFd, number: libc::Ioctl, value: u32) -> io::Result<()> {
    let value = value.cast_signed();
    // SAFETY: these requests read an `int`, which `value` is.
    answer(unsafe { libc::ioctl(file.as_fd().as_raw_fd(), number, &raw const value) })?;
    Ok(())
}

fn tell(file: impl AsFd, number: libc::Ioctl, value: u32) -> io::Result<()> {
    // SAFETY: these requests take a number in the place of a pointer.
    answer(unsafe { libc::ioctl(file.as_fd().as_raw_fd(), number, libc::c_ulong::from(value)) })?;
    Ok(())
}

/// What a file is attached to; `None` of one that is not yet.
///
/// # Errors
/// When it is no such file.
pub fn attached(file: impl AsFd) -> io::Result<Option<Attached>> {
    let mut request = [0; REQUEST];
    match with_request(file, GET_DEVICE, &mut request) {
        Err(error) if error.raw_os_error() == Some(libc::EBADFD) => return Ok(None),
        done => done?,
    }
    let name = request[..NAME].split(|byte| *byte == 0).next().unwrap_or_default();
    let name = String::from_utf8(name.to_vec())
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))?;
    let flags = u16::from_ne_bytes([request[NAME], request[NAME + 1]]);
    Ok(Some(Attached { name, flags: flags.into() }))
}

/// The network namespace that a file was opened in, where its device was made.
///
/// # Errors
/// Without `CAP_NET_ADMIN` there.
pub fn opened_in(file: impl AsFd) -> io::Result<OwnedFd> {
    sockets::network_namespace(file)
}

/// The network namespace that its device is in by now.
///
/// # Errors
/// When it is attached to none, or the kernel (before 5.2) does not say.
pub fn device_in(file: impl AsFd) -> io::Result<OwnedFd> {
    // SAFETY: the request takes no argument, and returns a descriptor.
    let fd = answer(unsafe { libc::ioctl(file.as_fd().as_raw_fd(), GET_NAMESPACE, 0) })?;
    // SAFETY: the request has just returned this descriptor to us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Bytes of the header that stands before each packet (`IFF_VNET_HDR`).
///
/// # Errors
/// When it is attached to no device.
pub fn header(file: impl AsFd) -> io::Result<u32> {
    get(file, GET_HEADER)
}

/// Bytes of its send buffer.
///
/// # Errors
/// When it is attached to no device.
pub fn send_buffer(file: impl AsFd) -> io::Result<u32> {
    get(file, GET_SEND_BUFFER)
}

/// In which order the bytes of the header are: whether it was said that they are little-endian, and big-endian; the second is
/// not known to every kernel.
///
/// # Errors
/// When it is attached to no device.
pub fn order(file: impl AsFd) -> io::Result<(bool, bool)> {
    let little = get(&file, GET_LITTLE_ENDIAN)? != 0;
    Ok((little, get(file, GET_BIG_ENDIAN).is_ok_and(|big| big != 0)))
}

/// Whether a filter chooses which packets a tap is handed.
///
/// # Errors
/// When it is attached to no device.
pub fn has_filter(file: impl AsFd) -> io::Result<bool> {
    let mut program = libc::sock_fprog { len: 0, filter: std::ptr::null_mut() };
    // SAFETY: the request writes a `struct sock_fprog`, which `program` is.
    let asked = unsafe { libc::ioctl(file.as_fd().as_raw_fd(), GET_FILTER, &raw mut program) };
    answer(asked)?;
    Ok(program.len != 0)
}

/// What a device is to be like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// The only user who may attach to it.
    pub owner: Option<u32>,
    /// The only group that may.
    pub group: Option<u32>,
    /// Bytes of the header before packets; 0 leaves it as it is.
    pub header: u32,
    /// Bytes of the send buffer; 0 leaves it as it is.
    pub send_buffer: u32,
}

/// Attaches a file to the device of this name, which is made if it is not there, with the number `number` if that is given.
///
/// # Errors
/// When the device is another one, or cannot be had.
pub fn attach(file: impl AsFd, name: &str, flags: u32, number: Option<u32>) -> io::Result<()> {
    if let Some(number) = number {
        set(&file, SET_NUMBER, number)?;
    }
    let mut request = request_of(name, flags & SAID)?;
    with_request(file, SET_DEVICE, &mut request)
}

/// Sets what the device is to be like that a file is attached to.
///
/// # Errors
/// What the kernel does not take.
pub fn change(file: impl AsFd, settings: Settings) -> io::Result<()> {
    if let Some(owner) = settings.owner {
        tell(&file, SET_OWNER, owner)?;
    }
    if let Some(group) = settings.group {
        tell(&file, SET_GROUP, group)?;
    }
    if settings.send_buffer != 0 {
        set(&file, SET_SEND_BUFFER, settings.send_buffer)?;
    }
    if settings.header != 0 {
        set(&file, SET_HEADER, settings.header)?;
    }
    Ok(())
}

/// Says in which order the bytes of the header are, as [`order`] tells it.
///
/// # Errors
/// When the kernel does not know that.
pub fn set_order(file: impl AsFd, (little, big): (bool, bool)) -> io::Result<()> {
    if big {
        set(&file, SET_BIG_ENDIAN, 1)?;
    }
    if little { set(file, SET_LITTLE_ENDIAN, 1) } else { Ok(()) }
}

/// Has the device of a file stay when nobody is attached to it, or go then.
///
/// # Errors
/// When it is attached to no device.
pub fn persist(file: impl AsFd, stays: bool) -> io::Result<()> {
    tell(file, SET_PERSISTENT, stays.into())
}

/// Has the queue that a file is take no part, for now.
///
/// # Errors
/// Of a device with one queue.
pub fn detach_queue(file: impl AsFd) -> io::Result<()> {
    let mut request = request_of("", DETACHED)?;
    with_request(file, SET_QUEUE, &mut request)
}

/// What of packets a device leaves to its program, with the kernel's names for that and the bits by which a program says so
/// (`TUN_F_*`).
const OFFLOADS: [(&str, u32); 7] = [
    ("tx-checksum-ip-generic", 0x1),
    ("tx-tcp-segmentation", 0x2),
    ("tx-tcp6-segmentation", 0x4),
    ("tx-tcp-ecn-segmentation", 0x8),
    // One for both families.
    ("tx-udp-segmentation", 0x20 | 0x40),
    ("tx-udp_tnl-segmentation", 0x80),
    ("tx-udp_tnl-csum-segmentation", 0x100),
];

/// What of packets the program of a device does itself (`TUN_F_*`), of the network namespace that the thread is in.
///
/// # Errors
/// When there is no such device.
pub fn offloads(name: &str) -> io::Result<u32> {
    const GET_SET_SIZE: u32 = 0x37;
    const GET_STRINGS: u32 = 0x1b;
    const GET_FEATURES: u32 = 0x3a;
    /// The set of the names of features.
    const FEATURES: u32 = 4;
    const STRING: usize = 32;
    /// No kernel knows nearly as many.
    const MOST: usize = 1024;
    let socket = sockets::create(libc::AF_INET, libc::SOCK_DGRAM, 0)?;
    let word = |words: &[u32], at: usize| words.get(at).copied().unwrap_or(0);
    // Command, reserved, mask of sets (64 bits), the size of the one that is asked for.
    let mut size = [GET_SET_SIZE, 0, 1 << FEATURES, 0, 0];
    ethtool(&socket, name, &mut size)?;
    let count = size[4] as usize;
    // It writes as many as it has, wherever the memory for them ends.
    if count > MOST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // Command, set, number, and the names.
    let mut strings = vec![0; 3 + count * STRING / 4];
    strings[..3].copy_from_slice(&[GET_STRINGS, FEATURES, count as u32]);
    ethtool(&socket, name, &mut strings)?;
    // Command, number of blocks; of each what there is, is wanted, is, and never changes.
    let blocks = count.div_ceil(32);
    let mut features = vec![0; 2 + blocks * 4];
    features[..2].copy_from_slice(&[GET_FEATURES, blocks as u32]);
    ethtool(&socket, name, &mut features)?;
    let mut found = 0;
    for index in 0..count {
        let text: Vec<u8> = strings[3 + index * STRING / 4..][..STRING / 4]
            .iter()
            .flat_map(|word| word.to_ne_bytes())
            .collect();
        let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
        let is = word(&features, 2 + index / 32 * 4 + 2) >> (index % 32) & 1 != 0;
        let known = OFFLOADS.iter().find(|(name, _)| name.as_bytes() == text);
        found |= known.filter(|_| is).map_or(0, |(_, bits)| *bits);
    }
    Ok(found)
}

/// Asks a device by a structure of words, which must be as long as what the kernel writes for it.
fn ethtool(socket: &OwnedFd, name: &str, words: &mut [u32]) -> io::Result<()> {
    let mut request = request_of(name, 0)?;
    let address = words.as_mut_ptr() as usize;
    request[NAME..NAME + size_of::<usize>()].copy_from_slice(&address.to_ne_bytes());
    with_request(socket, SIOCETHTOOL, &mut request)
}

/// Says what of packets the program does itself, as [`offloads`] tells it.
///
/// # Errors
/// When the kernel does not know all of it.
pub fn set_offloads(file: impl AsFd, offloads: u32) -> io::Result<()> {
    tell(file, SET_OFFLOADS, offloads)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// This needs root.
    #[test]
    fn a_device_is_what_was_said_of_it() {
        let open = || std::fs::File::options().read(true).write(true).open("/dev/net/tun");
        let file = open().unwrap();
        assert_eq!(attached(&file).unwrap(), None);
        attach(&file, "stasis-tap%d", TAP | 0x5000, None).unwrap();
        let found = attached(&file).unwrap().unwrap();
        assert_eq!(found.flags & (SAID | PERSISTENT), TAP | 0x5000);
        let device = Device::find(&found.name).unwrap().unwrap();
        assert_eq!(device, Device { flags: TAP | 0x5000, ..Device::default() });
        assert_eq!(Device::find("lo").unwrap(), None);
        assert_eq!(Device::find("stasis-none").unwrap(), None);
        let settings =
            Settings { owner: Some(7), header: 12, send_buffer: 77_777, ..Default::default() };
        change(&file, settings).unwrap();
        assert_eq!((header(&file).unwrap(), send_buffer(&file).unwrap()), (12, 77_777));
        assert!(!has_filter(&file).unwrap());
        for wanted in [0, 0x1, 0x1 | 0x2, 0x1 | 0x2 | 0x4 | 0x8] {
            set_offloads(&file, wanted).unwrap();
            assert_eq!(offloads(&found.name).unwrap(), wanted);
        }
        assert_eq!(order(&file).unwrap(), (false, false));
        set_order(&file, (true, false)).unwrap();
        assert!(order(&file).unwrap().0);
        let id = |fd| crate::namespaces::id(fd).unwrap();
        assert_eq!(id(&opened_in(&file).unwrap()), id(&device_in(&file).unwrap()));
    }
}
