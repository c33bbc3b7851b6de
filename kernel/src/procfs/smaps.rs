//! `/proc/PID/smaps`: the mappings with their flags and what is in memory of them.

use super::Malformed;
use super::maps::{Map, line};
use super::parse::{dec, key_value, lines, words};

/// One mapping with the numbers that follow it, in KiB.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Smap<'a> {
    /// The mapping.
    pub map: Map<'a>,
    /// The two-letter flags, blank-separated, as printed; empty where the kernel prints none.
    pub flags: &'a [u8],
    /// Size of the pages that the mapping is made of.
    pub kernel_page_kib: u64,
    /// In memory.
    pub rss_kib: u64,
    /// In memory, not backed by a file.
    pub anonymous_kib: u64,
    /// Swapped out.
    pub swap_kib: u64,
    /// Huge pages that are set aside, in memory and of nobody else.
    pub private_huge_kib: u64,
    /// The same that others have, too.
    pub shared_huge_kib: u64,
    /// Memory protection key, 0 where the processor has none.
    pub protection_key: u32,
}

impl Smap<'_> {
    /// The two-letter flags one by one.
    pub fn flag_letters(&self) -> impl Iterator<Item = [u8; 2]> {
        words(self.flags).filter_map(|word| word.try_into().ok())
    }
}

fn kib(value: &[u8], name: &'static str) -> Result<u64, Malformed> {
    words(value).next().and_then(dec).ok_or(Malformed(name))
}

/// Attribute lines start with a capital letter, mappings with a lower-case hexadecimal digit.
fn is_attribute(line: &[u8]) -> bool {
    line.first().is_some_and(u8::is_ascii_uppercase)
}

fn attribute<'a>(smap: &mut Smap<'a>, line: &'a [u8]) -> Result<(), Malformed> {
    let (key, value) = key_value(line).ok_or(Malformed("attribute"))?;
    match key {
        b"KernelPageSize" => smap.kernel_page_kib = kib(value, "KernelPageSize")?,
        b"Rss" => smap.rss_kib = kib(value, "Rss")?,
        b"Anonymous" => smap.anonymous_kib = kib(value, "Anonymous")?,
        b"Swap" => smap.swap_kib = kib(value, "Swap")?,
        b"Private_Hugetlb" => smap.private_huge_kib = kib(value, "Private_Hugetlb")?,
        b"Shared_Hugetlb" => smap.shared_huge_kib = kib(value, "Shared_Hugetlb")?,
        b"ProtectionKey" => {
            smap.protection_key = dec(value).ok_or(Malformed("ProtectionKey"))?;
        }
        b"VmFlags" => smap.flags = value,
        _ => {}
    }
    Ok(())
}

/// The mappings in the text of `/proc/PID/smaps`, one by one, with no copy made.
pub fn smaps(text: &[u8]) -> impl Iterator<Item = Result<Smap<'_>, Malformed>> {
    let mut lines = lines(text).peekable();
    std::iter::from_fn(move || {
        let header = lines.next()?;
        Some(line(header).and_then(|map| {
            let mut smap = Smap {
                map,
                flags: b"",
                kernel_page_kib: 0,
                rss_kib: 0,
                anonymous_kib: 0,
                swap_kib: 0,
                private_huge_kib: 0,
                shared_huge_kib: 0,
                protection_key: 0,
            };
            while let Some(next) = lines.next_if(|next| is_attribute(next)) {
                attribute(&mut smap, next)?;
            }
            Ok(smap)
        }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_belong_to_the_mapping_before_them() {
        let text = b"1000-2000 rw-p 00000000 00:00 0 \nSize:                  4 kB\nKernelPageSize:        4 kB\nRss:                   4 kB\nAnonymous:             4 kB\nSwap:                  8 kB\nVmFlags: rd wr mr mw me ac \n2000-3000 r--p 00000000 00:00 0 [vvar]\nVmFlags: rd mr pf io de dd \n";
        let all: Vec<_> = smaps(text).collect::<Result<_, _>>().unwrap();
        assert_eq!(all.len(), 2);
        assert_eq!((all[0].rss_kib, all[0].swap_kib, all[0].kernel_page_kib), (4, 8, 4));
        assert_eq!(all[0].flag_letters().last(), Some(*b"ac"));
        assert_eq!(all[1].map.raw_name, b"[vvar]");
        assert_eq!(all[1].flag_letters().count(), 6);
    }

    #[test]
    fn other_text_is_refused() {
        assert!(smaps(b"Size: 4 kB\n").any(|smap| smap.is_err()));
        assert!(smaps(b"1-2 rw-p 0 0:0 0\nRss: x kB\n").any(|smap| smap.is_err()));
    }
}
