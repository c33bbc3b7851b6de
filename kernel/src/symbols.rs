//! Names of the kernel's functions, by `/proc/kallsyms`.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader};

/// Where functions of these names stand. Empty for who may not see addresses (without CAP_SYSLOG they are
/// all 0).
///
/// # Errors
/// If the list cannot be read.
pub fn functions(names: &[&'static str]) -> io::Result<BTreeMap<u64, &'static str>> {
    in_list(BufReader::with_capacity(1 << 16, File::open("/proc/kallsyms")?), names)
}

/// Each line has an address, a kind and a name, which a compiler may have added to after a dot.
fn in_list(list: impl BufRead, names: &[&'static str]) -> io::Result<BTreeMap<u64, &'static str>> {
    let mut found = BTreeMap::new();
    for line in list.lines() {
        let line = line?;
        let mut words = line.split_ascii_whitespace();
        let (Some(address), Some(_), Some(name)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        let name = name.split('.').next().unwrap_or(name);
        let Some(name) = names.iter().find(|known| **known == name) else { continue };
        match u64::from_str_radix(address, 16) {
            Ok(address) if address != 0 => found.insert(address, *name),
            _ => None,
        };
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_by_their_addresses() {
        let list = b"ffffffff8142d6b0 t __pfx_one\nffffffff8142d6c0 t one\n\
            0000000000000000 t two\nffffffff8143fdc0 t three.llvm.77\t[module]\nodd\n";
        let found = in_list(&list[..], &["one", "two", "three"]).unwrap();
        let expected = [(0xffff_ffff_8142_d6c0, "one"), (0xffff_ffff_8143_fdc0, "three")];
        assert_eq!(found, BTreeMap::from(expected));
    }
}
