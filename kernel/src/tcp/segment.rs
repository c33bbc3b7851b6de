//! Segments of TCP as bytes with all their headers.

use std::net::{IpAddr, SocketAddr};

/// It closes the sender's side.
pub(super) const FIN: u8 = 0x01;
/// It ends the connection.
pub(super) const RST: u8 = 0x04;
/// The receiver need not wait for more.
pub(super) const PUSH: u8 = 0x08;
/// It confirms what was received.
pub(super) const ACK: u8 = 0x10;

/// Bytes of a header of TCP without options.
const HEADER: u16 = 20;
const TCP: u8 = 6;
const HOPS: u8 = 64;

/// The addresses and ports of a packet without options of IP, as it has them: one behind the other.
pub(super) fn ends(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let ports = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
    [bytes(from.ip()), bytes(to.ip()), ports].concat()
}

/// A segment from one address to another of the same family, with so many bytes of data that its length is one of IP.
pub(super) fn packet(
    from: SocketAddr,
    to: SocketAddr,
    (number, confirms): (u32, u32),
    flags: u8,
    window: u16,
    data: &[u8],
) -> Vec<u8> {
    let length = HEADER + data.len() as u16;
    let mut header = Vec::with_capacity(HEADER.into());
    header.extend(from.port().to_be_bytes());
    header.extend(to.port().to_be_bytes());
    header.extend(number.to_be_bytes());
    header.extend(confirms.to_be_bytes());
    // Words of the header, in the upper half of the byte.
    header.extend([((HEADER / 4) << 4) as u8, flags]);
    header.extend(window.to_be_bytes());
    // The checksum, and no urgent data.
    header.extend([0; 4]);
    let (from, to) = (bytes(from.ip()), bytes(to.ip()));
    let pseudo = [&from[..], &to, &[0, TCP], &length.to_be_bytes()].concat();
    let sum = checksum(&[&pseudo, &header, data]);
    header[16..18].copy_from_slice(&sum.to_be_bytes());
    let mut packet = match from.len() {
        4 => {
            let length = (20 + length).to_be_bytes();
            let mut head = vec![0x45, 0, length[0], length[1], 0, 0, 0, 0, HOPS, TCP, 0, 0];
            head.extend([&from[..], &to].concat());
            let sum = checksum(&[&head]);
            head[10..12].copy_from_slice(&sum.to_be_bytes());
            head
        }
        _ => {
            let length = length.to_be_bytes();
            let mut head = vec![0x60, 0, 0, 0, length[0], length[1], TCP, HOPS];
            head.extend([&from[..], &to].concat());
            head
        }
    };
    packet.extend(header);
    packet.extend(data);
    packet
}

fn bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The checksum of the internet over parts of even length, but for the last.
fn checksum(parts: &[&[u8]]) -> u16 {
    let words = parts.iter().flat_map(|part| part.chunks(2));
    let word = |word: &[u8]| u16::from_be_bytes([word[0], word.get(1).copied().unwrap_or(0)]);
    let mut sum: u32 = words.map(|bytes| u32::from(word(bytes))).sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_right() {
        for (from, to) in [("10.0.0.1:80", "10.0.0.2:4000"), ("[fd00::1]:80", "[fd00::2]:4000")] {
            let (from, to): (SocketAddr, SocketAddr) = (from.parse().unwrap(), to.parse().unwrap());
            let packet = packet(from, to, (7, 9), FIN | ACK, 100, b"odd");
            let head = if from.is_ipv4() { 20 } else { 40 };
            assert_eq!(packet.len(), head + 23);
            if from.is_ipv4() {
                assert_eq!(checksum(&[&packet[..head]]), 0);
            }
            let pseudo = [&bytes(from.ip())[..], &bytes(to.ip()), &[0, 6, 0, 23]].concat();
            assert_eq!(checksum(&[&pseudo, &packet[head..]]), 0);
            assert_eq!(packet[head..head + 4], [0, 80, 0x0f, 0xa0]);
        }
    }
}
