//! A reader of the kernel's type information (BTF), for the few things that are looked up in it.
//!
//! The kernel describes all of its types in one table of some 5 MB. To look up a hundred of them there
//! is no need to build all: one pass notes where each type stands, and which ones have a wanted name;
//! the rest of the way goes from number to number. It takes 10 to 20 ms.

use std::collections::HashMap;

/// The table is not as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what is at byte {0} is no description of a type")]
pub struct Malformed(usize);

/// The running kernel's table.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// What is looked up by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Named {
    /// A structure.
    Structure,
    /// A function.
    Function,
    /// A `typedef`.
    Alias,
}

// include/uapi/linux/btf.h
const MAGIC: u16 = 0xeb9f;
const INT: u32 = 1;
const ARRAY: u32 = 3;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const TYPEDEF: u32 = 8;
const VOLATILE: u32 = 9;
const CONST: u32 = 10;
const RESTRICT: u32 = 11;
const FUNC: u32 = 12;
const FUNC_PROTO: u32 = 13;
const VAR: u32 = 14;
const DATASEC: u32 = 15;
const DECL_TAG: u32 = 17;
const TYPE_TAG: u32 = 18;
const ENUM64: u32 = 19;

/// Bytes of a type's description, before what belongs to its kind.
const TYPE_BYTES: usize = 12;
/// Bytes of the description of a member.
const MEMBER_BYTES: usize = 12;

/// Bytes of the description of a name of an enumeration.
const ENUMERATOR_BYTES: usize = 8;

/// Deeper than any structure of the kernel nests its nameless members, or names stand for names.
const DEPTH: u32 = 8;

/// The table, with the places of its types.
#[derive(Debug)]
pub struct Btf<'a> {
    types: &'a [u8],
    texts: &'a [u8],
    /// Where each type stands, by its number less one.
    places: Vec<u32>,
    named: HashMap<(Named, &'a [u8]), u32>,
}

/// One type.
#[derive(Clone, Copy)]
struct Type {
    name: u32,
    /// How many members it has, or the like.
    count: usize,
    kind: u32,
    /// Of a structure whether the offsets of its members tell of bits, too.
    flag: bool,
    /// Bytes, or the number of the type that it refers to.
    size_or_type: u32,
    /// Where what follows the description stands.
    rest: usize,
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

impl<'a> Btf<'a> {
    /// Looks through a table, for what has one of these names.
    ///
    /// # Errors
    /// If it is none.
    pub fn parse(bytes: &'a [u8], wanted: &[(Named, &'a str)]) -> Result<Self, Malformed> {
        let head = |at| word(bytes, at).map(|word| word as usize).ok_or(Malformed(at));
        let magic = bytes.first_chunk().map(|magic| u16::from_ne_bytes(*magic));
        if magic != Some(MAGIC) {
            return Err(Malformed(0));
        }
        let behind = head(4)?;
        let part = |offset: usize, length: usize| {
            let start = behind.checked_add(offset)?;
            bytes.get(start..start.checked_add(length)?)
        };
        let types = part(head(8)?, head(12)?).ok_or(Malformed(8))?;
        let texts = part(head(16)?, head(20)?).ok_or(Malformed(16))?;
        let mut btf = Self { types, texts, places: Vec::new(), named: HashMap::new() };
        let wanted: HashMap<(Named, &[u8]), &'a [u8]> = wanted
            .iter()
            .map(|(named, text)| ((*named, text.as_bytes()), text.as_bytes()))
            .collect();
        btf.scan(&wanted)?;
        Ok(btf)
    }

    fn scan(&mut self, wanted: &HashMap<(Named, &[u8]), &'a [u8]>) -> Result<(), Malformed> {
        self.places.reserve(self.types.len() / 32);
        let mut at = 0;
        while at < self.types.len() {
            let ty = self.read(at).ok_or(Malformed(at))?;
            self.places.push(u32::try_from(at).map_err(|_| Malformed(at))?);
            let named = match ty.kind {
                STRUCT => Some(Named::Structure),
                FUNC => Some(Named::Function),
                TYPEDEF => Some(Named::Alias),
                _ => None,
            };
            if let (Some(named), Some(text)) = (named, self.text(ty.name))
                && let Some(text) = wanted.get(&(named, text))
            {
                let number = u32::try_from(self.places.len()).map_err(|_| Malformed(at))?;
                self.named.entry((named, *text)).or_insert(number);
            }
            let more = match ty.kind {
                INT | VAR | DECL_TAG => 4,
                ARRAY => 12,
                STRUCT | UNION | DATASEC | ENUM64 => ty.count * 12,
                ENUM | FUNC_PROTO => ty.count * ENUMERATOR_BYTES,
                _ => 0,
            };
            at = ty.rest + more;
        }
        Ok(())
    }

    fn read(&self, at: usize) -> Option<Type> {
        let info = word(self.types, at + 4)?;
        Some(Type {
            name: word(self.types, at)?,
            count: (info & 0xffff) as usize,
            kind: info >> 24 & 0x1f,
            flag: info >> 31 != 0,
            size_or_type: word(self.types, at + 8)?,
            rest: at + TYPE_BYTES,
        })
    }

    fn text(&self, at: u32) -> Option<&'a [u8]> {
        let text = self.texts.get(at as usize..)?;
        Some(&text[..text.iter().position(|byte| *byte == 0)?])
    }

    /// The number of what has a name; `None` if it was not wanted, or is not there.
    #[must_use]
    pub fn number(&self, named: Named, name: &str) -> Option<u32> {
        self.named.get(&(named, name.as_bytes())).copied()
    }

    /// A type by its number, or what it is another name of.
    fn resolve(&self, mut number: u32) -> Option<Type> {
        for _ in 0..DEPTH {
            let index = number.checked_sub(1)? as usize;
            let ty = self.read(*self.places.get(index)? as usize)?;
            match ty.kind {
                TYPEDEF | VOLATILE | CONST | RESTRICT | TYPE_TAG => number = ty.size_or_type,
                _ => return Some(ty),
            }
        }
        None
    }

    /// Bytes of a structure.
    #[must_use]
    pub fn bytes(&self, structure: &str) -> Option<u32> {
        let ty = self.resolve(self.number(Named::Structure, structure)?)?;
        Some(ty.size_or_type)
    }

    /// The offset of a member of a structure in bits: a name, or several with dots between.
    #[must_use]
    pub fn offset(&self, structure: &str, members: &str) -> Option<u32> {
        let mut ty = self.resolve(self.number(Named::Structure, structure)?)?;
        let mut bits: u32 = 0;
        for name in members.split('.') {
            let (offset, number) = self.member(ty, name.as_bytes(), 0)?;
            bits = bits.checked_add(offset)?;
            ty = self.resolve(number)?;
        }
        Some(bits)
    }

    /// The value of a name in the enumeration that a member is of, or that is all there is in a structure
    /// which the member is: 0 if the enumeration has no such name, `None` if the member is of none.
    #[must_use]
    pub fn value(&self, structure: &str, path: &str) -> Option<u32> {
        let (members, name) = path.rsplit_once('.')?;
        let mut ty = self.resolve(self.number(Named::Structure, structure)?)?;
        for member in members.split('.') {
            ty = self.resolve(self.member(ty, member.as_bytes(), 0)?.1)?;
        }
        if ty.kind == STRUCT && ty.count == 1 {
            ty = self.resolve(word(self.types, ty.rest + 4)?)?;
        }
        if ty.kind != ENUM {
            return None;
        }
        for index in 0..ty.count {
            let at = ty.rest + index * ENUMERATOR_BYTES;
            if self.text(word(self.types, at)?)? == name.as_bytes() {
                return word(self.types, at + 4);
            }
        }
        Some(0)
    }

    /// Offset in bits and type of a member, looked for in nameless members too.
    fn member(&self, ty: Type, name: &[u8], depth: u32) -> Option<(u32, u32)> {
        if !matches!(ty.kind, STRUCT | UNION) || depth > DEPTH {
            return None;
        }
        for index in 0..ty.count {
            let at = ty.rest + index * MEMBER_BYTES;
            let (text, number) = (self.text(word(self.types, at)?)?, word(self.types, at + 4)?);
            let offset = word(self.types, at + 8)?;
            // The upper byte is the width of a bit field.
            let offset = if ty.flag { offset & 0x00ff_ffff } else { offset };
            if text == name {
                return Some((offset, number));
            }
            if text.is_empty()
                && let Some(inner) = self.resolve(number)
                && let Some((more, number)) = self.member(inner, name, depth + 1)
            {
                return Some((offset.checked_add(more)?, number));
            }
        }
        None
    }
}

#[cfg(test)]
#[path = "btf_state_tests.rs"]
mod state_tests;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PTR: u32 = 2;

    /// A table in the making.
    #[derive(Default)]
    struct Table {
        types: Vec<u8>,
        texts: Vec<u8>,
    }

    impl Table {
        fn text(&mut self, text: &str) -> u32 {
            if self.texts.is_empty() {
                self.texts.push(0);
            }
            if text.is_empty() {
                return 0;
            }
            let at = self.texts.len() as u32;
            self.texts.extend(text.bytes().chain([0]));
            at
        }

        fn add(&mut self, kind: u32, name: &str, size_or_type: u32, flag: bool, rest: &[[u32; 3]]) {
            let name = self.text(name);
            let info = kind << 24 | u32::from(flag) << 31 | rest.len() as u32;
            let words =
                [name, info, size_or_type].into_iter().chain(rest.iter().flatten().copied());
            self.types.extend(words.flat_map(u32::to_ne_bytes));
        }

        fn bytes(&self) -> Vec<u8> {
            let mut bytes = MAGIC.to_ne_bytes().to_vec();
            bytes.extend([1, 0]);
            let (types, texts) = (self.types.len() as u32, self.texts.len() as u32);
            bytes.extend([24, 0, types, types, texts].into_iter().flat_map(u32::to_ne_bytes));
            bytes.extend(&self.types);
            bytes.extend(&self.texts);
            bytes
        }
    }

    fn table() -> Table {
        let mut table = Table::default();
        let [counter, atomic, one, two] =
            ["counter", "", "one", "two"].map(|name| table.text(name));
        // 1: struct { counter }, 2: typedef of 1, 3: const 2
        table.add(STRUCT, "", 4, false, &[[counter, 9, 0]]);
        table.add(TYPEDEF, "atomic_t", 1, false, &[]);
        table.add(CONST, "", 2, false, &[]);
        // 4: union { const atomic_t one }, 5: struct holder { ...; 4; two: 3 bits }
        table.add(UNION, "", 8, false, &[[one, 3, 0]]);
        table.add(STRUCT, "holder", 24, true, &[[atomic, 4, 64], [two, 9, 3 << 24 | 131]]);
        table.add(FUNC, "call_me", 0, false, &[]);
        // A second one of the same name.
        table.add(STRUCT, "holder", 99, false, &[]);
        table.add(TYPEDEF, "call_me", 1, false, &[]);
        // 9: what members are of.
        table.add(PTR, "", 0, false, &[]);
        table
    }

    const WANTED: [(Named, &str); 4] = [
        (Named::Structure, "holder"),
        (Named::Function, "call_me"),
        (Named::Alias, "call_me"),
        (Named::Structure, "nobody"),
    ];

    #[test]
    fn members_are_found_through_names_and_nameless_members() {
        let bytes = table().bytes();
        let btf = Btf::parse(&bytes, &WANTED).unwrap();
        assert_eq!(btf.bytes("holder"), Some(24));
        assert_eq!(btf.offset("holder", "one"), Some(64));
        assert_eq!(btf.offset("holder", "one.counter"), Some(64));
        assert_eq!(btf.offset("holder", "two"), Some(131));
        assert_eq!(btf.offset("holder", "three"), None);
        assert_eq!(btf.offset("holder", "two.counter"), None);
        assert_eq!(btf.number(Named::Function, "call_me"), Some(6));
        assert_eq!(btf.number(Named::Alias, "call_me"), Some(8));
        assert_eq!((btf.bytes("nobody"), btf.bytes("atomic_t")), (None, None));
    }

    /// As `inode.i_state` was, is, and will be: a number, an enumeration, one in a structure.
    #[test]
    fn values_are_found_by_the_type_of_a_member() {
        let mut table = Table::default();
        let names = ["number", "flags", "boxed", "inner", "NEW", "LINKABLE"];
        let [number, flags, boxed, inner, new, linkable] = names.map(|name| table.text(name));
        // 1: an enumeration; its names take 8 bytes each.
        table.add(ENUM, "state", 4, false, &[]);
        let info = table.types.len() - 8;
        table.types[info] = 2;
        table.types.extend([new, 1, linkable, 0x800].into_iter().flat_map(u32::to_ne_bytes));
        // 2: what it is in
        table.add(STRUCT, "", 4, false, &[[inner, 1, 0]]);
        let members = [[number, 4, 0], [flags, 1, 32], [boxed, 2, 64]];
        table.add(STRUCT, "holder", 12, false, &members);
        table.add(PTR, "", 0, false, &[]);
        let bytes = table.bytes();
        let btf = Btf::parse(&bytes, &WANTED).unwrap();
        assert_eq!(btf.value("holder", "number.LINKABLE"), None);
        assert_eq!(btf.value("holder", "flags.LINKABLE"), Some(0x800));
        assert_eq!(btf.value("holder", "boxed.LINKABLE"), Some(0x800));
        assert_eq!(btf.value("holder", "flags.LINK"), Some(0));
        assert_eq!(btf.value("holder", "nothing.LINKABLE"), None);
    }

    #[test]
    fn what_refers_to_itself_ends() {
        let mut table = Table::default();
        table.add(TYPEDEF, "again", 1, false, &[]);
        table.add(STRUCT, "holder", 0, false, &[[0, 2, 8], [0, 1, 0]]);
        let bytes = table.bytes();
        let btf = Btf::parse(&bytes, &WANTED).unwrap();
        assert_eq!(btf.offset("holder", "one"), None);
    }

    #[test]
    fn this_kernel_is_understood() {
        let bytes = std::fs::read(VMLINUX).unwrap();
        let wanted = [(Named::Structure, "list_head"), (Named::Function, "schedule")];
        let btf = Btf::parse(&bytes, &wanted).unwrap();
        assert_eq!(btf.bytes("list_head"), Some(2 * size_of::<usize>() as u32));
        assert_eq!(btf.offset("list_head", "prev"), Some(usize::BITS));
        assert!(btf.number(Named::Function, "schedule").is_some());
    }

    proptest! {
        #[test]
        fn damaged_tables_are_refused_or_read(
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = table().bytes();
            for (index, byte) in changes {
                let index = index.index(bytes.len());
                bytes[index] = byte;
            }
            bytes.truncate(cut.index(bytes.len() + 1));
            if let Ok(btf) = Btf::parse(&bytes, &WANTED) {
                let offsets = [btf.offset("holder", "one.counter"), btf.offset("holder", "two")];
                std::hint::black_box((offsets, btf.bytes("holder")));
            }
        }
    }
}
