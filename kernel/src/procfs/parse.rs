//! The few words that every parser here is made of.

use std::str::FromStr;

/// A decimal number, signed or not as `T` is.
pub(super) fn dec<T: FromStr>(text: &[u8]) -> Option<T> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A hexadecimal number without prefix.
pub(super) fn hex(text: &[u8]) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(text).ok()?, 16).ok()
}

/// An octal number without prefix.
pub(super) fn oct(text: &[u8]) -> Option<u64> {
    u64::from_str_radix(std::str::from_utf8(text).ok()?, 8).ok()
}

/// The lines without their ends; the empty piece behind the last line end is no line.
pub(super) fn lines(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.strip_suffix(b"\n")
        .unwrap_or(text)
        .split(|&byte| byte == b'\n')
        .filter(|line| !line.is_empty())
}

/// The words of a line.
pub(super) fn words(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|byte| byte.is_ascii_whitespace()).filter(|word| !word.is_empty())
}

/// The two sides of the first `separator`.
pub(super) fn split_once(text: &[u8], separator: u8) -> Option<(&[u8], &[u8])> {
    let at = text.iter().position(|&byte| byte == separator)?;
    Some((&text[..at], &text[at + 1..]))
}

/// `key:value` and `key: value` lines: the key, and the value without the blanks around it.
pub(super) fn key_value(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let (key, value) = split_once(line, b':')?;
    Some((key, value.trim_ascii()))
}

/// `MAJOR:MINOR`, both hexadecimal, as `/proc/PID/maps` and lock lines have it, as `st_dev`.
pub(super) fn hex_device(text: &[u8]) -> Option<u64> {
    let (major, minor) = split_once(text, b':')?;
    device(hex(major)?, hex(minor)?)
}

/// `MAJOR:MINOR`, both decimal, as mountinfo has it, as `st_dev`.
pub(super) fn dec_device(text: &[u8]) -> Option<u64> {
    let (major, minor) = split_once(text, b':')?;
    device(dec(major)?, dec(minor)?)
}

/// The kernel's own encoding of a device number (12 bits of major over 20 of minor), as `st_dev`.
pub(super) fn kernel_device(text: &[u8]) -> Option<u64> {
    let raw = hex(text)?;
    device(raw >> 20, raw & 0xf_ffff)
}

fn device(major: u64, minor: u64) -> Option<u64> {
    Some(libc::makedev(u32::try_from(major).ok()?, u32::try_from(minor).ok()?))
}

/// Undoes the kernel's `\ooo` escapes (blanks and line ends in paths).
#[must_use]
pub fn unescape_octal(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, tail)) = rest.split_first() {
        if first == b'\\'
            && let Some(digits) = tail.get(..3)
            && digits.iter().all(|digit| (b'0'..=b'7').contains(digit))
            && let Some(byte) = oct(digits).and_then(|value| u8::try_from(value).ok())
        {
            out.push(byte);
            rest = &tail[3..];
        } else {
            out.push(first);
            rest = tail;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_are_undone_and_other_backslashes_stay() {
        assert_eq!(unescape_octal(b"/a\\040b\\012"), b"/a b\n");
        assert_eq!(unescape_octal(b"\\9\\04"), b"\\9\\04");
        assert_eq!(unescape_octal(b"\\777"), b"\\777");
    }

    #[test]
    fn devices_are_encoded_as_stat_has_them() {
        assert_eq!(hex_device(b"fe:00"), Some(libc::makedev(0xfe, 0)));
        assert_eq!(kernel_device(b"fe00001"), Some(libc::makedev(0xfe, 1)));
        assert_eq!(dec_device(b"8:17"), Some(libc::makedev(8, 17)));
        assert_eq!(hex_device(b"fe00"), None);
    }
}
