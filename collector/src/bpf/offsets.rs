//! Looks up in the kernel's type information where the structures keep what the programs read.

use std::collections::HashMap;

use btf::btf::{Btf, StructMember, Type};
use ebpf_common::offsets::{ABSENT, COUNT, FIELDS, Want};

use super::BpfError;

const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// The offsets, in the order of the table that the programs share.
pub(super) fn resolve() -> Result<[u32; COUNT], BpfError> {
    let btf = Btf::from_file(VMLINUX)
        .map_err(|source| BpfError::TypeInformation { path: VMLINUX, source })?;
    let wanted: Vec<&str> = FIELDS.iter().filter_map(|(path, _)| path.split('.').next()).collect();
    let mut structures = HashMap::new();
    for ty in btf.get_types() {
        // Qualified types and pointers are listed too, flattened, by the name of their base.
        if let (Type::Struct(_), Some(name), 0) = (&ty.base_type, &ty.name, ty.num_refs)
            && let Some(name) = wanted.iter().find(|wanted| *wanted == name)
        {
            structures.entry(*name).or_insert(ty);
        }
    }
    let mut offsets = [ABSENT; COUNT];
    for (slot, (path, want)) in offsets.iter_mut().zip(FIELDS) {
        let mut names = path.split('.');
        let structure = names.next().and_then(|name| structures.get(name));
        let found = structure.and_then(|structure| {
            let mut ty = &structure.base_type;
            let mut bits = 0;
            let mut depth = 0;
            for name in names {
                let (offset, id) = member(&btf, ty, name, 0)?;
                ty = &btf.get_type_by_id(id).ok()?.base_type;
                bits += offset;
                depth += 1;
            }
            // A path that is a structure alone asks for its size.
            Some(match (depth, want) {
                (0, _) => structure.bits / 8,
                (_, Want::Bit) => bits,
                _ => bits / 8,
            })
        });
        match found {
            Some(offset) => *slot = offset,
            None if want == Want::Optional => {}
            None => return Err(BpfError::Field(path)),
        }
    }
    Ok(offsets)
}

/// Deeper than any structure of the kernel nests its nameless members.
const DEPTH: u32 = 8;

/// Offset in bits and type of a member, looked for in nameless members too.
fn member(btf: &Btf, ty: &Type, name: &str, depth: u32) -> Option<(u32, u32)> {
    let members: &[StructMember] = match ty {
        Type::Struct(structure) | Type::Union(structure) => &structure.members,
        _ => return None,
    };
    for member_of in members {
        match member_of.name.as_deref() {
            Some(own) if own == name => return Some((member_of.offset, member_of.type_id)),
            None | Some("") if depth < DEPTH => {
                let inner = &btf.get_type_by_id(member_of.type_id).ok()?.base_type;
                if let Some((offset, id)) = member(btf, inner, name, depth + 1) {
                    return Some((member_of.offset + offset, id));
                }
            }
            _ => {}
        }
    }
    None
}
