//! `/proc/PID/maps`.

use std::borrow::Cow;

use super::Malformed;
use super::parse::{dec, hex, hex_device, lines, split_once, unescape_octal};

/// One mapping, as its line tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Map<'a> {
    /// First address.
    pub start: u64,
    /// Address behind the last.
    pub end: u64,
    /// `r`, `w`, `x` or `-` each, then `s` for a mapping that may be shared or `p`.
    pub permissions: [u8; 4],
    /// Offset in the file, in bytes.
    pub offset: u64,
    /// Device, as `st_dev` encodes it.
    pub device: u64,
    /// Inode, 0 for none.
    pub inode: u64,
    /// The rest of the line as the kernel printed it: path (a line end in it is `\012`), `[heap]`,
    /// `[anon:…]`, empty.
    pub raw_name: &'a [u8],
}

impl Map<'_> {
    /// The name with the kernel's escape for line ends undone.
    #[must_use]
    pub fn name(&self) -> Cow<'_, [u8]> {
        if self.raw_name.contains(&b'\\') {
            Cow::Owned(unescape_octal(self.raw_name))
        } else {
            Cow::Borrowed(self.raw_name)
        }
    }
}

/// Takes the next blank-ended word off the front of `rest`.
fn word<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let text = rest.trim_ascii_start();
    let end = text.iter().position(|&byte| byte == b' ').unwrap_or(text.len());
    *rest = &text[end..];
    &text[..end]
}

/// Understands one line.
///
/// # Errors
/// If it is not a line of `/proc/PID/maps`.
pub(super) fn line(line: &[u8]) -> Result<Map<'_>, Malformed> {
    let mut rest = line;
    let (start, end) = split_once(word(&mut rest), b'-').ok_or(Malformed("address range"))?;
    let start = hex(start).ok_or(Malformed("start address"))?;
    let end = hex(end).ok_or(Malformed("end address"))?;
    if start > end {
        return Err(Malformed("address range"));
    }
    let permissions = word(&mut rest).try_into().map_err(|_| Malformed("permissions"))?;
    let offset = hex(word(&mut rest)).ok_or(Malformed("offset"))?;
    let device = hex_device(word(&mut rest)).ok_or(Malformed("device"))?;
    let inode = dec(word(&mut rest)).ok_or(Malformed("inode"))?;
    let blanks = rest.iter().take_while(|&&byte| byte == b' ').count();
    Ok(Map { start, end, permissions, offset, device, inode, raw_name: &rest[blanks..] })
}

/// The mappings in the text of `/proc/PID/maps`, one by one, with no copy made.
pub fn maps(text: &[u8]) -> impl Iterator<Item = Result<Map<'_>, Malformed>> {
    lines(text).map(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read() {
        let text = b"00400000-00452000 r-xp 00001000 08:02 173521      /usr/bin/a b \n7ffc-7ffd rw-p 00000000 00:00 0 \nffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n1000-2000 rw-s 00000000 fe:01 7 /a\\012b (deleted)\n";
        let all: Vec<_> = maps(text).collect::<Result<_, _>>().unwrap();
        assert_eq!(all.len(), 4);
        assert_eq!(all[0].raw_name, b"/usr/bin/a b ");
        assert_eq!((all[0].start, all[0].end, all[0].offset), (0x40_0000, 0x45_2000, 0x1000));
        assert_eq!((all[0].device, all[0].inode), (libc::makedev(8, 2), 173_521));
        assert_eq!(&all[0].permissions, b"r-xp");
        assert_eq!(all[1].raw_name, b"");
        assert_eq!(all[2].raw_name, b"[vsyscall]");
        assert_eq!(&*all[3].name(), b"/a\nb (deleted)");
    }

    #[test]
    fn other_text_is_refused() {
        for text in
            ["x", "1-2", "2-1 rw-p 0 0:0 0", "1-2 rw 0 0:0 0", "1-2 rw-p 0 00 0", "Size: 4 kB"]
        {
            assert!(maps(text.as_bytes()).any(|map| map.is_err()), "{text}");
        }
    }
}
