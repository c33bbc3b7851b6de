//! The table of what the kernel keeps of a task (`docs/state.tsv`) has a line for every field of the
//! running kernel's structures.

use std::collections::{BTreeMap, BTreeSet};

use super::*;

const TABLE: &str = include_str!("../../docs/state.tsv");
/// Not structures, but calls.
const CALLS: [&str; 2] = ["prctl", "call"];
/// The kernel that the table was made on. A newer one may keep more, which is told.
const KERNEL: &str = "6.18.";

/// The fields that have lines, by structure.
fn lines() -> BTreeMap<&'static str, BTreeSet<&'static [u8]>> {
    let mut known: BTreeMap<&str, BTreeSet<&[u8]>> = BTreeMap::new();
    for line in TABLE.lines().skip(1) {
        let mut columns = line.split('\t');
        let (Some(structure), Some(field)) = (columns.next(), columns.next()) else { continue };
        if !CALLS.contains(&structure) {
            known.entry(structure).or_default().insert(field.as_bytes());
        }
    }
    known
}

/// The names of all members, those of nameless members included.
fn members<'a>(btf: &Btf<'a>, ty: Type, names: &mut Vec<&'a [u8]>) {
    assert!(matches!(ty.kind, STRUCT | UNION));
    for index in 0..ty.count {
        let at = ty.rest + index * MEMBER_BYTES;
        let number = |at| word(btf.types, at).unwrap();
        match btf.text(number(at)).unwrap() {
            b"" => members(btf, btf.resolve(number(at + 4)).unwrap(), names),
            name => names.push(name),
        }
    }
}

#[test]
fn every_field_of_this_kernel_has_a_line() {
    let known = lines();
    let bytes = std::fs::read(VMLINUX).unwrap();
    // Some have no name but that of their type.
    let wanted: Vec<(Named, &str)> =
        known.keys().flat_map(|name| [(Named::Structure, *name), (Named::Alias, *name)]).collect();
    let btf = Btf::parse(&bytes, &wanted).unwrap();
    let mut missing = Vec::new();
    for (structure, fields) in &known {
        let named = [Named::Structure, Named::Alias];
        let number = named.into_iter().find_map(|named| btf.number(named, structure));
        let ty = number.and_then(|number| btf.resolve(number));
        let ty = ty.unwrap_or_else(|| panic!("this kernel has no {structure}"));
        let mut names = Vec::new();
        members(&btf, ty, &mut names);
        let without = names.into_iter().filter(|name| !fields.contains(name));
        missing
            .extend(without.map(|name| format!("{structure}.{}", String::from_utf8_lossy(name))));
    }
    let release = nix::sys::utsname::uname().unwrap().release().to_string_lossy().into_owned();
    let told = format!("Linux {release} keeps what docs/state.tsv has no line for: {missing:#?}");
    assert!(missing.is_empty() || !release.starts_with(KERNEL), "{told}");
    if !missing.is_empty() {
        #[expect(clippy::print_stderr, reason = "a newer kernel's fields are told, and no error")]
        {
            eprintln!("{told}");
        }
    }
}
