//! Names of the kernel's functions, by `/proc/kallsyms`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufRead, BufReader};

/// Which functions of these names stand at some addresses. Empty for who may not see addresses (without CAP_SYSLOG
/// they are all 0). The list takes some 20 ms to its end: it is read until all have been met.
///
/// # Errors
/// If the list cannot be read.
pub fn functions(
    names: &[&'static str],
    addresses: BTreeSet<u64>,
) -> io::Result<BTreeMap<u64, &'static str>> {
    in_list(BufReader::with_capacity(1 << 16, File::open("/proc/kallsyms")?), names, addresses)
}

/// Each line has an address, a kind and a name, which a compiler may have added to after a dot.
fn in_list(
    list: impl BufRead,
    names: &[&'static str],
    mut addresses: BTreeSet<u64>,
) -> io::Result<BTreeMap<u64, &'static str>> {
    let mut found = BTreeMap::new();
    for line in list.lines() {
        let line = line?;
        let mut words = line.split_ascii_whitespace();
        let (Some(address), Some(_), Some(name)) = (words.next(), words.next(), words.next())
        else {
            continue;
        };
        let Ok(address) = u64::from_str_radix(address, 16) else { continue };
        if !addresses.contains(&address) {
            continue;
        }
        let name = name.split('.').next().unwrap_or(name);
        // Several names may stand at one address.
        if let Some(name) = names.iter().find(|known| **known == name) {
            found.insert(address, *name);
            addresses.remove(&address);
        }
        if addresses.is_empty() {
            break;
        }
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
        let (one, three) = (0xffff_ffff_8142_d6c0, 0xffff_ffff_8143_fdc0);
        let find = |names: &[&'static str], addresses: &[u64]| {
            in_list(&list[..], names, addresses.iter().copied().collect()).unwrap()
        };
        let all = ["one", "two", "three"];
        assert_eq!(find(&all, &[three, 1, one]), BTreeMap::from([(one, "one"), (three, "three")]));
        assert_eq!(find(&all, &[one]), BTreeMap::from([(one, "one")]));
        assert_eq!(find(&["two"], &[one]), BTreeMap::new());
    }
}
